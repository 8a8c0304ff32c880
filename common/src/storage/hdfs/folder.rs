//! A folder, or a file, that is written in HDFS: in a hidden folder beside its place, which it then takes by one rename.
//!
//! Invariant: in its place is all of it or what was there before, but for the moment between two renames where a folder replaces
//! something. What is given up before that is removed, if HDFS answers; a killed process leaves `.NAME.*.part` behind.

use super::cluster::{Cluster, Patience};
use super::explain::explain;
use super::name;
use crate::error::{Error, Result};
use crate::storage::FileMeta;
use bytes::Bytes;
use futures::TryStreamExt;
use hdfs_native::client::FileStatus;
use hdfs_native::file::FileWriter;
use hdfs_native::{Client, HdfsError, WriteOptions};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

/// The longest that DataNodes may take for a piece, or to say that a file is there.
const TAKEN_WITHIN: Duration = Duration::from_secs(60);
/// rwxr-xr-x.
const PERMISSION: u32 = 0o755;
/// The name of a file that is written alone, before it has its own.
const ALONE: &str = "file";

/// What this process is writing.
static ASIDES: Mutex<Vec<Folder>> = Mutex::new(Vec::new());

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file.
    File,
    /// A folder with entries of these names.
    Folder(Vec<String>),
}

/// The place of a folder, or of a file, in HDFS.
#[derive(Clone)]
pub struct Folder {
    cluster: Arc<Cluster>,
    /// Without a slash at its end.
    path: String,
}

/// A folder that is being written beside its place.
pub struct Aside {
    target: Folder,
    aside: Folder,
}

/// A file of it.
pub struct NewFile {
    folder: Folder,
    url: String,
    writer: FileWriter,
}

impl Folder {
    pub(super) fn new(cluster: Arc<Cluster>, path: &str) -> Self {
        Self { cluster, path: path.trim_end_matches('/').to_owned() }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.cluster.url(&self.path)
    }

    /// Whether it is the root, which nothing else may take the place of.
    pub fn is_root(&self) -> bool {
        self.path.is_empty()
    }

    /// The place of something in it.
    pub fn inside(&self, name: &str) -> Self {
        Self { path: format!("{}/{name}", self.path), ..self.clone() }
    }

    /// What is there.
    pub async fn look(&self) -> Result<Found> {
        let path = self.path.as_str();
        let status = |client: Client| async move {
            match client.get_file_info(path).await {
                Ok(status) if status.isdir => {
                    let entries: Vec<FileStatus> =
                        client.list_status_iter(path, false).into_stream().try_collect().await?;
                    Ok(Found::Folder(entries.iter().map(|entry| name(&entry.path).to_owned()).collect()))
                }
                Ok(_) => Ok(Found::File),
                Err(HdfsError::FileNotFound(_)) => Ok(Found::Nothing),
                Err(e) => Err(e),
            }
        };
        self.cluster.call(&self.url(), Patience::Quick, status).await
    }

    /// The file that is there, as one reads it, but for the hosts of its blocks.
    pub async fn file(&self) -> Result<Option<FileMeta>> {
        let path = self.path.as_str();
        let status = |client: Client| async move {
            match client.get_file_info(path).await {
                Ok(status) => Ok(Some(status)),
                Err(HdfsError::FileNotFound(_)) => Ok(None),
                Err(e) => Err(e),
            }
        };
        match self.cluster.call(&self.url(), Patience::Quick, status).await? {
            Some(status) if status.isdir => {
                Err(Error::user(format!("{}: a folder stands where a file is needed; give another path", self.url())))
            }
            Some(status) => super::file(&self.cluster, &status).map(Some),
            None => Ok(None),
        }
    }

    /// Whether a file may be put there.
    pub async fn check_file(&self) -> Result<()> {
        match self.look().await? {
            Found::Folder(_) => Err(Error::user(format!("{}: a folder; give a file", self.url()))),
            _ => Ok(()),
        }
    }

    /// Begins a folder for this place, with those above it.
    pub async fn begin(&self) -> Result<Aside> {
        let nowhere = || Error::user(format!("{} can't be a folder's place; give another path", self.url()));
        let (above, name) = self.path.rsplit_once('/').ok_or_else(nowhere)?;
        if matches!(name, "" | "." | "..") {
            return Err(nowhere());
        }
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let path = format!("{above}/.{name}.{now}-{}-{count}.part", std::process::id());
        let aside = Self { cluster: self.cluster.clone(), path };
        let made = &aside.path;
        let make = |client: Client| async move { client.mkdirs(made, PERMISSION, true).await };
        self.cluster.call(&self.url(), Patience::Quick, make).await?;
        ASIDES.lock().push(aside.clone());
        Ok(Aside { target: self.clone(), aside })
    }

    /// Removes what was begun for this place and is not this process's: for one who has the place to himself.
    pub async fn sweep(&self) -> Result<()> {
        let Some((above, name)) = self.path.rsplit_once('/') else { return Ok(()) };
        let above = Self { path: above.to_owned(), ..self.clone() };
        let Found::Folder(entries) = above.look().await? else { return Ok(()) };
        for entry in entries.iter().filter(|entry| is_aside(entry, name)) {
            let left = above.inside(entry);
            let ours = ASIDES.lock().iter().any(|aside| aside.path == left.path);
            if !ours {
                left.remove().await?;
            }
        }
        Ok(())
    }

    /// Removes a file, or a folder that is empty; of another one it is an error.
    pub async fn remove_alone(&self) -> Result<()> {
        self.delete(false).await
    }

    /// Removes it with what is in it.
    async fn remove(&self) -> Result<()> {
        self.delete(true).await
    }

    async fn delete(&self, all: bool) -> Result<()> {
        let delete = |client: Client| async move { client.delete(&self.path, all).await };
        self.cluster.call(&self.url(), Patience::Quick, delete).await.map(drop)
    }

    /// One step; it replaces a file if it may.
    async fn rename(&self, to: &Self, replaces: bool) -> Result<()> {
        let rename = |client: Client| async move { client.rename(&self.path, &to.path, replaces).await };
        let Err(error) = self.cluster.call(&to.url(), Patience::Quick, rename).await else { return Ok(()) };
        // Of one that was done the answer may have been lost; asked again, there is nothing to be renamed.
        let done = self.look().await? == Found::Nothing && to.look().await? != Found::Nothing;
        if done { Ok(()) } else { Err(error) }
    }
}

impl Aside {
    /// Begins a file of the folder.
    pub async fn create(&self, name: &str) -> Result<NewFile> {
        self.make(name, format!("{}/{name}", self.target.url())).await
    }

    /// Begins the file that takes the place alone.
    pub async fn create_file(&self) -> Result<NewFile> {
        self.make(ALONE, self.target.url()).await
    }

    /// Begins a file that users know by its URL.
    async fn make(&self, name: &str, url: String) -> Result<NewFile> {
        let (folder, path) = (self.aside.clone(), self.aside.inside(name).path);
        // Asked for again, the first one is replaced.
        let options = WriteOptions::default().overwrite(true).create_parent(false);
        let (path, options) = (path.as_str(), &options);
        let create = |client: Client| async move { client.create(path, options).await };
        let writer = folder.cluster.call(&url, Patience::Patient, create).await?;
        Ok(NewFile { folder, url, writer })
    }

    /// Removes a file of it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        self.aside.inside(name).remove().await
    }

    /// The file that takes the place alone, as it was written; none when somebody removed it.
    pub async fn file(&self) -> Result<Option<FileMeta>> {
        self.aside.inside(ALONE).file().await
    }

    /// Where it will be.
    pub fn target(&self) -> &Folder {
        &self.target
    }

    /// Puts it in its place; a folder that was there goes.
    pub async fn put(self) -> Result<()> {
        if self.target.look().await? == Found::File {
            return Err(Error::user(format!("{}: a file; give a folder", self.target.url())));
        }
        self.replace().await?;
        forget(&self.aside);
        Ok(())
    }

    /// Puts the file that takes the place alone there; one that was there goes in the same step.
    pub async fn put_file(self) -> Result<()> {
        self.target.check_file().await?;
        self.aside.inside(ALONE).rename(&self.target, true).await
    }

    /// Of folders HDFS replaces only empty ones.
    async fn replace(&self) -> Result<()> {
        let target = &self.target;
        let old = Folder { path: format!("{}.old", self.aside.path), ..self.aside.clone() };
        let replaces = target.look().await? != Found::Nothing;
        if replaces {
            target.rename(&old, false).await?;
        }
        if let Err(e) = self.aside.rename(target, false).await {
            if replaces {
                // If that fails too, it stays beside its place.
                let _ = old.rename(target, false).await;
            }
            return Err(e);
        }
        if replaces && let Err(e) = old.remove().await {
            tracing::warn!("{}, which was replaced, stays behind: {e}", old.url());
        }
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if forget(&self.aside) {
            remove(&self.aside);
        }
    }
}

/// Whether it was still to be removed.
fn forget(aside: &Folder) -> bool {
    let mut asides = ASIDES.lock();
    let before = asides.len();
    asides.retain(|other| other.path != aside.path);
    asides.len() < before
}

fn remove(aside: &Folder) {
    let Ok(runtime) = aside.cluster.runtime() else { return };
    let aside = aside.clone();
    // A thread of its own may wait wherever this is called.
    let removed = std::thread::spawn(move || runtime.block_on(aside.remove()).map_err(|e| (aside.url(), e)));
    if let Ok(Err((url, e))) = removed.join() {
        tracing::warn!("{url} stays behind: {e}");
    }
}

/// Whether something of this name was begun for the place `name` beside it, see [`Folder::begin`].
fn is_aside(entry: &str, name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let rest = entry.strip_prefix('.').and_then(|rest| rest.strip_prefix(name)?.strip_prefix('.'));
    let numbers: Vec<&str> = rest.and_then(|rest| rest.strip_suffix(".part")).unwrap_or("").split('-').collect();
    numbers.len() == 3 && numbers.into_iter().all(digits)
}

/// Removes all that this process is writing.
pub fn abandon() {
    let asides = std::mem::take(&mut *ASIDES.lock());
    asides.iter().for_each(remove);
}

impl NewFile {
    /// The next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let taken = timeout(TAKEN_WITHIN, self.writer.write_bytes(bytes)).await;
        self.taken(taken.map(|taken| taken.map(drop)))
    }

    /// After this it is there, whole.
    pub async fn close(mut self) -> Result<()> {
        let closed = timeout(TAKEN_WITHIN, self.writer.close()).await;
        self.taken(closed)
    }

    fn taken(&self, taken: Result<Result<(), HdfsError>, tokio::time::error::Elapsed>) -> Result<()> {
        let ask = "are its DataNodes up, and have they room (hdfs dfsadmin -report)?";
        match taken {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e @ (HdfsError::RPCError(..) | HdfsError::FatalRPCError(..)))) => {
                Err(explain(&self.url, &self.folder.cluster.addresses, &e))
            }
            Ok(Err(e)) => Err(Error::cluster(format!("{}: HDFS did not take it: {e}; {ask}", self.url))),
            Err(_) => {
                let seconds = TAKEN_WITHIN.as_secs();
                Err(Error::cluster(format!("{}: HDFS took nothing for {seconds} s; {ask}", self.url)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_begun_for_a_place_is_known_by_its_name() {
        assert!(is_aside(".kept.bin.1700000000000-17-0.part", "kept.bin"));
        for other in [
            "kept.bin",
            "kept.bin.1-2-3.part",
            ".kept.bin.1-2-3.part.old",
            ".kept.bin.1-2.part",
            ".kept.bin.1-2-3-4.part",
            ".kept.bin.1--3.part",
            ".kept.bin.a-2-3.part",
            ".kept.bin.bin.1-2-3.part",
            ".kept.1-2-3.part",
            ".kept.bin..part",
        ] {
            assert!(!is_aside(other, "kept.bin"), "{other}");
        }
    }
}
