//! Where a stage run finds the tables, once the model that was on its way to it is where it stays.
//!
//! Invariant: it is settled once, before anybody uses a table; whoever waits for it goes on when it is, or when the run is
//! cancelled.

use crate::kv::Placement;
use flexps_common::error::{Error, Result};
use flexps_common::ids::TableId;
use std::sync::OnceLock;
use tokio::sync::watch;

/// See the module.
#[derive(Default)]
pub struct Settled {
    found: OnceLock<Found>,
    /// Whether it is settled, or never will be.
    decided: watch::Sender<bool>,
}

struct Found {
    homes: Vec<Placement>,
    races: bool,
}

impl Settled {
    /// The tables stay at `homes`; the workers here race for values or not.
    pub fn settle(&self, homes: Vec<Placement>, races: bool) {
        self.found.get_or_init(|| Found { homes, races });
        self.decided.send_replace(true);
    }

    /// The run is cancelled: nobody waits any more.
    pub fn give_up(&self) {
        self.decided.send_replace(true);
    }

    /// Whether it is settled.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.found.get().is_some()
    }

    /// Waits until it is. An error when the run is cancelled before.
    pub async fn wait(&self) -> Result<()> {
        // Its sender is here.
        let _ = self.decided.subscribe().wait_for(|decided| *decided).await;
        if self.is_settled() { Ok(()) } else { Err(Error::cancelled()) }
    }

    /// Whether the workers here race for values.
    pub fn races(&self) -> bool {
        self.found.get().is_some_and(|found| found.races)
    }

    /// Where `table`, which the plan has, lives during this run. An error before it is settled.
    pub fn home(&self, table: TableId) -> Result<&Placement> {
        let home = self.found.get().and_then(|found| found.homes.get(usize::from(table.0)));
        home.ok_or_else(|| Error::bug(format!("table {table} is used before it is known where it lives")))
    }
}
