//! Snapshots: the model of a running job as it was at one moment.
//!
//! The master asks all slaves of the job to keep their tables at one boundary between two clocks, reads them, and releases
//! them. A slave that is past the boundary says which is its next, and all are asked again.

use crate::home::Home;
use crate::ids::JobId;
use serde::{Deserialize, Serialize};

/// A client wants the model of a running job as it is now, in a folder on the master's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The job.
    pub job: JobId,
    /// The folder.
    pub path: String,
    /// Whether it may replace a model that is there.
    pub overwrite: bool,
}

/// What a master says to a slave that keeps its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToKeeper {
    /// Keep the tables as they are: at once, or at a boundary, where clocks say which updates are in them. Answered by
    /// [`Marked`] when they are kept. What is kept already is dropped.
    Mark {
        /// The job.
        job: JobId,
        /// Which snapshot.
        snapshot: u64,
        /// Where, if it is of the phase that the slave is in; none to ask for its next.
        at: Option<Boundary>,
    },
    /// The snapshot was read, or given up.
    Release {
        /// The job.
        job: JobId,
        /// Which snapshot.
        snapshot: u64,
    },
}

/// The moment between two clocks of a stage run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Boundary {
    /// The phase of the job.
    pub phase: u64,
    /// All updates of the clocks below this one are in, and no others.
    pub clock: u64,
}

/// What a slave did to keep its tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Marked {
    /// They are kept.
    Kept {
        /// As they were there: the same on all slaves, or their tables don't fit one another.
        moment: Moment,
        /// Where the tables lived, by table.
        homes: Vec<Home>,
    },
    /// The boundary is over; its next.
    Late(Boundary),
    /// They are not: they are being changed as a whole, stages run side by side, or another snapshot was asked for.
    Busy,
}

/// A place in a job's run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The phase of the job.
    pub phase: u64,
    /// The stage that ran, or had run last.
    pub stage: String,
    /// The round, from 1.
    pub epoch: u64,
    /// All updates of the clocks below this one are in, and no others; none where clocks don't say that, or the stage is
    /// over.
    pub clock: Option<u64>,
}

/// How a master brings all slaves of a job to keep one moment.
#[derive(Debug, Default)]
pub struct Meeting {
    asked: u32,
    /// How far the furthest was when it answered last: phase and clock.
    last: (u64, u64),
}

/// What follows from the answers of all slaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Met {
    /// They keep this moment, in which the tables lived there.
    All(Moment, Vec<Home>),
    /// They are to be asked again: for this boundary, or, a little later, for their next.
    Ask(Option<Boundary>),
}

impl Meeting {
    /// Takes the answers to one question.
    pub fn hear(&mut self, answers: &[Marked]) -> Met {
        if let Some(Marked::Kept { moment: first, homes }) = answers.first()
            && answers.iter().all(|answer| matches!(answer, Marked::Kept { moment, .. } if moment == first))
        {
            return Met::All(first.clone(), homes.clone());
        }
        let furthest = answers.iter().filter_map(|answer| match answer {
            Marked::Kept { moment, .. } => Some((moment.phase, moment.clock)),
            Marked::Late(Boundary { phase, clock }) => Some((*phase, Some(*clock))),
            Marked::Busy => None,
        });
        let Some((phase, Some(clock))) = furthest.max() else { return Met::Ask(None) };
        let (then, last) = std::mem::replace(&mut self.last, (phase, clock));
        if then != phase {
            self.asked = 0;
        }
        // Where clocks are short, one that is far enough ahead is not over when the last slave hears of it; where they are
        // long, the next will do. How many pass between question and answer tells, and no guess that may be hours off.
        let passed = clock.saturating_sub(last).max(1);
        let ahead = if self.asked == 0 { 0 } else { passed.saturating_mul(1 << self.asked.min(16)) };
        self.asked += 1;
        Met::Ask(Some(Boundary { phase, clock: clock.saturating_add(ahead) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(phase: u64, clock: Option<u64>) -> Marked {
        Marked::Kept { moment: Moment { phase, clock, ..Moment::default() }, homes: vec![Home::All] }
    }

    fn late(phase: u64, clock: u64) -> Marked {
        Marked::Late(Boundary { phase, clock })
    }

    fn ask(phase: u64, clock: u64) -> Met {
        Met::Ask(Some(Boundary { phase, clock }))
    }

    #[test]
    fn slaves_have_met_when_all_keep_the_same_moment_and_only_then() {
        let hear = |answers: &[Marked]| Meeting::default().hear(answers);
        for clock in [None, Some(0), Some(7)] {
            let moment = Moment { phase: 3, clock, ..Moment::default() };
            assert_eq!(hear(&[kept(3, clock), kept(3, clock)]), Met::All(moment, vec![Home::All]));
            assert!(matches!(hear(&[kept(3, clock), kept(4, clock)]), Met::Ask(_)));
            assert!(matches!(hear(&[kept(3, clock), kept(3, Some(9))]), Met::Ask(_)));
            assert!(matches!(hear(&[kept(3, clock), Marked::Busy]), Met::Ask(_)));
        }
        assert_eq!(hear(&[]), Met::Ask(None));
    }

    #[test]
    fn a_boundary_is_asked_for_in_the_latest_phase_alone() {
        let hear = |answers: &[Marked]| Meeting::default().hear(answers);
        assert_eq!(hear(&[late(3, 0), late(3, 2)]), ask(3, 2));
        assert_eq!(hear(&[late(3, 1000), late(4, 2)]), ask(4, 2));
        // Some have no clocks to go by in it.
        assert_eq!(hear(&[late(3, 1000), kept(4, None)]), Met::Ask(None));
        assert_eq!(hear(&[Marked::Busy, Marked::Busy]), Met::Ask(None));
    }

    #[test]
    fn a_boundary_is_no_further_ahead_than_a_few_times_what_passes_between_question_and_answer() {
        let mut meeting = Meeting::default();
        assert_eq!(meeting.hear(&[late(3, 1000)]), ask(3, 1000));
        for (question, furthest) in (1..10).zip((1010..).step_by(10)) {
            assert_eq!(
                meeting.hear(&[late(3, furthest), kept(3, Some(furthest - 1))]),
                ask(3, furthest + (10 << question))
            );
        }
        // In another phase nothing is known of its clocks.
        assert_eq!(meeting.hear(&[late(4, 7)]), ask(4, 7));
        assert_eq!(meeting.hear(&[late(4, 9)]), ask(4, 13));
    }

    #[test]
    fn slaves_that_go_on_between_question_and_answer_meet_however_fast_they_are() {
        for speed in [0, 1, 100, 10_000] {
            let (mut meeting, mut at, mut asked) = (Meeting::default(), None::<Boundary>, 0);
            let mut clocks = [0u64, 3, 1];
            loop {
                asked += 1;
                assert!(asked < 30, "{speed} clocks a question");
                let answers = clocks.each_mut().map(|clock| {
                    *clock += speed;
                    match at {
                        Some(at) if at.clock >= *clock => kept(at.phase, Some(at.clock)),
                        _ => late(1, *clock),
                    }
                });
                match meeting.hear(&answers) {
                    Met::All(..) => break,
                    Met::Ask(next) => at = next,
                }
            }
        }
    }
}
