//! Clock messages that other slaves have yet to answer.
//!
//! Invariant: a message that can't be delivered cancels its run, soon: who does not hear of a clock waits for ever. Nobody
//! wakes for an answer, since there is one for each clock: the next message looks for it, or a task now and then.

use super::run::Run;
use flexps_common::transport::Pending;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often the task looks.
const TICK: Duration = Duration::from_millis(50);

type Messages = Mutex<VecDeque<(Arc<Run>, Pending)>>;

/// See the module.
pub struct Telling(Arc<Messages>);

impl Telling {
    /// Nothing under way. Called within the runtime.
    pub fn start() -> Self {
        let messages = Arc::<Messages>::default();
        tokio::spawn(watch(Arc::downgrade(&messages)));
        Self(messages)
    }

    /// A clock of `run` was sent.
    pub fn push(&self, run: &Arc<Run>, pending: Pending) {
        let mut messages = self.0.lock();
        take_answers(&mut messages);
        messages.push_back((run.clone(), pending));
    }
}

async fn watch(messages: Weak<Messages>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(messages) = messages.upgrade() else { return };
        take_answers(&mut messages.lock());
    }
}

fn take_answers(messages: &mut VecDeque<(Arc<Run>, Pending)>) {
    messages.retain_mut(|(run, pending)| match pending.try_answer() {
        None => true,
        Some(Ok(_)) => false,
        Some(Err(e)) => {
            run.cancel(e);
            false
        }
    });
}
