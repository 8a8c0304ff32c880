//! Which of the workers that have found something counts, where what is learnt means something only by what one of them found.
//!
//! Who has found something stands. Of two that stand the higher one withdraws, and who stands alone is chosen: it puts what it has
//! found into the tables, and says so last. Each writes a mark of its own and reads it before it looks at those of others, so of two
//! that stand at least one sees the other. Nobody waits for rows: who stands has had its own.
//! Invariant: one at most is chosen, once; whoever hears of it can read what the chosen one has put.

use flexps_common::Result;
use flexps_common::ids::Key;
use flexps_common::plan::{Plan, Storage, Table, TableSpec};
use flexps_common::value::Type;
use flexps_common::worker::Worker;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// What a worker's key holds while it stands,
const STANDS: f32 = 1.0;
/// and once it has withdrawn.
const WITHDRAWN: f32 = 2.0;
/// Where it stands what the chosen one says, behind a 1; the workers' marks follow.
const SAID: Key = 0;
/// Between two looks at what others do: as long as they take for a few messages.
const LOOK: Duration = Duration::from_micros(200);

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Election(Table<f32>);

impl Election {
    /// Plans one in which the chosen worker says so many numbers, all above 0.
    pub fn new(plan: &mut Plan, name: &str, numbers: u32) -> Self {
        // Each key has one worker that writes it, so this sets it; sums of updates could be held back.
        Self(plan.table_with(TableSpec {
            name: name.to_owned(),
            element: Type::F32,
            width: 1 + numbers,
            storage: Storage::Dense,
            update: "max".to_owned(),
            update_params: Vec::new(),
        }))
    }

    /// What the chosen worker said, if one is chosen.
    pub fn said(self, worker: &mut Worker<'_>) -> Result<Option<Vec<f32>>> {
        let mut row = Vec::new();
        worker.peek(self.0, &[SAID], &mut row)?;
        Ok(said(&row))
    }

    /// Stands, and waits until one is chosen; says what that one has said. If it is this worker, that is `own`, and `put` was called
    /// before: it returns when what it wrote can be read.
    pub fn stand(
        self,
        worker: &mut Worker<'_>,
        own: &[f32],
        put: impl FnOnce(&mut Worker<'_>) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let place = worker.place.index;
        let mut row = vec![0.0; self.0.width as usize];
        row[0] = STANDS;
        self.write(worker, mark(place), &row)?;
        let (keys, mut rows, mut stands) = (Vec::from_iter(SAID..mark(worker.place.threads)), Vec::new(), true);
        loop {
            worker.peek(self.0, &keys, &mut rows)?;
            if let Some(said) = said(&rows[..row.len()]) {
                return Ok(said);
            }
            let marks: Vec<f32> = rows.chunks_exact(row.len()).skip(1).map(|row| row[0]).collect();
            if stands && marks[..place].contains(&STANDS) {
                stands = false;
                row[0] = WITHDRAWN;
                self.write(worker, mark(place), &row)?;
            } else if stands && !marks[place + 1..].contains(&STANDS) {
                put(worker)?;
                row[0] = 1.0;
                row[1..].copy_from_slice(own);
                self.write(worker, SAID, &row)?;
                return Ok(own.to_vec());
            } else {
                std::thread::sleep(LOOK);
                // Where clocks turn together, nothing is heard of others without.
                worker.clock()?;
            }
        }
    }

    /// Writes what no other worker writes, and waits until it can be read.
    fn write(self, worker: &mut Worker<'_>, key: Key, row: &[f32]) -> Result<()> {
        worker.add(self.0, &[key], row)?;
        // Where workers race for values, it must not come behind the next look at those of others.
        fence(Ordering::SeqCst);
        let mut found = Vec::new();
        loop {
            worker.peek(self.0, &[key], &mut found)?;
            if found[0] >= row[0] {
                return Ok(());
            }
            // Not before, as a worker that is alone with its rows ends none.
            worker.clock()?;
        }
    }
}

/// The key of a worker's mark.
fn mark(place: usize) -> Key {
    SAID + 1 + place as Key
}

/// Where workers race for values, a row may be read while it is written.
fn said(row: &[f32]) -> Option<Vec<f32>> {
    row.iter().all(|number| *number > 0.0).then(|| row[1..].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::host::Host;
    use flexps_common::metrics::Metric;
    use flexps_common::plan::Flow;

    /// Who is chosen of workers that stand so many clocks after the first.
    fn chosen(after: &'static [usize]) -> f64 {
        let mut plan = Plan::default();
        let (election, put) = (Election::new(&mut plan, "election", 1), plan.table::<f32>("put", 1));
        plan.body.stage("vote", move |worker| {
            (0..after[worker.place.index]).try_for_each(|_| worker.clock())?;
            let own = 10.0 + worker.place.index as f32;
            let said = election.stand(worker, &[own], |worker| {
                worker.add(put, &[0], &[own])?;
                worker.clock()
            })?;
            assert_eq!(election.said(worker)?.as_ref(), Some(&said));
            let mut read = Vec::new();
            worker.peek(put, &[0], &mut read)?;
            // One put something, and whoever hears of it reads it.
            assert_eq!(read, said);
            worker.report("least", Metric::Max(-f64::from(said[0])));
            worker.report("most", Metric::Max(f64::from(said[0])));
            Ok(())
        });
        plan.body.decide(|progress| {
            let [least, most] = [progress.metric("vote", "least")?, progress.metric("vote", "most")?];
            assert_eq!(-least, most, "all hear the same");
            progress.set("chosen", most - 10.0);
            Ok(Flow::Next)
        });
        Host::cluster(1, after.len()).run(&plan).unwrap().progress.scalars["chosen"]
    }

    #[test]
    fn one_is_chosen_whoever_comes_when() {
        assert_eq!(chosen(&[0]), 0.0);
        assert_eq!(chosen(&[0, 0, 0, 0]), 0.0, "the lowest of those that come at once");
        assert_eq!(chosen(&[9, 9, 0, 9]), 2.0, "who comes too late does not count, however low");
        for after in [&[2, 1, 0], &[0, 1, 2], &[1, 0, 1], &[3, 0, 0], &[1, 0, 3], &[2, 2, 0], &[3, 1, 0], &[4, 2, 1]] {
            assert!((0.0..3.0).contains(&chosen(after)), "{after:?}");
        }
    }
}
