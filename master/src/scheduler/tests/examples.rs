//! What each policy is known for, by example.

use super::*;

fn spread(threads: u32) -> Want {
    Want::Spread { threads, each: 0 }
}

#[test]
fn greedy_places_a_later_stage_that_fits_beside_an_earlier_one_that_does_not() {
    let slaves = slots(&[(4, 2), (4, 4)]);
    let all = list(&slaves);
    let stages = [ready(1, Want::All, &all), ready(2, Want::Spread { threads: 3, each: 1 }, &all)];
    let placed = decide(&Greedy, &slaves, &stages, &[]).placed;
    assert_eq!((placed.len(), placed[0].job), (1, JobId(2)));
}

#[test]
fn a_job_keeps_its_turn_while_it_is_opened() {
    for policy in POLICIES.map(|name| policy(name).unwrap()) {
        let mut board = Board::new(vec![Share::default()]);
        board.join(SlaveId(1), 4, u64::MAX);
        let all = list(board.slaves());
        let high = |stage| Ready { priority: 1, stage, ..ready(1, spread(3), &all) };
        (1..=3).for_each(|job| board.must_open(JobId(job)));
        let decide = |board: &mut Board| -> Vec<u64> {
            board.decide(&*policy, Duration::ZERO).iter().map(|(placement, _)| placement.job.0).collect()
        };
        board.add(high(0));
        assert_eq!(decide(&mut board), [1], "{}: it is opened", policy.name());
        board.add(ready(2, spread(2), &all));
        assert_eq!(decide(&mut board), [0; 0], "{}: three of four slots are the first one's", policy.name());
        board.add(high(0));
        assert_eq!(decide(&mut board), [1], "{}: it runs", policy.name());
        assert_eq!(board.slaves()[0].free, 1);
        board.add(ready(3, spread(1), &all));
        // Without an estimate nobody knows whether it would be in the way of the second.
        let beside = if ["sequential", "backfill"].contains(&policy.name()) { vec![] } else { vec![3] };
        assert_eq!(decide(&mut board), beside, "{}: what is left is for others", policy.name());
    }
}

#[test]
fn a_stage_with_fewer_threads_than_slaves_that_must_each_get_one_does_not_rule_out_one_with_enough() {
    let slaves = slots(&[(1, 1), (1, 1), (1, 1)]);
    let all = list(&slaves);
    let stages = [1u32, 3].map(|threads| ready(u64::from(threads), Want::Spread { threads, each: 1 }, &all));
    let placed = decide(&Greedy, &slaves, &stages, &[]).placed;
    assert_eq!((placed.len(), placed[0].job), (1, JobId(3)));
}

#[test]
fn threads_spread_evenly_over_the_slaves_of_the_job() {
    let slaves = slots(&[(8, 8), (8, 8), (8, 2)]);
    let stage = ready(1, Want::Spread { threads: 9, each: 1 }, &list(&slaves));
    let placed = decide(&Greedy, &slaves, &[stage], &[]).placed;
    assert_eq!(placed[0].workers, [(SlaveId(1), 4), (SlaveId(2), 3), (SlaveId(3), 2)]);
    assert_eq!(placed[0].why, Why::Balance);
}

#[test]
fn a_narrow_stage_goes_to_its_model_before_its_rows_before_the_emptiest_slave() {
    let slaves = slots(&[(4, 4), (4, 3), (4, 3)]);
    let mut stage = ready(1, spread(1), &list(&slaves));
    let why = |stage: &Ready| {
        let placed = decide(&Greedy, &slaves, std::slice::from_ref(stage), &[]).placed;
        (placed[0].workers[0].0, placed[0].why)
    };
    assert_eq!(why(&stage), (SlaveId(1), Why::Balance));
    stage.near = Some(Arc::new([(SlaveId(2), Near::Model), (SlaveId(3), Near::Data)]));
    assert_eq!(why(&stage), (SlaveId(2), Why::Near(Near::Model)));
    stage.want = Want::OneSlave(3);
    assert_eq!(why(&stage), (SlaveId(2), Why::Near(Near::Model)));
    stage.want = Want::OneSlave(4);
    assert_eq!(why(&stage), (SlaveId(1), Why::Balance));
}

#[test]
fn sequential_holds_the_second_job_until_the_first_has_ended() {
    let slaves = slots(&[(4, 4)]);
    let all = list(&slaves);
    let second = [ready(2, Want::All, &all)];
    assert!(decide(&Sequential, &slaves, &second, &[JobId(1)]).placed.is_empty());
    assert_eq!(decide(&Sequential, &slaves, &second, &[]).placed.len(), 1);
    assert_eq!(decide(&Sequential, &slaves, &second, &[JobId(2)]).placed.len(), 1);
}

#[test]
fn sequential_runs_independent_stages_of_one_job_side_by_side() {
    let slaves = slots(&[(4, 4)]);
    let all = list(&slaves);
    let stages =
        [ready(1, spread(2), &all), Ready { stage: 1, ..ready(1, spread(2), &all) }, ready(2, spread(1), &all)];
    let placed = decide(&Sequential, &slaves, &stages, &[]).placed;
    assert_eq!(placed.iter().map(|p| (p.job.0, p.stage)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
}

#[test]
fn prioritized_goes_by_priority_then_by_how_often_passed_over_then_by_age() {
    let slaves = slots(&[(1, 1)]);
    let all = list(&slaves);
    let mut stages = [ready(1, spread(1), &all), ready(2, spread(1), &all), ready(3, spread(1), &all)];
    let first = |stages: &[Ready]| decide(&Prioritized::default(), &slaves, stages, &[]).placed[0].job.0;
    stages.iter_mut().for_each(|s| s.since = Duration::from_secs(990));
    assert_eq!(first(&stages), 1);
    stages[2].passed_over = 1;
    assert_eq!(first(&stages), 3);
    stages[1].priority = 1;
    assert_eq!(first(&stages), 2);
}

#[test]
fn backfill_fills_the_hole_before_a_reservation_with_what_ends_in_time() {
    // One slot of four is busy until 1010; the wide stage is to start then.
    let slaves = slots(&[(4, 3)]);
    let all = list(&slaves);
    let run = Running {
        owner: 0,
        workers: vec![(SlaveId(1), 1)],
        memory: 0,
        since: Duration::ZERO,
        until: Some(Duration::from_secs(1010)),
    };
    let running: Runs = [((JobId(9), 0), run)].into();
    let lasting = |job, seconds| Ready { estimate: Some(Duration::from_secs(seconds)), ..ready(job, spread(1), &all) };
    let stages = [ready(1, Want::All, &all), lasting(2, 11), lasting(3, 10), ready(4, spread(1), &all)];
    let view = View {
        now: Duration::from_secs(1000),
        slaves: &slaves,
        ready: &stages,
        started: &[],
        running: &running,
        reserved: &[],
        shares: &[],
    };
    let decision = Backfill::default().decide(&view);
    assert_eq!(decision.placed.iter().map(|p| p.job.0).collect::<Vec<_>>(), [3]);
    assert_eq!(decision.reserved[0].job, JobId(1));
    assert_eq!(decision.reserved[0].at, Some(Duration::from_secs(1010)));
}

#[test]
fn what_was_held_while_other_slaves_were_there_is_held_no_longer() {
    let reserved = |workers: &[(u32, u32)]| Reservation {
        job: JobId(1),
        stage: 0,
        workers: workers.iter().map(|(id, n)| (SlaveId(*id), *n)).collect(),
        at: None,
    };
    let (now, running) = (Duration::from_secs(1000), Runs::default());
    let decide = |slaves: &[Slots], stage: Ready, reservation: Reservation, policy: &dyn Policy| {
        let (ready, reserved) = ([stage], [reservation]);
        policy.decide(&View {
            now,
            slaves,
            ready: &ready,
            started: &[],
            running: &running,
            reserved: &reserved,
            shares: &[],
        })
    };
    // The third is back, and busy.
    let busy = slots(&[(2, 2), (2, 2), (2, 0)]);
    let idle = slots(&[(2, 2), (2, 2), (2, 2)]);
    let two: Arc<[SlaveId]> = [SlaveId(1), SlaveId(2)].into();
    for name in POLICIES {
        let policy = &*policy(name).unwrap();
        for want in [Want::All, Want::PerSlave(2), Want::Cores, Want::Spread { threads: 5, each: 1 }] {
            let decision = decide(&busy, ready(1, want, &list(&busy)), reserved(&[(1, 2), (2, 2)]), policy);
            assert!(decision.placed.is_empty(), "{name}: {want:?} is placed at {:?}", decision.placed);
            assert!(decision.reserved.iter().all(|held| held.workers.len() == 3), "{name}: {:?}", decision.reserved);
        }
        let decision = decide(&idle, ready(1, spread(4), &two), reserved(&[(1, 2), (3, 2)]), policy);
        assert_eq!(decision.placed[0].workers, [(SlaveId(1), 2), (SlaveId(2), 2)], "{name}");
    }
}

#[test]
fn fair_gives_slots_by_weight() {
    let slaves = slots(&[(9, 9)]);
    let all = list(&slaves);
    let stages: Vec<Ready> = (1..40)
        .map(|job| Ready { owner: u32::from(job > 20), since: Duration::from_secs(999), ..ready(job, spread(1), &all) })
        .collect();
    let shares = [Share::default(), Share { weight: 2.0, ..Share::default() }];
    let (now, running) = (Duration::from_secs(1000), Runs::default());
    let view =
        View { now, slaves: &slaves, ready: &stages, started: &[], running: &running, reserved: &[], shares: &shares };
    let placed = Fair::default().decide(&view).placed;
    assert_eq!(placed.iter().filter(|p| p.job.0 <= 20).count(), 3);
    assert_eq!(placed.len(), 9);
}

#[test]
fn an_unknown_policy_is_refused_with_the_known_names() {
    let error = policy("magic").err().unwrap();
    assert!(error.message.contains("'magic'") && error.message.contains("prioritized"), "{error}");
}
