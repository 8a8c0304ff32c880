//! What pictures are made of: text and round steps of an axis.
//!
//! Invariant: whatever is written is escaped.

use std::fmt::Write as _;

/// Writes a text; `anchor` is `start`, `middle` or `end`.
pub fn text(out: &mut String, x: f64, y: f64, anchor: &str, size: u32, what: &str) {
    let what = escape(what);
    let _ =
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\">{what}</text>");
}

/// For text and attributes of XML; characters that XML has no place for are left out.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' | '\t' => safe.push(c),
            c if c.is_control() => {}
            c => safe.push(c),
        }
    }
    safe
}

/// About `parts` round steps over a span above 0, and the digits behind the point that they need.
pub fn step(span: f64, parts: f64) -> (f64, usize) {
    let rough = span / parts;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|f| f * power).into_iter().find(|s| *s >= rough).unwrap_or(power);
    (step, if step < 1.0 { (-step.log10().floor()) as usize } else { 0 })
}
