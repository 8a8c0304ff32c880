//! Reading a range of a file in order: into the caller's buffer, which is then reused, or as a stream of pieces.
//!
//! Invariant: the bytes of the range come whole and in order, or an error comes; an end before the range's end is
//! never taken for the file's end.

#[cfg(feature = "hdfs")]
use super::hdfs::RemoteFile;
use super::{blocking, length_changed};
use crate::error::{Result, io};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

/// A stream of a byte range's pieces, in order.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Bytes of a piece of [`Reader::into_stream`] from a local file.
const PIECE: usize = 1 << 20;

/// Reads a range of one file in order. Made by [`super::Storage::open`].
pub struct Reader {
    path: String,
    /// The file's length when it was listed.
    len: u64,
    /// What is still to be read.
    range: Range<u64>,
    source: Source,
}

enum Source {
    /// Stands at the range's start.
    Local(Arc<File>),
    #[cfg(feature = "hdfs")]
    Remote(Box<RemoteFile>),
}

impl Reader {
    pub(super) fn local(path: String, len: u64, range: Range<u64>, file: File) -> Self {
        Self { path, len, range, source: Source::Local(Arc::new(file)) }
    }

    #[cfg(feature = "hdfs")]
    pub(super) fn remote(path: String, len: u64, range: Range<u64>, file: RemoteFile) -> Self {
        Self { path, len, range, source: Source::Remote(Box::new(file)) }
    }

    /// The file itself, if it is a local one, for reads out of order.
    pub fn file(&self) -> Option<Arc<File>> {
        match &self.source {
            Source::Local(file) => Some(file.clone()),
            #[cfg(feature = "hdfs")]
            Source::Remote(_) => None,
        }
    }

    /// Offset of the next byte in the file.
    pub fn position(&self) -> u64 {
        self.range.start
    }

    /// Behind the last byte that will be read.
    pub fn end(&self) -> u64 {
        self.range.end
    }

    /// Moves the end on, at most to the file's end: a row that starts in a split may end behind it.
    pub fn extend(&mut self, end: u64) {
        self.range.end = self.range.end.max(end.min(self.len));
    }

    /// Appends the next bytes to `buf`: `most`, or what is left of the range. Returns how many; 0 at the range's end.
    /// A cleared buffer of enough capacity costs no allocation and no page faults, which is four times as fast as a
    /// fresh one. When the future is dropped early, `buf` is left empty and the reader must not be used any more.
    pub async fn append(&mut self, buf: &mut Vec<u8>, most: usize) -> Result<usize> {
        let count = (self.range.end - self.range.start).min(most as u64);
        if count == 0 {
            return Ok(0);
        }
        match &mut self.source {
            Source::Local(file) => {
                let (file, path, mut lent) = (file.clone(), self.path.clone(), std::mem::take(buf));
                let (lent, got) = blocking(move || {
                    lent.reserve(count as usize);
                    let got = (&*file).take(count).read_to_end(&mut lent).map_err(|e| io(path, &e))?;
                    Ok((lent, got as u64))
                })
                .await?;
                *buf = lent;
                if got != count {
                    return Err(length_changed(&self.path, self.len, self.range.start + got));
                }
            }
            #[cfg(feature = "hdfs")]
            Source::Remote(file) => file.append(buf, self.range.start..self.range.start + count).await?,
        }
        self.range.start += count;
        Ok(count as usize)
    }

    /// The next piece of the range; none at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        #[cfg(feature = "hdfs")]
        if let Source::Remote(file) = &mut self.source {
            if self.range.is_empty() {
                return Ok(None);
            }
            // As it came from the network, without a copy.
            let piece = file.next(self.range.clone(), usize::MAX).await?;
            self.range.start += piece.len() as u64;
            return Ok(Some(piece));
        }
        let mut piece = Vec::with_capacity(PIECE.min((self.range.end - self.range.start) as usize));
        let got = self.append(&mut piece, PIECE).await?;
        Ok((got > 0).then(|| Bytes::from(piece)))
    }

    /// The rest of the range as a stream of pieces.
    pub fn into_stream(self) -> ByteStream {
        let pieces = |mut reader: Self| async move { Ok(reader.piece().await?.map(|piece| (piece, reader))) };
        stream::try_unfold(self, pieces).boxed()
    }
}
