//! The promises of SparseSSP, on random interleavings of workers and messages.
//!
//! A world of slaves with workers, each of which touches drawn keys at each clock; who acts next, and which message
//! arrives next, is drawn. A fault can be put into the world: the checks must then fail, or they check nothing.

use super::tests::{Game, play};
use super::*;
use flexps_common::announced::Touches;
use flexps_common::ids::{Key, SlaveId, TableId};
use flexps_common::plan::Consistency;
use flexps_common::worker::Touch;
use proptest::prelude::*;
use std::sync::Arc;

/// How a world breaks the rules.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Workers announce other keys than they touch.
    FalseKeys,
    /// Keys of other slaves arrive as none.
    LostKeys,
    /// A worker goes on one clock beyond the speculation.
    GoOnEarly,
}

#[derive(Debug, Clone)]
struct Worker {
    slave: usize,
    local: usize,
    /// Keys of each of its clocks.
    program: Vec<Vec<Key>>,
    clock: usize,
    /// Clocks below this one were announced.
    announced: usize,
    /// Whether it has yet to be let into its clock.
    waits: bool,
    ended: bool,
}

struct World {
    staleness: u32,
    speculation: u32,
    fault: Fault,
    slaves: Vec<Clocks>,
    workers: Vec<Worker>,
    messages: Vec<(usize, usize, News)>,
    /// Clocks begun further ahead than the staleness.
    ahead: usize,
}

impl Game for World {
    fn actors(&self) -> usize {
        // Messages that nobody waits for any more may stay under way.
        let over = self.workers.iter().all(|w| w.ended);
        if over { 0 } else { self.workers.len() + self.messages.len() }
    }

    fn act(&mut self, actor: usize) -> bool {
        let Some(message) = actor.checked_sub(self.workers.len()) else { return self.step(actor) };
        let (to, from, news) = self.messages.swap_remove(message);
        self.slaves[to].heard(SlaveId(from as u32), news);
        true
    }
}

fn touches(keys: &[Key]) -> Arc<Touches> {
    Arc::new(Touches::new(&[Touch { tables: &[TableId(0)], keys }]).unwrap())
}

impl World {
    fn new(bounds: (u32, u32), fault: Fault, slaves: usize, programs: &[Vec<Vec<Key>>]) -> Self {
        let (staleness, speculation) = bounds;
        let per_slave = programs.len().div_ceil(slaves);
        let worker = |(index, program): (usize, &Vec<Vec<Key>>)| Worker {
            slave: index / per_slave,
            local: index % per_slave,
            program: program.clone(),
            clock: 0,
            announced: 0,
            waits: false,
            ended: false,
        };
        let workers: Vec<_> = programs.iter().enumerate().map(worker).collect();
        let on = |slave: usize| workers.iter().filter(|w| w.slave == slave).count();
        let model = Consistency::SparseSsp { staleness, speculation };
        let clocks = |slave: usize| {
            let others = (0..slaves).filter(|other| *other != slave && on(*other) > 0);
            Clocks::new(model, on(slave), others.map(|other| SlaveId(other as u32)))
        };
        let slaves = (0..slaves).map(clocks).collect();
        let mut world = Self { staleness, speculation, fault, slaves, workers, messages: Vec::new(), ahead: 0 };
        for worker in 0..world.workers.len() {
            world.announce(worker);
            let slave = world.workers[worker].slave;
            let news = world.slaves[slave].start();
            world.tell(slave, news);
        }
        world
    }

    /// Announces what the worker has yet to announce of its next clocks.
    fn announce(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        let to = worker.program.len().min(worker.clock + 1 + self.speculation as usize);
        for clock in worker.announced..to {
            let keys = if self.fault == Fault::FalseKeys { &vec![100 + index as Key] } else { &worker.program[clock] };
            self.slaves[worker.slave].announce(worker.local, clock as u64, touches(keys));
        }
        worker.announced = to;
    }

    fn tell(&mut self, from: usize, news: Option<News>) {
        let Some(mut news) = news else { return };
        if self.fault == Fault::LostKeys {
            news.keys.iter_mut().for_each(|(_, keys)| *keys = touches(&[]));
        }
        self.messages.extend((0..self.slaves.len()).filter(|to| *to != from).map(|to| (to, from, news.clone())));
    }

    /// What the worker, now at a clock, may not do without: unfinished clocks of others more than the staleness below
    /// its own that touch its keys.
    fn needed(&self, index: usize) -> Vec<(usize, usize)> {
        let worker = &self.workers[index];
        let Some(mine) = worker.program.get(worker.clock) else { return Vec::new() };
        let others = self.workers.iter().enumerate().filter(|(other, w)| *other != index && !w.ended);
        let unfinished = others.flat_map(|(other, w)| {
            let below = worker.clock.saturating_sub(self.staleness as usize);
            (w.clock..below).map(move |clock| (other, clock))
        });
        let meets = |(other, clock): &(usize, usize)| match self.workers[*other].program.get(*clock) {
            Some(theirs) => theirs.iter().any(|key| mine.contains(key)),
            // Its last clock, in which it touches nothing any more.
            None => false,
        };
        unfinished.filter(meets).collect()
    }

    fn lead(&self, index: usize) -> usize {
        let slowest = self.workers.iter().filter(|w| !w.ended).map(|w| w.clock).min().unwrap_or(0);
        self.workers[index].clock - slowest
    }

    /// Whether the worker could do its next step; does it if so.
    fn step(&mut self, index: usize) -> bool {
        let Worker { slave, local, waits, ended, clock, .. } = self.workers[index];
        if ended {
            return false;
        }
        if waits {
            let clocks = &mut self.slaves[slave];
            let (mut other, least) = (clocks.clone(), clocks.least());
            let waits_for = other.waits_for(local);
            let may = clocks.may_go_on(local);
            assert_eq!(may, waits_for.is_empty(), "it waits for {waits_for:?} and may go on: {may}");
            if self.speculation == 0 {
                assert_eq!(may, least + u64::from(self.staleness) >= clock as u64, "with speculation 0 it is not SSP");
            }
            let early = self.fault == Fault::GoOnEarly
                && least + u64::from(self.staleness + self.speculation) + 1 >= clock as u64;
            if !may && !early {
                return false;
            }
            self.workers[index].waits = false;
            let lead = self.lead(index);
            let most = (self.staleness + self.speculation) as usize;
            assert!(lead <= most, "{lead} clocks ahead, {most} are allowed");
            let needed = self.needed(index);
            assert!(needed.is_empty(), "at clock {clock} it needs {needed:?}");
            self.ahead += usize::from(lead > self.staleness as usize);
        }
        let done = self.workers[index].clock >= self.workers[index].program.len();
        let news = if done {
            self.workers[index].ended = true;
            self.slaves[slave].end(local)
        } else {
            self.workers[index].clock += 1;
            self.workers[index].waits = true;
            let news = self.slaves[slave].tick(local);
            self.announce(index);
            news
        };
        self.tell(slave, news);
        true
    }

    /// Runs to the end, in the order that `choices` draw; how many clocks were begun further ahead than the staleness.
    fn run(mut self, choices: &[u16]) -> usize {
        play(&mut self, choices);
        self.ahead
    }
}

/// Workers of up to 14 clocks that touch up to 3 of 12 keys in each.
fn programs() -> impl Strategy<Value = Vec<Vec<Vec<Key>>>> {
    let keys = prop::collection::btree_set(0u32..12, 0..4).prop_map(|keys| keys.into_iter().collect());
    prop::collection::vec(prop::collection::vec(keys, 0..14), 1..7)
}

/// Runs many worlds; how many clocks were begun further ahead than the staleness.
fn check(bounds: (u32, u32), fault: Fault, slaves: usize) -> usize {
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    });
    let ahead = std::cell::Cell::new(0);
    let input = (programs(), prop::collection::vec(any::<u16>(), 0..300));
    runner
        .run(&input, |(programs, choices)| {
            ahead.set(ahead.get() + World::new(bounds, fault, slaves, &programs).run(&choices));
            Ok(())
        })
        .unwrap();
    ahead.get()
}

#[test]
fn no_worker_goes_beyond_its_bounds_or_meets_an_unfinished_clock_and_somebody_always_goes_on() {
    for slaves in [1, 2, 3] {
        for bounds in [(0, 1), (0, 4), (1, 3), (2, 6)] {
            let ahead = check(bounds, Fault::None, slaves);
            assert!(ahead > 50, "{slaves} slaves, {bounds:?}: only {ahead} clocks were begun ahead");
        }
    }
}

#[test]
fn with_speculation_0_it_is_ssp() {
    for staleness in [0, 1, 3] {
        assert_eq!(check((staleness, 0), Fault::None, 2), 0);
    }
}

#[test]
#[should_panic(expected = "it needs")]
fn keys_that_are_not_those_announced_are_noticed() {
    check((0, 4), Fault::FalseKeys, 1);
}

#[test]
#[should_panic(expected = "it needs")]
fn keys_that_get_lost_between_slaves_are_noticed() {
    check((0, 4), Fault::LostKeys, 3);
}

#[test]
#[should_panic(expected = "are allowed")]
fn a_worker_beyond_its_speculation_is_noticed() {
    // Without keys nothing else holds anybody.
    let world = World::new((1, 2), Fault::GoOnEarly, 1, &[vec![vec![]; 9], vec![vec![]; 9]]);
    // The first worker acts as long as it may.
    world.run(&(0..100).map(|round| round % 2).collect::<Vec<_>>());
}

/// Clocks of one slave, with these keys of the workers' first clocks.
fn clocks(programs: &[&[&[Key]]], others: &[u32]) -> Clocks {
    let model = Consistency::SparseSsp { staleness: 1, speculation: 3 };
    let mut clocks = Clocks::new(model, programs.len(), others.iter().map(|other| SlaveId(*other)));
    for (worker, program) in programs.iter().enumerate() {
        for (clock, keys) in (0..).zip(*program) {
            clocks.announce(worker, clock, touches(keys));
        }
    }
    clocks
}

#[test]
fn a_worker_waits_for_exactly_the_clocks_whose_keys_it_meets() {
    let mut clocks = clocks(&[&[&[], &[], &[], &[], &[7]], &[&[7], &[3], &[7], &[7]], &[&[1], &[8, 9], &[2, 7]]], &[]);
    (0..4).for_each(|_| drop(clocks.tick(0)));
    // At clock 4: clocks 0 to 2 count, clock 3 is within the staleness.
    let of = |worker, clock| (Party::Worker(worker), clock);
    assert_eq!(clocks.waits_for(0), [of(1, 0), of(1, 2), of(2, 2)]);
    clocks.tick(1);
    assert_eq!(clocks.waits_for(0), [of(1, 2), of(2, 2)]);
    (0..3).for_each(|_| drop(clocks.tick(2)));
    clocks.tick(1);
    assert!(!clocks.may_go_on(0));
    clocks.tick(1);
    assert!(clocks.may_go_on(0));
    assert_eq!(clocks.conflicts(), 3);
}

#[test]
fn a_clock_that_nobody_announced_meets_all_others_until_it_is_announced() {
    let mut clocks = clocks(&[&[&[], &[], &[5]], &[]], &[]);
    (0..2).for_each(|_| drop(clocks.tick(0)));
    assert_eq!(clocks.waits_for(0), [(Party::Worker(1), 0)]);
    clocks.announce(1, 0, touches(&[6]));
    assert!(clocks.may_go_on(0));
}

#[test]
fn other_slaves_hear_the_keys_of_unfinished_clocks_once_and_only_those_that_count() {
    let mut clocks = clocks(&[&[&[1], &[2], &[3], &[4], &[5]], &[&[1, 9], &[2], &[8]]], &[7]);
    assert_eq!(clocks.start(), None);
    let first = clocks.start().unwrap();
    assert_eq!(first, News { clock: 0, keys: vec![(0, touches(&[1, 9])), (1, touches(&[2])), (2, touches(&[3, 8]))] });
    (0..3).for_each(|_| assert_eq!(clocks.tick(0), None));
    // Clock 3 of worker 1 is not announced: nothing new.
    assert_eq!(clocks.tick(1), Some(News { clock: 1, keys: vec![] }));
    clocks.announce(1, 3, touches(&[6]));
    assert_eq!(clocks.tick(0), None);
    // Worker 0 has finished clock 3, but others don't hear of that; worker 1 has yet to announce clock 4.
    assert_eq!(clocks.tick(1), Some(News { clock: 2, keys: vec![(3, touches(&[4, 6]))] }));
    assert_eq!(clocks.end(1), Some(News { clock: 4, keys: vec![(4, touches(&[5]))] }));
    assert_eq!(clocks.end(0), Some(News { clock: ENDED, keys: vec![] }));
}

#[test]
fn a_message_to_other_slaves_has_bounded_keys_and_a_clock_with_more_is_waited_for() {
    let large: Vec<Key> = (0..700_000).collect();
    let too_large: Vec<Key> = (0..(1 << 20) + 1).collect();
    let mut clocks = clocks(&[&[&large, &large, &too_large, &[1]]], &[7]);
    let told = |news: Option<News>| news.unwrap().keys.iter().map(|(clock, _)| *clock).collect::<Vec<_>>();
    assert_eq!(told(clocks.start()), [0]);
    assert_eq!(told(clocks.tick(0)), [1, 3]);
}
