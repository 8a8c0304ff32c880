//! Finds out, from the ends of an input's files, what its labels are and where its indices start.
//!
//! Invariant: what the user gave is never overruled; what was found is marked as found, so that a row that contradicts it can
//! say how to give it.

use super::schema::{InputSpec, Labels, Schema, Wanted, is_exact, too_large};
use crate::error::{Error, Result};

/// Bytes of a file's head and of its tail that are worth looking at.
pub const SAMPLE: usize = 64 << 10;

/// Most classes that are taken for such without being given.
pub const MOST_CLASSES: usize = 1000;

/// Labels that an error lists.
const SHOWN: usize = 10;

/// What a look into a file showed.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// The file.
    pub path: String,
    /// The labels seen, rising, each once; of more than classes may be, as many as show that.
    pub labels: Vec<f32>,
    /// One that is too large for a class, as it stands there.
    pub large: Option<String>,
    /// Whether an index 0 was seen.
    pub zero: bool,
}

impl Sample {
    /// With what another one shows of the same file.
    pub fn merge(&mut self, other: Self) {
        other.labels.into_iter().for_each(|label| note_label(&mut self.labels, label));
        self.large = self.large.take().or(other.large);
        self.zero |= other.zero;
    }

    /// What the lines of `text` show, which are whole; see [`whole_lines`] and, for one that only begins, [`whole_words`].
    pub fn of(path: &str, text: &[u8]) -> Self {
        let mut sample = Self { path: path.to_owned(), ..Self::default() };
        let mut rest = text;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let (line, behind) = rest.split_at(end);
            rest = behind.get(1..).unwrap_or_default();
            let mut tokens = words(line);
            // Rows that can't be read are the reader's to report: it knows the line.
            let text = tokens.next().and_then(|t| std::str::from_utf8(t).ok()).unwrap_or_default();
            // Indices rise, so that only the first one can be 0.
            let first = tokens.find(|t| !t.starts_with(b"qid:"));
            let index = first.and_then(|t| t.split(|b| *b == b':').next()).unwrap_or_default();
            let begins_a_row = first.is_none_or(|t| index.len() < t.len() && index.iter().all(u8::is_ascii_digit));
            let label = text.parse::<f32>().ok().filter(|_| begins_a_row);
            if label.is_some_and(|label| !is_exact(text, label)) {
                sample.large.get_or_insert_with(|| text.to_owned());
            }
            if let Some(label) = label.filter(|label| label.is_finite()) {
                note_label(&mut sample.labels, label);
            }
            sample.zero |= !index.is_empty() && index.iter().all(|b| *b == b'0');
        }
        sample
    }
}

/// Notes a label among those seen, which rise, unless these are already more than classes may be: numbers may be as many as
/// rows, and none of the others would change what they are taken for.
pub fn note_label(labels: &mut Vec<f32>, label: f32) {
    if labels.len() > MOST_CLASSES {
        return;
    }
    // Both zeros are one label.
    let label = label + 0.0;
    if let Err(place) = labels.binary_search_by(|one| one.total_cmp(&label)) {
        labels.insert(place, label);
    }
}

/// The words of a line up to a comment, found as they are asked for: what stands behind the first ones tells nothing.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut over = false;
    let words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    words.map_while(move |word| {
        let end = memchr::memchr(b'#', word);
        let ended = std::mem::replace(&mut over, end.is_some());
        let word = &word[..end.unwrap_or(word.len())];
        (!ended && !word.is_empty()).then_some(word)
    })
}

/// The whole lines in a piece of a file. The first is whole if the piece starts the file, the last if it ends it.
pub fn whole_lines(piece: &[u8], starts_file: bool, ends_file: bool) -> &[u8] {
    let start = if starts_file { 0 } else { memchr::memchr(b'\n', piece).map_or(piece.len(), |n| n + 1) };
    let end = if ends_file { piece.len() } else { memchr::memrchr(b'\n', piece).map_or(start, |n| n + 1) };
    &piece[start..end.max(start)]
}

/// The whole words of a line that goes on behind `piece`.
pub fn whole_words(piece: &[u8]) -> &[u8] {
    &piece[..piece.iter().rposition(u8::is_ascii_whitespace).unwrap_or(0)]
}

/// Whether rows that no sample shows may well have labels that none shows either: where there are more than two, or where
/// each sample shows one alone, as of rows that are sorted by label.
pub fn may_hide_labels(spec: &InputSpec, samples: &[Sample]) -> bool {
    let labels = distinct(samples);
    let mixed = samples.iter().any(|sample| sample.labels.len() > 1);
    match labels.len() {
        _ if spec.labels.is_some() || spec.wanted == Wanted::Numbers => false,
        0 => false,
        1 => true,
        2 => !mixed,
        _ => spec.wanted == Wanted::Classes && are_classes(&labels),
    }
}

/// The labels that samples show, from the smallest.
fn distinct(samples: &[Sample]) -> Vec<f32> {
    let mut labels: Vec<f32> = samples.iter().flat_map(|sample| sample.labels.iter().copied()).collect();
    labels.sort_by(f32::total_cmp);
    labels.dedup();
    labels
}

/// Whether so many different labels may be those of classes.
fn are_classes(labels: &[f32]) -> bool {
    labels.len() <= MOST_CLASSES && labels.iter().all(|label| label.fract() == 0.0)
}

/// The schema of an input: what `spec` gives, and what `samples` show of the rest.
pub fn sniff(spec: &InputSpec, samples: &[Sample]) -> Result<Schema> {
    let labels = distinct(samples);
    let zero = samples.iter().any(|sample| sample.zero);
    Ok(Schema {
        index_base: spec.index_base.unwrap_or(u32::from(!zero)),
        base_detected: spec.index_base.is_none(),
        features: spec.features,
        labels: match (&spec.labels, spec.wanted) {
            (_, Wanted::Numbers) => Labels::numbers(),
            (Some(given), _) => given.clone(),
            // Of a large one the reader says where it stands, unless it is already in the way here.
            (None, _) => classes(&labels, spec, samples).map_err(|error| large(samples).unwrap_or(error))?,
        },
        labels_detected: spec.labels.is_none() && spec.wanted != Wanted::Numbers,
        bad_rows: spec.bad_rows,
    })
}

/// The error of a label that is too large for a class.
fn large(samples: &[Sample]) -> Option<Error> {
    let told = |sample: &Sample| {
        let label = sample.large.as_ref()?;
        Some(Error::data(format!("{}: {}", sample.path, too_large(&format!("'{label}'")))))
    };
    samples.iter().find_map(told)
}

/// The classes among `labels`, which are sorted.
fn classes(labels: &[f32], spec: &InputSpec, samples: &[Sample]) -> Result<Labels> {
    let whence = || {
        // A file may have shown both of its ends, and all of itself.
        let mut paths: Vec<_> = samples.iter().map(|sample| &sample.path).collect();
        paths.sort();
        paths.dedup();
        match paths[..] {
            [only] => only.clone(),
            _ => format!("{} files of --{}", paths.len(), spec.name),
        }
    };
    match *labels {
        [] => Err(Error::data(format!("{}: no row found at its start or end; a row is LABEL INDEX:VALUE …", whence()))),
        // One class at the files' ends; the usual other one may follow in between.
        [only] if only == -1.0 || only == 0.0 => Ok(Labels::two(only, 1.0)),
        [1.0] => Ok(Labels::two(-1.0, 1.0)),
        [only] => {
            Err(Error::data(format!("{}: all rows looked at have label {only}; give --labels NEG,POS", whence())))
        }
        [negative, positive] => Ok(Labels::two(negative, positive)),
        _ if spec.wanted == Wanted::Classes && are_classes(labels) => Ok(Labels::classes(labels.to_vec())),
        _ if spec.wanted == Wanted::Classes => {
            let count = labels.len();
            let count = if count > MOST_CLASSES { format!("more than {MOST_CLASSES}") } else { count.to_string() };
            Err(Error::data(format!(
                "{}: {count} different labels found; classes are at most {MOST_CLASSES} whole numbers; `flexps run lasso` \
                 learns numbers, --labels A,B,C names classes",
                whence()
            )))
        }
        _ => {
            let shown: Vec<_> = labels.iter().take(SHOWN).map(f32::to_string).collect();
            let more = if labels.len() > SHOWN { ", …" } else { "" };
            Err(Error::data(format!(
                "{}: more than two labels found: {}{more}; flexps run lr --solver newton learns them all; for \
                 two of them give --labels NEG,POS, and --bad-rows N to skip rows of others",
                whence(),
                shown.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> InputSpec {
        InputSpec::new("input", vec![])
    }

    fn sniffed(text: &str) -> Result<Schema> {
        sniff(&spec(), &[Sample::of("f", text.as_bytes())])
    }

    fn labels(text: &str) -> (f32, f32) {
        let found = sniffed(text).unwrap().labels;
        (found.all()[0], found.all()[1])
    }

    #[test]
    fn the_first_word_of_what_is_no_row_is_no_label() {
        let sample = Sample::of("f", b"1 1:1\n7 this row is broken\n8 12\n-1 qid:3 2:1\n2\n99999999999 x:1\n");
        assert_eq!((sample.labels, sample.large), (vec![-1.0, 1.0, 2.0], None));
        let sample = Sample::of("f", b"3 2:1#c 0:1\n#4 1:1\n\n6 # 0:1\n5#8");
        assert_eq!((sample.labels, sample.zero), (vec![3.0, 5.0, 6.0], false));
    }

    #[test]
    fn the_smaller_of_two_labels_is_the_negative_class() {
        assert_eq!(labels("+1 1:1\n-1 2:1\n"), (-1.0, 1.0));
        assert_eq!(labels("1 1:1\n0 2:1\n"), (0.0, 1.0));
        assert_eq!(labels("2 1:1\r\n\n# c\n1.0 2:1 # 3\n"), (1.0, 2.0));
    }

    #[test]
    fn one_label_at_the_ends_gets_its_usual_partner() {
        assert_eq!(labels("-1 1:1\n"), (-1.0, 1.0));
        assert_eq!(labels("0 1:1\n"), (0.0, 1.0));
        assert_eq!(labels("+1 1:1\n"), (-1.0, 1.0));
        assert!(sniffed("7 1:1\n").unwrap_err().message.contains("label 7; give --labels"));
    }

    #[test]
    fn more_than_two_labels_are_listed() {
        let message = sniffed("1 1:1\n2 1:1\n3 1:1\n").unwrap_err().message;
        assert!(message.contains("f: more than two labels found: 1, 2, 3;"), "{message}");
        let ends = ["f", "f"].map(|path| Sample::of(path, b"\n#\n"));
        assert!(sniff(&spec(), &ends).unwrap_err().message.starts_with("f: no row found"));
    }

    #[test]
    fn of_labels_that_are_numbers_no_more_are_noted_than_show_that() {
        let text = |labels: std::ops::Range<usize>| labels.map(|label| format!("{label} 1:1\n")).collect::<String>();
        let of = |labels| Sample::of("f", text(labels).as_bytes());
        let mut sample = of(0..700);
        sample.merge(of(500..900));
        assert_eq!(sample.labels, (0..900).map(|label| label as f32).collect::<Vec<_>>());
        sample.merge(of(0..5000));
        assert_eq!((sample.labels.len(), of(0..5000).labels.len()), (MOST_CLASSES + 1, MOST_CLASSES + 1));
        let classes = InputSpec { wanted: Wanted::Classes, ..spec() };
        let message = |sample| sniff(&classes, &[sample]).unwrap_err().message;
        assert!(message(sample).starts_with("f: more than 1000 different labels found"));
        assert!(message(Sample::of("f", b"0.5 1:1\n1 1:1\n2 1:1\n")).starts_with("f: 3 different labels found"));
        assert!(sniff(&classes, &[of(0..MOST_CLASSES)]).is_ok());
        assert_eq!(Sample::of("f", b"0 1:1\n-0 1:1\n").labels, [0.0]);
    }

    #[test]
    fn labels_may_hide_behind_more_than_two_and_in_rows_that_are_sorted() {
        let of = |spec: &InputSpec, ends: &[&str]| {
            let samples: Vec<_> = ends.iter().map(|text| Sample::of("f", text.as_bytes())).collect();
            may_hide_labels(spec, &samples)
        };
        let (two, classes) = (spec(), InputSpec { wanted: Wanted::Classes, ..spec() });
        let (mixed, sorted, one) = (["1 1:1\n0 1:1\n", "1 1:1\n"], ["0 1:1\n", "2 1:1\n"], ["1 1:1\n", "1 1:1\n"]);
        let (three, numbers) = (["1 1:1\n3 1:1\n", "2 1:1\n"], ["1 1:1\n3.5 1:1\n", "2 1:1\n"]);
        let given = InputSpec { labels: Some(Labels::two(0.0, 1.0)), ..spec() };
        for (spec, expected) in [
            (&two, [false, true, true, false, false]),
            (&classes, [false, true, true, true, false]),
            (&given, [false; 5]),
            (&InputSpec { wanted: Wanted::Numbers, ..spec() }, [false; 5]),
        ] {
            assert_eq!([mixed, sorted, one, three, numbers].map(|ends| of(spec, &ends)), expected, "{spec:?}");
        }
    }

    #[test]
    fn large_labels_that_look_alike_are_told_of_as_such() {
        for text in ["20000001 1:1\n19999999 2:1\n", "5 1:1\n6 1:1\n20000003 2:1\n"] {
            let message = sniffed(text).unwrap_err().message;
            assert!(message.starts_with("f: label '2000000") && message.contains("renumber"), "{message}");
        }
        assert_eq!(labels("20000000 1:1\n20000002 2:1\n"), (2e7, 20_000_002.0));
        let numbers = InputSpec { wanted: Wanted::Numbers, ..spec() };
        assert!(sniff(&numbers, &[Sample::of("f", b"20000001 1:1\n20000003 2:1\n")]).is_ok());
    }

    #[test]
    fn the_index_base_is_1_unless_an_index_0_is_seen() {
        assert_eq!(sniffed("1 1:1\n-1 3:1\n").unwrap().index_base, 1);
        assert_eq!(sniffed("1 1:1\n-1 qid:4 0:1 3:1\n").unwrap().index_base, 0);
        assert_eq!(sniffed("1\n-1 10:1\n").unwrap().index_base, 1);
        assert_eq!(sniffed("1 :5\n-1 10:1\n").unwrap().index_base, 1);
    }

    #[test]
    fn what_the_user_gave_is_not_overruled() {
        let given = InputSpec {
            index_base: Some(1),
            labels: Some(Labels::two(3.0, 2.0)),
            features: Some(9),
            bad_rows: 4,
            ..spec()
        };
        let schema = sniff(&given, &[Sample::of("f", b"1 0:1\n2 0:1\n3 0:1\n")]).unwrap();
        assert_eq!((schema.index_base, schema.base_detected, schema.labels_detected), (1, false, false));
        assert_eq!((schema.labels, schema.features, schema.bad_rows), (given.labels.unwrap(), Some(9), 4));
    }

    #[test]
    fn only_whole_lines_are_looked_at() {
        assert_eq!(whole_lines(b"ab\ncd\nef", true, true), b"ab\ncd\nef");
        assert_eq!(whole_lines(b"ab\ncd\nef", true, false), b"ab\ncd\n");
        assert_eq!(whole_lines(b"ab\ncd\nef", false, true), b"cd\nef");
        assert_eq!(whole_lines(b"ab\ncd\nef", false, false), b"cd\n");
        assert_eq!(whole_lines(b"abc", false, false), b"");
        assert_eq!(whole_lines(b"abc", true, false), b"");
        assert_eq!(whole_lines(b"abc", false, true), b"");
    }

    #[test]
    fn of_a_line_that_is_cut_only_whole_words_are_looked_at() {
        assert_eq!(whole_words(b"12 0:1 1"), b"12 0:1");
        assert_eq!(whole_words(b"12 "), b"12");
        assert_eq!(whole_words(b"12"), b"");
        assert_eq!(whole_words(b""), b"");
    }
}
