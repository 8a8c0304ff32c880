//! A checkpoint's file: a place, then chunks of tables and columns of rows, each with a checksum.
//!
//! Layout: 8 bytes that say what it is, then records of `[head: u32][body: u32][xxh3 of both: u64][head][body]`, numbers
//! little-endian, head and body as long as they say. The first head is a description in JSON, the second the place; those of the
//! others are [`Part`]s, with their values as bodies; one without a head ends the file. Invariant: a file that was cut short or
//! changed is an error that names it.

use super::refusal::Refusal;
use super::store::{Staged, Store};
use crate::job::driver::Place;
use bytes::Bytes;
use flexps_common::error::io;
use flexps_common::wire::checkpoint::ColumnValues;
use flexps_common::wire::codec::{self, MAX_CONTROL};
use flexps_common::wire::moved::ChunkHead;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Read};
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"fxcheck2";
/// Most bytes of a part: a chunk of the widest keys, or a column of as many rows as one is cut into.
const MOST: u32 = 64 << 20;

/// What a body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// A chunk of a table.
    Chunk(ChunkHead),
    /// What some rows have in a column.
    Column(ColumnHead),
}

/// Some rows' part of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnHead {
    /// The column's place among those that the plan keeps.
    pub column: u32,
    /// The number of the first row in its input.
    pub first: u64,
    /// How many rows.
    pub rows: u32,
    /// How the values lie in the body.
    pub values: ColumnValues,
}

/// Writes a checkpoint's file.
pub struct Writer {
    staged: Box<dyn Staged>,
    bytes: u64,
}

impl Writer {
    /// Begins with a description and a place.
    pub(super) fn create(staged: Box<dyn Staged>, description: &[u8], place: &Place) -> Result<Self> {
        let mut writer = Self { staged, bytes: 0 };
        writer.put(MAGIC)?;
        writer.record(description, &[])?;
        writer.record(&codec::encode(place)?, &[])?;
        Ok(writer)
    }

    /// The next part.
    pub fn part(&mut self, part: &Part, values: &[u8]) -> Result<()> {
        self.record(&codec::encode(part)?, values)
    }

    fn record(&mut self, head: &[u8], body: &[u8]) -> Result<()> {
        let lengths = [head.len() as u32, body.len() as u32];
        lengths.iter().try_for_each(|len| self.put(&len.to_le_bytes()))?;
        self.put(&checksum(head, body).to_le_bytes())?;
        self.put(head)?;
        self.put(body)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        self.staged.write(bytes)
    }

    /// Ends it, and puts it in its place: after this it is there, whole and stored. Its bytes.
    pub fn finish(mut self) -> Result<u64> {
        self.record(&[], &[])?;
        self.staged.put()?;
        Ok(self.bytes)
    }
}

/// Reads one.
pub struct Reader {
    /// For errors.
    name: String,
    file: Box<dyn BufRead>,
}

impl Reader {
    /// The one that was found in a folder.
    pub(super) fn open(store: &dyn Store) -> Result<Self, Refusal> {
        let mut reader = Self { name: store.file(), file: store.open()? };
        let mut magic = [0; 8];
        reader.take(&mut magic)?;
        if magic == *MAGIC { Ok(reader) } else { Err(reader.bad("no checkpoint, or one of another version")) }
    }

    /// What it says of itself, which comes first.
    pub fn description(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(self.record()?.ok_or_else(|| self.bad("a checkpoint without a description"))?.0)
    }

    /// Its place, which comes next.
    pub fn place(&mut self) -> Result<Place, Refusal> {
        let (head, _) = self.record()?.ok_or_else(|| self.bad("a checkpoint without a place"))?;
        codec::decode(&head).map_err(|_| self.bad("a place that is none"))
    }

    /// The next part, if there is one; nothing is behind the last.
    pub fn part(&mut self) -> Result<Option<(Part, Bytes)>, Refusal> {
        let Some((head, body)) = self.record()? else {
            let rest = self.file.fill_buf().map_err(|e| io(&self.name, &e))?;
            return if rest.is_empty() { Ok(None) } else { Err(self.bad("something was added to it")) };
        };
        let head = codec::decode(&head).map_err(|_| self.bad("a part that is none"))?;
        Ok(Some((head, body)))
    }

    fn record(&mut self) -> Result<Option<(Vec<u8>, Bytes)>, Refusal> {
        let [head, body] = [self.length(MAX_CONTROL as u32)?, self.length(MOST)?];
        let mut sum = [0; 8];
        self.take(&mut sum)?;
        let [mut head, mut body] = [head, body].map(|len| vec![0; len as usize]);
        self.take(&mut head)?;
        self.take(&mut body)?;
        if u64::from_le_bytes(sum) != checksum(&head, &body) {
            return Err(self.bad("its checksum is another: it was changed"));
        }
        Ok((!head.is_empty()).then(|| (head, body.into())))
    }

    fn length(&mut self, most: u32) -> Result<u32, Refusal> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        let len = u32::from_le_bytes(bytes);
        if len <= most { Ok(len) } else { Err(self.bad("it was changed")) }
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<(), Refusal> {
        self.file.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.bad("it was cut short"),
            _ => io(&self.name, &e).into(),
        })
    }

    /// The error of a file that is damaged.
    pub fn bad(&self, what: &str) -> Refusal {
        Refusal::Useless(Error::data(format!("{}: {what}; remove it to start from the beginning", self.name)))
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(head);
    hasher.update(body);
    hasher.digest()
}
