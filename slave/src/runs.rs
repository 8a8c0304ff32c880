//! The stage runs of an open job: those that go on side by side, and those that were launched last.
//!
//! Invariant: they are launched in the order of their identities, and one that is launched takes the place of all that do not
//! go on beside it; these are over everywhere.

use crate::stage::run::Run;
use flexps_common::error::{Error, Result};
use flexps_common::ids::StageRun;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module.
pub struct Runs(watch::Sender<State>);

struct State {
    /// The one that was launched last.
    last: StageRun,
    there: Vec<Arc<Run>>,
    /// Why no others are launched, once the job is closed.
    closed: Option<Error>,
}

impl Runs {
    /// Of a job of which `before` stands for what was before the first stage.
    pub fn new(before: Arc<Run>) -> Self {
        Self(watch::Sender::new(State { last: before.id, there: vec![before], closed: None }))
    }

    /// The runs up to `last` are over.
    pub fn after(self, last: StageRun) -> Self {
        self.0.send_modify(|state| state.last = last);
        self
    }

    /// The run that was launched last.
    pub fn last(&self) -> StageRun {
        self.0.borrow().last
    }

    /// The one that is there, if it is alone.
    pub fn alone(&self) -> Option<Arc<Run>> {
        if let [run] = &self.0.borrow().there[..] { Some(run.clone()) } else { None }
    }

    /// All that are there.
    pub fn all(&self) -> Vec<Arc<Run>> {
        self.0.borrow().there.clone()
    }

    /// Those that do not go on beside the next one if `beside` do.
    pub fn over(&self, beside: &[StageRun]) -> Vec<Arc<Run>> {
        self.0.borrow().there.iter().filter(|run| !beside.contains(&run.id)).cloned().collect()
    }

    /// A run is launched while `beside` go on. An error when the job is closed.
    pub fn begin(&self, run: Arc<Run>, beside: &[StageRun]) -> Result<()> {
        let mut closed = None;
        self.0.send_modify(|state| {
            closed.clone_from(&state.closed);
            if closed.is_none() {
                state.last = run.id;
                state.there.retain(|other| beside.contains(&other.id));
                state.there.push(run);
            }
        });
        closed.map_or(Ok(()), Err)
    }

    /// The job is closed: those that are there are cancelled, no others are launched, and nobody waits for one.
    pub fn close(&self, reason: &Error) {
        self.0.send_modify(|state| state.closed = Some(reason.clone()));
        self.all().iter().for_each(|run| run.cancel(reason.clone()));
    }

    /// An error when the job is closed.
    pub fn check_open(&self) -> Result<()> {
        self.0.borrow().closed.clone().map_or(Ok(()), Err)
    }

    /// A run that is there.
    pub fn find(&self, id: StageRun) -> Option<Arc<Run>> {
        find(&self.0.borrow(), id)
    }

    /// A run, unless it is over; waits until it is launched, or the job is closed.
    pub async fn wait(&self, id: StageRun) -> Option<Arc<Run>> {
        let mut state = self.0.subscribe();
        // Its sender is here.
        let launched = state.wait_for(|state| state.last >= id || state.closed.is_some()).await.ok()?;
        find(&launched, id)
    }

    /// An error once one of them is cancelled.
    pub fn check(&self) -> Result<()> {
        self.0.borrow().there.iter().try_for_each(|run| run.check())
    }

    /// Applies what is left of those that are over everywhere: all of them, but for one to which the model is on its way.
    pub fn finish(&self) -> Result<()> {
        self.all().iter().try_for_each(|run| run.finish())
    }
}

fn find(state: &State, id: StageRun) -> Option<Arc<Run>> {
    state.there.iter().find(|run| run.id == id).cloned()
}
