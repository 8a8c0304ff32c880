//! The way from this slave to another one of the same job, and the messages of a request on it.
//!
//! Invariant: a request whose key lists the shard has forgotten is sent again with the same keys and values; nobody
//! notices but the counters.

use super::cut::{Message, PieceKeys};
use super::packed::{self, Packer};
use super::slices;
use bytes::Bytes;
use flexps_common::error::{Error, Result};
use flexps_common::ids::{SlaveId, TableId};
use flexps_common::machine;
use flexps_common::plan::Compression;
use flexps_common::report::PackUse;
use flexps_common::transport::{Channel, Network, Packet, Pending};
use flexps_common::value::{Values, ValuesMut};
use flexps_common::wire::body::{BodyReader, BodyWriter};
use flexps_common::wire::kv::{FromShard, KeyList, Origin, Section, Seen, ToShard};
use flexps_common::wire::lists::SentLists;
use flexps_common::wire::packing::{Pack, Packing};
use flexps_common::wire::slaves::Peer;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a shard may take for an answer. It keeps no read waiting for nearly so long, so whoever is silent has gone.
const DEADLINE: Duration = Duration::from_secs(30);

/// Another slave of the job.
pub struct Link {
    /// Its identity.
    pub slave: SlaveId,
    /// How values go.
    pub packer: Packer,
    bulk: Channel,
    /// What errors call it, e.g. `slave s2 (h2)`.
    called: Arc<str>,
    sent: SentLists,
    /// What messages take for a byte, once somebody has asked.
    pace: OnceLock<Arc<OnceLock<f64>>>,
}

/// A message to a shard that was not answered yet.
pub struct UnderWay {
    message: Message,
    request: ToShard,
    packet: Packet,
    pending: Option<Pending>,
}

impl Link {
    /// The way from the slave whose bulk address is `own` to `peer`, for messages that leave by `delay` later, if one is put
    /// in.
    pub fn new(network: &Network, peer: &Peer, delay: Option<Duration>, compress: Compression, own: &str) -> Self {
        let called: Arc<str> = peer.called().into();
        let bulk = network.channel(&peer.bulk, &called);
        let bulk = delay.map_or(bulk.clone(), |delay| bulk.delayed(delay));
        let packer = Packer::new(compress, &bulk, machine::of(own) == machine::of(&peer.bulk));
        Self { slave: peer.id, packer, bulk, called, sent: SentLists::default(), pace: OnceLock::new() }
    }

    /// Sends a read that must find what its slave knows of. Values of the tables in `may_round` may come rounded.
    pub fn get(
        &self,
        origin: Origin,
        seen: Seen,
        peek: bool,
        message: Message,
        may_round: &[TableId],
    ) -> Result<UnderWay> {
        let mut packs = Vec::new();
        if self.packer.is_on() {
            packs.extend(message.pieces.iter().map(|piece| self.packer.way(may_round.contains(&piece.table))));
        }
        self.ask_for(origin, seen, peek, message, packs)
    }

    fn ask_for(&self, origin: Origin, seen: Seen, peek: bool, message: Message, packs: Vec<Pack>) -> Result<UnderWay> {
        let mut body = BodyWriter::default();
        let sections = self.name_all(&message, &mut body, |_, _| Ok(Packing::Raw))?;
        self.send(message, ToShard::Get { origin, sections, seen, peek, packs }, body)
    }

    /// Sends an update with the values of each item. Those of the tables in `may_round` may go rounded.
    pub fn add(
        &self,
        origin: Origin,
        sequence: u64,
        message: Message,
        items: &[Values<'_>],
        may_round: &[TableId],
    ) -> Result<UnderWay> {
        let mut body = BodyWriter::with_capacity(message.bytes + 8 * message.pieces.len());
        let sections = self.name_all(&message, &mut body, |piece, body| {
            let (piece, start) = (&message.pieces[piece], body.len());
            for places in &piece.places {
                let places = places.start * piece.width..places.end * piece.width;
                body.values(slices::part(items[piece.item], places));
            }
            Ok(self.packer.pack(body, start, piece.element, may_round.contains(&piece.table)))
        })?;
        self.send(message, ToShard::Add { origin, sequence, sections }, body)
    }

    /// Sends a request again, all of its key lists inline.
    fn again(&self, under_way: UnderWay) -> Result<UnderWay> {
        self.sent.forget();
        let UnderWay { message, request, packet, .. } = under_way;
        match request {
            ToShard::Get { origin, seen, peek, packs, .. } => self.ask_for(origin, seen, peek, message, packs),
            ToShard::Add { origin, sequence, sections } => {
                let mut old = BodyReader::new(packet.body);
                let mut body = BodyWriter::default();
                let sections = self.name_all(&message, &mut body, |at, body| {
                    let Section { keys, packing, .. } = &sections[at];
                    old.key_bytes(keys)?;
                    let piece = &message.pieces[at];
                    body.bytes(&old.packed_bytes(piece.element, piece.values(), *packing)?);
                    Ok(*packing)
                })?;
                self.send(message, ToShard::Add { origin, sequence, sections }, body)
            }
            _ => Err(Error::bug("a slave asks for keys where none were sent")),
        }
    }

    /// Tells of a clock, behind the updates that are under way; how many bytes that takes, and the answer.
    pub fn tell(&self, clock: &ToShard) -> Result<(usize, Pending)> {
        let packet = Packet::control(clock)?;
        Ok((packet.len(), self.start(packet)))
    }

    /// Writes what was queued for any slave. Not to be called within a runtime.
    pub fn flush(&self) {
        self.bulk.flush();
    }

    /// Sends what is not a worker's: chunks that move, and requests for rows.
    pub fn ask(&self, message: &ToShard, body: Bytes) -> Result<Pending> {
        Ok(self.start(Packet::bulk(message, body)?))
    }

    fn start(&self, packet: Packet) -> Pending {
        self.bulk.start(packet, DEADLINE).of(self.called.clone())
    }

    /// Seconds that messages take for a byte. The first time it is not known, and is measured beside. Called within the
    /// runtime.
    pub fn pace(&self) -> Option<f64> {
        self.pace.get_or_init(|| packed::measured(&self.bulk)).get().copied()
    }

    fn name_all(
        &self,
        message: &Message,
        body: &mut BodyWriter,
        mut values: impl FnMut(usize, &mut BodyWriter) -> Result<Packing>,
    ) -> Result<Vec<Section>> {
        let mut sections = Vec::with_capacity(message.pieces.len());
        for (at, piece) in message.pieces.iter().enumerate() {
            let keys = match (&piece.keys, &piece.of) {
                (PieceKeys::List(keys), None) => self.sent.name(keys, body)?,
                (PieceKeys::List(keys), Some(whole)) => self.sent.name_part(keys, whole, body)?,
                (PieceKeys::Range { start, count }, _) => KeyList::Range { start: *start, count: *count },
            };
            body.pad();
            let packing = values(at, body)?;
            body.pad();
            sections.push(Section { table: piece.table, element: piece.element, keys, packing });
        }
        Ok(sections)
    }

    fn send(&self, message: Message, request: ToShard, body: BodyWriter) -> Result<UnderWay> {
        let packet = Packet::bulk(&request, body.finish())?;
        let pending = Some(self.start(packet.clone()));
        Ok(UnderWay { message, request, packet, pending })
    }
}

impl UnderWay {
    /// The shard's number.
    pub fn shard(&self) -> u32 {
        self.message.shard
    }

    /// Bytes of the values that it brings or asks for.
    pub fn values(&self) -> usize {
        self.message.pieces.iter().map(|piece| piece.values() * piece.element.size()).sum()
    }

    /// What the values of an update took.
    pub fn packed(&self) -> PackUse {
        let ToShard::Add { sections, .. } = &self.request else { return PackUse::default() };
        let mut packed = PackUse::default();
        for (section, piece) in sections.iter().zip(&self.message.pieces) {
            piece.packed(section.packing, &mut packed);
        }
        packed
    }

    /// Bytes that were sent.
    pub fn bytes(&self) -> usize {
        self.packet.len()
    }

    /// The answer's future; to be taken once.
    pub fn pending(&mut self) -> Option<Pending> {
        self.pending.take()
    }

    /// The answer, if it has come and was not taken yet.
    fn answered(&mut self) -> Option<Result<Packet>> {
        self.pending.as_mut()?.try_answer()
    }

    /// Sends the same message again.
    fn once_more(self, link: &Link) -> Self {
        let pending = Some(link.start(self.packet.clone()));
        Self { pending, ..self }
    }

    /// What became of an update: None when the shard has it, else the message that was sent again.
    pub fn added(self, link: &Link, answer: &Packet) -> Result<Option<Self>> {
        match answer.message()? {
            FromShard::Added => Ok(None),
            FromShard::UnknownKeys => link.again(self).map(Some),
            FromShard::NotYet => Ok(Some(self.once_more(link))),
            _ => Err(Error::bug("something else came back for an update")),
        }
    }

    /// What became of a read whose values go to `out`.
    pub fn read(self, link: &Link, answer: Packet, out: &mut [ValuesMut<'_>]) -> Result<Answered> {
        let (shown, packings) = match answer.message()? {
            FromShard::UnknownKeys => return link.again(self).map(Answered::Again),
            FromShard::NotYet => return Ok(Answered::Again(self.once_more(link))),
            FromShard::Values { shown, packings } => (shown, packings),
            _ => return Err(Error::bug("no values came back for a read")),
        };
        let mut body = BodyReader::new(answer.body);
        let mut packed = PackUse::default();
        for (at, piece) in self.message.pieces.iter().enumerate() {
            // As bytes: wherever they lie in the message, they are copied once.
            let packing = packings.get(at).copied().unwrap_or_default();
            let values = body.unpacked_bytes(piece.element, piece.values(), packing)?;
            piece.packed(packing, &mut packed);
            link.packer.look(&values, piece.element);
            let (mut rest, out) = (&values[..], &mut out[piece.item]);
            if out.kind() != piece.element {
                return Err(Error::bug(format!("values of {} for {}", piece.element, out.kind())));
            }
            let key = piece.width * piece.element.size();
            for places in &piece.places {
                let (here, after) = rest.split_at(places.len() * key);
                out.bytes_mut()[places.start * key..places.end * key].copy_from_slice(here);
                rest = after;
            }
        }
        body.end()?;
        Ok(Answered::Values { shown, packed })
    }
}

/// What became of a read.
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub enum Answered {
    /// Its values came, which show all updates of clocks below `shown`.
    Values {
        /// The least clock that was not complete.
        shown: u64,
        /// What they took.
        packed: PackUse,
    },
    /// It was sent again.
    Again(UnderWay),
}

/// Messages under way, in order of sending.
#[derive(Default)]
pub struct Queue {
    messages: VecDeque<UnderWay>,
    /// Of their values, sent or asked for.
    pub bytes: usize,
}

impl Queue {
    /// Adds a message that was just sent.
    pub fn push(&mut self, message: UnderWay) {
        self.bytes += message.values();
        self.messages.push_back(message);
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The answer of the message that was sent first, if it has come; the message is to be taken then.
    pub fn answered(&mut self) -> Option<Result<Packet>> {
        self.messages.front_mut()?.answered()
    }

    /// Takes the message that was sent first.
    pub fn pop(&mut self) -> Option<UnderWay> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.values();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::JobId;
    use flexps_common::transport::{Connection, Service};
    use futures::future::BoxFuture;

    struct Full;

    impl Service for Full {
        fn call(&self, _: Connection, _: Packet) -> BoxFuture<'static, Result<Packet>> {
            Box::pin(async { Err(Error::cluster("/tmp: the disk is full")) })
        }
    }

    #[tokio::test]
    async fn what_a_shard_refuses_and_what_does_not_reach_it_both_name_its_slave_once() {
        let network = Network::in_process();
        let listener = network.listen("h2 bulk", Arc::new(Full)).await.unwrap();
        let peer = Peer { id: SlaveId(2), name: "h2".to_owned(), bulk: "h2 bulk".to_owned() };
        let link = Link::new(&network, &peer, None, Compression::None, "h1 bulk");
        let message = ToShard::Blocks { job: JobId(1), input: flexps_common::ids::InputId(0) };
        let says = async |pending: Pending| pending.answer().await.unwrap_err().message;
        assert_eq!(says(link.ask(&message, Bytes::new()).unwrap()).await, "slave s2 (h2): /tmp: the disk is full");
        let mut told = link.tell(&message).unwrap().1;
        let error = told.try_answer().expect("it is answered at once").unwrap_err();
        assert_eq!(error.message, "slave s2 (h2): /tmp: the disk is full");
        drop(listener);
        assert_eq!(says(link.ask(&message, Bytes::new()).unwrap()).await, "the connection to slave s2 (h2) is closed");
    }
}
