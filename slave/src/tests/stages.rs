//! Stages over several slaves: what workers see, how they end.

use super::cluster::{Cluster, LIMIT};
use super::master::member;
use flexps_common::error::{Error, Fault, Result};
use flexps_common::ids::{Key, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Consistency, Plan, Storage, Table, TableOp, TableSpec};
use flexps_common::value::{Element, Type};
use flexps_common::wire::control::{FromSlave, ToSlave};
use flexps_common::wire::kv::KeyList;
use flexps_common::worker::{Pull, Push, Worker};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Clocks of a counting worker.
const CLOCKS: u64 = 12;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Small {
    /// None: ASP; -1: BSP; else SSP.
    #[arg(long)]
    staleness: Option<i64>,
}

impl Small {
    fn consistency(&self) -> Consistency {
        match self.staleness {
            None => Consistency::Asp,
            Some(-1) => Consistency::Bsp,
            Some(s) => Consistency::Ssp { staleness: s as u32 },
        }
    }
}

const COUNTING: u32 = 0;
const MIXING: u32 = 1;
const FAILING: u32 = 2;
const PANICKING: u32 = 3;
const ENDLESS: u32 = 4;
const SHAPES: u32 = 5;
const READING_ONCE: u32 = 6;
const READING_OFTEN: u32 = 7;
const REPORTING: u32 = 8;
const EMPTY: u32 = 9;
const LARGE: u32 = 10;
const LATE: u32 = 11;
const VERBOSE: u32 = 12;
const SHOUTING: u32 = 13;

const COUNTS: TableId = TableId(0);
const MIXED: TableId = TableId(1);

impl Job for Small {
    const NAME: &'static str = "small";
    const ABOUT: &'static str = "Small stages";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let consistency = self.consistency();
        let counts = plan.table::<f32>("counts", 1);
        let mixed = plan.table::<f32>("mixed", 2);
        let sparse = plan.table_with::<i32>(TableSpec {
            name: "sparse".into(),
            element: Type::I32,
            width: 3,
            storage: Storage::Sparse,
            update: "add".into(),
            update_params: Vec::new(),
        });
        let wide = plan.table::<f64>("wide", 700);
        let body = &mut plan.body;
        body.stage("counting", move |w| counting(w, counts, consistency)).consistency(consistency);
        body.stage("mixing", move |w| mixing(w, mixed)).consistency(consistency);
        body.stage("failing", |w| fail(w, |_| Err(Error::data("bad row")))).consistency(consistency);
        body.stage("panicking", |w| fail(w, |i| panic!("worker {i} fell"))).consistency(consistency);
        body.stage("endless", move |w| endless(w, counts)).consistency(consistency);
        body.stage("shapes", move |w| shapes(w, sparse, wide)).consistency(consistency);
        body.stage("once", move |w| reading(w, counts, 1)).consistency(consistency);
        body.stage("often", move |w| reading(w, counts, 40)).consistency(consistency);
        body.stage("reporting", reporting).consistency(consistency);
        body.stage("empty", |_| Ok(())).consistency(consistency);
        body.stage("large", move |w| large(w, counts)).consistency(consistency);
        body.stage("late", move |w| late(w, counts)).consistency(consistency);
        body.stage("verbose", verbose).consistency(consistency);
        body.stage("shouting", |_| panic!("no {:?}", vec![7; 100_000])).consistency(consistency);
        Ok(())
    }
}

/// Keys in chunks of all shards.
fn spread() -> Vec<Key> {
    (0..300).map(|i| i * 7919 + (i % 3)).collect()
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::bug(what())) }
}

/// Each worker adds its number, counted from 1, to every key once a clock, and checks what it reads.
fn counting(worker: &mut Worker<'_>, table: Table<f32>, consistency: Consistency) -> Result<()> {
    let keys = spread();
    let threads = worker.place.threads as u64;
    let per_clock = (threads * (threads + 1) / 2) as f32;
    let mine = (worker.place.index + 1) as f32;
    let mut out = Vec::new();
    for clock in 0..CLOCKS {
        worker.get(table, &keys, &mut out)?;
        let (least, most) = match consistency {
            Consistency::Bsp => (clock, clock),
            Consistency::Ssp { staleness } => {
                (clock.saturating_sub(staleness.into()), clock + 1 + u64::from(staleness))
            }
            _ => (0, CLOCKS),
        };
        for value in &out {
            ensure(*value >= least as f32 * per_clock && *value <= most as f32 * per_clock, || {
                format!("{value} at clock {clock}, {per_clock} a clock")
            })?;
        }
        worker.add(table, &keys, &vec![mine; keys.len()])?;
        worker.clock()?;
    }
    Ok(())
}

/// Keys of a large update: more than a message takes for each of three shards.
const LARGE_KEYS: u32 = 2_000_000;

/// Updates of every size at once, by range and by list, and a read that must see the worker's own.
fn large(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    let keys: Vec<Key> = (0..LARGE_KEYS).step_by(2).collect();
    worker.add_range(table, 0..LARGE_KEYS, &vec![1.0; LARGE_KEYS as usize])?;
    worker.add(table, &keys, &vec![10.0; keys.len()])?;
    for part in keys.chunks(keys.len() / 100) {
        worker.add(table, part, &vec![100.0; part.len()])?;
    }
    worker.clock()?;
    let mut own = Vec::new();
    worker.get_range(table, 0..2, &mut own)?;
    ensure(own[0] >= 111.0 && own[1] >= 1.0, || format!("{own:?}"))
}

/// Values whose sum depends on the order of additions.
fn mixing(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    let keys = spread();
    let mut out = Vec::new();
    let mut seed = worker.place.index as u32 + 1;
    for _ in 0..5 {
        worker.get(table, &keys, &mut out)?;
        for _ in 0..2 {
            for x in &mut out {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *x = *x * 0.25 + f32::from_bits(0x3000_0000 + (seed >> 4) % 0x1000_0000);
            }
            worker.add(table, &keys, &out)?;
        }
        worker.add_range(table, 60_000..140_000, &vec![1e-3 / seed as f32; 160_000])?;
        worker.clock()?;
    }
    Ok(())
}

/// The last worker fails while the others wait for its clock.
fn fail(worker: &mut Worker<'_>, how: impl Fn(usize) -> Result<()>) -> Result<()> {
    if worker.place.index + 1 == worker.place.threads {
        return how(worker.place.index);
    }
    loop {
        worker.clock()?;
    }
}

fn endless(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    let keys = spread();
    let mut out = Vec::new();
    loop {
        worker.get(table, &keys, &mut out)?;
        worker.add(table, &keys, &out)?;
        worker.clock()?;
    }
}

/// Several tables in one message, sparse and wide, whole and in part.
fn shapes(worker: &mut Worker<'_>, sparse: Table<i32>, wide: Table<f64>) -> Result<()> {
    let (keys, wide_keys) = (spread(), [0, 1, 511, 512, 1024, 70_000]);
    let ones = vec![1; 3 * keys.len()];
    let halves = vec![0.5; 700 * wide_keys.len()];
    let threads = worker.place.threads;
    let pushes = [
        Push { table: sparse.id, keys: &keys, values: i32::wrap(&ones) },
        Push { table: wide.id, keys: &wide_keys, values: f64::wrap(&halves) },
    ];
    worker.add_many(&pushes)?;
    worker.clock()?;
    let (mut a, mut b) = (vec![0; ones.len()], vec![0.0; halves.len()]);
    let pulls = [Pull { table: wide.id, keys: &wide_keys }, Pull { table: sparse.id, keys: &keys }];
    // Two tickets, ended in the other order.
    let first = worker.start_get(&pulls)?;
    let second = worker.start_get(&pulls[1..])?;
    let mut again = vec![0; ones.len()];
    worker.finish_get(second, &mut [i32::wrap_mut(&mut again)])?;
    worker.finish_get(first, &mut [f64::wrap_mut(&mut b), i32::wrap_mut(&mut a)])?;
    ensure(a == again, || "two reads of one clock differ".into())?;
    ensure(a.iter().all(|x| *x == threads as i32), || format!("{a:?}"))?;
    ensure(b.iter().all(|x| *x == 0.5 * threads as f64), || format!("{b:?}"))?;
    let mut range = Vec::new();
    worker.get_range(sparse, 7_900..7_940, &mut range)?;
    for (key, row) in (7_900..).zip(range.chunks(3)) {
        let expected = if key == 7_920 { threads as i32 } else { 0 };
        ensure(row == [expected; 3], || format!("key {key}: {row:?}"))?;
    }
    worker.get_range(wide, 510..514, &mut b)?;
    for (row, written) in b.chunks(700).zip([false, true, true, false]) {
        let expected = if written { 0.5 * threads as f64 } else { 0.0 };
        ensure(row.iter().all(|x| *x == expected), || format!("{row:?}"))?;
    }
    worker.clock()
}

fn reading(worker: &mut Worker<'_>, table: Table<f32>, times: usize) -> Result<()> {
    let keys: Vec<_> = (0..20_000).map(|i| i * 50).collect();
    let mut out = Vec::new();
    for _ in 0..times {
        worker.get(table, &keys, &mut out)?;
        worker.add(table, &keys, &out)?;
    }
    Ok(())
}

/// Reads what a late worker updates: a key of each shard.
fn late(worker: &mut Worker<'_>, table: Table<f32>) -> Result<()> {
    if worker.place.index + 1 == worker.place.threads {
        std::thread::sleep(Duration::from_millis(250));
    }
    let keys: Vec<Key> = (0..3).map(|chunk| chunk << 16).collect();
    worker.add(table, &keys, &[1.0; 3])?;
    worker.clock()?;
    let mut out = Vec::new();
    worker.get(table, &keys, &mut out)?;
    ensure(out == [worker.place.threads as f32; 3], || format!("{out:?}"))
}

fn reporting(worker: &mut Worker<'_>) -> Result<()> {
    ensure(worker.scalar("half", 0.0) == 0.5 && worker.epoch() == 2, || "no scalar".into())?;
    worker.report("index", Metric::Sum(worker.place.index as f64));
    worker.report("workers", Metric::Count(1));
    worker.report("local", Metric::Max(worker.place.local_index as f64));
    Ok(())
}

/// Reports more than a message holds.
fn verbose(worker: &mut Worker<'_>) -> Result<()> {
    (0..20_000).for_each(|i| worker.report(&format!("{i:0>1000}"), Metric::Count(1)));
    Ok(())
}

async fn open(slaves: usize, staleness: Option<i64>) -> Cluster {
    let params = serde_json::to_string(&Small { staleness }).unwrap();
    Cluster::open(Registry::new().with::<Small>(), slaves, "small", &params).await
}

const MODELS: [Option<i64>; 4] = [Some(-1), Some(0), Some(2), None];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_on_three_slaves_read_exactly_what_their_model_promises() {
    for staleness in MODELS {
        let mut cluster = open(3, staleness).await;
        let mut total = 0.0;
        for workers in [[2, 1, 2], [1, 0, 0], [0, 2, 2]] {
            cluster.ops(&[TableOp::Zero { table: COUNTS }]).await;
            cluster.run(COUNTING, &workers).await;
            let threads = workers.iter().sum::<u32>() as u64;
            total = (threads * (threads + 1) / 2 * CLOCKS) as f32;
            let keys = spread();
            let values = cluster.read(COUNTS, 0..keys[keys.len() - 1] + 2).await;
            for (key, value) in values.iter().enumerate() {
                let expected = if keys.binary_search(&(key as u32)).is_ok() { total } else { 0.0 };
                assert_eq!(*value, expected, "key {key}");
            }
        }
        let norm = cluster.ops(&[TableOp::Norm2 { table: COUNTS, into: "n".into() }]).await;
        assert_eq!(norm, [300.0 * f64::from(total).powi(2)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_comes_again_when_what_it_must_see_takes_longer_than_a_request_may() {
    for staleness in [Some(-1), Some(0)] {
        let mut cluster = open(3, staleness).await;
        let begun = Instant::now();
        cluster.run(LATE, &[2, 1, 1]).await;
        assert!(begun.elapsed() > Duration::from_millis(250), "nobody was late");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_many_messages_arrive_whole_under_every_model() {
    for staleness in MODELS {
        let mut cluster = open(3, staleness).await;
        cluster.run(LARGE, &[1, 1, 1]).await;
        let values = cluster.read(COUNTS, 0..LARGE_KEYS).await;
        let wrong = values.iter().enumerate().find(|(i, x)| **x != if i % 2 == 0 { 333.0 } else { 3.0 });
        assert_eq!(wrong, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_bsp_stage_gives_the_same_bits_twenty_times() {
    let mut cluster = open(2, Some(-1)).await;
    let mut first: Option<Vec<u32>> = None;
    for _ in 0..20 {
        cluster.ops(&[TableOp::Zero { table: MIXED }]).await;
        cluster.run(MIXING, &[2, 2]).await;
        let bits: Vec<_> = cluster.read(MIXED, 0..150_000).await.iter().map(|x| x.to_bits()).collect();
        match &first {
            Some(first) => assert!(*first == bits, "the bits differ"),
            None => first = Some(bits),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_or_a_panic_ends_the_stage_with_its_name_and_the_next_stage_runs() {
    for staleness in MODELS {
        let mut cluster = open(2, staleness).await;
        let expected = [
            (FAILING, Fault::Data, "small epoch 3 stage failing worker 3 on h2: bad row"),
            (PANICKING, Fault::Bug, "small epoch 3 stage panicking worker 3 on h2: panicked: worker 3 fell"),
        ];
        for (stage, fault, message) in expected {
            let run = cluster.launch(stage, &[2, 2]).await;
            // Slave 2 ends by itself, its sibling being cancelled; the master then ends the others.
            let start = Instant::now();
            let failed = cluster.next_outcome(run).await;
            let error = failed.error.unwrap();
            assert_eq!((error.fault, error.message.as_str()), (fault, message));
            cluster.cancel(run).await;
            let other = cluster.next_outcome(run).await.error.unwrap();
            assert_eq!((other.fault, other.message.as_str()), (Fault::Cancelled, "cancelled by the test"));
            assert!(start.elapsed() < Duration::from_secs(2));
        }
        cluster.run(COUNTING, &[2, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_can_be_cancelled_at_any_moment() {
    for staleness in MODELS {
        let mut cluster = open(3, staleness).await;
        for round in 0..30u32 {
            let run = cluster.launch(ENDLESS, &[2, 1, 1]).await;
            let end = Instant::now() + Duration::from_micros(u64::from(round * round) * 5);
            while Instant::now() < end {
                tokio::task::yield_now().await;
            }
            cluster.cancel(run).await;
            for outcome in cluster.outcomes(run, &[2, 1, 1]).await {
                let error = outcome.error.unwrap();
                assert!(error.fault == Fault::Cancelled, "{error}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_job_or_ending_a_slave_ends_its_workers() {
    let mut cluster = open(2, Some(-1)).await;
    let run = cluster.launch(ENDLESS, &[1, 1]).await;
    cluster.close().await;
    for outcome in cluster.outcomes(run, &[1, 1]).await {
        // A worker may hear of it first from the other slave, where it was closed a moment earlier.
        let error = outcome.error.unwrap();
        assert!(error.fault == Fault::Cancelled || error.message.contains("is not open here"), "{error}");
    }
    let answers = cluster.tell(&ToSlave::Ops { job: flexps_common::ids::JobId(1), phase: 2, ops: Vec::new() }).await;
    assert!(answers.iter().all(|a| a.as_ref().unwrap_err().message.contains("job j1 is not open here")));
    let request = cluster.master_request(COUNTS, KeyList::Range { start: 0, count: 1 }, 0, None).0;
    assert!(cluster.ask_shard(0, request).await.unwrap_err().message.contains("not open here"));
    for handle in &cluster.handles {
        handle.stop();
        tokio::time::timeout(LIMIT, handle.wait()).await.expect("a slave does not end").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_since_the_master_forgot_the_slave_may_start_over() {
    let mut cluster = open(1, Some(-1)).await;
    let run = cluster.launch(ENDLESS, &[1]).await;
    cluster.master.lose(cluster.peers[0].id);
    let error = cluster.outcomes(run, &[1]).await.remove(0).error.unwrap();
    assert!(error.fault == Fault::Cluster && error.retry, "{error}");
    assert!(error.message.contains("the master has forgotten this slave"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sparse_and_wide_tables_of_several_types_share_messages() {
    for slaves in [1, 3] {
        let mut cluster = open(slaves, Some(-1)).await;
        cluster.run(SHAPES, &[2, 1, 1][..slaves]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_list_is_sent_once() {
    let mut cluster = open(2, None).await;
    let once = cluster.run(READING_ONCE, &[1, 0]).await[0].bytes_sent;
    let often = cluster.run(READING_OFTEN, &[1, 0]).await[0].clone();
    // The other slave's keys are those in odd chunks; each takes a byte when it is sent, and a value four.
    let keys = (0..20_000u64).filter(|i| ((i * 50) >> 16) % 2 == 1).count() as u64;
    assert!(once > 5 * keys && once < 5 * keys + 2000, "{once} bytes for {keys} keys");
    let values = 40 * 4 * keys;
    assert!(often.bytes_sent > values && often.bytes_sent < values + 40 * 200, "{}", often.bytes_sent);
    assert!(often.bytes_received > values && often.bytes_received < values + 40 * 200, "{}", often.bytes_received);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_of_all_workers_come_back_merged() {
    let mut cluster = open(2, None).await;
    let outcomes = cluster.run(REPORTING, &[3, 2]).await;
    let value = |slave: usize, name| outcomes[slave].metrics.value(name);
    assert_eq!((value(0, "index"), value(1, "index")), (Some(3.0), Some(7.0)));
    assert_eq!((value(0, "workers"), value(1, "workers")), (Some(3.0), Some(2.0)));
    assert_eq!((value(0, "local"), value(1, "local")), (Some(2.0), Some(1.0)));
    assert!(outcomes.iter().all(|o| o.worker_seconds > 0.0 && o.wait_seconds <= o.worker_seconds));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_ends_however_much_it_has_to_say() {
    let mut cluster = open(1, None).await;
    for (stage, fault, says) in [
        (VERBOSE, Fault::User, "workers on slave s1 (h1) reported 20000 metrics"),
        (SHOUTING, Fault::Bug, "stage shouting worker 0 on h1: panicked: no [7, 7"),
    ] {
        let run = cluster.launch(stage, &[1]).await;
        let error = cluster.next_outcome(run).await.error.unwrap();
        assert!(error.fault == fault && error.message.contains(says), "{:.300}", error.message);
        assert!(error.message.len() < 10_000, "{} bytes", error.message.len());
    }
    cluster.run(COUNTING, &[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_master_loads_and_saves_ranges_and_nobody_writes_a_foreign_chunk() {
    let cluster = open(2, Some(-1)).await;
    // Width 2: chunks of 2^15 keys.
    cluster.load(MIXED, 40_000, &[1.0, 2.0, 3.0, 4.0]).await.unwrap();
    assert_eq!(cluster.read(MIXED, 39_999..40_003).await, [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
    let foreign = cluster.master_request(MIXED, KeyList::Range { start: 32_767, count: 2 }, 0, Some(&[1.0; 4])).0;
    let error = cluster.ask_shard(0, foreign).await.unwrap_err();
    assert_eq!(error.message, "chunk 1 of table mixed is served by shard 1, not by 0");
    let large = cluster.master_request(MIXED, KeyList::Range { start: 0, count: u32::MAX }, 0, None).0;
    assert!(cluster.ask_shard(0, large).await.unwrap_err().message.contains("at most"));
    assert_eq!(cluster.read(MIXED, 32_766..32_769).await, [0.0; 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slave_refuses_a_plan_that_differs_from_the_masters() {
    let cluster = open(1, None).await;
    let open = ToSlave::Open {
        job: flexps_common::ids::JobId(2),
        name: "small".into(),
        params: "{\"staleness\":null}".into(),
        plan_hash: 7,
        slaves: cluster.peers.clone(),
        you: member(cluster.peers[0].id),
        experiment: Default::default(),
    };
    let answer: Result<FromSlave> = cluster.tell(&open).await.remove(0);
    assert!(answer.unwrap_err().message.contains("run the same build on both"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_stages_follow_one_another_fast() {
    let mut cluster = open(1, Some(-1)).await;
    cluster.run(EMPTY, &[2]).await;
    let start = Instant::now();
    for _ in 0..200 {
        cluster.run(EMPTY, &[2]).await;
    }
    let each = start.elapsed() / 200;
    println!("an empty stage takes {each:?}");
    assert!(each < Duration::from_millis(5), "an empty stage takes {each:?}");
}
