//! What the workers of a slave add to other slaves' shards at a BSP clock, summed before it is sent: one update of a shard
//! for all of them.
//!
//! Each worker leaves its updates here; whoever is the last to end the clock takes their sums, and sends them before its own
//! clock ends. Updates that do not add up, consecutive keys, and what is beyond a worker's room go by it.
//!
//! Invariants: a sum holds each update once, and is made in one order, by worker and by what each left first: the same
//! updates give the same bits; a clock's sums are taken before the others can hear that it has ended, so that nobody waits for
//! more than without them, and counts of updates under way hold.

use super::sync::Mutex;
use crate::kv::Placement;
use crate::stage::cut::{MESSAGE, Message, Piece, PieceKeys, keys_of_message};
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::Consistency;
use flexps_common::report::SumUse;
use flexps_common::value::{Element, OwnedValues, Values};
use std::cmp::Ordering;

/// Bytes of values that a worker may leave here at a clock.
pub const ROOM: usize = 1 << 20;

/// Numbers of messages with sums, behind those that the worker in whose name they go has sent itself.
pub const FIRST: u64 = 1 << 63;

/// See the module.
pub struct Sums {
    /// By table: whether a sum of updates does what they do one after the other.
    add_up: Vec<bool>,
    state: Mutex<State>,
}

struct State {
    workers: Vec<Worker>,
    used: SumUse,
}

#[derive(Default)]
struct Worker {
    at: At,
    left: Vec<Part>,
    /// Of their values.
    bytes: usize,
}

/// Where a worker stands.
#[derive(Default, PartialEq)]
enum At {
    /// In a clock of which the sums were not taken.
    #[default]
    Clock,
    /// At its end.
    End,
    /// At the end of its function.
    Gone,
}

/// What is added to some keys of a table on a shard.
#[derive(Debug, PartialEq)]
pub struct Part {
    /// The shard's number.
    pub shard: u32,
    /// The table.
    pub table: TableId,
    /// Elements per key.
    pub width: usize,
    /// Rising keys,
    pub keys: Vec<Key>,
    /// and what is added to their values.
    pub values: OwnedValues,
}

impl Sums {
    /// For so many workers here; none where there is nothing to sum, or where all tables that add up are beside them.
    pub fn new(model: Consistency, workers: usize, add_up: Vec<bool>, homes: &[Placement]) -> Option<Self> {
        let some = add_up.iter().zip(homes).any(|(add_up, home)| *add_up && !home.is_here());
        (model == Consistency::Bsp && workers > 1 && some).then(|| {
            let workers = (0..workers).map(|_| Worker::default()).collect();
            Self { add_up, state: Mutex::new(State { workers, used: SumUse::default() }) }
        })
    }

    /// Takes out of a worker's update what is to be summed, with the values of each of its items.
    pub fn take(&self, worker: usize, message: &mut Message, items: &[Values<'_>]) {
        let mut state = self.state.lock();
        let State { workers, used } = &mut *state;
        let Worker { left, bytes, .. } = &mut workers[worker];
        let before = left.len();
        message.pieces.retain(|piece| {
            let size = piece.values() * piece.element.size();
            if !self.add_up[usize::from(piece.table.0)] || *bytes + size > ROOM {
                return true;
            }
            let PieceKeys::List(keys) = &piece.keys else { return true };
            *bytes += size;
            message.bytes -= size;
            used.bytes += size as u64;
            let (keys, values) = (keys.clone(), piece.gather(items[piece.item]));
            left.push(Part { shard: message.shard, table: piece.table, width: piece.width, keys, values });
            false
        });
        used.updates += u64::from(left.len() > before);
    }

    /// A worker ends its clock, or its function: if it is the last one, the sums, and the messages that it must send before,
    /// of which these are the items.
    pub fn end(&self, worker: usize, gone: bool) -> (Vec<Part>, Vec<Message>) {
        let mut state = self.state.lock();
        let State { workers, used } = &mut *state;
        workers[worker].at = if gone { At::Gone } else { At::End };
        if workers.iter().any(|worker| worker.at == At::Clock) {
            return (Vec::new(), Vec::new());
        }
        let mut parts = Vec::new();
        for worker in workers {
            parts.append(&mut worker.left);
            worker.bytes = 0;
            if worker.at == At::End {
                worker.at = At::Clock;
            }
        }
        // Nobody is at the next clock before this one has ended here: whom this keeps waiting has nothing else to do.
        let sums = sum(parts);
        let messages = messages(&sums);
        used.sent += messages.len() as u64;
        used.sent_bytes += messages.iter().map(|message| message.bytes as u64).sum::<u64>();
        (sums, messages)
    }

    /// What it was worth so far.
    pub fn used(&self) -> SumUse {
        self.state.lock().used
    }
}

/// The sums of parts, by shard and table.
fn sum(mut parts: Vec<Part>) -> Vec<Part> {
    // Stable: those of the same shard and table keep their order.
    parts.sort_by_key(|part| (part.shard, part.table));
    let (mut sums, mut rest) = (Vec::new(), parts.into_iter().peekable());
    while let Some(first) = rest.next() {
        let of = (first.shard, first.table);
        let mut same = vec![first];
        same.extend(std::iter::from_fn(|| rest.next_if(|part| (part.shard, part.table) == of)));
        // Neighbours in pairs, so that each value is looked at few times, however many the workers are.
        while same.len() > 1 {
            let mut pairs = same.into_iter();
            same = std::iter::from_fn(|| {
                let one = pairs.next()?;
                Some(match pairs.next() {
                    Some(other) => one.plus(other),
                    None => one,
                })
            })
            .collect();
        }
        sums.append(&mut same);
    }
    sums
}

impl Part {
    /// The sum of both, which are of one table.
    fn plus(self, other: Self) -> Self {
        let Self { shard, table, width, keys, values } = self;
        let (keys, values) = match (&values, &other.values) {
            (OwnedValues::F32(a), OwnedValues::F32(b)) => merge(width, (&keys, a), (&other.keys, b)),
            (OwnedValues::F64(a), OwnedValues::F64(b)) => merge(width, (&keys, a), (&other.keys, b)),
            (OwnedValues::U32(a), OwnedValues::U32(b)) => merge(width, (&keys, a), (&other.keys, b)),
            (OwnedValues::I32(a), OwnedValues::I32(b)) => merge(width, (&keys, a), (&other.keys, b)),
            _ => unreachable!("the values of a table have its type"),
        };
        Self { shard, table, width, keys, values }
    }
}

fn merge<T: Element>(width: usize, (a, of_a): (&[Key], &[T]), (b, of_b): (&[Key], &[T])) -> (Vec<Key>, OwnedValues) {
    let most = a.len() + b.len();
    let (mut keys, mut values) = (Vec::with_capacity(most), Vec::with_capacity(most * width));
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (value, other) = (&of_a[i * width..][..width], &of_b[j * width..][..width]);
        let order = a[i].cmp(&b[j]);
        match order {
            Ordering::Less => values.extend_from_slice(value),
            Ordering::Equal => values.extend(value.iter().zip(other).map(|(value, other)| value.plus(*other))),
            Ordering::Greater => values.extend_from_slice(other),
        }
        keys.push(a[i].min(b[j]));
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    for (keys_left, values_left) in [(&a[i..], &of_a[i * width..]), (&b[j..], &of_b[j * width..])] {
        keys.extend_from_slice(keys_left);
        values.extend_from_slice(values_left);
    }
    (keys, T::own(values))
}

/// Messages of sums, which are their items.
fn messages(sums: &[Part]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    for (item, part) in sums.iter().enumerate() {
        let (shard, table, width) = (part.shard, part.table, part.width);
        let element = part.values.borrow().kind();
        let most = keys_of_message(element, width);
        for (first, keys) in (0..).step_by(most).zip(part.keys.chunks(most)) {
            let (bytes, places) = (keys.len() * width * element.size(), first..first + keys.len());
            let keys = PieceKeys::List(keys.to_vec());
            let piece = Piece { item, table, element, width, keys, places: vec![places], of: None };
            match messages.last_mut() {
                Some(last) if last.shard == shard && last.bytes + bytes <= MESSAGE => {
                    last.bytes += bytes;
                    last.pieces.push(piece);
                }
                _ => messages.push(Message { shard, pieces: vec![piece], bytes }),
            }
        }
    }
    messages
}
