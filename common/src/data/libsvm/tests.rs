//! What the parser promises, judged by a plain twin.

use super::*;
use crate::data::Labels;
use proptest::prelude::*;

fn schema(index_base: u32) -> Schema {
    Schema {
        index_base,
        base_detected: true,
        features: None,
        labels: Labels::two(-1.0, 1.0),
        labels_detected: true,
        bad_rows: 0,
    }
}

fn place() -> Place<'static> {
    Place { path: "rows.libsvm", offset: 0, line: Some(1) }
}

fn parse(text: &str) -> Result<Parsed> {
    Parser::new(schema(1)).parse(text.as_bytes(), &place())
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).message
}

/// The plain twin: what a row is, said by `split` and `parse`. None for a bad row, Some(None) for a line without row.
#[allow(clippy::type_complexity)]
fn plain_row(line: &[u8], schema: &Schema) -> Option<Option<(f32, Vec<Key>, Vec<f32>)>> {
    let line = line.split(|b| *b == b'#').next()?;
    let mut tokens = line.split(|b| matches!(b, b' ' | b'\t' | b'\r')).filter(|t| !t.is_empty());
    let Some(label) = tokens.next() else { return Some(None) };
    let label: f32 = std::str::from_utf8(label).ok()?.parse().ok()?;
    let label = match label {
        l if l == schema.labels.all()[1] => 1.0,
        l if l == schema.labels.all()[0] => -1.0,
        _ => return None,
    };
    let (mut indices, mut values) = (vec![], vec![]);
    for token in tokens {
        if token.starts_with(b"qid:") {
            continue;
        }
        let (index, value) = std::str::from_utf8(token).ok()?.split_once(':')?;
        if !index.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let index = index.parse::<u128>().ok()?.checked_sub(schema.index_base.into())?;
        let index = u32::try_from(index).ok().filter(|i| schema.features.is_none_or(|n| u64::from(*i) < n))?;
        let value: f32 = value.parse().ok()?;
        if !value.is_finite() || indices.last().is_some_and(|last| *last >= index) {
            return None;
        }
        indices.push(index);
        values.push(value);
    }
    Some(Some((label, indices, values)))
}

/// Parses with the twin and compares all that can be compared.
fn same_as_plain(parser: &mut Parser, text: &[u8]) {
    let parsed = parser.parse(text, &place()).expect("bad rows are allowed");
    let (mut bad, mut row, mut nonzeros) = (0, 0, 0);
    for line in text.split(|b| *b == b'\n') {
        match plain_row(line, &parser.schema) {
            None => bad += 1,
            Some(None) => {}
            Some(Some((label, indices, values))) => {
                let shown = String::from_utf8_lossy(line);
                assert!(row < parsed.block.rows(), "fewer rows than expected at {shown:?}");
                let ours = parsed.block.row(row);
                assert_eq!(ours.label, label, "{shown:?}");
                assert_eq!(ours.indices, &indices[..], "{shown:?}");
                let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                let expected = bits(&values);
                match ours.values {
                    Some(ours) => assert_eq!(bits(ours), expected, "{shown:?}"),
                    None => assert!(expected.iter().all(|v| *v == 1f32.to_bits()), "{shown:?}"),
                }
                row += 1;
                nonzeros += indices.len();
            }
        }
    }
    assert_eq!(parsed.block.rows(), row, "{:?}", String::from_utf8_lossy(text));
    assert_eq!(parsed.facts.bad_rows, bad);
    assert_eq!(parsed.facts.rows, row as u64);
    assert_eq!(parsed.facts.nonzeros, nonzeros as u64);
}

fn lenient(index_base: u32) -> Parser {
    Parser::new(Schema { bad_rows: u64::MAX, ..schema(index_base) })
}

#[test]
fn rows_of_all_allowed_forms_are_taken() {
    let text =
        "+1 1:0.5 3:2\r\n\n# a comment\n-1\t2:1e-3  \t4:-.25 # more\n1.0 qid:7 4294967295:1#x\n  -1 \n1 1:1 2:0 5:+3";
    let parsed = parse(text).unwrap();
    assert_eq!(*parsed.block.labels, [1.0, -1.0, 1.0, -1.0, 1.0]);
    assert_eq!(*parsed.block.offsets, [0, 2, 4, 5, 5, 8]);
    assert_eq!(*parsed.block.indices, [0, 2, 1, 3, 4294967294, 0, 1, 4]);
    assert_eq!(parsed.block.values.as_deref().unwrap(), [0.5, 2.0, 0.001, -0.25, 1.0, 1.0, 0.0, 3.0]);
    let facts = parsed.facts;
    assert_eq!((facts.rows, facts.positives, facts.nonzeros, facts.empty_rows), (5, 3, 8, 1));
    assert_eq!(facts.features, 4294967295);
    assert_eq!(facts.max_norm2, 10.0);
}

#[test]
fn ones_take_no_values() {
    assert_eq!(parse("1 1:1 2:1.0\n-1 3:1e0\n").unwrap().block.values, None);
    assert!(parse("1 1:1 2:2\n").unwrap().block.values.is_some());
    assert_eq!(parse("").unwrap().block, Block { offsets: [0].into(), ..Block::default() });
}

#[test]
fn a_block_is_made_in_the_memory_of_one_that_was_given_back_and_holds_nothing_of_it() {
    let text = |rows: usize, value: &str| {
        (0..rows).map(|i| format!("+1 {}:{value} {}:{value}\n", i + 1, i + 9)).collect::<String>()
    };
    let mut parser = Parser::new(schema(1));
    let took = |parser: &mut Parser, text: &str| {
        let block = parser.parse(text.as_bytes(), &place()).unwrap().block;
        assert_eq!(block, parse(text).unwrap().block);
        block
    };
    let first = took(&mut parser, &text(50, "0.5"));
    let memory = (first.indices.as_ptr(), first.values.as_ref().map(|v| v.as_ptr()), first.labels.as_ptr());
    // One that is shorter, and of ones, is made in other memory: the first is not given back yet.
    let second = took(&mut parser, &text(20, "1"));
    assert_ne!(second.indices.as_ptr(), memory.0);
    parser.reuse(first);
    let third = took(&mut parser, &text(45, "0.25"));
    assert_eq!((third.indices.as_ptr(), third.values.as_ref().map(|v| v.as_ptr()), third.labels.as_ptr()), memory);
    // No values to take over, and more rows than there is room for.
    parser.reuse(second);
    took(&mut parser, &text(70, "0.75"));
    parser.reuse(third);
    let mut last = took(&mut parser, "-1 3:1\n");
    last.fit();
    assert_eq!((last.indices.capacity(), last.labels.capacity()), (1, 1));
}

#[test]
fn a_bad_row_is_named_with_file_line_reason_and_remedy() {
    for (text, part) in [
        ("1 1:1\n-1 0:1\n", "rows.libsvm, line 2: index 0 in '0:1', but the indices at the files' ends start from 1"),
        ("1 0:1", "--index-base 0"),
        ("1 5:1 3:1", "index 3 follows 5"),
        ("1 5:1 5:1", "index 5 comes twice"),
        ("1 4294967297:1", "beyond 4294967296, the largest allowed where indices start from 1"),
        ("1 99999999999999999999999999:1", "beyond 4294967296"),
        ("\u{feff}1 1:1", "line 1: '\\u{feff}1': the file starts with a byte order mark"),
        ("1 1:nan", "not finite"),
        ("1 1:1e39", "not finite"),
        ("1 1:x", "value in '1:x' is no number"),
        ("1 1:", "value in '1:' is no number"),
        ("1 1", "no colon"),
        ("1 :1", "does not start with an index"),
        ("1 -1:1", "does not start with an index"),
        ("spam 1:1", "label 'spam' is no number"),
        ("nan 1:1", "label 'nan' is no number"),
        ("20000001 1:1", "rows.libsvm, line 1: label '20000001' is too large for a class"),
        ("-1e39 1:1", "label '-1e39' is no number"),
        ("20000000 1:1", "label '20000000' is neither of the two classes -1 and 1"),
        ("3 1:1", "label '3' is neither of the two classes -1 and 1"),
        ("3 1:1", "; give both with --labels NEG,POS, or all, if there are more, with A,B,C,…"),
        ("\u{1}\u{2} 1:1", "label '\\u{1}\\u{2}'"),
    ] {
        assert!(error(text).contains(part), "{text:?}: {}", error(text));
    }
    let far = Place { line: None, offset: 1000, ..place() };
    let message = Parser::new(schema(1)).parse(b"1 1:1\n1 0:1\n", &far).unwrap_err().message;
    assert!(message.contains("rows.libsvm, line at byte 1006: "), "{message}");
}

#[test]
fn an_index_beyond_the_given_features_is_bad() {
    let mut parser = Parser::new(Schema { features: Some(3), ..schema(1) });
    assert_eq!(parser.parse(b"1 3:1\n", &place()).unwrap().facts.features, 3);
    let message = parser.parse(b"1 4:1\n", &place()).unwrap_err().message;
    assert!(message.contains("index 4 is beyond the 3 features"), "{message}");
}

#[test]
fn bad_rows_up_to_the_limit_are_counted_and_leave_nothing_behind() {
    let text = b"1 1:5 x\n1 1:1\n-1 2:7 1:3\n-1 2:1\n";
    let mut parser = Parser::new(Schema { bad_rows: 2, ..schema(1) });
    let parsed = parser.parse(text, &place()).unwrap();
    assert_eq!(*parsed.block.indices, [0, 1]);
    assert_eq!(parsed.block.values, None);
    assert_eq!((parsed.facts.bad_rows, parsed.bad.len()), (2, 2));
    let message = Parser::new(Schema { bad_rows: 1, ..schema(1) }).parse(text, &place()).unwrap_err().message;
    assert!(message.starts_with("2 bad rows, at most 1 are allowed"), "{message}");
}

#[test]
fn a_token_of_a_million_characters_is_cut_in_the_message_and_costs_linear_time() {
    for token in ["9".repeat(1 << 20), "x".repeat(1 << 20), format!("1:{}", "0".repeat(1 << 20) + "x")] {
        let text = format!("1 {token}\n").repeat(8);
        let started = std::time::Instant::now();
        let parsed = lenient(1).parse(text.as_bytes(), &place()).unwrap();
        assert_eq!(parsed.facts.bad_rows, 8);
        assert!(parsed.bad.iter().all(|e| e.message.len() < 300));
        assert!(started.elapsed().as_secs() < 5);
    }
    // Long, but a number.
    let text = format!("1 1:0.{}1 {}7:1\n", "0".repeat(1 << 20), "0".repeat(1 << 20));
    same_as_plain(&mut lenient(1), text.as_bytes());
}

/// Bytes that rows are made of, the meaningful ones more often.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => prop::sample::select(&b"0123456789"[..]), 6 => prop::sample::select(&b" :.\n-+e\t\r#qid"[..]), 1 => any::<u8>()];
    prop::collection::vec(byte, 0..200)
}

/// Any bits, and those of decimals of few digits.
fn value_bits() -> impl Strategy<Value = u32> {
    let decimal = (0u32..2_000_000, 0i32..9).prop_map(|(digits, down)| (f64::from(digits) / 10f64.powi(down)) as f32);
    prop_oneof![any::<u32>(), decimal.prop_map(f32::to_bits), (1e-3..1.0f32).prop_map(f32::to_bits)]
}

/// Rows as a careful writer makes them.
fn block() -> impl Strategy<Value = Vec<(bool, std::collections::BTreeMap<u32, u32>)>> {
    prop::collection::vec((any::<bool>(), prop::collection::btree_map(0..u32::MAX, value_bits(), 0..20)), 0..20)
}

proptest! {
    #[test]
    fn soup_is_read_as_the_plain_twin_reads_it(text in soup(), base in 0u32..2) {
        same_as_plain(&mut lenient(base), &text);
    }

    #[test]
    fn a_value_is_written_as_short_as_rust_writes_it(bits in value_bits()) {
        let value = f32::from_bits(bits);
        let mut line = Vec::new();
        write_row(&mut line, 1.0, &[0], Some(&[value]), 0).unwrap();
        let expected = format!("1 0:{value}\n");
        prop_assert!(line.len() <= expected.len(), "{}", String::from_utf8_lossy(&line));
        // Of the decimals of one length that read back the same, any will do.
        prop_assert!(line.len() < expected.len() || value.abs() < 1.0 || line == expected.as_bytes());
    }

    #[test]
    fn what_is_written_reads_back_the_same(rows in block(), base in 0u32..2, ones: bool) {
        let mut block = Block { offsets: [0].into(), ..Block::default() };
        let (mut labels, mut offsets, mut indices, mut values) = (vec![], vec![0], vec![], vec![]);
        for (positive, features) in rows {
            labels.push(if positive { 1.0 } else { -1.0 });
            for (index, bits) in features {
                let value = f32::from_bits(bits);
                indices.push(index);
                values.push(if ones || !value.is_finite() { 1.0 } else { value });
            }
            offsets.push(indices.len() as u32);
        }
        let all_ones = values.iter().all(|v| *v == 1.0);
        block.labels = labels;
        block.offsets = offsets;
        block.indices = indices;
        block.values = (!all_ones).then_some(values);
        let mut text = Vec::new();
        write(&mut text, &block, &schema(base)).unwrap();
        let parsed = Parser::new(schema(base)).parse(&text, &place()).unwrap();
        prop_assert_eq!(&parsed.block, &block);
        let mut again = Vec::new();
        write(&mut again, &parsed.block, &schema(base)).unwrap();
        prop_assert_eq!(again, text);
    }
}

#[test]
fn a_million_mutated_rows_are_read_as_the_plain_twin_reads_them() {
    use rand::prelude::*;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let seeds: [&[u8]; 6] = [
        b"+1 1:0.0123456 17:0.5 400000:1 500000:0.9999999\n",
        b"-1 1:1 2:1 33:1 54686452:1 # comment\r\n",
        b"1 qid:3 10:1.5e-5 12345678:-2.5 123456789:3 4294967295:0.1234567890123456\n",
        b"-1\n\n+1 5:0.00000000012345678901 6:12345.678\n",
        b"1.0\t7:1  8:1 \n",
        b"  -1 3:.5 4:5. 9:+1e3\n",
    ];
    let mut parser = lenient(1);
    let mut text = Vec::new();
    let mut rows = 0;
    while rows < 1_000_000 {
        text.clear();
        for _ in 0..100 {
            let start = text.len();
            text.extend_from_slice(seeds.choose(&mut random).unwrap());
            for _ in 0..random.random_range(0..4) {
                let at = random.random_range(start..text.len());
                match random.random_range(0..4) {
                    0 => text[at] = *b"0123456789 :.-+e#\n\tq".choose(&mut random).unwrap(),
                    1 => text[at] = random.random(),
                    2 => drop(text.remove(at)),
                    _ => text.insert(at, *b"0123456789 :.-+e#\n\tq".choose(&mut random).unwrap()),
                }
                if text.len() == start {
                    break;
                }
            }
            rows += 1;
        }
        same_as_plain(&mut parser, &text);
    }
}

#[test]
fn large_labels_are_classes_where_f32_has_them_and_any_numbers_elsewhere() {
    let with = |labels, text: &str| Parser::new(Schema { labels, ..schema(1) }).parse(text.as_bytes(), &place());
    let text = "20000000 1:1\n2.0000002e7 2:1\n+20000000 1:1\n";
    let labels = |parsed: Result<Parsed>| parsed.unwrap().block.labels;
    assert_eq!(labels(with(Labels::two(2e7, 20_000_002.0), text)), [-1.0, 1.0, -1.0]);
    // 123456792 is a number of f32, but 123456790 is how it is written.
    for label in ["20000001", "123456792", "20000000000000001", "20000000.5"] {
        let classes = Labels::two(label.parse().unwrap(), 1.0);
        let message = with(classes, &format!("1 1:1\n{label} 1:1\n")).unwrap_err().message;
        assert!(message.contains(&format!("line 2: label '{label}' is too large for a class")), "{message}");
        assert_eq!(labels(with(Labels::numbers(), &format!("{label} 1:1"))), [label.parse::<f32>().unwrap()]);
        let message = format!("1,{label}").parse::<Labels>().unwrap_err().message;
        assert!(message.contains("renumber the classes"), "{message}");
    }
}
