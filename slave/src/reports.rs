//! What a slave tells the master of a job unasked.
//!
//! Invariant: the master hears it, unless the job is closed before: what fails on the way is told again, and where a message
//! does not hold it, that is told.

use crate::jobs::Jobs;
use flexps_common::Error;
use flexps_common::ids::JobId;
use flexps_common::metrics::Metrics;
use flexps_common::transport::{Channel, Packet};
use flexps_common::wire::control::{HEARTBEAT_MS, Outcome, ToMaster};
use std::time::Duration;
use tracing::warn;

/// How long the master may take for an answer to a report.
const REPORT_DEADLINE: Duration = Duration::from_secs(10);

/// Tells the master something of a job, again and again until it has heard it or the job is closed.
pub fn report(runtime: &tokio::runtime::Handle, master: Channel, jobs: Jobs, job: JobId, message: ToMaster) {
    let packet = Packet::control(&message).or_else(|why| {
        let here = jobs.find(job).map_or_else(|_| "this slave".to_owned(), |job| job.called());
        Packet::control(&instead(message, &why, &here))
    });
    let packet = match packet {
        Ok(packet) => packet,
        Err(e) => {
            warn!(%job, error = %e, "a report can't be sent");
            return;
        }
    };
    // Started here, so that an empty stage's report does not wait for a runtime thread.
    let mut pending = master.tell(packet.clone(), REPORT_DEADLINE);
    runtime.spawn(async move {
        while let Err(e) = pending.answer().await {
            if !e.retry || jobs.find(job).is_err() {
                warn!(%job, error = %e, "the master did not take a report");
                return;
            }
            tokio::time::sleep(Duration::from_millis(HEARTBEAT_MS)).await;
            pending = master.tell(packet.clone(), REPORT_DEADLINE);
        }
    });
}

/// What is told in place of a report that no message holds: the error that it has, or else why it is not told. The master would
/// wait for it, and hold the slots of its workers.
fn instead(message: ToMaster, why: &Error, here: &str) -> ToMaster {
    match message {
        ToMaster::StageDone { slave, job, run, outcome: Outcome { error, metrics, .. } } => {
            let error = error.map_or_else(|| too_many(&metrics, why, here), Error::brief);
            ToMaster::StageDone { slave, job, run, outcome: Outcome { error: Some(error), ..Outcome::default() } }
        }
        ToMaster::ReadDone { slave, job, input, time, result } => {
            let error = result.err().map_or_else(
                || Error::user(format!("what was read is too much to be told: {why}; give more slaves")),
                Error::brief,
            );
            ToMaster::ReadDone { slave, job, input, time, result: Err(error) }
        }
        other => other,
    }
}

/// The error of workers that reported more than a message holds.
fn too_many(metrics: &Metrics, why: &Error, here: &str) -> Error {
    // A name may be what is too long.
    let name = |name: Option<&String>| name.map_or("", |name| &name[..name.floor_char_boundary(60)]).to_owned();
    let (count, first, last) = (metrics.0.len(), name(metrics.0.keys().next()), name(metrics.0.keys().next_back()));
    Error::user(format!(
        "workers on {here} reported {count} metrics, {first} to {last}, more than can be told: {why}; report fewer of them, or \
         ask for less that each is reported for, such as folds or classes"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::error::Fault;
    use flexps_common::ids::{InputId, SlaveId, StageRun};
    use flexps_common::metrics::Metric;
    use flexps_common::wire::codec::MAX_CONTROL;
    use flexps_common::wire::slaves::Member;

    const US: Member = Member { master: 7, id: SlaveId(1) };

    fn told(message: ToMaster) -> ToMaster {
        let why = Packet::control(&message).unwrap_err();
        Packet::control(&instead(message, &why, "slave s1 (h1)")).unwrap().message().unwrap()
    }

    fn of_a_stage(outcome: Outcome) -> Outcome {
        let report = ToMaster::StageDone { slave: US, job: JobId(2), run: StageRun(3), outcome };
        match told(report) {
            ToMaster::StageDone { slave: US, job: JobId(2), run: StageRun(3), outcome } => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn many() -> Metrics {
        let name = |i| format!("{i:0>2000}");
        Metrics((0..10_000).map(|i| (name(i), Metric::Count(1))).collect())
    }

    #[test]
    fn a_stage_that_reports_more_than_a_message_holds_has_failed_and_says_why() {
        let outcome = of_a_stage(Outcome { metrics: many(), ..Outcome::default() });
        let error = outcome.error.clone().unwrap();
        assert_eq!(outcome, Outcome { error: outcome.error.clone(), ..Outcome::default() });
        assert_eq!(error.fault, Fault::User);
        let begin = format!("workers on slave s1 (h1) reported 10000 metrics, {0} to {0}, more than", "0".repeat(60));
        assert!(error.message.starts_with(&begin) && error.message.contains("report fewer of them"), "{error}");
    }

    #[test]
    fn the_error_of_a_stage_is_told_before_that_it_reports_too_much_and_not_without_end() {
        let error = Some(Error::data("a bad row"));
        assert_eq!(of_a_stage(Outcome { error: error.clone(), metrics: many(), ..Outcome::default() }).error, error);
        let error = Some(Error::bug("x".repeat(MAX_CONTROL)));
        let told = of_a_stage(Outcome { error, ..Outcome::default() }).error.unwrap();
        assert!(told.fault == Fault::Bug && told.message.len() < 10_000, "{} bytes", told.message.len());
    }

    #[test]
    fn an_error_of_a_reader_is_told_however_long_it_is() {
        let result = Err(Error::data("x".repeat(MAX_CONTROL)));
        let report = ToMaster::ReadDone { slave: US, job: JobId(2), input: InputId(0), time: 1, result };
        let ToMaster::ReadDone { result: Err(error), .. } = told(report) else { panic!("no error") };
        assert!(error.fault == Fault::Data && error.message.starts_with("xxx"), "{:?}", error.fault);
    }
}
