//! What a stage's workers may hold back of what they send.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Clocks unless they are given.
const CLOCKS: u32 = 8;
/// Most clocks that a worker may hold something back.
const MOST_CLOCKS: u32 = 1000;

/// "Significant change only": what a worker adds to a value on another slave goes there when, with what it has held back
/// of it, it is at least a share of that value as the worker last read it; else it waits, for so many further clocks at
/// most. As text `significant:0.01:8`, or without the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Significant {
    /// From 0, where all goes at once.
    pub share: f64,
    /// From 1 to 1000.
    pub clocks: u32,
}

impl Significant {
    /// Says what is wrong with its numbers, if something is.
    pub(super) fn check(self) -> Result<(), String> {
        let Self { share, clocks } = self;
        if !(share.is_finite() && share >= 0.0) {
            return Err(format!("a filter holds back less than a share of a value, from 0; {share} is none"));
        }
        if !(1..=MOST_CLOCKS).contains(&clocks) {
            return Err(format!("a filter holds back updates for 1 to {MOST_CLOCKS} clocks, not {clocks}"));
        }
        Ok(())
    }
}

impl FromStr for Significant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let rest = text.strip_prefix("significant:")?;
            let (share, clocks) = match rest.split_once(':') {
                Some((share, clocks)) => (share, clocks.parse().ok()?),
                None => (rest, CLOCKS),
            };
            let filter = Self { share: share.parse().ok()?, clocks };
            filter.check().is_ok().then_some(filter)
        };
        parse().ok_or_else(|| {
            format!(
                "'{text}' is no filter; give significant:SHARE or significant:SHARE:CLOCKS, such as significant:0.01:8, \
                 with a share from 0 and 1 to {MOST_CLOCKS} clocks"
            )
        })
    }
}

impl TryFrom<String> for Significant {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Significant> for String {
    fn from(filter: Significant) -> Self {
        filter.to_string()
    }
}

impl fmt::Display for Significant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "significant:{}:{}", self.share, self.clocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_as_it_is_written() {
        for text in ["significant:0.01:8", "significant:0:1", "significant:2.5:1000"] {
            assert_eq!(text.parse::<Significant>().unwrap().to_string(), text);
        }
        assert_eq!("significant:1e-3".parse(), Ok(Significant { share: 1e-3, clocks: 8 }));
    }

    #[test]
    fn what_is_no_filter_is_refused_with_what_is_allowed() {
        let wrong = [
            "",
            "significant",
            "significant:",
            "significant:-0.1",
            "significant:NaN",
            "significant:inf",
            "significant:0.1:0",
            "significant:0.1:1001",
            "significant:0.1:8:9",
            "random:0.1",
        ];
        for text in wrong {
            let error = text.parse::<Significant>().unwrap_err();
            assert!(error.starts_with(&format!("'{text}' is no filter; give significant:SHARE")), "{error}");
        }
    }
}
