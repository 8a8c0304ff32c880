//! The slaves that queued jobs would use as things are now, for one round of decisions.
//!
//! Invariant: jobs that ask for the same share what is found of one of them: there may be thousands, and each event asks again.

use crate::job::Job;
use crate::job::admission::Candidate;
use crate::prepare::Prepared;
use flexps_common::ids::SlaveId;
use std::collections::HashMap;
use std::sync::Arc;

/// Its slaves, or why there are none.
type Choice = Result<Arc<[SlaveId]>, String>;
/// All that a choice depends on beside the slaves, of a job whose inputs lie near none of them.
type Key = (u64, Option<u32>, u64, u64);

/// See the module.
pub(super) struct Choices {
    /// The live slaves as a job sees them that reads nothing.
    pub candidates: Vec<Candidate>,
    known: HashMap<Key, Choice>,
}

impl Choices {
    pub fn of(candidates: Vec<Candidate>) -> Self {
        Self { candidates, known: HashMap::new() }
    }

    /// What was found of a job like this one, or else `find` finds of it.
    pub fn choice(&mut self, job: &Job, prepared: &Prepared, find: impl FnOnce(&[Candidate]) -> Choice) -> Choice {
        if !prepared.local.is_empty() {
            return find(&self.candidates);
        }
        let key = (job.own_hash, job.plan.most_slaves, job.plan.slave_bytes, prepared.bytes());
        self.known.entry(key).or_insert_with(|| find(&self.candidates)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Submission;
    use flexps_common::ids::JobId;
    use flexps_common::plan::Plan;
    use std::time::Duration;

    #[test]
    fn a_job_shares_no_choice_with_one_that_asks_for_other_memory_or_threads() {
        let job = |change: &dyn Fn(&mut Plan)| {
            let mut plan = Plan::default();
            plan.body.stage("work", |_| Ok(()));
            change(&mut plan);
            Job::new(JobId(1), Submission::bare("own"), plan, Duration::ZERO)
        };
        let (plain, alike) = (job(&|_| ()), job(&|_| ()));
        let (large, wide) = (job(&|plan| plan.fix_memory(1 << 40)), job(&|plan| plan.fix_threads(99)));
        let (mut choices, prepared, mut found) = (Choices::of(Vec::new()), Prepared::default(), 0);
        for job in [&large, &wide, &plain, &alike] {
            let _ = choices.choice(job, &prepared, |_| {
                found += 1;
                Err(found.to_string())
            });
        }
        assert_eq!(found, 3, "only those that ask for the same share one");
    }
}
