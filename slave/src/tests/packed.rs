//! Values that go packed from slave to slave: what arrives, what it takes, and what is refused.

use super::cluster::Cluster;
use super::moves::{self, CHUNK, DENSE, Twin, all_at, check, kinds};
use flexps_common::error::Result;
use flexps_common::experiment::Experiment;
use flexps_common::ids::{JobId, Key, StageRun, TableId};
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Compression, Consistency, Plan, Table};
use flexps_common::report::PackUse;
use flexps_common::transport::Packet;
use flexps_common::value::{Element, Type, Values};
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::kv::{KeyList, Origin, Section, ToShard};
use flexps_common::wire::moved::{ChunkHead, ChunkId, MoveId, Offered, ToReceiver};
use flexps_common::wire::packing::{Pack, Packing, pack};
use flexps_common::worker::Worker;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const CLOCKS: u64 = 10;
const ROUGH: TableId = TableId(0);
const EXACT: TableId = TableId(1);
/// Keys that each worker reads and updates of each table on each slave at each clock.
const KEYS: u64 = 500;

#[derive(Clone, clap::Args, Serialize, Deserialize)]
struct Mixing {}

impl Job for Mixing {
    const NAME: &'static str = "mixing";
    const ABOUT: &'static str = "A stage whose workers add a part of what they have read";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let [rough, exact] = ["rough", "exact"].map(|name| plan.table::<f32>(name, 1));
        let mix = move |worker: &mut Worker<'_>| mix(worker, [rough, exact]);
        plan.body.stage("mix", mix).consistency(Consistency::Bsp).may_round(rough);
        Ok(())
    }
}

/// Keys that lie on both slaves: the next chunk is the other one's.
fn keys() -> Vec<Key> {
    let ours = (0..KEYS as Key).map(|key| 3 * key);
    ours.clone().chain(ours.map(|key| CHUNK + key)).collect()
}

/// Numbers of several sizes, no few of them beyond what a 16-bit float holds.
fn mix(worker: &mut Worker<'_>, tables: [Table<f32>; 2]) -> Result<()> {
    let (keys, mut seen) = (keys(), Vec::new());
    for _ in 0..CLOCKS {
        for table in tables {
            worker.get(table, &keys, &mut seen)?;
            let size = |at: usize| if at.is_multiple_of(5) { 1e5 } else { (at / 10) as f32 };
            let own = 0.1 * (worker.place.index as f32 + 1.0);
            let changes: Vec<_> = seen.iter().enumerate().map(|(at, x)| size(at) + own + 0.125 * x).collect();
            worker.add(table, &keys, &changes)?;
        }
        worker.clock()?;
    }
    Ok(())
}

/// The values of both tables in the end, and what they took on their way.
async fn run(compress: Compression) -> ([Vec<f32>; 2], PackUse) {
    let experiment = Experiment { compress: Some(compress), ..Experiment::default() };
    let mut cluster = Cluster::open_with(Registry::new().with::<Mixing>(), 2, "mixing", "{}", experiment).await;
    let mut used = PackUse::default();
    cluster.run(0, &[1, 1]).await.iter().for_each(|outcome| used.merge(&outcome.packed));
    let mut values = [ROUGH, EXACT].map(|_| Vec::new());
    for (table, values) in [ROUGH, EXACT].into_iter().zip(&mut values) {
        for start in [0, CHUNK] {
            values.extend(cluster.read(table, start..start + 3 * KEYS as Key).await);
        }
    }
    (values, used)
}

/// Each worker reads and updates the other slave's keys of both tables at each clock.
const RAW: u64 = 4 * 2 * 2 * 2 * KEYS * CLOCKS;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lz4_changes_no_bit_under_bsp_and_takes_fewer_bytes() {
    let (raw, none) = run(Compression::None).await;
    let (values, packed) = run(Compression::Lz4).await;
    let bits = |values: [Vec<f32>; 2]| values.map(|values| values.into_iter().map(f32::to_bits).collect::<Vec<_>>());
    assert!(bits(raw) == bits(values), "other bits");
    assert_eq!(none, PackUse::default());
    assert_eq!((packed.raw_bytes, packed.lz4_bytes, packed.f16_bytes), (RAW, RAW, 0));
    assert!(10 * packed.bytes < 9 * RAW, "{packed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_packs_nothing_within_a_machine() {
    let (raw, _) = run(Compression::None).await;
    let (values, used) = run(Compression::Auto).await;
    assert!(raw == values);
    assert_eq!(used, PackUse { raw_bytes: RAW, bytes: RAW, ..PackUse::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f16_rounds_the_tables_that_the_stage_lets_it_round_and_no_others() {
    let (raw, _) = run(Compression::None).await;
    let (values, packed) = run(Compression::F16).await;
    assert_eq!(packed, PackUse { raw_bytes: RAW, bytes: RAW * 3 / 4, lz4_bytes: 0, f16_bytes: RAW / 2 });
    assert!(raw[1] == values[1], "a table that must not be rounded was");
    assert!(raw[0] != values[0], "nothing was rounded");
    // At each clock what was read, and a part of it that is added, is off by 2^-11 at most.
    let most = 2.0 * CLOCKS as f32 / 2048.0;
    for (key, (value, exact)) in values[0].iter().zip(&raw[0]).enumerate() {
        assert!((value - exact).abs() <= most * exact.abs(), "{value} for {exact} at {key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_move_packed_keep_their_values_between_stages_of_every_kind() {
    for (from, workers, home) in kinds() {
        for (to, next_workers, next_home) in kinds() {
            let experiment = Experiment { compress: Some(Compression::Lz4), ..Experiment::default() };
            let (mut cluster, mut twin) = (moves::open_with(experiment).await, Twin::new());
            let (mut raw, mut bytes) = (0, 0);
            for (workers, home) in [(workers, &home), (next_workers, &next_home)] {
                for sent in cluster.move_to(&all_at(home)).await.into_iter().flat_map(Result::unwrap) {
                    raw += sent.raw;
                    bytes += sent.bytes + sent.forwarded;
                }
                cluster.run(0, &workers).await;
                twin.work(workers.iter().sum());
            }
            check(&cluster, &twin).await;
            assert!(raw == 0 || 2 * bytes < raw, "from {from} to {to}: {raw} bytes went as {bytes}");
            assert!(raw > 0 || home == next_home, "from {from} to {to}: nothing moved");
        }
    }
}

/// A chunk of sevens, packed, then made into what nobody may send.
async fn refused(change: impl FnOnce(&mut Packing, &mut u32, &mut Vec<u8>)) -> String {
    let cluster = moves::open().await;
    let (of, id) = (MoveId { job: JobId(1), phase: 1 }, ChunkId { table: DENSE, chunk: 1 });
    let offer = ToShard::Move(ToReceiver::Offer { of, chunks: vec![Offered { id, version: 99 }], proof: None });
    cluster.ask_shard(0, Packet::control(&offer).unwrap()).await.unwrap();
    let values = vec![7.0; CHUNK as usize];
    let (mut packing, mut body) = pack(Values::F32(&values).bytes(), Type::F32, Pack::Lz4).unwrap();
    let mut bytes = 4 * CHUNK;
    change(&mut packing, &mut bytes, &mut body);
    let chunks = vec![ChunkHead { id, version: 99, element: f32::TYPE, keys: None }];
    let message = ToReceiver::Chunks { of, chunks, packing, bytes, checksum: xxh3_64(&body), forward: vec![] };
    let answer = cluster.ask_shard(0, Packet::bulk(&ToShard::Move(message), body.into()).unwrap()).await;
    answer.err().map_or("taken".into(), |error| error.message)
}

/// Whether an error says what is wrong with packed values.
fn is_told(error: &str) -> bool {
    let told = ["values can't be unpacked: ", " bytes in packed values of ", " bytes as ", "a bulk message's part of "];
    told.iter().any(|words| error.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_chunks_that_are_cut_short_or_rounded_or_garbage_are_refused() {
    assert_eq!(refused(|_, _, _| {}).await, "taken");
    let short = refused(|_, _, body| body.truncate(body.len() / 2)).await;
    assert!(is_told(&short), "{short}");
    let garbage = refused(|_, _, body| body.fill(0xa5)).await;
    assert!(is_told(&garbage), "{garbage}");
    let many = refused(|_, bytes, _| *bytes = u32::MAX - 3).await;
    assert!(many.contains("at most 67108864 bytes are allowed"), "{many}");
    let rounded = refused(|packing, _, _| *packing = Packing::Half { shift: 0 }).await;
    assert_eq!(rounded, "chunks came rounded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_whose_packed_values_are_garbage_is_refused_and_changes_nothing() {
    let cluster = moves::open().await;
    let origin = Origin { job: JobId(1), run: StageRun(0), worker: 0, clock: 0 };
    let keys = KeyList::Range { start: 0, count: 1000 };
    for (packing, bytes) in [
        (Packing::Lz4 { bytes: 640 }, 640),
        (Packing::Lz4 { bytes: 1 }, 1),
        (Packing::Lz4 { bytes: u32::MAX }, 640),
        (Packing::Half { shift: 0 }, 640),
        (Packing::Half { shift: 127 }, 2000),
    ] {
        let mut body = BodyWriter::default();
        body.bytes(&vec![0xa5; bytes]);
        let sections = vec![Section { table: DENSE, element: Type::F32, keys, packing }];
        let update = ToShard::Add { origin, sequence: 0, sections };
        let refused = cluster.ask_shard(0, Packet::bulk(&update, body.finish()).unwrap()).await.unwrap_err();
        assert!(is_told(&refused.message), "{packing:?}: {refused}");
    }
    assert!(cluster.read(DENSE, 0..1000).await.iter().all(|value| *value == 0.0));
}
