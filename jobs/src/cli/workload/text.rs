//! Values of workload files, and where they stand.

use flexps_common::{Error, Result};
use flexps_master::simulate::Threads;
use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// A number or a text.
pub type Value = Spanned<toml::Value>;

/// A file's name and text.
pub struct Place<'a> {
    pub path: &'a str,
    pub text: &'a str,
}

impl Place<'_> {
    /// The user's mistake at these bytes: `FILE:LINE:COLUMN: …`, both from 1.
    pub fn error(&self, span: &Range<usize>, message: &str) -> Error {
        let before = &self.text[..self.text.floor_char_boundary(span.start.min(self.text.len()))];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        Error::user(format!("{}:{line}:{column}: {}", self.path, message.trim().replace('\n', ", ")))
    }

    /// Seconds, or a text such as `90s` or `2m 30s`.
    pub fn time(&self, value: &Value) -> Result<Duration> {
        let found = match value.get_ref() {
            toml::Value::Integer(n) => u64::try_from(*n).ok().map(Duration::from_secs),
            toml::Value::Float(x) => Duration::try_from_secs_f64(*x).ok(),
            toml::Value::String(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        // What is longer than a century is a mistake, and sums of it would overflow.
        found.filter(|t| t.as_secs() < 3_200_000_000).ok_or_else(|| {
            let text = format!("{} is no time; give seconds of 0 or more, or a text such as \"90s\"", value.get_ref());
            self.error(&value.span(), &text)
        })
    }

    /// Bytes, or a text such as `64GiB`.
    pub fn size(&self, value: &Value) -> Result<u64> {
        let found = match value.get_ref() {
            toml::Value::Integer(n) => u64::try_from(*n).ok(),
            toml::Value::String(text) => bytesize::ByteSize::from_str(text).ok().map(|s| s.0),
            _ => None,
        };
        found.ok_or_else(|| {
            let text = format!("{} is no size; give bytes, or a text such as \"64GiB\"", value.get_ref());
            self.error(&value.span(), &text)
        })
    }

    /// `12`, `"8..32"`, `"16 on one slave"`, `"2 per slave"`, `"all"`.
    pub fn threads(&self, value: &Value) -> Result<Threads> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|n| (1..=1 << 22).contains(n));
        let found = match value.get_ref() {
            toml::Value::Integer(n) => u32::try_from(*n).ok().filter(|n| (1..=1 << 22).contains(n)).map(Threads::Count),
            toml::Value::String(text) => match text.as_str() {
                "all" => Some(Threads::All),
                text => None
                    .or_else(|| text.strip_suffix("on one slave").and_then(number).map(Threads::OneSlave))
                    .or_else(|| text.strip_suffix("per slave").and_then(number).map(Threads::PerSlave))
                    .or_else(|| {
                        let (least, most) = text.split_once("..")?;
                        let (least, most) = (number(least)?, number(most)?);
                        (least <= most).then_some(Threads::Range(least, most))
                    }),
            },
            _ => None,
        };
        found.ok_or_else(|| {
            let text = format!(
                "{} is no number of threads; give 12, \"8..32\", \"16 on one slave\", \"2 per slave\" or \"all\"",
                value.get_ref()
            );
            self.error(&value.span(), &text)
        })
    }
}
