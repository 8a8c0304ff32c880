//! Local files: listing and opening. Blocks the calling thread.
//!
//! Invariant: only regular files come out; anything else that was named is an error, anything else in a directory is
//! passed over.

use super::{
    FileMeta, LOCAL_BLOCK, Listing, directory_in_glob, even_blocks, is_hidden, length_changed, nothing_matches,
    of_directory, pattern,
};
use crate::error::{Error, Result, io};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Seek, SeekFrom};
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The files that `path` stands for: itself, a directory's, or a glob's. Where there is a directory by the name of its first
/// part, special characters in that are none: such may be the one that relative paths start from.
pub(super) fn list(path: &str) -> Result<Listing> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => directory(path),
        Ok(meta) => Ok(Listing::of(vec![file(path, &meta)?])),
        Err(e) if e.kind() == ErrorKind::NotFound => match path.split_at(directories(path)) {
            (directory, rest) if pattern::is_glob(rest) => glob(path, directory, rest).map(Listing::of),
            _ => Err(io(path, &e)),
        },
        Err(e) => Err(io(path, &e)),
    }
}

/// How much of `path` names directories that are there, up to the last one's slash.
fn directories(path: &str) -> usize {
    let ends = path.match_indices('/').map(|(at, _)| at + 1);
    ends.take_while(|end| Path::new(&path[..*end]).is_dir()).last().unwrap_or(0)
}

/// Opens a file that had `len` bytes when it was listed, and goes to `start`.
pub(super) fn open(path: &str, len: u64, start: u64) -> Result<File> {
    let mut file = File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => Error::user(format!("{path}: the file vanished after it was listed")),
        _ => io(path, &e),
    })?;
    let now = file.metadata().map_err(|e| io(path, &e))?.len();
    if now != len {
        return Err(length_changed(path, len, now));
    }
    file.seek(SeekFrom::Start(start)).map_err(|e| io(path, &e))?;
    Ok(file)
}

fn file(path: &str, meta: &Metadata) -> Result<FileMeta> {
    if !meta.is_file() {
        return Err(Error::user(format!("{path}: neither a regular file nor a directory")));
    }
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    Ok(FileMeta {
        path: path.to_owned(),
        len: meta.len(),
        modified: modified.map_or(0, |d| d.as_millis() as u64),
        blocks: even_blocks(meta.len(), LOCAL_BLOCK),
    })
}

fn directory(path: &str) -> Result<Listing> {
    let (mut files, mut folders) = (Vec::new(), 0);
    for entry in std::fs::read_dir(path).map_err(|e| io(path, &e))? {
        let entry = entry.map_err(|e| io(path, &e))?;
        if is_hidden(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let name = text(&entry.path())?;
        // Follows links, as opening does.
        let meta = std::fs::metadata(&name).map_err(|e| io(&name, &e))?;
        folders += usize::from(meta.is_dir());
        if meta.is_file() {
            files.push(file(&name, &meta)?);
        }
    }
    of_directory(path, files, folders)
}

/// The files that match `path`, which is a directory's name and a pattern.
fn glob(path: &str, directory: &str, pattern: &str) -> Result<Vec<FileMeta>> {
    let (mut files, directory) = (Vec::new(), glob::Pattern::escape(directory));
    for pattern in pattern::expand_braces(pattern) {
        let each = format!("{directory}{pattern}");
        let matches = glob::glob(&each)
            .map_err(|e| Error::user(format!("{each}: no valid pattern: {}, at character {}", e.msg, e.pos + 1)))?;
        for found in matches {
            let found = found.map_err(|e| io(e.path().display(), e.error()))?;
            if found.file_name().is_some_and(|n| is_hidden(&n.to_string_lossy())) {
                continue;
            }
            let name = text(&found)?;
            let meta = std::fs::metadata(&name).map_err(|e| io(&name, &e))?;
            if meta.is_dir() {
                return Err(directory_in_glob(&name, path));
            }
            files.push(file(&name, &meta)?);
        }
    }
    if files.is_empty() { Err(nothing_matches(path)) } else { Ok(files) }
}

/// A path as text: it travels to other processes as such.
fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::user(format!("{}: the file's name is not UTF-8; rename it", path.display())))
}
