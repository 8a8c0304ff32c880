//! libsvm/svmlight text to blocks, and back.
//!
//! A row is `label index:value index:value … # comment`, separated by blanks or tabs; `qid:` tokens, blank lines, lines of
//! comment and Windows line ends are taken. Invariant: each line is a row, is blank, or is a bad row with its place and
//! reason; nothing is dropped silently. A block holds what the text's good rows hold, in order, bit for bit as Rust's
//! `parse::<f32>` would read it.

use super::block::{Block, norm2};
use super::number::{PAD, ends_token, float, integer, token_end};
use super::schema::{DENSE, Facts, Schema, is_exact, too_large};
use super::wide::{self, Seen};
use crate::error::{Error, Result};
use crate::ids::Key;

#[cfg(test)]
mod tests;
mod writer;

pub use writer::{write, write_row};

/// Messages of bad rows that are kept of one text.
pub const KEPT_MESSAGES: usize = 5;

/// Unusual features in a row after which the rest of it is thought to be so.
const PATIENCE: u32 = 4;

/// The part of a block's non-zeros that the next one gets room for beside as many.
const SPARE: usize = 16;

/// Characters of a bad token that a message shows.
const SHOWN: usize = 40;

/// Where a text stands in its file.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The file.
    pub path: &'a str,
    /// The text's first byte in the file (in the decompressed one, if the file is compressed).
    pub offset: u64,
    /// The number of the text's first line, from 1, when it is known.
    pub line: Option<u64>,
}

/// What a text turned out to hold.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The good rows.
    pub block: Block,
    /// Their facts, with the number of bad rows.
    pub facts: Facts,
    /// The first bad rows' messages, at most [`KEPT_MESSAGES`].
    pub bad: Vec<Error>,
}

/// Turns texts into blocks; keeps its scratch memory from one to the next.
#[derive(Debug)]
pub struct Parser {
    schema: Schema,
    /// Indices and values of the rows so far: written up to the current row's count.
    indices: Vec<Key>,
    values: Vec<f32>,
    /// How long these are to be: a little longer than the longest block's so far.
    room: usize,
    /// The rest of a block that nobody uses any more.
    spare: Block,
    labels: Vec<f32>,
    offsets: Vec<u32>,
    tail: Vec<u8>,
}

/// Why a row is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reason {
    Label,
    Class(f32),
    LargeClass,
    Index,
    Separator,
    Base,
    Order { before: u64, index: u64 },
    TooLarge(u64),
    Value,
    NotFinite,
}

/// A reason, and the position at which it was seen.
type Bad = (Reason, usize);

/// What the rows of one text add up to while they are parsed.
struct Run {
    /// Non-zeros so far.
    count: usize,
    /// Whether a value other than 1 was seen; holds the differing bits.
    other_values: u32,
    facts: Facts,
    bad: Vec<Error>,
}

impl Parser {
    /// A parser of rows as `schema` says.
    pub fn new(schema: Schema) -> Self {
        Self {
            schema,
            indices: Vec::new(),
            values: Vec::new(),
            room: 0,
            spare: Block::default(),
            labels: Vec::new(),
            offsets: Vec::new(),
            tail: Vec::new(),
        }
    }

    /// How it takes rows.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Has the next block made in the memory of one that nobody uses any more: pages that are there already need not be
    /// made and cleared.
    pub fn reuse(&mut self, mut spare: Block) {
        self.indices = std::mem::take(&mut spare.indices);
        if let Some(values) = spare.values.take() {
            self.values = values;
        }
        self.spare = spare;
    }

    /// What was given to [`Self::reuse`] last, to make a block of it by other means.
    pub fn spare(&mut self) -> Block {
        let mut spare = std::mem::take(&mut self.spare);
        spare.indices = std::mem::take(&mut self.indices);
        spare.values = Some(std::mem::take(&mut self.values));
        spare
    }

    /// Parses whole lines; the last may lack its line end. The block may have room to spare. Fails, with the first messages,
    /// when the text alone holds more bad rows than the schema allows.
    pub fn parse(&mut self, text: &[u8], place: &Place<'_>) -> Result<Parsed> {
        self.labels.clear();
        self.offsets.clear();
        self.offsets.push(0);
        lengthen(&mut self.indices, self.room);
        lengthen(&mut self.values, self.room);
        let mut run = Run { count: 0, other_values: 0, facts: Facts::default(), bad: Vec::new() };
        // Wide loads may look PAD bytes past a token: the last lines are parsed from a copy with room behind.
        let open = text.len().saturating_sub(PAD);
        let head = memchr::memrchr(b'\n', &text[..open]).map_or(0, |at| at + 1);
        let lines = self.lines(text, head, (0, 0), place, &mut run)?;
        let mut tail = std::mem::take(&mut self.tail);
        tail.clear();
        tail.extend_from_slice(&text[head..]);
        if tail.last().is_some_and(|b| *b != b'\n') {
            tail.push(b'\n');
        }
        let end = tail.len();
        tail.resize(end + PAD, b'\n');
        let done = self.lines(&tail, end, (head, lines), place, &mut run);
        self.tail = tail;
        done?;

        let facts = &mut run.facts;
        facts.rows = self.labels.len() as u64;
        facts.labels = self.schema.labels.clone();
        facts.nonzeros = run.count as u64;
        if let Some(features) = self.schema.features {
            facts.features = features;
        }
        self.room = self.room.max(run.count + run.count / SPARE);
        let mut block = std::mem::take(&mut self.spare);
        block.labels.clone_from(&self.labels);
        block.offsets.clone_from(&self.offsets);
        // Handed over, not copied.
        block.indices = std::mem::take(&mut self.indices);
        block.indices.truncate(run.count);
        block.values = (run.other_values != 0).then(|| std::mem::take(&mut self.values));
        block.values.iter_mut().for_each(|values| values.truncate(run.count));
        Ok(Parsed { block, facts: run.facts, bad: run.bad })
    }

    /// Parses the lines of `text[..end]`. `before` says how many bytes and lines of the whole text came earlier; returns
    /// the lines seen.
    fn lines(
        &mut self,
        text: &[u8],
        end: usize,
        before: (usize, u64),
        place: &Place<'_>,
        run: &mut Run,
    ) -> Result<u64> {
        let (mut at, mut lines) = (0, 0);
        while at < end {
            let first = run.count;
            match self.row(text, at, run) {
                Ok(next) => at = next,
                Err(bad) => {
                    run.count = first;
                    run.facts.bad_rows += 1;
                    let line_end = memchr::memchr(b'\n', &text[at..end]).map_or(end, |n| at + n);
                    if run.bad.len() < KEPT_MESSAGES {
                        let line = place.line.map(|n| n + before.1 + lines);
                        let offset = place.offset + (before.0 + at) as u64;
                        run.bad.push(self.message(&text[..line_end], bad, place.path, line, offset));
                    }
                    if run.facts.bad_rows > self.schema.bad_rows {
                        return Err(too_many(&run.bad, run.facts.bad_rows, self.schema.bad_rows));
                    }
                    at = line_end + 1;
                }
            }
            lines += 1;
        }
        Ok(lines)
    }

    /// Parses the line at `start` and returns the start of the next one. Nothing of a bad line remains but what stands
    /// behind `run.count`.
    #[inline(always)]
    fn row(&mut self, text: &[u8], start: usize, run: &mut Run) -> Result<usize, Bad> {
        let mut at = skip_blanks(text, start);
        if matches!(text[at], b'\n' | b'#') {
            return Ok(next_line(text, at));
        }
        let Some((label, mut end)) = float(text, at) else { return Err((Reason::Label, at)) };
        if label.abs() >= DENSE && self.is_rounded(&text[at..end], label) {
            return Err((Reason::LargeClass, at));
        }
        let Some(label) = self.schema.labels.code(label) else {
            return Err((if label.is_finite() { Reason::Class(label) } else { Reason::Label }, at));
        };
        let base = u64::from(self.schema.index_base);
        // One past the largest allowed index.
        let limit = self.schema.features.unwrap_or(1 << 32).min(1 << 32) + base;
        let mut seen = Seen { end, count: run.count, least: base, other_values: 0 };
        // Features in a row that were not usual ones.
        let mut unusual = 0;
        loop {
            if unusual < PATIENCE {
                let before = seen.count;
                wide::take(text, &mut seen, base, limit, &mut self.indices, &mut self.values);
                unusual = if seen.count > before { 0 } else { unusual + 1 };
            }
            end = seen.end;
            at = end + 1;
            if text[end] != b' ' || !text[at].is_ascii_digit() {
                at = skip_blanks(text, end);
                if matches!(text[at], b'\n' | b'#') {
                    break;
                }
                if text[at..].starts_with(b"qid:") {
                    seen.end = token_end(text, at);
                    continue;
                }
            }
            let (index, colon) = integer(text, at);
            if text[colon] != b':' || colon == at {
                return Err((if colon == at { Reason::Index } else { Reason::Separator }, at));
            }
            let Some((value, value_end)) = float(text, colon + 1) else { return Err((Reason::Value, at)) };
            if !value.is_finite() {
                return Err((Reason::NotFinite, at));
            }
            if index < seen.least || index >= limit {
                return Err((self.range(index, seen.least, base), at));
            }
            if seen.count >= self.indices.len() || seen.count >= self.values.len() {
                self.grow();
            }
            self.indices[seen.count] = (index - base) as Key;
            self.values[seen.count] = value;
            seen.other_values |= value.to_bits() ^ 1f32.to_bits();
            seen = Seen { end: value_end, count: seen.count + 1, least: index + 1, ..seen };
        }
        self.finish_row(run, seen.count, label, seen.least - base);
        run.other_values |= seen.other_values;
        Ok(next_line(text, at))
    }

    /// Keeps the row whose non-zeros are `run.count..count`.
    #[inline]
    fn finish_row(&mut self, run: &mut Run, count: usize, label: f32, features: u64) {
        let values = &self.values[run.count..count];
        let norm2 = norm2(values);
        let facts = &mut run.facts;
        facts.positives += u64::from(label > 0.0);
        facts.empty_rows += u64::from(values.is_empty());
        facts.max_norm2 = facts.max_norm2.max(norm2);
        facts.sum_norm2 += norm2;
        facts.features = facts.features.max(features);
        run.count = count;
        self.labels.push(label);
        self.offsets.push(count as u32);
    }

    /// Whether the label of a class is another one than its text says.
    #[cold]
    fn is_rounded(&self, text: &[u8], label: f32) -> bool {
        !self.schema.labels.all().is_empty() && !std::str::from_utf8(text).is_ok_and(|text| is_exact(text, label))
    }

    #[cold]
    fn grow(&mut self) {
        let room = (2 * self.indices.len()).max(1 << 12);
        self.indices.resize(room, 0);
        self.values.resize(room, 0.0);
    }

    #[cold]
    fn range(&self, index: u64, least: u64, base: u64) -> Reason {
        if index < base {
            Reason::Base
        } else if index < least {
            Reason::Order { before: least - 1, index }
        } else {
            Reason::TooLarge(index)
        }
    }

    /// What a user is told of a bad row. `text` ends where the line does.
    #[cold]
    fn message(&self, text: &[u8], (reason, at): Bad, path: &str, line: Option<u64>, offset: u64) -> Error {
        let why = why(&self.schema, reason, &shown(text, at));
        match line {
            Some(line) => Error::data(format!("{path}, line {line}: {why}")),
            None => Error::data(format!("{path}, line at byte {offset}: {why}")),
        }
    }
}

/// Makes it so long at least; what is new is zero.
pub(super) fn lengthen<T: Copy + Default>(numbers: &mut Vec<T>, len: usize) {
    if numbers.capacity() == 0 {
        // Fresh zeroed memory: what nobody touches of it is never made.
        *numbers = vec![T::default(); len];
    } else if numbers.len() < len {
        numbers.resize(len, T::default());
    }
}

/// What a job's flags can do about a bad row.
const LABELS: [&str; 2] =
    ["; give both with --labels NEG,POS, or all, if there are more, with A,B,C,…", "; give all with --labels A,B,C,…"];
const BASE: &str = "; give --index-base 0";
const SKIP: &str = " (or skip such rows: --bad-rows N)";

/// Bytes of the longest row that is read.
pub const LONGEST_ROW: usize = 256 << 20;

/// The error of one that is longer, which begins at byte `at` of a file.
pub fn too_long(path: &str, at: u64) -> Error {
    Error::data(format!("{path}, row at byte {at}: longer than {LONGEST_ROW} bytes; are its line ends those of text?"))
}

/// The error of a bad row without the advice that only commands with a job's flags can follow.
pub fn without_flags(error: Error) -> Error {
    let advice = LABELS.iter().chain([&BASE, &SKIP]);
    Error { message: advice.fold(error.message, |message, advice| message.replace(advice, "")), ..error }
}

/// What makes a row with `token`, which is quoted, a bad one, and what to do about it.
#[cold]
pub(super) fn why(schema: &Schema, reason: Reason, token: &str) -> String {
    match reason {
        Reason::Label if token.starts_with("'\\u{feff}") => {
            format!("{token}: the file starts with a byte order mark, which no row has; remove its first three bytes")
        }
        Reason::Label => format!("label {token} is no number; a row is LABEL INDEX:VALUE INDEX:VALUE …"),
        Reason::Class(_) => format!(
            "label {token} is {} {}{}{}",
            if schema.labels.all().len() == 2 { "neither of the two classes" } else { "none of the classes" },
            schema.labels,
            if schema.labels_detected { " that were found at the files' ends" } else { "" },
            if schema.labels.all().len() == 2 { LABELS[0] } else { LABELS[1] },
        ),
        Reason::LargeClass => too_large(token),
        Reason::Index => format!("{token} does not start with an index; a feature is INDEX:VALUE"),
        Reason::Separator => format!("{token} has no colon behind its index; a feature is INDEX:VALUE"),
        Reason::Base if schema.base_detected => {
            format!("index 0 in {token}, but the indices at the files' ends start from {}{BASE}", schema.index_base)
        }
        Reason::Base => format!(
            "index 0 in {token}, but indices start from {}, as --index-base or the model says; a model of rows whose indices \
             start from 0 is trained with --index-base 0",
            schema.index_base
        ),
        Reason::Order { before, index } if before == index => {
            format!("index {index} comes twice; merge its values into one")
        }
        Reason::Order { before, index } => {
            format!("index {index} follows {before}; indices must rise, sort each row's features")
        }
        Reason::TooLarge(index) => match schema.features {
            Some(features) if u64::from(schema.index_base) + features <= 1 << 32 => format!(
                "index {index} is beyond the {features} features that were given (indices from {}); give more with \
                 --features, or leave it out",
                schema.index_base
            ),
            _ => format!(
                "index in {token} is beyond {}, the largest allowed{}; hash or renumber the features",
                u64::from(schema.index_base) + u64::from(Key::MAX),
                if schema.index_base > 0 { " where indices start from 1" } else { "" }
            ),
        },
        Reason::Value => format!("value in {token} is no number"),
        Reason::NotFinite => {
            format!("value in {token} is not finite as a 32-bit float; remove or scale the feature")
        }
    }
}

/// The error of an input with more bad rows than allowed; `bad` holds the first ones' messages.
pub fn too_many(bad: &[Error], count: u64, allowed: u64) -> Error {
    let first = bad.first().map_or("", |e| e.message.as_str());
    if allowed == 0 {
        return Error::data(format!("{first}{SKIP}"));
    }
    Error::data(format!("{count} bad rows, at most {allowed} are allowed by --bad-rows; the first: {first}"))
}

/// Behind blanks, tabs and carriage returns.
#[inline]
fn skip_blanks(text: &[u8], mut at: usize) -> usize {
    while matches!(text[at], b' ' | b'\t' | b'\r') {
        at += 1;
    }
    at
}

/// The start of the line behind the one whose `\n` or comment stands at `at`.
#[inline]
fn next_line(text: &[u8], at: usize) -> usize {
    if text[at] == b'\n' {
        return at + 1;
    }
    memchr::memchr(b'\n', &text[at..]).map_or(text.len(), |n| at + n + 1)
}

/// The token at `at`, quoted, cut to a readable length.
fn shown(text: &[u8], at: usize) -> String {
    let end = (at..text.len()).take(SHOWN + 1).find(|i| ends_token(text[*i])).unwrap_or(text.len().min(at + SHOWN + 1));
    let token = String::from_utf8_lossy(&text[at..end.min(at + SHOWN)]);
    if end - at > SHOWN { format!("'{}…'", token.escape_debug()) } else { format!("'{}'", token.escape_debug()) }
}
