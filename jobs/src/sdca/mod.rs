//! Stochastic dual coordinate ascent (Shalev-Shwartz and Zhang, JMLR 2013): linear models with an L2 penalty, trained to
//! a certified distance from the optimum.
//!
//! minimise P(w) = (1/n) sum f(y w.x) + lambda/2 |w|^2 by maximising its dual, one row's variable after the other. Every
//! worker goes over its own rows with its own copy of the weights; copies are joined a few times an epoch. The job ends
//! when the duality gap is less than the tolerance's part of P. Invariant: the weights are those that the dual variables
//! give, but for rounding, whatever the workers' number.

mod crowd;
pub mod fast;
mod join;
pub mod loss;
mod rows;
mod stages;
mod stop;
mod visit;

use crate::flags::{Common, Model};
use crate::parts::Parts;
use crate::vector::Vector;
use crate::{objective, validation};
use clap::Args;
use flexps_common::plan::{Flow, Plan, Threads};
use flexps_common::{Error, Result};
use join::Tables;
use loss::{Kind, with_loss};
use serde::{Deserialize, Serialize};
use stages::Stages;
use stop::Stop;

/// The solver's parameters.
#[derive(Debug, Clone, Copy)]
pub struct Sdca<'a> {
    /// What it shares with other jobs.
    pub common: &'a Common,
    /// f.
    pub loss: Kind,
    /// Workers; all slots if none.
    pub threads: Option<u32>,
    /// Its own.
    pub flags: Flags,
}

/// The flags that every job with this solver has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default)]
pub struct Flags {
    /// sdca: joins of the workers' copies of the weights in an epoch [default: by features and non-zeros]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub joins: Option<u32>,

    /// sdca: how much the workers' ways are taken to overlap, from 1, not at all, to their number, wholly [default:
    /// 1 + 0.3 for each further worker; wholly where rows come in parts]
    #[arg(long, value_name = "TIMES", value_parser = crate::flags::positive)]
    pub overlap: Option<f64>,
}

/// Tolerances for which single precision does not judge well enough.
const WIDE: f64 = 1e-5;

/// Joins of an epoch.
const JOINS: u32 = 4;

impl Sdca<'_> {
    /// Plans the job.
    pub fn plan(&self, plan: &mut Plan) -> Result<()> {
        let flags = self.common;
        self.check()?;
        let inputs = flags.inputs(plan)?;
        let (rows, input) = (inputs.rows, inputs.rows.input);
        let weights = Vector::new(plan, "weights", false);
        let tables = Tables {
            ways: plan.table("ways", 1),
            terms: plan.table("terms", join::TERMS as u32),
            holders: plan.table("holders", 1),
        };
        let threads = self.threads.map_or(Threads::All, Threads::Count);
        let joins = self.flags.joins.unwrap_or(JOINS);
        if let Some(overlap) = self.flags.overlap {
            plan.scalars.insert("overlap".to_owned(), overlap);
        }
        let stages =
            Stages { rows, weights: weights.features, tables, joins, seed: flags.seed, wide: flags.tolerance < WIDE };
        let (stop, lambda, kind) = (Stop::new(flags), flags.lambda, self.loss);

        let steps = &mut plan.body;
        steps.stage("measure", move |worker| rows::measure(worker, input)).threads(threads).input(input);
        steps.decide(move |progress| {
            objective::begin(progress, inputs.rows, lambda)?;
            stop.begin(progress);
            let crowd = with_loss!(kind, L => crowd::steps_at_once::<L>(progress))?;
            progress.set("at_once", f64::from(u8::from(crowd)));
            Ok(Flow::Next)
        });
        steps
            .stage("holders", move |worker| {
                let whole = Parts::new(worker, rows)?.whole(worker)?;
                whole.map_or(Ok(()), |part| join::count_holders(worker, &part.map, tables.holders))
            })
            .threads(threads)
            .input(input);
        steps.repeat(flags.epochs, |epoch| {
            epoch.zero(tables.ways);
            epoch
                .stage("ascent", move |worker| with_loss!(kind, L => stages.ascend::<L>(worker)))
                .threads(threads)
                .input(input);
            epoch.norm2(weights.features, "norm2");
            epoch.decide(move |progress| stop.before(progress).map(|()| Flow::Next));
            epoch
                .stage("certificate", move |worker| with_loss!(kind, L => stages.certify::<L>(worker)))
                .threads(threads)
                .input(input);
            if let Some(held_out) = inputs.validation {
                validation::plan(epoch, "validation", held_out, weights);
            }
            let has_validation = inputs.validation.is_some();
            epoch.decide(move |progress| {
                let held_out = has_validation.then(|| validation::loss(progress, "validation")).transpose()?;
                if has_validation {
                    validation::note(progress, "validation")?;
                }
                stop.after(progress, held_out)
            });
        });
        flags.save(plan, inputs.rows, weights.tensors());
        Ok(())
    }

    fn check(&self) -> Result<()> {
        self.common.check()?;
        let refuse = |what| Err(Error::user(format!("{what}; --solver newton does")));
        Self::refused(self.common).map_or(Ok(()), refuse)
    }

    /// What the flags ask for that this solver can't do.
    pub fn refused(flags: &Common) -> Option<&'static str> {
        if flags.bias {
            return Some("sdca learns no unpenalised intercept (--bias)");
        }
        if flags.init_model.is_some() {
            return Some("sdca can't start from weights (--init-model): it moves dual variables");
        }
        if flags.lambda == Some(0.0) {
            return Some("sdca needs a penalty: --lambda 0 leaves it no dual");
        }
        if flags.consistency != Model::Bsp {
            return Some("sdca's workers join in step: --consistency must be bsp");
        }
        None
    }
}

#[cfg(test)]
mod tests;
