//! Reading records back, one at a time: a history may be larger than memory.

use super::{FORMAT, Record};
use flexps_common::error::io;
use flexps_common::{Error, Result};
use std::io::BufRead;

/// How every history begins.
const BEGIN: &[u8] = b"{\"what\":\"begin\"";

/// How a history ends.
#[derive(Debug, Default, PartialEq)]
pub struct End {
    /// Bytes of its whole lines.
    pub whole: u64,
    /// The record behind them, in a line without an end.
    pub last: Option<Record>,
    /// A remark when it was cut off within one.
    pub cut_off: Option<String>,
}

/// The records of a history called `name`, and a remark when its end was cut off. A line that is none in the middle is an
/// error with its number; so is a format that this build does not know.
pub fn read(name: &str, from: impl BufRead) -> Result<(Vec<Record>, Option<String>)> {
    let mut records = Vec::new();
    let end = read_each(name, from, |record| records.push(record))?;
    records.extend(end.last);
    Ok((records, end.cut_off))
}

/// The same, giving each record of a whole line to `take`.
pub fn read_each(name: &str, mut from: impl BufRead, mut take: impl FnMut(Record)) -> Result<End> {
    let (mut end, mut line, mut records) = (End::default(), Vec::new(), 0u64);
    for at in 1u64.. {
        line.clear();
        if from.read_until(b'\n', &mut line).map_err(|e| io(name, &e))? == 0 {
            break;
        }
        let whole = line.ends_with(b"\n");
        let parsed = match std::str::from_utf8(&line) {
            Ok(text) if text.trim().is_empty() => None,
            Ok(text) => Some(
                serde_json::from_str(text)
                    .map_err(|e| Error::user(format!("{name}:{at}:{}: no record: {e}", e.column()))),
            ),
            Err(e) => {
                let byte = end.whole + e.valid_up_to() as u64;
                Some(Err(Error::user(format!("{name} is no text at byte {byte}; is it a history?"))))
            }
        };
        match parsed.transpose() {
            Ok(None) => {}
            Ok(Some(Record::Begin { format, .. })) if format != FORMAT => {
                return Err(Error::user(format!("{name} has format {format}, this build reads {FORMAT}")));
            }
            Ok(Some(record)) if records == 0 && !matches!(record, Record::Begin { .. }) => return Err(none(name)),
            Ok(Some(record)) if whole => {
                records += 1;
                take(record);
            }
            Ok(last) => end.last = last,
            Err(_) if !whole && (records > 0 || begins(&line)) => {
                end.cut_off = Some(format!("{name} is cut off in line {at}; the {records} records before count"));
            }
            Err(e) => return Err(e),
        }
        if whole {
            end.whole += line.len() as u64;
        }
    }
    if records == 0 && end.last.is_none() && end.cut_off.is_none() { Err(none(name)) } else { Ok(end) }
}

/// Whether these bytes and those of a history's first line are alike, as far as both go.
fn begins(line: &[u8]) -> bool {
    line.iter().zip(BEGIN).all(|(a, b)| a == b)
}

fn none(name: &str) -> Error {
    Error::user(format!("{name} is no history: it does not begin with a record of a master's begin"))
}
