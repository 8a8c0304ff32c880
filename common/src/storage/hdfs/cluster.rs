//! One HDFS: its clients, and calls to its NameNodes that always end.
//!
//! The client crate waits without limit for a NameNode whose host died without a word, and never asks the other one
//! then. So each NameNode has clients of its own, and who is asked when is decided here.
//!
//! Invariant: a call ends within [`DEADLINE`], with an answer or with an error that names every NameNode.

use super::conf::Conf;
use super::explain::{explain, is_final, is_standby, no_answer};
use super::opened::{Opened, Version};
use crate::error::{Error, Result};
use crate::storage::Thread;
use futures::stream::{FuturesUnordered, StreamExt};
use hdfs_native::file::FileReader;
use hdfs_native::{Client, ClientBuilder, HdfsError};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// The longest wait for the NameNodes.
const DEADLINE: Duration = Duration::from_secs(25);
/// How long a NameNode may be slow before the next one is asked as well.
const HEDGE: Duration = Duration::from_secs(8);
/// Before a NameNode that failed is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a NameNode that never answered is asked: a wrong port should not cost a user half a minute.
const STRANGERS_TRIES: usize = 3;
/// How long a hung DataNode is taken for hung.
const HUNG: Duration = Duration::from_secs(60);

/// How long a client waits for a DataNode before it turns to the next replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// 1 s: while a DataNode is known to hang, since each open file finds that out anew.
    Swift,
    /// 2 s: a hung DataNode costs two of these, and the job must go on within 15 s.
    Quick,
    /// 20 s: for the try after every replica was too slow for that.
    Patient,
}

impl Patience {
    const ALL: [Self; 3] = [Self::Swift, Self::Quick, Self::Patient];

    fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            Self::Swift => 1,
            Self::Quick => 2,
            Self::Patient => 20,
        })
    }
}

/// One HDFS.
pub(super) struct Cluster {
    /// `hdfs://authority`, as the user wrote it: what listed paths start with.
    prefix: String,
    /// Authority: a logical name or `host:port`.
    pub authority: String,
    /// Its configuration.
    pub conf: Conf,
    /// RPC addresses of its NameNodes.
    pub addresses: Vec<String>,
    /// By NameNode, then by patience.
    clients: Vec<Vec<Client>>,
    /// The NameNode that answered last.
    preferred: AtomicUsize,
    /// Whether any NameNode ever answered.
    answered: AtomicBool,
    /// When a DataNode was last seen to hang.
    hung: Mutex<Option<Instant>>,
    files: Mutex<Opened<FileReader>>,
    /// Where the clients work: it must not end before the last file is closed.
    thread: Arc<Thread>,
}

impl Cluster {
    pub fn new(scheme: &str, authority: &str, prefix: String, conf: Conf, thread: Arc<Thread>) -> Result<Self> {
        let addresses = conf.rpc_addresses(authority);
        let ids = conf.namenode_ids(authority);
        if addresses.is_empty() {
            return Err(Error::user(format!(
                "{prefix}: no address of a NameNode in the Hadoop configuration; \
                 add dfs.namenode.rpc-address.{authority}.{} to hdfs-site.xml",
                ids.first().map_or("ID", String::as_str)
            )));
        }
        let url = match (scheme, ids.is_empty()) {
            ("hdfs", true) => format!("hdfs://{}", addresses[0]),
            _ => format!("{scheme}://{authority}"),
        };
        let runtime = thread.runtime()?;
        let build = |namenode: usize, patience| {
            let mut config = settings(scheme, patience);
            if let Some(id) = ids.get(namenode) {
                config.push((format!("dfs.ha.namenodes.{authority}"), id.clone()));
            }
            let mut builder = ClientBuilder::new().with_url(&url).with_config(config).with_io_runtime(runtime.clone());
            if let Some(folder) = &conf.folder {
                builder = builder.with_config_dir(folder.to_string_lossy());
            }
            builder.build().map_err(|e| explain(&prefix, &addresses, &e))
        };
        let clients = (0..addresses.len())
            .map(|namenode| Patience::ALL.into_iter().map(|patience| build(namenode, patience)).collect())
            .collect::<Result<_>>()?;
        Ok(Self {
            prefix,
            authority: authority.to_owned(),
            conf,
            addresses,
            clients,
            preferred: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
            hung: Mutex::default(),
            files: Mutex::default(),
            thread,
        })
    }

    /// The URL of a path in this cluster.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Where its clients work.
    pub fn runtime(&self) -> Result<Handle> {
        self.thread.runtime()
    }

    /// Whether the URL is one of HDFS itself, not of a mount table over several.
    pub fn is_plain(&self) -> bool {
        self.prefix.starts_with("hdfs://")
    }

    /// Asks the NameNodes: first the one that answered last, the next when that fails or is slow, and each again after
    /// a pause, since a failover or a restart may be under way. The first answer counts.
    pub async fn call<T, R>(&self, url: &str, patience: Patience, ask: impl Fn(Client) -> R) -> Result<T>
    where
        R: Future<Output = hdfs_native::Result<T>>,
    {
        let (namenodes, first) = (self.clients.len(), self.preferred.load(Ordering::Relaxed));
        let one = |namenode: usize, pause| {
            let answer = ask(self.clients[namenode][patience as usize].clone());
            async move {
                tokio::time::sleep(pause).await;
                (namenode, answer.await)
            }
        };
        let mut failed = None;
        let asking = async {
            let mut asked = FuturesUnordered::from_iter([one(first, Duration::ZERO)]);
            let (mut started, mut failures) = (1, 0);
            loop {
                let failure = tokio::select! {
                    Some((namenode, result)) = asked.next() => match result {
                        Err(e) if !is_final(&e) => {
                            asked.push(one(namenode, PAUSE));
                            Some(e)
                        }
                        result => {
                            self.preferred.store(namenode, Ordering::Relaxed);
                            self.answered.store(true, Ordering::Relaxed);
                            return Some(result);
                        }
                    },
                    () = tokio::time::sleep(HEDGE), if started < namenodes => None,
                };
                if started < namenodes {
                    asked.push(one((first + started) % namenodes, Duration::ZERO));
                    started += 1;
                }
                let Some(failure) = failure else { continue };
                failures += 1;
                // That all are in standby says more than that one is down.
                if !failed.as_ref().is_some_and(is_standby) {
                    failed = Some(failure);
                }
                let hopeless = !self.answered.load(Ordering::Relaxed) && !failed.as_ref().is_some_and(is_standby);
                if hopeless && failures >= STRANGERS_TRIES * namenodes {
                    return None;
                }
            }
        };
        match tokio::time::timeout(DEADLINE, asking).await {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(e))) => Err(explain(url, &self.addresses, &e)),
            _ => Err(failed.map_or_else(
                || no_answer(url, &self.addresses, DEADLINE.as_secs()),
                |e| explain(url, &self.addresses, &e),
            )),
        }
    }

    /// The block list of a version of a file; from memory when `fresh` is false and it is there. While a DataNode hangs,
    /// one that has yet to find that out is opened again, with less patience. An error when the file is another one now.
    pub async fn reader(
        &self,
        url: &str,
        version: &Version,
        patience: Patience,
        fresh: bool,
    ) -> Result<Arc<FileReader>> {
        let hung = self.hung.lock().is_some_and(|seen| seen.elapsed() < HUNG);
        if !fresh && let Some(known) = self.files.lock().find(version, hung) {
            return Ok(known);
        }
        let patience = if hung && patience == Patience::Quick { Patience::Swift } else { patience };
        let (path, dated) = (version.path.as_str(), version.modified != 0);
        let read = |client: Client| async move {
            let reader = client.read(path).await?;
            // Asked after its blocks: then they are no later file's if it still is the one that was listed.
            let modified = if dated { client.get_file_info(path).await?.modification_time } else { 0 };
            Ok::<_, HdfsError>((reader, modified))
        };
        let (reader, modified) = self.call(url, patience, read).await?;
        version.check(url, reader.file_length() as u64, modified)?;
        let reader = Arc::new(reader);
        self.files.lock().keep(version.clone(), reader.clone(), patience);
        Ok(reader)
    }

    /// Tells how long a read of a file waited for its next bytes.
    pub fn waited(&self, version: &Version, time: Duration) {
        if time < Patience::Swift.timeout() {
            return;
        }
        *self.hung.lock() = Some(Instant::now());
        self.files.lock().warn(version);
    }
}

/// Settings that make the client give up in our time.
fn settings(scheme: &str, patience: Patience) -> Vec<(String, String)> {
    let mut settings = vec![("dfs.client.socket-timeout".to_owned(), patience.timeout().as_millis().to_string())];
    if scheme == "hdfs" {
        // One try: the next is ours. Behind a mount table there are several NameNodes, which the client has to find.
        settings.push(("dfs.client.failover.max.attempts".to_owned(), "0".to_owned()));
    }
    settings
}
