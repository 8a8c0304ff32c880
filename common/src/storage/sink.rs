//! A file in HDFS to be written to as to any other: from a thread that may wait.
//!
//! Invariant: what is written goes there in pieces of [`PIECE`], so no more of it is held here.

use super::NewFile;
use crate::error::Result;
use bytes::BytesMut;
use std::fmt;
use std::io::Write;
use tokio::runtime::Handle;

/// Bytes that are sent at a time.
const PIECE: usize = 4 << 20;

/// See the module.
pub struct Sink {
    runtime: Handle,
    file: NewFile,
    gathered: BytesMut,
}

impl Sink {
    /// Of a file, whose client works on this runtime.
    pub fn new(runtime: Handle, file: NewFile) -> Self {
        Self { runtime, file, gathered: BytesMut::with_capacity(PIECE) }
    }

    /// The next bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.gathered.extend_from_slice(piece);
            if self.gathered.len() >= PIECE {
                self.send()?;
            }
        }
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let gathered = self.gathered.split().freeze();
        self.runtime.block_on(self.file.write(gathered))
    }

    /// After this it is there, whole.
    pub fn close(mut self) -> Result<()> {
        self.send()?;
        self.runtime.block_on(self.file.close())
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.take(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    /// Nothing is there before [`Sink::close`] has said so.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes for a file", self.gathered.len())
    }
}
