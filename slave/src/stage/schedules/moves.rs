//! What a move of chunks promises, under schedules that shuttle draws.
//!
//! A slave sends two chunks of a table to another, each in a message of its own, which may be repeated, and overtakes
//! others; messages of a move before, which was given up, are still on their way. At some moment the next phase begins: with
//! the table at the receiver if all was answered by then, else where it was. A worker at the receiver has started before, and
//! goes on at once.

use super::run::Run;
use super::staging::Staging;
use crate::kv::{Keys, Room, Shard};
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::home::Home;
use flexps_common::ids::{JobId, Key, StageRun, TableId};
use flexps_common::plan::{Consistency, Storage, TableSpec};
use flexps_common::value::{Type, Values, ValuesMut};
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::moved::{ChunkHead, ChunkId, FromReceiver, MoveId, Offered, ToReceiver};
use flexps_common::wire::packing::Packing;
use shuttle::thread;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

const TABLE: TableId = TableId(0);
/// Elements of a key: few keys of them make a chunk.
const WIDTH: u32 = 1 << 14;
/// Two chunks of the sender's, of two shards.
const CHUNKS: [u32; 2] = [0, 2];
/// The move's phase; the one before was given up.
const PHASE: u64 = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The phase begins with the table at the receiver though not all has come.
    Hurry,
    /// Messages of the move before are taken for this one's.
    TakeOld,
    /// A chunk's version does not say that it changed.
    SameVersion,
    /// The worker does not wait until it is settled where the table lives.
    StartEarly,
}

struct World {
    fault: Fault,
    receiver: Arc<Shard>,
    staging: Staging,
    /// The stage run to which the table moves.
    run: Run,
}

fn shard(index: u32) -> Shard {
    let spec = TableSpec {
        name: "t".into(),
        element: Type::F32,
        width: WIDTH,
        storage: Storage::Dense,
        update: "add".into(),
        update_params: Vec::new(),
    };
    Shard::new(&[spec], index, 2, &Default::default(), &Room::unlimited()).unwrap()
}

fn first_key(chunk: u32, shard: &Shard) -> Key {
    chunk * shard.spec(TABLE).unwrap().chunk_keys() as Key
}

fn value(shard: &Shard, chunk: u32) -> f32 {
    let mut out = vec![0.0; WIDTH as usize];
    shard.get(TABLE, Keys::List(&[first_key(chunk, shard)]), ValuesMut::F32(&mut out)).unwrap();
    assert!(out.iter().all(|value| *value == out[0]), "a chunk in parts");
    out[0]
}

/// What the sender's chunk holds in a phase.
fn sent(chunk: u32, phase: u64) -> f32 {
    (100 * phase as u32 + chunk) as f32
}

impl World {
    /// A message of the move of `phase` with one chunk.
    fn chunk(&self, chunk: u32, phase: u64) -> (ToReceiver, Bytes) {
        let keys = self.receiver.spec(TABLE).unwrap().chunk_keys() as usize;
        let mut body = BodyWriter::default();
        body.pad();
        body.values(Values::F32(&vec![sent(chunk, phase); keys * WIDTH as usize]));
        body.pad();
        let body = body.finish();
        let of = if self.fault == Fault::TakeOld { PHASE } else { phase };
        let head = ChunkHead {
            id: ChunkId { table: TABLE, chunk },
            version: self.version(of),
            element: Type::F32,
            keys: None,
        };
        let checksum = xxh3_64(&body);
        let (packing, bytes) = (Packing::Raw, body.len() as u32);
        (ToReceiver::Chunks { of: move_of(of), chunks: vec![head], packing, bytes, checksum, forward: vec![] }, body)
    }

    /// The phase in which the sender changed its chunks last before the move of `phase`.
    fn version(&self, phase: u64) -> u64 {
        if self.fault == Fault::SameVersion { 1 } else { phase - 1 }
    }

    fn offer(&self, phase: u64) -> Result<Vec<u32>> {
        let offered = |chunk| Offered { id: ChunkId { table: TABLE, chunk }, version: self.version(phase) };
        let offer = ToReceiver::Offer { of: move_of(phase), chunks: CHUNKS.map(offered).to_vec(), proof: None };
        match self.staging.receive(&self.receiver, offer, Bytes::new())? {
            FromReceiver::Wanted { places, .. } => Ok(places),
            FromReceiver::Staged => panic!("an offer is no chunk"),
        }
    }

    /// Sends a chunk; whether it was taken.
    fn send(&self, chunk: u32, phase: u64) -> bool {
        let (message, body) = self.chunk(chunk, phase);
        self.staging.receive(&self.receiver, message, body).is_ok()
    }
}

/// The worker of the stage that the move leads to; the chunk that it added to.
fn work(world: &World) -> u32 {
    if world.fault != Fault::StartEarly {
        shuttle::future::block_on(world.run.settled.wait()).unwrap();
    }
    let moved = world.run.settled.home(TABLE).unwrap().is_here();
    let own = if moved { CHUNKS[0] } else { 1 };
    assert_eq!(value(&world.receiver, own), if moved { sent(own, PHASE) } else { 0.0 }, "what the worker finds");
    let key = first_key(own, &world.receiver);
    world.receiver.add(TABLE, Keys::List(&[key]), Values::F32(&vec![0.5; WIDTH as usize])).unwrap();
    own
}

fn move_of(phase: u64) -> MoveId {
    MoveId { job: JobId(1), phase }
}

/// Plays it; `patient` moves are waited for.
fn play(fault: Fault, patient: bool) {
    let receiver = Arc::new(shard(1));
    let run = Run::new(StageRun(2), Consistency::Ssp { staleness: 1 }, receiver.clone(), 1, []);
    let world = Arc::new(World { fault, receiver, staging: Staging::default(), run });
    let spawn = |chunk, phase| {
        let world = world.clone();
        thread::spawn(move || world.send(chunk, phase))
    };
    // A move that was given up: some of its messages are still under way.
    world.offer(PHASE - 1).unwrap();
    let old = CHUNKS.map(|chunk| spawn(chunk, PHASE - 1));
    world.staging.begin(&world.receiver, PHASE - 1, &[Home::All], &[]).unwrap();

    let worker = {
        let world = world.clone();
        thread::spawn(move || work(&world))
    };
    let wanted = world.offer(PHASE).unwrap();
    let sent_now: Vec<_> = wanted
        .iter()
        .flat_map(|place| {
            let chunk = CHUNKS[*place as usize];
            [spawn(chunk, PHASE), spawn(chunk, PHASE)]
        })
        .collect();
    let complete = patient && sent_now.into_iter().all(|message| message.join().unwrap());
    let moved = complete || fault == Fault::Hurry;
    let home = if moved { Home::Some(vec![1]) } else { Home::All };
    world.staging.begin(&world.receiver, PHASE, &[home], &[]).unwrap();

    world.run.settle(false);
    // The stage works on it at once, whatever still comes.
    assert_eq!(worker.join().unwrap(), if moved { CHUNKS[0] } else { 1 });
    old.into_iter().for_each(|message| drop(message.join()));
    if moved {
        assert_eq!(value(&world.receiver, CHUNKS[0]), sent(CHUNKS[0], PHASE) + 0.5, "the stage's own update");
        assert_eq!(value(&world.receiver, CHUNKS[1]), sent(CHUNKS[1], PHASE), "what was sent");
    } else {
        assert_eq!(value(&world.receiver, 1), 0.5, "what was here");
    }
}

fn explore(fault: Fault, patient: bool) {
    shuttle::check_random(move || play(fault, patient), 300);
    shuttle::check_pct(move || play(fault, patient), 300, 3);
}

#[test]
fn a_table_is_taken_over_as_it_was_sent_and_no_late_or_repeated_chunk_changes_it() {
    explore(Fault::None, true);
}

#[test]
fn a_move_that_is_given_up_leaves_the_table_where_and_as_it_was() {
    explore(Fault::None, false);
}

#[test]
fn a_worker_that_waits_for_a_move_ends_when_its_run_is_cancelled() {
    let play = || {
        let run = Arc::new(Run::new(StageRun(2), Consistency::Bsp, Arc::new(shard(1)), 1, []));
        let waiting = {
            let run = run.clone();
            thread::spawn(move || shuttle::future::block_on(run.settled.wait()))
        };
        run.cancel(Error::cancelled());
        assert!(waiting.join().unwrap().is_err() && run.settled.home(TABLE).is_err());
    };
    shuttle::check_random(play, 300);
    shuttle::check_pct(play, 300, 3);
}

#[test]
#[should_panic(expected = "before it is known where it lives")]
fn a_worker_that_does_not_wait_for_a_move_is_noticed() {
    explore(Fault::StartEarly, true);
}

#[test]
#[should_panic(expected = "did not come")]
fn a_phase_that_begins_before_all_has_come_is_noticed() {
    explore(Fault::Hurry, false);
}

#[test]
#[should_panic(expected = "left == right")]
fn a_message_of_an_earlier_move_that_is_taken_is_noticed() {
    explore(Fault::TakeOld, true);
}

#[test]
#[should_panic(expected = "left == right")]
fn a_version_that_does_not_tell_of_a_change_is_noticed() {
    explore(Fault::SameVersion, true);
}
