//! Hosts and racks of a file's blocks, asked of WebHDFS, since the client crate keeps them to itself.
//!
//! Invariant: a block list that is taken over covers its file without holes. Whatever goes wrong only costs locality:
//! it ends as a remark for the user, never as an error, and within [`BUDGET`].

use super::super::{BlockMeta, FileMeta, StorageOptions};
use super::cluster::Cluster;
use futures::StreamExt;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

/// Questions under way at once.
const PARALLEL: usize = 16;
/// The longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest wait for all: data that is read from afar is better than none.
const BUDGET: Duration = Duration::from_secs(30);
/// The largest answer that is taken: some 200,000 blocks.
const LARGEST: usize = 128 << 20;

/// The two questions that NameNodes know, the better one first.
const QUESTIONS: [&str; 2] = ["GETFILEBLOCKLOCATIONS", "GET_BLOCK_LOCATIONS"];

/// Fills in the hosts of `files`' blocks. Returns a remark when that failed, wholly or in part.
pub(super) async fn locate(cluster: &Cluster, options: &StorageOptions, files: &mut [FileMeta]) -> Option<String> {
    let first = files.iter().position(|f| f.len > 0)?;
    if !cluster.is_plain() {
        return Some(format!(
            "{}: block hosts are unknown behind a mount table, so reading is not local",
            cluster.url("")
        ));
    }
    let locator = match Locator::find(cluster, options, &files[first]).await {
        Ok(locator) => locator,
        Err(why) => return Some(off(&why)),
    };
    let asked = files.iter().enumerate().filter(|(_, f)| f.len > 0).map(|(i, f)| {
        let (locator, file) = (&locator, f);
        async move { (i, locator.blocks(file).await) }
    });
    let asked: Vec<_> = asked.collect();
    let count = asked.len();
    let mut found = HashMap::new();
    let mut failure = None;
    let answers = futures::stream::iter(asked).buffer_unordered(PARALLEL);
    let collect = answers.for_each(|(i, answer)| {
        match answer {
            Ok(blocks) => drop(found.insert(i, blocks)),
            Err(Refusal(why)) => failure = Some(why),
        }
        std::future::ready(())
    });
    if tokio::time::timeout(BUDGET, collect).await.is_err() {
        failure = Some(format!("WebHDFS at {} is slow", locator.address));
    }
    let (known, failure) = (found.len(), failure.take());
    for (i, blocks) in found {
        files[i].blocks = blocks;
    }
    failure.map(|why| {
        if known == 0 { off(&why) } else { format!("block hosts are known for {known} of {count} files only: {why}") }
    })
}

fn off(why: &str) -> String {
    format!(
        "locality is off, blocks are read from any host: {why} \
         (set FLEXPS_WEBHDFS=HOST:PORT, or dfs.namenode.http-address in HADOOP_CONF_DIR)"
    )
}

/// The addresses of WebHDFS to try.
pub(super) fn addresses(cluster: &Cluster, options: &StorageOptions) -> Vec<String> {
    match &options.webhdfs {
        Some(given) => given.split(',').map(|a| a.trim().to_owned()).filter(|a| !a.is_empty()).collect(),
        None => cluster.conf.http_addresses(&cluster.authority),
    }
}

/// A WebHDFS that answers.
pub(super) struct Locator {
    client: reqwest::Client,
    pub address: String,
    question: &'static str,
    user: Option<String>,
}

/// Why there is no answer, in words.
pub(super) struct Refusal(pub String);

impl Locator {
    /// Looks for a WebHDFS that tells the blocks of `file`; the error says what each said.
    async fn find(cluster: &Cluster, options: &StorageOptions, file: &FileMeta) -> Result<Self, String> {
        let mut said = Vec::new();
        for address in addresses(cluster, options) {
            for question in QUESTIONS {
                let locator = Self::new(address.clone(), question).map_err(|Refusal(why)| why)?;
                match locator.blocks(file).await {
                    Ok(_) => return Ok(locator),
                    Err(Refusal(why)) => said.push(why),
                }
                if !said.last().is_some_and(|why| why.contains("not a valid GET operation")) {
                    break;
                }
            }
        }
        Err(if said.is_empty() { "no WebHDFS address is configured".to_owned() } else { said.join("; ") })
    }

    /// A client for one address.
    pub fn new(address: String, question: &'static str) -> Result<Self, Refusal> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(3))
            .timeout(PATIENCE)
            .build()
            .map_err(|e| Refusal(format!("no HTTP client: {e}")))?;
        Ok(Self { client, address, question, user: user() })
    }

    async fn blocks(&self, file: &FileMeta) -> Result<Vec<BlockMeta>, Refusal> {
        let path = file.path.split_once("://").and_then(|(_, rest)| rest.find('/').map(|i| &rest[i..])).unwrap_or("/");
        let body = self.get(path, self.question, file.len).await?;
        let blocks =
            parse(&body).map_err(|e| Refusal(format!("WebHDFS at {} answered no block list: {e}", self.address)))?;
        covering(blocks, file.len)
            .ok_or_else(|| Refusal(format!("WebHDFS at {} told blocks that don't make up {}", self.address, file.path)))
    }

    /// One question about `path`.
    pub async fn get(&self, path: &str, question: &str, len: u64) -> Result<Vec<u8>, Refusal> {
        let at = &self.address;
        let base = if at.contains("://") { at.clone() } else { format!("http://{at}") };
        let mut url = Url::parse(&base).map_err(|e| Refusal(format!("'{at}' is no address of WebHDFS: {e}")))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["webhdfs", "v1"]).extend(path.split('/').filter(|s| !s.is_empty()));
        }
        url.query_pairs_mut().append_pair("op", question);
        if len > 0 {
            url.query_pairs_mut().append_pair("offset", "0").append_pair("length", &len.to_string());
        }
        if let Some(user) = &self.user {
            url.query_pairs_mut().append_pair("user.name", user);
        }
        let mut response = self.client.get(url).send().await.map_err(|e| Refusal(unreachable(at, &e)))?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(|e| Refusal(unreachable(at, &e)))? {
            if body.len() + bytes.len() > LARGEST {
                return Err(Refusal(format!("WebHDFS at {at} answered more than {} MiB", LARGEST >> 20)));
            }
            body.extend_from_slice(&bytes);
        }
        if status.is_success() { Ok(body) } else { Err(Refusal(refused(at, status, &body))) }
    }
}

fn unreachable(address: &str, error: &reqwest::Error) -> String {
    let why = match error {
        e if e.is_timeout() => "does not answer",
        e if e.is_connect() => "cannot be reached",
        _ => "broke the connection",
    };
    format!("WebHDFS at {address} {why}")
}

fn refused(address: &str, status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        remote_exception: Remote,
    }
    #[derive(Deserialize)]
    struct Remote {
        exception: String,
        message: String,
    }
    match (serde_json::from_slice::<Answer>(body), status) {
        (Ok(Answer { remote_exception: Remote { exception, message } }), _) => {
            let message = message.lines().next().unwrap_or_default();
            format!("WebHDFS at {address} answered {exception}: {message}")
        }
        (_, StatusCode::UNAUTHORIZED) => {
            format!("WebHDFS at {address} asks for Kerberos, which is not supported there")
        }
        (_, status) => format!("{address} is no WebHDFS (it answered {status})"),
    }
}

/// Who asks: Hadoop's rule without Kerberos.
fn user() -> Option<String> {
    let named = ["HADOOP_USER_NAME", "USER", "LOGNAME"].iter().find_map(|v| std::env::var(v).ok());
    named.filter(|u| !u.is_empty()).or_else(|| {
        let id = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").ok()?).to_string();
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let line = users.lines().find(|l| l.split(':').nth(2) == Some(&id))?;
        line.split(':').next().map(str::to_owned)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
enum Answer {
    BlockLocations {
        #[serde(rename = "BlockLocation", default)]
        blocks: Vec<Location>,
    },
    LocatedBlocks {
        #[serde(rename = "locatedBlocks", default)]
        blocks: Vec<Located>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Location {
    offset: u64,
    length: u64,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    topology_paths: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Located {
    start_offset: u64,
    block: Block,
    #[serde(default)]
    locations: Vec<DataNode>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Block {
    num_bytes: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataNode {
    host_name: String,
    #[serde(default)]
    network_location: String,
}

fn parse(body: &[u8]) -> serde_json::Result<Vec<BlockMeta>> {
    Ok(match serde_json::from_slice(body)? {
        Answer::BlockLocations { blocks } => blocks.into_iter().map(Location::block).collect(),
        Answer::LocatedBlocks { blocks } => blocks.into_iter().map(Located::block).collect(),
    })
}

impl Location {
    fn block(self) -> BlockMeta {
        // `/rack1/10.0.0.1:9866`: the rack is what stands before the DataNode.
        let rack = |path: &String| path.rsplit_once('/').map_or(String::new(), |(rack, _)| rack.to_owned());
        let racks = self.topology_paths.iter().map(rack).chain(std::iter::repeat(String::new()));
        block(self.offset, self.length, self.hosts.into_iter().zip(racks).collect())
    }
}

impl Located {
    fn block(self) -> BlockMeta {
        let nodes = self.locations.into_iter().map(|d| (d.host_name, d.network_location)).collect();
        block(self.start_offset, self.block.num_bytes, nodes)
    }
}

/// NameNodes shuffle the hosts; ours are in order, so that the same files give the same splits.
fn block(start: u64, len: u64, mut nodes: Vec<(String, String)>) -> BlockMeta {
    nodes.sort();
    let (hosts, mut racks): (Vec<_>, Vec<_>) = nodes.into_iter().unzip();
    if racks.iter().any(String::is_empty) {
        racks.clear();
    }
    BlockMeta { start, end: start.saturating_add(len), hosts, racks }
}

/// The blocks in order, when they cover a file of `len` bytes without holes.
fn covering(mut blocks: Vec<BlockMeta>, len: u64) -> Option<Vec<BlockMeta>> {
    blocks.retain(|b| b.start < b.end);
    blocks.sort_by_key(|b| b.start);
    let end = blocks.iter().try_fold(0, |at, b| (b.start == at).then_some(b.end))?;
    (end == len).then_some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_answers_give_the_same_blocks() {
        let newer = br#"{"BlockLocations":{"BlockLocation":[
            {"topologyPaths":["/rack2/127.0.0.1:1","/d1/rack1/127.0.0.1:2"],"corrupt":false,"names":["127.0.0.1:1","127.0.0.1:2"],
             "offset":0,"hosts":["h3","h2"],"length":10,"storageTypes":["DISK","DISK"]},
            {"topologyPaths":[],"offset":10,"hosts":[],"length":3}]}}"#;
        let older = br#"{"LocatedBlocks":{"fileLength":13,"isUnderConstruction":false,"locatedBlocks":[
            {"block":{"numBytes":10,"blockId":1},"startOffset":0,"locations":[
                {"hostName":"h3","networkLocation":"/rack2"},{"hostName":"h2","networkLocation":"/d1/rack1"}]},
            {"block":{"numBytes":3,"blockId":2},"startOffset":10,"locations":[]}]}}"#;
        let blocks = parse(newer).unwrap();
        assert_eq!(blocks, parse(older).unwrap());
        assert_eq!(blocks[0].hosts, ["h2", "h3"]);
        assert_eq!(blocks[0].racks, ["/d1/rack1", "/rack2"]);
        assert!(covering(blocks.clone(), 13).is_some());
        assert!(covering(blocks.clone(), 14).is_none());
        assert!(covering(blocks[1..].to_vec(), 13).is_none());
    }

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let body = br#"{"RemoteException":{"exception":"StandbyException","javaClassName":"x","message":"no\nmore"}}"#;
        assert_eq!(refused("a:1", StatusCode::FORBIDDEN, body), "WebHDFS at a:1 answered StandbyException: no");
        assert!(refused("a:1", StatusCode::NOT_FOUND, b"<html>").contains("is no WebHDFS"));
    }
}
