//! Workers of a slave that wait for one another, some in a sum, some for the end of a clock.

use super::cluster::Cluster;
use flexps_common::error::{Error, Fault, Result};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Consistency, Plan};
use serde::{Deserialize, Serialize};

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Tangling {}

/// Models, and how far ahead of another one a worker may be under them, to come to a sum.
const MODELS: [(Consistency, u32); 4] = [
    (Consistency::Bsp, 0),
    (Consistency::Ssp { staleness: 1 }, 1),
    // Keys that nobody announced meet.
    (Consistency::SparseSsp { staleness: 1, speculation: 1 }, 1),
    (Consistency::Asp, AHEAD),
];
/// Clocks that the second worker of each slave ends before it comes to the sum to which the first one has come.
const AHEAD: u32 = 4;

impl Job for Tangling {
    const NAME: &'static str = "tangling";
    const ABOUT: &'static str = "Stages whose second workers come to a sum some clocks later than the first ones";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        for (model, ahead) in MODELS.into_iter().flat_map(|(model, _)| (0..AHEAD).map(move |ahead| (model, ahead))) {
            let stage = plan.body.stage("some", move |worker| {
                if worker.place.local_index == 1 {
                    (0..ahead).try_for_each(|_| worker.clock())?;
                }
                let mut sum = [1.0f32];
                worker.sum_local(&mut sum)?;
                if sum == [2.0] { Ok(()) } else { Err(Error::bug(format!("a sum of {sum:?}"))) }
            });
            stage.consistency(model);
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_to_which_a_sibling_can_never_come_is_an_error_and_no_other_is() {
    let mut cluster = Cluster::open(Registry::new().with::<Tangling>(), 2, "tangling", "{}").await;
    for (at, (model, allowed)) in MODELS.into_iter().enumerate() {
        for ahead in 0..AHEAD {
            let run = cluster.launch(at as u32 * AHEAD + ahead, &[2, 2]).await;
            let first = cluster.next_outcome(run).await.error;
            if ahead > allowed {
                let error = first.expect("nobody can go on");
                assert!(error.fault == Fault::Bug && error.message.contains("waits in sum_local"), "{model}: {error}");
                cluster.cancel(run).await;
            } else {
                assert_eq!(first, None, "{model}, {ahead} ahead");
            }
            cluster.next_outcome(run).await;
        }
    }
}
