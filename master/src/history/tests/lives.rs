//! Histories of several masters.

use super::*;

#[test]
fn the_last_master_that_ended_a_job_is_found_and_what_is_left_out_is_counted() {
    let job = |id| Record::Job {
        at: 7.0,
        job: JobId(id),
        name: "lr".into(),
        scheduling: Scheduling::default(),
        token: None,
        detached: None,
    };
    let end = |id| Record::End { at: 8.0, job: JobId(id), state: State::Done, error: None };
    let first = records();
    // One without jobs, and one that ended before its job did.
    let (idle, busy) = (vec![begin(), slave(4)], vec![begin(), slave(5), job(3)]);
    assert_eq!(last(&[idle.clone(), busy.clone()].concat()), None);
    let all = [first.clone(), idle.clone(), busy.clone()].concat();
    assert_eq!(last(&all), Some(Last { earlier: &[], records: &first, jobs: 0, masters: 0 }));
    let second = [busy, vec![end(3), end(9)]].concat();
    let all = [first, idle.clone(), second.clone(), idle].concat();
    let earlier = &all[..all.len() - second.len() - 2];
    assert_eq!(last(&all), Some(Last { earlier, records: &second, jobs: 2, masters: 1 }));
}
