//! A listener: one ROUTER on a private unix socket, behind the gate. A loop greets, takes requests and starts them in order;
//! each request then runs as a task of its own, which keeps its answer and hands it to the loop to send. Short ones the loop
//! runs itself, all of them while they take no longer than another thread takes to wake, else the last that has come.
//! Answers that nobody waits for are held back until the next one of their session goes, or until the loop looks.
//!
//! Invariants: a session's requests start in order, each once; the loop alone decides who is who and touches the socket;
//! what it holds for a session is bounded, and dropped with the session.

use super::frames::{self, Down, Up, Welcome};
use super::gate::{self, Registry};
use super::greeting::{Challenge, Hello, SessionId};
use super::session::{Answer, Session, Taken};
use super::still::{Still, later};
use crate::error::{Error, Result};
use crate::transport::options::Options;
use crate::transport::{Connection, Haste, Packet, Service};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zeromq::{RouterRecvHalf, RouterSendHalf, SocketEvent, SocketRecv, SocketSend, ZmqMessage, ZmqResult};

/// How often the loop looks after sessions: for answers that were held back, and connections that did not come back.
const TICK: Duration = Duration::from_millis(100);
/// The same while nothing is under way.
const REST: Duration = Duration::from_secs(1);
/// A connection that is silent for so long is lost; channels say something every second.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a lost session's answers are kept for the case that it comes back.
const MEMORY: Duration = Duration::from_secs(60);
/// Requests that start at each tick though the answers of others, which don't come, may pass the limit.
const URGED: usize = 16;
/// Greetings under way.
const GREETINGS: usize = 1024;
/// Bytes of a request that the loop may run itself.
const SHORT: usize = 16 << 10;
/// What takes no longer is not worth another thread's waking.
const QUICK: Duration = Duration::from_micros(30);
/// Messages that are taken before the loop looks at what else there is.
const BURST: usize = 64;

/// What the loop and the running requests share.
struct Shared {
    service: Arc<dyn Service>,
    options: Options,
    /// Where requests run.
    runtime: Handle,
    /// What the loop is to send; bounded by the answers that each session may keep.
    out: UnboundedSender<ZmqMessage>,
}

/// A session, shared with its running requests.
struct Cell {
    session: Session,
    /// Its connection's identity at the ROUTER; none while it is lost.
    identity: Option<Bytes>,
}

/// A session as the loop sees it.
struct Known {
    id: SessionId,
    connection: Connection,
    cell: Arc<Mutex<Cell>>,
    role: String,
    heard: Instant,
    lost: Option<Instant>,
    /// The service was told that it is gone.
    gone: bool,
}

/// The loop's state.
pub(super) struct Router {
    shared: Arc<Shared>,
    outgoing: UnboundedReceiver<ZmqMessage>,
    line: Line,
    registry: Registry,
    /// Told to those who connect, unless they are to use TCP.
    path: Option<String>,
    incarnation: u64,
    greetings: FxHashMap<Bytes, (Hello, Challenge, Instant)>,
    /// Sessions by the identity of their connection.
    present: FxHashMap<Bytes, SessionId>,
    sessions: FxHashMap<SessionId, Known>,
    connections: u64,
    still: Still,
    /// Something is under way that a look may be needed for.
    busy: bool,
}

impl Router {
    /// Requests will run on `runtime`.
    pub fn new(service: Arc<dyn Service>, runtime: Handle, options: Options, registry: Registry, path: String) -> Self {
        let path = Some(path).filter(|_| options.same_host);
        let (out, outgoing) = unbounded_channel();
        Self {
            shared: Arc::new(Shared { service, options, runtime, out }),
            outgoing,
            line: Line { last: None, waiting: FuturesUnordered::new(), quick: true },
            registry,
            path,
            incarnation: rand::random(),
            greetings: FxHashMap::default(),
            present: FxHashMap::default(),
            sessions: FxHashMap::default(),
            connections: 0,
            still: Still::new(Instant::now()),
            busy: true,
        }
    }

    /// Serves until `stop` ends.
    pub async fn run(
        mut self,
        mut send: RouterSendHalf,
        mut receive: RouterRecvHalf,
        mut monitor: futures::channel::mpsc::Receiver<SocketEvent>,
        mut stop: tokio::sync::oneshot::Receiver<()>,
    ) {
        let mut look = pin!(tokio::time::sleep(TICK));
        let mut resting = false;
        loop {
            if self.busy && resting {
                resting = false;
                look.as_mut().reset(tokio::time::Instant::now() + TICK);
            }
            tokio::select! {
                message = receive.recv() => {
                    self.receive(message);
                    for _ in 1..BURST {
                        let Some(message) = receive.recv().now_or_never() else { break };
                        self.receive(message);
                    }
                    self.line.begin(&self.shared.runtime);
                }
                Some(()) = self.line.go_on(&self.shared.runtime) => {}
                // The connection may have gone; the channel then asks again over a new one.
                Some(message) = self.outgoing.recv() => if let Err(error) = send.send(message).await {
                    tracing::debug!(%error, "an answer can't be sent");
                },
                Some(event) = monitor.next() => if let SocketEvent::Disconnected(identity) = event {
                    self.lost(&identity.into());
                },
                () = &mut look => {
                    self.busy = self.look();
                    resting = !self.busy;
                    look.as_mut().reset(tokio::time::Instant::now() + if resting { REST } else { TICK });
                }
                _ = &mut stop => break,
            }
        }
        for known in self.sessions.values().filter(|known| !known.gone) {
            self.shared.service.gone(known.connection);
        }
    }

    fn receive(&mut self, message: ZmqResult<ZmqMessage>) {
        match message.map(ZmqMessage::into_vec) {
            Ok(frames) => {
                if let [identity, rest @ ..] = &frames[..] {
                    self.take(identity, rest);
                }
            }
            Err(error) => tracing::warn!(%error, "a message can't be received"),
        }
    }

    fn take(&mut self, identity: &Bytes, frames: &[Bytes]) {
        let result = match frames::parse::<Up>(frames) {
            Ok((up, packet)) => self.act(identity, up, packet),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.refuse(identity, error);
        }
    }

    fn act(&mut self, identity: &Bytes, up: Up, packet: Packet) -> Result<()> {
        match up {
            Up::Hello(hello) => return self.hello(identity, hello),
            Up::Proof(proof) => return self.welcome(identity, &proof),
            Up::Declined(reason) => return Err(Error::user(reason)),
            _ => {}
        }
        let Some(known) = self.present.get(identity).and_then(|id| self.sessions.get_mut(id)) else {
            self.shared.send(identity, &Down::Stranger, None);
            // Who was never welcome has nothing to say but a greeting.
            if let Some(entry) = self.registry.get(identity).filter(|entry| !entry.is_welcome()) {
                entry.close();
            }
            return Ok(());
        };
        known.heard = Instant::now();
        self.busy = true;
        match up {
            Up::Request { id, acks } => self.shared.take(known, id, (packet, Haste::Waits), &acks)?,
            Up::Tell { id, acks } => self.shared.take(known, id, (packet, Haste::Patient), &acks)?,
            Up::Acks(ids) => known.cell.lock().session.acknowledge(&ids),
            Up::Resume(outstanding) => known.cell.lock().session.resume(&outstanding),
            Up::Ping => self.shared.send(identity, &Down::Pong, None),
            Up::Bye => {
                let id = known.id;
                self.end(&id);
                return Ok(());
            }
            Up::Hello(_) | Up::Proof(_) | Up::Declined(_) => {}
        }
        // Acknowledgements may have made room.
        while start_next(&self.shared, known, false, &mut self.line) {}
        Ok(())
    }

    fn hello(&mut self, identity: &Bytes, hello: Hello) -> Result<()> {
        hello.check(&self.shared.options)?;
        self.busy = true;
        if self.greetings.len() >= GREETINGS {
            return Err(Error::cluster(format!("{GREETINGS} other connections are being greeted")).retryable());
        }
        let challenge = Challenge::new(&self.shared.options, &hello, self.path.clone())?;
        self.shared.send(identity, &Down::Challenge(challenge.clone()), None);
        self.greetings.insert(identity.clone(), (hello, challenge, Instant::now()));
        Ok(())
    }

    fn welcome(&mut self, identity: &Bytes, proof: &[u8; 32]) -> Result<()> {
        let Some((hello, challenge, _)) = self.greetings.remove(identity) else {
            return Err(Error::cluster("a proof without a challenge"));
        };
        challenge.verify(&self.shared.options, &hello, proof)?;
        let id = hello.session;
        let resumed = self.sessions.contains_key(&id);
        let connections = &mut self.connections;
        let mut next = || {
            *connections += 1;
            Connection(*connections)
        };
        let known = self.sessions.entry(id).or_insert_with(|| Known {
            id,
            connection: next(),
            cell: Arc::new(Mutex::new(Cell { session: Session::default(), identity: None })),
            role: hello.card.role.clone(),
            heard: Instant::now(),
            lost: None,
            gone: false,
        });
        if std::mem::take(&mut known.gone) {
            known.connection = next();
        }
        (known.heard, known.lost) = (Instant::now(), None);
        if let Some(old) = known.cell.lock().identity.replace(identity.clone()) {
            self.present.remove(&old);
            if let Some(entry) = self.registry.get(&old) {
                entry.close();
            }
        }
        tracing::debug!(role = known.role, connection = known.connection.0, resumed, "connection welcome");
        self.present.insert(identity.clone(), id);
        if let Some(entry) = self.registry.get(identity) {
            // Room for what goes beside a packet of the largest size.
            entry.admit(self.shared.options.max_message + gate::UNKNOWN + (64 << 10));
        }
        let welcome = Welcome { listener: self.incarnation, resumed };
        self.shared.send(identity, &Down::Welcome(welcome), None);
        Ok(())
    }

    fn refuse(&mut self, identity: &Bytes, error: Error) {
        let entry = self.registry.get(identity);
        let from = entry.as_ref().map_or_else(|| "this machine".to_owned(), |e| e.from.to_string());
        tracing::warn!(from, "connection refused: {error}");
        self.greetings.remove(identity);
        self.shared.send(identity, &Down::Refused(error), None);
        if let Some(id) = self.present.get(identity).copied() {
            self.end(&id);
        }
        if let Some(entry) = entry {
            entry.close();
        }
    }

    fn lost(&mut self, identity: &Bytes) {
        self.busy = true;
        self.greetings.remove(identity);
        if let Some(known) = self.present.remove(identity).and_then(|id| self.sessions.get_mut(&id)) {
            known.cell.lock().identity = None;
            known.lost = Some(Instant::now());
        }
    }

    /// Looks after sessions and greetings; whether it is to do so again soon.
    fn look(&mut self) -> bool {
        let now = Instant::now();
        if let Some(still) = self.still.before(now) {
            self.sessions.values_mut().for_each(|known| later(&mut known.heard, still, now));
        }
        self.greetings.retain(|_, (_, _, since)| now.duration_since(*since) < gate::PATIENCE);
        let silent: Vec<_> = self.sessions.values().filter(|k| now.duration_since(k.heard) > SILENCE).collect();
        let silent: Vec<Bytes> = silent.iter().filter_map(|k| k.cell.lock().identity.clone()).collect();
        for identity in silent {
            self.lost(&identity);
            if let Some(entry) = self.registry.get(&identity) {
                entry.close();
            }
        }
        let (mut forgotten, mut busy) = (Vec::new(), !self.greetings.is_empty());
        for known in self.sessions.values_mut() {
            for _ in 0..URGED {
                if !start_next(&self.shared, known, true, &mut self.line) {
                    break;
                }
            }
            let (held, idle) = {
                let mut cell = known.cell.lock();
                let held = cell.identity.clone().map(|identity| (identity, cell.session.release()));
                (held, cell.session.is_idle())
            };
            if let Some((identity, answers)) = held {
                self.shared.answers(&identity, answers);
            }
            busy |= !idle || known.lost.is_some();
            let Some(lost) = known.lost else { continue };
            if !known.gone && now.duration_since(lost) >= self.shared.options.grace {
                known.gone = true;
                tracing::debug!(role = known.role, connection = known.connection.0, "connection gone");
                self.shared.service.gone(known.connection);
            }
            if now.duration_since(lost) >= MEMORY {
                forgotten.push(known.id);
            }
        }
        for id in forgotten {
            self.sessions.remove(&id);
        }
        self.line.begin(&self.shared.runtime);
        busy
    }

    /// Ends a session for good.
    fn end(&mut self, id: &SessionId) {
        if let Some(known) = self.sessions.remove(id) {
            if let Some(identity) = known.cell.lock().identity.take() {
                self.present.remove(&identity);
            }
            if !known.gone {
                self.shared.service.gone(known.connection);
            }
        }
    }
}

impl Shared {
    fn send(&self, identity: &Bytes, down: &Down, packet: Option<&Packet>) {
        match frames::message(down, packet) {
            Ok(mut message) => {
                message.push_front(identity.clone());
                // The loop may have ended.
                let _ = self.out.send(message);
            }
            Err(error) => tracing::error!(%error, "an answer can't be encoded"),
        }
    }

    fn answers(&self, identity: &Bytes, answers: Vec<(u64, Answer)>) {
        for (id, answer) in answers {
            match answer {
                Ok(packet) => self.send(identity, &Down::Answer { id }, Some(&packet)),
                Err(error) => self.send(identity, &Down::Failed { id, error }, None),
            }
        }
    }

    /// Takes a request; one that has run is answered again.
    fn take(&self, known: &Known, id: u64, request: (Packet, Haste), acks: &[u64]) -> Result<()> {
        let (taken, identity) = {
            let mut cell = known.cell.lock();
            cell.session.acknowledge(acks);
            (cell.session.take(id, request, self.options.answers)?, cell.identity.clone())
        };
        if let (Taken::Answered(answer), Some(identity)) = (taken, identity) {
            self.answers(&identity, vec![(id, answer)]);
        }
        Ok(())
    }
}

/// The short requests that the loop runs itself.
struct Line {
    /// The one that was started last, before it runs.
    last: Option<BoxFuture<'static, ()>>,
    /// Those that wait for something since they began.
    waiting: FuturesUnordered<BoxFuture<'static, ()>>,
    /// The one before took no longer than [`QUICK`].
    quick: bool,
}

impl Line {
    /// Takes a request; the one that waits for its turn is begun, or becomes a task.
    fn push(&mut self, runtime: &Handle, request: BoxFuture<'static, ()>) {
        if self.quick {
            self.begin(runtime);
        } else if let Some(before) = self.last.take() {
            runtime.spawn(before);
        }
        self.last = Some(request);
    }

    /// Runs the request whose turn it is as far as it goes at once; what is left of one that took long becomes a task.
    fn begin(&mut self, runtime: &Handle) {
        let Some(mut request) = self.last.take() else { return };
        let (_entered, start) = (runtime.enter(), Instant::now());
        let done = request.as_mut().now_or_never();
        self.quick = start.elapsed() <= QUICK;
        match done {
            Some(()) => {}
            None if self.quick => self.waiting.push(request),
            None => drop(runtime.spawn(request)),
        }
    }

    /// Ends one of those that have waited; nothing comes while there is none. Behind one that took long the others become tasks.
    async fn go_on(&mut self, runtime: &Handle) -> Option<()> {
        if !self.quick {
            std::mem::take(&mut self.waiting).into_iter().for_each(|request| drop(runtime.spawn(request)));
        }
        poll_fn(|context| {
            let (_entered, start) = (runtime.enter(), Instant::now());
            let ended = self.waiting.poll_next_unpin(context);
            self.quick &= start.elapsed() <= QUICK;
            if ended == Poll::Ready(None) { Poll::Pending } else { ended }
        })
        .await
    }
}

/// Starts a session's next request, if it may. A long one becomes a task at once, so that the next is read meanwhile.
fn start_next(shared: &Arc<Shared>, known: &Known, urge: bool, line: &mut Line) -> bool {
    let next = known.cell.lock().session.next(shared.options.answers, urge);
    let Some((id, packet, haste)) = next else { return false };
    let long = packet.len() > SHORT;
    let request = start(shared.clone(), known.cell.clone(), known.connection, (id, packet, haste));
    if long {
        shared.runtime.spawn(request);
    } else {
        line.push(&shared.runtime, request);
    }
    true
}

/// Starts a request: the service is called at once, so that calls are in order; its future then runs.
fn start(
    shared: Arc<Shared>,
    cell: Arc<Mutex<Cell>>,
    from: Connection,
    (id, packet, haste): (u64, Packet, Haste),
) -> BoxFuture<'static, ()> {
    let answer = {
        let _entered = shared.runtime.enter();
        crate::transport::serve(&*shared.service, from, packet)
    };
    Box::pin(async move {
        let limit = shared.options.max_message;
        let answer = answer.await.and_then(|packet| match packet.len() {
            len if len > limit => Err(Error::bug(format!("an answer of {len} bytes, at most {limit} are allowed"))),
            _ => Ok(packet),
        });
        let (answers, identity) = {
            let mut cell = cell.lock();
            (cell.session.finish(id, answer, haste), cell.identity.clone())
        };
        if let Some(identity) = identity {
            shared.answers(&identity, answers);
        }
    })
}
