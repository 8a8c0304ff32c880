//! What the report of a linear model tells: of all that its job remembers from one decision to the next, what says something of
//! the model, or of what a flag could change.

/// Names.
const NAMES: [&str; 14] = [
    "rows",
    "features",
    "lambda",
    "objective",
    "gap",
    "nonzeros",
    "rounds",
    "products",
    "step",
    "alpha",
    "beta",
    "auc",
    "cv_loss",
    "cv_accuracy",
];
/// Beginnings of names: of which rows something is said.
const OF_ROWS: [&str; 3] = ["training_", "validation_", "progressive_"];

/// `1 row`, `2 rows`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// That all `what` were made that a flag allowed.
pub fn all_made(n: u64, what: &str) -> String {
    format!("{} {} made", count(n, what), if n == 1 { "was" } else { "were" })
}

/// Whether it tells this metric or scalar.
pub fn of_model(name: &str) -> bool {
    NAMES.contains(&name) || OF_ROWS.iter().any(|of| name.starts_with(of))
}
