//! The files that a command makes of its inputs' rows: one, or one of each in a folder, here or in HDFS.
//!
//! Invariant: at the path there is all of them or what was there before; a folder that is not empty is left alone.

use super::file::{self, Whole};
use flexps_common::error::io;
use flexps_common::side::Side;
use flexps_common::storage::{Aside, Found, NewFile, Sink, Storage, is_remote};
use flexps_common::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;

/// Whether a path, as the user gave it, is a folder's whatever is there.
pub fn ends_as_folder(output: &Path) -> bool {
    output.to_string_lossy().ends_with('/')
}

/// Whether a path, as the user gave it, is to be a folder.
pub fn is_folder(runtime: &Handle, storage: &Storage, output: &Path) -> Result<bool> {
    let shown = output.to_string_lossy();
    if ends_as_folder(output) {
        return Ok(true);
    }
    if is_remote(&shown) {
        let found = runtime.block_on(storage.folder(&shown)?.look())?;
        return Ok(matches!(found, Found::Folder(_)));
    }
    Ok(output.is_dir())
}

/// Writes one file.
pub fn file(
    runtime: &Handle,
    storage: &Storage,
    output: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<()> {
    let shown = output.to_string_lossy();
    if is_remote(&shown) {
        let place = storage.folder(&shown)?;
        runtime.block_on(place.check_file())?;
        let aside = runtime.block_on(place.begin())?;
        write_there(runtime, runtime.block_on(aside.create_file())?, fill)?;
        return runtime.block_on(aside.put_file());
    }
    Whole::create(output)?.fill(|file| fill(file).map_err(std::io::Error::other))
}

/// Fills a file in HDFS.
fn write_there<T>(runtime: &Handle, file: NewFile, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut sink = Sink::new(runtime.clone(), file);
    let filled = fill(&mut sink)?;
    sink.close()?;
    Ok(filled)
}

/// A folder that is being filled.
pub enum Folder {
    /// On a disk.
    Here {
        /// As the user called it.
        output: PathBuf,
        /// Where it will be.
        target: PathBuf,
        /// Where it is.
        side: Side,
    },
    /// In HDFS.
    There(Handle, Aside),
}

impl Folder {
    /// Begins a folder where there is none, or an empty one.
    pub fn begin(runtime: &Handle, storage: &Storage, output: &Path) -> Result<Self> {
        let shown = output.to_string_lossy();
        let taken = || Error::user(format!("--output {shown}: the folder is not empty"));
        let file = || Error::user(format!("--output {shown}: a file; leave out the slash to replace it"));
        if is_remote(&shown) {
            let place = storage.folder(&shown)?;
            return match runtime.block_on(place.look())? {
                Found::Folder(names) if !names.is_empty() => Err(taken()),
                Found::File => Err(file()),
                _ => Ok(Self::There(runtime.clone(), runtime.block_on(place.begin())?)),
            };
        }
        let failed = |e: std::io::Error| io(output.display(), &e);
        let exists = output.is_dir();
        if exists && std::fs::read_dir(output).map_err(failed)?.next().is_some() {
            return Err(taken());
        }
        // Without a slash at its end; a link to a folder stays.
        let target: PathBuf =
            if exists { output.canonicalize().map_err(failed)? } else { output.components().collect() };
        // Now, not when all is made. A link that leads nowhere is in the way too.
        if !exists && target.symlink_metadata().is_ok() {
            return Err(file());
        }
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let side = file::folder(&target, output)?;
        Ok(Self::Here { output: output.to_owned(), target, side })
    }

    /// Writes a file of it, which goes again unless it is to be kept.
    pub fn file(&self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<bool>) -> Result<()> {
        match self {
            Self::There(runtime, aside) => match write_there(runtime, runtime.block_on(aside.create(name))?, fill)? {
                true => Ok(()),
                false => runtime.block_on(aside.remove(name)),
            },
            Self::Here { output, side, .. } => {
                let failed = |e: std::io::Error| io(output.join(name).display(), &e);
                let path = side.path().join(name);
                let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
                let keep = fill(&mut file)?;
                file.flush().map_err(failed)?;
                if keep { Ok(()) } else { std::fs::remove_file(path).map_err(failed) }
            }
        }
    }

    /// Puts it in its place.
    pub fn put(self) -> Result<()> {
        match self {
            Self::There(runtime, aside) => runtime.block_on(aside.put()),
            // An empty folder gives way.
            Self::Here { output, target, side } => file::put(&side, &target, &output),
        }
    }
}
