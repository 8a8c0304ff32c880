//! What slaves tell one another of the keys of their unfinished clocks.
//!
//! Invariant: what decodes is strictly rising within each group, and takes at most four times the memory of its bytes.

use crate::announced::{Group, Touches};
use crate::error::Result;
use crate::ids::TableId;
use crate::wire::keys;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The keys that a slave's workers will touch at a clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Announced {
    /// The clock.
    pub clock: u64,
    /// Its keys.
    groups: Vec<Coded>,
}

/// Keys in each of some tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Coded {
    tables: Vec<TableId>,
    count: u32,
    /// As [`keys::encode`] makes them.
    bytes: Bytes,
}

impl Announced {
    /// The code of what a clock touches.
    pub fn encode(clock: u64, touches: &Touches) -> Result<Self> {
        let code = |group: &Group| {
            let mut bytes = Vec::new();
            keys::encode(&group.keys, &mut bytes)?;
            Ok(Coded { tables: group.tables.clone(), count: group.keys.len() as u32, bytes: bytes.into() })
        };
        Ok(Self { clock, groups: touches.groups().iter().map(code).collect::<Result<_>>()? })
    }

    /// What the clock touches.
    pub fn decode(&self) -> Result<Touches> {
        let group = |Coded { tables, count, bytes }: &Coded| {
            let keys = keys::decode(bytes, *count as usize)?;
            Ok(Group { tables: tables.clone(), keys })
        };
        Ok(Touches::of(self.groups.iter().map(group).collect::<Result<_>>()?))
    }
}
