//! `flexps master` and `flexps slave`: nodes that live until they are told to end.
//!
//! Invariant: SIGINT, SIGTERM and SIGHUP end both in order; a second one ends them at once.

use super::args::{Access, MasterArgs, SlaveArgs};
use super::interrupt::Interrupt;
use super::node::{self, machine_name, master_options, slave_options};
use super::reach;
use super::terminal::{out, say, watched};
use flexps_common::job::Registry;
use flexps_common::storage::Storage;
use flexps_common::tail::Tail;
use flexps_common::transport::Secret;
use flexps_common::{Error, Result};
use flexps_master::http;

/// Runs a master.
pub async fn master(args: MasterArgs, registry: Registry) -> Result<()> {
    let mut interrupt = Interrupt::of_node()?;
    let network = node::network(&args.access, "master")?;
    let mut options = master_options(args.bind, &args.policy, Storage::default())?;
    options.shares = args.share.into_iter().collect();
    options.history = args.history;
    if let Some(address) = args.http {
        let secret = Secret::load(args.access.secret_file.as_deref())?;
        options.http = Some(http::Options { address, secret, names: vec![machine_name()] });
    }
    let mut master = flexps_master::node::start(network, registry, options).await?;
    let mut begun = format!("listening on {}\n", master.address());
    if let Some(address) = master.pages() {
        begun.push_str(&format!("pages at http://{address}/\n"));
    }
    out(&begun)?;
    tokio::select! {
        ended = master.wait() => {
            // Without its loop nobody is answered any more: who started it has to know.
            return ended.and(Err(Error::bug("the master ended, though nobody told it to")));
        }
        () = interrupt.next() => {}
    }
    master.stop();
    tokio::select! {
        ended = master.wait() => ended,
        () = interrupt.next() => Err(Error::cancelled()),
    }
}

/// Prints the token of the cluster's secret.
pub fn token(access: &Access) -> Result<()> {
    let secret = Secret::load(access.secret_file.as_deref())?;
    let none = || Error::user("no secret, no token: give --secret-file FILE or set FLEXPS_SECRET as the master has it");
    out(&format!("{}\n", secret.ok_or_else(none)?.token()?))
}

/// Runs a slave, whose log ends in `log`.
pub async fn slave(args: SlaveArgs, registry: Registry, log: Tail) -> Result<()> {
    let mut interrupt = Interrupt::of_node()?;
    let host = args.host.unwrap_or_else(machine_name);
    let name = args.name.unwrap_or_else(|| host.clone());
    let control = tokio::select! {
        control = reach::address(args.bind.as_deref(), &args.remote.master) => control?,
        () = interrupt.next() => return Ok(()),
    };
    let mut options = slave_options(&args.resources, name.clone(), host, Storage::default());
    options.master.clone_from(&args.remote.master);
    options.control = control;
    options.log = log;
    options.bulk.clone_from(&options.control);
    let slots = options.slots;
    let network = node::network(&args.remote.access, "slave")?;
    let slave = flexps_slave::node::start(network, registry, options).await?;
    tokio::select! {
        registered = slave.registered() => {
            let id = registered?;
            if watched() {
                say(&format!("slave {name} ({id}) lends {slots} slots to the master at {}", args.remote.master));
            }
            tokio::select! {
                ended = slave.wait() => return ended,
                () = interrupt.next() => {}
            }
        }
        () = interrupt.next() => {}
    }
    slave.stop();
    tokio::select! {
        ended = slave.wait() => ended,
        () = interrupt.next() => Err(Error::cancelled()),
    }
}
