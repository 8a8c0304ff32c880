//! The model of the epoch with the least validation loss, which a job keeps that `--patience` ends.
//!
//! Invariant: what such a job keeps and what its report tells of it are of one epoch.

use crate::flags::Common;
use crate::rules::WAITED;
use crate::vector::Vector;
use flexps_common::plan::{Flow, Plan, Progress};

/// What is told of a model, beside its intercept; `validation` and `training` in front of the latter ones.
const OF_MODEL: [&str; 3] = ["objective", "gap", "bias"];
const OF_ROWS: [&str; 3] = ["loss", "accuracy", "auc"];

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Best(Option<(Vector, u64)>);

impl Best {
    /// Nothing, without patience.
    pub fn new(plan: &mut Plan, flags: &Common) -> Self {
        Self(flags.patience.map(|patience| (Vector::new(plan, "best", flags.bias), patience)))
    }

    /// Behind an epoch whose `weights` are kept and whose validation loss the rules have seen: how the job goes on.
    pub fn after(self, progress: &mut Progress, weights: Vector, flow: Flow) -> Flow {
        let Some((best, patience)) = self.0 else { return flow };
        let waited = progress.scalar(WAITED, 0.0);
        if waited == 0.0 {
            weights.copy(progress, best);
            remember(progress);
            progress.set("best_epoch", (progress.epoch + 1) as f64);
            return flow;
        }
        let Flow::Stop(why) = flow else { return flow };
        // None was ever the best where no validation loss is a number.
        if waited < patience as f64 || !progress.scalars.contains_key("best_epoch") {
            return Flow::Stop(why);
        }
        best.copy(progress, weights);
        recall(progress);
        Flow::Stop(format!("{why}; the model of epoch {} is kept", progress.scalar("best_epoch", 0.0)))
    }
}

/// Remembers what the report tells of the model at hand.
pub fn remember(progress: &mut Progress) {
    names().for_each(|name| rename(progress, &name, &kept(&name)));
}

/// Tells that again, of the model that is at hand again.
pub fn recall(progress: &mut Progress) {
    names().for_each(|name| rename(progress, &kept(&name), &name));
    progress.objective = Some(progress.scalar("objective", 0.0));
}

fn names() -> impl Iterator<Item = String> {
    let of = |rows: &'static str| OF_ROWS.into_iter().map(move |name| format!("{rows}_{name}"));
    OF_MODEL.into_iter().map(str::to_owned).chain(of("training")).chain(of("validation"))
}

fn kept(name: &str) -> String {
    format!("best_{name}")
}

/// What is not known by its first name is not by the second either.
fn rename(progress: &mut Progress, from: &str, to: &str) {
    match progress.scalars.get(from).copied() {
        Some(value) => progress.set(to, value),
        None => _ = progress.scalars.remove(to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_at_hand_stays_where_no_validation_loss_was_a_number() {
        let mut plan = Plan::default();
        let weights = Vector::new(&mut plan, "weights", false);
        let best = Best::new(&mut plan, &Common { patience: Some(2), ..Common::default() });
        let stop = || Flow::Stop("it has not improved for 2 epochs".to_owned());
        let mut progress = Progress::default();
        progress.set(WAITED, 2.0);
        assert!(matches!(best.after(&mut progress, weights, stop()), Flow::Stop(why) if !why.contains("is kept")));
        assert!(progress.ops.is_empty());
        progress.set("best_epoch", 1.0);
        assert!(
            matches!(best.after(&mut progress, weights, stop()), Flow::Stop(why) if why.contains("epoch 1 is kept"))
        );
        assert_eq!(progress.ops.len(), 1);
    }
}
