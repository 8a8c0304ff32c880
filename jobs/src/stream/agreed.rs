//! What the workers of a pass agree on: the rule by which they learn, of rows as they are and of rows in units.
//!
//! Each worker's first rows give a rule; that of the first worker that has had rows counts for all, as what the tables hold means
//! something only by the rule that it was learnt with. Invariant: whoever reads the table when the pass is over reads the same.

use super::rule::{Rule, State};
use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::plan::{Plan, Storage, Table, TableSpec};
use flexps_common::value::Type;
use flexps_common::worker::Worker;

/// alpha, beta and the constant, of rows as they are and in units.
const WIDTH: u32 = 6;

/// The rules that workers have found.
#[derive(Debug, Clone, Copy)]
pub struct Agreed(Table<f32>);

impl Agreed {
    /// Plans the table.
    pub fn new(plan: &mut Plan) -> Self {
        // Each worker writes a key of its own, so this sets it.
        Self(plan.table_with(TableSpec {
            name: "rules".to_owned(),
            element: Type::F32,
            width: WIDTH,
            storage: Storage::Dense,
            update: "max".to_owned(),
            update_params: Vec::new(),
        }))
    }

    /// The rule that counts, of rows in units or not, if a worker has found one.
    pub fn get(self, worker: &mut Worker<'_>, units: bool) -> Result<Option<Rule>> {
        let mut found = Vec::new();
        let keys: Vec<Key> = (0..worker.place.threads as Key).collect();
        worker.peek(self.0, &keys, &mut found)?;
        let at = if units { WIDTH as usize / 2 } else { 0 };
        let rules = found.chunks_exact(WIDTH as usize).map(|rules| &rules[at..]);
        let rule = |rule: &[f32]| Rule { alpha: rule[0], beta: rule[1], constant: rule[2], l1: 0.0, l2: 0.0 };
        Ok(rules.filter(|rule| rule[0] > 0.0).map(rule).next())
    }

    /// The rule for a worker's next rows, when it learns by `own`, if it has had any; `first` is that of its first ones.
    pub fn next(
        self,
        worker: &mut Worker<'_>,
        own: Option<Rule>,
        units: bool,
        first: impl FnOnce() -> Rule,
    ) -> Result<Rule> {
        if let Some(own) = own.filter(|_| worker.place.threads == 1) {
            return Ok(own);
        }
        if let Some(rule) = self.get(worker, units)? {
            return Ok(rule);
        }
        let Rule { alpha, beta, constant, .. } = first();
        let mut rules = [0.0; WIDTH as usize];
        rules[if units { WIDTH as usize / 2 } else { 0 }..][..3].copy_from_slice(&[alpha, beta, constant]);
        worker.add(self.0, &[worker.place.index as Key], &rules)?;
        worker.clock()?;
        Ok(Rule { alpha, beta, constant, l1: 0.0, l2: 0.0 })
    }
}

/// What was learnt by `rule` of a feature of rows as they are, as if by `to` of rows in which its `unit` is 1.
pub fn in_unit(rule: &Rule, to: &Rule, [z, n]: State, unit: f32) -> State {
    if n <= 0.0 {
        return State::default();
    }
    let root = n.sqrt() / unit;
    [-rule.weight([z, n]) * unit * to.slope(root), root * root]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_the_same_in_any_unit() {
        let rule = Rule { alpha: 1e-3, beta: 400.0, constant: 1000.0, l1: 0.0, l2: 0.0 };
        let to = Rule { alpha: 0.7, beta: 0.5, constant: 1.0, ..rule };
        let [z, n] = in_unit(&rule, &to, [3e4, 2.5e8], 1000.0);
        assert!((n / 250.0 - 1.0).abs() < 1e-5, "{n}");
        let (raw, made) = (rule.weight([3e4, 2.5e8]), to.weight([z, n]) / 1000.0);
        assert!((made / raw - 1.0).abs() < 1e-5, "{made} against {raw}");
        assert_eq!(in_unit(&rule, &to, [0.0; 2], 1000.0), [0.0; 2]);
    }
}
