//! How values go from slave to slave: `none`, `lz4`, `auto` or `f16`.
//!
//! Invariant: values are rounded only where whoever runs the job, or its plan, asks for `f16`, and only in tables of which a
//! stage says that it may be so.

use super::Plan;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is asked of the values that slaves send one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// They go as they are.
    #[default]
    None,
    /// In LZ4's block format, losslessly, where that takes fewer bytes.
    Lz4,
    /// Like `lz4` on links where that takes less time, as far as is measured, else as they are.
    Auto,
    /// Rounded to 16-bit floats where a stage lets them be, else as they are.
    F16,
}

impl Plan {
    /// How values go between slaves, unless a user asks for something else.
    pub fn compress(&mut self, compression: Compression) {
        self.compression = compression;
    }

    /// How they go where a user asks for `asked`. An error where nothing may be rounded that is to be.
    pub fn compressed(&self, asked: Option<Compression>) -> Result<Compression> {
        let compression = asked.unwrap_or(self.compression);
        if compression == Compression::F16 && self.stages().iter().all(|stage| stage.may_round.is_empty()) {
            return Err(Error::user(
                "compression f16 rounds values, and no stage of this job lets those of a table be rounded: its results \
                 are to be exact; take lz4 or auto, which change no bit",
            ));
        }
        Ok(compression)
    }
}

impl FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "lz4" => Ok(Self::Lz4),
            "auto" => Ok(Self::Auto),
            "f16" => Ok(Self::F16),
            _ => Err(format!("'{text}' is no compression; give none, lz4, auto or f16")),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Auto => "auto",
            Self::F16 => "f16",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_reads_as_it_is_written() {
        for text in ["none", "lz4", "auto", "f16"] {
            assert_eq!(text.parse::<Compression>().unwrap().to_string(), text);
        }
        assert_eq!("zip".parse::<Compression>().unwrap_err(), "'zip' is no compression; give none, lz4, auto or f16");
    }

    #[test]
    fn what_a_user_asks_for_counts_before_what_the_plan_says_and_nothing_is_rounded_that_may_not_be() {
        let mut plan = Plan::default();
        let table = plan.table::<f32>("weights", 1);
        plan.body.stage("exact", |_| Ok(()));
        plan.compress(Compression::Lz4);
        assert_eq!(plan.compressed(None).unwrap(), Compression::Lz4);
        assert_eq!(plan.compressed(Some(Compression::None)).unwrap(), Compression::None);
        let refused = plan.compressed(Some(Compression::F16)).unwrap_err();
        assert!(refused.message.contains("lets those of a table be rounded"), "{refused}");
        plan.compress(Compression::F16);
        assert_eq!(plan.check().unwrap_err(), refused);
        plan.body.stage("rough", |_| Ok(())).may_round(table);
        plan.check().unwrap();
        assert!(plan.describe().contains("compress f16") && plan.describe().contains("may round weights"));
    }
}
