//! Compressed files: told by their first bytes, decoded as a stream.
//!
//! Invariant: a file that ends in the middle of its archive, or whose bytes don't decode, is an error that names the file,
//! never fewer rows; an archive of a kind that can't be read is refused by name before any of it is taken for text.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{self, BufReader, Read};

/// First bytes that [`Compression::detect`] looks at.
pub const HEAD: usize = 16;

/// Bytes of a compressed file's head that are worth decoding to look at its first rows: a block of bzip2 is some 300 KiB.
pub const SAMPLE: usize = 1 << 20;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// gzip, of one or more members.
    Gzip,
    /// bzip2, of one or more streams.
    Bzip2,
    /// Zstandard, of one or more frames.
    Zstd,
    /// Snappy's own framing format.
    Snappy,
    /// Snappy as Hadoop's `SnappyCodec` writes it: blocks of raw snappy behind big-endian lengths.
    HadoopSnappy,
}

/// First bytes of what can't be read, with its name.
const OTHERS: [(&[u8], &str); 12] = [
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x89LZO\0", "lzo"),
    (b"LZIP", "lzip"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"PAR1", "parquet"),
    (b"Obj\x01", "avro"),
    (b"SEQ\x06", "Hadoop sequence"),
];

impl Compression {
    /// How a file that starts with `head` (its first [`HEAD`] bytes, or all) is compressed; none for text. The name only
    /// counts for Hadoop's snappy, which has no mark of its own. An error for an archive of another kind.
    pub fn detect(head: &[u8], path: &str) -> Result<Option<Self>> {
        if head.starts_with(b"\x1f\x8b") {
            return Ok(Some(Self::Gzip));
        }
        // "BZh", the block size, and a block's or the end's mark.
        if head.starts_with(b"BZh") && head.get(4..6).is_some_and(|m| m == b"\x31\x41" || m == b"\x17\x72") {
            return Ok(Some(Self::Bzip2));
        }
        // A frame, or one of the frames to be skipped that may come first.
        if head.starts_with(b"\x28\xb5\x2f\xfd")
            || head.get(..4).is_some_and(|m| m[0] & 0xf0 == 0x50 && m[1..] == [0x2a, 0x4d, 0x18])
        {
            return Ok(Some(Self::Zstd));
        }
        if head.starts_with(b"\xff\x06\0\0sNaPpY") {
            return Ok(Some(Self::Snappy));
        }
        // The first length is below 16 MiB, so its first byte is 0, as no row's is.
        if head.first() == Some(&0) && path.ends_with(".snappy") {
            return Ok(Some(Self::HadoopSnappy));
        }
        if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
            return Err(Error::data(format!(
                "{path}: packed as {name}; plain text, gzip, bzip2, zstd and snappy can be read: unpack it, or pack it anew"
            )));
        }
        Ok(None)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Zstd => "zstd",
            Self::Snappy | Self::HadoopSnappy => "snappy",
        }
    }

    /// The decoded bytes of `file`. Its errors are best turned into ours by [`Compression::error`].
    pub fn decode<'a>(self, file: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
            Self::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(file)),
            Self::Zstd => Box::new(
                zstd::stream::read::Decoder::new(file)
                    .map_err(|e| Error::bug(format!("no zstd decoder could be made: {e}")))?,
            ),
            Self::Snappy => Box::new(snap::read::FrameDecoder::new(file)),
            Self::HadoopSnappy => Box::new(HadoopSnappyDecoder::new(BufReader::new(file))),
        })
    }

    /// Turns an error of [`Compression::decode`]'s reader into ours: that of the underlying file as it was, if it was ours.
    pub fn error(self, path: &str, error: io::Error) -> Error {
        let name = self.name();
        match error.kind() {
            _ if error.get_ref().is_some_and(|e| e.is::<Error>()) => crate::error::io(path, &error),
            io::ErrorKind::UnexpectedEof => Error::data(format!(
                "{path}: the {name} file is truncated: it ends in the middle of its data; copy it again"
            )),
            _ if error.to_string().contains("too much memory") => Error::data(format!(
                "{path}: the {name} file needs more than 128 MiB to be unpacked; pack it anew without --long or --ultra"
            )),
            _ => Error::data(format!("{path}: the {name} file is damaged: {error}; copy it again")),
        }
    }

    /// At most `most` bytes of the text of the file at `path`, as far as its head goes. Unless it is `whole`, all of the file,
    /// it may end anywhere; what can't be decoded otherwise is an error.
    pub fn decode_head(self, path: &str, head: &[u8], whole: bool, most: usize) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut decoder = self.decode(head)?;
        let mut piece = [0; 4096];
        while text.len() < most {
            match decoder.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => text.extend_from_slice(&piece[..n]),
                // A head ends anywhere: what came before its end is all that can be had.
                Err(e) if !whole && e.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(self.error(path, e)),
            }
        }
        text.truncate(most);
        Ok(text)
    }
}

/// Most bytes of a compressed or decoded snappy chunk; Hadoop writes 256 KiB.
const MAX_CHUNK: usize = 64 << 20;

/// Decodes Hadoop's snappy: blocks, each the big-endian length of its text and then chunks (big-endian length, raw snappy)
/// until the text is complete.
struct HadoopSnappyDecoder<R> {
    file: R,
    /// Bytes of the current block that are still in coming chunks.
    left: usize,
    packed: Vec<u8>,
    text: Vec<u8>,
    at: usize,
}

impl<R: Read> HadoopSnappyDecoder<R> {
    fn new(file: R) -> Self {
        Self { file, left: 0, packed: Vec::new(), text: Vec::new(), at: 0 }
    }

    /// The next length; none at the file's end, where one may end.
    fn length(&mut self, may_end: bool) -> io::Result<Option<usize>> {
        let mut bytes = [0; 4];
        let mut got = 0;
        while got < 4 {
            match self.file.read(&mut bytes[got..])? {
                0 if got == 0 && may_end => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        let length = u32::from_be_bytes(bytes) as usize;
        if length > MAX_CHUNK {
            return Err(invalid(format!("a chunk of {length} bytes, at most {MAX_CHUNK} are allowed")));
        }
        Ok(Some(length))
    }

    /// Decodes the next chunk; false at the file's end.
    fn chunk(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            match self.length(true)? {
                Some(length) => self.left = length,
                None => return Ok(false),
            }
        }
        let Some(packed) = self.length(false)? else { return Ok(false) };
        self.packed.resize(packed, 0);
        self.file.read_exact(&mut self.packed)?;
        let length = snap::raw::decompress_len(&self.packed).map_err(invalid)?;
        if length == 0 || length > self.left {
            return Err(invalid(format!("a chunk of {length} bytes in a block with {} to come", self.left)));
        }
        self.text.resize(length, 0);
        snap::raw::Decoder::new().decompress(&self.packed, &mut self.text).map_err(invalid)?;
        self.left -= length;
        self.at = 0;
        Ok(true)
    }
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_string())
}

impl<R: Read> Read for HadoopSnappyDecoder<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.text.len() {
            if !self.chunk()? {
                return Ok(0);
            }
        }
        let count = out.len().min(self.text.len() - self.at);
        out[..count].copy_from_slice(&self.text[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn text() -> Vec<u8> {
        (0..250_000u64)
            .map(|i| format!("1 {}:{}\n", i % 977 + 1, (i * i + 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44))
            .collect::<String>()
            .into_bytes()
    }

    fn hadoop(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for block in text.chunks(100_000) {
            out.extend((block.len() as u32).to_be_bytes());
            for chunk in block.chunks(30_000) {
                let packed = snap::raw::Encoder::new().compress_vec(chunk).unwrap();
                out.extend((packed.len() as u32).to_be_bytes());
                out.extend(packed);
            }
        }
        out
    }

    fn packed(compression: Compression, text: &[u8]) -> Vec<u8> {
        match compression {
            Compression::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(text).unwrap();
                out.finish().unwrap()
            }
            Compression::Bzip2 => {
                let mut out = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                out.write_all(text).unwrap();
                out.finish().unwrap()
            }
            Compression::Zstd => {
                let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
                out.include_checksum(true).unwrap();
                out.write_all(text).unwrap();
                out.finish().unwrap()
            }
            Compression::Snappy => {
                let mut out = snap::write::FrameEncoder::new(Vec::new());
                out.write_all(text).unwrap();
                out.into_inner().unwrap()
            }
            Compression::HadoopSnappy => hadoop(text),
        }
    }

    const ALL: [Compression; 5] =
        [Compression::Gzip, Compression::Bzip2, Compression::Zstd, Compression::Snappy, Compression::HadoopSnappy];

    fn decoded(compression: Compression, file: &[u8]) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut decoder = compression.decode(file)?;
        decoder.read_to_end(&mut text).map_err(|e| compression.error("f", e))?;
        Ok(text)
    }

    #[test]
    fn every_kind_is_told_by_its_first_bytes_and_decoded() {
        for kind in ALL {
            let file = packed(kind, &text());
            assert_eq!(Compression::detect(&file[..HEAD], "rows.snappy").unwrap(), Some(kind));
            assert_eq!(decoded(kind, &file).unwrap(), text());
            let half = &file[..file.len() / 2];
            assert_eq!(kind.decode_head("f", half, false, 1000).unwrap(), text()[..1000], "{kind:?}");
            let error = kind.decode_head("f", half, true, usize::MAX).unwrap_err();
            assert!(error.message.contains("truncated"), "{kind:?}: {error}");
        }
        for plain in [&b"1 1:1\n"[..], b"# BZh comment", b"+1", b"", b"\n", b"BZh9 is no archive"] {
            assert_eq!(Compression::detect(plain, "rows.gz").unwrap(), None);
        }
    }

    #[test]
    fn a_head_may_end_anywhere_and_what_is_damaged_is_said_to_be() {
        for kind in ALL {
            let mut file = packed(kind, &text());
            for end in (HEAD..file.len()).step_by(file.len() / 40 + 1) {
                let head = kind.decode_head("f", &file[..end], false, usize::MAX);
                assert!(head.as_ref().is_ok_and(|head| text().starts_with(head)), "{kind:?} cut at {end}: {head:?}");
            }
            let middle = file.len() / 2;
            file[middle..middle + 40].fill(0xff);
            let error = kind.decode_head("f", &file, false, usize::MAX).unwrap_err();
            assert!(error.message.contains("damaged"), "{kind:?}: {error}");
        }
    }

    #[test]
    fn parts_written_one_after_the_other_are_all_decoded() {
        for kind in ALL {
            let mut file = packed(kind, b"1 1:1\n");
            file.extend(packed(kind, b"1 2:1\n"));
            assert_eq!(decoded(kind, &file).unwrap(), b"1 1:1\n1 2:1\n", "{kind:?}");
        }
    }

    #[test]
    fn a_truncated_archive_is_an_error_wherever_it_ends() {
        for kind in ALL {
            let file = packed(kind, &text());
            // Inside the first bytes an archive may not even be begun; the ends of parts are ends of archives.
            for end in [file.len() - 1, file.len() / 2, file.len() / 3 + 7, file.len() - 5] {
                let message = decoded(kind, &file[..end]).expect_err("truncated").message;
                assert!(message.contains("truncated") || message.contains("damaged"), "{kind:?}: {message}");
            }
        }
        let file = packed(Compression::Gzip, &text());
        assert!(decoded(Compression::Gzip, &file[..file.len() - 9]).unwrap_err().message.contains("truncated"));
    }

    #[test]
    fn damage_is_an_error() {
        for kind in ALL {
            let mut file = packed(kind, &text());
            let middle = file.len() / 2;
            file[middle..middle + 40].fill(0xff);
            // Raw snappy has no checksum: a damaged literal decodes to other text.
            if kind != Compression::HadoopSnappy {
                assert!(decoded(kind, &file).is_err(), "{kind:?}");
            }
        }
        assert!(decoded(Compression::HadoopSnappy, b"\0\0\0\x05\x7f\xff\xff\xff").is_err());
    }

    #[test]
    fn zstd_that_needs_more_memory_than_is_given_is_not_called_damaged() {
        let mut out = zstd::Encoder::new(Vec::new(), 1).unwrap();
        out.window_log(28).unwrap();
        out.write_all(&text()).unwrap();
        let message = decoded(Compression::Zstd, &out.finish().unwrap()).unwrap_err().message;
        assert!(message.contains("more than 128 MiB") && message.contains("without --long"), "{message}");
    }

    #[test]
    fn archives_of_other_kinds_are_refused_by_name() {
        for (magic, name) in OTHERS {
            let message = Compression::detect(magic, "rows.txt").unwrap_err().message;
            assert!(message.starts_with(&format!("rows.txt: packed as {name}; ")), "{message}");
        }
    }

    #[test]
    fn an_error_of_the_file_itself_comes_through() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other(Error::cluster("the disk is gone")))
            }
        }
        for kind in ALL {
            let error = kind.decode(Broken).and_then(|mut d| d.read(&mut [0; 9]).map_err(|e| kind.error("f", e)));
            assert_eq!(error.unwrap_err().message, "the disk is gone", "{kind:?}");
        }
    }
}
