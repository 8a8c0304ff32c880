//! Where stage runs lie in a slave's row: a lane per slot.
//!
//! Invariant: at no time two pieces share a lane.

use flexps_master::simulate::Trace;
use std::time::Duration;

/// A part of a run on one slave that lies on neighbouring lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Its place in the trace.
    pub run: usize,
    /// Its slave's place.
    pub slave: usize,
    /// The first lane.
    pub lane: u32,
    /// How many.
    pub lanes: u32,
}

/// The pieces of the first `slaves` slaves, by start; a run takes the lowest lanes that are free. The second is the number
/// of run parts for which the trace has no lane left, which happens only in live traces whose clocks overlap.
pub fn lanes(trace: &Trace, slaves: usize) -> (Vec<Piece>, usize) {
    let mut order: Vec<usize> = (0..trace.runs.len()).collect();
    order.sort_by_key(|run| (trace.runs[*run].start, *run));
    let mut free: Vec<Vec<Duration>> =
        trace.slaves.iter().take(slaves).map(|s| vec![Duration::ZERO; s.slots as usize]).collect();
    let (mut pieces, mut lost) = (Vec::new(), 0);
    for run in order {
        let of = &trace.runs[run];
        for (slave, threads) in &of.workers {
            let slave = *slave as usize;
            let Some(lanes) = free.get_mut(slave) else { continue };
            let mut left = *threads;
            let mut piece: Option<Piece> = None;
            for (lane, until) in lanes.iter_mut().enumerate() {
                if left == 0 {
                    break;
                }
                if *until > of.start {
                    pieces.extend(piece.take());
                    continue;
                }
                *until = of.end;
                left -= 1;
                match &mut piece {
                    Some(piece) => piece.lanes += 1,
                    None => piece = Some(Piece { run, slave, lane: lane as u32, lanes: 1 }),
                }
            }
            pieces.extend(piece);
            lost += usize::from(left > 0);
        }
    }
    (pieces, lost)
}
