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

use crate::primal::{self, Primal, folds, gram, problems, task};
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

/// Beyond this condition nobody knows how many products there will be, as of the hinge how many epochs...
const KNOWN: f64 = 1e4;
/// ... so that it is worth this part of their time to try the ascent, by so many epochs.
const WORTH: f64 = 0.1;
const TRIAL: f64 = 13.0;

/// Of the hinge a product with the matrix takes about this part of one of all rows, since few lie between the ends of its slope; where
/// there are more rows than features it takes about so many times as many.
const BETWEEN: f64 = 0.3;
const NARROW: f64 = 3.0;
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

/// Nanoseconds that one thread takes for a non-zero, a row or a feature, and for what a stage costs beside.
mod cost {
    /// A dual step, by non-zero and by row.
    pub const STEP: f64 = 5.0;
    pub const ROW: f64 = 60.0;
    /// Newton's product, by non-zero while a vector stays in the second cache, and beyond that.
    pub const NEAR: f64 = 6.0;
    pub const FAR: f64 = 40.0;
    /// Features of such a vector.
    pub const CACHED: u64 = 1 << 17;
    /// A product of two numbers, of those that a small matrix is made and solved with.
    pub const PAIR: f64 = 1.0;
    /// Its vectors, by feature.
    pub const VECTORS: f64 = 40.0;
    /// A value of a feature on its way to another slave.
    pub const SENT: f64 = 10.0;
    /// A product has two stages, an epoch one that counts.
    pub const STAGE: f64 = 1e5;
}

impl Case {
    /// How the dual ascent sees it.
    fn ascent(&self) -> alone::Case<'_> {
        let Case { facts, loss, lambda, tolerance, threads, slaves, .. } = self;
        alone::Case { facts, loss: *loss, lambda: *lambda, tolerance: *tolerance, threads: *threads, slaves: *slaves }
    }

    fn condition(&self) -> f64 {
        self.ascent().condition()
    }

    /// Whether features are no fewer than rows, so that these can nearly always be told apart.
    fn wide(&self) -> bool {
        self.facts.features >= self.facts.rows
    }

    /// How many times the digits behind the third are to be had.
    fn digits(&self) -> f64 {
        (1e-3 / self.tolerance.clamp(1e-8, 1e-1)).log10() / 3.0
    }

    /// Whether a worker's rows come in parts, since values by feature would outweigh its memory.
    fn in_parts(&self) -> bool {
        parts::several(&self.facts, self.memory)
    }

    /// Values by feature that rows can have.
    fn features(&self) -> f64 {
        self.facts.features.min(self.facts.nonzeros) as f64
    }

    /// Epochs that dual ascent is likely to take.
    fn passes(&self) -> f64 {
        // The more rows share a feature, the more of them must agree.
        let shared = (self.facts.rows as f64 / self.facts.features.max(1) as f64).max(1.0);
        let long = 0.35 * shared.powf(0.2) * self.condition();
        let first = 3.0 + if self.ascent().searches() { long.min(2.0 * long.sqrt()) } else { long };
        let joined = if self.loss == Kind::Hinge && self.slaves > 1.0 { JOINED } else { 1.0 };
        joined * first * (1.0 + 0.7 * shared.powf(0.45) * self.digits().max(0.0))
    }

    /// Seconds that it is likely to take.
    fn sdca(&self) -> f64 {
        // Workers that join learn less of an epoch than one alone; those that work on parts join but once each.
        let threads = if self.ascent().suits(sdca::Flags::default()) { self.slaves } else { self.threads };
        let crowd = if self.in_parts() { threads } else { 1.0 + 0.15 * (threads - 1.0) };
        let own = cost::STEP * self.facts.nonzeros as f64 + cost::ROW * self.facts.rows as f64;
        let sent = if self.slaves > 1.0 { 4.0 * cost::SENT * self.features() } else { 0.0 };
        1e-9 * self.passes() * crowd * (own / threads + sent + cost::STAGE)
    }

    /// Whether it is but a guess which one is faster.
    fn is_unknown(&self) -> bool {
        let hard = self.condition() > KNOWN || self.loss == Kind::Hinge;
        hard && !gram::suits(&self.facts, self.memory)
    }

    /// Seconds that Newton's method is likely to take.
    fn newton(&self) -> f64 {
        // Of the hinge its steps go from dual variables too.
        let warm = self.starts && self.loss != Kind::Hinge;
        self.newton_from_zeros() * if warm { WARM } else { 1.0 }
    }

    fn newton_from_zeros(&self) -> f64 {
        if gram::is_taken(&self.facts, self.memory, self.loss) {
            return self.matrices();
        }
        // Of rows that can be told apart little is left of a squared loss, and what is left is to be had to a part of that.
        let lost = self.wide() && self.loss != Kind::Logistic;
        let hard = self.condition().min(KNOWN).powf(if lost { 1.0 } else { 0.5 });
        let hard = if self.loss == Kind::Hinge && !self.wide() { NARROW * hard } else { hard };
        // Behind as many products as there are rows or features nothing is left.
        let hard = hard.min(self.facts.rows.min(self.facts.features) as f64);
        let products = (12.0 + 8.0 * hard) * (1.0 + 0.7 * self.digits().max(0.0));
        let each = if self.facts.features <= cost::CACHED { cost::NEAR } else { cost::FAR };
        let part = if self.loss == Kind::Hinge { BETWEEN } else { 1.0 };
        let own = part * each * self.facts.nonzeros as f64 + cost::VECTORS * self.facts.features as f64;
        let sent = if self.slaves > 1.0 { 4.0 * cost::SENT * self.features() } else { 0.0 };
        1e-9 * products * (own / self.threads + sent + 2.0 * cost::STAGE)
    }

    /// The same where steps are found by the matrix, some of them by one: how hard the rows are does not tell.
    fn matrices(&self) -> f64 {
        let digits = self.digits().max(0.0);
        // Of the hinge few rows have a part in a matrix, of which each step makes one.
        let (steps, made) = match self.loss {
            Kind::Hinge => (14.0 + 19.0 * digits, 0.1),
            _ => (6.0 + 3.0 * digits, 1.0 / gram::FILLED as f64),
        };
        let making = cost::PAIR * gram::making(&self.facts) * made;
        let rows = making + 2.0 * cost::NEAR * self.facts.nonzeros as f64;
        let own = rows / self.threads + cost::PAIR * gram::solving(&self.facts);
        let sent = if self.slaves > 1.0 { cost::SENT * self.features().powi(2) } else { 0.0 };
        1e-9 * (steps * (own + sent) + 10.0 * cost::STAGE)
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
