//! Reading a range of a file in HDFS, past DataNodes that die or hang.
//!
//! The client crate turns to the next replica by itself, at once after a broken connection, after its socket timeout
//! otherwise, and remembers bad DataNodes per open file. What is left for here: a fresh block list when all replicas
//! of an old one failed, more patience then, and an end to all of it.
//!
//! Invariant: bytes come in order, each once; a range that ends early is an error.

use super::cluster::{Cluster, Patience};
use super::explain::datanodes;
use super::opened::Version;
use crate::error::{Error, Result};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use hdfs_native::HdfsError;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One try after the other at the same byte: after which pause, how patient, and for how long without a byte. A
/// DataNode that restarts is back within the pauses.
const TRIES: [(Duration, Patience, Duration); 4] = [
    (Duration::ZERO, Patience::Quick, Duration::from_secs(13)),
    (Duration::from_millis(500), Patience::Quick, Duration::from_secs(13)),
    (Duration::from_secs(3), Patience::Patient, Duration::from_secs(45)),
    (Duration::from_secs(8), Patience::Patient, Duration::from_secs(45)),
];

/// An open file in HDFS.
pub(in crate::storage) struct RemoteFile {
    cluster: Arc<Cluster>,
    url: String,
    version: Version,
    stream: Option<BoxStream<'static, hdfs_native::Result<Bytes>>>,
    /// Where the stream's next byte belongs.
    position: u64,
    /// Where the stream ends.
    end: u64,
    /// Bytes that came and were not taken yet.
    left: Bytes,
}

impl RemoteFile {
    /// Opens `version` of the file at `url`; an error when it is another one by now.
    pub(super) async fn open(cluster: Arc<Cluster>, url: String, version: Version, range: Range<u64>) -> Result<Self> {
        let (position, end) = (range.start, range.start);
        let mut file = Self { cluster, url, version, stream: None, position, end, left: Bytes::new() };
        file.start(range, Patience::Quick, false).await?;
        Ok(file)
    }

    /// The next bytes of `range`, at least one and at most `most`. `range` starts where the last call ended.
    pub async fn next(&mut self, range: Range<u64>, most: usize) -> Result<Bytes> {
        if self.left.is_empty() {
            self.left = self.piece(range).await?;
        }
        Ok(self.left.split_to(most.min(self.left.len())))
    }

    async fn start(&mut self, range: Range<u64>, patience: Patience, fresh: bool) -> Result<()> {
        let reader = self.cluster.reader(&self.url, &self.version, patience, fresh).await.map_err(|e| {
            let vanished = e.message.contains("no such file");
            if vanished { Error::user(format!("{}: the file vanished after it was listed", self.url)) } else { e }
        })?;
        let len = self.version.len;
        let count = range.end.min(len) - range.start.min(len);
        self.stream = (count > 0).then(|| reader.read_range_stream(range.start as usize, count as usize).boxed());
        (self.position, self.end) = (range.start, range.end);
        Ok(())
    }

    async fn piece(&mut self, range: Range<u64>) -> Result<Bytes> {
        let mut failure = String::new();
        for (attempt, (pause, patience, stall)) in TRIES.into_iter().enumerate() {
            if attempt > 0 {
                tracing::debug!(file = %self.url, byte = range.start, %failure, "reading again from a fresh block list");
                tokio::time::sleep(pause).await;
            }
            if attempt > 0 || self.stream.is_none() || self.position != range.start || self.position >= self.end {
                self.start(range.clone(), patience, attempt > 0).await?;
            }
            let Some(stream) = &mut self.stream else { break };
            let asked = Instant::now();
            let came = tokio::time::timeout(stall, stream.next()).await;
            self.cluster.waited(&self.version, asked.elapsed());
            match came {
                Ok(Some(Ok(bytes))) if bytes.is_empty() => failure = "an empty packet came".to_owned(),
                Ok(Some(Ok(bytes))) => {
                    self.position += bytes.len() as u64;
                    return Ok(bytes);
                }
                Ok(Some(Err(e))) => failure = told(&e),
                Ok(None) => failure = "the block ended early".to_owned(),
                Err(_) => failure = format!("no byte came for {} s", stall.as_secs()),
            }
            self.stream = None;
        }
        Err(Error::cluster(format!(
            "{}: cannot read byte {}: {failure}; check the DataNodes (hdfs dfsadmin -report, hdfs fsck {} -files -blocks -locations)",
            self.url, range.start, self.version.path
        ))
        .retryable())
    }

    /// Copies out what is at hand.
    pub async fn append(&mut self, buf: &mut Vec<u8>, mut range: Range<u64>) -> Result<()> {
        buf.reserve((range.end - range.start) as usize);
        while !range.is_empty() {
            let bytes = self.next(range.clone(), (range.end - range.start) as usize).await?;
            range.start += bytes.len() as u64;
            buf.extend_from_slice(&bytes);
        }
        Ok(())
    }
}

/// A failed read in words: which DataNodes failed.
fn told(error: &HdfsError) -> String {
    let text = error.to_string();
    match (text.contains("All DataNodes failed"), datanodes(&text)) {
        (true, nodes) if nodes.is_empty() => "no live DataNode holds this block".to_owned(),
        (true, nodes) => format!("every DataNode that holds this block failed: {}", nodes.join(", ")),
        _ => text,
    }
}
