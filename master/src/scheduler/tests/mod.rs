//! Promises of all policies, by property, and of each, by example.

mod examples;
mod promises;
mod stream;

use super::*;
use flexps_common::ids::{JobId, SlaveId};
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

pub fn slots(free: &[(u32, u32)]) -> Vec<Slots> {
    let slot = |(id, (slots, free)): (u32, &(u32, u32))| Slots {
        id: SlaveId(id),
        slots: *slots,
        free: *free,
        cores: 3,
        memory: u64::MAX,
    };
    (1..).zip(free).map(slot).collect()
}

pub fn list(slaves: &[Slots]) -> Arc<[SlaveId]> {
    slaves.iter().map(|s| s.id).collect()
}

pub fn ready(job: u64, want: Want, slaves: &Arc<[SlaveId]>) -> Ready {
    Ready {
        job: JobId(job),
        stage: 0,
        priority: 0,
        owner: 0,
        since: Duration::from_secs(job),
        passed_over: 0,
        want,
        memory: 0,
        slaves: slaves.clone(),
        near: None,
        estimate: None,
    }
}

/// What a policy decides when nothing runs that it could know of.
pub fn decide(policy: &dyn Policy, slaves: &[Slots], ready: &[Ready], started: &[JobId]) -> Decision {
    let running = Runs::default();
    let now = Duration::from_secs(1000);
    policy.decide(&View { now, slaves, ready, started, running: &running, reserved: &[], shares: &[] })
}

pub fn wants() -> impl Strategy<Value = Want> {
    prop_oneof![
        (1u32..12, 0u32..2).prop_map(|(threads, each)| Want::Spread { threads, each }),
        (1u32..4, 0u32..8, 0u32..2).prop_map(|(least, more, each)| Want::Range { least, most: least + more, each }),
        (1u32..6).prop_map(Want::OneSlave),
        (1u32..4).prop_map(Want::PerSlave),
        Just(Want::All),
        Just(Want::Cores),
    ]
}

/// Fails unless the workers are what the stage wants: whole, and where it wants them.
pub fn check_gang(stage: &Ready, workers: &[(SlaveId, u32)], slaves: &[Slots]) -> Result<(), TestCaseError> {
    let total: u32 = workers.iter().map(|w| w.1).sum();
    let own: Vec<&Slots> = slaves.iter().filter(|s| stage.slaves.contains(&s.id)).collect();
    prop_assert!(workers.iter().all(|w| w.1 > 0 && stage.slaves.contains(&w.0)), "{workers:?} for {stage:?}");
    match stage.want {
        Want::Spread { threads, each } => {
            prop_assert_eq!(total, threads);
            prop_assert!(each == 0 || workers.len() == own.len());
        }
        Want::Range { least, most, each } => {
            prop_assert!(least <= total && total <= most);
            prop_assert!(each == 0 || workers.len() == own.len());
        }
        Want::OneSlave(n) => prop_assert!(workers.len() == 1 && total == n),
        Want::PerSlave(n) => prop_assert!(workers.len() == own.len() && workers.iter().all(|w| w.1 == n)),
        Want::All => prop_assert_eq!(total, own.iter().map(|s| s.slots).sum::<u32>()),
        Want::Cores => prop_assert_eq!(total, own.iter().map(|s| s.with_cores()).sum::<u32>()),
    }
    Ok(())
}
