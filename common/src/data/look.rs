//! Looks at the ends of a file of text, to find out what its rows are like.
//!
//! Invariant: a look goes on until it has shown some whole rows, or is as large as looks get. Of a row that is larger its
//! first words are seen.

use super::compression::SAMPLE as PACKED;
use super::form::Form;
use super::sniff::{MOST_CLASSES, SAMPLE, Sample, whole_lines, whole_words};
use crate::error::{Error, Result};
use crate::storage::{Listed, Storage};

/// Whole lines that are enough, and how many are when they are so long that a look is large already.
const ENOUGH: usize = 8;
const ENOUGH_LONG: usize = 2;
const LARGE: usize = 1 << 20;

/// Bytes of a look at most: a row of a million features. Rows may be longer.
const MOST: usize = 16 << 20;

/// Bytes that a look through all of a file takes at a time.
const PIECE: u64 = 4 << 20;

/// How much larger a look is that goes on.
const GROWTH: usize = 4;

/// What the start of a file of text shows, maybe a packed one; `head` holds its first bytes.
pub async fn start(storage: &Storage, file: Listed<'_>, form: Form, mut head: Vec<u8>) -> Result<Sample> {
    let (Listed { path, len, .. }, mut most) = (file, SAMPLE);
    loop {
        let want = len.min(if matches!(form, Form::Packed(_)) { most.max(PACKED) } else { most } as u64);
        if (head.len() as u64) < want {
            head.extend(storage.read_range(file, head.len() as u64..want).await?);
        }
        let whole = head.len() as u64 == len;
        let text;
        let (text, all) = match form {
            Form::Packed(compression) => {
                text = compression.decode_head(path, &head, whole, most)?;
                (&text, whole && text.len() < most)
            }
            _ => (&head, whole),
        };
        // The last line of all may have no end.
        let lines = whole_lines(text, true, all);
        if all || enough(lines, most) {
            let mut sample = Sample::of(path, lines);
            if most >= MOST {
                sample.merge(Sample::of(path, whole_words(&text[lines.len()..])));
            }
            return Ok(sample);
        }
        most *= GROWTH;
    }
}

/// What the end of a file of plain text shows, of which the first `seen` bytes were looked at.
pub async fn end(storage: &Storage, file: Listed<'_>, seen: u64) -> Result<Sample> {
    let (mut tail, mut most) = (Vec::new(), SAMPLE);
    loop {
        let (from, to) = (file.len.saturating_sub(most as u64).max(seen), file.len - tail.len() as u64);
        let mut before = storage.read_range(file, from..to).await?;
        before.append(&mut tail);
        tail = before;
        let lines = whole_lines(&tail, false, true);
        if from == seen || enough(lines, most) {
            return Ok(Sample::of(file.path, lines));
        }
        most *= GROWTH;
    }
}

/// What all of a file of plain text shows, or as much of it as shows that its labels are no classes.
pub async fn through(storage: &Storage, file: Listed<'_>) -> Result<Sample> {
    let sample = Sample { path: file.path.to_owned(), ..Sample::default() };
    let mut look = Look { sample, text: Vec::new(), within: false };
    let piece = |from: u64| storage.read_range(file, from..file.len.min(from + PIECE));
    let (mut from, mut bytes) = (0, piece(0).await?);
    while from < file.len && look.sample.labels.len() <= MOST_CLASSES {
        from = file.len.min(from + PIECE);
        let ends = from == file.len;
        let looked = tokio::task::spawn_blocking(move || {
            look.go_on(bytes, ends);
            look
        });
        // The next piece is read meanwhile.
        let next = async { if ends { Ok(Vec::new()) } else { piece(from).await } };
        let (looked, next) = futures::join!(looked, next);
        look = looked.map_err(|e| Error::bug(format!("a look at labels ended early: {e}")))?;
        bytes = next?;
    }
    Ok(look.sample)
}

/// A look through a text that comes in pieces.
struct Look {
    /// What was seen so far.
    sample: Sample,
    /// What is still to be looked at.
    text: Vec<u8>,
    /// Whether that begins in a long line, whose first words were seen.
    within: bool,
}

impl Look {
    /// Looks at all lines that are whole with the next bytes, the last one too if the file ends with it, and leaves the rest.
    fn go_on(&mut self, mut bytes: Vec<u8>, ends: bool) {
        match self.text.is_empty() {
            true => self.text = bytes,
            false => self.text.append(&mut bytes),
        }
        if self.within {
            let end = memchr::memchr(b'\n', &self.text);
            self.within = end.is_none();
            self.text.drain(..end.map_or(self.text.len(), |at| at + 1));
        }
        let lines = whole_lines(&self.text, true, ends);
        let (shown, seen) = (Sample::of(&self.sample.path, lines), lines.len());
        self.sample.merge(shown);
        self.text.drain(..seen);
        if self.text.len() >= MOST {
            let begun = Sample::of(&self.sample.path, whole_words(&self.text));
            self.sample.merge(begun);
            self.text.clear();
            self.within = true;
        }
    }
}

/// Whether what a look at `most` bytes shows is enough.
fn enough(lines: &[u8], most: usize) -> bool {
    let wanted = if most < LARGE { ENOUGH } else { ENOUGH_LONG };
    most >= MOST || memchr::memchr_iter(b'\n', lines).take(wanted).count() == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// What is seen of a file that holds `bytes`.
    fn seen(bytes: &[u8]) -> Vec<Sample> {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("rows");
        std::fs::write(&path, bytes).unwrap();
        let (path, storage) = (path.to_str().unwrap(), Storage::default());
        let file = Listed { path, len: bytes.len() as u64, modified: 0 };
        let head = bytes[..bytes.len().min(SAMPLE)].to_vec();
        let form = Form::detect(&head, path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let read = head.len() as u64;
            let mut samples = vec![start(&storage, file, form, head).await.unwrap()];
            if form == Form::Text {
                samples.push(end(&storage, file, read).await.unwrap());
            }
            samples
        })
    }

    /// The labels that a look through all of a file that holds `text` shows, from the smallest.
    fn all_labels(text: &str) -> Vec<f32> {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("rows");
        std::fs::write(&path, text).unwrap();
        let file = Listed { path: path.to_str().unwrap(), len: text.len() as u64, modified: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(through(&Storage::default(), file)).unwrap().labels
    }

    fn rows(labels: &[&str], length: usize) -> String {
        labels.iter().map(|label| format!("{label} 0:1 {}\n", "#".repeat(length))).collect()
    }

    #[test]
    fn rows_are_seen_however_long_they_are() {
        for length in [10, 10_000, SAMPLE, 300_000, 3 << 20] {
            let text = rows(&["1", "2", "3", "4"], length);
            for text in [&text, text.trim_end()] {
                let samples = seen(text.as_bytes());
                assert!(samples[0].labels.starts_with(&[1.0, 2.0]) && samples[0].zero, "{length}: {samples:?}");
                assert!(
                    samples[0].labels.len() == 4 || samples[1].labels.ends_with(&[3.0, 4.0]),
                    "{length}: {samples:?}"
                );
                let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packed.write_all(text.as_bytes()).unwrap();
                let samples = seen(&packed.finish().unwrap());
                assert!(samples[0].labels.starts_with(&[1.0, 2.0]) && samples[0].zero, "{length}: {samples:?}");
            }
        }
    }

    #[test]
    fn a_look_through_a_file_shows_each_label_wherever_it_stands() {
        let mut text = rows(&["1"; 1000], 10_000);
        for (at, label) in [(0, "0"), (PIECE as usize - 3, "2"), (PIECE as usize + 20_000, "3"), (text.len() - 1, "4")]
        {
            let at = text[..at].rfind('\n').map_or(0, |end| end + 1);
            text.replace_range(at..=at, label);
        }
        for text in [text.trim_end(), &text, &format!("{text}5 0:1\n")] {
            let last = if text.ends_with("5 0:1\n") { 5 } else { 4 };
            assert_eq!(all_labels(text), (0..=last).map(|label| label as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_look_through_a_file_ends_when_its_labels_are_no_classes() {
        let count = 2 * PIECE as usize / 10;
        // The index 0 is in the last row, which is not looked at any more.
        let text: String = (0..count).map(|row| format!("{row:07} {}:1\n", u8::from(row + 1 < count))).collect();
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("rows");
        std::fs::write(&path, &text).unwrap();
        let file = Listed { path: path.to_str().unwrap(), len: text.len() as u64, modified: 0 };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sample = runtime.block_on(through(&Storage::default(), file)).unwrap();
        assert_eq!((sample.labels.len(), sample.zero), (MOST_CLASSES + 1, false));
    }

    #[test]
    fn of_rows_longer_than_a_look_the_first_words_are_seen() {
        let text = rows(&["2", "3", "4"], MOST + 5);
        for text in [text.as_str(), text.trim_end()] {
            let samples = seen(text.as_bytes());
            assert!(samples[0].labels == [2.0] && samples[0].zero, "{samples:?}");
            assert_eq!(all_labels(text), [2.0, 3.0, 4.0]);
        }
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&text.as_bytes()[..MOST + 1]).unwrap();
        let samples = seen(&packed.finish().unwrap());
        assert!(samples[0].labels == [2.0] && samples[0].zero, "{samples:?}");
        // Short ones behind them.
        assert_eq!(all_labels(&format!("{}7 1:1\n8 1:1", &text[..text.len() / 3])), [2.0, 7.0, 8.0]);
    }

    #[test]
    fn a_look_at_a_file_without_line_ends_comes_to_an_end() {
        let samples = seen(&b"1 1:1 ".repeat(4 << 20));
        assert!(samples[0].labels == [1.0] && samples[1].labels.is_empty(), "{samples:?}");
    }
}
