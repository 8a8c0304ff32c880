//! Rows to text.
//!
//! Invariant: what is written reads back the same, bit for bit.

use crate::data::block::Block;
use crate::data::schema::Schema;
use crate::ids::Key;
use std::io::Write;

/// Writes one row; `label` as it shall stand in the file. Values take a short form that reads back the same.
pub fn write_row(
    out: &mut impl Write,
    label: f32,
    indices: &[Key],
    values: Option<&[f32]>,
    index_base: u32,
) -> std::io::Result<()> {
    let mut line = Vec::with_capacity(16 * indices.len() + 16);
    write!(line, "{label}")?;
    for (i, index) in indices.iter().enumerate() {
        line.push(b' ');
        integer(&mut line, u64::from(*index) + u64::from(index_base));
        line.push(b':');
        match values {
            Some(values) => value(&mut line, values[i])?,
            None => line.push(b'1'),
        }
    }
    line.push(b'\n');
    out.write_all(&line)
}

/// Writes a block as the text that parses to it under `schema`.
pub fn write(out: &mut impl Write, block: &Block, schema: &Schema) -> std::io::Result<()> {
    for i in 0..block.rows() {
        let row = block.row(i);
        let label = schema.labels.of(row.label);
        write_row(out, label, row.indices, row.values, schema.index_base)?;
    }
    Ok(())
}

fn integer(line: &mut Vec<u8>, mut number: u64) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// Most fractions in files have few digits: those are found three times as fast as by the general way.
fn value(line: &mut Vec<u8>, value: f32) -> std::io::Result<()> {
    if (1e-3..1.0).contains(&value) {
        // Up to eight digits, so that the scaled number is exact and the division rounds as reading it does.
        for scale in [1e6, 1e7, 1e8] {
            let digits = (f64::from(value) * scale).round();
            if (digits / scale) as f32 == value {
                fraction(line, (digits + scale) as u64);
                return Ok(());
            }
        }
    }
    write!(line, "{value}")
}

/// Writes `0.` and the digits behind the leading 1 of `number`, without zeros at the end.
fn fraction(line: &mut Vec<u8>, mut number: u64) {
    while number.is_multiple_of(10) {
        number /= 10;
    }
    let point = line.len() + 1;
    integer(line, number);
    // The 1 in front kept the zeros that follow it.
    line[point - 1] = b'.';
    line.insert(point - 1, b'0');
}
