//! Looks at the ends of a file of text, to find out what its rows are like.
//!
//! Invariant: a look goes on until it has shown some whole rows, however long they are, or is as large as looks get.

use super::compression::SAMPLE as PACKED;
use super::form::Form;
use super::sniff::{SAMPLE, Sample, whole_lines};
use crate::error::{Error, Result};
use crate::storage::Storage;

/// Whole lines that are enough, and how many are when they are so long that a look is large already.
const ENOUGH: usize = 8;
const ENOUGH_LONG: usize = 2;
const LARGE: usize = 1 << 20;

/// Bytes of a look at most: a row of a million features.
const MOST: usize = 16 << 20;

/// Bytes that a look through all of a file takes at a time.
const PIECE: u64 = 4 << 20;

/// How much larger a look is that goes on.
const GROWTH: usize = 4;

/// What the start of a file of text shows, maybe a packed one; `head` holds its first bytes.
pub async fn start(storage: &Storage, path: &str, len: u64, form: Form, mut head: Vec<u8>) -> Result<Sample> {
    let mut most = SAMPLE;
    loop {
        let want = len.min(if matches!(form, Form::Packed(_)) { most.max(PACKED) } else { most } as u64);
        if (head.len() as u64) < want {
            head.extend(storage.read_range(path, len, head.len() as u64..want).await?);
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
            return Ok(Sample::of(path, lines));
        }
        most *= GROWTH;
    }
}

/// What the end of a file of plain text shows, of which the first `seen` bytes were looked at.
pub async fn end(storage: &Storage, path: &str, len: u64, seen: u64) -> Result<Sample> {
    let (mut tail, mut most) = (Vec::new(), SAMPLE);
    loop {
        let (from, to) = (len.saturating_sub(most as u64).max(seen), len - tail.len() as u64);
        let mut before = storage.read_range(path, len, from..to).await?;
        before.append(&mut tail);
        tail = before;
        let lines = whole_lines(&tail, false, true);
        if from == seen || enough(lines, most) {
            return Ok(Sample::of(path, lines));
        }
        most *= GROWTH;
    }
}

/// What all of a file of plain text shows. Behind a line that is too long for a row it ends: the reader will name that.
pub async fn through(storage: &Storage, path: &str, len: u64) -> Result<Sample> {
    let (mut sample, mut text, mut read) = (Sample { path: path.to_owned(), ..Sample::default() }, Vec::new(), 0);
    while read < len && text.len() < MOST {
        let to = len.min(read + PIECE);
        text.extend(storage.read_range(path, len, read..to).await?);
        read = to;
        let (name, ends) = (path.to_owned(), read == len);
        let looked = tokio::task::spawn_blocking(move || {
            // What is left of the piece before begins with a line.
            let lines = whole_lines(&text, true, ends);
            let (shown, seen) = (Sample::of(&name, lines), lines.len());
            text.drain(..seen);
            (shown, text)
        });
        let shown;
        (shown, text) = looked.await.map_err(|e| Error::bug(format!("a look at labels ended early: {e}")))?;
        sample.merge(shown);
    }
    Ok(sample)
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
        let (path, len, storage) = (path.to_str().unwrap(), bytes.len() as u64, Storage::default());
        let head = bytes[..bytes.len().min(SAMPLE)].to_vec();
        let form = Form::detect(&head, path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let read = head.len() as u64;
            let mut samples = vec![start(&storage, path, len, form, head).await.unwrap()];
            if form == Form::Text {
                samples.push(end(&storage, path, len, read).await.unwrap());
            }
            samples
        })
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
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("rows");
        let mut text = rows(&["1"; 1000], 10_000);
        for (at, label) in [(0, "0"), (PIECE as usize - 3, "2"), (PIECE as usize + 20_000, "3"), (text.len() - 1, "4")]
        {
            let at = text[..at].rfind('\n').map_or(0, |end| end + 1);
            text.replace_range(at..=at, label);
        }
        for text in [text.trim_end(), &text, &format!("{text}5 0:1\n")] {
            std::fs::write(&path, text).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (storage, path) = (Storage::default(), path.to_str().unwrap());
            let look = through(&storage, path, text.len() as u64);
            let mut labels = runtime.block_on(look).unwrap().labels;
            labels.sort_by(f32::total_cmp);
            let last = if text.ends_with("5 0:1\n") { 5 } else { 4 };
            assert_eq!(labels, (0..=last).map(|label| label as f32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_look_at_a_file_without_line_ends_comes_to_an_end() {
        let samples = seen(&b"1 1:1 ".repeat(4 << 20));
        assert!(samples.iter().all(|sample| sample.labels.is_empty()), "{samples:?}");
    }
}
