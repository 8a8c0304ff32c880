//! What a listener remembers of one channel at the other end: which requests run, which answers were not acknowledged yet.
//! Pure: it decides, the listener acts.
//!
//! Invariants: a request runs once however often it is sent; requests start in the order of their identities; once the
//! kept answers pass the limit nothing more starts until some are acknowledged, and before that no more start than are
//! likely to stay within it; an answer that is held back goes with the next one, or when the listener looks.

use crate::error::{Error, Result};
use crate::transport::{Haste, Packet};
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
    /// Of these, the ones that nobody waits for and that were not sent yet.
    held: Vec<u64>,
    /// Requests that were taken but may not start yet.
    waiting: VecDeque<(u64, Packet, Haste)>,
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
            held: Vec::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }
}

impl Session {
    /// Takes a request. An error when the client holds more requests back than its credits allow.
    pub fn take(&mut self, id: u64, (packet, haste): (Packet, Haste), limit: usize) -> Result<Taken> {
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
        self.waiting.push_back((id, packet, haste));
        Ok(Taken::Queued)
    }

    /// The next request to start, unless the answers kept and to come pass `limit` bytes. With `urge` those to come don't
    /// count: the running ones may wait for what the next one brings.
    pub fn next(&mut self, limit: usize, urge: bool) -> Option<(u64, Packet, Haste)> {
        let to_come = if urge { 0 } else { self.running.len() * self.typical };
        if self.kept + to_come > limit {
            return None;
        }
        let (id, packet, haste) = self.waiting.pop_front()?;
        self.waiting_bytes -= charge(&packet);
        self.running.insert(id);
        Some((id, packet, haste))
    }

    /// Keeps the answer of a request that ran, and hands out the answers that are to be sent now: none while this one can
    /// wait for others.
    pub fn finish(&mut self, id: u64, answer: Answer, haste: Haste) -> Vec<(u64, Answer)> {
        if !self.running.remove(&id) {
            return Vec::new();
        }
        let (cost, held) = (cost(&answer), haste == Haste::Patient && answer.is_ok());
        self.kept += cost;
        self.typical = cost.max(self.typical - self.typical.saturating_sub(cost) / 8);
        self.answers.insert(id, answer);
        self.held.push(id);
        if held { Vec::new() } else { self.release() }
    }

    /// The answers that were held back, to be sent now.
    pub fn release(&mut self) -> Vec<(u64, Answer)> {
        let held = std::mem::take(&mut self.held);
        held.into_iter().filter_map(|id| Some((id, self.answers.get(&id)?.clone()))).collect()
    }

    /// Whether it has nothing to run or to send.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.held.is_empty()
    }

    /// The client has these answers.
    pub fn acknowledge(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(answer) = self.answers.remove(id) {
                self.kept -= cost(&answer);
            }
        }
    }

    /// The client waits for these and no others, and asks for them again.
    pub fn resume(&mut self, outstanding: &[u64]) {
        self.held.clear();
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
        /// Some running request ends with an answer of so many bytes, for which somebody waits or not.
        Finish(usize, usize, bool),
        /// The listener looks.
        Look,
        /// The client gets what was sent and acknowledges so many.
        Ack(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            3 => Just(Action::Send),
            1 => Just(Action::Resend),
            3 => (0usize..8, 0usize..5000, any::<bool>()).prop_map(|(i, len, waits)| Action::Finish(i, len, waits)),
            1 => Just(Action::Look),
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
            // Answers that were not sent yet.
            let (mut held, empty) = (Vec::<u64>::new(), Vec::new());
            for action in actions {
                match action {
                    Action::Send => {
                        sent += 1;
                        // The model client keeps its own credits.
                        if session.waiting_bytes > LIMIT { sent -= 1; continue; }
                        prop_assert!(matches!(session.take(sent, (packet(1), Haste::Waits), LIMIT), Ok(Taken::Queued)));
                    }
                    Action::Resend => {
                        session.resume(&(1..=sent).collect::<Vec<_>>());
                        for id in 1..=sent {
                            let taken = session.take(id, (packet(1), Haste::Waits), LIMIT).unwrap();
                            let known = unacked.contains(&id) || held.contains(&id);
                            prop_assert_eq!(matches!(taken, Taken::Answered(_)), known);
                            prop_assert!(!matches!(taken, Taken::Queued));
                        }
                        unacked.append(&mut held);
                    }
                    Action::Finish(at, len, waits) => {
                        if running.is_empty() { continue; }
                        let id = running.remove(at % running.len());
                        let haste = if waits { Haste::Waits } else { Haste::Patient };
                        let sent: Vec<u64> = session.finish(id, Ok(packet(len)), haste).iter().map(|(id, _)| *id).collect();
                        held.push(id);
                        prop_assert_eq!(&sent, if waits { &held } else { &empty });
                        if waits { unacked.append(&mut held); }
                    }
                    Action::Look => {
                        let sent: Vec<u64> = session.release().iter().map(|(id, _)| *id).collect();
                        prop_assert_eq!(&sent, &held);
                        unacked.append(&mut held);
                    }
                    Action::Ack(n) => {
                        let ids: Vec<u64> = unacked.drain(..n.min(unacked.len())).collect();
                        session.acknowledge(&ids);
                    }
                }
                while let Some((id, _, _)) = session.next(LIMIT, urge) {
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
            session.take(id, (packet(1), Haste::Waits), 1 << 20).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| session.next(1 << 20, false)).count(), 5);
        session.finish(1, Ok(packet(1 << 20)), Haste::Waits);
        session.acknowledge(&[1]);
        assert!(session.next(1 << 20, false).is_none());
        assert_eq!(session.next(1 << 20, true).unwrap().0, 6);
    }

    #[test]
    fn an_answer_that_nobody_waits_for_goes_with_the_next_one_and_an_error_at_once() {
        let mut session = Session::default();
        for id in 1..=4 {
            session.take(id, (packet(1), Haste::Patient), 1 << 20).unwrap();
            session.next(1 << 20, false).unwrap();
        }
        assert!(session.finish(1, Ok(packet(3)), Haste::Patient).is_empty() && !session.is_idle());
        let sent = session.finish(2, Err(Error::data("row 7 is bad")), Haste::Patient);
        assert_eq!(sent.iter().map(|(id, answer)| (*id, answer.is_ok())).collect::<Vec<_>>(), [(1, true), (2, false)]);
        session.finish(3, Ok(packet(3)), Haste::Patient);
        // Asked for again over another connection, it is answered there, and not once more.
        session.resume(&[3, 4]);
        assert!(matches!(session.take(3, (packet(1), Haste::Patient), 1 << 20).unwrap(), Taken::Answered(Ok(_))));
        let sent = session.finish(4, Ok(packet(3)), Haste::Waits);
        assert_eq!(sent.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [4]);
        assert!(session.is_idle());
    }

    #[test]
    fn a_client_that_ignores_its_credits_is_refused() {
        let mut session = Session::default();
        session.take(1, (packet(9000), Haste::Waits), 5000).unwrap();
        assert!(session.take(2, (packet(1), Haste::Waits), 5000).unwrap_err().message.contains("5000"));
    }
}
