//! The blocks of one split of a dataset file: found one after the other, read by the parsers.
//!
//! Invariant: a split starts and ends with a block, else it is an error. A local file's blocks are not read here but by the
//! threads that decode them, into memory that is there already. (Mapping them would save a copy that runs at the speed of the
//! caches, and end this process when somebody cuts the file short.)

use super::source::listed;
use super::text::read_at;
use flexps_common::data::dataset::{HEAD, length};
use flexps_common::error::{Error, Result, io};
use flexps_common::storage::{Reader, Storage};
use flexps_common::wire::control::Split;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// A split's blocks that are still to come.
pub struct Blocks {
    /// The file, for messages.
    pub path: Arc<str>,
    /// Where the next block starts.
    at: u64,
    /// Where the last one ends.
    end: u64,
    input: Input,
}

enum Input {
    Local(Arc<File>),
    Remote(Reader),
}

/// A block of a local file.
pub struct Local {
    file: Arc<File>,
    at: u64,
    length: usize,
}

impl Blocks {
    /// Opens a split.
    pub async fn open(storage: &Storage, split: &Split) -> Result<Self> {
        let reader = storage.open(listed(split), split.start..split.end).await?;
        let input = match reader.file() {
            Some(file) => Input::Local(file),
            None => Input::Remote(reader),
        };
        Ok(Self { path: split.path.as_str().into(), at: split.start, end: split.end, input })
    }

    /// The next block's first byte; none behind the last one. Its bytes come into `buffer`, or it is to be read.
    pub async fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<(u64, Option<Local>)>> {
        let (at, room) = (self.at, self.end.saturating_sub(self.at));
        if room == 0 {
            return Ok(None);
        }
        let mut local = None;
        let length = match &mut self.input {
            Input::Local(file) => {
                let (file, path) = (file.clone(), self.path.clone());
                let task = tokio::task::spawn_blocking(move || {
                    let mut head = vec![0; room.min(HEAD as u64) as usize];
                    file.read_exact_at(&mut head, at).map_err(|e| io(&path, &e))?;
                    let length = length(&head, room, &path, at)?;
                    Ok::<_, Error>(Local { file, at, length })
                });
                let found = task.await.map_err(|e| Error::bug(format!("looking for a block ended: {e}")))??;
                let length = found.length;
                local = Some(found);
                length
            }
            Input::Remote(reader) => {
                reader.append(buffer, HEAD).await?;
                let length = length(buffer, room, &self.path, at)?;
                reader.append(buffer, length - HEAD).await?;
                length
            }
        };
        self.at += length as u64;
        Ok(Some((at, local)))
    }
}

impl Local {
    /// The block's bytes, in `memory`.
    pub fn read<'m>(&self, path: &str, memory: &'m mut Vec<u8>) -> Result<&'m [u8]> {
        if memory.len() < self.length {
            memory.resize(self.length, 0);
        }
        let bytes = &mut memory[..self.length];
        read_at(&self.file, path, self.at, bytes)?;
        Ok(bytes)
    }
}
