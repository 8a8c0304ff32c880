//! Mutated frames through the decoders: no panic, no allocation beyond the limit, and what decodes means the same when it
//! is encoded again.

mod bodies;

use super::announced::Announced;
use super::api::{Answer, Request};
use super::checkpoint::{BlockRows, ColumnValues, FromKept, ToKept};
use super::codec;
use super::control::{FromMaster, FromSlave, Launch, Outcome, ReadBlock, ReadDone, Split, TableUse, ToMaster, ToSlave};
use super::kv::{FromShard, KeyList, Origin, Section, Seen, ToShard, Whole};
use super::moved::{ChunkHead, ChunkId, Copies, FromReceiver, Lying, MoveId, Offered, Proof, Sent, ToReceiver};
use super::packing::{Pack, Packing};
use super::slaves::{Member, Peer, Registration};
use super::snapshot::{Boundary, Marked, Moment, ToKeeper, Wanted};
use crate::announced::Touches;
use crate::curve::Optimize;
use crate::data::schema::Labels;
use crate::data::{Facts, Form, Occurring, Schema};
use crate::error::Error;
use crate::experiment::{Experiment, Splits, Switch};
use crate::home::{Home, Transfer};
use crate::ids::{InputId, JobId, SlaveId, StageRun, TableId};
use crate::metrics::{AucSketch, Metric, Metrics};
use crate::pace::Pace;
use crate::plan::{Compression, TableOp};
use crate::report::{Access, CacheUse, DiskUse, FilterUse, PackUse, SumUse};
use crate::scheduling::Scheduling;
use crate::value::Type;
use crate::worker::Touch;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Serialize, de::DeserializeOwned};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts each thread's live bytes and their peak.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: all four pass their arguments on to the system's allocator as they came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Runs `body` and returns how many bytes more than before it held at its peak.
pub fn peak<T>(body: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = body();
    ((PEAK.get() - before) as usize, result)
}

/// Changes some bytes of a frame: single bits, bytes that are special, lengths; cuts, repeats and joins pieces.
pub fn mutate(frame: &mut Vec<u8>, rng: &mut impl Rng) {
    const SPECIAL: [u8; 10] = [0, 1, 4, 0x7f, 0x80, 250, 251, 252, 253, 255];
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=frame.len());
        match rng.random_range(0..7) {
            0 => frame.truncate(at),
            1 => frame.insert(at, *SPECIAL.choose(rng).expect("not empty")),
            2 => {
                let end = rng.random_range(at..=frame.len());
                frame.extend_from_within(at..end.min(at + 1000));
            }
            _ if at == frame.len() => {}
            3 => frame[at] ^= 1 << rng.random_range(0..8),
            4 => frame[at] = *SPECIAL.choose(rng).expect("not empty"),
            5 => frame[at..].iter_mut().take(9).for_each(|b| *b = rng.random()),
            _ => drop(frame.remove(at)),
        }
    }
}

/// Puts `rounds` mutations of the samples through the decoder.
pub fn survives<M: Serialize + DeserializeOwned>(samples: &[M], rounds: usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let frames: Vec<Vec<u8>> = samples.iter().map(|m| codec::encode(m).unwrap()).collect();
    for (sample, frame) in samples.iter().zip(&frames) {
        let again = codec::decode::<M>(frame).unwrap();
        assert_eq!(&codec::encode(&again).unwrap(), frame, "{} differs", std::any::type_name_of_val(sample));
    }
    let mut decoded = 0;
    for _ in 0..rounds {
        let mut frame = frames.choose(&mut rng).expect("samples").clone();
        mutate(&mut frame, &mut rng);
        let (peak, result) = peak(|| codec::decode::<M>(&frame));
        // One claimed text, and a list of lists of lists.
        let limit = (64 << 10) + (3 << 20) + 64 * frame.len();
        assert!(peak <= limit, "{peak} bytes for a frame of {}", frame.len());
        if let Ok(message) = result {
            decoded += 1;
            let bytes = codec::encode(&message).unwrap();
            let again = codec::decode::<M>(&bytes).unwrap();
            assert_eq!(codec::encode(&again).unwrap(), bytes);
        }
    }
    assert!(decoded > 0, "no mutation decoded");
}

fn metrics() -> Metrics {
    let mut metrics = Metrics::default();
    let mut sketch = AucSketch::default();
    sketch.add(0.5, true);
    sketch.add(-0.5, false);
    metrics.add("auc", Metric::Auc(sketch));
    metrics.add("loss", Metric::Sum(0.25));
    metrics.add("rows", Metric::Count(1 << 40));
    metrics.add("worst", Metric::Max(f64::NAN));
    metrics
}

fn facts() -> Facts {
    Facts { rows: 9, positives: 4, nonzeros: 1 << 33, features: 54_686_452, max_norm2: 2.5, ..Facts::default() }
}

fn member() -> Member {
    Member { master: u64::MAX, id: SlaveId(3) }
}

fn to_master() -> Vec<ToMaster> {
    let (slave, job, input, run) = (member(), JobId(700), InputId(1), StageRun(9));
    let registration = Registration {
        name: "s1".into(),
        host: "h1".into(),
        slots: 4,
        cores: 2,
        own_cores: false,
        memory: Some(1 << 36),
        control: "127.0.0.1:7071".into(),
        bulk: "127.0.0.1:7072".into(),
        pid: 4242,
        incarnation: u64::MAX,
    };
    let outcome = Outcome {
        raced: true,
        error: Some(Error::data("row 7: no label").retryable()),
        metrics: metrics(),
        worker_seconds: 1.5,
        wait_seconds: 0.5,
        model_wait_seconds: 0.25,
        bytes_sent: 1 << 50,
        bytes_received: 12,
        rows: 300,
        pace: Pace {
            worker_waits: vec![0.5],
            worker_slept: vec![0.25],
            lead: vec![3, 1 << 40],
            most_lead: 1,
            conflicts: 7,
            control_messages: 4,
            control_bytes: 90,
        },
        tables: vec![TableUse { read_bytes: 1, written_bytes: 1 << 40, held_bytes: 3 }],
        model_disk: DiskUse { written_bytes: 1 << 40, read_bytes: 5 },
        cache: CacheUse { hits: 1 << 40, misses: 3, off: 1 },
        sums: SumUse { updates: 1 << 40, bytes: 1 << 50, sent: 300, sent_bytes: 70_000 },
        filter: FilterUse { entries: 1 << 40, held: 300, sent: 70_000, saved_bytes: 1 << 50 },
        packed: PackUse { raw_bytes: 1 << 50, bytes: 300, lz4_bytes: 1 << 40, f16_bytes: 70_000 },
        log: vec!["INFO a worker panicked".into()],
        peak_memory_bytes: 1 << 32,
    };
    let mut occurring = Occurring::default();
    occurring.note(&[5, 700, 1 << 30]);
    let done = ReadDone {
        facts: facts(),
        occurring,
        blocks: vec![ReadBlock { split: 300, offset: 1 << 40, rows: 70_000 }],
        splits: 8,
        bytes: 1 << 30,
        notes: vec!["locality is off".into()],
        ..ReadDone::default()
    };
    vec![
        ToMaster::Register(registration),
        ToMaster::Heartbeat { slave, incarnation: 7 },
        ToMaster::Leave { slave },
        ToMaster::NextSplit { slave, job, input, time: 1, read: 3 },
        ToMaster::ReadDone { slave, job, input, time: 1, result: Ok(done) },
        ToMaster::ReadDone { slave, job, input, time: 2, result: Err(Error::cancelled()) },
        ToMaster::StageDone { slave, job, run, outcome },
        ToMaster::Submit {
            name: "svrg".into(),
            params: r#"{"eta":0.1}"#.into(),
            plan_hash: 1 << 63,
            reproducible: true,
            token: 5,
            scheduling: Scheduling { priority: -3, user: "ann".into(), after: vec![job], ..Scheduling::default() },
            experiment: experiment(),
            detached: true,
        },
        ToMaster::Snapshot(Wanted { job, path: "m".into(), overwrite: true }),
        ToMaster::Api(Request { method: "POST".into(), path: "jobs/j1/cancel".into(), body: "{}".into() }),
    ]
}

fn from_master() -> Vec<FromMaster> {
    let split = Split {
        input: InputId(0),
        index: 7,
        path: "hdfs://nn:9000/rows".into(),
        start: 1 << 27,
        end: 1 << 28,
        file_len: 1 << 40,
        modified: 1_700_000_000_000,
        form: Form::Text,
        hosts: vec!["h1".into(), "h2".into()],
    };
    vec![
        FromMaster::Ok,
        FromMaster::Registered { slave: member() },
        FromMaster::Unknown,
        FromMaster::Split(Some(split)),
        FromMaster::Split(None),
        FromMaster::Later(20),
        FromMaster::Submitted(JobId(8)),
        FromMaster::Snapshot(moment()),
        FromMaster::Api(Answer { status: 404, body: r#"{"error":"no job j9"}"#.into() }),
    ]
}

fn to_slave() -> Vec<ToSlave> {
    let (job, run, input) = (JobId(1), StageRun(2), InputId(0));
    let peer = Peer { id: SlaveId(1), name: "s1".into(), bulk: "a:2".into() };
    let schema = Schema {
        index_base: 1,
        base_detected: true,
        features: Some(1000),
        labels: Labels::two(1.0, 2.0),
        labels_detected: true,
        bad_rows: 0,
    };
    let launch = Launch {
        job,
        run,
        stage: 1,
        epoch: 4,
        workers: vec![(SlaveId(1), 2), (SlaveId(2), 2)],
        scalars: [("eta".to_owned(), 0.1)].into(),
        phase: 12,
        homes: Some(vec![Home::All, Home::Some(vec![1, 7])]),
        beside: vec![StageRun(1)],
    };
    let ops = vec![
        TableOp::Copy { from: TableId(0), to: TableId(1) },
        TableOp::Scale { table: TableId(1), by: -0.0 },
        TableOp::Norm2 { table: TableId(1), into: "n".into() },
    ];
    vec![
        ToSlave::Open {
            job,
            name: "svrg".into(),
            params: "{}".into(),
            plan_hash: 1,
            slaves: vec![peer.clone(), peer],
            you: member(),
            experiment: experiment(),
        },
        ToSlave::Read { job, input, time: 1, schema },
        ToSlave::Give { job, input, index: 7, keep: 0.2 },
        ToSlave::Facts { job, input, facts: facts() },
        ToSlave::Launch(launch),
        ToSlave::Ops { job, phase: 3, ops },
        ToSlave::Move { of: MoveId { job, phase: 4 }, homes: vec![Home::Some(vec![2]), Home::All], copies: copies() },
        ToSlave::Settle {
            of: MoveId { job, phase: 4 },
            run,
            homes: vec![Home::Some(vec![2]), Home::All],
            copies: copies(),
        },
        ToSlave::Snapshot(ToKeeper::Mark { job, snapshot: 9, at: Some(Boundary { phase: 300, clock: 70_000 }) }),
        ToSlave::Snapshot(ToKeeper::Release { job, snapshot: 9 }),
        ToSlave::CancelStage { job, run, reason: "a sibling failed".into() },
        ToSlave::Close { job },
    ]
}

fn moment() -> Moment {
    Moment { phase: 70_000, stage: "train".into(), epoch: 3, clock: Some(1 << 40) }
}

fn copies() -> Copies {
    Copies { tables: vec![TableId(0), TableId(3)], to: vec![0, 2] }
}

fn experiment() -> Experiment {
    let inject = ["slow:worker=3,factor=4", "delay:slave=s2,ms=5"];
    Experiment {
        inject: inject.iter().map(|text| text.parse().unwrap()).collect(),
        transfer: Transfer::Kv,
        access: Some(Access::Racing),
        fixed_threads: Some(7),
        splits: Splits::Random,
        slave_cache: Switch::Off,
        sum_updates: true,
        compress: Some(Compression::F16),
        optimize: Optimize::Weight(0.5),
    }
}

fn announced() -> Vec<Announced> {
    let keys: Vec<u32> = (0..100).map(|i| i * i * 300).collect();
    let touches =
        [Touch { tables: &[TableId(0), TableId(2)], keys: &keys }, Touch { tables: &[TableId(1)], keys: &[0] }];
    let coded = |clock| Announced::encode(clock, &Touches::new(&touches).unwrap()).unwrap();
    vec![coded(70), coded(300)]
}

const MOVE: MoveId = MoveId { job: JobId(1), phase: 300 };
const CHUNK: ChunkId = ChunkId { table: TableId(1), chunk: 70_000 };
const HEAD: ChunkHead = ChunkHead { id: CHUNK, version: 1 << 40, element: Type::I32, keys: Some(70_000) };
const ROWS: BlockRows = BlockRows { input: InputId(1), block: 300, from: 70_000, count: 9, of: 1 << 20 };
const VALUES: ColumnValues = ColumnValues { element: Type::F64, width: 300 };
const PROOF: Proof = Proof { process: 70_000, address: 1 << 46, secret: [300, u64::MAX] };

fn to_shard() -> Vec<ToShard> {
    let origin = Origin { job: JobId(1), run: StageRun(1), worker: 3, clock: 70 };
    let packing = Packing::Lz4 { bytes: 70_000 };
    let section = |keys| Section { table: TableId(1), element: Type::F32, keys, packing };
    let sections = vec![
        section(KeyList::Inline { hash: u64::MAX, count: 1000, bytes: 2000 }),
        section(KeyList::Known { hash: 1, count: 9 }),
        section(KeyList::Range { start: 1, count: u32::MAX }),
        section(KeyList::Part { of: Whole::Known { hash: u64::MAX, count: 300 }, count: 7 }),
        section(KeyList::Part { of: Whole::Range { start: 9, count: u32::MAX }, count: 70_000 }),
    ];
    let packs = vec![Pack::Raw, Pack::Half, Pack::Lz4];
    vec![
        ToShard::Get { origin, sections: sections.clone(), seen: Seen::default(), peek: true, packs },
        ToShard::Clock {
            job: JobId(1),
            run: StageRun(1),
            slave: SlaveId(2),
            clock: u64::MAX,
            updates: 9,
            announced: Vec::new(),
        },
        ToShard::Clock {
            job: JobId(1),
            run: StageRun(1),
            slave: SlaveId(2),
            clock: 70,
            updates: 0,
            announced: announced(),
        },
        ToShard::Add { origin, sequence: 300, sections },
        ToShard::Kept { job: JobId(1), snapshot: 70_000, table: TableId(3), start: 1 << 20, count: 9 },
        ToShard::Checkpoint(ToKept::Serves { job: JobId(1), table: TableId(3), from: 1 << 17 }),
        ToShard::Checkpoint(ToKept::Give { job: JobId(1), chunk: Offered { id: CHUNK, version: 300 } }),
        ToShard::Checkpoint(ToKept::Take { job: JobId(1), chunk: HEAD }),
        ToShard::Checkpoint(ToKept::GiveColumn { job: JobId(1), column: "dual".into(), rows: ROWS }),
        ToShard::Checkpoint(ToKept::TakeColumn { job: JobId(1), column: "dual".into(), rows: ROWS, values: VALUES }),
        ToShard::Probe,
        ToShard::Blocks { job: JobId(1), input: InputId(2) },
        ToShard::Rows { job: JobId(1), input: InputId(2), at: 70_000 },
        ToShard::Move(ToReceiver::Offer {
            of: MOVE,
            chunks: vec![Offered { id: CHUNK, version: 3 }],
            proof: Some(PROOF),
        }),
        ToShard::Move(ToReceiver::InMemory {
            of: MOVE,
            chunks: vec![Lying { id: CHUNK, version: 300, element: Type::F64, address: 1 << 46, checksum: u64::MAX }],
            proof: PROOF,
        }),
        ToShard::Move(ToReceiver::Chunks {
            of: MOVE,
            chunks: vec![HEAD],
            packing,
            bytes: 1 << 20,
            checksum: u64::MAX,
            forward: vec![2, 70_000],
        }),
    ]
}

#[test]
fn mutated_control_messages_are_refused_or_mean_what_they_say() {
    survives(&to_master(), 200_000);
    survives(&from_master(), 200_000);
    survives(&to_slave(), 200_000);
    let sent = Sent {
        to: SlaveId(3),
        chunks: 1,
        bytes: 1 << 50,
        kept: 300,
        forwarded: 1 << 51,
        raw: 1 << 52,
        memory: 1 << 49,
        pace: Some(1e-9),
        copies: true,
    };
    let from_slave = [
        FromSlave::Ok,
        FromSlave::Numbers(vec![vec![], vec![(3, 1.0), (70_000, f64::NAN)]]),
        FromSlave::Marked(Marked::Kept { moment: moment(), homes: vec![Home::Some(vec![7])] }),
        FromSlave::Marked(Marked::Late(Boundary { phase: 3, clock: 300 })),
        FromSlave::Marked(Marked::Busy),
        FromSlave::Sent(vec![sent]),
        FromSlave::Kept(Some(1 << 40)),
    ];
    survives(&from_slave, 100_000);
    survives(&to_shard(), 200_000);
    let moved = [FromReceiver::Wanted { places: vec![1, 300, 70_000], reads: true }, FromReceiver::Staged]
        .map(FromShard::Moved);
    let rows = [FromShard::Blocks(300), FromShard::Rows { rows: 70_000, nonzeros: u32::MAX, values: true }];
    let packings = vec![Packing::Raw, Packing::Half { shift: -112 }, Packing::Lz4 { bytes: 300 }];
    let others = [FromShard::Values { shown: u64::MAX, packings }, FromShard::Added, FromShard::UnknownKeys];
    let kept = [
        FromKept::Served(vec![Offered { id: CHUNK, version: 3 }; 2]),
        FromKept::Chunk(HEAD),
        FromKept::Column(Some(VALUES)),
        FromKept::Column(None),
        FromKept::Taken,
    ];
    let kept = kept.map(FromShard::Checkpoint);
    let from_shard = others.into_iter().chain(rows).chain(moved).chain(kept);
    survives(&from_shard.collect::<Vec<_>>(), 50_000);
}
