//! Copies of tables for stages that only read them.

use super::moves::{CHUNK, DENSE, READ, Twin, all_at, check, check_seen, chunk, kinds, open, open_with};
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::JobId;
use flexps_common::plan::TableOp;
use flexps_common::transport::Packet;
use flexps_common::wire::control::ToSlave;
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{ChunkId, FromReceiver, MoveId, Offered, Sent, ToReceiver};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_reads_copies_of_tables_that_live_in_any_way_and_sees_all_that_was_written() {
    for (from, workers, home) in kinds() {
        let (mut cluster, mut twin) = (open().await, Twin::new());
        // Twice: the second time, copies of the first are there, and what has changed since must come.
        for round in 0..2 {
            cluster.move_to(&all_at(&home)).await.into_iter().for_each(|sent| drop(sent.unwrap()));
            cluster.run(0, &workers).await;
            twin.work(workers.iter().sum());
            for readers in [[1, 2, 1], [0, 1, 1]] {
                let to: Vec<u32> = (0..3).filter(|shard| readers[*shard as usize] > 0).collect();
                cluster.copy_to(&READ, &to).await.into_iter().for_each(|sent| drop(sent.unwrap()));
                let outcomes = cluster.run(2, &readers).await;
                for (outcome, count) in outcomes.iter().zip(readers.into_iter().filter(|count| *count > 0)) {
                    check_seen(outcome, count, &twin, &format!("{from}, round {round}, to {to:?}"));
                    assert_eq!(outcome.bytes_received, 0, "all of it was beside the workers");
                }
            }
            // Whoever comes next finds the tables where they live.
            check(&cluster, &twin).await;
        }
    }
}

/// Bytes, forwarded ones, chunks and kept ones of what was sent as copies.
pub fn copied(sent: Vec<Result<Vec<Sent>>>) -> (u64, u64, u64, u64) {
    let all: Vec<_> = sent.into_iter().flat_map(Result::unwrap).collect();
    assert!(all.iter().all(|sent| sent.copies));
    let sum = |of: fn(&Sent) -> u64| all.iter().map(of).sum::<u64>();
    (sum(|s| s.bytes), sum(|s| s.forwarded), sum(|s| s.chunks), sum(|s| s.kept))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_sends_each_chunk_once_whoever_is_to_have_it_and_none_that_all_have() {
    let mut cluster = open_with(Experiment { transfer: Transfer::Messages, ..Experiment::default() }).await;
    cluster.move_to(&all_at(&Home::on(&[0], 3))).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    cluster.run(0, &[1, 0, 0]).await;
    let (bytes, forwarded, chunks, kept) = copied(cluster.copy_to(&[DENSE], &[0, 1, 2]).await);
    // Ten chunks to two slaves: half of the bytes go on from one of these to the other.
    assert_eq!((bytes, forwarded, chunks, kept), (10 * 4 * u64::from(CHUNK), bytes, 20, 0));
    cluster.run(2, &[1, 1, 1]).await;
    assert_eq!(copied(cluster.copy_to(&[DENSE], &[0, 1, 2]).await), (0, 0, 0, 20));
    cluster.run(2, &[1, 1, 1]).await;
    // One slave lacks what the others have.
    cluster.ops(&[TableOp::Scale { table: DENSE, by: 2.0 }]).await;
    copied(cluster.copy_to(&[DENSE], &[0, 1]).await);
    cluster.run(2, &[1, 1, 0]).await;
    let (bytes, forwarded, chunks, kept) = copied(cluster.copy_to(&[DENSE], &[0, 1, 2]).await);
    assert_eq!((bytes, forwarded, chunks, kept), (10 * 4 * u64::from(CHUNK), 0, 10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_updates_what_it_only_reads_fails_and_one_that_may_update_gets_no_copy() {
    let mut cluster = open().await;
    let run = cluster.launch(3, &[1, 0, 0]).await;
    let outcome = cluster.next_outcome(run).await;
    assert!(outcome.error.unwrap().message.contains("an update of table dense, which the stage only reads"));
    assert!(cluster.read(DENSE, 0..2).await == [0.0, 0.0]);
    cluster.copy_to(&[DENSE], &[1]).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    let run = cluster.launch_open(0, &[0, 1, 0]).await;
    let message = ToSlave::Settle {
        of: MoveId { job: JobId(1), phase: 2 },
        run,
        homes: all_at(&Home::All),
        copies: cluster.copies.lock().clone(),
    };
    let refused = cluster.tell(&message).await.remove(1).unwrap_err();
    assert!(refused.message.contains("a copy of table t0 for a stage that may update it"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_whose_sender_dies_half_way_is_not_read() {
    let (mut cluster, mut twin) = (open().await, Twin::new());
    cluster.run(0, &[1, 1, 1]).await;
    twin.work(3);
    // Slave 2, which serves chunks 1 and 4, sends slave 1 the first of them, to be passed on to slave 3.
    let of = MoveId { job: JobId(1), phase: 2 };
    let offered = [1, 4].map(|chunk| Offered { id: ChunkId { table: DENSE, chunk }, version: 99 });
    for shard in [0, 2] {
        let offer = ToShard::Move(ToReceiver::Offer { of, chunks: offered.to_vec(), proof: None });
        cluster.ask_shard(shard, Packet::control(&offer).unwrap()).await.unwrap();
    }
    let message = chunk(2, false);
    let ToShard::Move(ToReceiver::Chunks { of, chunks, packing, bytes, checksum, .. }) = message.message().unwrap()
    else {
        panic!()
    };
    let forward = vec![2];
    let message = ToShard::Move(ToReceiver::Chunks { of, chunks, packing, bytes, checksum, forward });
    let answer = cluster.ask_shard(0, Packet::bulk(&message, chunk(2, false).body).unwrap()).await.unwrap();
    assert_eq!(answer.message::<FromShard>().unwrap(), FromShard::Moved(FromReceiver::Staged));
    // Then it dies: the stage reads over the shards, as if nothing had come.
    let readers = [1, 1, 1];
    for outcome in cluster.run(2, &readers).await {
        check_seen(&outcome, 1, &twin, "over the shards");
        assert!(outcome.bytes_received > 0);
    }
    // A later one finds out that what lies there is not what it needs.
    cluster.copy_to(&READ, &[0, 1, 2]).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    for outcome in cluster.run(2, &readers).await {
        check_seen(&outcome, 1, &twin, "in copies");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_that_can_not_be_passed_on_is_not_acknowledged() {
    let cluster = open().await;
    let of = MoveId { job: JobId(1), phase: 1 };
    let offer = Offered { id: ChunkId { table: DENSE, chunk: 1 }, version: 99 };
    let offer = ToShard::Move(ToReceiver::Offer { of, chunks: vec![offer], proof: None });
    cluster.ask_shard(0, Packet::control(&offer).unwrap()).await.unwrap();
    let ToShard::Move(ToReceiver::Chunks { chunks, packing, bytes, checksum, .. }) = chunk(1, false).message().unwrap()
    else {
        panic!()
    };
    // Slave 3 was not offered it.
    let message = ToShard::Move(ToReceiver::Chunks { of, chunks, packing, bytes, checksum, forward: vec![2] });
    let refused = cluster.ask_shard(0, Packet::bulk(&message, chunk(1, false).body).unwrap()).await.unwrap_err();
    assert!(refused.message.contains("came unasked"), "{refused}");
}
