//! A real HDFS, brought up once per test run by `scripts/hdfs` and ended with this process, however that ends.
//!
//! Invariant: a test that disturbs the cluster has it alone, and leaves it whole.

use super::process::program;
use super::wait;
use flexps_common::data::schema::DataPath;
use flexps_common::storage::{FileMeta, Listing, Storage, StorageOptions};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

/// Bytes of its blocks: small, so that a small file has several.
pub const BLOCK: u64 = 1 << 20;

/// An HDFS with DataNodes h1, h2 (in /rack1) and h3 (in /rack2), two replicas of each block.
pub struct Hdfs {
    folder: PathBuf,
    /// `hdfs://host:port`, or `hdfs://ns1`.
    pub url: String,
    /// For `HADOOP_CONF_DIR`.
    pub conf: PathBuf,
    users: RwLock<()>,
    /// For tests that look again and again.
    files: OnceLock<Storage>,
}

impl Hdfs {
    /// One NameNode. Held for reading: nobody disturbs it.
    #[track_caller]
    pub fn quiet() -> (&'static Self, RwLockReadGuard<'static, ()>) {
        let hdfs = Self::plain();
        (hdfs, hdfs.users.read().unwrap_or_else(|e| e.into_inner()))
    }

    /// One NameNode. Nobody else uses it.
    #[track_caller]
    pub fn alone() -> (&'static Self, RwLockWriteGuard<'static, ()>) {
        let hdfs = Self::plain();
        (hdfs, hdfs.users.write().unwrap_or_else(|e| e.into_inner()))
    }

    /// Two NameNodes, nn1 the active one at first. Nobody else uses it.
    #[track_caller]
    pub fn two_name_nodes() -> (&'static Self, RwLockWriteGuard<'static, ()>) {
        static HA: OnceLock<Hdfs> = OnceLock::new();
        let hdfs = HA.get_or_init(|| Self::up("hdfs-ha", &["--ha"]));
        (hdfs, hdfs.users.write().unwrap_or_else(|e| e.into_inner()))
    }

    #[track_caller]
    fn plain() -> &'static Self {
        static PLAIN: OnceLock<Hdfs> = OnceLock::new();
        PLAIN.get_or_init(|| Self::up("hdfs", &[]))
    }

    #[track_caller]
    fn up(name: &str, more: &[&str]) -> Self {
        let pid = std::process::id().to_string();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{pid}"));
        let (users, files) = (RwLock::default(), OnceLock::new());
        let mut hdfs = Self { folder, url: String::new(), conf: PathBuf::new(), users, files };
        let block = BLOCK.to_string();
        hdfs.script(&[&["up", "--block-size", &block, "--owner", &pid], more].concat());
        hdfs.url = hdfs.script(&["url"]);
        hdfs.conf = PathBuf::from(hdfs.script(&["conf"]));
        hdfs
    }

    /// Runs `scripts/hdfs` on it; gives what it printed.
    #[track_caller]
    pub fn script(&self, args: &[&str]) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/hdfs");
        let command = program(&script, ["--dir"]).arg(&self.folder).args(args).with_users_cache().within(600);
        command.ok().stdout.trim().to_owned()
    }

    /// Writes a file and lists it.
    #[track_caller]
    pub fn put(&self, path: &str, bytes: &[u8]) -> FileMeta {
        let folder = super::folder();
        let local = folder.path().join("file");
        std::fs::write(&local, bytes).expect("a file is written");
        self.script(&["put", &local.to_string_lossy(), path]);
        let mut listing = self.replicated(path);
        assert_eq!(listing.files.len(), 1);
        listing.files.remove(0)
    }

    /// A new way to the files, with this cluster's configuration.
    pub fn storage(&self) -> Storage {
        Storage::new(StorageOptions { hadoop_conf: Some(self.conf.clone()), webhdfs: None })
    }

    /// Lists a path in it once both copies of every block are known: the second comes after the writer is done.
    #[track_caller]
    pub fn replicated(&self, path: &str) -> Listing {
        wait::until("two copies of every block", Duration::from_secs(60), || {
            let listing = self.list(path);
            listing.files.iter().flat_map(|f| &f.blocks).all(|b| b.hosts.len() == 2).then_some(listing)
        })
    }

    /// What tells a file from one that takes its place, and its first bytes; none where none can be read just now.
    pub fn head(&self, path: &str) -> Option<((u64, u64), Vec<u8>)> {
        const MOST: u64 = 64 << 10;
        let (storage, url) = (self.files.get_or_init(|| self.storage()), format!("{}{path}", self.url));
        runtime().block_on(async {
            let file = storage.folder(&url).ok()?.file().await.ok()??;
            let head = storage.read_range(file.listed(), 0..file.len.min(MOST)).await.ok()?;
            Some(((file.len, file.modified), head))
        })
    }

    /// All that is below a folder in it, hidden things too.
    #[track_caller]
    pub fn below(&self, path: &str) -> Vec<String> {
        let listed = self.script(&["fs", "-ls", "-R", path]);
        let mut names: Vec<_> =
            listed.lines().filter_map(|line| line.rsplit_once(path)).map(|(_, name)| name.to_owned()).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names
    }

    /// Lists a path in it.
    #[track_caller]
    pub fn list(&self, path: &str) -> Listing {
        let paths = [DataPath(format!("{}{path}", self.url))];
        runtime().block_on(self.storage().list(&paths)).expect("the path is listed")
    }
}

/// The runtime of all these tests.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let make = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    RUNTIME.get_or_init(|| make().expect("a runtime"))
}
