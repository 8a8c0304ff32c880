//! What a job's report tells.

use crate::job::driver::Driver;
use crate::job::readings::Readings;
use crate::job::{Job, Phase, Started, Submission};
use flexps_common::ids::JobId;
use flexps_common::plan::Plan;
use flexps_common::report::StageReport;
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

#[test]
fn a_report_says_how_many_stage_runs_it_leaves_out_whether_the_job_runs_or_has_ended() {
    let mut job = Job::new(JobId(1), Submission::bare("own"), Plan::default(), Duration::ZERO);
    let mut driver = Driver::new(job.id, &job.plan, &[], &job.experiment);
    let run = |epoch| StageReport { name: "x".repeat(2000), epoch, ..StageReport::default() };
    driver.stages = (10_001..=15_000).map(run).collect();
    driver.unlisted.stages = 10_000;
    job.phase = Phase::Started(Box::new(Started {
        slaves: Vec::new(),
        driver,
        readings: Readings::new(Vec::new(), &job.plan, 0),
        time: 1,
        opening: Default::default(),
        told_to_read: true,
        ready: Default::default(),
        searches: None,
        checkpoint: None,
        stop: Default::default(),
        snapshot: None,
        lost: Vec::new(),
    }));
    let news = job.report(Duration::ZERO);
    assert_eq!((news.stages.len(), news.stages[0].epoch), (200, 14_801));
    assert_eq!(news.notes, ["the first 14800 of 15000 stage runs are not listed while the job runs"]);
    job.end(Ok(()), Duration::ZERO);
    // They would not fit into a message.
    let listed = job.report.stages.len();
    assert!((1000..5000).contains(&listed), "{listed} runs");
    let first = format!("the first {} of 15000 stage runs are not listed", 15_000 - listed);
    assert!(job.report.notes.contains(&first) && job.report.notes.len() == 2, "{:?}", job.report.notes);
    // Later fewer of them are kept.
    job.keep_stages(100);
    let fewer = "the first 14900 of 15000 stage runs are not listed".to_owned();
    let notes = &job.report.notes;
    assert!(notes.contains(&fewer) && !notes.contains(&first) && notes.len() == 3, "{notes:?}");
}
