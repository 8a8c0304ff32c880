//! Reports that fit into a message, however long a job's lists are.
//!
//! Invariant: of a list the last entries are left, and the report says that there were more.

use flexps_common::report::Report;
use serde::Serialize;

/// Bytes of a report as JSON: half of what a message takes.
const MOST: usize = flexps_common::wire::codec::MAX_CONTROL / 2;

/// Drops a list's entries before the last `keep`; whether there were any.
pub fn keep_last<T>(list: &mut Vec<T>, keep: usize) -> bool {
    let drops = list.len() > keep;
    if drops {
        list.drain(..list.len() - keep);
        list.shrink_to_fit();
    }
    drops
}

/// How many of all stage runs, transfers and epochs a report does not list, to be noted; `when` follows.
pub fn left_out(all: [u64; 3], report: &Report, when: &str) -> Vec<String> {
    let listed = [report.stages.len(), report.transfers.len(), report.epochs.len()];
    let lists = ["stage runs", "transfers", "epochs"].into_iter().zip(all.into_iter().zip(listed));
    let note = |(what, (all, listed)): (&str, (u64, usize))| {
        let earlier = all.saturating_sub(listed as u64);
        (earlier > 0).then(|| format!("the first {earlier} of {all} {what} are not listed{when}"))
    };
    lists.filter_map(note).collect()
}

/// Halves the longest of the lists until the report fits.
pub fn fit(report: &mut Report) {
    while size(report) > MOST {
        let Report { stages, transfers, epochs, notes, .. } = &mut *report;
        let lists = [("stage runs", size(&*stages)), ("transfers", size(&*transfers)), ("epochs", size(&*epochs))];
        let (name, _) = lists.into_iter().max_by_key(|(_, size)| *size).unwrap_or_default();
        let dropped = match name {
            "stage runs" => keep_last(stages, stages.len() / 2),
            "transfers" => keep_last(transfers, transfers.len() / 2),
            _ => keep_last(epochs, epochs.len() / 2),
        };
        if !dropped {
            return;
        }
        let said = format!("only the last {name} are listed, since the report would not fit into a message");
        if !notes.contains(&said) {
            notes.push(said);
        }
    }
}

/// Bytes of JSON.
fn size<T: Serialize>(of: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // What can't be written takes no room.
    let _ = serde_json::to_writer(&mut count, of);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Job, Submission};
    use flexps_common::ids::JobId;
    use flexps_common::plan::Plan;
    use flexps_common::report::{EpochReport, StageReport};
    use std::time::Duration;

    fn report() -> Report {
        Job::new(JobId(1), Submission::bare("own"), Plan::default(), Duration::ZERO).report
    }

    #[test]
    fn of_lists_that_are_too_long_the_last_entries_are_left() {
        let stage = |epoch| StageReport { epoch, slaves: vec!["a-slave".to_owned(); 300], ..StageReport::default() };
        let epoch = |epoch| EpochReport { epoch, seconds: 0.0, objective: None, metrics: Default::default() };
        let mut report = Report {
            stages: (1..=10_000).map(stage).collect(),
            epochs: (1..=10_000).map(epoch).collect(),
            notes: vec!["mine".to_owned()],
            ..report()
        };
        assert!(size(&report) > 2 * MOST);
        fit(&mut report);
        assert!(size(&report) <= MOST && report.stages.len() > 1000, "{} runs", report.stages.len());
        assert_eq!(report.stages.last().map(|stage| stage.epoch), Some(10_000));
        assert_eq!((report.epochs.len(), report.notes.len()), (10_000, 2), "{:?}", report.notes);
        let before = report.clone();
        fit(&mut report);
        assert_eq!(report, before);
        // What is no list is not cut.
        report.notes = vec!["x".repeat(2 * MOST)];
        fit(&mut report);
        assert!(report.stages.is_empty() && report.epochs.is_empty());
    }
}
