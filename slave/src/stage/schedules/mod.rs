//! What a stage run promises, under schedules that shuttle draws: at every lock, wait and message it decides who goes on.
//!
//! Three slaves with a shard each, two of them with workers; three workers add to a key of their own in all shards at each
//! clock, and read those of the others; news, and updates for other slaves, are on their way as threads of their own, so
//! that they overtake one another. Workers take part as the engine does: they tell of a clock while its updates are under
//! way, and a read at another slave waits until it may be answered there. A fault can be put in: each check must then fail,
//! or it checks nothing.
#![allow(clippy::duplicate_mod, reason = "here its means of waiting are other ones")]
#![allow(dead_code, reason = "what a schedule does not need")]

#[path = "../applying.rs"]
mod applying;
#[path = "../cache.rs"]
mod cache;
#[path = "../gate.rs"]
mod gate;
mod moves;
mod reading;
#[path = "../run.rs"]
mod run;
#[path = "../staging.rs"]
mod staging;
#[path = "../state.rs"]
mod state;
mod summing;
#[path = "../sums.rs"]
mod sums;
mod sync;

use crate::kv::{Keys, Room, Shard};
use crate::stage::exchange::{Due, Source, Told, Update};
use flexps_common::announced::Touches;
use flexps_common::error::Error;
use flexps_common::experiment::Switch;
use flexps_common::ids::{Key, SlaveId, StageRun, TableId};
use flexps_common::plan::{Consistency, Rights, Storage, TableSpec};
use flexps_common::value::{Type, Values, ValuesMut};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::lists;
use flexps_common::worker::{Place, Touch};
use run::Run;
use shuttle::thread;
use std::sync::{Arc, Mutex};

const TABLE: TableId = TableId(0);
/// Keys of a chunk of the table: each shard has one of the first.
const CHUNK: Key = 1 << 16;
/// One a slave.
const SHARDS: usize = 3;
/// Of each worker: its slave, and its place there.
const WORKERS: [(usize, usize); 3] = [(0, 0), (0, 1), (1, 0)];
const SCHEDULES: usize = 400;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A worker does not wait for its next clock.
    GoOn,
    /// A read at the other slave is answered at once.
    ReadEarly,
    /// Others hear of a clock, but not of its updates that are under way.
    TickEarly,
    /// A read overtakes the worker's own updates on their way to the same shard.
    Overtake,
    /// An update is lost on its way.
    Lose,
    /// An update is applied twice.
    Repeat,
    /// Workers announce keys that they don't touch.
    FalseKeys,
    /// Nobody is woken.
    Deaf,
    /// What was read before is read one clock too long.
    KeepLong,
    /// What was read before a worker's own updates is read behind them.
    KeepOwn,
    /// A read that siblings share does not wait for their updates.
    ReadAlone,
    /// Others hear of a clock, but not of the sums of its updates.
    SumLate,
}

#[derive(Clone, Copy)]
struct Case {
    model: Consistency,
    clocks: u64,
    fault: Fault,
    /// Somebody cancels the stage at any moment.
    cancelled: bool,
    /// Updates of siblings are summed before they are sent.
    sums: bool,
}

/// What really happened: looked at in between, since a schedule runs one thread at a time.
#[derive(Default)]
struct Seen {
    /// By worker: clocks that it has finished; none behind its end.
    clocks: [Option<u64>; 3],
    /// By worker and shard: a bit for each clock whose update was taken.
    taken: [[u32; SHARDS]; 3],
}

struct World {
    case: Case,
    shards: [Arc<Shard>; SHARDS],
    runs: [Run; SHARDS],
    seen: Mutex<Seen>,
}

/// Whether worker `worker` touches, at this clock, the key that several have in common.
fn meets(worker: usize, clock: u64) -> bool {
    worker != 1 && clock != 1
}

impl World {
    fn new(case: Case) -> Self {
        let spec = TableSpec {
            name: "t".into(),
            element: Type::F32,
            width: 1,
            storage: Storage::Dense,
            update: "add".into(),
            update_params: Vec::new(),
        };
        let shards = [0, 1, 2].map(|index| {
            let spec = std::slice::from_ref(&spec);
            Arc::new(Shard::new(spec, index, SHARDS, &Default::default(), &Room::unlimited()).unwrap())
        });
        let run = |here: usize| {
            let own = WORKERS.iter().filter(|(slave, _)| *slave == here).count();
            let others = [(0, 0..2), (1, 2..3)].into_iter().filter(|(slave, _)| *slave != here);
            let others = others.map(|(slave, workers)| (SlaveId(slave as u32), workers));
            let run = Run::new(StageRun(1), case.model, shards[here].clone(), own, others);
            let run = run.with(Rights::default(), Switch::Auto, case.sums);
            run.settle(false);
            run
        };
        let runs = [run(0), run(1), run(2)];
        let seen = Seen { clocks: [Some(0); 3], ..Seen::default() };
        Self { case, shards, runs, seen: Mutex::new(seen) }
    }

    fn place(worker: usize) -> Place {
        let (slave, local_index) = WORKERS[worker];
        let local_threads = WORKERS.iter().filter(|(other, _)| *other == slave).count();
        Place { index: worker, threads: WORKERS.len(), local_index, local_threads, slaves: 2, epoch: 0 }
    }

    /// Tells the other slaves, in whatever order.
    fn tell(self: &Arc<Self>, from: usize, told: Option<Told>) {
        let Some(Told { news, updates }) = told else { return };
        for to in others(from) {
            let (world, news) = (self.clone(), news.clone());
            let updates = updates.iter().find(|(slave, _)| *slave == SlaveId(to as u32)).map_or(0, |(_, count)| *count);
            thread::spawn(move || {
                let run = &world.runs[to];
                if run.heard(SlaveId(from as u32), news, updates) != Due::Nothing {
                    run.apply_due();
                }
            });
        }
    }

    fn announce(&self, worker: usize, clock: u64) {
        let place = Self::place(worker);
        let common = meets(worker, clock) && self.case.fault != Fault::FalseKeys;
        let keys: Vec<Key> = (0..Key::from(common)).map(|_| 9).chain([10 + worker as Key]).collect();
        let touches = Touches::new(&[Touch { tables: &[TABLE], keys: &keys }]).unwrap();
        self.runs[WORKERS[worker].0].announce(&place, clock, Arc::new(touches));
    }

    /// Takes an update of a worker to a shard. Whether it was taken.
    fn add(&self, shard: usize, worker: usize, clock: u64, sequence: u64) -> bool {
        let mut times = 1;
        match self.case.fault {
            Fault::Lose if clock + 1 == self.case.clocks => times = 0,
            Fault::Repeat if clock + 1 == self.case.clocks => times = 2,
            _ => {}
        }
        for again in 0..times {
            let mut body = BodyWriter::default();
            // A bit for each clock: a read shows which it has seen.
            body.values(Values::F32(&[(1 << clock) as f32]));
            let values = BodyReader::new(body.finish()).values(Type::F32, 1).unwrap();
            let key = worker as Key + shard as Key * CHUNK;
            let update = Update { table: TABLE, keys: lists::Keys::List(Arc::new(vec![key])), values };
            let source = Source { clock, worker: worker as u32, sequence: sequence + again };
            let run = &self.runs[shard];
            let own = WORKERS[worker].0 == shard;
            let taken = if own { run.add_own(source, vec![update]) } else { run.add(source, vec![update]) };
            if taken.is_err() {
                return false;
            }
        }
        self.seen.lock().unwrap().taken[worker][shard] |= 1 << clock;
        true
    }

    /// What a shard holds of each worker.
    fn values(&self, shard: usize) -> [f32; 3] {
        let mut out = [0.0; 3];
        let keys: Vec<Key> = (0..3).map(|worker| worker + shard as Key * CHUNK).collect();
        self.shards[shard].get(TABLE, Keys::List(&keys), ValuesMut::F32(&mut out)).unwrap();
        out
    }

    fn work(self: &Arc<Self>, worker: usize) -> Result<(), Error> {
        // Updates of ended clocks that are under way.
        let mut under_way = Vec::new();
        let result = self.clocks(worker, &mut under_way);
        under_way.into_iter().for_each(|update| drop(update.join()));
        result
    }

    fn clocks(self: &Arc<Self>, worker: usize, under_way: &mut Vec<thread::JoinHandle<bool>>) -> Result<(), Error> {
        let (here, place) = (WORKERS[worker].0, Self::place(worker));
        let run = &self.runs[here];
        let ahead = self.case.model.ahead();
        if let Some(ahead) = ahead {
            (0..=u64::from(ahead)).for_each(|clock| self.announce(worker, clock));
            self.tell(here, run.start());
        }
        let mut put_off = false;
        for clock in 0..self.case.clocks {
            // At other shards a read may wait for what this worker has yet to wait for; here it may not.
            for shard in others(here).chain([here]) {
                if shard == here {
                    arrive(under_way)?;
                    if std::mem::take(&mut put_off) {
                        run.wait(&place)?;
                    }
                    self.begins(worker, clock);
                }
                let values = if shard == here { self.values(shard) } else { self.read(worker, shard, clock)? };
                run.check()?;
                self.check_read(worker, shard, clock, values);
            }
            for shard in others(here).filter(|shard| !self.leave(worker, *shard, clock)) {
                let world = self.clone();
                under_way.push(thread::spawn(move || world.add(shard, worker, clock, 8 * clock + 2 * shard as u64)));
            }
            run.check()?;
            if !self.add(here, worker, clock, 8 * clock + 6) {
                return Err(Error::cancelled());
            }
            if let Some(ahead) = ahead {
                self.announce(worker, clock + 1 + u64::from(ahead));
            }
            self.seen.lock().unwrap().clocks[worker] = Some(clock + 1);
            let sent =
                u64::from(self.case.fault != Fault::TickEarly && self.send_sums(worker, clock, false, under_way));
            let (told, woken) =
                run.tick(&place, &others(here).map(|to| (SlaveId(to as u32), sent)).collect::<Vec<_>>());
            self.tell(here, told);
            drop(woken);
            if let Some(cache) = run.cache().filter(|_| self.case.fault != Fault::KeepOwn) {
                let keys: Vec<_> = others(here).map(|shard| [worker as Key + shard as Key * CHUNK]).collect();
                cache.ended(keys.iter().map(|keys| (TABLE, Keys::List(keys))));
            }
            put_off = self.case.fault != Fault::GoOn && !run.goes_on(&place);
            if put_off && !run.reads_early() {
                put_off = false;
                arrive(under_way)?;
                run.wait(&place)?;
            }
        }
        if std::mem::take(&mut put_off) {
            run.wait(&place)?;
        }
        self.send_sums(worker, self.case.clocks, true, under_way);
        arrive(under_way)?;
        self.seen.lock().unwrap().clocks[worker] = None;
        let (told, woken) = run.end(&place, &[]);
        self.tell(here, told);
        drop(woken);
        Ok(())
    }

    /// A worker begins a clock: nobody may be so far behind.
    fn begins(&self, worker: usize, clock: u64) {
        let seen = self.seen.lock().unwrap().clocks;
        for (other, behind) in seen.iter().enumerate().filter_map(|(other, clock)| Some((other, (*clock)?))) {
            let lead = clock.saturating_sub(behind);
            match self.case.model {
                Consistency::Bsp => assert!(lead == 0, "{lead} ahead under BSP at clock {clock}"),
                Consistency::Ssp { staleness } => {
                    assert!(lead <= staleness.into(), "{lead} ahead under SSP at clock {clock}");
                }
                Consistency::Asp => {}
                Consistency::SparseSsp { staleness, speculation } => {
                    assert!(
                        lead <= u64::from(staleness + speculation),
                        "{lead} ahead under SparseSSP at clock {clock}"
                    );
                    let first = behind..clock.saturating_sub(staleness.into());
                    let met = first.into_iter().find(|other_clock| meets(worker, clock) && meets(other, *other_clock));
                    assert!(met.is_none(), "at clock {clock} a key of clock {met:?} is touched beyond the staleness");
                }
            }
        }
    }

    fn check_read(&self, worker: usize, shard: usize, clock: u64, values: [f32; 3]) {
        for (other, value) in values.into_iter().enumerate() {
            for made in 0..self.case.clocks {
                let behind = |by: u32| made + u64::from(by) < clock;
                let must = match self.case.model {
                    _ if other == worker => made < clock,
                    Consistency::Bsp => made < clock,
                    Consistency::Ssp { staleness } => behind(staleness),
                    Consistency::Asp => false,
                    Consistency::SparseSsp { staleness, speculation } => {
                        let met = meets(worker, clock) && meets(other, made);
                        behind(staleness + speculation) || met && behind(staleness)
                    }
                };
                let may = self.case.model != Consistency::Bsp || made < clock;
                let sees = value as u32 & (1 << made) != 0;
                assert!(
                    sees || !must,
                    "worker {worker} reads nothing at shard {shard} of worker {other}'s clock {made} at clock {clock}"
                );
                assert!(may || !sees, "worker {worker} reads of worker {other}'s clock {made} at clock {clock}");
            }
        }
    }

    /// At the end: the shards hold what was taken, each update once.
    fn check_end(&self) {
        self.runs.iter().try_for_each(Run::finish).unwrap();
        let taken = self.seen.lock().unwrap().taken;
        for shard in 0..SHARDS {
            for (worker, value) in self.values(shard).into_iter().enumerate() {
                let taken = taken[worker][shard];
                assert!(value == taken as f32, "{taken:b} updates of worker {worker} were taken, {value} applied");
                assert!(self.case.cancelled || taken == (1 << self.case.clocks) - 1, "{taken:b} updates were taken");
            }
        }
    }
}

/// The slaves beside one.
fn others(here: usize) -> impl Iterator<Item = usize> {
    (0..SHARDS).filter(move |slave| *slave != here)
}

/// All updates are at their shards, unless the stage was cancelled; those that were not waited for are left.
fn arrive(under_way: &mut Vec<thread::JoinHandle<bool>>) -> Result<(), Error> {
    while let Some(update) = under_way.pop() {
        update.join().unwrap().then_some(()).ok_or_else(Error::cancelled)?;
    }
    Ok(())
}

/// Plays a case under random schedules, and under ones with few, but ill-chosen, switches.
fn explore(case: Case) {
    let play = move || {
        sync::SLEPT.set(0);
        sync::DEAF.set(case.fault == Fault::Deaf);
        let world = Arc::new(World::new(case));
        let work = |worker: usize| {
            let world = world.clone();
            thread::spawn(move || {
                let result = world.work(worker);
                assert!(result.is_ok() || case.cancelled, "{result:?}");
            })
        };
        let workers: Vec<_> = (0..WORKERS.len()).map(work).collect();
        if case.cancelled {
            let world = world.clone();
            let cancel = thread::spawn(move || world.runs.iter().for_each(|run| run.cancel(Error::cancelled())));
            cancel.join().unwrap();
        }
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        if case.model == Consistency::Asp {
            assert_eq!(sync::SLEPT.get(), 0, "an ASP worker waits");
        }
        world.check_end();
    };
    shuttle::check_random(play, SCHEDULES);
    shuttle::check_pct(play, SCHEDULES, 3);
}

fn case(model: Consistency, fault: Fault) -> Case {
    Case { model, clocks: 3, fault, cancelled: false, sums: false }
}

const SSP: Consistency = Consistency::Ssp { staleness: 1 };
const SPARSE: Consistency = Consistency::SparseSsp { staleness: 0, speculation: 2 };

#[test]
fn no_read_under_bsp_misses_an_update_of_the_clock_before() {
    explore(case(Consistency::Bsp, Fault::None));
}

#[test]
fn no_ssp_worker_is_ever_more_than_its_staleness_ahead() {
    explore(case(SSP, Fault::None));
    explore(case(Consistency::Ssp { staleness: 0 }, Fault::None));
}

#[test]
fn sparse_ssp_never_lets_two_workers_touch_the_same_key_beyond_the_staleness() {
    explore(case(SPARSE, Fault::None));
}

#[test]
fn asp_never_waits() {
    explore(case(Consistency::Asp, Fault::None));
}

#[test]
fn no_update_is_lost_or_applied_twice_and_nobody_hangs_whenever_a_stage_is_cancelled() {
    for model in [Consistency::Bsp, SSP, Consistency::Asp, SPARSE] {
        explore(Case { cancelled: true, ..case(model, Fault::None) });
    }
}

#[test]
#[should_panic(expected = "at clock")]
fn a_bsp_worker_that_does_not_wait_is_noticed() {
    explore(case(Consistency::Bsp, Fault::GoOn));
}

#[test]
#[should_panic(expected = "reads")]
fn a_read_that_is_answered_too_early_is_noticed() {
    explore(case(Consistency::Bsp, Fault::ReadEarly));
}

#[test]
#[should_panic(expected = "reads")]
fn a_read_under_sparse_ssp_that_does_not_say_what_its_slave_knows_of_is_noticed() {
    explore(case(SPARSE, Fault::Overtake));
}

#[test]
#[should_panic(expected = "reads")]
fn a_read_that_overtakes_the_workers_own_updates_is_noticed() {
    explore(case(SSP, Fault::Overtake));
}

#[test]
#[should_panic(expected = "reads")]
fn a_clock_that_ends_before_its_updates_arrived_is_noticed() {
    explore(case(Consistency::Bsp, Fault::TickEarly));
}

#[test]
#[should_panic(expected = "at clock")]
fn an_ssp_worker_that_does_not_wait_is_noticed() {
    explore(case(SSP, Fault::GoOn));
}

#[test]
#[should_panic(expected = "at clock")]
fn keys_that_were_not_announced_are_noticed() {
    explore(case(SPARSE, Fault::FalseKeys));
}

#[test]
fn a_lost_update_is_noticed() {
    let panic = std::panic::catch_unwind(|| explore(case(Consistency::Asp, Fault::Lose))).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    // By their number at the end, or before by a reader that waits for it for ever.
    assert!(text.contains("updates of worker") || text.contains("deadlock"), "{text}");
}

#[test]
#[should_panic(expected = "updates of worker")]
fn an_update_that_is_applied_twice_is_noticed() {
    explore(case(Consistency::Asp, Fault::Repeat));
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_worker_that_nobody_wakes_is_noticed() {
    explore(case(Consistency::Bsp, Fault::Deaf));
}
