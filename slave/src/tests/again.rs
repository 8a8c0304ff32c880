//! A job that is opened again without a slave that went while it read.

use super::cluster::Cluster;
use super::reading::{COLUMNS, FEATURES, LINES, PASSING, Rows, file, schema};
use flexps_common::error::Fault;
use flexps_common::ids::{InputId, JobId, StageRun, TableId};
use flexps_common::job::Registry;
use flexps_common::wire::control::{Launch, Outcome, ToSlave};

fn sum(outcomes: &[Outcome], name: &str) -> f64 {
    outcomes.iter().map(|outcome| outcome.metrics.value(name).unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_readers_read_on_and_its_stages_see_each_row_once_on_tables_and_columns_that_are_new() {
    let (_folder, mut splits) = file();
    let mut cluster = Cluster::open(Registry::new().with::<Rows>(), 2, "rows", "{}").await;
    cluster.start_reading(schema()).await;
    let old = cluster.launch(PASSING, &[1, 1]).await;
    let rest = splits.split_off(3);
    cluster.master.give(splits, false);
    cluster.master.given().await;
    cluster.load(TableId(0), 0, &[1.0, 2.0]).await.unwrap();
    assert_eq!(cluster.read(TableId(0), 0..2).await, [1.0, 2.0]);
    cluster.cancel(old).await;
    for outcome in cluster.outcomes(old, &[1, 1]).await {
        assert_eq!(outcome.error.unwrap().fault, Fault::Cancelled);
    }
    let lost = cluster.open_without_last("rows", "{}").await;
    let late = Launch { run: old, ..cluster.next_launch(PASSING, &[1]) };
    let refused = cluster.tell(&ToSlave::Launch(late)).await.remove(0).unwrap_err();
    assert!(refused.message.contains("stage run r1 follows r1"), "{refused}");
    let run = cluster.launch(PASSING, &[2]).await;
    assert!(run > StageRun(1));
    cluster.give([rest, lost].concat());
    let outcomes = cluster.outcomes(run, &[2]).await;
    assert_eq!((sum(&outcomes, "features"), outcomes[0].rows), (FEATURES, LINES));
    assert_eq!(cluster.read_done().await.unwrap().facts.rows, LINES);
    assert_eq!(cluster.read(TableId(0), 0..2).await, [0.0, 0.0]);
    for visits in 1..3 {
        assert_eq!(sum(&cluster.run(COLUMNS, &[1]).await, "visits"), (visits * LINES) as f64);
    }
    let twice = ToSlave::Read { job: JobId(1), input: InputId(0), time: 1, schema: schema() };
    assert!(cluster.tell(&twice).await[0].as_ref().unwrap_err().message.contains("read twice"));
}
