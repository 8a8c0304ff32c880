//! Files in HDFS: one [`Cluster`] for each that a path names, made at first use and kept.
//!
//! Invariant: every wait ends; who did not answer is named with its address.

mod cluster;
mod conf;
mod explain;
mod folder;
mod locate;
mod opened;
mod probe;
mod read;

pub(super) use explain::readable;
pub use folder::{Aside, Folder, Found, NewFile, abandon};
pub(super) use read::RemoteFile;

use super::{
    Check, FileMeta, Listed, Listing, StorageOptions, Thread, directory_in_glob, even_blocks, is_hidden,
    nothing_matches, of_directory, pattern,
};
use crate::error::{Error, Result};
use cluster::{Cluster, Patience};
use conf::Conf;
use futures::TryStreamExt;
use hdfs_native::client::FileStatus;
use opened::Version;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of a block where HDFS names none.
const DEFAULT_BLOCK: u64 = 128 << 20;

/// The way to files in HDFS.
pub(super) struct Hdfs {
    options: StorageOptions,
    thread: Arc<Thread>,
    clusters: Mutex<HashMap<String, Arc<Cluster>>>,
}

impl Hdfs {
    pub fn new(options: StorageOptions, thread: Arc<Thread>) -> Self {
        Self { options, thread, clusters: Mutex::default() }
    }

    /// The files that `url` stands for, with the hosts of their blocks, and a remark when those stay unknown.
    pub async fn list(&self, url: &str) -> Result<Listing> {
        let (cluster, path) = self.cluster(url)?;
        let mut listing = list(&cluster, url, &path).await?;
        listing.notes.extend(locate::locate(&cluster, &self.options, &mut listing.files).await);
        Ok(listing)
    }

    /// Opens a file that still is what was listed.
    pub async fn open(&self, listed: Listed<'_>, range: Range<u64>) -> Result<RemoteFile> {
        let (cluster, path) = self.cluster(listed.path)?;
        let version = Version { path, len: listed.len, modified: listed.modified };
        RemoteFile::open(cluster, listed.path.to_owned(), version, range).await
    }

    /// The place of a folder to be written or looked into.
    pub fn folder(&self, url: &str) -> Result<Folder> {
        let (cluster, path) = self.cluster(url)?;
        Ok(Folder::new(cluster, &path))
    }

    /// What `flexps doctor` wants to know of the cluster that `url` names.
    pub async fn probe(&self, url: &str) -> Vec<Check> {
        match self.cluster(url) {
            Ok((cluster, path)) => probe::probe(&cluster, &self.options, url, &path).await,
            Err(e) => vec![Check { name: "Hadoop configuration".to_owned(), result: Err(e.message) }],
        }
    }

    /// The cluster that a URL names, and the path in it.
    fn cluster(&self, url: &str) -> Result<(Arc<Cluster>, String)> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("hdfs", url));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = if path.is_empty() { "/" } else { path }.to_owned();
        let key = format!("{scheme}://{authority}");
        let mut clusters = self.clusters.lock();
        if let Some(known) = clusters.get(&key) {
            return Ok((known.clone(), path));
        }
        let conf = Conf::load(self.options.hadoop_conf.clone())?;
        let named = match authority {
            "" => conf.default_authority().map(str::to_owned).ok_or_else(|| {
                Error::user(format!(
                    "{url}: names no NameNode; write hdfs://HOST:PORT/..., or set HADOOP_CONF_DIR to a folder whose \
                     core-site.xml has fs.defaultFS"
                ))
            })?,
            named => named.to_owned(),
        };
        let made = Arc::new(Cluster::new(scheme, &named, key.clone(), conf, self.thread.clone())?);
        clusters.insert(key, made.clone());
        Ok((made, path))
    }
}

async fn list(cluster: &Cluster, url: &str, path: &str) -> Result<Listing> {
    let status = |client: hdfs_native::Client| async move {
        match client.get_file_info(path).await {
            Ok(status) => Ok(Some(status)),
            Err(hdfs_native::HdfsError::FileNotFound(_)) if pattern::is_glob(path) => Ok(None),
            Err(e) => Err(e),
        }
    };
    match cluster.call(url, Patience::Quick, status).await? {
        Some(status) if status.isdir => directory(cluster, url, path).await,
        Some(status) => Ok(Listing::of(vec![file(cluster, &status)?])),
        None => glob(cluster, url, path).await.map(Listing::of),
    }
}

async fn directory(cluster: &Cluster, url: &str, path: &str) -> Result<Listing> {
    let entries = |client: hdfs_native::Client| client.list_status_iter(path, false).into_stream().try_collect();
    let entries: Vec<FileStatus> = cluster.call(url, Patience::Quick, entries).await?;
    let (folders, files): (Vec<_>, Vec<_>) =
        entries.iter().filter(|e| !is_hidden(name(&e.path))).partition(|e| e.isdir);
    let files = files.into_iter().map(|e| file(cluster, e)).collect::<Result<Vec<_>>>()?;
    of_directory(url, files, folders.len())
}

async fn glob(cluster: &Cluster, url: &str, path: &str) -> Result<Vec<FileMeta>> {
    let matches = |client: hdfs_native::Client| async move { client.glob_status(path).await };
    let mut found = cluster.call(url, Patience::Quick, matches).await?;
    found.retain(|f| !is_hidden(name(&f.path)));
    if let Some(directory) = found.iter().find(|f| f.isdir) {
        return Err(directory_in_glob(&cluster.url(&directory.path), url));
    }
    if found.is_empty() {
        return Err(nothing_matches(url));
    }
    found.iter().map(|f| file(cluster, f)).collect()
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn file(cluster: &Cluster, status: &FileStatus) -> Result<FileMeta> {
    let (len, path) = (status.length as u64, cluster.url(&status.path));
    // So Hadoop's shell calls what is not all there: the end of its last row may not be.
    if path.ends_with("._COPYING_") {
        return Err(Error::user(format!(
            "{path}: the file is still being copied into HDFS; run again when that is done, or remove it if nobody does so"
        )));
    }
    Ok(FileMeta {
        path,
        len,
        modified: status.modification_time,
        blocks: even_blocks(len, status.blocksize.filter(|b| *b > 0).unwrap_or(DEFAULT_BLOCK)),
    })
}
