//! Hadoop's own configuration, as far as it says where a cluster's NameNodes are and where their WebHDFS listens.
//!
//! Invariant: an address that the configuration gives for one cluster is never taken for another.

use crate::error::{Error, Result, io};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A NameNode's RPC port where none is given.
const RPC_PORT: u16 = 8020;
/// Its HTTP port where none is configured.
const HTTP_PORT: u16 = 9870;

/// `core-site.xml` and `hdfs-site.xml` of a folder; empty without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Conf {
    /// Where it comes from.
    pub folder: Option<PathBuf>,
    properties: HashMap<String, String>,
}

impl Conf {
    /// Reads `folder`'s files; either may be missing.
    pub fn load(folder: Option<PathBuf>) -> Result<Self> {
        let mut properties = HashMap::new();
        for name in ["core-site.xml", "hdfs-site.xml"] {
            let Some(file) = folder.as_ref().map(|f| f.join(name)).filter(|f| f.exists()) else { continue };
            let text = std::fs::read_to_string(&file).map_err(|e| io(file.display(), &e))?;
            properties.extend(parse(&file, &text)?);
        }
        Ok(Self { folder, properties })
    }

    /// A property's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(|v| v.trim())
    }

    /// Ids of the NameNodes behind a logical name; empty when `name` is none.
    pub fn namenode_ids(&self, name: &str) -> Vec<String> {
        let ids = self.get(&format!("dfs.ha.namenodes.{name}")).unwrap_or_default();
        ids.split(',').map(|id| id.trim().to_owned()).filter(|id| !id.is_empty()).collect()
    }

    /// RPC addresses of the NameNodes of `authority`, which is a logical name or `host[:port]`.
    pub fn rpc_addresses(&self, authority: &str) -> Vec<String> {
        let ids = self.namenode_ids(authority);
        if ids.is_empty() {
            return vec![with_port(authority, RPC_PORT)];
        }
        let address = |id: &String| self.get(&format!("dfs.namenode.rpc-address.{authority}.{id}")).map(str::to_owned);
        ids.iter().filter_map(address).collect()
    }

    /// `host:port` of WebHDFS of the NameNodes of `authority`, in the order of their ids.
    pub fn http_addresses(&self, authority: &str) -> Vec<String> {
        let ids = self.namenode_ids(authority);
        if ids.is_empty() {
            let host = host_of(authority);
            let configured = self.get("dfs.namenode.http-address").filter(|_| self.is_default(authority));
            return vec![configured.map_or(format!("{host}:{HTTP_PORT}"), |a| reachable(a, host))];
        }
        let address = |id: &String| {
            let rpc = self.get(&format!("dfs.namenode.rpc-address.{authority}.{id}")).unwrap_or(authority);
            let http = self.get(&format!("dfs.namenode.http-address.{authority}.{id}"));
            http.map_or(format!("{}:{HTTP_PORT}", host_of(rpc)), |a| reachable(a, host_of(rpc)))
        };
        ids.iter().map(address).collect()
    }

    /// The authority of `fs.defaultFS`, for URLs that name none.
    pub fn default_authority(&self) -> Option<&str> {
        let url = self.get("fs.defaultFS")?;
        url.strip_prefix("hdfs://").map(|rest| rest.trim_end_matches('/')).filter(|a| !a.is_empty())
    }

    fn is_default(&self, authority: &str) -> bool {
        let own = self.get("dfs.namenode.rpc-address").or(self.default_authority());
        own.is_some_and(|own| with_port(own, RPC_PORT) == with_port(authority, RPC_PORT))
    }
}

fn with_port(authority: &str, port: u16) -> String {
    if authority.contains(':') { authority.to_owned() } else { format!("{authority}:{port}") }
}

fn host_of(authority: &str) -> &str {
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

/// An address that a server binds, as its clients see it.
fn reachable(bound: &str, host: &str) -> String {
    bound.strip_prefix("0.0.0.0:").map_or(bound.to_owned(), |port| format!("{host}:{port}"))
}

fn parse(file: &Path, text: &str) -> Result<Vec<(String, String)>> {
    let options = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text, options)
        .map_err(|e| Error::user(format!("{}: no valid Hadoop configuration: {e}", file.display())))?;
    let text_of = |property: roxmltree::Node<'_, '_>, tag: &str| {
        property.children().find(|c| c.has_tag_name(tag)).and_then(|c| c.text()).map(|t| t.trim().to_owned())
    };
    let properties = document.root_element().children().filter(|c| c.has_tag_name("property"));
    Ok(properties.filter_map(|p| Some((text_of(p, "name")?, text_of(p, "value")?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(properties: &[(&str, &str)]) -> Conf {
        let dir = tempfile::tempdir().unwrap();
        let xml: String = properties
            .iter()
            .map(|(n, v)| format!("<property>\n<name> {n} </name><!-- x --><value>{v}</value></property>"))
            .collect();
        std::fs::write(dir.path().join("hdfs-site.xml"), format!("<configuration>{xml}</configuration>")).unwrap();
        Conf::load(Some(dir.path().to_owned())).unwrap()
    }

    #[test]
    fn an_unconfigured_name_node_has_hadoops_ports() {
        let none = Conf::default();
        assert_eq!(none.rpc_addresses("nn"), ["nn:8020"]);
        assert_eq!(none.rpc_addresses("nn:9000"), ["nn:9000"]);
        assert_eq!(none.http_addresses("nn:9000"), ["nn:9870"]);
    }

    #[test]
    fn a_configured_http_address_holds_for_its_own_cluster_only() {
        let conf = conf(&[("fs.defaultFS", "hdfs://nn:9000/"), ("dfs.namenode.http-address", "0.0.0.0:5070")]);
        assert_eq!(conf.http_addresses("nn:9000"), ["nn:5070"]);
        assert_eq!(conf.http_addresses("other:9000"), ["other:9870"]);
        assert_eq!(conf.default_authority(), Some("nn:9000"));
    }

    #[test]
    fn a_logical_name_gives_all_its_name_nodes() {
        let conf = conf(&[
            ("dfs.ha.namenodes.ns", "a, b"),
            ("dfs.namenode.rpc-address.ns.a", "ha:1"),
            ("dfs.namenode.rpc-address.ns.b", "hb:2"),
            ("dfs.namenode.http-address.ns.b", "hb:3"),
        ]);
        assert_eq!(conf.rpc_addresses("ns"), ["ha:1", "hb:2"]);
        assert_eq!(conf.http_addresses("ns"), ["ha:9870", "hb:3"]);
    }

    #[test]
    fn a_broken_configuration_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("core-site.xml"), "<configuration>").unwrap();
        let error = Conf::load(Some(dir.path().to_owned())).unwrap_err();
        assert!(error.message.contains("core-site.xml: no valid Hadoop configuration"), "{error}");
    }
}
