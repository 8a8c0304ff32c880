//! Tables that go to a checkpoint chunk by chunk, and come back to other slaves.

use super::cluster::Cluster;
use super::moves::{READ, Twin, all_at, check, kinds, open};
use bytes::Bytes;
use flexps_common::error::Result;
use flexps_common::home::Home;
use flexps_common::ids::{InputId, JobId};
use flexps_common::transport::Packet;
use flexps_common::value::{Type, Values};
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::checkpoint::{BlockRows, ColumnValues, FromKept, ToKept};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::ChunkHead;

const JOB: JobId = JobId(1);

async fn told(cluster: &Cluster, shard: usize, message: ToKept, body: Bytes) -> Result<(FromKept, Bytes)> {
    let answer = cluster.ask_shard(shard, Packet::bulk(&ToShard::Checkpoint(message), body).unwrap()).await?;
    match answer.message()? {
        FromShard::Checkpoint(told) => Ok((told, answer.body)),
        other => panic!("{other:?}"),
    }
}

/// All chunks of all tables, each from the slave that serves it.
async fn kept(cluster: &Cluster) -> Vec<(ChunkHead, Bytes)> {
    let mut chunks = Vec::new();
    for table in READ {
        for shard in 0..3 {
            let (mut from, mut last) = (0, None);
            loop {
                let asked = told(cluster, shard, ToKept::Serves { job: JOB, table, from }, Bytes::new()).await.unwrap();
                let FromKept::Served(served) = asked.0 else { panic!("{asked:?}") };
                assert!(served.is_sorted_by_key(|chunk| chunk.id.chunk) && served.iter().all(|c| c.id.chunk >= from));
                let Some(chunk) = served.first().copied().filter(|chunk| Some(chunk.id.chunk) != last) else { break };
                let given = told(cluster, shard, ToKept::Give { job: JOB, chunk }, Bytes::new()).await.unwrap();
                let (FromKept::Chunk(head), values) = given else { panic!("{given:?}") };
                chunks.push((head, values));
                (from, last) = (chunk.id.chunk + 1, Some(chunk.id.chunk));
            }
        }
    }
    chunks
}

async fn take(cluster: &Cluster, shard: usize, chunk: ChunkHead, values: Bytes) -> Result<FromKept> {
    Ok(told(cluster, shard, ToKept::Take { job: JOB, chunk }, values).await?.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_come_back_as_they_were_wherever_they_lived_and_go_on_from_there() {
    for (from, workers, home) in kinds() {
        let (mut cluster, mut twin) = (open().await, Twin::new());
        cluster.move_to(&all_at(&home)).await.into_iter().for_each(|sent| drop(sent.unwrap()));
        // What waits for the end of the stage is in it.
        cluster.run(0, &workers).await;
        twin.work(workers.iter().sum());
        let chunks = kept(&cluster).await;
        cluster.close().await;
        let mut cluster = open().await;
        for (head, values) in chunks {
            let owner = Home::All.owner(head.id.chunk.into(), 3) as usize;
            assert_eq!(take(&cluster, owner, head, values).await.unwrap(), FromKept::Taken);
        }
        check(&cluster, &twin).await;
        cluster.move_to(&all_at(&Home::on(&[1], 3))).await.into_iter().for_each(|sent| drop(sent.unwrap()));
        cluster.run(0, &[0, 2, 0]).await;
        twin.work(2);
        println!("{from}");
        check(&cluster, &twin).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut cluster = open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let mut twin = Twin::new();
    twin.work(3);
    let chunks = kept(&cluster).await;
    let (head, values) = chunks.iter().find(|(head, _)| head.id.table == READ[0]).unwrap().clone();
    let owner = Home::All.owner(head.id.chunk.into(), 3) as usize;
    let refused = async |shard, head, values| take(&cluster, shard, head, values).await.unwrap_err().message;
    let elsewhere = refused((owner + 1) % 3, head, values.clone()).await;
    assert!(elsewhere.contains("is served by shard"), "{elsewhere}");
    let typed = refused(owner, ChunkHead { element: Type::F64, ..head }, values.clone()).await;
    assert!(typed.contains("holds f32"), "{typed}");
    let mut beyond = head;
    beyond.id.chunk = 1 << 16;
    let beyond = refused(owner, beyond, values.clone()).await;
    assert!(beyond.contains("has no chunk"), "{beyond}");
    for (keys, values) in [(Some(3), values.clone()), (None, values.slice(..8))] {
        refused(owner, ChunkHead { keys, ..head }, values).await;
    }
    check(&cluster, &twin).await;
}

fn body(values: Values<'_>) -> Bytes {
    let mut body = BodyWriter::default();
    body.bytes(values.bytes());
    body.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rows_keep_is_given_and_taken_row_by_row() {
    let cluster = open().await;
    let rows = |from, count| BlockRows { input: InputId(0), block: 3, from, count, of: 5 };
    let pairs = ColumnValues { element: Type::F32, width: 2 };
    let give = async |rows| {
        told(&cluster, 1, ToKept::GiveColumn { job: JOB, column: "dual".to_owned(), rows }, Bytes::new()).await
    };
    let take = async |rows, values, body| {
        told(&cluster, 1, ToKept::TakeColumn { job: JOB, column: "dual".to_owned(), rows, values }, body).await
    };
    assert_eq!(give(rows(0, 5)).await.unwrap(), (FromKept::Column(None), Bytes::new()));
    let taken = take(rows(3, 2), pairs, body(Values::F32(&[7.0, 8.0, 9.0, 10.0]))).await.unwrap();
    assert_eq!(taken.0, FromKept::Taken);
    take(rows(0, 1), pairs, body(Values::F32(&[1.0, 2.0]))).await.unwrap();
    let whole = [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 9.0, 10.0];
    assert_eq!(give(rows(0, 5)).await.unwrap(), (FromKept::Column(Some(pairs)), body(Values::F32(&whole))));
    assert_eq!(give(rows(2, 2)).await.unwrap().1, body(Values::F32(&whole[4..8])));
    // What does not fit is refused and changes nothing.
    let one = ColumnValues { width: 1, ..pairs };
    let refused = [
        give(rows(2, 4)).await,
        give(BlockRows { of: 7, ..rows(0, 5) }).await,
        take(rows(4, 2), pairs, body(Values::F32(&[0.5; 4]))).await,
        take(rows(0, 2), one, body(Values::F32(&[0.5; 2]))).await,
        take(rows(0, 1), ColumnValues { element: Type::U32, width: 2 }, body(Values::U32(&[1, 2]))).await,
        take(rows(0, 1), pairs, body(Values::F32(&[0.5; 4]))).await,
    ];
    refused.into_iter().for_each(|answer| _ = answer.unwrap_err());
    assert_eq!(give(rows(0, 5)).await.unwrap().1, body(Values::F32(&whole)));
}
