//! A worker's updates on their way through its filter.
//!
//! Invariant: a filter sees what goes to other slaves alone; what it lets go later is sent before the others hear that its
//! clock, or the worker, has ended.

use super::backend::Engine;
use super::cut::{Cutter, Item, Message, PieceKeys};
use super::exchange::owned;
use super::items::describe;
use crate::kv::Keys;
use flexps_common::error::Result;
use flexps_common::value::{OwnedValues, Values, ValuesMut};
use flexps_common::wire::lists;
use std::sync::Arc;

impl Engine {
    /// The worker has these values now.
    pub(super) fn have_read(&mut self, items: &[Item<'_>], out: &[ValuesMut<'_>]) {
        let Some(filter) = &mut self.filter else { return };
        for (item, out) in items.iter().zip(out).filter(|(item, _)| !item.home.is_here()) {
            filter.read(item.table, item.keys, out.borrow());
        }
    }

    /// Sends an update's message, but for what is held back, with what was held back of the same keys.
    pub(super) fn filter_update(&mut self, mut message: Message, values: &[Values<'_>]) -> Result<()> {
        let changed = self.hold_back(&mut message, values);
        if changed.is_empty() {
            return self.pass_update(message, values);
        }
        let values: Vec<_> = values.iter().copied().chain(changed.iter().map(OwnedValues::borrow)).collect();
        self.pass_update(message, &values)
    }

    /// Takes out of a message what is held back. Pieces with other keys or values than before are then of items behind the
    /// present ones: of the values that come back.
    fn hold_back(&mut self, message: &mut Message, values: &[Values<'_>]) -> Vec<OwnedValues> {
        let mut changed = Vec::new();
        let (clock, Some(filter)) = (self.clock, &mut self.filter) else { return changed };
        message.pieces.retain_mut(|piece| {
            let (of, before) = (piece.gather(values[piece.item]), piece.values());
            let going = match &piece.keys {
                PieceKeys::List(keys) => filter.update(clock, piece.table, Keys::List(keys), of.borrow()),
                PieceKeys::Range { start, count } => {
                    filter.update(clock, piece.table, Keys::Range { start: *start, count: *count }, of.borrow())
                }
            };
            let Some(going) = going else { return true };
            let (left, places) = (going.keys.len(), 0..going.keys.len());
            let whole = match std::mem::replace(&mut piece.keys, PieceKeys::List(going.keys)) {
                PieceKeys::List(keys) => lists::Keys::List(Arc::new(keys)),
                PieceKeys::Range { start, count } => owned(Keys::Range { start, count }),
            };
            // Where none was held back the shard may know them by their list.
            piece.of = (left < whole.len()).then_some(whole);
            piece.item = values.len() + changed.len();
            piece.places = vec![places];
            message.bytes -= (before - piece.values()) * piece.element.size();
            changed.push(going.values);
            left > 0
        });
        changed
    }

    /// Before the worker ends `clock`, or its function, which have begun: sends what may not be held back any longer.
    pub(super) fn send_due(&mut self, clock: u64) -> Result<()> {
        let due = self.filter.as_mut().map(|filter| filter.due(clock)).unwrap_or_default();
        if due.is_empty() {
            return Ok(());
        }
        let (job, run) = (self.job.clone(), self.run.clone());
        let items: Vec<_> = due.iter().map(|going| (going.table, Keys::List(&going.keys))).collect();
        let items = describe(&job, &run, &items)?;
        let values: Vec<_> = due.iter().map(|going| going.values.borrow()).collect();
        self.remember(&items);
        // None of them is this slave's: such an update never came to the filter.
        let mut cutter = Cutter::new(&items)?;
        while let Some(message) = cutter.message() {
            self.pass_update(message, &values)?;
        }
        Ok(())
    }
}
