//! What an error of the HDFS client means for the user: whose fault, which address, what to do.
//!
//! Invariant: a text names the path, and the NameNodes' addresses whenever it is they who failed.

use crate::error::Error;
use hdfs_native::HdfsError;
use std::io::ErrorKind;

/// The error of a call about `path` to the NameNodes at `addresses`.
pub(super) fn explain(path: &str, addresses: &[String], error: &HdfsError) -> Error {
    let namenodes = namenodes(addresses);
    match error {
        HdfsError::FileNotFound(_) | HdfsError::BlocksNotFound(_) => {
            Error::user(format!("{path}: no such file or directory in HDFS"))
        }
        HdfsError::InvalidPath(why) => Error::user(format!("{path}: {why}")),
        HdfsError::InvalidArgument(why) => Error::user(format!("{path}: HDFS cannot be used: {why}")),
        HdfsError::RPCError(class, message) | HdfsError::FatalRPCError(class, message) => {
            rejected(path, &namenodes, class.rsplit('.').next().unwrap_or(class), message)
        }
        HdfsError::IOError(e) if e.kind() == ErrorKind::ConnectionRefused => Error::cluster(format!(
            "{path}: {namenodes} refused the connection; is HDFS up, and is this the NameNode's RPC port \
             (fs.defaultFS of the cluster)?"
        ))
        .retryable(),
        HdfsError::IOError(e) if e.to_string().contains("lookup address") => Error::user(format!(
            "{path}: {namenodes} is no known host, nor a logical name in the Hadoop configuration; \
             set HADOOP_CONF_DIR to the folder that has the cluster's hdfs-site.xml"
        )),
        HdfsError::IOError(e) => Error::cluster(format!(
            "{path}: {namenodes} broke the connection ({e}); is this a NameNode's RPC port, and does it run?"
        ))
        .retryable(),
        HdfsError::SASLError(_) | HdfsError::GSSAPIError(..) | HdfsError::NoSASLMechanism => Error::user(format!(
            "{path}: {namenodes} did not accept who we are ({error}); get a Kerberos ticket with kinit, \
             or check hadoop.security.authentication in HADOOP_CONF_DIR"
        )),
        other => Error::cluster(format!("{path}: {namenodes}: {other}")),
    }
}

/// The error when nobody answered in time.
pub(super) fn no_answer(path: &str, addresses: &[String], seconds: u64) -> Error {
    let namenodes = namenodes(addresses);
    let active = if addresses.len() > 1 { "; is one of them active (hdfs haadmin -getAllServiceState)?" } else { "" };
    Error::cluster(format!("{path}: {namenodes} gave no answer within {seconds} s{active}")).retryable()
}

/// Whether the NameNode itself decided, so that asking another one is of no use.
pub(super) fn is_final(error: &HdfsError) -> bool {
    !is_standby(error) && !matches!(error, HdfsError::IOError(_))
}

/// Whether the NameNode is not the active one.
pub(super) fn is_standby(error: &HdfsError) -> bool {
    matches!(error, HdfsError::RPCError(class, _) | HdfsError::FatalRPCError(class, _) if class.ends_with("StandbyException"))
}

fn rejected(path: &str, namenodes: &str, class: &str, message: &str) -> Error {
    let message = message.lines().next().unwrap_or_default().trim();
    match class {
        "FileNotFoundException" => Error::user(format!("{path}: no such file or directory in HDFS")),
        "ParentNotDirectoryException" => {
            Error::user(format!("{path}: a file stands where a folder is needed; give another path"))
        }
        "InvalidPathException" => {
            Error::user(format!("{path}: HDFS takes no path with `.`, `..`, `//` or a colon in it; give another one"))
        }
        "AccessControlException" => Error::user(format!("{path}: permission denied in HDFS: {message}")),
        "StandbyException" => Error::cluster(format!(
            "{path}: no active NameNode: {namenodes} are all in standby; make one active (hdfs haadmin -transitionToActive)"
        ))
        .retryable(),
        _ if class == "SafeModeException" || message.contains("safe mode") => Error::cluster(format!(
            "{path}: {namenodes} is in safe mode and doesn't know the file's blocks yet ({message}); \
             wait until it has left it (hdfs dfsadmin -safemode get), then run again"
        ))
        .retryable(),
        "RpcNoSuchProtocolException" => Error::user(format!(
            "{path}: {namenodes} is no NameNode but another of Hadoop's servers; \
             give the NameNode's RPC port (fs.defaultFS of the cluster)"
        )),
        _ => Error::cluster(format!("{path}: {namenodes} answered {class}: {message}")),
    }
}

fn namenodes(addresses: &[String]) -> String {
    match addresses {
        [one] => format!("the NameNode at {one}"),
        several => format!("the NameNodes at {}", several.join(" and ")),
    }
}

/// Names of the DataNodes in the text of an error of the client, whose only trace of them it is.
pub(super) fn datanodes(text: &str) -> Vec<String> {
    let field = |part: &str, name: &str| {
        let value = part.split_once(name)?.1.split([',', ' ', '}']).next()?;
        Some(value.trim_matches('"').to_owned())
    };
    let named = |part: &str| {
        let (ip, host, port) = (field(part, "ip_addr: ")?, field(part, "host_name: ")?, field(part, "xfer_port: ")?);
        Some(format!("{host} ({ip}:{port})"))
    };
    text.split("DatanodeIdProto").skip(1).filter_map(named).collect()
}

/// A warning of the client about a DataNode in one line; empty when another one tells the same, none when it is about
/// something else.
pub(in crate::storage) fn readable(warning: &str) -> Option<String> {
    if warning.starts_with("Failed to use cached connection") {
        // It is tried again over a new one.
        return Some(String::new());
    }
    if !warning.contains("DataNode") {
        return None;
    }
    let nodes = datanodes(warning);
    let why = match warning {
        text if text.contains("TimedOut") => "gives no answer (does it hang?)",
        text if text.contains("ConnectionRefused") => "refuses connections (is it down?)",
        text if text.contains("UnexpectedEof") || text.contains("ConnectionReset") => "broke the connection",
        _ => "could not serve a block",
    };
    let who = if nodes.is_empty() { "a DataNode".to_owned() } else { format!("DataNode {}", nodes.join(", ")) };
    Some(format!("{who} {why}; other replicas are read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    #[test]
    fn both_name_nodes_are_named() {
        let addresses = ["a:1".to_owned(), "b:2".to_owned()];
        let standby = HdfsError::RPCError("org.apache.hadoop.ipc.StandbyException".into(), "x\n\tat y".into());
        for error in [explain("hdfs://ns/f", &addresses, &standby), no_answer("hdfs://ns/f", &addresses, 25)] {
            assert!(error.message.contains("a:1 and b:2") && error.retry, "{error}");
            assert_eq!(error.fault, Fault::Cluster);
        }
        assert!(!is_final(&standby));
    }

    #[test]
    fn a_path_that_hdfs_has_no_names_for_is_the_users() {
        let odd = HdfsError::RPCError("org.apache.hadoop.fs.InvalidPathException".into(), "Invalid path name".into());
        let error = explain("hdfs://n/a/../b", &["n:1".to_owned()], &odd);
        assert!(error.fault == Fault::User && error.message.starts_with("hdfs://n/a/../b: "), "{error}");
    }

    #[test]
    fn a_warning_about_a_data_node_is_one_line_that_names_it() {
        let node = r#"DatanodeIdProto { ip_addr: "10.0.0.1", host_name: "h1", datanode_uuid: "u", xfer_port: 9866 }"#;
        let hung = format!(
            r#"Failed to connect to DataNode {node}: IOError(Custom {{ kind: TimedOut, error: "no data for 2s" }})"#
        );
        let expected = "DataNode h1 (10.0.0.1:9866) gives no answer (does it hang?); other replicas are read";
        assert_eq!(readable(&hung).unwrap(), expected);
        let cut = "Error occurred while reading from DataNode: IOError(Kind(UnexpectedEof))";
        assert_eq!(readable(cut).unwrap(), "a DataNode broke the connection; other replicas are read");
        assert_eq!(readable("Failed to use cached connection: IOError(..)").unwrap(), "");
        assert_eq!(readable("IO error on RPC call, retrying: .."), None);
    }

    #[test]
    fn data_nodes_are_found_in_the_clients_text() {
        let text = r#"All DataNodes failed: [DatanodeInfoProto { id: DatanodeIdProto { ip_addr: "10.0.0.1",
            host_name: "h1", datanode_uuid: "u", xfer_port: 9866, info_port: 1 } }]"#;
        assert_eq!(datanodes(text), ["h1 (10.0.0.1:9866)"]);
        assert!(datanodes("All DataNodes failed: []").is_empty());
    }
}
