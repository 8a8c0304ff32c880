//! Files, local or in HDFS: listing with block hosts, and reading byte ranges; in HDFS folders that are written, too.
//!
//! Invariant: what was listed is what is read. A file that vanished or changed its length since then, or in HDFS its
//! modification time, is an error that names the file, never fewer rows.

#[cfg(feature = "hdfs")]
mod hdfs;
mod local;
mod pattern;
mod reader;
#[cfg(feature = "hdfs")]
mod sink;

#[cfg(feature = "hdfs")]
pub use hdfs::{Aside, Folder, Found, NewFile, abandon};
pub use reader::{ByteStream, Reader};
#[cfg(feature = "hdfs")]
pub use sink::Sink;

use crate::background::Background;
use crate::data::schema::DataPath;
use crate::error::{Error, Result};
use crate::notes::note;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Bytes of a local file's pseudo-blocks, so that one file can be cut into splits for several slaves.
pub const LOCAL_BLOCK: u64 = 64 << 20;

/// A file as it was listed.
#[derive(Debug, Clone, PartialEq)]
pub struct FileMeta {
    /// Local path or hdfs:// URL.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// Milliseconds since 1970; 0 when unknown.
    pub modified: u64,
    /// Blocks in order, covering the file without holes.
    pub blocks: Vec<BlockMeta>,
}

impl FileMeta {
    /// What reading it needs to know.
    pub fn listed(&self) -> Listed<'_> {
        Listed { path: &self.path, len: self.len, modified: self.modified }
    }
}

/// A file to read, as it was when it was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// Local path or hdfs:// URL.
    pub path: &'a str,
    /// Bytes.
    pub len: u64,
    /// Milliseconds since 1970; 0 when unknown.
    pub modified: u64,
}

/// A block of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct BlockMeta {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Hosts that hold a replica; empty when unknown or local.
    pub hosts: Vec<String>,
    /// Racks of those hosts, e.g. `/rack1`; as long as `hosts`, or empty.
    pub racks: Vec<String>,
}

/// What was listed.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Files, sorted by path; each once.
    pub files: Vec<FileMeta>,
    /// Remarks for the user, e.g. that locality is off and why.
    pub notes: Vec<String>,
}

impl Listing {
    /// Of these files, without remarks.
    fn of(files: Vec<FileMeta>) -> Self {
        Self { files, notes: Vec::new() }
    }
}

/// Where the Hadoop configuration and WebHDFS are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageOptions {
    /// Folder of `core-site.xml` and `hdfs-site.xml`.
    pub hadoop_conf: Option<PathBuf>,
    /// `host:port` of WebHDFS, several separated by commas; taken from the configuration otherwise.
    pub webhdfs: Option<String>,
}

impl StorageOptions {
    /// From `HADOOP_CONF_DIR` (or `HADOOP_HOME/etc/hadoop`) and `FLEXPS_WEBHDFS`.
    pub fn from_env() -> Self {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        let home = || var("HADOOP_HOME").map(|home| PathBuf::from(home).join("etc/hadoop"));
        Self {
            hadoop_conf: var("HADOOP_CONF_DIR").map(PathBuf::from).or_else(home),
            webhdfs: var("FLEXPS_WEBHDFS").map(|v| v.to_string_lossy().into_owned()),
        }
    }
}

/// One thing that was looked at, for `flexps doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What, e.g. `NameNode`.
    pub name: String,
    /// What was found, or what is wrong and what to do.
    pub result: Result<String, String>,
}

/// The way to all files. Cheap to clone; shares its HDFS clients and their thread.
#[derive(Clone)]
pub struct Storage {
    thread: Arc<Thread>,
    #[cfg(feature = "hdfs")]
    hdfs: Arc<hdfs::Hdfs>,
}

/// The thread of a storage, started when it is first needed.
#[derive(Default)]
struct Thread(Mutex<Option<Background>>);

impl Thread {
    fn runtime(&self) -> Result<Handle> {
        let mut started = self.0.lock();
        let thread = match started.take() {
            Some(thread) => thread,
            None => Background::new("read", 1)?,
        };
        Ok(started.insert(thread).handle.clone())
    }
}

impl Default for Storage {
    /// As the environment says.
    fn default() -> Self {
        Self::new(StorageOptions::from_env())
    }
}

impl Storage {
    /// As `options` say.
    #[cfg_attr(not(feature = "hdfs"), expect(unused_variables, reason = "all of them are about HDFS"))]
    pub fn new(options: StorageOptions) -> Self {
        let thread = Arc::new(Thread::default());
        Self {
            #[cfg(feature = "hdfs")]
            hdfs: Arc::new(hdfs::Hdfs::new(options, thread.clone())),
            thread,
        }
    }

    /// A runtime of one thread, on which the HDFS clients work: who reads much should do so there, since between two
    /// threads each packet would wake the other one, which takes a third of the speed.
    pub fn runtime(&self) -> Result<Handle> {
        self.thread.runtime()
    }

    /// Lists files, directories (their files, but not hidden ones, whose names start with `.` or `_`, and not their
    /// subdirectories) and globs. An error when a path gives no file.
    pub async fn list(&self, paths: &[DataPath]) -> Result<Listing> {
        let mut files = BTreeMap::new();
        let mut notes: Vec<String> = Vec::new();
        for DataPath(path) in paths {
            let found = self.list_one(path).await?;
            files.extend(found.files.into_iter().map(|file| (file.path.clone(), file)));
            note(&mut notes, found.notes);
        }
        Ok(Listing { files: files.into_values().collect(), notes })
    }

    async fn list_one(&self, path: &str) -> Result<Listing> {
        if is_remote(path) {
            #[cfg(feature = "hdfs")]
            return self.hdfs.list(path).await;
            #[cfg(not(feature = "hdfs"))]
            return Err(no_hdfs(path));
        }
        let path = local_path(path).to_owned();
        blocking(move || local::list(&path)).await
    }

    /// Opens `range` of a file for reading in order. An error when it has another length now than when it was listed, or
    /// none; in HDFS also when it has another modification time.
    pub async fn open(&self, file: Listed<'_>, range: Range<u64>) -> Result<Reader> {
        let Listed { path, len, .. } = file;
        if range.start > range.end || range.end > len {
            return Err(Error::bug(format!("{path}: bytes {}..{} of {len} were asked for", range.start, range.end)));
        }
        if is_remote(path) {
            #[cfg(feature = "hdfs")]
            return Ok(Reader::remote(path.to_owned(), len, range.clone(), self.hdfs.open(file, range).await?));
            #[cfg(not(feature = "hdfs"))]
            return Err(no_hdfs(path));
        }
        let local = local_path(path).to_owned();
        let (start, file) = (range.start, blocking(move || local::open(&local, len, range.start)).await?);
        Ok(Reader::local(local_path(path).to_owned(), len, start..range.end, file))
    }

    /// The place of a folder in HDFS.
    #[cfg(feature = "hdfs")]
    pub fn folder(&self, url: &str) -> Result<Folder> {
        self.hdfs.folder(url)
    }

    /// Looks at every part of the HDFS that `url` (`hdfs://...`) names.
    pub async fn probe(&self, url: &str) -> Vec<Check> {
        #[cfg(feature = "hdfs")]
        return self.hdfs.probe(url).await;
        #[cfg(not(feature = "hdfs"))]
        vec![Check { name: "HDFS".to_owned(), result: Err(no_hdfs(url).message) }]
    }

    /// The bytes of a small range, e.g. a head or a tail to sniff at.
    pub async fn read_range(&self, file: Listed<'_>, range: Range<u64>) -> Result<Vec<u8>> {
        let most = (range.end.saturating_sub(range.start)) as usize;
        let mut reader = self.open(file, range).await?;
        let mut bytes = Vec::with_capacity(most);
        reader.append(&mut bytes, most).await?;
        Ok(bytes)
    }
}

/// A warning of the HDFS client library in one line that users can read; an empty one when it tells them nothing, none
/// when it may stay as it is.
#[cfg(feature = "hdfs")]
pub fn readable(warning: &str) -> Option<String> {
    hdfs::readable(warning)
}

/// Whether a path names a file in HDFS.
pub fn is_remote(path: &str) -> bool {
    path.starts_with("hdfs://") || path.starts_with("viewfs://")
}

fn local_path(path: &str) -> &str {
    path.strip_prefix("file://").unwrap_or(path)
}

#[cfg(not(feature = "hdfs"))]
pub(crate) fn no_hdfs(path: &str) -> Error {
    Error::user(format!("{path}: this program was built without HDFS; build it with the feature `hdfs`"))
}

/// Whether the name of a directory's entry says that it is no data: Hadoop's markers and temporary files.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_')
}

/// Blocks of `size` bytes over a file of `len`, held by no known host.
fn even_blocks(len: u64, size: u64) -> Vec<BlockMeta> {
    let mut blocks = Vec::with_capacity(len.div_ceil(size.max(1)) as usize);
    let mut start = 0;
    while start < len {
        let end = len.min(start + size.max(1));
        blocks.push(BlockMeta { start, end, hosts: Vec::new(), racks: Vec::new() });
        start = end;
    }
    blocks
}

/// The error of a file that was written to while a job read it.
fn length_changed(path: &str, listed: u64, now: u64) -> Error {
    Error::user(format!(
        "{path}: the file changed: it had {listed} bytes when it was listed and has {now} now; \
         run again when nobody writes to it any more"
    ))
}

/// A path with a glob's special characters, which no file has by that very name.
fn nothing_matches(pattern: &str) -> Error {
    Error::user(format!("{pattern}: no file matches this pattern"))
}

/// What a directory stands for: its files; its subdirectories are passed over.
fn of_directory(directory: &str, files: Vec<FileMeta>, subdirectories: usize) -> Result<Listing> {
    if files.is_empty() {
        return Err(Error::user(format!(
            "{directory}: no files in this directory (hidden ones, starting with . or _, and subdirectories don't count)"
        )));
    }
    let (directory, s) = (directory.trim_end_matches('/'), if subdirectories == 1 { "y" } else { "ies" });
    let note =
        format!("{directory}: {subdirectories} subdirector{s} passed over; '{directory}/*/*' names what is in them");
    Ok(Listing { files, notes: (subdirectories > 0).then_some(note).into_iter().collect() })
}

fn directory_in_glob(directory: &str, pattern: &str) -> Error {
    Error::user(format!(
        "{directory}: a directory among the files that '{pattern}' matches; \
         give '{directory}' by itself, or a pattern that matches its files, such as '{directory}/*'"
    ))
}

/// Runs file operations where they may block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::bug(format!("a file operation ended early: {e}"))),
    }
}

#[cfg(test)]
mod tests;
