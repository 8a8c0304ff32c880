//! The promises of BSP, SSP and ASP, on random interleavings of workers and messages.
//!
//! A world of slaves with a shard and workers each runs fixed programs; who acts next, and which clock message arrives
//! next, is drawn. A fault can be put into the world: each check must then fail, or it checks nothing.

use super::*;
use flexps_common::ids::SlaveId;
use flexps_common::plan::Consistency;
use proptest::prelude::*;
use std::cell::Cell;

thread_local! {
    /// Reads that found what was read before.
    static REUSED: Cell<u32> = const { Cell::new(0) };
}

/// How a world breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// A shard applies updates at once.
    ApplyEarly,
    /// A shard answers reads of later clocks.
    ReadEarly,
    /// A worker goes on one clock too early.
    GoOnEarly,
    /// A shard loses a due update.
    Lose,
    /// A shard applies a due update twice.
    Repeat,
    /// Due updates are applied in order of arrival.
    Unordered,
    /// What was read before is read one clock too long.
    KeepLong,
    /// What was read before a worker's own updates is read behind them.
    KeepOwn,
}

/// An update: its clock, its worker, its place among the worker's updates.
type Update = (u64, u32, u64);

#[derive(Debug, Clone, Copy)]
enum Action {
    Add { shard: usize },
    Get { shard: usize },
    Clock,
}

struct Slave {
    clocks: Clocks,
    pending: Pending<Update>,
    arrivals: Vec<Update>,
    applied: Vec<Update>,
    /// By shard: what a worker here has read of it, with its stamp.
    read: [Option<(u64, Vec<Update>)>; 3],
    /// Clocks that the workers here have ended together.
    ticks: u64,
    reuse: Option<Reuse>,
}

struct Worker {
    slave: usize,
    local: usize,
    program: Vec<Action>,
    at: usize,
    clock: u64,
    sequence: u64,
    waits: bool,
    ended: bool,
}

struct World {
    model: Consistency,
    fault: Fault,
    slaves: Vec<Slave>,
    workers: Vec<Worker>,
    /// (to, from, news), in any order.
    messages: Vec<(usize, usize, News)>,
}

/// What acts in drawn order.
pub trait Game {
    /// Workers, then messages; 0 when the game is over.
    fn actors(&self) -> usize;
    /// Whether one of them could act; it then has.
    fn act(&mut self, actor: usize) -> bool;
}

/// Plays to the end, in the order that `choices` draw; somebody must always be able to act.
pub fn play(game: &mut impl Game, choices: &[u16]) {
    for round in 0.. {
        let actors = game.actors();
        if actors == 0 {
            return;
        }
        let first = choices.get(round).map_or(0, |choice| usize::from(*choice)) + round;
        let moved = (0..actors).any(|i| game.act((first + i) % actors));
        assert!(moved, "nobody can go on");
    }
}

impl Game for World {
    fn actors(&self) -> usize {
        let over = self.messages.is_empty() && self.workers.iter().all(|w| w.ended);
        if over { 0 } else { self.workers.len() + self.messages.len() }
    }

    fn act(&mut self, actor: usize) -> bool {
        if actor < self.workers.len() {
            return self.step(actor);
        }
        self.deliver(actor - self.workers.len());
        true
    }
}

impl World {
    fn new(model: Consistency, fault: Fault, slaves: usize, programs: &[Vec<Action>]) -> Self {
        let per_slave = programs.len().div_ceil(slaves);
        let mut workers = Vec::new();
        for (index, program) in programs.iter().enumerate() {
            let (slave, local) = (index / per_slave, index % per_slave);
            let program = program.clone();
            workers.push(Worker { slave, local, program, at: 0, clock: 0, sequence: 0, waits: false, ended: false });
        }
        let with_workers: Vec<_> = (0..slaves).map(|s| workers.iter().filter(|w| w.slave == s).count()).collect();
        let slave = |s: usize| {
            let others = (0..slaves).filter(|o| *o != s && with_workers[*o] > 0).map(|o| SlaveId(o as u32));
            let clocks = Clocks::new(model, with_workers[s], others);
            let (pending, reuse) = (Pending::default(), Reuse::new(model, with_workers[s]));
            Slave {
                clocks,
                pending,
                arrivals: Vec::new(),
                applied: Vec::new(),
                read: Default::default(),
                ticks: 0,
                reuse,
            }
        };
        let slaves = (0..slaves).map(slave).collect();
        Self { model, fault, slaves, workers, messages: Vec::new() }
    }

    /// All updates that `shard` gets.
    fn expected(&self, shard: usize) -> Vec<Update> {
        let mut all = Vec::new();
        for (index, worker) in self.workers.iter().enumerate() {
            let (mut clock, mut sequence) = (0, 0);
            for action in &worker.program {
                match action {
                    Action::Clock => clock += 1,
                    Action::Add { shard: to } => {
                        if *to == shard {
                            all.push((clock, index as u32, sequence));
                        }
                        sequence += 1;
                    }
                    Action::Get { .. } => {}
                }
            }
        }
        all.sort_unstable();
        all
    }

    fn apply_due(&mut self, slave: usize) {
        let slave = &mut self.slaves[slave];
        let due = slave.clocks.due();
        let mut ready: Vec<_> = slave.pending.take_below(due).collect();
        match self.fault {
            Fault::Lose if ready.len() > 1 => drop(ready.pop()),
            Fault::Repeat if ready.len() > 1 => ready.push(ready[0]),
            Fault::Unordered => ready.sort_by_key(|u| slave.arrivals.iter().position(|a| a == u)),
            _ => {}
        }
        slave.applied.extend(ready);
    }

    fn tell(&mut self, from: usize, news: Option<News>) {
        let Some(news) = news else { return };
        self.messages.extend((0..self.slaves.len()).filter(|to| *to != from).map(|to| (to, from, news.clone())));
        self.apply_due(from);
    }

    /// Whether the worker could do its next step; does it if so.
    fn step(&mut self, index: usize) -> bool {
        let (slave, local) = (self.workers[index].slave, self.workers[index].local);
        if self.workers[index].ended {
            return false;
        }
        if self.workers[index].waits {
            let clocks = &mut self.slaves[slave].clocks;
            let early = self.fault == Fault::GoOnEarly && clocks.least() + 1 >= self.workers[index].clock;
            if !clocks.may_go_on(local) && !early {
                assert!(self.model != Consistency::Asp, "an ASP worker waits");
                return false;
            }
            self.workers[index].waits = false;
        }
        self.check_lead(index);
        let worker = &self.workers[index];
        let Some(action) = worker.program.get(worker.at).copied() else {
            self.workers[index].ended = true;
            let news = self.slaves[slave].clocks.end(local);
            self.tell(slave, news);
            return true;
        };
        let (clock, model) = (worker.clock, self.model);
        match action {
            Action::Add { shard } => {
                let update = (clock, index as u32, worker.sequence);
                self.workers[index].sequence += 1;
                let shard = &mut self.slaves[shard];
                shard.arrivals.push(update);
                if clock < shard.clocks.due() || self.fault == Fault::ApplyEarly {
                    shard.applied.push(update);
                } else {
                    shard.pending.keep(update.0, update.1, update.2, update);
                    // A message that arrives twice.
                    shard.pending.keep(update.0, update.1, update.2, update);
                }
            }
            Action::Get { shard } if self.reuses(index, shard) => {}
            Action::Get { shard } => {
                if model == Consistency::Bsp
                    && self.slaves[shard].clocks.due() < clock
                    && self.fault != Fault::ReadEarly
                {
                    return false;
                }
                let values = self.slaves[shard].applied.clone();
                self.check_read(index, shard, &values);
                let shown = self.slaves[shard].clocks.least();
                let reader = &mut self.slaves[slave];
                if let Some(rule) = reader.reuse.filter(|_| shard != slave) {
                    reader.read[shard] = Some((rule.stamp(shown, reader.ticks), values));
                }
            }
            Action::Clock => {
                let worker = &mut self.workers[index];
                (worker.clock, worker.waits) = (clock + 1, true);
                let news = self.slaves[slave].clocks.tick(local);
                assert_eq!(self.slaves[slave].clocks.of(local), clock + 1);
                self.slaves[slave].ticks += 1;
                self.forget_updated(index, clock);
                self.tell(slave, news);
            }
        }
        self.workers[index].at += 1;
        true
    }

    /// No SSP worker is more than its staleness ahead, no BSP worker ahead at all.
    fn check_lead(&self, index: usize) {
        let lead = match self.model {
            Consistency::Bsp => 0,
            Consistency::Ssp { staleness } => u64::from(staleness),
            _ => return,
        };
        let slowest = self.workers.iter().filter(|w| !w.ended).map(|w| w.clock).min().unwrap_or(0);
        let clock = self.workers[index].clock;
        assert!(clock <= slowest + lead, "a worker at clock {clock}, the slowest at {slowest}");
    }

    /// Whether what a worker's slave has read of a shard before serves the worker too; it then sees what it must.
    fn reuses(&self, index: usize, shard: usize) -> bool {
        let Worker { slave, clock, .. } = self.workers[index];
        let Slave { read, ticks, reuse, .. } = &self.slaves[slave];
        let (Some(rule), Some((stamp, values))) = (reuse, &read[shard]) else { return false };
        let longer = u64::from(self.fault == Fault::KeepLong);
        let serves = rule.serves(*stamp, clock.saturating_sub(longer), ticks.saturating_sub(longer));
        if serves {
            REUSED.set(REUSED.get() + 1);
            self.check_read(index, shard, values);
        }
        serves
    }

    /// A worker ended a clock: what was read before of shards that it updated is not read again.
    fn forget_updated(&mut self, index: usize, clock: u64) {
        for shard in (0..3).filter(|_| self.fault != Fault::KeepOwn) {
            let updates = |(of, by, _): &Update| *of == clock && *by == index as u32;
            if self.model != Consistency::Bsp && self.expected(shard).iter().any(updates) {
                self.slaves[self.workers[index].slave].read[shard] = None;
            }
        }
    }

    fn check_read(&self, index: usize, shard: usize, seen: &[Update]) {
        let clock = self.workers[index].clock;
        let expected = self.expected(shard);
        let own = |update: &Update| update.1 == index as u32 && update.0 < clock;
        let must: Vec<_> = match self.model {
            Consistency::Bsp => {
                let below: Vec<_> = expected.into_iter().filter(|u| u.0 < clock).collect();
                return assert_eq!(*seen, below, "a read at clock {clock}");
            }
            Consistency::Ssp { staleness } => {
                expected.into_iter().filter(|u| own(u) || u.0 + u64::from(staleness) < clock).collect()
            }
            _ => expected.into_iter().filter(own).collect(),
        };
        must.iter().for_each(|u| assert!(seen.contains(u), "a read at clock {clock} misses {u:?}"));
    }

    fn deliver(&mut self, message: usize) {
        let (to, from, news) = self.messages.swap_remove(message);
        self.slaves[to].clocks.heard(SlaveId(from as u32), news);
        self.apply_due(to);
    }

    /// Runs to the end, in the order that `choices` draw; then checks what the shards hold.
    fn run(mut self, choices: &[u16]) {
        play(&mut self, choices);
        for shard in 0..self.slaves.len() {
            assert!(self.slaves[shard].pending.is_empty(), "updates are left");
            let mut applied = self.slaves[shard].applied.clone();
            if self.model != Consistency::Bsp {
                applied.sort_unstable();
            }
            assert_eq!(applied, self.expected(shard), "shard {shard}");
        }
    }
}

fn programs() -> impl Strategy<Value = Vec<Vec<Action>>> {
    let action = prop_oneof![
        3 => (0usize..3).prop_map(|shard| Action::Add { shard }),
        3 => (0usize..3).prop_map(|shard| Action::Get { shard }),
        2 => Just(Action::Clock),
    ];
    proptest::collection::vec(proptest::collection::vec(action, 0..25), 1..7)
}

fn check(model: Consistency, fault: Fault) {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    let input = (programs(), proptest::collection::vec(any::<u16>(), 0..200));
    runner
        .run(&input, |(programs, choices)| {
            World::new(model, fault, 3, &programs).run(&choices);
            Ok(())
        })
        .unwrap();
}

#[test]
fn what_siblings_have_read_is_read_again_and_shows_what_it_must() {
    for model in [Consistency::Bsp, Consistency::Ssp { staleness: 2 }, Consistency::Asp] {
        REUSED.set(0);
        check(model, Fault::None);
        assert!(REUSED.get() > 100, "{} reads under {model:?}", REUSED.get());
    }
}

#[test]
#[should_panic(expected = "a read at clock")]
fn what_serves_one_clock_too_long_under_bsp_is_noticed() {
    check(Consistency::Bsp, Fault::KeepLong);
}

#[test]
#[should_panic(expected = "a read at clock")]
fn what_serves_one_clock_too_long_under_ssp_is_noticed() {
    check(Consistency::Ssp { staleness: 1 }, Fault::KeepLong);
}

#[test]
#[should_panic(expected = "a read at clock")]
fn what_hides_a_workers_own_update_is_noticed() {
    check(Consistency::Asp, Fault::KeepOwn);
}

#[test]
fn a_bsp_read_sees_all_updates_of_earlier_clocks_and_no_other() {
    check(Consistency::Bsp, Fault::None);
}

#[test]
fn no_ssp_worker_is_too_far_ahead_or_misses_an_old_update() {
    for staleness in [0, 1, 3] {
        check(Consistency::Ssp { staleness }, Fault::None);
    }
}

#[test]
fn an_asp_worker_never_waits_and_no_update_is_lost() {
    check(Consistency::Asp, Fault::None);
}

#[test]
#[should_panic(expected = "a read at clock")]
fn an_update_applied_before_its_clock_is_complete_is_noticed() {
    check(Consistency::Bsp, Fault::ApplyEarly);
}

#[test]
#[should_panic(expected = "a read at clock")]
fn a_read_answered_too_early_is_noticed() {
    check(Consistency::Bsp, Fault::ReadEarly);
}

#[test]
#[should_panic(expected = "the slowest at")]
fn a_bsp_worker_that_goes_on_too_early_is_noticed() {
    check(Consistency::Bsp, Fault::GoOnEarly);
}

#[test]
#[should_panic(expected = "the slowest at")]
fn an_ssp_worker_that_goes_on_too_early_is_noticed() {
    check(Consistency::Ssp { staleness: 0 }, Fault::GoOnEarly);
}

#[test]
#[should_panic(expected = "left == right")]
fn a_lost_update_is_noticed() {
    check(Consistency::Bsp, Fault::Lose);
}

#[test]
#[should_panic(expected = "left == right")]
fn an_update_applied_twice_is_noticed() {
    check(Consistency::Bsp, Fault::Repeat);
}

#[test]
#[should_panic(expected = "left == right")]
fn updates_applied_in_order_of_arrival_are_noticed() {
    check(Consistency::Bsp, Fault::Unordered);
}
