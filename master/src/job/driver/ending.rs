//! The end of a job that failed or was cancelled, or the stop before its plan begins anew: what runs is told to stop, and
//! waited for.
//!
//! Invariant: the first error is the one that counts, but for a slave that went, which is the cause of what broke before.

use super::again::Then;
use super::{Command, Driver, Phase, Running, STOP_WITHIN, WRITTEN_WITHIN};
use flexps_common::Error;
use flexps_common::ids::SlaveId;
use flexps_common::report::FailedLog;
use std::collections::BTreeSet;
use std::time::Duration;

impl Driver {
    /// Keeps the log of the first slave on which a worker failed by itself.
    pub(super) fn keep_log(&mut self, slave: SlaveId, lines: Vec<String>) {
        if self.failed_log.is_none() && !lines.is_empty() {
            self.failed_log = Some(FailedLog { slave: self.name(slave).to_owned(), lines });
        }
    }

    /// Begins the end.
    pub(super) fn fail(&mut self, now: Duration, error: Error, out: &mut Vec<Command>) {
        let then = self.after_error(now, &error);
        self.stop(now, error, None, then, out);
    }

    /// Cancels what runs, except on the slave that is gone.
    pub(super) fn stop(
        &mut self,
        now: Duration,
        error: Error,
        gone: Option<SlaveId>,
        then: Then,
        out: &mut Vec<Command>,
    ) {
        let (mut waiting, mut transfer) = (BTreeSet::new(), false);
        match &self.phase {
            Phase::Ending { .. } | Phase::Ended => return,
            Phase::Stages(group) => {
                for Running { run, workers, done, .. } in group.running() {
                    let slaves = workers.iter().map(|(id, _)| *id);
                    let left: BTreeSet<SlaveId> =
                        slaves.filter(|id| !done.contains_key(id) && Some(*id) != gone).collect();
                    waiting.extend(left.iter().map(|id| (*run, *id)));
                    out.push(Command::CancelStage(*run, left.into_iter().collect(), error.message.clone()));
                }
            }
            Phase::Loading | Phase::Saving | Phase::Keeping { .. } | Phase::Restoring if self.transferring => {
                transfer = true;
                out.push(Command::StopTransfer);
            }
            _ => {}
        }
        self.phase = Phase::Ending { error, named: gone.is_some(), waiting, transfer, until: now + STOP_WITHIN, then };
        self.end_if_stopped(now, out);
    }

    pub(super) fn end_if_stopped(&mut self, now: Duration, out: &mut Vec<Command>) {
        let Phase::Ending { error, waiting, transfer, until, then, .. } = &self.phase else { return };
        let stopped = !*transfer && waiting.is_empty();
        let more = match then {
            Then::Again(_) if waiting.is_empty() => WRITTEN_WITHIN - STOP_WITHIN,
            _ => Duration::ZERO,
        };
        match then {
            _ if !stopped && now < *until + more => return,
            Then::EndAt(at) if now < *at => return,
            Then::Again(anew) if stopped => {
                let anew = *anew;
                self.phase = Phase::Opening;
                return out.push(Command::Again(anew));
            }
            _ => {}
        }
        let mut error = error.clone();
        if !waiting.is_empty() {
            let slaves: BTreeSet<SlaveId> = waiting.iter().map(|(_, id)| *id).collect();
            let names: Vec<&str> = slaves.into_iter().map(|id| self.name(id)).collect();
            let names = names.join(", ");
            error.message.push_str(&format!(" (workers on {names} did not stop within {} s)", STOP_WITHIN.as_secs()));
        }
        self.phase = Phase::Ended;
        out.push(Command::End(Err(error)));
    }
}
