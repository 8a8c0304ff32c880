//! Bodies of bulk messages: per section the key list, if it goes inline, then the values, each padded to 8 bytes.
//!
//! Invariant: a section's parts start at multiples of 8 from the body's start; a reader checks every length against the
//! body before it allocates, and a body is read to its last byte.

use crate::error::{Error, Result};
use crate::value::{Element, Type, Values, ValuesMut};
use crate::wire::keys;
use crate::wire::kv::{KeyList, Whole};
use crate::wire::packing::{self, Pack, Packing};
use bytes::Bytes;
use std::ops::Range;

/// A body under construction. Its memory starts at a multiple of 8, so values can be written in place.
#[derive(Debug, Default)]
pub struct BodyWriter {
    words: Vec<u64>,
    /// Bytes written; the rest of the last word is zero.
    len: usize,
    scratch: Vec<u8>,
}

struct Words(Vec<u64>);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

impl BodyWriter {
    /// An empty body with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { words: Vec::with_capacity(bytes.div_ceil(8)), len: 0, scratch: Vec::new() }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes a key list inline, as a part of its own; [`crate::wire::lists::SentLists::name`] calls this where needed.
    pub fn keys(&mut self, hash: u64, keys: &[u32]) -> Result<KeyList> {
        self.pad();
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        keys::encode(keys, &mut scratch)?;
        self.append(&scratch);
        self.pad();
        let (count, bytes) = (keys.len() as u32, scratch.len() as u32);
        self.scratch = scratch;
        Ok(KeyList::Inline { hash, count, bytes })
    }

    /// Writes bytes as a part of its own.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.pad();
        self.append(bytes);
        self.pad();
    }

    /// Appends values to the part that is being written: a gather of several slices makes one part.
    pub fn values(&mut self, values: Values<'_>) {
        self.append(values.bytes());
    }

    /// Room for `count` zeros, to be filled in place, as a part of its own. Ends the part.
    pub fn values_mut<T: Element>(&mut self, count: usize) -> &mut [T] {
        let start = self.room(count * size_of::<T>());
        &mut bytemuck::cast_slice_mut(&mut self.words[start..])[..count]
    }

    /// Like [`BodyWriter::values_mut`] for a type that is known at run time alone.
    pub fn wrapped_mut(&mut self, element: Type, count: usize) -> ValuesMut<'_> {
        match element {
            Type::F32 => ValuesMut::F32(self.values_mut(count)),
            Type::F64 => ValuesMut::F64(self.values_mut(count)),
            Type::U32 => ValuesMut::U32(self.values_mut(count)),
            Type::I32 => ValuesMut::I32(self.values_mut(count)),
        }
    }

    /// What was written.
    pub fn written(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }

    /// Packs the last part, the values of this type at `places`, if that makes them fewer bytes.
    pub fn pack(&mut self, places: Range<usize>, element: Type, by: Pack) -> Packing {
        let start = places.start;
        let Some((packing, packed)) = packing::pack(&self.written()[places], element, by) else { return Packing::Raw };
        self.words.truncate(start / 8);
        self.len = start;
        self.append(&packed);
        packing
    }

    /// Ends a part: the next one starts at a multiple of 8.
    pub fn pad(&mut self) {
        self.len = self.len.next_multiple_of(8);
    }

    /// The finished body. Nothing is copied.
    pub fn finish(mut self) -> Bytes {
        self.pad();
        if self.words.is_empty() { Bytes::new() } else { Bytes::from_owner(Words(self.words)) }
    }

    /// Appends a padded part of `bytes` zeros and returns its first word.
    fn room(&mut self, bytes: usize) -> usize {
        self.pad();
        let start = self.len / 8;
        self.words.resize(start + bytes.div_ceil(8), 0);
        self.len += bytes.next_multiple_of(8);
        start
    }

    fn append(&mut self, bytes: &[u8]) {
        // Up to the end of a word that was begun, then whole words, which need no zeros first, then what is left.
        let (begun, bytes) = bytes.split_at(bytes.len().min(self.len.next_multiple_of(8) - self.len));
        let (words, rest) = bytes.as_chunks::<8>();
        let start = self.len;
        self.len += begun.len();
        bytemuck::cast_slice_mut::<_, u8>(&mut self.words)[start..self.len].copy_from_slice(begun);
        self.words.extend(words.iter().map(|word| u64::from_ne_bytes(*word)));
        self.len += 8 * words.len();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.words.push(u64::from_ne_bytes(last));
            self.len += rest.len();
        }
    }
}

/// A body being read, part after part.
#[derive(Debug)]
pub struct BodyReader {
    rest: Bytes,
}

impl BodyReader {
    /// Starts at the body's first part.
    pub fn new(body: Bytes) -> Self {
        Self { rest: body }
    }

    /// What the body holds of a key list; see [`crate::wire::lists::KeyMemory`], which calls this.
    pub fn key_bytes(&mut self, list: &KeyList) -> Result<Bytes> {
        self.part(list.bytes())
    }

    /// The next part as it came: `count` values that may be packed.
    pub fn packed_bytes(&mut self, element: Type, count: usize, packing: Packing) -> Result<Bytes> {
        let bytes = packing.bytes(element, count).ok_or_else(|| too_long(usize::MAX, self.rest.len()))?;
        self.part(bytes)
    }

    /// The next part as the bytes of `count` values that may be packed, at any alignment.
    pub fn unpacked_bytes(&mut self, element: Type, count: usize, packing: Packing) -> Result<Bytes> {
        let part = self.packed_bytes(element, count, packing)?;
        if packing == Packing::Raw {
            return Ok(part);
        }
        packing::unpack(&part, packing, element, count).map(Bytes::from)
    }

    /// The next part as `count` values. Borrowed from the received message when that is aligned, else copied.
    pub fn values(&mut self, element: Type, count: usize) -> Result<ReceivedValues> {
        self.unpacked(element, count, Packing::Raw)
    }

    /// Like [`BodyReader::values`] for values that may be packed.
    pub fn unpacked(&mut self, element: Type, count: usize, packing: Packing) -> Result<ReceivedValues> {
        let part = self.unpacked_bytes(element, count, packing)?;
        let bytes = part.len();
        if part.as_ptr().addr().is_multiple_of(element.size()) {
            return Ok(ReceivedValues { element, bytes: part });
        }
        let (whole, rest) = part.as_chunks::<8>();
        let mut words = Vec::with_capacity(bytes.div_ceil(8));
        words.extend(whole.iter().map(|word| u64::from_ne_bytes(*word)));
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            words.push(u64::from_ne_bytes(last));
        }
        Ok(ReceivedValues { element, bytes: Bytes::from_owner(Words(words)).slice(..bytes) })
    }

    /// An error when bytes are left.
    pub fn end(self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::cluster(format!("{left} bytes left at the end of a bulk message"))),
        }
    }

    fn part(&mut self, len: usize) -> Result<Bytes> {
        let padded = len.checked_next_multiple_of(8).filter(|padded| *padded <= self.rest.len());
        let Some(padded) = padded else { return Err(too_long(len, self.rest.len())) };
        let mut part = self.rest.split_to(padded);
        part.truncate(len);
        Ok(part)
    }
}

fn too_long(len: usize, rest: usize) -> Error {
    Error::cluster(format!("a bulk message's part of {len} bytes where {rest} are left"))
}

/// Values of a received message.
#[derive(Debug, Clone)]
pub struct ReceivedValues {
    element: Type,
    bytes: Bytes,
}

impl ReceivedValues {
    /// The values, if they are of this type.
    pub fn typed<T: Element>(&self) -> Option<&[T]> {
        (self.element == T::TYPE).then(|| bytemuck::cast_slice(&self.bytes))
    }

    /// The values.
    pub fn get(&self) -> Values<'_> {
        match self.element {
            Type::F32 => Values::F32(bytemuck::cast_slice(&self.bytes)),
            Type::F64 => Values::F64(bytemuck::cast_slice(&self.bytes)),
            Type::U32 => Values::U32(bytemuck::cast_slice(&self.bytes)),
            Type::I32 => Values::I32(bytemuck::cast_slice(&self.bytes)),
        }
    }
}

impl KeyList {
    /// Number of keys.
    pub fn count(&self) -> usize {
        match *self {
            KeyList::Inline { count, .. }
            | KeyList::Known { count, .. }
            | KeyList::Range { count, .. }
            | KeyList::Part { count, .. } => count as usize,
        }
    }

    /// Bytes that it takes in a body.
    pub fn bytes(&self) -> usize {
        match *self {
            KeyList::Inline { bytes, .. } => bytes as usize,
            KeyList::Part { of: Whole::Known { count, .. } | Whole::Range { count, .. }, .. } => {
                count.div_ceil(8) as usize
            }
            KeyList::Known { .. } | KeyList::Range { .. } => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_in_order_at_any_alignment() {
        let mut writer = BodyWriter::default();
        let list = writer.keys(1, &[3, 70_000, 70_001]).unwrap();
        writer.values(Values::F32(&[1.0, 2.0]));
        writer.values(Values::F32(&[3.0]));
        writer.pad();
        writer.values_mut::<f64>(2).copy_from_slice(&[4.0, 5.0]);
        match writer.wrapped_mut(Type::U32, 1) {
            ValuesMut::U32(slot) => slot[0] = 6,
            other => panic!("{other:?}"),
        }
        let body = writer.finish();
        assert_eq!(body.len() % 8, 0);
        for shift in 0..8 {
            let mut moved = vec![0u8; shift];
            moved.extend_from_slice(&body);
            let mut reader = BodyReader::new(Bytes::from(moved).slice(shift..));
            assert_eq!(keys::decode(&reader.key_bytes(&list).unwrap(), 3).unwrap(), [3, 70_000, 70_001]);
            assert!(matches!(reader.values(Type::F32, 3).unwrap().get(), Values::F32([1.0, 2.0, 3.0])));
            assert!(matches!(reader.values(Type::F64, 2).unwrap().get(), Values::F64([4.0, 5.0])));
            assert!(matches!(reader.values(Type::U32, 1).unwrap().get(), Values::U32([6])));
            reader.end().unwrap();
        }
    }

    #[test]
    fn aligned_values_are_not_copied() {
        let mut writer = BodyWriter::default();
        writer.values_mut::<f32>(1000);
        let body = writer.finish();
        let values = BodyReader::new(body.clone()).values(Type::F32, 1000).unwrap();
        assert_eq!(values.get().bytes().as_ptr(), body.as_ptr());
    }

    #[test]
    fn lengths_beyond_the_body_are_refused() {
        let body = Bytes::from(vec![0; 16]);
        assert!(BodyReader::new(body.clone()).values(Type::F64, usize::MAX).is_err());
        assert!(BodyReader::new(body.clone()).values(Type::F32, 5).is_err());
        let list = KeyList::Inline { hash: 0, count: 17, bytes: 17 };
        assert!(BodyReader::new(body.clone()).key_bytes(&list).is_err());
        let mut reader = BodyReader::new(body);
        reader.values(Type::F32, 1).unwrap();
        assert!(reader.end().is_err());
    }
}
