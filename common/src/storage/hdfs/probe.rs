//! What `flexps doctor` asks of an HDFS: each part by itself, so that the one that is missing is seen.
//!
//! Invariant: every check ends, and one that fails says what to do.

use super::cluster::{Cluster, Patience};
use super::locate::{self, Locator, Refusal};
use crate::storage::{Check, StorageOptions};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(3);

/// Checks the configuration, each NameNode's port, a NameNode's answer about `path`, and WebHDFS.
pub(super) async fn probe(cluster: &Cluster, options: &StorageOptions, url: &str, path: &str) -> Vec<Check> {
    let mut checks = vec![Check {
        name: "Hadoop configuration".to_owned(),
        result: Ok(match &cluster.conf.folder {
            Some(folder) => format!("{}", folder.display()),
            None => "none (HADOOP_CONF_DIR is not set); Hadoop's defaults hold".to_owned(),
        }),
    }];
    for address in &cluster.addresses {
        let result = match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(format!("{address} takes connections")),
            Ok(Err(e)) => Err(format!("{address}: {e}; start the NameNode, or give its RPC port (fs.defaultFS)")),
            Err(_) => Err(format!("{address}: no connection within {} s; is a firewall between?", CONNECT.as_secs())),
        };
        checks.push(Check { name: "NameNode".to_owned(), result });
    }
    let asked = |client: hdfs_native::Client| async move { client.get_file_info(path).await };
    let answer = cluster.call(url, Patience::Quick, asked).await;
    checks.push(Check {
        name: "HDFS".to_owned(),
        result: match answer {
            Ok(found) if found.isdir => Ok(format!("{url} is a directory of {}", found.owner)),
            Ok(found) => Ok(format!("{url} is a file of {} bytes", found.length)),
            Err(e) => Err(e.message),
        },
    });
    checks.push(Check { name: "WebHDFS".to_owned(), result: web(cluster, options).await });
    checks
}

async fn web(cluster: &Cluster, options: &StorageOptions) -> Result<String, String> {
    let mut said = Vec::new();
    for address in locate::addresses(cluster, options) {
        let asked = match Locator::new(address, "GETFILESTATUS") {
            Ok(locator) => locator.get("/", "GETFILESTATUS", 0).await.map(|_| locator.address),
            Err(refusal) => Err(refusal),
        };
        match asked {
            Ok(address) => return Ok(format!("{address} tells block hosts, so slaves can read locally")),
            Err(Refusal(why)) => said.push(why),
        }
    }
    Err(format!(
        "{}; without it reading is not local: set FLEXPS_WEBHDFS=HOST:PORT, or dfs.namenode.http-address in HADOOP_CONF_DIR",
        if said.is_empty() { "no address is configured".to_owned() } else { said.join("; ") }
    ))
}
