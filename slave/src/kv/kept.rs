//! What a chunk keeps for a snapshot when it is changed behind it.
//!
//! Invariant: of one snapshot only the first values count; where memory for models is counted, they go to disk, so that a
//! snapshot takes none.

use super::chunk::{Blank, Data};
use super::tier::{Extent, Tier};
use flexps_common::error::{Error, Result};
use flexps_common::value::Element;

/// See the module.
pub(super) struct Kept<T> {
    /// Of which snapshot; 0 for none.
    of: u64,
    values: Place<T>,
}

enum Place<T> {
    Nowhere,
    Memory(Data<T>),
    /// Stays when it is not needed any more, for the next.
    Disk(Extent),
    /// They could not be written, which only who reads the snapshot needs to know.
    Lost(Error),
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { of: 0, values: Place::Nowhere }
    }
}

impl<T: Element> Kept<T> {
    /// Keeps `data` for a snapshot, unless it has what that needs.
    #[cold]
    pub(super) fn keep(&mut self, snapshot: u64, data: &Data<T>, tier: &Tier, blank: Blank) {
        if self.of == snapshot {
            return;
        }
        self.of = snapshot;
        let before = std::mem::replace(&mut self.values, Place::Nowhere);
        self.values = match (data, before) {
            (Data::Dense(values), before) if tier.is_limited() => {
                let before = if let Place::Disk(extent) = before { Some(extent) } else { None };
                tier.write(bytemuck::cast_slice::<T, u8>(values), before).map_or_else(Place::Lost, Place::Disk)
            }
            (_, before) => {
                let mut kept = if let Place::Memory(kept) = before { kept } else { blank.zeros(&tier.memory) };
                kept.copy(data, blank.width);
                Place::Memory(kept)
            }
        };
    }

    /// Calls `read` with what is kept for a snapshot; whether it did: else the chunk is as it was then.
    pub(super) fn read(&self, snapshot: u64, tier: &Tier, blank: Blank, read: impl FnOnce(&Data<T>)) -> Result<bool> {
        if self.of != snapshot {
            return Ok(false);
        }
        match &self.values {
            Place::Nowhere => return Ok(false),
            Place::Memory(kept) => read(kept),
            Place::Disk(extent) => {
                let data = Data::load(Some(extent), tier, blank)?;
                read(&data);
                data.recycle(tier);
            }
            Place::Lost(error) => return Err(error.clone()),
        }
        Ok(true)
    }

    /// Nobody needs it any more.
    pub(super) fn release(&mut self, tier: &Tier) {
        self.of = 0;
        if let Place::Memory(_) = self.values
            && let Place::Memory(kept) = std::mem::replace(&mut self.values, Place::Nowhere)
        {
            kept.recycle(tier);
        }
    }
}
