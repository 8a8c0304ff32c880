//! One decision at a time: never oversold, whole gangs, the same answer twice, work conserved where that is promised, and
//! the fast paths agree with the plain way.

use super::*;

/// Want, priority, times passed over, which kind, memory.
type Case = (Want, i32, u32, u8, u64);

fn stages(wants: &[Case], slaves: &[Slots]) -> Vec<Ready> {
    let (all, some): (Arc<[SlaveId]>, Arc<[SlaveId]>) =
        (list(slaves), slaves.iter().step_by(2).map(|s| s.id).collect());
    let mut made = Vec::new();
    // Jobs of one ready stage, and of two.
    for ((want, priority, passed_over, kind, memory), at) in wants.iter().zip(0u32..) {
        let (job, stage) = (u64::from(1 + at / 3 * 2 + at % 3 / 2), u32::from(at % 3 == 1));
        let list = if kind % 3 == 0 { &some } else { &all };
        let near = (kind % 2 == 0).then(|| list.iter().rev().take(1).map(|id| (*id, Near::Data)).collect());
        let estimate = (kind % 4 != 0).then(|| Duration::from_secs(u64::from(*kind)));
        let (priority, passed_over, owner) = (*priority, *passed_over, u32::from(kind % 3));
        made.push(Ready {
            stage,
            priority,
            passed_over,
            owner,
            near,
            estimate,
            memory: *memory,
            ..ready(job, *want, list)
        });
    }
    made
}

fn cases() -> impl Strategy<Value = (Vec<Slots>, Vec<Case>)> {
    let sizes = prop::collection::vec((1u32..6, 0u32..6, 0u64..4), 1..6);
    let wants = prop::collection::vec((wants(), -2i32..3, 0u32..40, 0u8..12, 0u64..3), 0..10);
    (sizes, wants).prop_map(|(sizes, wants)| {
        let mut slaves = slots(&sizes.iter().map(|(s, f, _)| (*s, *f.min(s))).collect::<Vec<_>>());
        slaves.iter_mut().zip(&sizes).for_each(|(s, (_, _, memory))| s.memory = *memory);
        (slaves, wants)
    })
}

proptest! {
    #[test]
    fn slots_and_memory_are_never_oversold_and_a_gang_starts_whole_or_not(
        (slaves, wants) in cases(), which in 0..POLICIES.len(),
    ) {
        let stages = stages(&wants, &slaves);
        let decision = decide(&*policy(POLICIES[which]).unwrap(), &slaves, &stages, &[]);
        for slave in &slaves {
            let of = |p: &Placement| p.workers.iter().filter(|w| w.0 == slave.id).map(|w| w.1).sum::<u32>();
            let taken: u32 = decision.placed.iter().map(of).sum();
            prop_assert!(taken <= slave.free, "{taken} threads on {slave:?}");
            let there = decision.placed.iter().filter(|p| of(p) > 0);
            let memory: u64 = there.map(|p| stages.iter().find(|r| r.key() == (p.job, p.stage)).unwrap().memory).sum();
            prop_assert!(memory <= slave.memory, "{memory} bytes on {slave:?}");
            let held = decision.reserved.iter().flat_map(|r| &r.workers).filter(|w| w.0 == slave.id);
            let held: u32 = held.map(|w| w.1).sum();
            prop_assert!(held <= slave.slots, "{held} slots held on {slave:?}");
        }
        for p in &decision.placed {
            let stage = stages.iter().find(|r| r.key() == (p.job, p.stage)).unwrap();
            check_gang(stage, &p.workers, &slaves)?;
        }
        for r in &decision.reserved {
            let placed = decision.placed.iter().any(|p| (p.job, p.stage) == (r.job, r.stage));
            prop_assert!(!placed, "placed and held back at once");
        }
        let mut keys: Vec<_> = decision.placed.iter().map(|p| (p.job, p.stage)).collect();
        keys.sort();
        keys.dedup();
        prop_assert_eq!(keys.len(), decision.placed.len(), "a stage was placed twice");
    }

    #[test]
    fn the_same_view_gives_the_same_decision((slaves, wants) in cases(), which in 0..POLICIES.len()) {
        let policy = policy(POLICIES[which]).unwrap();
        // Lists at other addresses, so that nothing hangs on those.
        let decisions = [stages(&wants, &slaves), stages(&wants, &slaves)].map(|s| decide(&*policy, &slaves, &s, &[]));
        prop_assert_eq!(&decisions[0], &decisions[1]);
    }

    /// What a policy leaves, when it holds nothing back, does not fit into what it leaves free.
    #[test]
    fn no_stage_that_fits_is_left((slaves, wants) in cases(), which in 1..POLICIES.len()) {
        let stages = stages(&wants, &slaves);
        let decision = decide(&*policy(POLICIES[which]).unwrap(), &slaves, &stages, &[]);
        prop_assume!(decision.reserved.is_empty());
        let mut slaves = slaves;
        for p in &decision.placed {
            let memory = stages.iter().find(|r| r.key() == (p.job, p.stage)).unwrap().memory;
            for (id, n) in &p.workers {
                let slave = slaves.iter_mut().find(|s| s.id == *id).unwrap();
                slave.free -= n;
                slave.memory -= memory;
            }
        }
        for stage in stages.iter().filter(|r| decision.placed.iter().all(|p| (p.job, p.stage) != r.key())) {
            prop_assert!(decide(&Greedy, &slaves, std::slice::from_ref(stage), &[]).placed.is_empty(), "{stage:?}");
        }
    }

    /// The level by level search over the whole cluster against one thread at a time.
    #[test]
    fn threads_go_one_after_the_other_to_the_slave_with_the_fewest(
        free in prop::collection::vec(0u32..7, 1..80), threads in 1u32..200, near in 0usize..80, half in any::<bool>(),
    ) {
        let slaves = slots(&free.iter().map(|n| (7, *n)).collect::<Vec<_>>());
        let list: Arc<[SlaveId]> = slaves.iter().step_by(if half { 2 } else { 1 }).map(|s| s.id).collect();
        let near = list[near % list.len()];
        let mut stage = ready(1, Want::Spread { threads, each: 0 }, &list);
        stage.near = Some(Arc::new([(near, Near::Model)]));
        let own: Vec<&Slots> = slaves.iter().filter(|s| list.contains(&s.id)).collect();
        let mut counts = vec![0u32; own.len()];
        let mut fits = true;
        for _ in 0..threads {
            let best = (0..own.len()).filter(|i| counts[*i] < own[*i].free);
            let rank = |i: &usize| (counts[*i], own[*i].id != near, std::cmp::Reverse(own[*i].free), *i);
            match best.min_by_key(rank) {
                Some(best) => counts[best] += 1,
                None => fits = false,
            }
        }
        let expected: Vec<_> = own.iter().zip(counts).map(|(s, n)| (s.id, n)).filter(|w| w.1 > 0).collect();
        let placed = decide(&Greedy, &slaves, &[stage], &[]).placed;
        match placed.first() {
            Some(p) => prop_assert_eq!(&p.workers, &expected),
            None => prop_assert!(!fits),
        }
    }
}
