//! Files and folders for the user, written to the side and renamed.
//!
//! Invariant: at the path there is the old file or the whole new one, and nobody else's file is touched; what is dropped
//! unfinished, or interrupted, leaves nothing, and what is whole and can't be put there is kept beside. What is no file, such as
//! /dev/stdout or a pipe, is written to as it is.

use super::interrupt::Interrupt;
use super::{runtime, terminal};
use flexps_common::error::io;
use flexps_common::side::{self, Side};
use flexps_common::storage::{self, is_remote};
use flexps_common::{Error, Result};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// What leads to open files of this process, whatever they are.
const STREAMS: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];

/// What must be beside `target`, which the user called `shown`.
fn beside<T>(made: std::io::Result<Option<T>>, shown: &Path) -> Result<T> {
    let nowhere = || Error::user(format!("{}: no name for a file or folder; give another", shown.display()));
    made.map_err(|e| io(shown.display(), &e))?.ok_or_else(nowhere)
}

/// A folder beside `target`, which the user called `shown`.
pub fn folder(target: &Path, shown: &Path) -> Result<Side> {
    beside(Side::folder(target), shown)
}

/// Puts what is whole at `target`, which the user called `shown`.
pub fn put(side: &Side, target: &Path, shown: &Path) -> Result<()> {
    let Err(e) = std::fs::rename(side.path(), target) else { return Ok(()) };
    let error = io(shown.display(), &e);
    match side.keep() {
        Ok(kept) => {
            Err(Error { message: format!("{error}; what belongs there is kept in {}", kept.display()), ..error })
        }
        Err(_) => Err(error),
    }
}

/// Runs a command that does not see to it itself that it ends as cancelled when it is told to end, and leaves nothing unfinished.
pub fn interruptible(command: impl FnOnce(&Handle) -> Result<()>) -> Result<()> {
    let runtime = runtime()?;
    let interrupt = runtime.block_on(async { Interrupt::new() })?;
    runtime.spawn(end_when_told(interrupt));
    command(runtime.handle())
}

/// Ends this process as cancelled when it is told to end, with nothing left unfinished.
pub async fn end_when_told(mut interrupt: Interrupt) {
    interrupt.next().await;
    // Held to the end.
    let _sides = side::abandon();
    storage::abandon();
    let cancelled = Error::cancelled();
    terminal::error(&cancelled);
    std::process::exit(i32::from(cancelled.exit_code()))
}

/// The stream that `path` names, if it is one of this process's outputs: the same open file, so that what goes there otherwise
/// stands behind, not over it.
fn shared(path: &Path) -> Option<std::io::Result<File>> {
    let own = match path.to_str()? {
        "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => std::io::stdout().as_fd().try_clone_to_owned(),
        "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => std::io::stderr().as_fd().try_clone_to_owned(),
        _ => return None,
    };
    Some(own.map(File::from))
}

/// A file that is being written.
pub struct Whole {
    /// As the user called it.
    shown: PathBuf,
    /// Where it will stand, and where it is; none where it is written to as it is.
    places: Option<(PathBuf, Side)>,
    file: BufWriter<File>,
}

impl Whole {
    /// Begins to write what shall stand at `path`.
    pub fn create(path: &Path) -> Result<Self> {
        if is_remote(&path.to_string_lossy()) {
            return Err(Error::user(format!(
                "{}: give a local path; models and rows alone go into HDFS",
                path.display()
            )));
        }
        let failed = |e: std::io::Error| io(path.display(), &e);
        let there = std::fs::metadata(path).ok();
        let named_folder = ["/", "/."].iter().any(|end| path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()));
        if named_folder || there.as_ref().is_some_and(|there| there.is_dir()) {
            return Err(Error::user(format!("{}: a folder; give a file", path.display())));
        }
        let shown = path.to_owned();
        let is_stream = STREAMS.iter().any(|stream| path.starts_with(stream));
        if is_stream || there.as_ref().is_some_and(|there| !there.is_file()) {
            let file = match shared(path) {
                Some(stream) => stream.map_err(failed)?,
                None => OpenOptions::new().append(true).open(path).map_err(failed)?,
            };
            return Ok(Self { shown, places: None, file: BufWriter::new(file) });
        }
        // A link stays: what it leads to is replaced.
        let target = if there.is_some() { path.canonicalize().map_err(failed)? } else { shown.clone() };
        let (side, file) = beside(Side::file(&target), path)?;
        Ok(Self { shown, places: Some((target, side)), file: BufWriter::new(file) })
    }

    /// Writes what `fill` writes, and puts the file at its path.
    pub fn fill(mut self, fill: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>) -> Result<()> {
        let filled = fill(&mut self.file).and_then(|()| self.file.flush());
        filled.map_err(|e| io(self.shown.display(), &e))?;
        self.places.as_ref().map_or(Ok(()), |(at, side)| put(side, at, &self.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_ends_as_a_folders_does_is_no_files() {
        let here = tempfile::tempdir().unwrap();
        for end in ["new/", "new/."] {
            let error = Whole::create(&here.path().join(end)).map(drop).unwrap_err();
            assert!(error.exit_code() == 2 && error.message.ends_with(": a folder; give a file"), "{error}");
        }
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_can_not_be_put_in_its_place_in_the_end_is_kept_beside() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("out");
        let file = Whole::create(&path).unwrap();
        // Somebody is faster.
        std::fs::create_dir(&path).unwrap();
        let error = file.fill(|file| file.write_all(b"rows")).unwrap_err();
        let (why, kept) = error.message.split_once("; what belongs there is kept in ").unwrap();
        assert!(error.exit_code() == 2 && why.starts_with(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read(kept).unwrap(), b"rows");
        // What is not whole is of no use.
        let full = |_: &mut BufWriter<File>| Err(std::io::ErrorKind::StorageFull.into());
        Whole::create(&here.path().join("other")).unwrap().fill(full).unwrap_err();
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 2);
    }
}
