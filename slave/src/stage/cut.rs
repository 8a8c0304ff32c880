//! Requests cut into what each shard serves.
//!
//! Invariant: the pieces of a request hold each of its keys once; a message never holds more than [`MESSAGE`] bytes of
//! values, beyond one run of keys, so that a large request is many messages that travel and are served side by side. They
//! are cut one by one as they are sent, so that a large request takes no second copy of its keys.

use crate::kv::placement::rises;
use crate::kv::{Keys, Placement};
use flexps_common::error::{Error, Result};
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::TableSpec;
use flexps_common::report::PackUse;
use flexps_common::value::{OwnedValues, Type, Values};
use flexps_common::wire::lists;
use flexps_common::wire::packing::Packing;
use std::ops::Range;

/// Bytes of values after which a message is full.
pub const MESSAGE: usize = 1 << 17;

/// Keys that a message holds at most; one, if that is larger.
pub fn keys_of_message(element: Type, width: usize) -> usize {
    (MESSAGE / (width * element.size()).max(1)).max(1)
}

/// One table's keys of a request.
#[derive(Debug, Clone, Copy)]
pub struct Item<'a> {
    /// The table.
    pub table: TableId,
    /// Its description.
    pub spec: &'a TableSpec,
    /// The keys.
    pub keys: Keys<'a>,
    /// Where the table lives, as seen from the worker's slave.
    pub home: &'a Placement,
}

impl Item<'_> {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.keys.len() * self.spec.width as usize * self.spec.element.size()
    }
}

/// A request being cut.
pub struct Cutter<'a> {
    items: &'a [Item<'a>],
    /// Where the cut stands: an item, what is left of its keys, and their first place.
    item: usize,
    rest: Keys<'a>,
    at: usize,
    /// Messages that are not full yet, by shard.
    open: Vec<Option<Message>>,
    /// What this slave's own shard serves, as far as it was met: the item and the places of its keys.
    pub local: Vec<(usize, Range<usize>)>,
}

/// What goes to one shard in one message.
#[derive(Debug)]
pub struct Message {
    /// The shard's number.
    pub shard: u32,
    /// Its sections.
    pub pieces: Vec<Piece>,
    /// Bytes of their values.
    pub bytes: usize,
}

/// One section of a message.
#[derive(Debug)]
pub struct Piece {
    /// The request's item that it is part of.
    pub item: usize,
    /// The table.
    pub table: TableId,
    /// Its element type.
    pub element: Type,
    /// Elements per key.
    pub width: usize,
    /// Which keys.
    pub keys: PieceKeys,
    /// Where these keys stand among the item's.
    pub places: Vec<Range<usize>>,
    /// The keys that these were among, where a filter has held back others.
    pub of: Option<lists::Keys>,
}

/// Keys of a section.
#[derive(Debug)]
pub enum PieceKeys {
    /// Strictly rising keys.
    List(Vec<Key>),
    /// Consecutive keys.
    Range {
        /// First key.
        start: Key,
        /// Number of keys.
        count: u32,
    },
}

impl Piece {
    /// Number of values.
    pub fn values(&self) -> usize {
        let keys = match &self.keys {
            PieceKeys::List(keys) => keys.len(),
            PieceKeys::Range { count, .. } => *count as usize,
        };
        keys * self.width
    }

    /// Counts its values, which go like this.
    pub fn packed(&self, packing: Packing, into: &mut PackUse) {
        let raw = self.values() * self.element.size();
        into.count(packing, raw as u64, packing.bytes(self.element, self.values()).unwrap_or(raw) as u64);
    }

    /// Its part of the values of its item, in one piece.
    pub fn gather(&self, values: Values<'_>) -> OwnedValues {
        let mut all = OwnedValues::zeros(self.element, self.values());
        let (from, mut all_of, key) = (values.bytes(), all.borrow_mut(), self.width * self.element.size());
        let mut to = all_of.bytes_mut();
        for places in &self.places {
            let (here, rest) = to.split_at_mut(places.len() * key);
            here.copy_from_slice(&from[places.start * key..places.end * key]);
            to = rest;
        }
        all
    }
}

/// The part of `keys` at `places`.
pub fn part(keys: Keys<'_>, places: Range<usize>) -> Keys<'_> {
    match keys {
        Keys::List(keys) => Keys::List(&keys[places]),
        Keys::Range { start, .. } => Keys::Range { start: start + places.start as u32, count: places.len() as u32 },
    }
}

impl<'a> Cutter<'a> {
    /// Starts to cut a request.
    pub fn new(items: &'a [Item<'a>]) -> Result<Self> {
        for item in items {
            if let Keys::List(keys) = item.keys
                && !rises(keys)
            {
                let table = &item.spec.name;
                let two = keys.windows(2).find(|two| two[0] >= two[1]).unwrap_or_default();
                return Err(Error::bug(format!(
                    "the keys of a request for table {table} don't rise strictly: {} is followed by {}",
                    two[0], two[1]
                )));
            }
        }
        let rest = items.first().map_or(Keys::List(&[]), |item| item.keys);
        let last = items.iter().filter_map(|item| item.home.members().last()).max();
        let open = (0..=*last.unwrap_or(&0)).map(|_| None).collect();
        Ok(Self { items, item: 0, rest, at: 0, open, local: Vec::new() })
    }

    /// The next message to another shard; none when the request is cut, [`Cutter::local`] then being complete.
    pub fn message(&mut self) -> Option<Message> {
        while let Some(item) = self.items.get(self.item) {
            let home = item.home;
            if home.is_here() {
                self.local.push((self.item, 0..item.keys.len()));
                self.next_item();
                continue;
            }
            let Some((chunk, run, next)) = self.rest.split_run(item.spec.chunk_keys().ilog2()) else {
                self.next_item();
                continue;
            };
            let places = self.at..self.at + run.len();
            (self.at, self.rest) = (places.end, next);
            let shard = home.owner(chunk);
            if shard == home.index {
                match self.local.last_mut() {
                    Some((item, known)) if *item == self.item && known.end == places.start => known.end = places.end,
                    _ => self.local.push((self.item, places)),
                }
                continue;
            }
            let open = &mut self.open[shard as usize];
            let message = open.get_or_insert_with(|| Message { shard, pieces: Vec::new(), bytes: 0 });
            let left = item.keys.len() - places.start;
            message.push(self.item, item, run, places, left / home.members().len());
            if message.bytes >= MESSAGE {
                return open.take();
            }
        }
        self.open.iter_mut().find_map(Option::take)
    }

    fn next_item(&mut self) {
        self.item += 1;
        self.at = 0;
        self.rest = self.items.get(self.item).map_or(Keys::List(&[]), |item| item.keys);
    }
}

impl Message {
    /// Takes a run of an item's keys; about `left` more may follow.
    fn push(&mut self, index: usize, item: &Item<'_>, run: Keys<'_>, places: Range<usize>, left: usize) {
        let (element, width) = (item.spec.element, item.spec.width as usize);
        self.bytes += places.len() * width * element.size();
        let keys = match (run, self.pieces.last_mut()) {
            (Keys::List(run), Some(Piece { item, keys: PieceKeys::List(keys), places: known, .. }))
                if *item == index =>
            {
                keys.extend_from_slice(run);
                match known.last_mut() {
                    Some(known) if known.end == places.start => known.end = places.end,
                    _ => known.push(places),
                }
                return;
            }
            (Keys::List(run), _) => {
                let mut keys = Vec::with_capacity(run.len() + left.min(keys_of_message(element, width)));
                keys.extend_from_slice(run);
                PieceKeys::List(keys)
            }
            (Keys::Range { start, count }, _) => PieceKeys::Range { start, count },
        };
        let (table, places, of) = (item.table, vec![places], None);
        self.pieces.push(Piece { item: index, table, element, width, keys, places, of });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::home::Home;
    use flexps_common::plan::Storage;
    use proptest::prelude::*;

    fn spec(width: u32) -> TableSpec {
        TableSpec {
            name: "t".into(),
            element: Type::F32,
            width,
            storage: Storage::Dense,
            update: "add".into(),
            update_params: Vec::new(),
        }
    }

    proptest! {
        #[test]
        fn every_key_is_in_one_piece_that_its_shard_serves(
            list in proptest::collection::btree_set(0u32..3_000_000, 0..400),
            start in 0u32..500_000, count in 0u32..3_000_000, width in 1u32..4, shards in 1u32..5, index in 0u32..5,
            home in 0u32..32
        ) {
            let members: Vec<u32> = (0..shards).filter(|s| home & (1 << s) != 0).collect();
            let placement = Placement::new(index % shards, &Home::on(&members, shards as usize), shards as usize);
            let list: Vec<_> = list.into_iter().collect();
            let spec = spec(width);
            let shift = spec.chunk_keys().ilog2();
            let items = [
                Item { table: TableId(0), spec: &spec, keys: Keys::List(&list), home: &placement },
                Item { table: TableId(1), spec: &spec, keys: Keys::Range { start, count }, home: &placement },
            ];
            let mut cutter = Cutter::new(&items).unwrap();
            let messages: Vec<_> = std::iter::from_fn(|| cutter.message()).collect();
            let mut seen = [vec![0u8; list.len()], vec![0u8; count as usize]];
            for (item, places) in &cutter.local {
                seen[*item][places.clone()].iter_mut().for_each(|n| *n += 1);
            }
            for message in &messages {
                prop_assert!(message.shard != placement.index);
                prop_assert!(message.bytes < MESSAGE + (1 << 18));
                for piece in &message.pieces {
                    let keys: Vec<Key> = match &piece.keys {
                        PieceKeys::List(keys) => keys.clone(),
                        PieceKeys::Range { start, count } => (*start..*start + *count).collect(),
                    };
                    prop_assert!(keys.iter().all(|k| placement.owner(k >> shift) == message.shard));
                    let places: Vec<_> = piece.places.iter().cloned().flatten().collect();
                    prop_assert_eq!(places.len(), keys.len());
                    for (place, key) in places.into_iter().zip(keys) {
                        seen[piece.item][place] += 1;
                        let right = if piece.item == 0 { list[place] } else { start + place as u32 };
                        prop_assert_eq!(right, key);
                    }
                }
            }
            prop_assert!(seen.iter().flatten().all(|n| *n == 1));
        }
    }

    #[test]
    fn keys_that_do_not_rise_are_refused() {
        let spec = spec(1);
        let home = &Placement::alone();
        let items = [Item { table: TableId(0), spec: &spec, keys: Keys::List(&[3, 3]), home }];
        let error = Cutter::new(&items).err().unwrap();
        assert_eq!(error.message, "the keys of a request for table t don't rise strictly: 3 is followed by 3");
    }
}
