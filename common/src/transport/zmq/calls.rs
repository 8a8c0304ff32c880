//! A channel's calls: which wait for an answer, which wait for credits, what was not acknowledged yet. Pure but for the
//! answers' receivers: time is an argument, and sending is the caller's.
//!
//! Invariants: requests are sent in the order of their identities; the unanswered bytes that were sent stay within the
//! credits, unless a single request is larger; every call ends by its deadline.

use super::session::{OVERHEAD, charge};
use crate::error::{Error, Result};
use crate::transport::{Haste, Packet};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Acknowledgements that go with one message at most.
const MOST_ACKS: usize = 4096;

/// A call waits no longer than that for a first connection, whatever its deadline.
const REACHED_WITHIN: Duration = Duration::from_secs(10);

/// A call under way.
struct Call {
    packet: Packet,
    haste: Haste,
    within: Duration,
    deadline: Instant,
    answer: oneshot::Sender<Result<Packet>>,
    /// Whether the current or an earlier connection carried it.
    sent: bool,
}

/// A request on its way out.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub id: u64,
    pub packet: Packet,
    pub haste: Haste,
}

/// The calls of one channel.
pub(super) struct Calls {
    credits: usize,
    last: u64,
    under_way: BTreeMap<u64, Call>,
    /// Of these, the ones that wait for credits; in order.
    waiting: VecDeque<u64>,
    /// Bytes of those that don't wait.
    used: usize,
    /// Bytes of those that wait.
    waiting_bytes: usize,
    acks: Vec<u64>,
    ack_bytes: usize,
}

impl Calls {
    pub fn new(credits: usize) -> Self {
        Self {
            credits,
            last: 0,
            under_way: BTreeMap::new(),
            waiting: VecDeque::new(),
            used: 0,
            waiting_bytes: 0,
            acks: Vec::new(),
            ack_bytes: 0,
        }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way.is_empty()
    }

    /// Whether a request of so many bytes fits the credits beside all that is under way. Those that wait for a connection hold
    /// nobody up: a thread that waits for credits can't be called off, one that waits for an answer can.
    pub fn has_credit(&self, bytes: usize) -> bool {
        let held = self.used + self.waiting_bytes;
        held == 0 || held + bytes <= self.credits
    }

    /// Whether as much waits for credits as may be under way.
    pub fn is_full(&self) -> bool {
        self.waiting_bytes > self.credits
    }

    /// Takes a call. It goes to the end of those that wait for credits.
    pub fn add(
        &mut self,
        (packet, haste): (Packet, Haste),
        within: Duration,
        now: Instant,
        answer: oneshot::Sender<Result<Packet>>,
    ) {
        self.last += 1;
        self.waiting_bytes += charge(&packet);
        self.waiting.push_back(self.last);
        self.under_way.insert(self.last, Call { packet, haste, within, deadline: now + within, answer, sent: false });
    }

    /// The next request to send, if the credits allow it.
    pub fn next(&mut self) -> Option<Outgoing> {
        let id = *self.waiting.front()?;
        let call = self.under_way.get_mut(&id)?;
        let bytes = charge(&call.packet);
        if self.used > 0 && self.used + bytes > self.credits {
            return None;
        }
        self.waiting.pop_front();
        self.waiting_bytes -= bytes;
        self.used += bytes;
        call.sent = true;
        Some(call.outgoing(id))
    }

    /// Bytes of the requests that were sent and not answered.
    pub fn sent_bytes(&self) -> usize {
        self.used
    }

    /// All that were sent and not answered, in order.
    pub fn sent(&self) -> Vec<Outgoing> {
        self.under_way.iter().filter(|(_, call)| call.sent).map(|(id, call)| call.outgoing(*id)).collect()
    }

    /// An answer came. Returns whether so much is unacknowledged that it should be said at once.
    pub fn answer(&mut self, id: u64, answer: Result<Packet>) -> bool {
        self.acks.push(id);
        self.ack_bytes += answer.as_ref().map_or(OVERHEAD, charge);
        self.end(id, answer);
        self.ack_bytes > self.credits / 8 || self.acks.len() >= MOST_ACKS
    }

    /// Acknowledgements to go with the next message.
    pub fn acks(&mut self) -> Vec<u64> {
        self.ack_bytes = 0;
        match self.acks.len() {
            0..=MOST_ACKS => std::mem::take(&mut self.acks),
            more => self.acks.split_off(more - MOST_ACKS),
        }
    }

    /// The first deadline of all.
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.values().map(|call| call.deadline).min()
    }

    /// Puts all deadlines off: who waits stood still for so long, and could hear no answer.
    pub fn put_off(&mut self, still: Duration) {
        self.under_way.values_mut().for_each(|call| call.deadline += still);
    }

    /// Ends the calls whose deadline has passed; `trouble` says what is wrong with the connection, if something is.
    pub fn expire(&mut self, now: Instant, peer: &str, trouble: Option<&str>) {
        let late: Vec<u64> = self.under_way.iter().filter(|(_, c)| c.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let within = self.under_way[&id].within;
            self.end(id, Err(late_error(peer, within, trouble)));
        }
    }

    /// No connection could be made: ends the calls that were never sent and have waited long enough.
    pub fn unreached(&mut self, now: Instant, peer: &str, trouble: &str) {
        let waited = |call: &Call| now + call.within >= call.deadline + REACHED_WITHIN;
        let calls = self.under_way.iter().filter(|(_, call)| !call.sent && waited(call));
        for id in calls.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.end(id, Err(late_error(peer, REACHED_WITHIN, Some(trouble))));
        }
    }

    /// Ends all calls, or those alone that were sent, with an error.
    pub fn fail(&mut self, only_sent: bool, error: &Error) {
        let ids: Vec<u64> = self.under_way.iter().filter(|(_, c)| c.sent || !only_sent).map(|(id, _)| *id).collect();
        for id in ids {
            self.end(id, Err(error.clone()));
        }
    }

    fn end(&mut self, id: u64, answer: Result<Packet>) {
        let Some(call) = self.under_way.remove(&id) else { return };
        let bytes = charge(&call.packet);
        if call.sent {
            self.used -= bytes;
        } else {
            self.waiting_bytes -= bytes;
            self.waiting.retain(|waiting| *waiting != id);
        }
        // Nobody may wait any more.
        let _ = call.answer.send(answer);
    }
}

impl Call {
    fn outgoing(&self, id: u64) -> Outgoing {
        Outgoing { id, packet: self.packet.clone(), haste: self.haste }
    }
}

/// The error of a call without answer.
pub(super) fn late_error(peer: &str, within: Duration, trouble: Option<&str>) -> Error {
    let error = match trouble {
        Some(trouble) => format!("{peer} can't be reached: {trouble}; tried for {within:?}"),
        None => format!("{peer} did not answer within {within:?}"),
    };
    Error::cluster(error).retryable()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn add(calls: &mut Calls, len: usize, within: u64, now: Instant) -> oneshot::Receiver<Result<Packet>> {
        let (send, receive) = oneshot::channel();
        let packet = Packet { head: Bytes::new(), body: Bytes::from(vec![0; len]) };
        calls.add((packet, Haste::Waits), Duration::from_secs(within), now, send);
        receive
    }

    #[test]
    fn requests_wait_for_credits_in_order() {
        let now = Instant::now();
        let mut calls = Calls::new(10_000);
        let _answers: Vec<_> = [6000, 6000, 100].map(|len| add(&mut calls, len, 9, now)).into();
        assert_eq!(calls.next().unwrap().id, 1);
        assert!(calls.next().is_none() && !calls.has_credit(1));
        calls.answer(1, Ok(Packet::default()));
        assert_eq!((calls.next().unwrap().id, calls.next().unwrap().id), (2, 3));
        assert_eq!(calls.sent().iter().map(|sent| sent.id).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(calls.acks(), [1]);
    }

    #[test]
    fn requests_that_wait_for_a_connection_take_credits_and_leave_the_rest_to_others() {
        let now = Instant::now();
        let mut calls = Calls::new(10_000 + 2 * OVERHEAD);
        assert!(calls.has_credit(20_000), "alone it goes");
        let _answers = [add(&mut calls, 4000, 9, now), add(&mut calls, 4000, 9, now)];
        assert!(calls.has_credit(1000) && !calls.has_credit(4000));
        assert_eq!((calls.next().unwrap().id, calls.next().unwrap().id), (1, 2));
        assert!(calls.has_credit(1000) && !calls.has_credit(4000));
    }

    #[test]
    fn a_request_larger_than_the_credits_goes_alone() {
        let now = Instant::now();
        let mut calls = Calls::new(1000);
        let _answers = [add(&mut calls, 5000, 9, now), add(&mut calls, 1, 9, now)];
        assert_eq!(calls.next().unwrap().id, 1);
        assert!(calls.next().is_none());
    }

    #[test]
    fn a_late_call_ends_with_the_peer_and_its_trouble_and_frees_its_credits() {
        let now = Instant::now();
        let mut calls = Calls::new(1000);
        let mut answers = [add(&mut calls, 5000, 1, now), add(&mut calls, 5000, 2, now), add(&mut calls, 1, 9, now)];
        calls.next().unwrap();
        calls.expire(now + Duration::from_secs(1), "s1", None);
        let error = answers[0].try_recv().unwrap().unwrap_err();
        assert!(error.retry && error.message == "s1 did not answer within 1s", "{error}");
        calls.expire(now + Duration::from_secs(2), "s1", Some("it burns"));
        assert!(answers[1].try_recv().unwrap().unwrap_err().message.contains("s1 can't be reached: it burns"));
        assert_eq!((calls.next().unwrap().id, calls.deadline()), (3, Some(now + Duration::from_secs(9))));
        assert_eq!(calls.waiting_bytes, 0);
    }

    #[test]
    fn a_call_that_was_never_sent_waits_for_a_connection_no_longer_than_its_part_of_the_deadline() {
        let now = Instant::now();
        let mut calls = Calls::new(1000);
        let mut answers = [add(&mut calls, 1, 600, now), add(&mut calls, 1, 600, now)];
        assert_eq!(calls.next().unwrap().id, 1);
        let mut late = add(&mut calls, 1, 600, now + Duration::from_secs(1));
        calls.unreached(now + REACHED_WITHIN - Duration::from_millis(1), "s1", "it burns");
        assert!(answers[1].try_recv().is_err());
        calls.unreached(now + REACHED_WITHIN, "s1", "it burns");
        let error = answers[1].try_recv().unwrap().unwrap_err();
        assert!(error.retry && error.message == "s1 can't be reached: it burns; tried for 10s", "{error}");
        assert!(answers[0].try_recv().is_err(), "it may be running there");
        assert!(late.try_recv().is_err(), "it has waited for less");
    }
}
