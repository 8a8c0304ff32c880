//! What both sides remember of key lists, so that a list that was sent goes as its digest the next time, and a part of it
//! as a bit for each of its keys.
//!
//! Invariant: a digest is only ever resolved to the keys that hash to it, with as many keys as the message says; each
//! memory holds at most its bytes, the oldest lists leave first. The sender's may be wrong about the receiver's: then the
//! receiver answers [`crate::wire::kv::FromShard::UnknownKeys`], the sender forgets everything and sends inline.

use crate::error::{Error, Result};
use crate::ids::Key;
use crate::wire::body::{BodyReader, BodyWriter};
use crate::wire::keys;
use crate::wire::kv::{KeyList, Whole};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Bytes of key lists that a receiver keeps.
pub const MEMORY: usize = 16 << 20;

/// Shorter lists always go inline and are not remembered: the digest would take half as much.
const SHORT: usize = 32;

/// Something kept by digest, the oldest leaving when `bytes` pass the limit.
struct Recent<V> {
    limit: usize,
    bytes: usize,
    by_hash: FxHashMap<u64, V>,
    order: VecDeque<(u64, usize)>,
}

impl<V> Recent<V> {
    fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, by_hash: FxHashMap::default(), order: VecDeque::new() }
    }

    fn insert(&mut self, hash: u64, keys: usize, value: V) {
        let bytes = keys * size_of::<Key>();
        if bytes > self.limit || self.by_hash.insert(hash, value).is_some() {
            return;
        }
        self.bytes += bytes;
        self.order.push_back((hash, bytes));
        while self.bytes > self.limit {
            let Some((oldest, bytes)) = self.order.pop_front() else { break };
            self.by_hash.remove(&oldest);
            self.bytes -= bytes;
        }
    }
}

/// Which lists the receiver at the other end of one channel has. Shared by all threads that use the channel.
pub struct SentLists(Mutex<Recent<()>>);

impl Default for SentLists {
    /// Remembers a quarter of what a receiver keeps, which it shares among its senders.
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MEMORY / 4)))
    }
}

impl SentLists {
    /// Names strictly rising `keys` in the shortest way: as a range, by digest, or inline in `body`.
    pub fn name(&self, keys: &[Key], body: &mut BodyWriter) -> Result<KeyList> {
        if let Some(range) = as_range(keys) {
            return Ok(range);
        }
        let (hash, count) = (keys::hash(keys), keys.len() as u32);
        if keys.len() < SHORT {
            return body.keys(hash, keys);
        }
        if self.0.lock().by_hash.contains_key(&hash) {
            return Ok(KeyList::Known { hash, count });
        }
        let list = body.keys(hash, keys)?;
        self.0.lock().insert(hash, keys.len(), ());
        Ok(list)
    }

    /// Names strictly rising `keys`, all of which are among those of `whole`, in a short way: as bits where the receiver has
    /// the whole, else inline. A list that is not likely to come again is not remembered.
    pub fn name_part(&self, keys: &[Key], whole: &Keys, body: &mut BodyWriter) -> Result<KeyList> {
        if let Some(range) = as_range(keys) {
            return Ok(range);
        }
        match self.whole(whole) {
            // An inline list takes a byte a key at least, and two or three where few are left of many.
            Some(of) if whole.len().div_ceil(8) <= 2 * keys.len() => {
                body.bytes(&bits(keys, whole));
                Ok(KeyList::Part { of, count: keys.len() as u32 })
            }
            _ => body.keys(keys::hash(keys), keys),
        }
    }

    /// How the receiver knows a list, if it does.
    fn whole(&self, whole: &Keys) -> Option<Whole> {
        match whole {
            Keys::Range(range) => {
                Some(Whole::Range { start: range.start as u32, count: (range.end - range.start) as u32 })
            }
            Keys::List(keys) => match as_range(keys) {
                Some(KeyList::Range { start, count }) => Some(Whole::Range { start, count }),
                _ => {
                    let (hash, count) = (keys::hash(keys), keys.len() as u32);
                    self.0.lock().by_hash.contains_key(&hash).then_some(Whole::Known { hash, count })
                }
            },
        }
    }

    /// The receiver did not know a list: send all inline again.
    pub fn forget(&self) {
        let mut memory = self.0.lock();
        *memory = Recent::new(memory.limit);
    }
}

/// Consecutive keys as a range; also the empty list.
fn as_range(keys: &[Key]) -> Option<KeyList> {
    let count = keys.len() as u32;
    match keys {
        [] => Some(KeyList::Range { start: 0, count }),
        [first, .., last] if (last.wrapping_sub(*first) as usize) == keys.len() - 1 => {
            // Strictly rising keys that span exactly their number; others are caught by the encoder.
            keys.windows(2).all(|pair| pair[0] < pair[1]).then_some(KeyList::Range { start: *first, count })
        }
        _ => None,
    }
}

/// A bit for each key of `whole`, which is set where it is one of `keys`.
fn bits(keys: &[Key], whole: &Keys) -> Vec<u8> {
    let mut bits = vec![0; whole.len().div_ceil(8)];
    let mut set = |at: usize| bits[at / 8] |= 1 << (at % 8);
    match whole {
        Keys::Range(range) => keys.iter().for_each(|key| set((u64::from(*key) - range.start) as usize)),
        Keys::List(all) => {
            let mut rest = keys.iter().peekable();
            all.iter().enumerate().filter(|(_, key)| rest.next_if_eq(key).is_some()).for_each(|(at, _)| set(at));
        }
    }
    bits
}

/// The `count` keys of `whole` whose bits are set, and no bit behind.
fn pick(whole: &Keys, bits: &[u8], count: usize) -> Result<Vec<Key>> {
    let set: usize = bits.iter().map(|byte| byte.count_ones() as usize).sum();
    let behind = bits.last().is_some_and(|last| !whole.len().is_multiple_of(8) && last >> (whole.len() % 8) > 0);
    if set != count || behind {
        return Err(Error::cluster(format!("{set} bits for {count} of {} keys", whole.len())));
    }
    let mut keys = Vec::with_capacity(count);
    for (first, byte) in (0..).step_by(8).zip(bits) {
        let mut left = *byte;
        while left > 0 {
            let at = first + left.trailing_zeros() as usize;
            keys.push(match whole {
                Keys::List(all) => all[at],
                Keys::Range(range) => (range.start + at as u64) as Key,
            });
            left &= left - 1;
        }
    }
    Ok(keys)
}

/// A received key list.
#[derive(Debug, Clone, PartialEq)]
pub enum Keys {
    /// Strictly rising keys.
    List(Arc<Vec<Key>>),
    /// Consecutive keys.
    Range(Range<u64>),
}

impl Keys {
    /// Number of keys.
    pub fn len(&self) -> usize {
        match self {
            Keys::List(keys) => keys.len(),
            Keys::Range(range) => (range.end - range.start) as usize,
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The lists that a receiver remembers, of all its senders.
pub struct KeyMemory(Mutex<Recent<Arc<Vec<Key>>>>);

impl Default for KeyMemory {
    fn default() -> Self {
        Self::new(MEMORY)
    }
}

impl KeyMemory {
    /// Keeps at most `limit` bytes of keys.
    pub fn new(limit: usize) -> Self {
        Self(Mutex::new(Recent::new(limit)))
    }

    /// The keys that a section names; takes an inline list out of the body. None when a list is not known (any more).
    pub fn resolve(&self, list: KeyList, body: &mut BodyReader) -> Result<Option<Keys>> {
        match list {
            KeyList::Range { start, count } => range(start, count).map(Some),
            KeyList::Known { hash, count } => Ok(self.known(hash, count)),
            KeyList::Part { of, count } => {
                let whole = match of {
                    Whole::Range { start, count } => Some(range(start, count)?),
                    Whole::Known { hash, count } => self.known(hash, count),
                };
                let Some(whole) = whole else { return Ok(None) };
                let keys = pick(&whole, &body.key_bytes(&list)?, count as usize)?;
                Ok(Some(Keys::List(Arc::new(keys))))
            }
            KeyList::Inline { hash, count, .. } => {
                let list = keys::decode(&body.key_bytes(&list)?, count as usize)?;
                if keys::hash(&list) != hash {
                    return Err(Error::cluster(format!("a list of {count} keys does not hash to {hash:016x}")));
                }
                let list = Arc::new(list);
                if list.len() >= SHORT {
                    self.0.lock().insert(hash, list.len(), list.clone());
                }
                Ok(Some(Keys::List(list)))
            }
        }
    }

    /// A list that was sent before, if it is still here.
    fn known(&self, hash: u64, count: u32) -> Option<Keys> {
        let found = self.0.lock().by_hash.get(&hash).cloned();
        found.filter(|keys| keys.len() == count as usize).map(Keys::List)
    }
}

fn range(start: u32, count: u32) -> Result<Keys> {
    let range = u64::from(start)..u64::from(start) + u64::from(count);
    if range.end > 1 << 32 {
        return Err(Error::cluster(format!("a key range reaches {}, at most 2^32 is possible", range.end)));
    }
    Ok(Keys::Range(range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Type;
    use proptest::prelude::*;

    fn exchange(sent: &SentLists, memory: &KeyMemory, keys: &[Key]) -> (KeyList, Option<Keys>) {
        let mut body = BodyWriter::default();
        let list = sent.name(keys, &mut body).unwrap();
        let mut reader = BodyReader::new(body.finish());
        let keys = memory.resolve(list, &mut reader).unwrap();
        reader.end().unwrap();
        (list, keys)
    }

    fn to_vec(keys: &Keys) -> Vec<Key> {
        match keys {
            Keys::List(keys) => keys.to_vec(),
            Keys::Range(range) => range.clone().map(|k| k as Key).collect(),
        }
    }

    proptest! {
        #[test]
        fn lists_arrive_whole_the_first_and_the_second_time(keys in prop::collection::btree_set(any::<u32>(), 0..200)) {
            let keys: Vec<_> = keys.into_iter().collect();
            let (sent, memory) = (SentLists::default(), KeyMemory::default());
            let (_, first) = exchange(&sent, &memory, &keys);
            prop_assert_eq!(&to_vec(&first.unwrap()), &keys);
            let (list, second) = exchange(&sent, &memory, &keys);
            prop_assert_eq!(to_vec(&second.unwrap()), keys.clone());
            prop_assert_eq!(matches!(list, KeyList::Known { .. }), keys.len() >= SHORT);
        }
    }

    proptest! {
        #[test]
        fn a_part_of_what_was_sent_arrives_whole_as_a_bit_for_each_key(
            whole in prop::collection::btree_set(any::<u32>(), 0..300), start in 0u32..9, of_range in any::<bool>(),
            known in any::<bool>(), chosen in prop::collection::vec(0u32..4, 300), most in 1u32..4
        ) {
            let list: Vec<_> = if of_range { (start..start + 300).collect() } else { whole.into_iter().collect() };
            let keys: Vec<_> = list.iter().zip(chosen).filter(|(_, at)| *at < most).map(|(key, _)| *key).collect();
            let (sent, memory) = (SentLists::default(), KeyMemory::default());
            if known {
                exchange(&sent, &memory, &list);
            }
            let whole = if of_range { range(start, 300).unwrap() } else { Keys::List(Arc::new(list.clone())) };
            let mut body = BodyWriter::default();
            let part = sent.name_part(&keys, &whole, &mut body).unwrap();
            let as_bits = (known && list.len() >= SHORT || of_range) && list.len() <= 16 * keys.len();
            let is_range = matches!(part, KeyList::Range { .. });
            prop_assert!(is_range || matches!(part, KeyList::Part { .. }) == as_bits, "{:?}", part);
            prop_assert!(!as_bits || part.bytes() <= list.len().div_ceil(8));
            let mut reader = BodyReader::new(body.finish());
            let found = memory.resolve(part, &mut reader).unwrap().unwrap();
            reader.end().unwrap();
            prop_assert_eq!(to_vec(&found), keys);
        }
    }

    #[test]
    fn bits_that_are_not_those_of_the_keys_are_refused() {
        let resolve = |start, of, count, bits: &[u8]| {
            let mut body = BodyWriter::default();
            body.bytes(bits);
            let part = KeyList::Part { of: Whole::Range { start, count: of }, count };
            KeyMemory::default().resolve(part, &mut BodyReader::new(body.finish()))
        };
        assert_eq!(to_vec(&resolve(100, 10, 3, &[0b101, 0b10]).unwrap().unwrap()), [100, 102, 109]);
        for (start, of, count, bits) in [
            (100, 10, 2, &[0b101, 0b10][..]),
            (100, 10, 3, &[0b101, 0b100]),
            (100, 70, 3, &[0b101, 0b10]),
            (u32::MAX, 10, 3, &[0b101, 0b10]),
            (0, u32::MAX, u32::MAX, &[0xff; 8]),
        ] {
            assert!(resolve(start, of, count, bits).is_err(), "{count} of {of} from {start} by {bits:?}");
        }
    }

    #[test]
    fn consecutive_keys_go_as_a_range() {
        let keys: Vec<Key> = (u32::MAX - 99..=u32::MAX).collect();
        let (list, found) = exchange(&SentLists::default(), &KeyMemory::default(), &keys);
        assert_eq!(list, KeyList::Range { start: u32::MAX - 99, count: 100 });
        assert_eq!(to_vec(&found.unwrap()), keys);
    }

    #[test]
    fn a_forgotten_list_is_asked_for_and_sent_again() {
        let (sent, memory) = (SentLists::default(), KeyMemory::new(1000));
        let lists: Vec<Vec<Key>> = (0..5).map(|i| (0..100).map(|k| k * 7 + i).collect()).collect();
        for keys in &lists {
            assert!(exchange(&sent, &memory, keys).1.is_some());
            assert!(memory.0.lock().bytes <= 1000);
        }
        let (list, found) = exchange(&sent, &memory, &lists[0]);
        assert!(matches!(list, KeyList::Known { .. }) && found.is_none());
        sent.forget();
        let (list, found) = exchange(&sent, &memory, &lists[0]);
        assert!(matches!(list, KeyList::Inline { .. }));
        assert_eq!(to_vec(&found.unwrap()), lists[0]);
    }

    #[test]
    fn a_list_under_a_false_digest_is_refused() {
        let mut body = BodyWriter::default();
        let list = body.keys(7, &[1, 5, 9]).unwrap();
        assert!(KeyMemory::default().resolve(list, &mut BodyReader::new(body.finish())).is_err());
    }

    #[test]
    fn a_known_list_of_another_length_is_unknown() {
        let (sent, memory) = (SentLists::default(), KeyMemory::default());
        let keys: Vec<Key> = (0..100).map(|k| 3 * k).collect();
        exchange(&sent, &memory, &keys);
        let list = KeyList::Known { hash: keys::hash(&keys), count: 99 };
        assert_eq!(memory.resolve(list, &mut BodyReader::new(Default::default())).unwrap(), None);
    }

    #[test]
    fn values_follow_their_keys() {
        let sent = SentLists::default();
        let keys = [1, 5, 9];
        let mut body = BodyWriter::default();
        let list = sent.name(&keys, &mut body).unwrap();
        body.values_mut::<i32>(3).copy_from_slice(&[-1, 2, -3]);
        let mut reader = BodyReader::new(body.finish());
        assert_eq!(KeyMemory::default().resolve(list, &mut reader).unwrap().unwrap().len(), 3);
        assert_eq!(reader.values(Type::I32, 3).unwrap().get().bytes(), bytemuck::cast_slice::<i32, u8>(&[-1, 2, -3]));
        reader.end().unwrap();
    }
}
