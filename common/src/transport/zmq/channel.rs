//! A channel to a listener: callers put their requests on the connection themselves; a task makes the connection, reads
//! answers, and makes another one when it breaks.
//!
//! Invariant: calls and connection are changed under one lock, which is never held while waiting, so the order of sending
//! is the order of the calls, over all connections.

use super::calls::{Calls, Outgoing, late_error};
use super::frames::{self, Down, Up, Welcome};
use super::greeting::SessionId;
use super::link::{self, Link};
use super::session::charge;
use super::still::{Still, later};
use crate::error::{Error, Fault, Result};
use crate::transport::driver::{Driver, Outbox, Runner, When};
use crate::transport::options::Options;
use crate::transport::{Caller, Haste, Packet};
use futures::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use zeromq::{DealerSendHalf, SocketSend, ZmqMessage};

/// Least time between two looks at deadlines, and the longest while calls are under way.
const LATENESS: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_secs(1);
/// How often the connection is looked at, and answers are acknowledged that no request went after.
const TICK: Duration = Duration::from_millis(250);
/// A channel that has said nothing for so long says something.
const QUIET: Duration = Duration::from_secs(1);
/// A listener that has said nothing for so long is taken for lost; so many bytes a second more are granted for requests
/// under way.
const SILENCE: Duration = Duration::from_secs(10);
const SLOWEST: usize = 4 << 20;
/// Pauses between attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A caller of one address.
pub(crate) struct ZmqCaller {
    core: Arc<Core>,
    runner: Runner,
}

struct Core {
    address: String,
    peer: Arc<str>,
    session: SessionId,
    options: Arc<Options>,
    state: Mutex<State>,
    /// For threads that wait for credits.
    freed: Notify,
    /// Wakes the task: there is something to connect for, or the channel was dropped.
    wake: Notify,
    /// Wakes the look at deadlines: there is an earlier one.
    sooner: Notify,
}

struct State {
    calls: Calls,
    /// Where requests are sent; none while there is no connection.
    send: Option<DealerSendHalf>,
    /// What was said and is not with the socket yet; in order.
    outbox: Vec<ZmqMessage>,
    /// Why there is none.
    trouble: Option<String>,
    spoke: Instant,
    /// When the listener was heard last, while there is a connection.
    heard: Instant,
    still: Still,
    /// When deadlines are looked at next; none while there were none.
    alarm: Option<Instant>,
    dropped: bool,
}

impl ZmqCaller {
    pub fn new(address: &str, peer: &str, options: Arc<Options>, runner: Runner) -> Self {
        let state = State::new(options.credits, Instant::now());
        let core = Arc::new(Core {
            address: address.to_owned(),
            peer: if peer.contains(address) { peer.into() } else { format!("{peer} at {address}").into() },
            session: rand::random(),
            options,
            state: Mutex::new(state),
            freed: Notify::new(),
            wake: Notify::new(),
            sooner: Notify::new(),
        });
        runner.spawn(core.clone().run());
        Self { core, runner }
    }
}

impl State {
    fn new(credits: usize, now: Instant) -> Self {
        Self {
            calls: Calls::new(credits),
            send: None,
            outbox: Vec::new(),
            trouble: None,
            spoke: now,
            heard: now,
            still: Still::new(now),
            alarm: None,
            dropped: false,
        }
    }

    /// While this process stands still, no silence of the listener's counts and no call grows late. Before anything is judged.
    fn look(&mut self, now: Instant) {
        if let Some(still) = self.still.before(now) {
            later(&mut self.heard, still, now);
            self.calls.put_off(still);
        }
    }
}

impl Drop for ZmqCaller {
    fn drop(&mut self) {
        self.core.state.lock().dropped = true;
        self.core.wake.notify_one();
    }
}

impl Caller for ZmqCaller {
    fn start(&self, request: Packet, deadline: Duration, haste: Haste) -> oneshot::Receiver<Result<Packet>> {
        let core = &self.core;
        let (send, receive) = oneshot::channel();
        if let Some(error) = core.too_long(&request) {
            let _ = send.send(Err(error));
            return receive;
        }
        let (bytes, now) = (charge(&request), Instant::now());
        let mut state = core.state.lock();
        state.look(now);
        while !state.calls.has_credit(bytes) && Handle::try_current().is_err() {
            drop(state);
            let credit = async { tokio::time::timeout_at((now + deadline).into(), core.credit(bytes)).await.ok() };
            let credited = self.runner.wait(credit);
            state = core.state.lock();
            if credited.is_none() {
                let _ = send.send(Err(late_error(&core.peer, deadline, state.trouble.as_deref())));
                return receive;
            }
        }
        if state.calls.is_full() {
            let error = format!("{} does not take requests as fast as they are made", core.peer);
            let _ = send.send(Err(Error::cluster(error).retryable()));
            return receive;
        }
        state.calls.add((request, haste), deadline, now, send);
        if state.alarm.is_none_or(|at| now + deadline < at) {
            state.alarm = Some(now + deadline);
            core.sooner.notify_one();
        }
        if state.send.is_some() {
            core.pump(&mut state);
        } else {
            core.wake.notify_one();
        }
        let when = self.runner.queue(bytes, core.clone());
        if when == When::Now {
            core.put_all(&mut state);
        }
        drop(state);
        if let (When::Much, Some(driver)) = (when, self.driver()) {
            driver.flush();
        }
        receive
    }

    fn peer(&self) -> &Arc<str> {
        &self.core.peer
    }

    fn driver(&self) -> Option<&Arc<Driver>> {
        self.runner.driver()
    }
}

impl Outbox for Core {
    fn put(&self) {
        self.put_all(&mut self.state.lock());
    }
}

impl Core {
    fn too_long(&self, request: &Packet) -> Option<Error> {
        let limit = self.options.max_message;
        (request.len() > limit).then(|| {
            Error::bug(format!("a request of {} bytes to {}, at most {limit} are allowed", request.len(), self.peer))
        })
    }

    /// Sends what the credits allow.
    fn pump(&self, state: &mut State) {
        while state.send.is_some() {
            let Some(request) = state.calls.next() else { return };
            self.send_request(state, request);
        }
    }

    fn send_request(&self, state: &mut State, Outgoing { id, packet, haste }: Outgoing) {
        let acks = state.calls.acks();
        let up = match haste {
            Haste::Waits => Up::Request { id, acks },
            Haste::Patient => Up::Tell { id, acks },
        };
        self.say(state, &up, Some(&packet));
    }

    /// Takes a message that is to go over the connection, if there is one; [`Core::put_all`] is to follow.
    fn say(&self, state: &mut State, up: &Up, packet: Option<&Packet>) {
        if state.send.is_none() {
            return;
        }
        match frames::message(up, packet) {
            Ok(message) => state.outbox.push(message),
            Err(_) => self.give_up(state),
        }
        state.spoke = Instant::now();
    }

    /// Puts what was said on the connection. The socket's queue is longer than the credits allow messages, so that it takes
    /// each at once; when it does not, the connection is given up, and the task makes another.
    fn put_all(&self, state: &mut State) {
        for message in std::mem::take(&mut state.outbox) {
            let Some(send) = &mut state.send else { return };
            if !matches!(send.send(message).now_or_never(), Some(Ok(()))) {
                self.give_up(state);
            }
        }
    }

    fn give_up(&self, state: &mut State) {
        state.send = None;
        self.wake.notify_one();
    }

    /// Makes connections while there is something to say, until the channel is dropped and its calls have ended.
    async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.connect() => {}
            () = self.deadlines() => {}
        }
    }

    /// Ends calls at their deadlines. A channel without calls, or whose calls are all answered in time, costs nothing.
    async fn deadlines(&self) {
        loop {
            let alarm = {
                let mut state = self.state.lock();
                let now = Instant::now();
                state.look(now);
                let State { calls, trouble, alarm, .. } = &mut *state;
                calls.expire(now, &self.peer, trouble.as_deref());
                *alarm = calls.deadline().map(|at| at.clamp(now + LATENESS, now + LOOK));
                let alarm = *alarm;
                self.freed(state);
                alarm
            };
            let due = async {
                match alarm {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    async fn connect(&self) {
        let mut listener = None;
        let mut pause = PAUSES.0;
        loop {
            while self.state.lock().calls.is_idle() {
                if self.state.lock().dropped {
                    return;
                }
                self.wake.notified().await;
            }
            match link::open(&self.address, &self.options, self.session).await {
                Ok((link, welcome)) => {
                    pause = PAUSES.0;
                    if self.serve(link, &welcome, listener.replace(welcome.listener)).await {
                        return;
                    }
                }
                Err(error) if error.retry => {
                    {
                        let mut state = self.state.lock();
                        state.calls.unreached(Instant::now(), &self.peer, &error.message);
                        state.trouble = Some(error.message);
                        self.freed(state);
                    }
                    tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
                    pause = (2 * pause).min(PAUSES.1);
                }
                Err(error) => {
                    let mut state = self.state.lock();
                    state.calls.fail(false, &error.context(&self.peer));
                    self.freed(state);
                }
            }
        }
    }

    /// Uses a connection until it is lost. Returns whether the channel is done.
    async fn serve(&self, mut link: Link, welcome: &Welcome, before: Option<u64>) -> bool {
        {
            let mut state = self.state.lock();
            state.trouble = None;
            state.heard = Instant::now();
            if before == Some(welcome.listener) && !welcome.resumed {
                let error =
                    format!("the connection to {} was lost for too long to know what became of this", self.peer);
                state.calls.fail(true, &Error::cluster(error).retryable());
            }
            // All of it is sent again.
            state.outbox.clear();
            state.send = link.sender();
            let sent = state.calls.sent();
            state.calls.acks();
            self.say(&mut state, &Up::Resume(sent.iter().map(|request| request.id).collect()), None);
            for request in sent {
                self.send_request(&mut state, request);
            }
            self.pump(&mut state);
            self.put_all(&mut state);
            self.freed(state);
        }
        let mut tick = tokio::time::interval(TICK);
        let reason = loop {
            tokio::select! {
                received = link.receive() => match received {
                    Ok((down, packet)) => if let Err(error) = self.hear(down, packet) {
                        break error;
                    },
                    Err(error) => break error,
                },
                _ = tick.tick() => {
                    if let Some(error) = self.tick(Instant::now()) {
                        break error;
                    }
                }
                () = self.wake.notified() => {}
            }
            let mut state = self.state.lock();
            if state.send.is_none() {
                break Error::cluster("the connection was lost").retryable();
            }
            if state.dropped && state.calls.is_idle() {
                self.say(&mut state, &Up::Bye, None);
                self.put_all(&mut state);
                return true;
            }
        };
        tracing::debug!(peer = &*self.peer, "connection lost: {reason}");
        let mut state = self.state.lock();
        state.send = None;
        if reason.retry || reason.fault == Fault::Cluster {
            state.trouble = Some(reason.message);
        } else {
            state.calls.fail(false, &reason.context(&self.peer));
            self.freed(state);
        }
        false
    }

    fn hear(&self, down: Down, packet: Packet) -> Result<()> {
        self.state.lock().heard = Instant::now();
        let (id, answer) = match down {
            Down::Answer { id } => (id, Ok(packet)),
            Down::Failed { id, error } => (id, Err(error)),
            Down::Pong => return Ok(()),
            Down::Stranger => return Err(Error::cluster("the listener does not know this connection").retryable()),
            Down::Refused(error) => return Err(error.context("refused")),
            Down::Challenge(_) | Down::Welcome(_) => return Err(Error::cluster("a second greeting").retryable()),
        };
        let mut state = self.state.lock();
        if state.calls.answer(id, answer) {
            let acks = state.calls.acks();
            self.say(&mut state, &Up::Acks(acks), None);
        }
        self.pump(&mut state);
        self.put_all(&mut state);
        self.freed(state);
        Ok(())
    }

    fn tick(&self, now: Instant) -> Option<Error> {
        let mut state = self.state.lock();
        state.look(now);
        let heard = now.saturating_duration_since(state.heard);
        let silence = SILENCE + Duration::from_secs((state.calls.sent_bytes() / SLOWEST) as u64);
        if heard > silence {
            return Some(Error::cluster(format!("nothing was heard for {silence:?}")).retryable());
        }
        let acks = state.calls.acks();
        if !acks.is_empty() {
            self.say(&mut state, &Up::Acks(acks), None);
        }
        if state.spoke.elapsed() > QUIET || heard > QUIET {
            self.say(&mut state, &Up::Ping, None);
        }
        self.put_all(&mut state);
        None
    }

    /// Waits until a request of so many bytes has credit, which others may take before the lock is had again.
    async fn credit(&self, bytes: usize) {
        loop {
            let mut freed = pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.state.lock().calls.has_credit(bytes) {
                return;
            }
            freed.await;
        }
    }

    /// Wakes the threads that wait for credits.
    fn freed(&self, state: MutexGuard<'_, State>) {
        drop(state);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_while_this_process_stands_still_is_no_silence_and_makes_no_call_late() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::new(1000, start);
        let (send, mut answer) = oneshot::channel();
        state.calls.add((Packet::default(), Haste::Waits), Duration::from_secs(10), start, send);
        for seconds in [1, 2, 90, 91] {
            state.look(at(seconds));
        }
        assert_eq!(state.heard, at(88));
        assert_eq!(state.calls.deadline(), Some(at(98)));
        state.calls.expire(at(97), "s1", None);
        assert!(answer.try_recv().is_err(), "it is not late yet");
        state.calls.expire(at(98), "s1", None);
        assert!(answer.try_recv().unwrap().is_err());
    }
}
