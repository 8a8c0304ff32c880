//! Models that move from the slaves of one stage to those of the next.

use super::cluster::Cluster;
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::home::Home;
use flexps_common::ids::{JobId, Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Plan, Storage, Table, TableOp, TableSpec};
use flexps_common::random::SplitMix64;
use flexps_common::transport::Packet;
use flexps_common::value::{Element, Type, Values};
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::control::{Outcome, ToSlave};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{ChunkHead, ChunkId, FromReceiver, MoveId, Offered, ToReceiver};
use flexps_common::wire::packing::Packing;
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub const DENSE: TableId = TableId(0);
const SPARSE: TableId = TableId(1);
const WIDE: TableId = TableId(2);
const COPY: TableId = TableId(3);
/// Keys of a chunk of `DENSE`.
pub const CHUNK: u32 = 1 << 16;
/// More than a message of chunks, with chunks of all shards.
const KEYS: u32 = 9 * CHUNK + 17;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Moving {}

impl Job for Moving {
    const NAME: &'static str = "moving";
    const ABOUT: &'static str = "Stages whose model moves";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let dense = plan.table::<f32>("dense", 1);
        let sparse = plan.table_with::<f32>(TableSpec {
            name: "sparse".into(),
            element: Type::F32,
            width: 3,
            storage: Storage::Sparse,
            update: "add".into(),
            update_params: Vec::new(),
        });
        let wide = plan.table::<f32>("wide", 5000);
        plan.table::<f32>("copy", 1);
        plan.body.stage("work", move |w| work(w, dense, sparse, wide));
        plan.body.stage("rest", |_| Ok(()));
        plan.body.stage("look", move |w| look(w, dense, sparse, wide)).reads(dense).reads(sparse).reads(wide);
        plan.body.stage("lie", move |w| w.add(dense, &[1], &[1.0])).reads(dense);
        Ok(())
    }
}

/// Some keys of all chunks.
fn some(salt: u32) -> Vec<Key> {
    (0..400).map(|i| i * 1471 + (salt * 31 + i * i) % 1471).collect()
}

/// What the worker of this number adds: whole numbers, so that the order of additions does not show.
fn work(worker: &mut Worker<'_>, dense: Table<f32>, sparse: Table<f32>, wide: Table<f32>) -> Result<()> {
    let me = worker.place.index as u32 + 1;
    let keys = some(me);
    worker.add(dense, &keys, &vec![me as f32; keys.len()])?;
    worker.add(sparse, &keys, &vec![2.0 * me as f32; 3 * keys.len()])?;
    worker.add(wide, &[me, 40 * me], &vec![3.0; 10_000])?;
    if me == 1 {
        worker.add_range(dense, 0..KEYS, &vec![1.0; KEYS as usize])?;
    }
    let mut seen = Vec::new();
    worker.clock()?;
    // What others wrote is there wherever it lives.
    worker.get(dense, &keys, &mut seen)?;
    if seen.iter().all(|x| *x >= me as f32) {
        return Ok(());
    }
    Err(flexps_common::Error::bug("an update is lost"))
}

/// Reads all of the tables; reports a sum of each that tells wrong places from right ones.
fn look(worker: &mut Worker<'_>, dense: Table<f32>, sparse: Table<f32>, wide: Table<f32>) -> Result<()> {
    let mut seen = Vec::new();
    for (name, table, keys) in [("dense", dense, 600_000), ("sparse", sparse, 600_000), ("wide", wide, 400)] {
        worker.get_range(table, 0..keys, &mut seen)?;
        worker.report(name, Metric::Sum(mark(&seen)));
    }
    Ok(())
}

/// Exact: whole numbers.
fn mark(values: &[f32]) -> f64 {
    values.iter().enumerate().map(|(at, value)| f64::from(*value) * (1 + at % 97) as f64).sum()
}

/// The same on plain arrays.
#[derive(Clone)]
pub struct Twin {
    dense: Vec<f32>,
    sparse: Vec<f32>,
    wide: Vec<f32>,
}

impl Twin {
    pub fn new() -> Self {
        Self { dense: vec![0.0; 600_000], sparse: vec![0.0; 3 * 600_000], wide: vec![0.0; 5000 * 400] }
    }

    pub fn work(&mut self, workers: u32) {
        for me in 1..=workers {
            for key in some(me) {
                self.dense[key as usize] += me as f32;
                self.sparse[3 * key as usize..][..3].iter_mut().for_each(|x| *x += 2.0 * me as f32);
            }
            for key in [me, 40 * me] {
                self.wide[5000 * key as usize..][..5000].iter_mut().for_each(|x| *x += 3.0);
            }
        }
        self.dense[..KEYS as usize].iter_mut().for_each(|x| *x += 1.0);
    }
}

/// What each of `workers` workers of a slave saw in the stage `look`.
pub fn check_seen(outcome: &Outcome, workers: u32, twin: &Twin, what: &str) {
    for (name, values) in [("dense", &twin.dense), ("sparse", &twin.sparse), ("wide", &twin.wide)] {
        assert_eq!(outcome.metrics.value(name), Some(f64::from(workers) * mark(values)), "{name}, {what}");
    }
}

/// What the stage `look` reads.
pub const READ: [TableId; 3] = [DENSE, SPARSE, WIDE];

pub async fn check(cluster: &Cluster, twin: &Twin) {
    assert!(cluster.read(DENSE, 0..600_000).await == twin.dense);
    assert!(cluster.read(SPARSE, 0..600_000).await == twin.sparse);
    assert!(cluster.read(WIDE, 0..400).await == twin.wide);
}

pub async fn open() -> Cluster {
    open_with(Experiment::default()).await
}

pub async fn open_with(experiment: Experiment) -> Cluster {
    let registry = Registry::default().with::<Moving>();
    Cluster::open_with(registry, 3, "moving", "{}", experiment).await
}

/// The first chunk of `DENSE` that a shard serves while the table lives on all three.
fn own_keys(shard: u32) -> std::ops::Range<u32> {
    shard * CHUNK..(shard + 1) * CHUNK
}

fn places(shard: u32) -> std::ops::Range<usize> {
    own_keys(shard).start as usize..own_keys(shard).end as usize
}

/// The homes of all tables.
pub fn all_at(home: &Home) -> Vec<Home> {
    vec![home.clone(); 4]
}

/// Where a stage's workers are and its model with them.
pub fn kinds() -> [(&'static str, [u32; 3], Home); 4] {
    [
        ("one worker", [1, 0, 0], Home::on(&[0], 3)),
        ("one slave", [0, 3, 0], Home::on(&[1], 3)),
        ("several slaves", [2, 0, 1], Home::on(&[0, 2], 3)),
        ("all shards", [1, 1, 1], Home::All),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_moves_between_stages_of_every_kind_and_keeps_its_values() {
    for (from, workers, home) in kinds() {
        for (to, next_workers, next_home) in kinds() {
            let (mut cluster, mut twin) = (open().await, Twin::new());
            // Twice there and back: the second time, copies of the first are left everywhere.
            for _ in 0..2 {
                for (workers, home) in [(workers, &home), (next_workers, &next_home)] {
                    for sent in cluster.move_to(&all_at(home)).await {
                        sent.unwrap();
                    }
                    cluster.run(0, &workers).await;
                    twin.work(workers.iter().sum());
                }
            }
            check(&cluster, &twin).await;
            let norm = cluster.ops(&[TableOp::Norm2 { table: DENSE, into: "n".into() }]).await[0];
            let plain: f64 = twin.dense.iter().map(|x| f64::from(*x).powi(2)).sum();
            assert!((norm - plain).abs() <= 1e-9 * plain, "from {from} to {to}: {norm} {plain}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_did_not_change_and_what_stays_is_not_sent() {
    let mut cluster = open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let bytes = |sent: Vec<Result<Vec<flexps_common::wire::moved::Sent>>>| {
        sent.into_iter()
            .flat_map(Result::unwrap)
            .map(|sent| (sent.bytes, sent.chunks, sent.kept))
            .fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
    };
    let one = all_at(&Home::on(&[1], 3));
    let (first, chunks, kept) = bytes(cluster.move_to(&one).await);
    assert!(first > 2 * u64::from(KEYS) && chunks > 10 && kept == 0, "{first} {chunks} {kept}");
    cluster.run(1, &[0, 2, 0]).await;
    // Nobody wrote: the shards' own copies still hold, and so does the one copy after that.
    assert_eq!(bytes(cluster.move_to(&all_at(&Home::All)).await), (0, 0, chunks));
    cluster.run(1, &[1, 1, 1]).await;
    assert_eq!(bytes(cluster.move_to(&one).await), (0, 0, chunks));
    cluster.run(0, &[0, 2, 0]).await;
    // The same slave goes on: nothing is even offered.
    assert_eq!(bytes(cluster.move_to(&one).await), (0, 0, 0));
    cluster.run(0, &[0, 1, 0]).await;
    let mut twin = Twin::new();
    [3, 2, 1].into_iter().for_each(|workers| twin.work(workers));
    check(&cluster, &twin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_follow_the_tables_and_leave_nothing_old_behind() {
    let mut cluster = open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let mut twin = Twin::new();
    twin.work(3);
    let copy = TableOp::Copy { from: DENSE, to: COPY };
    cluster.ops(&[copy.clone(), TableOp::Scale { table: COPY, by: 2.0 }]).await;
    // The copy is made anew elsewhere, from a table that is zero: of the old one nothing may come back.
    let one = Home::on(&[2], 3);
    cluster.move_to(&[one.clone(), one.clone(), one, Home::All]).await.into_iter().for_each(|s| drop(s.unwrap()));
    cluster.run(1, &[0, 0, 1]).await;
    let doubled: Vec<f32> = twin.dense.iter().map(|x| 2.0 * x).collect();
    assert!(cluster.read(COPY, 0..600_000).await == doubled);
    let old = twin.dense.clone();
    cluster.ops(&[TableOp::Zero { table: DENSE }, copy]).await;
    assert!(cluster.read(COPY, 0..600_000).await.iter().all(|x| *x == 0.0));
    cluster.move_to(&all_at(&Home::All)).await.into_iter().for_each(|s| drop(s.unwrap()));
    cluster.run(1, &[1, 1, 1]).await;
    assert!(cluster.read(COPY, 0..600_000).await.iter().all(|x| *x == 0.0));
    assert!(cluster.read(DENSE, 0..600_000).await.iter().all(|x| *x == 0.0) && old[0] > 0.0);
}

/// A message of a sender about chunk 1 of `DENSE`, which lives on slave 2 and is to move to slave 1.
pub fn chunk(phase: u64, break_it: bool) -> Packet {
    let of = MoveId { job: JobId(1), phase };
    let mut body = BodyWriter::default();
    body.values(Values::F32(&vec![7.0; CHUNK as usize]));
    let body = body.finish();
    let id = ChunkId { table: DENSE, chunk: 1 };
    let chunks = vec![ChunkHead { id, version: 99, element: f32::TYPE, keys: None }];
    let checksum = xxh3_64(&body) ^ u64::from(break_it);
    let (packing, bytes) = (Packing::Raw, body.len() as u32);
    let message = ToReceiver::Chunks { of, chunks, packing, bytes, checksum, forward: vec![] };
    Packet::bulk(&ToShard::Move(message), body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_half_way_leaves_the_old_model_whole() {
    let mut cluster = open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let mut twin = Twin::new();
    twin.work(3);
    let of = MoveId { job: JobId(1), phase: 2 };
    let offered = [1, 4].map(|chunk| Offered { id: ChunkId { table: DENSE, chunk }, version: 99 });
    let offer = ToShard::Move(ToReceiver::Offer { of, chunks: offered.to_vec(), proof: None });
    let answer = cluster.ask_shard(0, Packet::control(&offer).unwrap()).await.unwrap();
    assert_eq!(
        answer.message::<FromShard>().unwrap(),
        FromShard::Moved(FromReceiver::Wanted { places: vec![0, 1], reads: false })
    );
    // One of two chunks comes, then nothing more: the stage starts with the model where it was.
    cluster.ask_shard(0, chunk(2, false)).await.unwrap();
    cluster.run(1, &[1, 1, 1]).await;
    check(&cluster, &twin).await;
    // It comes to life again, too late.
    let late = cluster.ask_shard(0, chunk(2, false)).await.unwrap_err();
    assert!(late.message.contains("a chunk came for phase 2, which is over"), "{late}");
    // Later moves are not disturbed.
    cluster.move_to(&all_at(&Home::on(&[0], 3))).await.into_iter().for_each(|s| drop(s.unwrap()));
    cluster.run(0, &[1, 0, 0]).await;
    twin.work(1);
    check(&cluster, &twin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_are_broken_or_unasked_are_refused() {
    let cluster = open().await;
    let message = |answer: Result<Packet>| answer.unwrap_err().message;
    assert!(message(cluster.ask_shard(0, chunk(1, true)).await).contains("wrong checksum"));
    assert!(message(cluster.ask_shard(0, chunk(1, false)).await).contains("came unasked"));
    let of = MoveId { job: JobId(1), phase: 1 };
    let beyond = Offered { id: ChunkId { table: DENSE, chunk: 1 << 16 }, version: 1 };
    let offer = ToShard::Move(ToReceiver::Offer { of, chunks: vec![beyond], proof: None });
    assert!(message(cluster.ask_shard(0, Packet::control(&offer).unwrap()).await).contains("has no chunk 65536"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_or_doubled_in_any_history_of_stages_moves_and_operations() {
    for seed in 0..24 {
        let mut random = SplitMix64(seed);
        let (mut cluster, mut twin, mut copy) = (open().await, Twin::new(), vec![0.0; 600_000]);
        for _ in 0..9 {
            let (_, workers, home) = kinds()[(random.draw() % 4) as usize].clone();
            match random.draw() % 8 {
                // A move that the master gives up: the next stage finds the tables where they were.
                0 => {
                    let before = cluster.homes.lock().clone();
                    cluster.move_to(&all_at(&home)).await.into_iter().for_each(|sent| drop(sent.unwrap()));
                    *cluster.homes.lock() = before;
                }
                1 => {
                    cluster.ops(&[TableOp::Scale { table: DENSE, by: 2.0 }]).await;
                    twin.dense.iter_mut().for_each(|x| *x *= 2.0);
                }
                2 => {
                    cluster.ops(&[TableOp::Copy { from: DENSE, to: COPY }]).await;
                    copy.clone_from(&twin.dense);
                }
                3 => {
                    cluster.ops(&[TableOp::Zero { table: DENSE }]).await;
                    twin.dense.fill(0.0);
                }
                4 => {
                    let to: Vec<u32> = (0..3).filter(|shard| workers[*shard as usize] > 0).collect();
                    cluster.copy_to(&READ, &to).await.into_iter().for_each(|sent| drop(sent.unwrap()));
                    let seen = cluster.run(2, &workers).await;
                    for (outcome, count) in seen.iter().zip(workers.iter().filter(|count| **count > 0)) {
                        check_seen(outcome, *count, &twin, &format!("seed {seed}"));
                    }
                }
                moves => {
                    if moves < 7 {
                        // Some tables only, so that their homes differ.
                        let mut homes = cluster.homes.lock().clone();
                        homes
                            .iter_mut()
                            .filter(|_| !random.draw().is_multiple_of(3))
                            .for_each(|place| *place = home.clone());
                        cluster.move_to(&homes).await.into_iter().for_each(|sent| drop(sent.unwrap()));
                    }
                    cluster.run(0, &workers).await;
                    twin.work(workers.iter().sum());
                }
            }
        }
        check(&cluster, &twin).await;
        assert!(cluster.read(COPY, 0..600_000).await == copy, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_starts_beside_the_move_to_it_and_no_worker_uses_a_table_before_it_is_settled() {
    // A move that succeeds, and one that is given up.
    for gives_up in [false, true] {
        let (mut cluster, mut twin) = (open().await, Twin::new());
        cluster.run(0, &[1, 1, 1]).await;
        twin.work(3);
        let workers = [0, 2, 1];
        let run = cluster.launch_open(0, &workers).await;
        let before = cluster.homes.lock().clone();
        for sent in cluster.move_behind(&all_at(&Home::on(&[1], 3))).await {
            sent.unwrap();
        }
        if gives_up {
            *cluster.homes.lock() = before;
        }
        // The workers have been there for long: nothing that they add is in the tables.
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        for shard in 0..3 {
            assert!(cluster.read_at(shard, DENSE, own_keys(shard)).await == twin.dense[places(shard)], "{shard}");
        }
        cluster.settle(run).await;
        for outcome in cluster.outcomes(run, &workers).await {
            assert_eq!(outcome.error, None);
            assert!(outcome.model_wait_seconds >= 0.02, "{}", outcome.model_wait_seconds);
            assert!(outcome.wait_seconds >= outcome.model_wait_seconds);
        }
        twin.work(3);
        check(&cluster, &twin).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_before_its_shard_is_settled_waits_for_that() {
    let (mut cluster, mut twin) = (open().await, Twin::new());
    cluster.run(0, &[1, 1, 1]).await;
    twin.work(3);
    let run = cluster.launch_open(0, &[1, 0, 1]).await;
    for sent in cluster.move_behind(&all_at(&Home::on(&[1], 3))).await {
        sent.unwrap();
    }
    // The slaves hear of it one after the other; workers of the first ask the second, which has not heard yet.
    cluster.settle_in_turn(run, &[0, 2, 1], std::time::Duration::from_millis(30)).await;
    for outcome in cluster.outcomes(run, &[1, 0, 1]).await {
        assert_eq!(outcome.error, None);
    }
    twin.work(2);
    check(&cluster, &twin).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_wait_for_a_move_end_when_the_stage_is_cancelled() {
    let mut cluster = open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let run = cluster.launch_open(0, &[1, 1, 0]).await;
    cluster.cancel(run).await;
    for outcome in cluster.outcomes(run, &[1, 1, 0]).await {
        assert_eq!(outcome.error.map(|e| e.fault), Some(flexps_common::error::Fault::Cancelled));
    }
    // A word that comes too late changes nothing.
    cluster.settle(run).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_was_never_settled_is_not_followed_by_another() {
    let mut cluster = open().await;
    cluster.launch_open(1, &[1, 0, 0]).await;
    let launch = cluster.next_launch(1, &[1, 0, 0]);
    for answer in cluster.tell(&ToSlave::Launch(launch)).await {
        let error = answer.unwrap_err();
        assert!(error.message.contains("is over and never began"), "{error}");
    }
}
