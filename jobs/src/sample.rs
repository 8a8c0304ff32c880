//! Rows for a user who has none at hand: made once, kept in his cache folder.
//!
//! Invariant: a file is there whole or not at all: it is written to the side and renamed, and it is the same for
//! everyone, since its rows depend on their numbers alone.

use crate::flags::Common;
use flexps_common::Result;
use flexps_common::data::generate::{Generator, Kind, Shape};
use flexps_common::data::schema::DataPath;
use flexps_common::error::io;
use flexps_common::job::Prepare;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

/// Rows to train on, about 60 MB.
const TRAIN: u64 = 3000;
/// Rows held out.
const HELD_OUT: u64 = 500;

/// Without an input, makes rows like webspam's, and takes those held out for validation unless there are others.
pub fn prepare(flags: &mut Common, env: &Prepare) -> Result<()> {
    if !flags.input.is_empty() {
        return Ok(());
    }
    let folder = &env.cache;
    let parts = [("train", 0..TRAIN), ("test", TRAIN..TRAIN + HELD_OUT)];
    let [train, test] = parts.map(|(part, rows)| (folder.join(format!("webspam-like-{TRAIN}.{part}.libsvm")), rows));
    if train.0.exists() && test.0.exists() {
        (env.say)(&format!("no --input: taking the made rows in {}", folder.display()));
    } else {
        (env.say)(&format!(
            "no --input: making {TRAIN} webspam-like rows and {HELD_OUT} held out in {}",
            folder.display()
        ));
        std::fs::create_dir_all(folder).map_err(|e| io(folder.display(), &e))?;
        for (path, rows) in [&train, &test] {
            write(path, rows.clone())?;
        }
    }
    flags.input = vec![data_path(&train.0)?];
    if flags.validation.is_empty() {
        flags.validation = vec![data_path(&test.0)?];
    }
    Ok(())
}

fn data_path(path: &Path) -> Result<DataPath> {
    path.to_string_lossy().parse()
}

fn write(path: &Path, rows: Range<u64>) -> Result<()> {
    let mut generator = Generator::new(Shape::new(Kind::Webspam, TRAIN + HELD_OUT))?;
    let aside = path.with_extension(format!("{}.part", std::process::id()));
    let done = (|| {
        let mut out = BufWriter::new(std::fs::File::create(&aside)?);
        generator.write(rows, &mut out)?;
        out.flush()?;
        std::fs::rename(&aside, path)
    })();
    done.map_err(|e| {
        // Best effort: the cause is what the user must hear.
        let _ = std::fs::remove_file(&aside);
        io(path.display(), &e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_made_once_and_held_out_rows_are_others() {
        let folder = tempfile::tempdir().unwrap();
        let env = Prepare { cache: folder.path().join("cache"), say: |_| {} };
        let mut flags = Common::default();
        prepare(&mut flags, &env).unwrap();
        let read = |path: &DataPath| std::fs::read_to_string(&path.0).unwrap();
        let (train, test) = (read(&flags.input[0]), read(&flags.validation[0]));
        assert_eq!((train.lines().count() as u64, test.lines().count() as u64), (TRAIN, HELD_OUT));
        assert!(train.lines().next() != test.lines().next());
        assert_eq!(std::fs::read_dir(&env.cache).unwrap().count(), 2);
        let made = std::fs::metadata(&flags.input[0].0).unwrap().modified().unwrap();
        let mut again = Common { validation: vec![DataPath("mine".to_owned())], ..Common::default() };
        prepare(&mut again, &env).unwrap();
        assert_eq!(std::fs::metadata(&again.input[0].0).unwrap().modified().unwrap(), made);
        assert_eq!(again.validation[0].0, "mine");
    }

    #[test]
    fn an_input_of_the_users_own_is_left_alone() {
        let mut flags = Common { input: vec![DataPath("mine".to_owned())], ..Common::default() };
        let env = Prepare { cache: "/nonexistent/folder".into(), say: |_| {} };
        prepare(&mut flags, &env).unwrap();
        assert_eq!(flags, Common { input: vec![DataPath("mine".to_owned())], ..Common::default() });
    }
}
