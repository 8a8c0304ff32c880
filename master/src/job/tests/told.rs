//! What a job's report tells.

use crate::job::{Job, Submission};
use flexps_common::ids::JobId;
use flexps_common::plan::Plan;
use std::time::Duration;

#[test]
fn a_job_that_panics_when_it_is_asked_what_it_tells_tells_all() {
    fn tells(name: &str) -> bool {
        assert!(name != "x", "nobody asks for x");
        name != "y"
    }
    let plan = Plan { tells: Some(tells), ..Plan::default() };
    let job = Job::new(JobId(1), Submission::bare("own"), plan, Duration::ZERO);
    assert_eq!(["x", "y", "z"].map(|name| job.tells(name)), [true, false, true]);
}
