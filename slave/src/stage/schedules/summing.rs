//! Updates of siblings that are summed before they are sent, as the engine does it.

use super::{CHUNK, Case, Fault, TABLE, WORKERS, World, case, explore, others};
use crate::stage::cut::{Message, Piece, PieceKeys};
use crate::stage::exchange::{Source, Update};
use flexps_common::ids::Key;
use flexps_common::plan::Consistency;
use flexps_common::value::{Type, Values};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::lists;
use shuttle::thread;
use std::cell::Cell;
use std::sync::Arc;

thread_local! {
    /// Sums that held updates of several workers. Schedules have one thread of the system.
    static SUMS: Cell<usize> = const { Cell::new(0) };
}

impl World {
    /// Leaves a worker's update of another shard to be summed; whether it is.
    pub fn leave(&self, worker: usize, shard: usize, clock: u64) -> bool {
        let (here, local) = WORKERS[worker];
        let Some(sums) = self.runs[here].sums() else { return false };
        let (keys, places) = (PieceKeys::List(vec![worker as Key + shard as Key * CHUNK]), 0..1);
        let places = vec![places];
        let piece = Piece { item: 0, table: TABLE, element: Type::F32, width: 1, keys, places, of: None };
        let mut message = Message { shard: shard as u32, pieces: vec![piece], bytes: 4 };
        sums.take(local, &mut message, &[Values::F32(&[(1 << clock) as f32])]);
        message.pieces.is_empty()
    }

    /// Before a worker ends a clock, or its function: sends the sums if it is the last one. Whether the others hear of an
    /// update that it has sent.
    pub fn send_sums(
        self: &Arc<Self>,
        worker: usize,
        clock: u64,
        gone: bool,
        under_way: &mut Vec<thread::JoinHandle<bool>>,
    ) -> bool {
        let (here, local) = WORKERS[worker];
        let Some(sums) = self.runs[here].sums() else { return true };
        let (parts, messages) = sums.end(local, gone);
        assert!(messages.len() == parts.len() && parts.len() <= others(here).count());
        let any = !parts.is_empty();
        for part in parts {
            let world = self.clone();
            SUMS.set(SUMS.get() + usize::from(part.keys.len() > 1));
            under_way.push(thread::spawn(move || {
                let mut body = BodyWriter::default();
                body.values(part.values.borrow());
                let values = BodyReader::new(body.finish()).values(Type::F32, part.keys.len()).unwrap();
                let workers: Vec<_> = part.keys.iter().map(|key| (key % CHUNK) as usize).collect();
                let update = Update { table: TABLE, keys: lists::Keys::List(Arc::new(part.keys)), values };
                let source = Source { clock, worker: (worker - local) as u32, sequence: super::sums::FIRST };
                let taken = world.runs[part.shard as usize].add(source, vec![update]).is_ok();
                let mut seen = world.seen.lock().unwrap();
                workers.into_iter().filter(|_| taken).for_each(|of| seen.taken[of][part.shard as usize] |= 1 << clock);
                taken
            }));
        }
        any && self.case.fault != Fault::SumLate
    }
}

fn summed(fault: Fault) -> Case {
    Case { sums: true, ..case(Consistency::Bsp, fault) }
}

#[test]
fn no_read_under_bsp_misses_an_update_of_the_clock_before_that_came_in_a_sum() {
    SUMS.set(0);
    explore(summed(Fault::None));
    assert!(SUMS.get() > 100, "{} sums", SUMS.get());
}

#[test]
fn no_summed_update_is_lost_or_applied_twice_and_nobody_hangs_whenever_a_stage_is_cancelled() {
    explore(Case { cancelled: true, ..summed(Fault::None) });
}

#[test]
#[should_panic(expected = "reads nothing")]
fn a_clock_that_ends_before_its_sums_are_counted_is_noticed() {
    explore(summed(Fault::SumLate));
}
