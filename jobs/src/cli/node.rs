//! Nodes in this process: what connects to a cluster, and a whole embedded one.

use super::args::Access;
use super::client::Client;
use super::resources::{Resources, default_cache, default_memory};
use super::run::cache_folder;
use super::terminal::say;
use flexps_common::Result;
use flexps_common::job::Registry;
use flexps_common::machine;
use flexps_common::storage::Storage;
use flexps_common::tail::Tail;
use flexps_common::transport::{Network, Options, Secret};
use flexps_master::scheduler;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The network of a cluster over sockets, for a process that is a `role`. Called within the runtime.
pub fn network(access: &Access, role: &'static str) -> Result<Network> {
    let mut options = Options::new(role);
    options.cluster.clone_from(&access.cluster);
    let secret = access.secret_file.as_deref();
    options.secret = Secret::load(secret)?;
    if role != "client"
        && let Some(path) = secret.filter(|path| read_by_others(path))
    {
        say(&format!(
            "warning: {0} can be read by others, who can then join the cluster; chmod 600 {0}",
            path.display()
        ));
    }
    Ok(Network::zeromq(options))
}

/// Whether a file is there for others than its owner.
pub fn read_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

/// The machine's name.
pub fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".to_owned() } else { name.trim().to_owned() }
}

/// A slave's options, apart from its addresses.
pub fn slave_options(resources: &Resources, name: String, host: String, storage: Storage) -> flexps_slave::Options {
    flexps_slave::Options {
        name,
        host,
        slots: resources.slots.unwrap_or_else(|| resources.cores.unwrap_or_else(machine::cores)),
        cores: resources.cores,
        memory: resources.memory.or_else(default_memory),
        cache_memory: resources.cache_memory.unwrap_or_else(default_cache),
        model_memory: resources.model_memory,
        spill_dir: resources.spill_dir.clone().unwrap_or_else(std::env::temp_dir),
        master: "master".to_owned(),
        control: "control".to_owned(),
        bulk: "bulk".to_owned(),
        storage,
        log: Tail::default(),
    }
}

/// A master's options.
pub fn master_options(bind: String, policy: &str, storage: Storage) -> Result<flexps_master::node::Options> {
    let (policy, shares) = (scheduler::policy(policy)?, Default::default());
    let searches = Some(cache_folder().join("threads"));
    Ok(flexps_master::node::Options { bind, policy, storage, searches, shares, history: None, http: None })
}

/// Weights of users' and queues' shares.
type Shares = BTreeMap<String, f64>;

/// A master and its slaves in this process.
pub struct Embedded {
    network: Network,
    master: flexps_master::node::Handle,
    slaves: Vec<flexps_slave::node::Handle>,
}

/// How long the two may take to end.
const ENDING: Duration = Duration::from_secs(3);

impl Embedded {
    /// Starts a master and one slave; the slave is registered when this returns.
    pub async fn start(resources: &Resources, registry: Registry) -> Result<Self> {
        Self::with(vec![(machine_name(), resources.clone())], registry, Shares::new()).await
    }

    /// Starts a master with these weights of shares, and so many slaves of so many slots, and so much memory for stages to ask for,
    /// as if on machines of their own.
    pub async fn of(registry: Registry, slaves: u32, slots: u32, memory: Option<u64>, shares: Shares) -> Result<Self> {
        let resources = Resources { slots: Some(slots), cores: Some(slots), memory, ..Resources::default() };
        Self::with((1..=slaves).map(|i| (format!("h{i}"), resources.clone())).collect(), registry, shares).await
    }

    async fn with(slaves: Vec<(String, Resources)>, registry: Registry, shares: Shares) -> Result<Self> {
        let network = Network::in_process();
        // One for all: what the master learns of the files, and of DataNodes that hang, the slaves need not learn again.
        let storage = Storage::default();
        let mut options = master_options("master".into(), "greedy", storage.clone())?;
        options.shares = shares;
        let master = flexps_master::node::start(network.clone(), registry.clone(), options).await?;
        let mut embedded = Self { network: network.clone(), master, slaves: Vec::new() };
        let alone = slaves.len() == 1;
        for (name, resources) in slaves {
            let mut options = slave_options(&resources, name.clone(), machine_name(), storage.clone());
            if !alone {
                (options.control, options.bulk) = (format!("{name}-control"), format!("{name}-bulk"));
            }
            let slave = flexps_slave::node::start(network.clone(), registry.clone(), options).await?;
            slave.registered().await?;
            embedded.slaves.push(slave);
        }
        Ok(embedded)
    }

    /// A client of the master.
    pub fn client(&self) -> Client {
        Client::new(&self.network, self.master.address())
    }

    /// Ends both, in order: rows on disk are removed. Not longer than the user would wait.
    pub async fn stop(mut self) {
        let end = async {
            // The master first: it closes jobs on its slaves, and then need not be told that one leaves.
            self.master.stop();
            let ended = self.master.wait().await;
            self.slaves.iter().for_each(|slave| slave.stop());
            let mut all = ended;
            for slave in self.slaves {
                all = all.and(slave.wait().await);
            }
            all
        };
        match tokio::time::timeout(ENDING, end).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "the embedded cluster did not end in order"),
            Err(_) => tracing::warn!("the embedded cluster did not end within {ENDING:?}"),
        }
    }
}
