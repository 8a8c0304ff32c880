//! Where nodes listen and who can reach them there.

use crate::support::cluster::Node;
use crate::support::{flexps, folder, wait};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

/// A secret for all nodes of a test.
const SECRET: (&str, &str) = ("FLEXPS_SECRET", "open sesame");
/// An address that is no machine's (RFC 5737).
const NOBODY: &str = "198.51.100.7:7070";

/// This machine's address beyond loopback, if it has a way there.
fn beyond_loopback() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(NOBODY).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback()).then_some(own)
}

#[test]
fn any_address_but_loopback_needs_a_secret() {
    flexps(["master", "--bind", "0.0.0.0:0"]).within(20).exits(2).says(&["0.0.0.0", "secret", "FLEXPS_SECRET"]);
    let here = folder();
    let mut master = Node::start(here.path(), "master", &["master", "--bind", "0.0.0.0:0"], &[SECRET]);
    master.line("listening on ");
}

#[test]
fn a_slave_at_an_address_that_leads_nowhere_is_refused() {
    for bind in ["0.0.0.0", "::", "[::]:0"] {
        let run = flexps(["slave", "--bind", bind]).env(SECRET.0, SECRET.1).within(20).exits(2);
        run.says(&["--bind", bind, "host name of this machine"]);
    }
}

#[test]
fn a_slave_listens_where_it_reaches_its_master() {
    let Some(own) = beyond_loopback() else {
        eprintln!("this machine has loopback alone");
        return;
    };
    let here = folder();
    let bind = SocketAddr::new(own, 0).to_string();
    let mut master = Node::start(here.path(), "master", &["master", "--bind", &bind], &[SECRET]);
    let address = master.line("listening on ");
    let args = ["slave", "--master", &address, "--slots", "1", "--host", "h1"];
    let slave = Node::start(here.path(), "h1", &args, &[SECRET]);
    wait::until("a slave at this machine's address", Duration::from_secs(20), || {
        slave.log().contains(&format!("control={own}:")).then_some(())
    });
    let run = flexps(args).within(20).exits(2);
    run.says(&["can't listen", &own.to_string(), "secret", "FLEXPS_SECRET"]);
    // Loopback does between the nodes of one machine.
    let args = [&args[..], &["--name", "h2", "--bind", "127.0.0.1"]].concat();
    let slave = Node::start(here.path(), "h2", &args, &[SECRET]);
    wait::until("a slave on loopback", Duration::from_secs(20), || {
        slave.log().contains("control=127.0.0.1:").then_some(())
    });
}

#[test]
fn a_slave_on_loopback_of_a_master_on_another_machine_is_refused() {
    let Some(own) = beyond_loopback() else {
        eprintln!("this machine has loopback alone");
        return;
    };
    for bind in ["127.0.0.1", "localhost"] {
        let run = flexps(["slave", "--master", NOBODY, "--bind", bind]).env(SECRET.0, SECRET.1).within(20).exits(2);
        run.says(&["--bind", bind, "leave --bind out", &own.to_string(), "others reach this machine"]);
    }
}
