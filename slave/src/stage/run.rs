//! One stage run on one slave: its clocks, the updates its shard keeps, and whether it goes on.
//!
//! Invariants: updates of a clock reach the shard in one order (worker, sequence) and before anybody reads at a later
//! clock; once the run is cancelled, every wait in it ends; nobody uses a table before it is settled where all of them live.

use super::cache::Cache;
use super::gate::{Gate, Woken};
use super::state::State;
use super::sums::Sums;
use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, Ordering};
use crate::consistency::{Arrivals, Clocks, News, Pending, is_told};
use crate::kv::Shard;
use crate::stage::exchange::{Due, Need, Readable, Source, Told, Update, view};
use crate::stage::mark::{Mark, Marking};
use crate::stage::settled::Settled;
use flexps_common::announced::Touches;
use flexps_common::error::{Error, Result};
use flexps_common::experiment::Switch;
use flexps_common::ids::{SlaveId, StageRun};
use flexps_common::pace::Pace;
use flexps_common::plan::{Consistency, Rights};
use flexps_common::siblings::Siblings;
use flexps_common::wire::kv::Seen;
use flexps_common::worker::Place;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, oneshot};

/// Values that are applied sooner than another thread wakes for it.
const FEW: usize = 16 << 10;

/// A stage run.
pub struct Run {
    /// Which.
    pub id: StageRun,
    /// What its workers must see of one another.
    pub consistency: Consistency,
    /// What the workers here sum.
    pub siblings: Siblings,
    /// What they may touch.
    pub rights: Rights,
    /// Where they find the tables.
    pub settled: Settled,
    /// What they read of other slaves' shards, where that serves several of them: known when it is settled.
    cache: OnceLock<Option<Cache>>,
    /// What they add to these at the same clock.
    sums: OnceLock<Option<Sums>>,
    /// Whether they are to share the one, and the other.
    sharing: (Switch, bool),
    /// The other slaves that have workers, and which these are.
    others: Vec<(SlaveId, Range<u32>)>,
    pub(super) shard: Arc<Shard>,
    cancelled: AtomicBool,
    /// Wakes those who wait for that.
    ended: Notify,
    pub(super) state: Mutex<State>,
    /// By worker here: it may go on. Who sets it has taken it off `State::waits`.
    granted: Vec<AtomicBool>,
    /// Where they wait for that.
    gate: Gate,
    /// Nobody applies updates any more.
    pub(super) applied: Condvar,
}

impl Run {
    /// A run with `own` workers here and, on each of `others`, those of a range of the stage's workers; not settled yet.
    pub fn new(
        id: StageRun,
        consistency: Consistency,
        shard: Arc<Shard>,
        own: usize,
        others: impl IntoIterator<Item = (SlaveId, Range<u32>)>,
    ) -> Self {
        let others: Vec<_> = others.into_iter().collect();
        let clocks = Clocks::new(consistency, own, others.iter().map(|(slave, _)| *slave));
        let state = State {
            applied: clocks.due(),
            mark: Mark::new(clocks.due()),
            clocks,
            pending: Pending::default(),
            applying: false,
            error: None,
            lost: None,
            waits: vec![false; own],
            looked: (0, 0),
            arrivals: Arrivals::new(consistency, own),
            readers: Vec::new(),
            pace: Pace::default(),
        };
        let (cancelled, applied) = (AtomicBool::new(false), Condvar::new());
        let (siblings, state) = (Siblings::new(own), Mutex::new(state));
        let granted = (0..own).map(|_| AtomicBool::new(false)).collect();
        Self {
            id,
            consistency,
            siblings,
            rights: Rights::default(),
            settled: Settled::default(),
            cache: OnceLock::new(),
            sums: OnceLock::new(),
            sharing: (Switch::Auto, false),
            others,
            shard,
            cancelled,
            ended: Notify::new(),
            state,
            granted,
            gate: Gate::default(),
            applied,
        }
    }

    /// The same run, whose workers have these rights, and share what they read and add as a user asks for it.
    pub fn with(self, rights: Rights, cache: Switch, sums: bool) -> Self {
        Self { rights, sharing: (cache, sums), ..self }
    }

    /// The tables stay where the shard has them now. The workers here race for values if it is asked for and may be.
    pub fn settle(&self, races: bool) {
        let races = races && self.granted.len() > 1 && !self.has_others() && self.shard.may_race();
        let homes = self.shard.placements();
        let (model, workers, (cache, sums)) = (self.consistency, self.granted.len(), self.sharing);
        self.cache.get_or_init(|| Cache::asked(cache, model, workers, self.shard.specs(), &homes));
        self.sums.get_or_init(|| Sums::new(model, workers, self.shard.add_up(), &homes).filter(|_| sums));
        self.settled.settle(homes, races);
    }

    /// What the workers here share of other slaves' shards, once it is settled and where that serves several of them.
    pub fn cache(&self) -> Option<&Cache> {
        self.cache.get().and_then(Option::as_ref)
    }

    /// What they add to these in sums, where that is asked for.
    pub fn sums(&self) -> Option<&Sums> {
        self.sums.get().and_then(Option::as_ref)
    }

    /// An error once the run is cancelled.
    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Acquire) { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Waits until the run is cancelled.
    pub async fn cancelled(&self) -> Error {
        let mut ended = pin!(self.ended.notified());
        ended.as_mut().enable();
        if self.check().is_ok() {
            ended.await;
        }
        Error::cancelled()
    }

    /// Ends the run with `error`, unless it has one already: all waits end, all later calls fail.
    pub fn cancel(&self, error: Error) {
        self.fail(&mut self.state.lock(), error);
    }

    pub(super) fn fail(&self, state: &mut State, error: Error) {
        state.error.get_or_insert(error);
        self.cancelled.store(true, Ordering::Release);
        self.ended.notify_waiters();
        state.readers.clear();
        state.mark.give_up();
        self.siblings.end(Some(Error::cancelled()));
        self.settled.give_up();
        self.gate.open();
        self.cache().into_iter().for_each(Cache::wake);
    }

    /// Ends the run with an error if workers here wait for one another for ever.
    pub fn untangle(&self) {
        // Locked first: a clock of who waits in a sum stays as it is.
        let mut state = self.state.lock();
        if let Some(error) = state.tangled(&self.siblings.waiting()) {
            self.fail(&mut state, error);
        }
    }

    /// Why the run was cancelled, if it was.
    pub fn error(&self) -> Option<Error> {
        self.state.lock().error.clone()
    }

    /// Why requests of other slaves' workers fail once the run is cancelled.
    pub fn broken(&self) -> Error {
        self.state.lock().broken()
    }

    /// A worker here will touch these keys at `clock`, and no others.
    pub fn announce(&self, place: &Place, clock: u64, touches: Arc<Touches>) {
        let mut state = self.state.lock();
        state.clocks.announce(place.local_index, clock, touches);
        let woken = self.look(&mut state);
        drop((state, woken));
    }

    /// A worker here has announced its first keys, if it ever will. What the other slaves must hear of it.
    pub fn start(&self) -> Option<Told> {
        let mut state = self.state.lock();
        let news = state.clocks.start()?;
        Some(state.told_with(news))
    }

    /// A worker here ended an iteration, in which it sent other slaves so many updates. What these must hear of it, and
    /// who is to be woken then.
    pub fn tick(&self, place: &Place, sent: &[(SlaveId, u64)]) -> (Option<Told>, Woken<'_>) {
        self.step(place, sent, |clocks| clocks.tick(place.local_index))
    }

    /// A worker here ended, all of its updates being at their shards. What the other slaves must hear of it, and who is to
    /// be woken then.
    pub fn end(&self, place: &Place, sent: &[(SlaveId, u64)]) -> (Option<Told>, Woken<'_>) {
        self.step(place, sent, |clocks| clocks.end(place.local_index))
    }

    fn step(
        &self,
        place: &Place,
        sent: &[(SlaveId, u64)],
        step: impl FnOnce(&mut Clocks) -> Option<News>,
    ) -> (Option<Told>, Woken<'_>) {
        let mut state = self.state.lock();
        let clock = state.clocks.of(place.local_index);
        for (slave, count) in sent {
            state.arrivals.sent(place.local_index, *slave, clock, *count);
        }
        let news = step(&mut state.clocks).map(|news| state.told_with(news));
        (news, self.moved(&mut state))
    }

    /// Whether another slave must hear of this one's clocks.
    pub fn is_heard_by(&self, slave: SlaveId) -> bool {
        is_told(self.consistency, self.works_on(slave))
    }

    /// Whether another slave has workers.
    pub fn works_on(&self, slave: SlaveId) -> bool {
        self.others.iter().any(|(other, _)| *other == slave)
    }

    /// Whether reads may be sent before their clock may begin: shards answer them when it may.
    pub fn reads_early(&self) -> bool {
        self.has_others() && matches!(self.consistency, Consistency::Bsp | Consistency::Ssp { .. })
    }

    /// What this slave knows of, for a read of a worker here at the shard on `slave`: where its clock does not say what it
    /// must see, all clocks that have ended; else the worker's own updates, which SSP would not wait for, and where its
    /// siblings may read the same answer theirs too.
    pub fn seen(&self, place: &Place, slave: SlaveId) -> Seen {
        if !self.keeps_none() {
            return Seen::default();
        }
        let (state, first) = (self.state.lock(), place.index - place.local_index);
        let sparse = self.consistency.ahead().is_some();
        let all = sparse || self.cache().is_some_and(Cache::is_on);
        let of = |(worker, clock): (usize, &u64)| {
            let sent = state.arrivals.sent_by(worker, slave);
            (sent > 0 && (all || worker == place.local_index)).then_some(((first + worker) as u32, *clock, sent))
        };
        let workers = state.clocks.own().iter().enumerate().filter_map(of).collect();
        Seen { workers, slaves: if sparse { state.clocks.others().to_vec() } else { Vec::new() } }
    }

    /// Whether there are workers here.
    pub fn has_workers(&self) -> bool {
        !self.granted.is_empty()
    }

    /// Whether there are workers elsewhere.
    pub fn has_others(&self) -> bool {
        !self.others.is_empty()
    }

    /// A message of so many bytes was sent to another slave to tell of clocks.
    pub fn told(&self, bytes: usize) {
        let pace = &mut self.state.lock().pace;
        pace.control_messages += 1;
        pace.control_bytes += bytes as u64;
    }

    /// How the workers here kept in step so far; without what each of them waited.
    pub fn pace(&self) -> Pace {
        let state = self.state.lock();
        Pace { conflicts: state.clocks.conflicts(), ..state.pace.clone() }
    }

    /// Whether a worker here may start its next iteration; it then does.
    pub fn goes_on(&self, place: &Place) -> bool {
        self.state.lock().grant(place.local_index)
    }

    /// Waits until a worker here may start its next iteration.
    pub fn wait(&self, place: &Place) -> Result<()> {
        let (me, mut state) = (place.local_index, self.state.lock());
        self.check()?;
        if state.grant(me) {
            return Ok(());
        }
        state.waits[me] = true;
        drop(state);
        // Who grants has done all that is to be done: nobody who is woken needs the lock.
        self.gate.wait(|| match self.check() {
            Ok(()) => self.granted[me].swap(false, Ordering::Acquire).then_some(Ok(())),
            cancelled => Some(cancelled),
        })
    }

    /// Another slave told its news, and how many updates it has sent here below that clock. Whether anything is due at this
    /// shard: somebody must then call [`Run::apply_due`].
    pub fn heard(&self, slave: SlaveId, news: News, updates: u64) -> Due {
        let mut state = self.state.lock();
        let Some(news) = state.arrivals.heard(slave, news, updates) else { return Due::Nothing };
        state.clocks.heard(slave, news);
        if state.pending.is_empty() && !state.applying {
            let woken = self.moved(&mut state);
            drop((state, woken));
            return Due::Nothing;
        }
        let values: usize = state.pending.iter().flatten().map(|update| update.values.get().len()).sum();
        if state.applying || values > FEW { Due::Much } else { Due::Little }
    }

    /// Takes an update of another slave's worker to this slave's shard: at once, or when its clock is complete.
    pub fn add(&self, source: Source, update: Vec<Update>) -> Result<()> {
        self.check().map_err(|_| self.broken())?;
        self.take(source, update)?;
        let mut state = self.state.lock();
        if let Some((slave, _)) = self.others.iter().find(|(_, workers)| workers.contains(&source.worker)) {
            state.arrivals.arrived(*slave, source.worker, source.clock);
        }
        for (slave, news) in state.arrivals.complete() {
            state.clocks.heard(slave, news);
        }
        let woken = self.moved(&mut state);
        drop((state, woken));
        Ok(())
    }

    /// Takes an update of a worker here.
    pub fn add_own(&self, source: Source, update: Vec<Update>) -> Result<()> {
        self.check()?;
        self.take(source, update)?;
        let mut state = self.state.lock();
        let woken = self.moved(&mut state);
        drop((state, woken));
        Ok(())
    }

    fn take(&self, source: Source, update: Vec<Update>) -> Result<()> {
        if let [part] = &update[..]
            && self.keeps_none()
        {
            return self.apply(part);
        }
        // All of it or nothing.
        for part in &update {
            let values = part.values.get();
            self.shard.check(part.table, view(&part.keys), values.kind(), values.len())?;
        }
        let mut state = self.state.lock();
        // Under the lock under which it is kept: nobody looks for what is kept behind a run's end.
        if self.keeps_none() || source.clock < state.applied {
            drop(state);
            return update.iter().try_for_each(|part| self.apply(part));
        }
        state.pending.keep(source.clock, source.worker, source.sequence, update);
        Ok(())
    }

    /// Whether updates are applied at once in this run.
    pub fn keeps_none(&self) -> bool {
        self.consistency != Consistency::Bsp
    }

    /// Whether a read sees what it must.
    pub fn readable(&self, need: Need) -> Result<Readable> {
        let mut state = self.state.lock();
        // Under the lock: behind a cancel nobody would answer.
        self.check().map_err(|_| state.broken())?;
        if state.meets(&need) {
            return Ok(Readable::Now(state.clocks.least()));
        }
        let (send, receive) = oneshot::channel();
        state.readers.push((need, send));
        Ok(Readable::Later(receive))
    }

    /// Keeps the tables for a snapshot: at the boundary of clock `at` where updates are applied clock by clock, else now.
    pub fn mark(&self, snapshot: u64, at: Option<u64>) -> Result<Marking> {
        let mut state = self.state.lock();
        self.check()?;
        if self.settled.races() {
            return Err(Error::user("workers race for the model in this stage, so that no moment of it can be kept"));
        }
        if self.keeps_none() || state.mark.is_over() && !state.applying {
            self.shard.take_snapshot(snapshot);
            return Ok(Marking::Now);
        }
        let marking = state.mark.want(snapshot, at);
        self.advance(&mut state);
        Ok(marking)
    }

    /// Nobody gets the snapshot that is wanted of this run.
    pub fn give_up_mark(&self) {
        let mut state = self.state.lock();
        state.mark.give_up();
        let woken = self.moved(&mut state);
        drop((state, woken));
    }

    /// A clock moved: applies what is due, and lets those go on that now may.
    pub(super) fn moved(&self, state: &mut MutexGuard<'_, State>) -> Woken<'_> {
        self.advance(state);
        state.answer_readers();
        self.look(state)
    }

    /// Lets those go on that now may: no others are woken.
    fn look(&self, state: &mut State) -> Woken<'_> {
        let now = (state.clocks.least(), state.applied);
        // Keys matter under one model only.
        if std::mem::replace(&mut state.looked, now) == now && self.consistency.ahead().is_none() {
            return Woken(None);
        }
        let mut found = false;
        for worker in 0..state.waits.len() {
            if state.waits[worker] && state.grant(worker) {
                state.waits[worker] = false;
                self.granted[worker].store(true, Ordering::Release);
                found = true;
            }
        }
        Woken(found.then_some(&self.gate))
    }
}
