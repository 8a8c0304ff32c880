//! A listener: one ROUTER on a private unix socket, behind the gate. A loop greets, takes requests and starts them in order;
//! each request then runs as a task of its own, which keeps and sends its answer.
//!
//! Invariants: a session's requests start in order, each once; the loop alone decides who is who; what it holds for a
//! session is bounded, and dropped with the session.

use super::frames::{self, Down, Up, Welcome};
use super::gate::{self, Registry};
use super::greeting::{Challenge, Hello, SessionId};
use super::session::{Answer, Session, Taken};
use crate::error::{Error, Result};
use crate::transport::options::Options;
use crate::transport::{Connection, Packet, Service};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeromq::{RouterRecvHalf, RouterSendHalf, SocketEvent, SocketRecv, SocketSend};

/// How often the loop looks for connections that did not come back.
const TICK: Duration = Duration::from_millis(100);
/// A connection that is silent for so long is lost; channels say something every second.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a lost session's answers are kept for the case that it comes back.
const MEMORY: Duration = Duration::from_secs(60);
/// Requests that start at each tick though the answers of others, which don't come, may pass the limit.
const URGED: usize = 16;
/// Greetings under way.
const GREETINGS: usize = 1024;

/// What the loop and the running requests share.
struct Shared {
    service: Arc<dyn Service>,
    options: Options,
    /// Taken out when the listener ends, so that running requests don't keep the socket.
    send: Mutex<Option<RouterSendHalf>>,
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
    registry: Registry,
    /// Told to those who connect, unless they are to use TCP.
    path: Option<String>,
    incarnation: u64,
    greetings: FxHashMap<Bytes, (Hello, Challenge, Instant)>,
    /// Sessions by the identity of their connection.
    present: FxHashMap<Bytes, SessionId>,
    sessions: FxHashMap<SessionId, Known>,
    connections: u64,
}

impl Router {
    pub fn new(service: Arc<dyn Service>, options: Options, registry: Registry, path: String) -> Self {
        let path = Some(path).filter(|_| options.same_host);
        Self {
            shared: Arc::new(Shared { service, options, send: Mutex::new(None) }),
            registry,
            path,
            incarnation: rand::random(),
            greetings: FxHashMap::default(),
            present: FxHashMap::default(),
            sessions: FxHashMap::default(),
            connections: 0,
        }
    }

    /// Serves until `stop` ends.
    pub async fn run(
        mut self,
        send: RouterSendHalf,
        mut receive: RouterRecvHalf,
        mut monitor: futures::channel::mpsc::Receiver<SocketEvent>,
        mut stop: tokio::sync::oneshot::Receiver<()>,
    ) {
        *self.shared.send.lock() = Some(send);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                message = receive.recv() => match message {
                    Ok(message) => {
                        let frames = message.into_vec();
                        if let [identity, rest @ ..] = &frames[..] {
                            self.take(identity, rest).await;
                        }
                    }
                    Err(error) => tracing::warn!(%error, "a message can't be received"),
                },
                Some(event) = monitor.next() => if let SocketEvent::Disconnected(identity) = event {
                    self.lost(&identity.into());
                },
                _ = tick.tick() => self.tick(),
                _ = &mut stop => break,
            }
        }
        self.shared.send.lock().take();
        for known in self.sessions.values().filter(|known| !known.gone) {
            self.shared.service.gone(known.connection);
        }
    }

    async fn take(&mut self, identity: &Bytes, frames: &[Bytes]) {
        let result = match frames::parse::<Up>(frames) {
            Ok((up, packet)) => self.act(identity, up, packet).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.refuse(identity, error).await;
        }
    }

    async fn act(&mut self, identity: &Bytes, up: Up, packet: Packet) -> Result<()> {
        match up {
            Up::Hello(hello) => return self.hello(identity, hello).await,
            Up::Proof(proof) => return self.welcome(identity, &proof).await,
            Up::Declined(reason) => return Err(Error::user(reason)),
            _ => {}
        }
        let Some(known) = self.present.get(identity).and_then(|id| self.sessions.get_mut(id)) else {
            self.shared.send(identity, &Down::Stranger, None).await;
            return Ok(());
        };
        known.heard = Instant::now();
        let limit = self.shared.options.answers;
        match up {
            Up::Request { id, acks } => {
                let taken = {
                    let mut cell = known.cell.lock();
                    cell.session.acknowledge(&acks);
                    cell.session.take(id, packet, limit)?
                };
                if let Taken::Answered(answer) = taken {
                    self.shared.answer(identity, id, answer).await;
                }
            }
            Up::Acks(ids) => known.cell.lock().session.acknowledge(&ids),
            Up::Resume(outstanding) => known.cell.lock().session.resume(&outstanding),
            Up::Ping => self.shared.send(identity, &Down::Pong, None).await,
            Up::Bye => {
                let id = known.id;
                self.end(&id);
                return Ok(());
            }
            Up::Hello(_) | Up::Proof(_) | Up::Declined(_) => {}
        }
        // Acknowledgements may have made room.
        while start_next(&self.shared, known, false) {}
        Ok(())
    }

    async fn hello(&mut self, identity: &Bytes, hello: Hello) -> Result<()> {
        hello.check(&self.shared.options)?;
        if self.greetings.len() >= GREETINGS {
            return Err(Error::cluster(format!("{GREETINGS} other connections are being greeted")).retryable());
        }
        let challenge = Challenge::new(&self.shared.options, &hello, self.path.clone())?;
        self.shared.send(identity, &Down::Challenge(challenge.clone()), None).await;
        self.greetings.insert(identity.clone(), (hello, challenge, Instant::now()));
        Ok(())
    }

    async fn welcome(&mut self, identity: &Bytes, proof: &[u8; 32]) -> Result<()> {
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
        self.shared.send(identity, &Down::Welcome(welcome), None).await;
        Ok(())
    }

    async fn refuse(&mut self, identity: &Bytes, error: Error) {
        let entry = self.registry.get(identity);
        let from = entry.as_ref().map_or_else(|| "this machine".to_owned(), |e| e.from.to_string());
        tracing::warn!(from, "connection refused: {error}");
        self.greetings.remove(identity);
        self.shared.send(identity, &Down::Refused(error), None).await;
        if let Some(id) = self.present.get(identity).copied() {
            self.end(&id);
        }
        if let Some(entry) = entry {
            entry.close();
        }
    }

    fn lost(&mut self, identity: &Bytes) {
        self.greetings.remove(identity);
        if let Some(known) = self.present.remove(identity).and_then(|id| self.sessions.get_mut(&id)) {
            known.cell.lock().identity = None;
            known.lost = Some(Instant::now());
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        self.greetings.retain(|_, (_, _, since)| now.duration_since(*since) < gate::PATIENCE);
        let silent: Vec<_> = self.sessions.values().filter(|k| now.duration_since(k.heard) > SILENCE).collect();
        let silent: Vec<Bytes> = silent.iter().filter_map(|k| k.cell.lock().identity.clone()).collect();
        for identity in silent {
            self.lost(&identity);
            if let Some(entry) = self.registry.get(&identity) {
                entry.close();
            }
        }
        let mut forgotten = Vec::new();
        for known in self.sessions.values_mut() {
            for _ in 0..URGED {
                if !start_next(&self.shared, known, true) {
                    break;
                }
            }
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
    async fn send(&self, identity: &Bytes, down: &Down, packet: Option<&Packet>) {
        let Some(mut half) = self.send.lock().clone() else { return };
        match frames::message(down, packet) {
            Ok(mut message) => {
                message.push_front(identity.clone());
                // The connection may have gone; the channel then asks again over a new one.
                if let Err(error) = half.send(message).await {
                    tracing::debug!(%error, "an answer can't be sent");
                }
            }
            Err(error) => tracing::error!(%error, "an answer can't be encoded"),
        }
    }

    async fn answer(&self, identity: &Bytes, id: u64, answer: Answer) {
        match answer {
            Ok(packet) => self.send(identity, &Down::Answer { id }, Some(&packet)).await,
            Err(error) => self.send(identity, &Down::Failed { id, error }, None).await,
        }
    }
}

/// Starts a session's next request, if it may.
fn start_next(shared: &Arc<Shared>, known: &Known, urge: bool) -> bool {
    let next = known.cell.lock().session.next(shared.options.answers, urge);
    let Some((id, packet)) = next else { return false };
    start(shared.clone(), known.cell.clone(), known.connection, id, packet);
    true
}

/// Runs a request: the service is called at once, so that calls are in order; its future runs as a task.
fn start(shared: Arc<Shared>, cell: Arc<Mutex<Cell>>, from: Connection, id: u64, packet: Packet) {
    let answer = crate::transport::serve(&*shared.service, from, packet);
    tokio::spawn(async move {
        let limit = shared.options.max_message;
        let answer = answer.await.and_then(|packet| match packet.len() {
            len if len > limit => Err(Error::bug(format!("an answer of {len} bytes, at most {limit} are allowed"))),
            _ => Ok(packet),
        });
        let identity = {
            let mut cell = cell.lock();
            cell.session.finish(id, answer.clone());
            cell.identity.clone()
        };
        if let Some(identity) = identity {
            shared.answer(&identity, id, answer).await;
        }
    });
}
