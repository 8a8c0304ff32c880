//! What goes over a socket: multipart messages whose first frame is one of the two enums here, followed, for requests and
//! answers, by the packet's head and body.
//!
//! Invariant: whatever bytes come, taking a message apart gives a message or an error.

use super::greeting::{Challenge, Hello};
use crate::error::{Error, Result};
use crate::transport::Packet;
use crate::wire::codec;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeromq::ZmqMessage;

/// From the side that connects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Up {
    /// The first message of a connection.
    Hello(Hello),
    /// The answer to a challenge.
    Proof([u8; 32]),
    /// The listener's challenge does not satisfy; the reason is for its log.
    Declined(String),
    /// After a welcome: requests without answer so far; answers to others need not be kept.
    Resume(Vec<u64>),
    /// A request, with the identities of answers that arrived.
    Request { id: u64, acks: Vec<u64> },
    /// Answers that arrived.
    Acks(Vec<u64>),
    /// Is somebody there?
    Ping,
    /// The channel was dropped.
    Bye,
    /// A request whose answer nobody waits for, with the identities of answers that arrived.
    Tell { id: u64, acks: Vec<u64> },
}

/// From the listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Down {
    /// Answers a hello.
    Challenge(Challenge),
    /// The connection may send requests.
    Welcome(Welcome),
    /// The connection may not.
    Refused(Error),
    /// The answer to a request.
    Answer { id: u64 },
    /// The service's error.
    Failed { id: u64, error: Error },
    /// Answers a ping.
    Pong,
    /// Somebody without a welcome sent something other than a hello.
    Stranger,
}

/// What a welcomed connection learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Differs after the listener was restarted.
    pub listener: u64,
    /// Whether the listener still knows which of the session's requests it has run.
    pub resumed: bool,
}

/// A message of `meta` and, for requests and answers, the packet.
pub(super) fn message<M: Serialize>(meta: &M, packet: Option<&Packet>) -> Result<ZmqMessage> {
    let mut message = ZmqMessage::from(codec::encode(meta)?);
    if let Some(packet) = packet {
        message.push_back(packet.head.clone());
        if !packet.body.is_empty() {
            message.push_back(packet.body.clone());
        }
    }
    Ok(message)
}

/// Takes a message apart; see [`message`].
pub(super) fn parse<M: serde::de::DeserializeOwned>(frames: &[Bytes]) -> Result<(M, Packet)> {
    let [meta, packet @ ..] = frames else { return Err(Error::cluster("a message without frames")) };
    let packet = match packet {
        [] => Packet::default(),
        [head] => Packet { head: head.clone(), body: Bytes::new() },
        [head, body] => Packet { head: head.clone(), body: body.clone() },
        more => return Err(Error::cluster(format!("a message of {} frames, at most 3 are possible", more.len() + 1))),
    };
    Ok((codec::decode(meta)?, packet))
}
