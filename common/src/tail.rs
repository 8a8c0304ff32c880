//! The last lines of a process' log, for whoever asks what happened before something failed.
//!
//! Invariant: at most 60 lines of at most 500 bytes each are kept.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Lines that are kept.
const LINES: usize = 60;
/// Bytes of a line; the rest is cut off.
const BYTES: usize = 500;

/// See the module. Cheap to clone; all clones share the lines.
#[derive(Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// Appends what was logged: one line or several.
    pub fn push(&self, text: &str) {
        let mut lines = self.0.lock();
        for line in text.lines() {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(line[..line.floor_char_boundary(BYTES)].to_owned());
        }
    }

    /// The lines, the oldest first.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_and_long_ones_are_cut() {
        let tail = Tail::default();
        (0..LINES + 3).for_each(|i| tail.clone().push(&format!("line {i}\n")));
        tail.push(&"é".repeat(BYTES));
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[0].as_str()), (LINES, "line 4"));
        assert_eq!(lines[LINES - 1].len(), BYTES);
    }
}
