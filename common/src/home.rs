//! Where tables live: which of a job's slaves serve which chunks. It may change between stages.
//!
//! Invariant: every node derives the same homes from the same launches and operations, so a request that was cut right is
//! never refused.

use crate::plan::TableOp;
use serde::{Deserialize, Serialize};

/// The slaves that serve a table: chunk c is served by the one at place c modulo their number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Home {
    /// All slaves of the job, in shard order.
    #[default]
    All,
    /// These shards, rising; at least one.
    Some(Vec<u32>),
}

impl Home {
    /// The home on these of `shards` shards, which rise; [`Home::All`] when they are all or none.
    pub fn on(members: &[u32], shards: usize) -> Self {
        if members.is_empty() || members.len() == shards { Home::All } else { Home::Some(members.to_vec()) }
    }

    /// Its members, among `shards` shards.
    pub fn members(&self, shards: usize) -> Vec<u32> {
        match self {
            Home::All => (0..shards as u32).collect(),
            Home::Some(members) => members.clone(),
        }
    }

    /// The shard that serves `chunk`, among `shards` shards.
    pub fn owner(&self, chunk: u64, shards: usize) -> u32 {
        match self {
            Home::All => (chunk % shards.max(1) as u64) as u32,
            Home::Some(members) => members[(chunk % members.len().max(1) as u64) as usize],
        }
    }

    /// Whether it is a home among `shards` shards: what comes over the wire may not be.
    pub fn is_valid(&self, shards: usize) -> bool {
        match self {
            Home::All => true,
            Home::Some(members) => {
                members.is_sorted_by(|a, b| a < b) && members.last().is_some_and(|last| (*last as usize) < shards)
            }
        }
    }
}

/// How a model goes from stage to stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// From slave to slave, to where the next stage's workers are, where that costs less.
    #[default]
    Direct,
    /// The same, all chunks in messages, also where the receiver could read them in the sender's memory.
    Messages,
    /// Tables stay on all slaves; each stage reaches them over the network.
    Kv,
}

impl std::str::FromStr for Transfer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "direct" => Ok(Transfer::Direct),
            "messages" => Ok(Transfer::Messages),
            "kv" => Ok(Transfer::Kv),
            _ => Err(format!("'{text}' is no way of a model; give direct, messages or kv")),
        }
    }
}

impl std::fmt::Display for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Transfer::Direct => "direct",
            Transfer::Messages => "messages",
            Transfer::Kv => "kv",
        })
    }
}

/// What an operation does to the homes of all tables: a copy lives where its source does.
pub fn after(homes: &mut [Home], op: &TableOp) {
    if let TableOp::Copy { from, to } = op
        && let Some(home) = homes.get(usize::from(from.0)).cloned()
        && let Some(place) = homes.get_mut(usize::from(to.0))
    {
        *place = home;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TableId;

    #[test]
    fn each_chunk_has_one_owner_among_the_members() {
        let home = Home::on(&[1, 3], 4);
        assert_eq!([0, 1, 2, 7].map(|chunk| home.owner(chunk, 4)), [1, 3, 1, 3]);
        assert_eq!([0, 5, 6].map(|chunk| Home::All.owner(chunk, 4)), [0, 1, 2]);
        assert_eq!(Home::on(&[0, 1, 2], 3), Home::All);
        assert!(home.is_valid(4) && !home.is_valid(3) && !Home::Some(vec![]).is_valid(4));
        assert!(!Home::Some(vec![2, 1]).is_valid(4));
    }

    #[test]
    fn a_copy_lives_where_its_source_does() {
        let mut homes = vec![Home::on(&[1], 3), Home::All];
        after(&mut homes, &TableOp::Zero { table: TableId(0) });
        after(&mut homes, &TableOp::Copy { from: TableId(0), to: TableId(1) });
        assert_eq!(homes, [Home::Some(vec![1]), Home::Some(vec![1])]);
    }
}
