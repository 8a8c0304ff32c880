//! A checkpoint's folder in HDFS.
//!
//! Invariants: of this process one job holds a folder. HDFS has no locks that would tell others so: a checkpoint is replaced or
//! removed only if it is the one that this job went on from or wrote last, by length and time; whose it is otherwise keeps it, and
//! this job is told. What one of another process is writing goes when a job begins there that finds nothing, or its own: that one
//! is told too, and writes the next. So who puts one there first has the folder.

use super::store::{NAME, Staged, Store, taken};
use flexps_common::data::schema::DataPath;
use flexps_common::storage::{Aside, FileMeta, Folder, Listed, Reader, Sink, Storage};
use flexps_common::{Error, Result};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::sync::Arc;
use tokio::runtime::Handle;

/// The folders that jobs of this process hold.
static HELD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// The folder.
pub(super) struct Remote {
    storage: Storage,
    runtime: Handle,
    folder: Folder,
    file: Folder,
    own: Mutex<Own>,
    _claim: Claim,
}

/// That a job holds a folder.
struct Claim(String);

/// What tells a file from one that takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    len: u64,
    modified: u64,
}

/// This job's own.
#[derive(Debug, Default)]
struct Own {
    /// What is read: found there, whosever it is, or written since.
    seen: Option<Version>,
    /// That it went on from, or wrote last.
    last: Option<Version>,
    /// Those that may be there instead: put there without an answer.
    tried: Vec<Version>,
}

struct StagedThere {
    store: Arc<Remote>,
    aside: Aside,
    sink: Sink,
}

/// A file that is read to its end.
struct RemoteFile {
    runtime: Handle,
    reader: Reader,
    piece: Vec<u8>,
    /// Bytes of it that were taken.
    taken: usize,
}

impl Remote {
    pub fn open(storage: &Storage, path: &DataPath) -> Result<Self> {
        let folder = storage.folder(&path.0)?;
        if folder.is_root() {
            return Err(Error::user(format!("{path} can't be a checkpoint's folder; give one in it")));
        }
        let claim = Claim::take(folder.url())?;
        let file = folder.inside(NAME);
        let (storage, runtime, own) = (storage.clone(), storage.runtime()?, Mutex::default());
        let remote = Self { storage, runtime, folder, file, own, _claim: claim };
        // Tells now what would else be told when there is something to lose.
        remote.wait(remote.file.begin()).map(drop)?;
        Ok(remote)
    }

    fn wait<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.runtime.block_on(call).map_err(lasting)
    }

    fn present(&self) -> Result<Option<Version>> {
        Ok(self.wait(self.file.file())?.as_ref().map(Version::of))
    }

    /// What is there, which may be replaced.
    fn replaceable(&self) -> Result<Option<Version>> {
        let present = self.present()?;
        if self.own.lock().may_replace(present) { Ok(present) } else { Err(taken(self.folder.url())) }
    }
}

/// Errors that may pass are taken for those of slaves that are lost, which are told otherwise.
fn lasting(error: Error) -> Error {
    Error { retry: false, ..error }
}

impl Store for Remote {
    fn folder(&self) -> String {
        self.folder.url()
    }

    fn file(&self) -> String {
        self.file.url()
    }

    fn look(&self) -> Result<bool> {
        let seen = self.present()?;
        *self.own.lock() = Own { seen, ..Own::default() };
        Ok(seen.is_some())
    }

    fn own(&self) {
        let mut own = self.own.lock();
        own.last = own.seen;
    }

    fn sweep(&self) {
        if let Err(e) = self.wait(self.file.sweep()) {
            tracing::warn!("what was left beside {} stays: {e}", self.file.url());
        }
    }

    fn open(&self) -> Result<Box<dyn BufRead>> {
        let (seen, tried) = {
            let own = self.own.lock();
            (own.seen, !own.tried.is_empty())
        };
        // Of what was put there without an answer nobody knows whether it is there.
        let seen = if tried { self.replaceable()? } else { seen };
        let Version { len, modified } =
            seen.ok_or_else(|| Error::bug("a checkpoint is opened that nobody has seen"))?;
        let url = self.file.url();
        let reader = self.wait(self.storage.open(Listed { path: &url, len, modified }, 0..len))?;
        Ok(Box::new(RemoteFile { runtime: self.runtime.clone(), reader, piece: Vec::new(), taken: 0 }))
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn Staged>> {
        // Before all of it is written in vain.
        self.replaceable()?;
        let aside = self.wait(self.file.begin())?;
        let sink = Sink::new(self.runtime.clone(), self.wait(aside.create_file())?);
        Ok(Box::new(StagedThere { store: self, aside, sink }))
    }

    fn remove(&self) -> Result<()> {
        let present = self.present()?;
        if present.is_some() {
            if !self.own.lock().may_replace(present) {
                return Err(taken(self.folder.url()));
            }
            self.wait(self.file.remove_alone())?;
        }
        // What else somebody keeps there stays, and the folder with it.
        let _ = self.wait(self.folder.remove_alone());
        Ok(())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.folder.url(), self.own.lock())
    }
}

impl Claim {
    fn take(url: String) -> Result<Self> {
        if HELD.lock().insert(url.clone()) { Ok(Self(url)) } else { Err(taken(url)) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        HELD.lock().remove(&self.0);
    }
}

impl Version {
    fn of(file: &FileMeta) -> Self {
        Self { len: file.len, modified: file.modified }
    }
}

impl Own {
    /// Whether what is there is this job's, or nothing is.
    fn may_replace(&self, present: Option<Version>) -> bool {
        present.is_none_or(|there| self.last == Some(there) || self.tried.contains(&there))
    }

    /// One more is about to take the place of what is there.
    fn tries(&mut self, present: Option<Version>, new: Version) {
        self.tried.retain(|tried| Some(*tried) == present);
        self.tried.push(new);
    }
}

/// The error of a file that could not be written: who begins in the folder removes what others were writing there.
fn unwritten(store: &Remote, aside: &Aside, error: Error) -> Error {
    match store.wait(aside.file()) {
        Ok(None) => taken(store.folder.url()),
        _ => lasting(error),
    }
}

impl Staged for StagedThere {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.take(bytes).map_err(|e| unwritten(&self.store, &self.aside, e))
    }

    fn put(self: Box<Self>) -> Result<()> {
        let Self { store, aside, sink } = *self;
        sink.close().map_err(|e| unwritten(&store, &aside, e))?;
        let new = store.wait(aside.file())?.as_ref().map(Version::of);
        let new = new.ok_or_else(|| taken(store.folder.url()))?;
        let present = store.replaceable()?;
        store.own.lock().tries(present, new);
        store.wait(aside.put_file())?;
        // One that was put there at the same moment is another job's.
        if store.present()? != Some(new) {
            return Err(taken(store.folder.url()));
        }
        *store.own.lock() = Own { seen: Some(new), last: Some(new), tried: Vec::new() };
        Ok(())
    }
}

impl Read for RemoteFile {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(bytes)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for RemoteFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.piece.len() {
            self.piece.clear();
            self.taken = 0;
            let read = self.runtime.block_on(self.reader.append(&mut self.piece, PIECE));
            read.map_err(|e| io::Error::other(lasting(e)))?;
        }
        Ok(&self.piece[self.taken..])
    }

    fn consume(&mut self, bytes: usize) {
        self.taken += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::error::Fault;

    #[test]
    fn of_a_process_one_job_holds_a_folder() {
        let url = || "hdfs://n/held/once".to_owned();
        let held = Claim::take(url()).unwrap();
        let error = Claim::take(url()).err().unwrap();
        assert!(
            error.fault == Fault::User && error.message.contains("another job keeps its checkpoint there"),
            "{error}"
        );
        drop(Claim::take("hdfs://n/held/elsewhere".to_owned()).unwrap());
        drop(held);
        drop(Claim::take(url()).unwrap());
    }

    #[test]
    fn what_this_job_wrote_or_may_have_written_is_replaced_and_nothing_else() {
        let version = |modified| Version { len: 5, modified };
        let mut own = Own::default();
        assert!(own.may_replace(None) && !own.may_replace(Some(version(1))));
        own.last = Some(version(1));
        assert!(own.may_replace(Some(version(1))) && !own.may_replace(Some(Version { len: 6, modified: 1 })));
        // Nobody knows whether these are there.
        own.tries(Some(version(1)), version(2));
        own.tries(Some(version(1)), version(3));
        assert!([1, 3].into_iter().all(|there| own.may_replace(Some(version(there)))));
        // It is told that the last but one is not.
        assert!(!own.may_replace(Some(version(2))));
        own.tries(Some(version(3)), version(4));
        assert!([3, 4].into_iter().all(|there| own.may_replace(Some(version(there)))));
        assert!(own.may_replace(None) && !own.may_replace(Some(version(5))));
    }

    #[test]
    fn the_root_and_hosts_that_nobody_knows_are_refused() {
        let open = |url: &str| Remote::open(&Storage::new(Default::default()), &DataPath(url.to_owned())).unwrap_err();
        for url in ["hdfs://n:1", "hdfs://n:1/"] {
            let error = open(url);
            assert!(error.fault == Fault::User && error.message.contains("can't be a checkpoint's folder"), "{error}");
        }
        let error = open("hdfs://127.0.0.1:1/kept");
        assert!(error.message.contains("hdfs://127.0.0.1:1/kept") && !error.retry, "{error}");
        assert!(Claim::take("hdfs://127.0.0.1:1/kept".to_owned()).is_ok(), "nobody holds it then");
    }
}
