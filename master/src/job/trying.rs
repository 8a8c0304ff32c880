//! A job that was there before is prepared again where that fails by what may pass: a machine that is lost, a NameNode that
//! begins, a disk that is not there yet.
//!
//! Invariant: it is tried a bounded time, and only while the job waits for just that.

use super::{Job, Phase};
use flexps_common::Error;
use std::time::Duration;

/// Between the end of a try and the next one.
const EVERY: Duration = Duration::from_secs(5);
/// No try follows so long after the first one that failed: a NameNode is in safe mode for half a minute and longer when it begins.
const WITHIN: Duration = Duration::from_secs(300);

/// That a job is prepared again.
#[derive(Debug, Clone, Copy)]
pub struct Trying {
    /// When it failed for the first time.
    since: Duration,
    /// When the next try is due; none while one is under way.
    next: Option<Duration>,
}

impl Job {
    /// It could not be prepared: whether that is tried again, for which it waits then. One that was just submitted ends: who
    /// submits it can be told.
    pub fn tries_again(&mut self, error: &Error, now: Duration) -> bool {
        let since = self.trying.map_or(now, |trying| trying.since);
        if !(error.retry && (self.openings > 0 || self.queued_again)) || now >= since + WITHIN {
            return false;
        }
        self.trying = Some(Trying { since, next: Some(now + EVERY) });
        let [every, within] = [EVERY, WITHIN].map(|time| time.as_secs());
        self.waits(Some(format!("tries again every {every} s, for {within} s at most: {error}")));
        true
    }

    /// Whether it is to be prepared again now, and no further time before that has failed.
    pub fn is_tried(&mut self, now: Duration) -> bool {
        let Some(trying) = self.trying.as_mut().filter(|_| matches!(self.phase, Phase::Preparing)) else {
            return false;
        };
        trying.next.take_if(|next| *next <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Submission;
    use flexps_common::ids::JobId;
    use flexps_common::plan::Plan;

    fn passing() -> Error {
        Error::cluster("the NameNode is in safe mode").retryable()
    }

    fn job() -> Job {
        Job::new(JobId(1), Submission::bare("svrg"), Plan::default(), Duration::ZERO)
    }

    #[test]
    fn one_that_was_there_before_is_tried_again_for_a_while_and_says_why() {
        for before in [|job: &mut Job| job.openings = 1, |job: &mut Job| job.queued_again = true] {
            let mut job = job();
            before(&mut job);
            assert!(!job.is_tried(EVERY));
            let begin = 7 * EVERY;
            let mut now = begin;
            while now < begin + WITHIN {
                assert!(job.tries_again(&passing(), now));
                assert!(job.waiting.as_ref().is_some_and(|why| why.contains("safe mode")), "{:?}", job.waiting);
                assert!(!job.is_tried(now + EVERY / 2));
                now += EVERY;
                assert!(job.is_tried(now) && !job.is_tried(now + EVERY), "one try is under way");
            }
            assert!(!job.tries_again(&passing(), now));
        }
    }

    #[test]
    fn what_is_new_or_does_not_pass_is_not_tried_again_nor_is_what_has_ended() {
        let mut job = job();
        assert!(!job.tries_again(&passing(), EVERY));
        job.openings = 1;
        assert!(!job.tries_again(&Error::user("another job"), EVERY));
        assert!(job.tries_again(&passing(), EVERY));
        job.end(Err(Error::cancelled()), EVERY);
        assert!(!job.is_tried(3 * EVERY));
    }
}
