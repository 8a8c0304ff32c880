//! Sizes of features. FTRL has one step for all, so where some are in another unit than others, as columns of a table often are,
//! each is learnt in a unit of its own: its values over their mean size in the first rows (on why see
//! Ross, Mineiro and Langford, Normalized Online Learning, UAI 2013).
//!
//! Every worker measures its first block; of those that find units one is chosen, whose units are those of all to the end. Who
//! learns before another one has found any learns of rows as they are, in tables of their own, which the weights are made of too.
//! Invariant: a feature's unit never changes, and what a table of units knows of it is in its unit; weights that are kept are not.

use super::agreed::in_unit;
use super::election::Election;
use super::own::Sums;
use super::rule::{Rule, State};
use flexps_common::Result;
use flexps_common::data::Block;
use flexps_common::ids::Key;
use flexps_common::plan::{Plan, Storage, Table, TableSpec};
use flexps_common::value::Type;
use flexps_common::worker::Worker;
use std::ops::Range;
use std::sync::Arc;

/// Features that may have units: below this, as those of a table's columns are.
const KEYS: Key = 1 << 16;
/// Non-zeros that are looked at to tell how large features are: enough for those that many rows have.
const LOOKED: usize = 100_000;
/// Part of these rows, and rows, that a feature must have at least to count.
const MANY: f64 = 0.05;
const LEAST: f64 = 20.0;
/// Features of which some are so many times as large as others have no step in common.
const WIDE: f64 = 30.0;

/// The tables of units.
#[derive(Debug, Clone, Copy)]
pub struct Units {
    /// Whose they are.
    found: Election,
    /// By feature, and at [`KEYS`] that of all that have none of their own.
    sizes: Table<f32>,
    /// z and n, in units; those of the intercept are in none, but learnt beside such features.
    pub sums: Sums,
}

impl Units {
    /// Plans them.
    pub fn new(plan: &mut Plan, bias: bool) -> Self {
        let found = Election::new(plan, "units", 0);
        let sizes = plan.table_with(TableSpec {
            name: "sizes".to_owned(),
            element: Type::F32,
            width: 1,
            storage: Storage::Dense,
            update: "max".to_owned(),
            update_params: Vec::new(),
        });
        let features = plan.table("unit-sums", 2);
        Self { found, sizes, sums: Sums { features, bias: bias.then(|| plan.table("unit-bias-sums", 2)) } }
    }

    /// Whether a worker has found any.
    pub fn found(self, worker: &mut Worker<'_>) -> Result<bool> {
        Ok(self.found.said(worker)?.is_some())
    }

    /// Makes them of these sizes, unless those of another worker come before.
    fn make(self, worker: &mut Worker<'_>, sizes: Vec<(Key, f32)>) -> Result<()> {
        let put = |worker: &mut Worker<'_>| {
            let (keys, sizes): (Vec<Key>, Vec<f32>) = sizes.into_iter().unzip();
            worker.add(self.sizes, &keys, &sizes)?;
            worker.clock()?;
            // Whoever has read what it wrote knows that others can.
            worker.peek(self.sizes, &keys, &mut Vec::new())
        };
        self.found.stand(worker, &[], put).map(drop)
    }

    /// The weights of these features, in no unit: of what was learnt in units by `rule`, and in `state` by `plain` of rows as
    /// they are.
    pub fn weights(
        self,
        worker: &mut Worker<'_>,
        keys: Range<Key>,
        rule: &Rule,
        (state, plain): (Table<f32>, Option<Rule>),
    ) -> Result<Vec<f32>> {
        let (mut all, mut own, mut ours, mut early) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        worker.get(self.sizes, &[KEYS], &mut all)?;
        worker.get_range(self.sizes, keys.start.min(KEYS)..keys.end.min(KEYS), &mut own)?;
        worker.get_range(self.sums.features, keys.clone(), &mut ours)?;
        worker.get_range(state, keys.clone(), &mut early)?;
        own.resize(keys.len(), 0.0);
        let (ours, early): (&[State], &[State]) = (ours.as_chunks().0, early.as_chunks().0);
        let features = own.iter().zip(ours).zip(early);
        let weight = |((own, ours), early): ((&f32, &State), &State)| {
            let unit = if *own > 0.0 { *own } else { all[0] };
            both(rule, *ours, (plain.as_ref(), *early), unit)
        };
        Ok(features.map(weight).collect())
    }

    /// The intercept, likewise: of what was learnt of it by `rule`, and as `early` says by `plain`.
    pub fn intercept(
        self,
        worker: &mut Worker<'_>,
        rule: &Rule,
        (early, plain): (Table<f32>, Option<Rule>),
    ) -> Result<f32> {
        let Some(table) = self.sums.bias else { return Ok(0.0) };
        let (mut ours, mut before) = (Vec::new(), Vec::new());
        worker.get(table, &[0], &mut ours)?;
        worker.get(early, &[0], &mut before)?;
        let plain = plain.map(Rule::free);
        Ok(both(&rule.free(), [ours[0], ours[1]], (plain.as_ref(), [before[0], before[1]]), 1.0))
    }
}

/// The weight, in no unit, of what was learnt in a unit by `rule`, and before by `plain` of rows as they are.
fn both(rule: &Rule, ours: State, (plain, early): (Option<&Rule>, State), unit: f32) -> f32 {
    let early = plain.map_or(State::default(), |plain| in_unit(plain, rule, early, unit));
    let [both] = rule.joined(&[State::default()], &[ours], &[early]);
    rule.weight(both) / unit
}

/// What a worker knows of the features' sizes.
pub struct Sizes {
    /// None where a penalty counts weights as they are.
    tables: Option<Units>,
    /// What the table of sizes holds, once there are units.
    units: Vec<f32>,
    /// How many times as large the largest feature of the first block is as the smallest.
    pub spread: f64,
    measured: bool,
}

impl Sizes {
    /// Nothing is known yet.
    pub fn new(tables: Option<Units>) -> Self {
        Self { tables, units: Vec::new(), spread: 1.0, measured: false }
    }

    /// Whether features have units of their own.
    pub fn has_units(&self) -> bool {
        !self.units.is_empty()
    }

    /// The block in the features' units, if they have any.
    pub fn fit(&mut self, worker: &mut Worker<'_>, block: Arc<Block>) -> Result<Arc<Block>> {
        let first = !std::mem::replace(&mut self.measured, true);
        let mut found = None;
        if first {
            let sizes = measure(&block);
            self.spread = spread(&sizes);
            found = Some(sizes).filter(|_| self.spread >= WIDE);
        }
        let Some(tables) = self.tables else { return Ok(block) };
        if !self.has_units() {
            let others = worker.place.threads > 1 && tables.found(worker)?;
            match found {
                _ if others => {}
                Some(sizes) => tables.make(worker, sizes)?,
                None => return Ok(block),
            }
            worker.get_range(tables.sizes, 0..KEYS + 1, &mut self.units)?;
        }
        Ok(Arc::new(self.in_units(&block)))
    }

    fn in_units(&self, block: &Block) -> Block {
        let mut block = block.clone();
        let values = block.values.get_or_insert_with(|| vec![1.0; block.indices.len()]);
        for (value, feature) in values.iter_mut().zip(&block.indices) {
            *value /= unit(&self.units, *feature);
        }
        block
    }
}

fn unit(units: &[f32], feature: Key) -> f32 {
    let own = if feature < KEYS { units[feature as usize] } else { 0.0 };
    if own > 0.0 { own } else { units[KEYS as usize] }
}

/// The mean |x| of the non-zeros of each feature that many of a block's rows have, by feature, and at [`KEYS`] that of all others,
/// or of all if there are none.
fn measure(block: &Block) -> Vec<(Key, f32)> {
    let looked = block.offsets.partition_point(|end| *end as usize <= LOOKED).saturating_sub(1);
    let Some(values) = block.values.as_ref().filter(|_| looked > 0) else { return Vec::new() };
    let mut sums = vec![(0u32, 0.0f64); KEYS as usize + 1];
    let nonzeros = ..block.offsets[looked] as usize;
    for (feature, value) in block.indices[nonzeros].iter().zip(&values[nonzeros]) {
        let (count, sum) = &mut sums[(*feature).min(KEYS) as usize];
        (*count, *sum) = (*count + 1, *sum + f64::from(value.abs()));
    }
    let (mut sizes, mut all) = (Vec::new(), (0, 0.0));
    let mut others = sums.pop().unwrap_or_default();
    for (feature, (count, sum)) in (0..).zip(sums) {
        let to = if f64::from(count) >= LEAST.max(MANY * looked as f64) && sum > 0.0 {
            sizes.push((feature, (sum / f64::from(count)) as f32));
            &mut all
        } else {
            &mut others
        };
        *to = (to.0 + count, to.1 + sum);
    }
    let (count, sum) = if others.1 > 0.0 { others } else { all };
    sizes.push((KEYS, (sum / f64::from(count.max(1))) as f32));
    sizes
}

/// How many times as large as the smallest feature the largest is.
fn spread(sizes: &[(Key, f32)]) -> f64 {
    let own = sizes.iter().filter(|(feature, _)| *feature < KEYS).map(|(_, size)| f64::from(*size));
    let (least, most) = own.fold((f64::INFINITY, 0.0f64), |(least, most), size| (least.min(size), most.max(size)));
    if most > least { most / least } else { 1.0 }
}

/// What the report says where features are of so unlike size.
pub fn note(spread: f64, units: bool) -> Option<String> {
    let unlike = format!("values of some features are {spread:.0} times those of others");
    match units {
        true => Some(format!("{unlike}: each was learnt in a unit of its own")),
        false if spread >= WIDE => Some(format!(
            "{unlike}, and under a penalty ftrl has one step for all, by which it learns little of the small ones; scale the \
             features, or take another --solver"
        )),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::job;
    use super::*;
    use crate::fixtures::{self, Rows, run};
    use crate::flags::Common;
    use crate::newton::Problem;
    use flexps_common::host::{Host, Outcome};
    use flexps_common::metrics::Metric;
    use flexps_common::plan::Flow;

    /// Rows that have all of these features, each of its size.
    fn of_sizes(sizes: &[(u32, f32)]) -> Arc<Block> {
        Arc::new(fixtures::block(&[1.0; 50], &[sizes; 50]))
    }

    #[test]
    fn units_stay_as_they_were_found_whatever_others_find_then_or_later() {
        // The other one comes long after units were found, or with who finds them.
        for late in [9, 0] {
            let mut plan = Plan::default();
            let units = Units::new(&mut plan, false);
            plan.body.stage("fit", move |worker| {
                let mut sizes = Sizes::new(Some(units));
                let index = worker.place.index;
                for _ in 0..late * index {
                    worker.clock()?;
                }
                // The other one's rows have a feature more, which is so large, and the first one is larger.
                let small = of_sizes(&[(1, 100.0), (2, 1.0)]);
                let large = of_sizes(&[(1, 800.0), (2, 1.0), (3, 5000.0)]);
                sizes.fit(worker, [&small, &large][index].clone())?;
                let units = |sizes: &Sizes| [1, 2, 3].map(|feature| f64::from(unit(&sizes.units, feature)));
                let first = units(&sizes);
                for _ in 0..20 {
                    worker.clock()?;
                }
                let fitted = sizes.fit(worker, large)?;
                assert_eq!(units(&sizes), first);
                assert_eq!(fitted.values.as_ref().map(|values| values[0]), Some(8.0));
                for (name, unit) in ["one", "two", "three"].into_iter().zip(first) {
                    worker.report(name, Metric::Sum(unit));
                }
                Ok(())
            });
            plan.body.decide(|progress| {
                let [one, two, three] = ["one", "two", "three"].map(|name| progress.metric("fit", name));
                // Of two workers; the third feature has that of all that have none.
                assert_eq!([one?, two?, three?], [200.0, 2.0, 101.0]);
                Ok(Flow::Next)
            });
            Host::cluster(1, 2).run(&plan).unwrap();
        }
    }

    fn rows() -> Vec<Block> {
        Rows { rows: 12_000, features: 12, nonzeros: 8, ..Rows::sparse(3) }.blocks(12)
    }

    /// How large a feature is made.
    fn unit_of(feature: Key) -> f32 {
        10f32.powi(feature as i32 % 7 - 3)
    }

    fn in_odd_units(blocks: &[Block]) -> Vec<Block> {
        let mut blocks = blocks.to_vec();
        for Block { indices, values, .. } in &mut blocks {
            values.iter_mut().flatten().zip(indices).for_each(|(x, j)| *x *= unit_of(*j));
        }
        blocks
    }

    /// The part by which the model of rows in odd units is above the optimum of those in none.
    fn above_optimum(outcome: &Outcome, plain: &[Block], bias: bool) -> f64 {
        // What is kept is in no unit.
        let mut model = outcome.table("weights", 0..12);
        (0..).zip(&mut model).for_each(|(j, weight)| *weight *= f64::from(unit_of(j)));
        if bias {
            model.extend(outcome.table("bias", 0..1));
        }
        let problem = Problem { blocks: plain, lambda: 1e-9, bias, features: 12 };
        let best = problem.solve().1;
        (problem.objective(&model) - best) / best
    }

    #[test]
    fn features_of_unlike_size_are_learnt_as_well_as_those_of_one() {
        let plain = rows();
        let odd = in_odd_units(&plain);
        for bias in [false, true] {
            for (slaves, slots) in [(1, 1), (1, 2), (3, 1), (2, 2)] {
                let learn = |blocks: &[Block], lambda| {
                    let common = Common { bias, lambda, ..fixtures::flags() };
                    run(Host::cluster(slaves, slots), &job(common), blocks)
                };
                let [wanted, outcome] = [&plain, &odd].map(|blocks| learn(blocks, None));
                let [wanted_loss, loss] = [&wanted, &outcome].map(|of| of.progress.scalars["progressive_loss"]);
                assert!(loss < 1.02 * wanted_loss, "{slaves} x {slots}: {loss} against {wanted_loss}");
                assert!(wanted.progress.notes.is_empty(), "{:?}", wanted.progress.notes);
                assert!(outcome.progress.notes[0].ends_with("each was learnt in a unit of its own"));
                let above = above_optimum(&outcome, &plain, bias);
                assert!(above < 0.04, "{slaves} x {slots}: {above} above the optimum");
                if slaves == 1 {
                    let notes = learn(&odd, Some(1e-6)).progress.notes;
                    assert!(notes.iter().any(|note| note.contains("scale the features, or take another")), "{notes:?}");
                }
            }
        }
    }

    #[test]
    fn who_finds_no_units_learns_with_who_does() {
        let plain = Rows { rows: 12_000, features: 12, nonzeros: 8, ..Rows::sparse(3) }.blocks(2);
        for lacks in [0, 1] {
            // One worker's rows have a single feature, a large one.
            let mut plain = plain.clone();
            let block = &plain[lacks];
            let rows: Vec<Vec<(u32, f32)>> = (0..block.rows())
                .map(|i| block.row(i))
                .map(|row| row.indices.iter().copied().zip(row.values.unwrap().iter().copied()))
                .map(|row| row.filter(|(feature, _)| *feature == 6).collect())
                .collect();
            let rows: Vec<&[(u32, f32)]> = rows.iter().map(|row| &row[..]).collect();
            plain[lacks] = fixtures::block(&block.labels, &rows);
            for bias in [false, true] {
                let common = Common { bias, ..fixtures::flags() };
                let outcome = run(Host::cluster(2, 1), &job(common), &in_odd_units(&plain));
                assert!(outcome.progress.notes[0].ends_with("each was learnt in a unit of its own"));
                let above = above_optimum(&outcome, &plain, bias);
                assert!(above < 0.03, "{lacks}, {bias}: {above} above the optimum");
            }
        }
    }

    #[test]
    fn features_that_few_rows_have_are_no_reason_for_units() {
        let mut block = rows().remove(0);
        assert!(spread(&measure(&block)) < 3.0);
        block.indices.iter_mut().for_each(|j| *j *= 2);
        block.indices[0] = 1;
        block.values.iter_mut().for_each(|values| values[0] = 1e9);
        assert!(spread(&measure(&block)) < 3.0);
        // Far features have none of their own.
        block.indices.iter_mut().for_each(|j| *j += KEYS);
        assert_eq!((measure(&block).len(), spread(&measure(&block))), (1, 1.0));
        block.values = None;
        assert_eq!((measure(&block), spread(&[])), (Vec::new(), 1.0));
        assert_eq!(measure(&Block::default()), Vec::new());
    }
}
