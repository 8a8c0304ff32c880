//! `flexps evaluate`: accuracy, log loss and AUC of a saved model.
//!
//! Invariant: the AUC is exact: the scores of all rows are sorted, and pairs with equal scores count half.

use super::args::EvaluateArgs;
use super::scoring::Scoring;
use super::terminal::out;
use flexps_common::{Error, Result};
use tokio::runtime::Handle;

/// Judges a model.
pub fn evaluate(runtime: &Handle, args: &EvaluateArgs) -> Result<()> {
    let scoring = Scoring::open(runtime, &args.applied)?;
    let mut scored: Vec<(f64, bool)> = Vec::new();
    let (mut right, mut loss) = (0u64, 0.0);
    scoring.each(|label, score| {
        let positive = label > 0.0;
        right += u64::from((score > 0.0) == positive);
        loss += log_loss(if positive { score } else { -score });
        scored.push((score, positive));
        Ok(())
    })?;
    let rows = scored.len();
    if rows == 0 {
        let paths: Vec<_> = args.applied.input.iter().map(|path| path.0.as_str()).collect();
        return Err(Error::data(format!("no rows in --input {}: there is nothing to judge", paths.join(" "))));
    }
    let (accuracy, loss, auc) = (right as f64 / rows as f64, loss / rows as f64, auc(&mut scored));
    if args.json {
        let object = serde_json::json!({ "rows": rows, "accuracy": accuracy, "log_loss": loss, "auc": auc });
        return out(&format!("{object}\n"));
    }
    let auc = auc.map_or(String::from("undefined: the rows are of one class"), |auc| format!("{auc:.6}"));
    out(&format!("rows      {rows}\naccuracy  {accuracy:.6}\nlog loss  {loss:.6}\nAUC       {auc}\n"))
}

/// log(1 + e^-z), without overflow.
fn log_loss(z: f64) -> f64 {
    if z > 0.0 { (-z).exp().ln_1p() } else { -z + z.exp().ln_1p() }
}

/// The share of pairs of a positive and a negative in which the positive has the higher score; none when a class is
/// missing. Sorts the scores.
fn auc(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, positive)| *positive).count() as f64;
    let negatives = scored.len() as f64 - positives;
    let (mut below, mut won) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let p = tied.iter().filter(|(_, positive)| *positive).count() as f64;
        let n = tied.len() as f64 - p;
        won += p * (below + n / 2.0);
        below += n;
    }
    (positives > 0.0 && negatives > 0.0).then(|| won / (positives * negatives))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tied_scores_count_half() {
        assert_eq!(auc(&mut [(0.5, true), (0.5, false)]), Some(0.5));
        assert_eq!(auc(&mut [(1.0, true), (0.5, false), (-0.0, true), (0.0, false)]), Some(2.5 / 4.0));
        assert_eq!(auc(&mut [(2.0, true)]), None);
    }

    #[test]
    fn log_loss_has_no_overflow() {
        assert_eq!(log_loss(1000.0), 0.0);
        assert_eq!(log_loss(-1000.0), 1000.0);
        assert!((log_loss(0.0) - 2f64.ln()).abs() < 1e-15);
    }
}
