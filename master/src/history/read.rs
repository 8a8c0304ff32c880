//! Reading records back.

use super::{FORMAT, Record};
use flexps_common::{Error, Result};

/// The text of a history called `name`. Of a character that is cut off at its end nothing is left, so that its line is seen
/// to be cut off.
pub fn text(name: &str, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).or_else(|e| {
        let (error, mut bytes) = (e.utf8_error(), e.into_bytes());
        if error.error_len().is_some() {
            return Err(Error::user(format!("{name} is no text at byte {}; is it a history?", error.valid_up_to())));
        }
        bytes.truncate(error.valid_up_to());
        String::from_utf8(bytes).map_err(Error::bug)
    })
}

/// The records of a history called `name`, and a remark when its end was cut off. A line that is none in the middle is an
/// error with its number; so is a format that this build does not know.
pub fn read(name: &str, text: &str) -> Result<(Vec<Record>, Option<String>)> {
    let mut records = Vec::new();
    let mut lines = text.split('\n').enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.trim().is_empty() {
            continue;
        }
        match serde_json::from_str::<Record>(line) {
            Ok(Record::Begin { format, .. }) if format != FORMAT => {
                return Err(Error::user(format!("{name} has format {format}, this build reads {FORMAT}")));
            }
            Ok(record) => records.push(record),
            // A whole line ends with a line break, so behind it there is at least an empty one.
            Err(_) if lines.peek().is_none() => {
                let kept = records.len();
                return Ok((
                    records,
                    Some(format!("{name} is cut off in line {}; the {kept} records before count", at + 1)),
                ));
            }
            Err(e) => return Err(Error::user(format!("{name}:{}:{}: no record: {e}", at + 1, e.column()))),
        }
    }
    if !matches!(records.first(), Some(Record::Begin { .. })) {
        return Err(Error::user(format!("{name} is no history: it does not begin with a record of a master's begin")));
    }
    Ok((records, None))
}
