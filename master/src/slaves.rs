//! The slaves that the master knows: who lives, who was heard when, and which slots and how much memory are taken.
//!
//! Invariants: live slaves have different names; no slot is taken twice, and one that is taken comes free when the workers
//! in it have ended or their slave is gone.

use crate::job::width::machines;
use crate::scheduler::Slots;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::transport::{Channel, Connection, Network};
use flexps_common::wire::control::{HEARTBEAT_MS, SILENCE_MS};
use flexps_common::wire::slaves::{self, Peer, Registration, SlaveLine};
use flexps_common::{Error, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a slave may take to come back over a new connection after its last one broke.
const RECONNECT: Duration = Duration::from_millis(1_000);

/// A slave whose name another process wants is taken for alive when it is heard so long after that first asked, or later: what is
/// heard before may have been under way when it died.
const AFTER_RIVAL: Duration = Duration::from_millis(HEARTBEAT_MS / 2);

/// Between two looks: longer, and it was the master that stood still (suspended, say) and heard nobody.
const STOOD_STILL: Duration = Duration::from_millis(2_000);

/// A live slave.
pub struct Slave {
    /// What it told of itself.
    pub registration: Registration,
    /// The way to its control listener.
    pub control: Channel,
    heard: Duration,
    connection: Connection,
    /// When the connection broke over which it was heard last.
    broken: Option<Duration>,
    /// The incarnation of another process that wants its name, and when that first asked.
    rival: Option<(u64, Duration)>,
    /// Slots, and bytes of memory.
    taken: BTreeMap<(JobId, StageRun), (u32, u64)>,
    /// Of all of these.
    busy: u32,
    asked: u64,
}

/// All live slaves.
#[derive(Default)]
pub struct Slaves {
    live: BTreeMap<SlaveId, Slave>,
    next: u32,
    /// When [`Slaves::gone`] looked last.
    looked: Duration,
}

impl Slave {
    /// As a policy sees it.
    pub fn as_seen(&self, id: SlaveId) -> Slots {
        let Registration { slots, cores, .. } = self.registration;
        Slots { id, slots, free: self.free(), cores, memory: self.memory_left() }
    }

    /// Slots that no stage runs in.
    pub fn free(&self) -> u32 {
        self.registration.slots.saturating_sub(self.busy)
    }

    /// What errors call it, e.g. `slave s2 (h2)`.
    pub fn called(&self, id: SlaveId) -> String {
        slaves::called(id, &self.registration.name)
    }

    /// Bytes of memory that stages may ask for, whatever runs.
    pub fn memory(&self) -> u64 {
        self.registration.memory.unwrap_or(u64::MAX)
    }

    /// Of which none that runs asked for.
    pub fn memory_left(&self) -> u64 {
        self.memory().saturating_sub(self.asked)
    }
}

impl Slaves {
    /// None yet; the first one comes after the identity `last`.
    pub fn after(last: u32) -> Self {
        Self { next: last, ..Self::default() }
    }

    /// Takes a slave in. One that asks again gets the same identity; a name that another live slave has is refused, and the
    /// identity of a dead one that had it is returned beside the new one, for its jobs to fail. None while it is not known
    /// whether that one lives: who asks is to ask again. A process that asks under another incarnation has dropped its jobs:
    /// what it was before is dead.
    pub fn register(
        &mut self,
        registration: Registration,
        from: Connection,
        network: &Network,
        now: Duration,
    ) -> Result<Option<(SlaveId, Option<SlaveId>)>> {
        if registration.slots == 0 {
            return Err(Error::user(format!("slave {} lends 0 slots; give --slots 1 or more", registration.name)));
        }
        let named = self.live.iter_mut().find(|(_, s)| s.registration.name == registration.name);
        let mut replaced = None;
        if let Some((id, old)) = named {
            if old.registration.incarnation == registration.incarnation {
                (old.heard, old.connection, old.broken) = (now, from, None);
                return Ok(Some((*id, None)));
            }
            let silent = now.saturating_sub(old.heard);
            if !old.registration.same_process(&registration)
                && old.broken.is_none()
                && silent < Duration::from_millis(3 * HEARTBEAT_MS)
            {
                // A process that was killed a moment ago looks as if it lived, until its next heartbeat does not come.
                let asked = old.rival.filter(|(rival, _)| *rival == registration.incarnation).map(|(_, at)| at);
                let since = asked.unwrap_or(now);
                old.rival = Some((registration.incarnation, since));
                if old.heard < since + AFTER_RIVAL {
                    return Ok(None);
                }
                return Err(Error::user(format!(
                    "a slave named {} is here already (process {} on {}); give --name NAME",
                    registration.name, old.registration.pid, old.registration.host
                )));
            }
            replaced = Some(*id);
        }
        self.next += 1;
        let id = SlaveId(self.next);
        let control = network.channel(&registration.control, &slaves::called(id, &registration.name));
        let slave = Slave {
            registration,
            control,
            heard: now,
            connection: from,
            broken: None,
            rival: None,
            taken: BTreeMap::new(),
            busy: 0,
            asked: 0,
        };
        self.live.insert(id, slave);
        Ok(Some((id, replaced)))
    }

    /// A slave was heard; false when it is not (or no longer) one of ours. A heartbeat comes with the incarnation of the
    /// process, over the connection that it keeps as long as it lives.
    pub fn heard(&mut self, id: SlaveId, from: Connection, beat: Option<u64>, now: Duration) -> bool {
        let Some(slave) = self.live.get_mut(&id) else { return false };
        if let Some(incarnation) = beat {
            if incarnation != slave.registration.incarnation {
                return false;
            }
            slave.connection = from;
        }
        (slave.heard, slave.broken) = (now, None);
        true
    }

    /// A connection broke.
    pub fn broken(&mut self, connection: Connection, now: Duration) {
        for slave in self.live.values_mut().filter(|s| s.connection == connection) {
            slave.broken.get_or_insert(now);
        }
    }

    /// Those that are gone at `now`, and how one knows. Asked all the time: what passed while nobody asked counts for no
    /// silence.
    pub fn gone(&mut self, now: Duration) -> Vec<(SlaveId, String)> {
        let still = now.saturating_sub(std::mem::replace(&mut self.looked, now));
        if still >= STOOD_STILL {
            for slave in self.live.values_mut() {
                slave.heard = (slave.heard + still).min(now);
                slave.broken = slave.broken.map(|at| at + still);
                slave.rival = None;
            }
        }
        let mut gone = Vec::new();
        for (id, slave) in &self.live {
            let silent = now.saturating_sub(slave.heard);
            if slave.broken.is_some_and(|at| now.saturating_sub(at) >= RECONNECT) {
                gone.push((*id, "connection closed".to_owned()));
            } else if silent >= Duration::from_millis(SILENCE_MS) {
                gone.push((*id, format!("silent for {:.0} s", silent.as_secs_f64())));
            }
        }
        gone
    }

    /// Takes a slave out.
    pub fn remove(&mut self, id: SlaveId) -> Option<Slave> {
        self.live.remove(&id)
    }

    /// A live slave.
    pub fn get(&self, id: SlaveId) -> Option<&Slave> {
        self.live.get(&id)
    }

    /// All live slaves, by identity.
    pub fn iter(&self) -> impl Iterator<Item = (SlaveId, &Slave)> {
        self.live.iter().map(|(id, s)| (*id, s))
    }

    /// Takes slots for a stage run, and so much memory on each slave.
    pub fn take(&mut self, job: JobId, run: StageRun, workers: &[(SlaveId, u32)], memory: u64) {
        for (id, n) in workers {
            if let Some(slave) = self.live.get_mut(id) {
                slave.taken.insert((job, run), (*n, memory));
                (slave.busy, slave.asked) = (slave.busy + n, slave.asked.saturating_add(memory));
            }
        }
    }

    /// Gives back what a stage run has on one slave; false when it had none.
    pub fn give_back(&mut self, id: SlaveId, job: JobId, run: StageRun) -> bool {
        let Some(slave) = self.live.get_mut(&id) else { return false };
        let Some((slots, memory)) = slave.taken.remove(&(job, run)) else { return false };
        (slave.busy, slave.asked) = (slave.busy - slots, slave.asked.saturating_sub(memory));
        true
    }

    /// A slave as its peers see it.
    pub fn peer(&self, id: SlaveId) -> Option<Peer> {
        let r = &self.live.get(&id)?.registration;
        Some(Peer { id, name: r.name.clone(), bulk: r.bulk.clone() })
    }

    /// The ways to the bulk listeners of those of these that live.
    pub fn bulk(&self, ids: &[SlaveId], network: &Network) -> Vec<Channel> {
        ids.iter().filter_map(|id| self.peer(*id)).map(|peer| network.channel(&peer.bulk, &peer.called())).collect()
    }

    /// Cores of the machines that these are on.
    pub fn cores(&self, ids: &[SlaveId]) -> u32 {
        let registrations = ids.iter().filter_map(|id| self.live.get(id)).map(|slave| &slave.registration);
        machines(registrations.map(|r| (r.machine(), r.cores))).values().sum()
    }

    /// The list that clients see.
    pub fn lines(&self, now: Duration) -> Vec<SlaveLine> {
        let line = |(id, s): (SlaveId, &Slave)| SlaveLine {
            id,
            name: s.registration.name.clone(),
            host: s.registration.host.clone(),
            slots: s.registration.slots,
            busy: s.busy,
            memory: s.registration.memory,
            memory_asked: s.asked,
            silent: now.saturating_sub(s.heard).as_secs_f64(),
            pid: s.registration.pid,
        };
        self.iter().map(line).collect()
    }
}
