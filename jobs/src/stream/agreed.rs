//! What the workers of a pass agree on: the rule by which they learn, of rows as they are and of rows in units.
//!
//! Each worker's first rows give a rule; that of one of the first that have had rows counts for all, as what the tables hold means
//! something only by the rule that it was learnt with. Invariant: nobody ever learns by another.

use super::election::Election;
use super::rule::{Rule, State};
use flexps_common::Result;
use flexps_common::plan::Plan;
use flexps_common::worker::Worker;

/// How the rule is found.
#[derive(Debug, Clone, Copy)]
pub struct Agreed {
    /// That of rows as they are,
    plain: Election,
    /// and of rows in units.
    in_units: Election,
}

impl Agreed {
    /// Plans its tables.
    pub fn new(plan: &mut Plan) -> Self {
        let [plain, in_units] = ["rule", "unit-rule"].map(|name| Election::new(plan, name, 3));
        Self { plain, in_units }
    }

    fn of(self, units: bool) -> Election {
        if units { self.in_units } else { self.plain }
    }

    /// The rule that counts, of rows in units or not, if there is one.
    pub fn get(self, worker: &mut Worker<'_>, units: bool) -> Result<Option<Rule>> {
        Ok(self.of(units).said(worker)?.map(|said| rule(&said)))
    }

    /// The rule for a worker's next rows, when it learns by `own`, if it has had any; `first` is that of its first ones.
    pub fn next(
        self,
        worker: &mut Worker<'_>,
        own: Option<Rule>,
        units: bool,
        first: impl FnOnce() -> Rule,
    ) -> Result<Rule> {
        if let Some(own) = own {
            return Ok(Rule { l1: 0.0, l2: 0.0, ..own });
        }
        if let Some(rule) = self.get(worker, units)? {
            return Ok(rule);
        }
        let Rule { alpha, beta, constant, .. } = first();
        let found = [alpha, beta, constant].map(|number| number.max(f32::MIN_POSITIVE));
        let said = self.of(units).stand(worker, &found, |_| Ok(()))?;
        Ok(rule(&said))
    }
}

/// That of which alpha, beta and the constant are said.
fn rule(said: &[f32]) -> Rule {
    Rule { alpha: said[0], beta: said[1], constant: said[2], l1: 0.0, l2: 0.0 }
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
    use flexps_common::host::Host;
    use flexps_common::metrics::Metric;
    use flexps_common::plan::Flow;

    #[test]
    fn all_learn_by_one_rule_from_their_first_rows_on() {
        // Worker 1 comes with worker 0, or long before.
        for late in [0, 9] {
            let mut plan = Plan::default();
            let agreed = Agreed::new(&mut plan);
            plan.body.stage("learn", move |worker| {
                let index = worker.place.index;
                for _ in 0..if index == 0 { late } else { 0 } {
                    worker.clock()?;
                }
                let found = Rule { alpha: 1.0 + index as f32, beta: 1.0, l1: 0.0, l2: 0.0, constant: 1.0 };
                let first = agreed.next(worker, None, false, || found)?;
                for _ in 0..20 {
                    worker.clock()?;
                }
                let then = agreed.next(worker, Some(first), false, || found)?;
                worker.report(["one", "other"][index], Metric::Max(f64::from(first.alpha)));
                worker.report(["one then", "other then"][index], Metric::Max(f64::from(then.alpha)));
                let counts = agreed.get(worker, false)?.map_or(0.0, |rule| rule.alpha);
                worker.report("counts", Metric::Max(f64::from(counts)));
                assert!(agreed.get(worker, true)?.is_none(), "rows in units have a rule of their own");
                Ok(())
            });
            plan.body.decide(move |progress| {
                let counts = progress.metric("learn", "counts")?;
                assert_eq!(counts, if late > 0 { 2.0 } else { 1.0 });
                for name in ["one", "other", "one then", "other then"] {
                    assert_eq!(progress.metric("learn", name)?, counts, "{name}, {late} clocks later");
                }
                Ok(Flow::Next)
            });
            Host::cluster(1, 2).run(&plan).unwrap();
        }
    }

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
