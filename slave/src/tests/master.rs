//! The master of the tests: it gives out what splits a test has given it, and passes on what slaves report.

use flexps_common::error::Result;
use flexps_common::ids::{SlaveId, StageRun};
use flexps_common::transport::{Connection, Packet, Service};
use flexps_common::wire::control::{FromMaster, Outcome, ReadDone, Split, ToMaster};
use flexps_common::wire::slaves::{Member, Registration};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// A slave of this master.
pub fn member(id: SlaveId) -> Member {
    Member { master: 7, id }
}

pub struct Master {
    pub slaves: Mutex<Vec<Registration>>,
    /// Slaves that must register again.
    pub forgotten: Arc<Mutex<Vec<SlaveId>>>,
    /// Splits to be given out, and whether no others follow.
    splits: watch::Sender<(Vec<Split>, bool)>,
    taken: Arc<Mutex<Vec<(SlaveId, Split)>>>,
    done: mpsc::UnboundedSender<(SlaveId, StageRun, Outcome)>,
    read: mpsc::UnboundedSender<Result<ReadDone>>,
}

impl Master {
    pub fn new(
        done: mpsc::UnboundedSender<(SlaveId, StageRun, Outcome)>,
        read: mpsc::UnboundedSender<Result<ReadDone>>,
    ) -> Self {
        let (slaves, forgotten, taken) = (Mutex::default(), Arc::default(), Arc::default());
        Self { slaves, forgotten, splits: watch::Sender::new((Vec::new(), false)), taken, done, read }
    }

    /// Gives these splits out; whether no others follow.
    pub fn give(&self, splits: Vec<Split>, all: bool) {
        self.splits.send_replace((splits, all));
    }

    /// Waits until all splits so far are taken.
    pub async fn given(&self) {
        self.splits.subscribe().wait_for(|(left, _)| left.is_empty()).await.unwrap();
    }

    /// A slave is gone: what it had taken.
    pub fn lose(&self, gone: SlaveId) -> Vec<Split> {
        self.forgotten.lock().push(gone);
        self.taken.lock().iter().filter(|(slave, _)| *slave == gone).map(|(_, split)| split.clone()).collect()
    }
}

impl Service for Master {
    fn call(&self, _from: Connection, request: Packet) -> BoxFuture<'static, Result<Packet>> {
        let message = request.message().unwrap();
        if let ToMaster::NextSplit { slave: Member { id: slave, .. }, .. } = message {
            let (mut splits, sender, taken) = (self.splits.subscribe(), self.splits.clone(), self.taken.clone());
            let forgotten = self.forgotten.clone();
            return Box::pin(async move {
                let mut split = None;
                while split.is_none() {
                    let all = splits.wait_for(|(left, all)| !left.is_empty() || *all).await.unwrap().1;
                    if forgotten.lock().contains(&slave) {
                        return Packet::control(&FromMaster::Unknown);
                    }
                    sender.send_modify(|(left, _)| split = left.pop());
                    if all {
                        break;
                    }
                }
                taken.lock().extend(split.clone().map(|split| (slave, split)));
                Packet::control(&FromMaster::Split(split))
            });
        }
        if let ToMaster::StageDone { slave, .. } | ToMaster::ReadDone { slave, .. } = &message {
            assert_eq!(*slave, member(slave.id), "it is meant for this master");
        }
        let answer = match message {
            ToMaster::Register(registration) => {
                let mut slaves = self.slaves.lock();
                slaves.push(registration);
                FromMaster::Registered { slave: member(SlaveId(slaves.len() as u32)) }
            }
            ToMaster::StageDone { slave, run, outcome, .. } => {
                self.done.send((slave.id, run, outcome)).unwrap();
                FromMaster::Ok
            }
            ToMaster::ReadDone { slave, result, .. } if !self.forgotten.lock().contains(&slave.id) => {
                self.read.send(result).unwrap();
                FromMaster::Ok
            }
            ToMaster::Heartbeat { slave, .. } if self.forgotten.lock().contains(&slave.id) => FromMaster::Unknown,
            _ => FromMaster::Ok,
        };
        Box::pin(async move { Packet::control(&answer) })
    }
}
