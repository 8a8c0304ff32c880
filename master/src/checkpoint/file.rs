//! A checkpoint's file: a place, then chunks, each with a checksum.
//!
//! Layout: 8 bytes that say what it is, then records of `[head: u32][body: u32][xxh3 of both: u64][head][body]`, numbers
//! little-endian, head and body as long as they say. The first head is the place; those of the others are chunks', with
//! their values as bodies; one without a head ends the file. Invariant: a file that was cut short or changed is an error that
//! names it.

use crate::job::driver::Place;
use bytes::Bytes;
use flexps_common::error::io;
use flexps_common::side::Side;
use flexps_common::wire::codec::{self, MAX_CONTROL};
use flexps_common::wire::moved::ChunkHead;
use flexps_common::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The file's name.
pub const NAME: &str = "checkpoint.bin";
const MAGIC: &[u8; 8] = b"fxcheck1";
/// Most bytes of a chunk: of the widest keys.
const MOST: u32 = 64 << 20;

/// Writes a checkpoint's file in a folder beside its place.
pub struct Writer {
    side: Side,
    file: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    /// Begins with the place.
    pub fn create(side: Side, place: &Place) -> Result<Self> {
        let file = File::create(side.path().join(NAME)).map_err(|e| io(side.path().display(), &e))?;
        let mut writer = Self { side, file: BufWriter::new(file), bytes: 0 };
        writer.put(MAGIC)?;
        writer.record(&codec::encode(place)?, &[])?;
        Ok(writer)
    }

    /// The next chunk.
    pub fn chunk(&mut self, head: &ChunkHead, values: &[u8]) -> Result<()> {
        self.record(&codec::encode(head)?, values)
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
        self.file.write_all(bytes).map_err(|e| io(self.side.path().display(), &e))
    }

    /// Ends it, and puts it with a description at `target`: after this it is there, whole, and on the disk. Its bytes.
    pub fn finish(mut self, target: &Path, name: &str, description: &[u8]) -> Result<u64> {
        self.record(&[], &[])?;
        self.put_at(target, name, description).map_err(|e| io(target.display(), &e))?;
        Ok(self.bytes + description.len() as u64)
    }

    fn put_at(&mut self, target: &Path, name: &str, description: &[u8]) -> std::io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let mut described = File::create(self.side.path().join(name))?;
        described.write_all(description)?;
        described.sync_all()?;
        self.side.put(target)
    }
}

/// Reads one.
pub struct Reader {
    name: PathBuf,
    file: BufReader<File>,
}

impl Reader {
    /// That in a folder.
    pub fn open(folder: &Path) -> Result<Self> {
        let name = folder.join(NAME);
        let file = File::open(&name).map_err(|e| io(name.display(), &e))?;
        let mut reader = Self { name, file: BufReader::new(file) };
        let mut magic = [0; 8];
        reader.take(&mut magic)?;
        if magic == *MAGIC { Ok(reader) } else { Err(reader.bad("no checkpoint, or one of another version")) }
    }

    /// Its place, which comes first.
    pub fn place(&mut self) -> Result<Place> {
        let (head, _) = self.record()?.ok_or_else(|| self.bad("a checkpoint without a place"))?;
        codec::decode(&head).map_err(|_| self.bad("a place that is none"))
    }

    /// The next chunk, if there is one.
    pub fn chunk(&mut self) -> Result<Option<(ChunkHead, Bytes)>> {
        let Some((head, body)) = self.record()? else { return Ok(None) };
        let head = codec::decode(&head).map_err(|_| self.bad("a chunk that is none"))?;
        Ok(Some((head, body)))
    }

    fn record(&mut self) -> Result<Option<(Vec<u8>, Bytes)>> {
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

    fn length(&mut self, most: u32) -> Result<u32> {
        let mut bytes = [0; 4];
        self.take(&mut bytes)?;
        let len = u32::from_le_bytes(bytes);
        if len <= most { Ok(len) } else { Err(self.bad("it was changed")) }
    }

    fn take(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => self.bad("it was cut short"),
            _ => io(self.name.display(), &e),
        })
    }

    fn bad(&self, what: &str) -> Error {
        Error::data(format!("{}: {what}; remove the folder to start from the beginning", self.name.display()))
    }
}

fn checksum(head: &[u8], body: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(head);
    hasher.update(body);
    hasher.digest()
}
