//! What a listener remembers of one channel at the other end: which requests run, which answers were not acknowledged yet.
//! Pure: it decides, the listener acts.
//!
//! Invariants: a request runs once however often it is sent; requests start in the order of their identities; once the
//! kept answers pass the limit nothing more starts until some are acknowledged, and before that no more start than are
//! likely to stay within it.

use crate::error::{Error, Result};
use crate::transport::Packet;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;

/// What an answer or a request costs beside its bytes: bounds their number too.
pub(super) const OVERHEAD: usize = 1024;

/// A request's end.
pub(super) type Answer = Result<Packet>;

/// What an answer is taken to cost before one was seen.
const FIRST: usize = 256 << 10;

/// The state of one session.
#[derive(Debug)]
pub(super) struct Session {
    /// The latest request that was taken.
    highest: u64,
    running: FxHashSet<u64>,
    answers: FxHashMap<u64, Answer>,
    /// Bytes of `answers`, with overhead.
    kept: usize,
    /// What an answer costs: the largest of late.
    typical: usize,
    /// Requests that were taken but may not start yet.
    waiting: VecDeque<(u64, Packet)>,
    waiting_bytes: usize,
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Taken {
    /// Look for startable ones with [`Session::next`].
    Queued,
    /// It has run: send this again.
    Answered(Answer),
    /// It runs or waits, or its answer was acknowledged.
    Known,
}

/// What a packet counts against limits.
pub(super) fn charge(packet: &Packet) -> usize {
    packet.len() + OVERHEAD
}

fn cost(answer: &Answer) -> usize {
    answer.as_ref().map_or(OVERHEAD, charge)
}

impl Default for Session {
    fn default() -> Self {
        Self {
            highest: 0,
            running: FxHashSet::default(),
            answers: FxHashMap::default(),
            kept: 0,
            typical: FIRST,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }
}

impl Session {
    /// Takes a request. An error when the client holds more requests back than its credits allow.
    pub fn take(&mut self, id: u64, packet: Packet, limit: usize) -> Result<Taken> {
        if let Some(answer) = self.answers.get(&id) {
            return Ok(Taken::Answered(answer.clone()));
        }
        if id <= self.highest {
            return Ok(Taken::Known);
        }
        let bytes = charge(&packet);
        // A single request may be as large as the limit, whatever else waits.
        if self.waiting_bytes > limit {
            return Err(Error::cluster(format!("{} bytes of requests wait, at most {limit} may", self.waiting_bytes)));
        }
        self.highest = id;
        self.waiting_bytes += bytes;
        self.waiting.push_back((id, packet));
        Ok(Taken::Queued)
    }

    /// The next request to start, unless the answers kept and to come pass `limit` bytes. With `urge` those to come don't
    /// count: the running ones may wait for what the next one brings.
    pub fn next(&mut self, limit: usize, urge: bool) -> Option<(u64, Packet)> {
        let to_come = if urge { 0 } else { self.running.len() * self.typical };
        if self.kept + to_come > limit {
            return None;
        }
        let (id, packet) = self.waiting.pop_front()?;
        self.waiting_bytes -= charge(&packet);
        self.running.insert(id);
        Some((id, packet))
    }

    /// Keeps the answer of a request that ran.
    pub fn finish(&mut self, id: u64, answer: Answer) {
        if self.running.remove(&id) {
            let cost = cost(&answer);
            self.kept += cost;
            self.typical = cost.max(self.typical - self.typical.saturating_sub(cost) / 8);
            self.answers.insert(id, answer);
        }
    }

    /// The client has these answers.
    pub fn acknowledge(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(answer) = self.answers.remove(id) {
                self.kept -= cost(&answer);
            }
        }
    }

    /// The client waits for these and no others.
    pub fn resume(&mut self, outstanding: &[u64]) {
        let wanted: FxHashSet<u64> = outstanding.iter().copied().collect();
        let dropped: Vec<u64> = self.answers.keys().filter(|id| !wanted.contains(id)).copied().collect();
        self.acknowledge(&dropped);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn packet(len: usize) -> Packet {
        Packet { head: Bytes::from(vec![0; len]), body: Bytes::new() }
    }

    #[derive(Debug, Clone)]
    enum Action {
        Send,
        /// Everything unanswered is sent again, as after a reconnect.
        Resend,
        /// Some running request ends with an answer of so many bytes.
        Finish(usize, usize),
        /// The client gets what was sent and acknowledges so many.
        Ack(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            3 => Just(Action::Send),
            1 => Just(Action::Resend),
            3 => (0usize..8, 0usize..5000).prop_map(|(i, len)| Action::Finish(i, len)),
            2 => (0usize..4).prop_map(Action::Ack),
        ];
        prop::collection::vec(action, 0..200)
    }

    proptest! {
        #[test]
        fn each_request_runs_once_in_order_and_kept_answers_are_bounded(actions in actions(), urge: bool) {
            const LIMIT: usize = 8 * OVERHEAD;
            let mut session = Session::default();
            let (mut sent, mut started, mut running, mut unacked) = (0u64, Vec::new(), Vec::new(), Vec::new());
            for action in actions {
                match action {
                    Action::Send => {
                        sent += 1;
                        // The model client keeps its own credits.
                        if session.waiting_bytes > LIMIT { sent -= 1; continue; }
                        prop_assert!(matches!(session.take(sent, packet(1), LIMIT), Ok(Taken::Queued)));
                    }
                    Action::Resend => {
                        session.resume(&(1..=sent).collect::<Vec<_>>());
                        for id in 1..=sent {
                            let taken = session.take(id, packet(1), LIMIT).unwrap();
                            prop_assert_eq!(matches!(taken, Taken::Answered(_)), unacked.contains(&id));
                            prop_assert!(!matches!(taken, Taken::Queued));
                        }
                    }
                    Action::Finish(at, len) => {
                        if running.is_empty() { continue; }
                        let id = running.remove(at % running.len());
                        session.finish(id, Ok(packet(len)));
                        unacked.push(id);
                    }
                    Action::Ack(n) => {
                        let ids: Vec<u64> = unacked.drain(..n.min(unacked.len())).collect();
                        session.acknowledge(&ids);
                    }
                }
                while let Some((id, _)) = session.next(LIMIT, urge) {
                    prop_assert!(session.kept <= LIMIT);
                    started.push(id);
                    running.push(id);
                }
            }
            prop_assert!(started.iter().copied().eq(1..=started.len() as u64));
            session.resume(&[]);
            prop_assert_eq!((session.kept, session.answers.len()), (0, 0));
        }
    }

    #[test]
    fn requests_with_large_answers_start_one_after_another_unless_urged() {
        let mut session = Session::default();
        for id in 1..=10 {
            session.take(id, packet(1), 1 << 20).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| session.next(1 << 20, false)).count(), 5);
        session.finish(1, Ok(packet(1 << 20)));
        session.acknowledge(&[1]);
        assert!(session.next(1 << 20, false).is_none());
        assert_eq!(session.next(1 << 20, true).unwrap().0, 6);
    }

    #[test]
    fn a_client_that_ignores_its_credits_is_refused() {
        let mut session = Session::default();
        session.take(1, packet(9000), 5000).unwrap();
        assert!(session.take(2, packet(1), 5000).unwrap_err().message.contains("5000"));
    }
}
