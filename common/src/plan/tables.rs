//! The tables of a plan, and what the servers do to them whole.

use crate::ids::TableId;
use crate::value::Type;
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// A typed handle to a table of the plan.
#[derive(Debug)]
pub struct Table<T> {
    /// Its place in the plan.
    pub id: TableId,
    /// Elements per key.
    pub width: u32,
    element: PhantomData<fn() -> T>,
}

impl<T> Table<T> {
    /// The handle of table `id`, whose elements are of type `T`.
    pub(super) fn new(id: TableId, width: u32) -> Self {
        Self { id, width, element: PhantomData }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

/// How a chunk keeps its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// An array per chunk, made when the chunk is first written.
    Dense,
    /// A hash table per chunk.
    Sparse,
}

/// A table of the plan. Its keys are 0..2^32; chunks nobody touches take no memory, so no count is needed beforehand. A job
/// with larger keys, or with texts, must hash them to 32 bits. Ranges of keys are half open, so that the last key, 2^32 - 1, is
/// reached by lists alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableSpec {
    /// What the report and the model call it; no other table of the plan is called so.
    pub name: String,
    /// Element type.
    pub element: Type,
    /// Elements per key, from 1 to [`super::WIDEST`].
    pub width: u32,
    /// Dense or sparse chunks.
    pub storage: Storage,
    /// The update function that an Add runs: one of the engine's, `add`, `assign`, `max`, `sgd`, `adagrad` or `ftrl` (see
    /// [`crate::updates::Engine`]), or one that the user registered ([`crate::job::Registry::update`]). All start at zero,
    /// also `max`, so that it never falls below.
    pub update: String,
    /// The function's parameters, e.g. the step size.
    pub update_params: Vec<f64>,
}

impl TableSpec {
    /// Keys of one chunk: a power of two, at most 2^16, so that a chunk takes 256 KiB or less unless one key is wider.
    pub fn chunk_keys(&self) -> u32 {
        let fits = (1 << 18) / (self.width as usize * self.element.size()).max(1);
        1 << fits.clamp(1, 1 << 16).ilog2()
    }
}

/// What the servers do to whole tables, without traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum TableOp {
    /// `to = from`; equal widths and types.
    Copy {
        /// Source.
        from: TableId,
        /// Destination.
        to: TableId,
    },
    /// All values 0.
    Zero {
        /// The table.
        table: TableId,
    },
    /// `table *= by`, in f64 and back: an integer loses its fraction, and stays at its type's limit where it would pass it.
    Scale {
        /// The table.
        table: TableId,
        /// The factor.
        by: f64,
    },
    /// Puts the squared Euclidean norm, summed in f64 in chunk order, into a scalar.
    Norm2 {
        /// The table.
        table: TableId,
        /// Name of the scalar.
        into: String,
    },
}
