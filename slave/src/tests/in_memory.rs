//! Chunks that a receiver reads in its sender's memory, or gets in messages.

use super::copies::copied;
use super::moves::{self, CHUNK, DENSE, READ, Twin, all_at, check, check_seen, kinds};
use crate::process_memory;
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::home::{Home, Transfer};
use flexps_common::ids::JobId;
use flexps_common::plan::Compression;
use flexps_common::transport::Packet;
use flexps_common::value::{Type, Values};
use flexps_common::wire::kv::{FromShard, ToShard};
use flexps_common::wire::moved::{ChunkId, FromReceiver, Lying, MoveId, Offered, Proof, ToReceiver};
use xxhash_rust::xxh3::xxh3_64;

const BOTH: [Transfer; 2] = [Transfer::Direct, Transfer::Messages];

fn by(transfer: Transfer) -> Experiment {
    Experiment { transfer, ..Experiment::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_moves_by_memory_or_in_messages_as_asked_for_and_keeps_its_values() {
    let packed = Experiment { compress: Some(Compression::Lz4), ..by(Transfer::Direct) };
    for experiment in BOTH.map(by).into_iter().chain([packed]) {
        let (mut cluster, mut twin) = (moves::open_with(experiment.clone()).await, Twin::new());
        let (mut memory, mut raw) = (0, 0);
        for (_, workers, home) in kinds().into_iter().cycle().skip(1).take(6) {
            for sent in cluster.move_to(&all_at(&home)).await.into_iter().flat_map(Result::unwrap) {
                memory += sent.memory;
                raw += sent.raw;
            }
            cluster.run(0, &workers).await;
            twin.work(workers.iter().sum());
        }
        check(&cluster, &twin).await;
        let reads = cfg!(target_os = "linux") && experiment == Experiment::default();
        // Sparse chunks are never read.
        assert!(raw > 0 && memory < raw && (memory > 0) == reads, "{experiment:?}: {memory} of {raw}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_to_have_copies_reads_them_where_the_model_lives_and_the_sender_goes_on_serving_it() {
    for transfer in BOTH {
        let (mut cluster, mut twin) = (moves::open_with(by(transfer)).await, Twin::new());
        cluster.move_to(&all_at(&Home::on(&[0], 3))).await.into_iter().for_each(|sent| drop(sent.unwrap()));
        cluster.run(0, &[1, 0, 0]).await;
        twin.work(1);
        let sent = cluster.copy_to(&READ, &[0, 1, 2]).await;
        let memory: u64 = sent.iter().flatten().flatten().map(|sent| sent.memory).sum();
        let (bytes, forwarded, _, kept) = copied(sent);
        // Who reads needs nobody to pass it on.
        assert!(bytes >= forwarded + memory && kept == 0, "{bytes} {forwarded} {memory}");
        assert_eq!(memory > 0, cfg!(target_os = "linux") && transfer == Transfer::Direct);
        for outcome in cluster.run(2, &[1, 1, 1]).await {
            check_seen(&outcome, 1, &twin, "in copies");
        }
        check(&cluster, &twin).await;
    }
}

/// The values of a chunk of `DENSE` in this process's memory.
struct Sender(Vec<f32>);

impl Sender {
    fn new() -> Self {
        Self(vec![7.0; CHUNK as usize])
    }

    /// A message of it about chunk 1 of `DENSE`, which lives on slave 2 and is to move to slave 1.
    fn message(&self, phase: u64, change: impl FnOnce(&mut Lying, &mut Proof)) -> Packet {
        let of = MoveId { job: JobId(1), phase };
        let checksum = xxh3_64(Values::F32(&self.0).bytes());
        let (id, address) = (ChunkId { table: DENSE, chunk: 1 }, self.0.as_ptr().expose_provenance() as u64);
        let mut lying = Lying { id, version: 99, element: Type::F32, address, checksum };
        let mut proof = process_memory::proof();
        change(&mut lying, &mut proof);
        Packet::control(&ToShard::Move(ToReceiver::InMemory { of, chunks: vec![lying], proof })).unwrap()
    }
}

fn offer(phase: u64, proof: Option<Proof>) -> Packet {
    let of = MoveId { job: JobId(1), phase };
    let chunks = [1, 4].map(|chunk| Offered { id: ChunkId { table: DENSE, chunk }, version: 99 }).to_vec();
    Packet::control(&ToShard::Move(ToReceiver::Offer { of, chunks, proof })).unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_while_its_memory_is_read_leaves_the_old_model_whole() {
    let mut cluster = moves::open().await;
    cluster.run(0, &[1, 1, 1]).await;
    let mut twin = Twin::new();
    twin.work(3);
    let answer = cluster.ask_shard(0, offer(2, Some(process_memory::proof()))).await.unwrap();
    let wanted = FromReceiver::Wanted { places: vec![0, 1], reads: true };
    assert_eq!(answer.message::<FromShard>().unwrap(), FromShard::Moved(wanted));
    // One of two chunks is read, then its memory is gone with the sender.
    let sender = Sender::new();
    cluster.ask_shard(0, sender.message(2, |_, _| {})).await.unwrap();
    let gone = sender.message(2, |chunk, proof| (chunk.address, proof.process) = (8, i32::MAX as u32));
    assert!(cluster.ask_shard(0, gone).await.is_err());
    cluster.run(1, &[1, 1, 1]).await;
    check(&cluster, &twin).await;
    let late = cluster.ask_shard(0, sender.message(2, |_, _| {})).await.unwrap_err();
    assert!(late.message.contains("a chunk came for phase 2, which is over"), "{late}");
    // Later moves are not disturbed.
    cluster.move_to(&all_at(&Home::on(&[0], 3))).await.into_iter().for_each(|sent| drop(sent.unwrap()));
    cluster.run(0, &[1, 0, 0]).await;
    twin.work(1);
    check(&cluster, &twin).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_that_changed_or_is_nobodys_or_holds_what_was_not_asked_for_is_not_taken() {
    let (cluster, sender) = (moves::open().await, Sender::new());
    let message = |answer: Result<Packet>| answer.unwrap_err().message;
    assert!(message(cluster.ask_shard(0, sender.message(1, |_, _| {})).await).contains("came unasked"));
    cluster.ask_shard(0, offer(1, None)).await.unwrap();
    let refused = [
        (sender.message(1, |chunk, _| chunk.checksum ^= 1), "a wrong checksum"),
        (sender.message(1, |chunk, _| chunk.version = 98), "came unasked"),
        (sender.message(1, |chunk, _| chunk.address = 8), "the memory of process"),
        // Who does not know the secret has nothing compared.
        (sender.message(1, |_, proof| proof.secret[0] ^= 1), "a process that has none of them"),
        (sender.message(1, |_, proof| proof.process = i32::MAX as u32), "a process that has none of them"),
    ];
    for (packet, why) in refused {
        let told = message(cluster.ask_shard(0, packet).await);
        assert!(told.contains(why), "{why}: {told}");
    }
    cluster.ask_shard(0, sender.message(1, |_, _| {})).await.unwrap();
}
