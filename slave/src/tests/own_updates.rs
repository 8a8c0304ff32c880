//! Update functions of a user's own that take long, or panic: what follows a stage waits for what is left of it, and nobody
//! else does.

use super::cluster::Cluster;
use flexps_common::error::{Error, Fault, Result};
use flexps_common::ids::{JobId, Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Plan, Storage, TableSpec};
use flexps_common::updates::Update;
use flexps_common::value::{Element, Type};
use flexps_common::wire::control::ToSlave;
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Owning {}

const ADDING: u32 = 0;
const CHECKING: u32 = 1;
const ENDLESS: u32 = 2;
const FALLING: u32 = 3;
const FALLING_LAST: u32 = 4;

const SLOW: TableId = TableId(0);
/// On the second of two slaves: so many that nobody applies them beside something else.
const KEYS: Range<Key> = 1 << 16..(1 << 16) + 20_000;
/// What an update of all of them takes.
const APPLYING: Duration = Duration::from_millis(1000);

/// Adds, and takes its time for a two.
#[derive(Clone)]
struct Slow;

impl Update for Slow {
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        if update[0].to_f64() >= 2.0 {
            std::thread::sleep(APPLYING);
        }
        current.iter_mut().zip(update).for_each(|(current, update)| *current = current.plus(*update));
    }
}

/// An update of all keys.
fn ones_and_a_two() -> Vec<f32> {
    KEYS.map(|key| if key + 1 == KEYS.end { 2.0 } else { 1.0 }).collect()
}

/// Falls at a two.
#[derive(Clone)]
struct Falling;

impl Update for Falling {
    fn apply<T: Element>(&self, _current: &mut [T], update: &[T]) {
        assert!(update[0].to_f64() < 2.0, "two is too much");
    }
}

const FELL: &str = "the update function of table falling panicked: two is too much";

impl Job for Owning {
    const NAME: &'static str = "owning";
    const ABOUT: &'static str = "Stages that run update functions of their own";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let [slow, falling] = ["slow", "falling"].map(|update| {
            plan.table_with::<f32>(TableSpec {
                name: update.into(),
                element: Type::F32,
                width: 1,
                storage: Storage::Dense,
                update: update.into(),
                update_params: Vec::new(),
            })
        });
        let keys: Vec<Key> = KEYS.collect();
        let of = keys.clone();
        plan.body.stage("adding", move |w| w.add(slow, &of, &ones_and_a_two()));
        let of = keys.clone();
        plan.body.stage("checking", move |w| {
            let mut out = Vec::new();
            w.get(slow, &of, &mut out)?;
            if out == ones_and_a_two() { Ok(()) } else { Err(Error::bug("what was left is not there")) }
        });
        plan.body.stage("endless", |w| {
            loop {
                w.clock()?;
            }
        });
        let add =
            move |w: &mut Worker<'_>, keys: &[Key], value: u32| w.add(falling, keys, &vec![value as f32; keys.len()]);
        let of = keys.clone();
        plan.body.stage("falling", move |w| {
            let mut out = Vec::new();
            (0..5).try_for_each(|clock| {
                w.get(falling, &of, &mut out)?;
                add(w, &of, clock)?;
                w.clock()
            })
        });
        plan.body.stage("falling last", move |w| add(w, &keys, 2));
        Ok(())
    }
}

async fn open(slaves: usize) -> Cluster {
    let registry = Registry::new().with::<Owning>();
    let registry = registry.update("slow", |_| Ok(Slow)).update("falling", |_| Ok(Falling));
    Cluster::open(registry, slaves, "owning", "{}").await
}

/// Two slaves, of which the second one has yet to apply what a stage has left.
async fn with_some_left() -> Cluster {
    let mut cluster = open(2).await;
    cluster.run(ADDING, &[1, 0]).await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slave_answers_while_it_applies_what_a_stage_has_left_and_the_next_one_sees_all_of_it() {
    let mut cluster = with_some_left().await;
    let begun = Instant::now();
    let run = cluster.launch(CHECKING, &[1, 1]).await;
    for _ in 0..3 {
        cluster.release(7).await;
    }
    assert!(begun.elapsed() < APPLYING / 2, "nobody answered for {:?}", begun.elapsed());
    for outcome in cluster.outcomes(run, &[1, 1]).await {
        assert_eq!(outcome.error, None);
    }
    assert!(begun.elapsed() > APPLYING / 2, "nothing was left");
    // The updates of the second one come where the first one is not applied.
    cluster.run(ADDING, &[1, 0]).await;
    cluster.run(ADDING, &[1, 0]).await;
    let three: Vec<f32> = ones_and_a_two().iter().map(|x| 3.0 * x).collect();
    assert!(cluster.read(SLOW, KEYS).await == three);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_has_yet_to_begin_can_be_cancelled_and_its_job_closed() {
    for close in [false, true] {
        let mut cluster = with_some_left().await;
        let begun = Instant::now();
        let run = cluster.launch(ENDLESS, &[1, 1]).await;
        if close {
            cluster.close().await;
        } else {
            cluster.cancel(run).await;
        }
        assert!(begun.elapsed() < APPLYING / 2, "nobody answered for {:?}", begun.elapsed());
        for outcome in cluster.outcomes(run, &[1, 1]).await {
            assert_eq!(outcome.error.unwrap().fault, Fault::Cancelled);
        }
        if !close {
            assert!(cluster.read(SLOW, KEYS).await == ones_and_a_two());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_hears_of_a_stage_that_can_not_begin_when_it_has_its_answer_already() {
    let mut cluster = with_some_left().await;
    let launch = cluster.next_launch(99, &[0, 0]);
    let run = launch.run;
    let answers = cluster.tell(&ToSlave::Launch(launch)).await;
    let refused = answers[0].as_ref().unwrap_err();
    assert!(refused.message.starts_with("stage 99 of a plan"), "{refused}");
    assert!(answers[1].is_ok());
    let (slave, _, outcome) = cluster.next_of(&[run]).await;
    assert_eq!(slave, cluster.peers[1].id);
    let error = outcome.error.unwrap();
    assert!(error.message.starts_with("slave s2 (h2): stage 99 of a plan"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_of_an_update_function_fails_its_stage_and_nobody_hangs() {
    for workers in [&[2][..], &[1, 1], &[1, 0], &[0, 1]] {
        let mut cluster = open(workers.len()).await;
        let run = cluster.launch(FALLING, workers).await;
        let error = cluster.next_outcome(run).await.error.unwrap();
        assert!(error.fault == Fault::Bug && error.message.contains(FELL), "{error}");
        // As the master does, for those who wait for one that has ended.
        cluster.cancel(run).await;
        for _ in workers.iter().filter(|n| **n > 0).skip(1) {
            assert!(cluster.next_outcome(run).await.error.is_some());
        }
        cluster.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_over_what_a_stage_has_left_is_an_error_of_what_follows_it() {
    let mut cluster = open(2).await;
    cluster.run(FALLING_LAST, &[1, 0]).await;
    let phase = cluster.phase.load(Ordering::Relaxed) + 1;
    let answers = cluster.tell(&ToSlave::Ops { job: JobId(1), phase, ops: Vec::new() }).await;
    assert!(answers[0].is_ok());
    let error = answers[1].as_ref().unwrap_err();
    assert!(error.fault == Fault::Bug && error.message.contains(FELL), "{error}");
    let launch = cluster.next_launch(CHECKING, &[1, 0]);
    let answers = cluster.tell(&ToSlave::Launch(launch)).await;
    assert!(answers[1].as_ref().unwrap_err().message.contains(FELL), "the slave with the updates knows of it");
    cluster.close().await;
}
