//! Rows and registration: stages that pass over rows while they are read, and slaves whose master comes and goes.

use super::cluster::{Cluster, LIMIT};
use flexps_common::data::{Facts, Form, InputSpec, Labels, Schema};
use flexps_common::error::{Error, Fault, Result};
use flexps_common::ids::{InputId, JobId};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Input, Plan};
use flexps_common::transport::Packet;
use flexps_common::wire::control::{FromSlave, Split, ToSlave};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use std::io::Write;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
pub struct Rows {}

pub const PASSING: u32 = 0;
const MAPPED: u32 = 1;
pub const COLUMNS: u32 = 2;
const DRAWING: u32 = 3;

impl Job for Rows {
    const NAME: &'static str = "rows";
    const ABOUT: &'static str = "Passes over rows";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let input = plan.input(InputSpec::new("input", vec!["/nowhere".parse()?]))?;
        plan.table::<f32>("t", 1);
        plan.body.stage("passing", move |w| passing(w, input)).input(input);
        plan.body.stage("mapped", move |w| mapped(w, input)).input(input);
        plan.body.stage("columns", move |w| columns(w, input)).input(input);
        plan.body.stage("drawing", move |w| drawing(w, input)).draws(input, 0.8);
        Ok(())
    }
}

fn passing(worker: &mut Worker<'_>, input: Input) -> Result<()> {
    let mut pass = worker.pass(input);
    let mut sum = 0.0;
    while let Some((_, block)) = pass.next(worker)? {
        for i in 0..block.rows() {
            sum += block.row(i).indices.iter().map(|feature| f64::from(*feature)).sum::<f64>();
        }
    }
    worker.report("features", Metric::Sum(sum));
    Ok(())
}

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Once {}

impl Job for Once {
    const NAME: &'static str = "once";
    const ABOUT: &'static str = "Consumes rows";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let input = plan.input(InputSpec::new("input", vec!["/nowhere".parse()?]))?;
        plan.body.stage("consuming", move |w| consuming(w, input)).consumes(input);
        Ok(())
    }
}

/// The first worker takes one block, and looks for another when there is none left.
fn consuming(worker: &mut Worker<'_>, input: Input) -> Result<()> {
    let mut pass = worker.pass(input);
    let mut sum = 0.0;
    while let Some((_, block)) = pass.next(worker)? {
        sum += block.indices.iter().map(|feature| f64::from(*feature)).sum::<f64>();
        if worker.place.index == 0 {
            break;
        }
    }
    worker.sum_local(&mut [0.0])?;
    if pass.next(worker)?.is_some() {
        return Err(Error::bug("a block is left"));
    }
    worker.report("features", Metric::Sum(sum));
    Ok(())
}

/// Local numbers lead back to the features, and the facts are the whole input's.
fn mapped(worker: &mut Worker<'_>, input: Input) -> Result<()> {
    let facts = worker.facts(input)?;
    let map = worker.key_map(input)?;
    let mut sum = 0.0;
    for at in worker.own_blocks(input)? {
        let Some(block) = worker.block(input, at)? else { return Err(Error::bug("no block")) };
        for i in 0..block.rows() {
            sum += block.row(i).indices.iter().map(|local| f64::from(map.key(*local))).sum::<f64>();
        }
    }
    worker.report("features", Metric::Sum(sum));
    worker.report("rows", Metric::Max(facts.rows as f64));
    Ok(())
}

/// Reports what was drawn: rows, and a number that depends on which and in which order.
fn drawing(worker: &mut Worker<'_>, input: Input) -> Result<()> {
    let drawn = worker.draw(input)?;
    let (mut mixed, mut place) = (0.0, 0.0);
    for block in &drawn.blocks {
        for i in 0..block.rows() {
            let features: Vec<_> = block.row(i).indices.iter().map(|local| drawn.map.key(*local)).collect();
            if features.len() != 2 || features[0] + 5000 != features[1] {
                return Err(Error::bug(format!("no row of the file has the features {features:?}")));
            }
            place += 1.0;
            mixed += f64::from(features[0]) * place;
        }
    }
    worker.report("rows", Metric::Max(drawn.rows() as f64));
    worker.report("mixed", Metric::Max(mixed));
    Ok(())
}

/// Adds 1 to each row's column and reports the sum.
fn columns(worker: &mut Worker<'_>, input: Input) -> Result<()> {
    let mut sum = 0.0;
    for at in worker.own_blocks(input)? {
        let rows = worker.block(input, at)?.map_or(0, |block| block.rows());
        let mut column = worker.take_column::<f64>(input, at, "visits", rows)?;
        column.iter_mut().for_each(|x| *x += 1.0);
        sum += column.iter().sum::<f64>();
        worker.put_column(input, at, "visits", column)?;
    }
    worker.report("visits", Metric::Sum(sum));
    Ok(())
}

pub const LINES: u64 = 3000;

/// A file whose row i has features i and 5000 + i; cut in six.
pub fn file() -> (tempfile::TempDir, Vec<Split>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.libsvm");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for i in 1..=LINES {
        writeln!(out, "{} {i}:1 {}:0.5", if i % 2 == 0 { "+1" } else { "-1" }, 5000 + i).unwrap();
    }
    out.into_inner().unwrap().sync_all().unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    let modified = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let split = |index: u64| Split {
        input: InputId(0),
        index: index as u32,
        path: path.to_str().unwrap().to_owned(),
        start: meta.len() * index / 6,
        end: meta.len() * (index + 1) / 6,
        file_len: meta.len(),
        modified,
        form: Form::Text,
        hosts: Vec::new(),
    };
    let splits = (0..6).map(split).collect();
    (folder, splits)
}

pub fn schema() -> Schema {
    Schema {
        index_base: 1,
        base_detected: true,
        features: None,
        labels: Labels::two(-1.0, 1.0),
        labels_detected: true,
        bad_rows: 0,
    }
}

async fn open(slaves: usize) -> Cluster {
    Cluster::open(Registry::new().with::<Rows>(), slaves, "rows", "{}").await
}

/// Sum of all features: row i has i - 1 and 4999 + i.
pub const FEATURES: f64 = (LINES * (LINES + 1) + 4998 * LINES) as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stages_pass_over_rows_while_they_are_read_and_after() {
    let (_folder, splits) = file();
    let mut cluster = open(2).await;
    cluster.start_reading(schema()).await;
    // The workers start before there is a single row.
    let run = cluster.launch(PASSING, &[2, 1]).await;
    cluster.give(splits);
    let outcomes = cluster.outcomes(run, &[2, 1]).await;
    let sum = |outcomes: &[_], name: &str| {
        outcomes.iter().map(|o: &flexps_common::wire::control::Outcome| o.metrics.value(name).unwrap()).sum::<f64>()
    };
    assert_eq!(sum(&outcomes, "features"), FEATURES);
    assert_eq!(outcomes.iter().map(|o| o.rows).sum::<u64>(), LINES);
    let mut facts = Facts::default();
    for _ in 0..2 {
        facts.merge(&cluster.read_done().await.unwrap().facts);
    }
    assert_eq!((facts.rows, facts.features, facts.positives), (LINES, 5000 + LINES, LINES / 2));
    // Who asks for the facts waits until the master tells them.
    let run = cluster.launch(MAPPED, &[1, 2]).await;
    let tell = ToSlave::Facts { job: JobId(1), input: InputId(0), facts };
    cluster.tell(&tell).await.into_iter().for_each(|answer| assert_eq!(answer.unwrap(), FromSlave::Ok));
    let outcomes = cluster.outcomes(run, &[1, 2]).await;
    assert_eq!(sum(&outcomes, "features"), FEATURES);
    assert!(outcomes.iter().all(|o| o.metrics.value("rows") == Some(LINES as f64)));
    for visits in 1..4 {
        let outcomes = cluster.run(COLUMNS, &[2, 2]).await;
        assert_eq!(sum(&outcomes, "visits"), (visits * LINES) as f64);
    }
    // The rows of both slaves, as many as are asked for, the same for each worker and each time.
    let value = |o: &flexps_common::wire::control::Outcome, name| o.metrics.value(name).unwrap();
    for workers in [[2, 0], [0, 1]] {
        let first = cluster.run(DRAWING, &workers).await;
        assert!(value(&first[0], "rows") >= 0.8 * LINES as f64, "{}", value(&first[0], "rows"));
        let again = cluster.run(DRAWING, &workers).await;
        assert_eq!(value(&first[0], "mixed"), value(&again[0], "mixed"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_rows_that_are_not_read_yet_is_to_ask_again() {
    let (_folder, splits) = file();
    let mut cluster = open(1).await;
    cluster.start_reading(schema()).await;
    let (job, input) = (JobId(1), InputId(0));
    let blocks = ToShard::Blocks { job, input };
    for question in [&blocks, &ToShard::Rows { job, input, at: 0 }] {
        let answer = cluster.ask_shard(0, Packet::control(question).unwrap()).await.unwrap();
        assert_eq!(answer.message::<FromShard>().unwrap(), FromShard::NotYet);
    }
    cluster.give(splits);
    cluster.read_done().await.unwrap();
    let answer = cluster.ask_shard(0, Packet::control(&blocks).unwrap()).await.unwrap();
    assert!(matches!(answer.message::<FromShard>().unwrap(), FromShard::Blocks(1..)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_worker_is_free_takes_the_next_block_of_rows_that_are_consumed() {
    let (_folder, splits) = file();
    let mut cluster = Cluster::open(Registry::new().with::<Once>(), 1, "once", "{}").await;
    cluster.start_reading(schema()).await;
    let run = cluster.launch(0, &[2]).await;
    cluster.give(splits);
    let outcome = cluster.outcomes(run, &[2]).await.remove(0);
    assert_eq!((outcome.error, outcome.rows), (None, LINES));
    assert_eq!(outcome.metrics.value("features"), Some(FEATURES));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_wait_for_rows_or_facts_can_be_cancelled() {
    let mut cluster = open(2).await;
    cluster.start_reading(schema()).await;
    for stage in [PASSING, MAPPED, COLUMNS] {
        let run = cluster.launch(stage, &[2, 1]).await;
        cluster.cancel(run).await;
        for outcome in cluster.outcomes(run, &[2, 1]).await {
            assert_eq!(outcome.error.unwrap().fault, Fault::Cancelled);
        }
    }
    let run = cluster.launch(PASSING, &[1, 1]).await;
    cluster.close().await;
    for outcome in cluster.outcomes(run, &[1, 1]).await {
        assert_eq!(outcome.error.unwrap().fault, Fault::Cancelled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_row_fails_the_reading_and_the_worker_that_waits_for_it() {
    let (folder, mut splits) = file();
    let path = folder.path().join("bad.libsvm");
    std::fs::write(&path, "+1 1:1\n-1 3:1 2:1\n").unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    let modified = meta.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let path = path.to_str().unwrap().to_owned();
    let bad = Split { path, start: 0, end: meta.len(), file_len: meta.len(), modified, ..splits[0].clone() };
    splits.push(bad);
    let mut cluster = open(1).await;
    cluster.start_reading(schema()).await;
    let run = cluster.launch(PASSING, &[1]).await;
    cluster.give(splits);
    let error = cluster.read_done().await.unwrap_err();
    assert!(error.fault == Fault::Data && error.message.contains("bad.libsvm"), "{error}");
    let failed = cluster.outcomes(run, &[1]).await.remove(0).error.unwrap();
    assert!(failed.fault == Fault::Data && failed.message.contains("rows epoch 3 stage passing worker 0 on h1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slave_outlives_its_master_and_registers_again_when_it_is_forgotten() {
    let mut cluster = open(1).await;
    let old = cluster.peers[0].id;
    cluster.kill_master();
    // At least one heartbeat is lost meanwhile.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    cluster.master.forgotten.lock().push(old);
    cluster.restart_master().await;
    let again = async {
        loop {
            match cluster.handles[0].registered().await.unwrap() {
                id if id == old => tokio::task::yield_now().await,
                id => return id,
            }
        }
    };
    let new = tokio::time::timeout(LIMIT, again).await.expect("the slave does not register again");
    assert_eq!(cluster.master.slaves.lock().len(), 2, "registered once more as {new}");
    // What a master has forgotten is not kept.
    let ops = ToSlave::Ops { job: JobId(1), phase: 1, ops: vec![] };
    assert!(cluster.tell(&ops).await[0].as_ref().unwrap_err().message.contains("not open here"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slave_that_dropped_its_jobs_since_its_master_was_silent_is_another_one_to_it() {
    let mut cluster = open(1).await;
    let old = cluster.peers[0].id;
    cluster.kill_master();
    tokio::time::sleep(std::time::Duration::from_millis(4_500)).await;
    cluster.restart_master().await;
    let new = tokio::time::timeout(LIMIT, cluster.handles[0].registered()).await.expect("it registers anew").unwrap();
    assert_ne!(new, old);
    let slaves = cluster.master.slaves.lock();
    assert_ne!(slaves[0].incarnation, slaves[1].incarnation);
    assert!(slaves[0].same_process(&slaves[1]));
}
