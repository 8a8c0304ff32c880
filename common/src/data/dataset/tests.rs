//! What dataset files promise: the rows of the text, or an error.

use super::*;
use crate::data::Block;
use crate::data::libsvm::{Parsed, Parser, Place};
use crate::data::{Labels, Schema};
use crate::storage::{Listed, Storage};
use proptest::prelude::*;

fn schema(labels: Labels) -> Schema {
    Schema { index_base: 1, base_detected: true, features: None, labels, labels_detected: true, bad_rows: 0 }
}

fn parsed(text: &str, schema: &Schema) -> Parsed {
    let place = Place { path: "f", offset: 0, line: Some(1) };
    Parser::new(schema.clone()).parse(text.as_bytes(), &place).unwrap()
}

/// The file of these texts, a block each.
fn file(texts: &[String], base: u32) -> (Vec<u8>, Index) {
    let mut bytes = Vec::new();
    let numbers = Schema { index_base: base, ..schema(Labels::numbers()) };
    let mut writer = Writer::new(&mut bytes, base).unwrap();
    texts.iter().for_each(|text| writer.block(&parsed(text, &numbers).block).unwrap());
    let (index, len) = writer.finish().unwrap();
    assert_eq!(len, bytes.len() as u64);
    (bytes, index)
}

fn decoded(bytes: &[u8], index: &Index, schema: &Schema) -> Result<Vec<Parsed>> {
    let blocks = index.edges.windows(2);
    // In memory in which there was another block.
    let spare = || parsed("+1 3:4 5:6\n-1 7:8\n+1 9:1", &self::schema(Labels::two(-1.0, 1.0))).block;
    blocks.map(|ends| decode(&bytes[ends[0] as usize..ends[1] as usize], "f", ends[0], schema, spare())).collect()
}

fn assert_same(ours: &Parsed, theirs: &Parsed) {
    assert_eq!(ours.facts, theirs.facts);
    assert_eq!(ours.block, theirs.block);
}

/// Reads a file as master and slave do together.
fn read(bytes: &[u8], schema: &Schema) -> Result<Vec<Parsed>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let (path, len) = (file.path().to_str().unwrap(), bytes.len() as u64);
    if !starts(&bytes[..bytes.len().min(HEADER)], path)? {
        return Err(Error::data("text"));
    }
    let listed = Listed { path, len, modified: 0 };
    let index = runtime.block_on(Index::read(&Storage::default(), listed))?;
    decoded(bytes, &index, schema)
}

fn text() -> impl Strategy<Value = String> {
    let gap = prop_oneof![1u64..200, 1u64..60_000, 1u64..9_000_000, 1u64..900_000_000];
    let value = prop_oneof![3 => Just(1f32), 1 => -9f32..9.0, 1 => Just(0.0)];
    let row = (any::<bool>(), prop::collection::vec((gap, value), 0..12));
    prop::collection::vec(row, 1..20).prop_map(|rows| {
        let mut text = String::new();
        for (positive, features) in rows {
            text += if positive { "+1" } else { "-1" };
            let mut index = 0;
            for (gap, value) in features {
                index += gap;
                if index < 1 << 32 {
                    text += &format!(" {index}:{value}");
                }
            }
            text += "\n";
        }
        text
    })
}

proptest! {
    #[test]
    fn blocks_hold_what_the_text_holds_to_the_bit(texts in prop::collection::vec(text(), 1..4)) {
        let (bytes, index) = file(&texts, 1);
        for labels in [Labels::two(-1.0, 1.0), Labels::numbers(), Labels::classes(vec![-1.0, 0.0, 1.0])] {
            let schema = schema(labels);
            for (ours, text) in read(&bytes, &schema).unwrap().iter().zip(&texts) {
                assert_same(ours, &parsed(text, &schema));
            }
        }
        prop_assert_eq!(index.edges.len(), texts.len() + 1);
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_an_error_wherever_it_is(
        texts in prop::collection::vec(text(), 1..3), at in any::<prop::sample::Index>(), bit in 0..8, cut in any::<bool>(),
    ) {
        let (mut bytes, _) = file(&texts, 1);
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1u8 << bit,
        }
        let error = read(&bytes, &schema(Labels::two(-1.0, 1.0))).unwrap_err();
        prop_assert_eq!(error.exit_code(), 2, "{}", error);
    }

    #[test]
    fn bytes_under_a_right_checksum_that_hold_nonsense_are_an_error_or_rows(
        text in text(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (bytes, index) = file(&[text], 1);
        let mut block = bytes[HEADER..index.edges[1] as usize].to_vec();
        for (at, byte) in changes {
            let at = 16 + at.index(block.len() - 16);
            block[at] = byte;
        }
        let checksum = xxhash_rust::xxh3::xxh3_64(&block[8..]);
        block[..8].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(Parsed { block, facts, .. }) = decode(&block, "f", 16, &schema(Labels::numbers()), Block::default()) {
            for i in 0..block.rows() {
                let row = block.row(i);
                prop_assert!(row.indices.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(row.indices.iter().all(|index| u64::from(*index) < facts.features));
            }
        }
    }
}

#[test]
fn indices_and_lengths_take_the_fewest_bytes() {
    let row = |features: &[u32]| features.iter().fold("1".to_owned(), |row, i| row + &format!(" {i}:1")) + "\n";
    // Labels 4 a row and lengths 1; then first indices and gaps of 1, 2, 3 and 4 bytes; no values.
    for (features, expected) in [
        (&[1u32, 256, 257][..], 5 + 3),
        (&[1, 60_000], 5 + 1 + 2),
        (&[60_000, 60_001], 5 + 2 + 1),
        (&[1, 9_000_000, 9_000_001], 5 + 1 + 2 * 3),
        (&[1, 4_000_000_000], 5 + 1 + 4),
    ] {
        let (_, index) = file(&[row(features)], 1);
        assert_eq!(index.edges[1] as usize - HEADER - HEAD, expected, "{features:?}");
    }
}

#[test]
fn classes_whose_labels_may_have_been_rounded_are_refused() {
    let (bytes, _) = file(&["1 1:2\n20000001 2:1\n".to_owned()], 1);
    let message = read(&bytes, &schema(Labels::two(1.0, 2e7))).unwrap_err().message;
    assert!(message.contains("row 2: label '20000000' is too large for a class"), "{message}");
    assert!(read(&bytes, &schema(Labels::numbers())).is_ok());
}

#[test]
fn rows_that_do_not_fit_the_schema_are_bad_ones_as_in_text() {
    let text = "1 1:2 3:1\n2 2:1\n1 9:1\n".to_owned();
    let (bytes, _) = file(std::slice::from_ref(&text), 1);
    let strict = Schema { features: Some(5), ..schema(Labels::two(0.0, 1.0)) };
    let message = read(&bytes, &strict).unwrap_err().message;
    assert!(message.contains("block at byte 16, row 2: label '2' is neither of the two classes 0 and 1"), "{message}");
    let lenient = Schema { bad_rows: 2, ..strict };
    let ours = read(&bytes, &lenient).unwrap();
    assert_same(&ours[0], &parsed(&text, &lenient));
    assert_eq!((ours[0].facts.bad_rows, ours[0].bad.len()), (2, 2));
    assert!(ours[0].bad[1].message.contains("row 3: index 9 is beyond the 5 features"), "{}", ours[0].bad[1]);
}

#[test]
fn another_index_base_than_the_files_moves_the_indices_as_in_text() {
    let text = "1 1:1 3:2\n-1 2:1\n".to_owned();
    let labels = || schema(Labels::two(-1.0, 1.0));
    for (own, asked) in [(1, 0), (0, 1)] {
        let (bytes, _) = file(std::slice::from_ref(&text), own);
        let schema = Schema { index_base: asked, ..labels() };
        assert_same(&read(&bytes, &schema).unwrap()[0], &parsed(&text, &schema));
    }
    let (bytes, index) = file(&["1 0:1\n".to_owned()], 0);
    assert!(index.sample("f").zero);
    let message = read(&bytes, &labels()).unwrap_err().message;
    assert!(message.contains("row 1: index 0 in '0'") && message.contains("give --index-base 0"), "{message}");
}

#[test]
fn files_of_another_version_or_byte_order_and_short_ones_are_told_apart() {
    let (bytes, _) = file(&["1 1:1\n".to_owned()], 1);
    let message = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        let error = read(&bytes, &schema(Labels::numbers())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.message
    };
    assert!(message(&|b| b[12] = 7).contains("of version 7, and this program reads version 1"));
    assert!(message(&|b| b[8..12].reverse()).contains("of the other byte order"));
    assert!(message(&|b| b.truncate(b.len() - 1)).contains("is cut short"));
    assert!(message(&|b| b.truncate(20)).contains("is cut short"));
    assert!(message(&|b| b[HEADER + HEAD] ^= 1).contains("block at byte 16: its checksum is wrong"));
    assert!(message(&|b| b[HEADER + 8] = 1).contains("block at byte 16: its length is wrong"));
    let at = bytes.len() - 40;
    assert!(message(&|b| b[at] ^= 1).contains("its checksum is wrong"));
}
