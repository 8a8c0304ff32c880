//! By which address this machine reaches the master: where a slave listens, so that the master and the other slaves reach it, as
//! they are told that address as it stands, and whether the master is on this machine at all.
//!
//! Invariant: nothing is sent to find it.

use flexps_common::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// A way to the master: one of its addresses, and this machine's own on that way.
type Way = (IpAddr, IpAddr);

/// A free port of the address that `--bind` names, or else of that by which this machine reaches the master.
pub async fn address(bind: Option<&str>, master: &str) -> Result<String> {
    let asked = bind.map(|bind| free_port(bind).map(|address| (bind, address))).transpose()?;
    let ways = ways(master).await;
    let Some((bind, address)) = asked else {
        let found = ways.first().map(|(_, own)| *own);
        if found.is_none() {
            tracing::warn!(
                "no way to {master} is found, so this slave listens on loopback: others can't reach it there"
            );
        }
        return Ok(SocketAddr::new(found.unwrap_or(Ipv4Addr::LOCALHOST.into()), 0).to_string());
    };
    let own = resolved(&address).await;
    let on_loopback = !own.is_empty() && own.iter().all(|address| address.ip().is_loopback());
    match elsewhere(&ways).filter(|_| on_loopback) {
        Some((there, here)) => Err(Error::user(format!(
            "--bind {bind}: the master at {there} and other slaves can't reach this machine's loopback; leave \
             --bind out for {here}, or give the address that others reach this machine at"
        ))),
        None => Ok(address),
    }
}

/// Whether the master runs on another machine, so that its paths are none of this one's.
pub async fn is_elsewhere(master: &str) -> bool {
    elsewhere(&ways(master).await).is_some()
}

/// The ways to the master.
async fn ways(master: &str) -> Vec<Way> {
    resolved(master).await.into_iter().filter_map(|master| Some((master.ip(), own(master)?))).collect()
}

/// All addresses behind a name; none where it has none, or none yet.
async fn resolved(name: &str) -> Vec<SocketAddr> {
    tokio::net::lookup_host(name).await.map(Iterator::collect).unwrap_or_default()
}

/// The address of this machine's interface on the way to `other`; none of a link alone, which each machine calls otherwise.
fn own(other: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if other.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(other).ok()?;
    let own = socket.local_addr().ok()?.ip();
    let of_link = matches!(own, IpAddr::V6(own) if own.is_unicast_link_local());
    (!own.is_unspecified() && !of_link).then_some(own)
}

/// The first way, where all lead to another machine.
fn elsewhere(ways: &[Way]) -> Option<Way> {
    ways.iter().all(|(there, here)| !here.is_loopback() && there != here).then(|| ways.first().copied()).flatten()
}

/// A free port of the address that `--bind` names, which must lead to this machine.
fn free_port(bind: &str) -> Result<String> {
    let bare = bind.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(bind);
    let socket = bind.parse().ok().filter(|address: &SocketAddr| address.port() == 0).map(|address| address.ip());
    match bare.parse().ok().or(socket) {
        Some(ip) if IpAddr::is_unspecified(&ip) => Err(Error::user(format!(
            "--bind {bind}: other slaves are given this address, and {ip} leads none of them here; give the address or \
             host name of this machine that they reach it at"
        ))),
        Some(ip) => Ok(SocketAddr::new(ip, 0).to_string()),
        None if bind.contains(':') => {
            Err(Error::user(format!("--bind {bind}: a slave takes free ports; give the address or host name alone")))
        }
        None => Ok(format!("{bind}:0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_a_free_port_unless_peers_cannot_reach_it() {
        for (bind, expected) in [
            ("127.0.0.1", "127.0.0.1:0"),
            ("::1", "[::1]:0"),
            ("[::1]", "[::1]:0"),
            ("[::1]:0", "[::1]:0"),
            ("10.0.0.7:0", "10.0.0.7:0"),
            ("node-7", "node-7:0"),
        ] {
            assert_eq!(free_port(bind).unwrap(), expected);
        }
        for (bind, says) in [
            ("0.0.0.0", "leads none"),
            ("::", "leads none"),
            ("[::]:0", "leads none"),
            ("10.0.0.7:80", "free ports"),
            ("node-7:80", "free ports"),
        ] {
            assert!(free_port(bind).unwrap_err().message.contains(says), "{bind}");
        }
    }

    #[tokio::test]
    async fn a_slave_of_a_master_on_loopback_or_nowhere_listens_on_loopback() {
        for master in ["127.0.0.1:7070", "127.0.1.1:7070", "no address"] {
            assert_eq!(address(None, master).await.unwrap(), "127.0.0.1:0", "{master}");
            assert_eq!(address(Some("127.0.0.1"), master).await.unwrap(), "127.0.0.1:0", "{master}");
            assert!(!is_elsewhere(master).await, "{master}");
        }
    }

    #[test]
    fn a_master_is_elsewhere_where_no_way_ends_on_this_machine() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let [loopback, here, there] = ["127.0.1.1", "10.0.0.7", "10.0.0.8"].map(ip);
        assert_eq!(elsewhere(&[]), None);
        assert_eq!(elsewhere(&[(loopback, ip("127.0.0.1"))]), None);
        assert_eq!(elsewhere(&[(here, here)]), None);
        assert_eq!(elsewhere(&[(there, here)]), Some((there, here)));
        assert_eq!(elsewhere(&[(there, here), (here, here)]), None);
    }
}
