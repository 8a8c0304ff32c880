//! Whether what a pass learnt is worth anything: its step is fixed by the first rows, and later ones may be of another size.
//!
//! Invariant: what is said depends on the progressive loss alone.

use flexps_common::report::ProgressReport;
use std::f64::consts::LN_2;

/// So many times what scores of 0 cost is more than noise adds.
const FAR: f64 = 1.25;

/// What the report says of a pass whose later rows cost more than scores of 0 would have; `points` are means over ever more rows.
pub fn of(points: &[ProgressReport]) -> Option<String> {
    let last = points.last()?;
    let sum = |point: &ProgressReport| point.loss * point.rows as f64;
    // The first rows may be dear where all is well behind them.
    let early = points.iter().rev().find(|point| 2 * point.rows <= last.rows);
    let (before, rows) = early.map_or((0.0, 0), |early| (sum(early), early.rows));
    let later = (sum(last) - before) / (last.rows - rows).max(1) as f64;
    (later > FAR * LN_2).then(|| {
        format!(
            "the progressive loss of the later rows is {later:.3}, and scores of 0 would cost {LN_2:.3}: the step that the first \
             rows gave does not suit them; scale the features, or give a shorter --step"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_later_rows_that_cost_more_than_no_model_are_told_of() {
        let points = |all: &[(u64, f64)]| -> Vec<_> {
            all.iter().map(|(rows, loss)| ProgressReport { rows: *rows, loss: *loss }).collect()
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&points(&[(128, 9.0), (256, 4.8), (512, 2.5)])), None, "they cost 0.2 since");
        assert_eq!(of(&points(&[(128, 0.7), (256, 0.7), (300, 0.72)])), None);
        let told = of(&points(&[(128, 0.3), (256, 0.3), (512, 1.3)])).unwrap();
        assert!(told.contains("later rows is 2.300, and scores of 0 would cost 0.693"), "{told}");
    }
}
