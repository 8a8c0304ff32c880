//! Over time: random stages come, run and end; nothing waits longer than the bound that the test computes.
//!
//! The bound: from the moment at which a stage's patience is at its end, those that stand before it at most are the ones
//! with reservations and the impatient that are older. Each of them, and then the stage itself, starts as soon as the
//! stages that run at that moment have ended, so after (ahead + 1) times the longest duration.

use super::*;
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;

/// A stage that will come.
#[derive(Debug, Clone)]
struct Coming {
    at: u64,
    length: u64,
    want: Want,
    priority: i32,
    owner: u32,
    estimated: bool,
}

fn coming(most: usize) -> impl Strategy<Value = Vec<Coming>> {
    let one = (0u64..60, 1u64..8, wants(), -2i32..3, 0u32..3, prop::bool::weighted(0.8));
    prop::collection::vec(one, 1..most).prop_map(|all| {
        let mut all: Vec<Coming> = all
            .into_iter()
            .map(|(at, length, want, priority, owner, estimated)| Coming {
                at,
                length,
                want,
                priority,
                owner,
                estimated,
            })
            .collect();
        all.sort_by_key(|c| c.at);
        all
    })
}

/// A stage of a job.
type Key = (JobId, u32);

/// When each stage started.
struct Played {
    started: BTreeMap<Key, u64>,
    /// When patience ended, and how many were ahead then.
    impatient: BTreeMap<Key, (u64, u64)>,
    /// Times at which reservations promised to begin, by what was known when they were made.
    promised: BTreeMap<Key, u64>,
}

/// A stage that runs: its end, which it is, its threads by slave.
type Run = (u64, Key, Vec<(SlaveId, u32)>);

/// Plays stages, so many in a row of one job, until all that can ever fit have ended; panics if that takes longer than
/// `until`.
fn play(
    policy: &dyn Policy,
    patience: Patience,
    sizes: &[u32],
    (stages, of_one): (&[Coming], u64),
    until: u64,
) -> Played {
    let mut board = Board::new(vec![Share::default(); 3]);
    for (id, size) in (1..).zip(sizes) {
        board.join(SlaveId(id), *size, u64::MAX);
    }
    let slaves: Vec<Slots> = board.slaves().to_vec();
    let all = list(&slaves);
    let fits = |want| !decide(&Greedy, &slaves, &[ready(1, want, &all)], &[]).placed.is_empty();
    let keys = (0..).map(|at: u64| (JobId(1 + at / of_one), (at % of_one) as u32));
    let mut coming: Vec<(Key, &Coming)> = keys.zip(stages).filter(|(_, c)| fits(c.want)).collect();
    coming.reverse();
    let lengths: FxHashMap<Key, u64> = coming.iter().map(|(key, c)| (*key, c.length)).collect();
    let mut left: FxHashMap<JobId, u32> = FxHashMap::default();
    coming.iter().for_each(|((job, _), _)| *left.entry(*job).or_default() += 1);
    let mut running: Vec<Run> = Vec::new();
    let mut played = Played { started: BTreeMap::new(), impatient: BTreeMap::new(), promised: BTreeMap::new() };
    for now in 0..=until {
        let time = Duration::from_secs(now);
        running.retain(|(end, (job, stage), _)| {
            if *end <= now {
                board.ended(*job, *stage, time).unwrap();
                *left.get_mut(job).unwrap() -= 1;
                if left[job] == 0 {
                    board.job_ended(*job);
                }
            }
            *end > now
        });
        while let Some(((job, place), c)) = coming.pop_if(|(_, c)| c.at <= now) {
            let mut stage = Ready { stage: place, ..ready(job.0, c.want, &all) };
            (stage.since, stage.priority, stage.owner) = (time, c.priority, c.owner);
            stage.estimate = c.estimated.then(|| Duration::from_secs(c.length));
            board.add(stage);
        }
        for (placement, stage) in board.decide(policy, time) {
            check_gang(&stage, &placement.workers, &slaves).unwrap();
            played.started.insert(stage.key(), now);
            running.push((now + lengths[&stage.key()], stage.key(), placement.workers));
        }
        for slave in board.slaves() {
            let there = running.iter().flat_map(|(_, _, workers)| workers).filter(|w| w.0 == slave.id);
            let used: u32 = there.map(|w| w.1).sum();
            assert!(used <= slave.slots && used == slave.slots - slave.free, "{used} threads on {slave:?}");
        }
        for r in board.reserved() {
            if let Some(at) = r.at {
                played.promised.entry((r.job, r.stage)).or_insert(at.as_secs());
            }
        }
        for r in board.waiting().iter().filter(|r| patience.is_over(r, time)) {
            let older = |o: &&Ready| patience.is_over(o, time) && (o.since, o.key()) < (r.since, r.key());
            let reserved = |o: &&Ready| board.reserved().iter().any(|x| (x.job, x.stage) == o.key());
            let ahead = board.waiting().iter().filter(|o| o.key() != r.key() && (older(o) || reserved(o))).count();
            played.impatient.entry(r.key()).or_insert((now, ahead as u64));
        }
        if coming.is_empty() && running.is_empty() && board.waiting().is_empty() {
            return played;
        }
    }
    panic!("after {until} s there wait still {:?}", board.waiting());
}

const PATIENCE: Patience = Patience { times: 3, time: Duration::from_secs(20) };

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_starves(
        sizes in prop::collection::vec(1u32..6, 1..5), stages in coming(60), which in 0usize..3, of_one in 1u64..4,
    ) {
        let policies: [&dyn Policy; 3] =
            [&Prioritized { patience: PATIENCE }, &Backfill { patience: PATIENCE }, &Fair { patience: PATIENCE }];
        let longest = stages.iter().map(|c| c.length).max().unwrap();
        let sum: u64 = stages.iter().map(|c| c.length).sum();
        let played = play(policies[which], PATIENCE, &sizes, (&stages, of_one), 60 + sum + longest);
        for (key, (at, ahead)) in &played.impatient {
            let started = played.started[key];
            prop_assert!(started <= at + (ahead + 1) * longest, "{key:?}: {at} {ahead} ahead, started {started}");
        }
    }

    #[test]
    fn all_policies_come_to_an_end(
        sizes in prop::collection::vec(1u32..6, 1..5), stages in coming(40), which in 0..POLICIES.len(), of_one in 1u64..4,
    ) {
        let sum: u64 = stages.iter().map(|c| c.length).sum();
        play(&*policy(POLICIES[which]).unwrap(), Patience::default(), &sizes, (&stages, of_one), 61 + sum);
    }

    #[test]
    fn a_reservation_is_honoured_at_its_time_or_before(
        sizes in prop::collection::vec(1u32..6, 1..5), mut stages in coming(60), prioritized in any::<bool>(),
        of_one in 1u64..4,
    ) {
        stages.iter_mut().for_each(|c| c.estimated = true);
        let sum: u64 = stages.iter().map(|c| c.length).sum();
        let policies: [&dyn Policy; 2] = [&Backfill { patience: PATIENCE }, &Prioritized { patience: PATIENCE }];
        let played = play(policies[usize::from(prioritized)], PATIENCE, &sizes, (&stages, of_one), 61 + sum);
        for (key, at) in &played.promised {
            prop_assert!(played.started[key] <= *at, "{key:?} was promised {at}, started {}", played.started[key]);
        }
    }
}

/// Narrow stages of high priority come without end; a wide one of low priority gets its turn under all policies that
/// promise it, and never under greedy.
#[test]
fn a_stream_of_narrow_stages_starves_a_wide_one_under_greedy_alone() {
    let mut stages = vec![Coming { at: 1, length: 5, want: Want::All, priority: -9, owner: 0, estimated: false }];
    for at in 0..600 {
        let want = Want::Spread { threads: 2, each: 0 };
        stages.push(Coming { at, length: 3, want, priority: 0, owner: 1, estimated: false });
    }
    stages.sort_by_key(|c| c.at);
    let wide = |policy: &dyn Policy| {
        let played = play(policy, PATIENCE, &[4, 4], (&stages, 1), 4000);
        played.started[&(JobId(2), 0)]
    };
    assert!(wide(&Greedy) >= 600, "{}", wide(&Greedy));
    for policy in [
        &Prioritized { patience: PATIENCE } as &dyn Policy,
        &Backfill { patience: PATIENCE },
        &Fair { patience: PATIENCE },
    ] {
        let started = wide(policy);
        assert!(started < 40, "{}: {started}", policy.name());
    }
}

#[test]
fn two_wide_jobs_at_once_never_deadlock() {
    for round in 0..100u32 {
        let wide = |at| {
            let want = Want::Spread { threads: 5 + round % 4, each: 0 };
            Coming { at, length: 2, want, priority: 0, owner: at as u32, estimated: round % 2 == 0 }
        };
        for name in POLICIES {
            let played = play(&*policy(name).unwrap(), Patience::default(), &[4, 4], (&[wide(0), wide(0)], 1), 4);
            assert_eq!(played.started.values().copied().collect::<Vec<_>>(), [0, 2], "{name}");
        }
    }
}
