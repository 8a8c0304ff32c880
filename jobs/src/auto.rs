//! `--solver auto`: the dual solver or Newton's method, whichever the facts of the rows promise to end first.
//!
//! What a pass costs follows from non-zeros, features, threads and slaves; how many there will be from the condition
//! k = c mean |x|^2 / (lambda n), c being the loss's curvature over the logistic one's, from the shape and from the tolerance. An
//! epoch of dual ascent, by all workers or by one of each slave alone, brings its gap down by a part that falls with k, or with
//! its root where planes are searched, the more so where rows outnumber features, where also the last digits cost more than the first; Newton's products grow with the root of k, but where features are so few that their
//! matrix is made there are none. The constants were fitted to what both
//! took on the sets of `scripts/bench solvers`, where a choice is right if it takes at most 1.3 times what the other would have.
//! Where neither is known the ascent is tried first, and where its gap falls too slowly ([`pace`]) Newton's method goes on from its
//! weights: how columns depend on one another stands in no fact. Invariant: what is chosen depends on the facts of the whole input, the
//! flags, the numbers of threads and slaves and the gaps of certificates alone, in the master, so it is the same for all.

use crate::primal::{self, Primal, cost, folds, gram, problems, task};
use crate::sdca::loss::Kind;
use crate::sdca::{self, Sdca, alone, pace};
use crate::told;
use crate::vector::Vector;
use crate::{objective, parts};
use flexps_common::Result;
use flexps_common::data::{Facts, Wanted};
use flexps_common::plan::{Flow, Plan, Progress};

/// Values of the scalar `solver`.
const SDCA: f64 = 1.0;
const NEWTON: f64 = 2.0;

/// A choice between two solvers.
pub struct Auto<'a> {
    /// Dual coordinate ascent.
    pub sdca: Sdca<'a>,
    /// Newton's method.
    pub primal: Primal<'a>,
}

impl Auto<'_> {
    /// Plans both, behind the decision which one runs.
    pub fn plan(&self, plan: &mut Plan) -> Result<()> {
        self.sdca.check()?;
        self.primal.check()?;
        let common = self.sdca.common;
        let inputs = common.inputs_as(plan, Wanted::Classes)?;
        let weights = Vector::new(plan, "weights", common.bias);
        plan.slave_bytes = sdca::SLAVE_BYTES;
        plan.body.rebuilt(|steps| {
            self.sdca.measure(steps, inputs);
            primal::remeasured(steps);
        });
        let (rows, lambda, tolerance, loss) = (inputs.rows, common.lambda, common.tolerance, self.sdca.loss);
        let (epochs, starts) = (common.epochs as f64, common.init_model.is_some());
        let folds = self.sdca.cv.unwrap_or(0);
        plan.body.decide(move |progress| {
            let facts = objective::facts(progress, rows.input)?;
            let count = |name| progress.metric("measure", name);
            let case = Case {
                loss,
                lambda: lambda.unwrap_or(1.0 / facts.rows.max(1) as f64),
                tolerance,
                threads: count("workers")?,
                slaves: count("slaves")?,
                memory: rows.memory,
                epochs,
                starts,
                folds,
                facts,
            };
            choose(progress, &case);
            Ok(Flow::Next)
        });
        plan.when("solver", SDCA, |plan| {
            self.sdca.solve(plan, inputs, weights);
            plan.body.decide(move |progress| {
                change(progress, folds > 0);
                Ok(Flow::Next)
            });
            Ok(())
        })?;
        plan.when("solver", NEWTON, |plan| self.primal.solve(plan, inputs, weights, true))?;
        common.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }
}

/// Seconds that are not worth a doubt, and the part of the epochs that may be made from which on there is one.
const SOON: f64 = 0.08;
const RISK: f64 = 0.2;

/// It is worth this part of the time of Newton's method, where nobody knows how much that is, to try the ascent, by so many epochs.
const WORTH: f64 = 0.1;
const TRIAL: f64 = 13.0;

/// Of the hinge slaves that join what they learnt take so many times the epochs that one takes.
const JOINED: f64 = 20.0;

/// What is left of the steps of Newton's method from weights of rows like these. The ascent starts no nearer from them: its
/// dual variables are not among what a model holds.
const WARM: f64 = 0.3;

/// What the choice is made of.
struct Case {
    facts: Facts,
    loss: Kind,
    lambda: f64,
    tolerance: f64,
    /// Workers, and the slaves on which they run.
    threads: f64,
    slaves: f64,
    /// Bytes that a worker may keep for values by feature.
    memory: u64,
    /// Epochs of the ascent at most.
    epochs: f64,
    /// Whether there are weights to start from.
    starts: bool,
    /// That are held out, each before the problem of all rows.
    folds: u32,
}

/// Nanoseconds that one thread takes for a dual step, by non-zero and by row.
const STEP: f64 = 5.0;
const ROW: f64 = 60.0;

impl Case {
    /// How the dual ascent sees it.
    fn ascent(&self) -> alone::Case<'_> {
        let Case { facts, loss, lambda, tolerance, threads, slaves, .. } = self;
        alone::Case { facts, loss: *loss, lambda: *lambda, tolerance: *tolerance, threads: *threads, slaves: *slaves }
    }

    fn condition(&self) -> f64 {
        self.ascent().condition()
    }

    /// Whether a worker's rows come in parts, since values by feature would outweigh its memory.
    fn in_parts(&self) -> bool {
        parts::several(&self.facts, self.memory)
    }

    /// Epochs that dual ascent is likely to take.
    fn passes(&self) -> f64 {
        // The more rows share a feature, the more of them must agree.
        let shared = (self.facts.rows as f64 / self.facts.features.max(1) as f64).max(1.0);
        let long = 0.35 * shared.powf(0.2) * self.condition();
        let first = 3.0 + if self.ascent().searches() { long.min(2.0 * long.sqrt()) } else { long };
        let joined = if self.loss == Kind::Hinge && self.slaves > 1.0 { JOINED } else { 1.0 };
        joined * first * (1.0 + 0.7 * shared.powf(0.45) * cost::digits(self.tolerance).max(0.0))
    }

    /// Seconds that it is likely to take.
    fn sdca(&self) -> f64 {
        // Workers that join learn less of an epoch than one alone; those that work on parts join but once each.
        let threads = if self.ascent().suits(sdca::Flags::default()) { self.slaves } else { self.threads };
        let crowd = if self.in_parts() { threads } else { 1.0 + 0.15 * (threads - 1.0) };
        let own = STEP * self.facts.nonzeros as f64 + ROW * self.facts.rows as f64;
        let sent = if self.slaves > 1.0 { 4.0 * cost::SENT * cost::features(&self.facts) } else { 0.0 };
        1e-9 * self.passes() * crowd * (own / threads + sent + cost::STAGE)
    }

    /// Whether it is but a guess which one is faster.
    fn is_unknown(&self) -> bool {
        let hard = self.condition() > cost::KNOWN || self.loss == Kind::Hinge;
        hard && !gram::suits(&self.facts, self.memory)
    }

    /// Seconds that Newton's method is likely to take.
    fn newton(&self) -> f64 {
        // Of the hinge its steps go from dual variables too.
        let warm = self.starts && self.loss != Kind::Hinge;
        let Case { facts, loss, lambda, tolerance, memory, threads, slaves, .. } = self;
        let (loss, lambda, tolerance, memory) = (*loss, *lambda, *tolerance, *memory);
        let from_zeros =
            cost::Case { facts, loss, lambda, tolerance, memory, threads: *threads, slaves: *slaves }.seconds();
        from_zeros * if warm { WARM } else { 1.0 }
    }
}

/// Behind the ascent: if it was given up, Newton's method goes on from its weights; of folds, of which no weights are kept, it
/// solves all problems itself.
fn change(progress: &mut Progress, has_folds: bool) {
    if progress.scalar(pace::GIVEN_UP, 0.0) == 0.0 {
        return;
    }
    folds::forget(progress);
    let classes = progress.scalar("class", 0.0).max(0.0) + 1.0;
    progress.set(problems::BEGUN, if has_folds { 0.0 } else { classes });
    progress.set("solver", NEWTON);
}

/// Sets the scalar `solver`, and says why.
fn choose(progress: &mut Progress, case: &Case) {
    let (sdca, newton) = (case.sdca(), case.newton());
    // Few steps by a small matrix are enough whatever the rows; of epochs there may be too few.
    let doubtful = case.passes() > RISK * case.epochs;
    let sure = newton <= SOON && (doubtful || gram::suits(&case.facts, case.memory));
    let epoch = sdca / case.passes();
    let classes = task::problems(&case.facts.labels);
    let refused = case.starts && classes > 1;
    let tries = !refused && sdca > newton && !sure && case.is_unknown() && TRIAL * epoch <= WORTH * newton;
    let dual = tries || !refused && sdca <= newton && !sure;
    progress.set("solver", if dual { SDCA } else { NEWTON });
    progress.set(pace::OTHER, newton / epoch);
    progress.set(pace::TRIED, f64::from(u8::from(tries)));
    let (name, time, other, others) =
        if dual { ("sdca", sdca, "newton", newton) } else { ("newton", newton, "sdca", sdca) };
    let problems = classes as f64 * f64::from(case.folds + 1);
    let [time, others] = [time, others].map(|seconds| estimate(seconds * problems));
    let Facts { rows, features, nonzeros, .. } = case.facts;
    progress.notes.push(format!(
        "solver {name}{}: {time}, {other} {others}, by {rows} rows, {features} features, {nonzeros} \
         non-zeros{}{}{}, condition {:.3}, tolerance {}, {} on {}, {} MiB by feature{}",
        if tries { " tried first" } else { "" },
        if classes > 1 { format!(", {classes} classes") } else { String::new() },
        if case.folds > 0 { format!(", {} folds", case.folds) } else { String::new() },
        match (case.starts, refused) {
            (false, _) => "",
            (true, false) => ", the model of --init-model",
            (true, true) => ", the model of --init-model, of whose several classes sdca starts from none",
        },
        case.condition(),
        case.tolerance,
        told::count(case.threads as u64, "thread"),
        told::count(case.slaves as u64, "slave"),
        case.memory >> 20,
        if case.in_parts() { ", so rows come in parts" } else { "" },
    ));
}

/// An estimate; one that no formula can mean to the second is not told to it.
fn estimate(seconds: f64) -> String {
    if seconds < 86_400.0 { format!("about {seconds:.2} s") } else { "more than a day".to_owned() }
}

#[cfg(test)]
mod tests;
