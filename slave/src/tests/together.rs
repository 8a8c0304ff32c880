//! Stages of one job side by side: what they leave, and how one ends without the other.

use super::cluster::{Cluster, LIMIT};
use flexps_common::error::{Error, Fault, Result};
use flexps_common::ids::{JobId, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Plan, Table};
use flexps_common::wire::control::ToSlave;
use flexps_common::wire::snapshot::Marked;
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Clocks of a worker.
const CLOCKS: u64 = 20;

const LEFT: u32 = 0;
const RIGHT: u32 = 1;
const SUM: u32 = 2;
const LIAR: u32 = 3;

const A: TableId = TableId(0);
const B: TableId = TableId(1);

/// Two stages that each update a table of their own and read a third, one that adds both up, and one that lies.
#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Pair {
    /// Whether the two wait for one another, as they can only side by side.
    #[arg(long)]
    meet: bool,
    /// Whether they go on until they are cancelled, as soon as they have met.
    #[arg(long)]
    endless: bool,
}

static MET: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

impl Job for Pair {
    const NAME: &'static str = "pair";
    const ABOUT: &'static str = "Stages side by side";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let tables = ["a", "b"].map(|name| plan.table::<f32>(name, 1));
        let shared = plan.table::<f32>("shared", 1);
        let own = self.clone();
        let both = move |side: usize| {
            let own = own.clone();
            move |w: &mut Worker<'_>| own.work(w, side, tables[side], shared)
        };
        let [a, b] = tables;
        plan.body.together(|group| {
            group.stage("left", both(0)).updates(a).reads(shared);
            group.stage("right", both(1)).updates(b).reads(shared);
            group.stage("sum", move |w| sum(w, a, b)).reads(a).updates(b).after(&["left", "right"]);
            group.stage("liar", move |w| w.get(a, &[1], &mut Vec::new())).updates(shared).after(&["sum"]);
        });
        Ok(())
    }
}

/// Keys in chunks of all shards.
fn spread() -> Vec<u32> {
    (0..200).map(|i| i * 7919).collect()
}

impl Pair {
    /// Adds, once a clock, what depends on all that was added before, in floats: whoever sees more or less, or in another
    /// order, gets other bits.
    fn work(&self, w: &mut Worker<'_>, side: usize, own: Table<f32>, shared: Table<f32>) -> Result<()> {
        let (keys, mut seen, mut base) = (spread(), Vec::new(), Vec::new());
        if self.meet {
            MET[side].fetch_add(1, Ordering::SeqCst);
            let until = Instant::now() + LIMIT;
            while MET[1 - side].load(Ordering::SeqCst) == 0 {
                w.check()?;
                if Instant::now() > until {
                    return Err(Error::bug("the other stage does not run beside this one"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if self.endless && side == 0 {
            loop {
                w.clock()?;
            }
        }
        for clock in 0..CLOCKS {
            w.get(own, &keys, &mut seen)?;
            w.get(shared, &keys, &mut base)?;
            let by = 0.1 * (w.place.index + 1 + side) as f32 + clock as f32 / 7.0;
            let added: Vec<f32> = seen.iter().zip(&base).map(|(x, base)| base + by - x / 3.0).collect();
            w.add(own, &keys, &added)?;
            w.clock()?;
        }
        Ok(())
    }
}

fn sum(w: &mut Worker<'_>, a: Table<f32>, b: Table<f32>) -> Result<()> {
    let (keys, mut values) = (spread(), Vec::new());
    w.get(a, &keys, &mut values)?;
    w.add(b, &keys, &values)
}

async fn open(meet: bool, endless: bool) -> Cluster {
    let params = serde_json::to_string(&Pair { meet, endless }).unwrap();
    Cluster::open(Registry::new().with::<Pair>(), 3, "pair", &params).await
}

/// The values of both tables, bit by bit.
async fn bits(cluster: &Cluster) -> Vec<u32> {
    let mut bits = Vec::new();
    for table in [A, B] {
        let values = cluster.read(table, 0..200 * 7919).await;
        bits.extend(values.iter().filter(|x| **x != 0.0).map(|x| x.to_bits()));
    }
    bits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_side_by_side_leave_the_same_bits_as_one_after_the_other_and_one_may_be_cancelled_alone() {
    let mut alone = open(false, false).await;
    for (stage, workers) in [(LEFT, [2, 1, 0]), (RIGHT, [0, 2, 1]), (SUM, [0, 1, 0])] {
        let run = alone.launch(stage, &workers).await;
        assert!(alone.outcomes(run, &workers).await.iter().all(|outcome| outcome.error.is_none()));
    }
    let expected = bits(&alone).await;
    assert_eq!(expected.len(), 400);

    let mut cluster = open(true, false).await;
    let left = cluster.launch(LEFT, &[2, 1, 0]).await;
    let right = cluster.launch_beside(RIGHT, &[0, 2, 1], &[left]).await;
    let mut ended = Vec::new();
    for _ in 0..4 {
        let (_, run, outcome) = cluster.next_of(&[left, right]).await;
        assert!(outcome.error.is_none(), "{:?}", outcome.error);
        ended.push(run);
    }
    assert!(ended.contains(&left) && ended.contains(&right));
    let run = cluster.launch_beside(SUM, &[0, 1, 0], &[]).await;
    assert!(cluster.next_outcome(run).await.error.is_none());
    assert_eq!(bits(&cluster).await, expected);

    let mut endless = open(true, true).await;
    MET.iter().for_each(|met| met.store(0, Ordering::SeqCst));
    let left = endless.launch(LEFT, &[1, 1, 0]).await;
    let right = endless.launch_beside(RIGHT, &[0, 2, 1], &[left]).await;
    for _ in 0..2 {
        let (_, run, outcome) = endless.next_of(&[left, right]).await;
        assert_eq!((run, outcome.error), (right, None), "the other one goes on");
    }
    let cancel = ToSlave::CancelStage { job: JobId(1), run: right, reason: "over".into() };
    endless.tell(&cancel).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    // A third one can begin beside the first, and ends though that one goes on.
    let third = endless.launch_beside(RIGHT, &[0, 0, 1], &[left]).await;
    let (_, run, outcome) = endless.next_of(&[left, third]).await;
    assert_eq!((run, outcome.error), (third, None), "the first one goes on");
    let cancel = ToSlave::CancelStage { job: JobId(1), run: left, reason: "over".into() };
    endless.tell(&cancel).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    for _ in 0..2 {
        let (_, run, outcome) = endless.next_of(&[left]).await;
        assert_eq!((run, outcome.error.map(|e| e.fault)), (left, Some(Fault::Cancelled)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_of_a_group_that_touches_what_it_did_not_declare_fails_and_names_both() {
    let mut cluster = open(false, false).await;
    let run = cluster.launch(LIAR, &[1, 0, 0]).await;
    let error = cluster.next_outcome(run).await.error.unwrap();
    let says = "pair epoch 3 stage liar worker 0 on h1: table a: the stage stands together with others and, as its plan \
                says, neither reads nor updates it";
    assert_eq!((error.fault, error.message.as_str()), (Fault::Bug, says));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_waits_while_stages_run_side_by_side() {
    let mut cluster = open(false, true).await;
    let left = cluster.launch(LEFT, &[1, 1, 0]).await;
    let alone = cluster.mark(1, None).await;
    assert!(alone.iter().all(|marked| matches!(marked, Ok(Marked::Late(_)))), "{alone:?}");
    let right = cluster.launch_beside(RIGHT, &[0, 2, 1], &[left]).await;
    let both = cluster.mark(2, None).await;
    assert!(both.iter().all(|marked| matches!(marked, Ok(Marked::Busy))), "{both:?}");
    let cancel = ToSlave::CancelStage { job: JobId(1), run: left, reason: "over".into() };
    cluster.tell(&cancel).await.into_iter().for_each(|answer| drop(answer.unwrap()));
    for _ in 0..4 {
        let (_, run, outcome) = cluster.next_of(&[left, right]).await;
        assert_eq!(outcome.error.is_some(), run == left, "{:?}", outcome.error);
    }
}
