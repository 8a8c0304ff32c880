//! How values go to another slave and come from it: raw, or packed.
//!
//! Under `auto` the link is asked first what it takes for a byte, by the times of a small and a large message, then some of
//! the values that go anyway are packed and unpacked beside. Invariants: under `auto` values go raw until both are known and
//! packing is found to take less time, always to a slave on the same host, and never rounded.

use bytes::Bytes;
use flexps_common::error::Result;
use flexps_common::plan::Compression;
use flexps_common::transport::{Channel, Packet};
use flexps_common::value::Type;
use flexps_common::wire::body::BodyWriter;
use flexps_common::wire::kv::ToShard;
use flexps_common::wire::packing::{Pack, Packing, pack, unpack};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Bytes of the larger message; the least time of so many counts.
const PROBE: usize = 1 << 20;
const TIMES: usize = 3;
/// How long a message may take before the link is left unmeasured.
const DEADLINE: Duration = Duration::from_secs(30);
/// So many parts are looked at first, then one of so many.
const FIRST: u64 = 16;
const EVERY: u64 = 64;
/// Bytes that are remembered of those that were looked at; the older ones count ever less.
const MEMORY: f64 = (1 << 20) as f64;
/// Packing must take so much less time.
const WORTH: f64 = 0.95;

/// See the module.
pub struct Packer {
    asked: Compression,
    /// Seconds that the link takes for a byte, once that is measured.
    pace: Arc<OnceLock<f64>>,
    looked: Mutex<Looked>,
}

/// Parts that were packed to see what it is worth.
#[derive(Default)]
struct Looked {
    parts: u64,
    raw: f64,
    packed: f64,
    seconds: f64,
}

impl Packer {
    /// For a link to a slave on the same host, or on another one. Under `auto` called within the runtime.
    pub fn new(asked: Compression, channel: &Channel, same_host: bool) -> Self {
        let measures = asked == Compression::Auto && !same_host;
        let pace = if measures { measured(channel) } else { Arc::default() };
        Self { asked, pace, looked: Mutex::default() }
    }

    /// Whether it was asked for anything.
    pub fn is_on(&self) -> bool {
        self.asked != Compression::None
    }

    /// How values go now that may be rounded, or may not.
    pub fn way(&self, may_round: bool) -> Pack {
        match self.asked {
            Compression::F16 if may_round => Pack::Half,
            Compression::None | Compression::F16 => Pack::Raw,
            Compression::Lz4 => Pack::Lz4,
            Compression::Auto => match self.pace.get() {
                Some(pace) if self.looked.lock().pays(*pace) => Pack::Lz4,
                _ => Pack::Raw,
            },
        }
    }

    /// Packs the last part of a body, from here on: values that may be rounded, or may not.
    pub fn pack(&self, body: &mut BodyWriter, start: usize, element: Type, may_round: bool) -> Packing {
        let places = start..body.len();
        self.look(&body.written()[places.clone()], element);
        body.pack(places, element, self.way(may_round))
    }

    /// Packs a body of chunks with elements like these.
    pub fn pack_chunks(&self, body: Bytes, element: Type) -> (Packing, Bytes) {
        self.look(&body, element);
        match pack(&body, element, self.way(false)) {
            Some((packing, packed)) => (packing, packed.into()),
            None => (Packing::Raw, body),
        }
    }

    /// Some values go, or have come: whether to pack such values pays, as far as that is the question.
    pub fn look(&self, values: &[u8], element: Type) {
        if self.asked != Compression::Auto || self.pace.get().is_none() || values.is_empty() {
            return;
        }
        let mut looked = self.looked.lock();
        looked.parts += 1;
        if looked.parts > FIRST && !looked.parts.is_multiple_of(EVERY) {
            return;
        }
        drop(looked);
        let start = Instant::now();
        let packed = pack(values, element, Pack::Lz4);
        if let Some((packing, packed)) = &packed {
            let _ = unpack(packed, *packing, element, values.len() / element.size());
        }
        let seconds = start.elapsed().as_secs_f64();
        self.looked.lock().add(values.len(), packed.map_or(values.len(), |(_, packed)| packed.len()), seconds);
    }
}

impl Looked {
    fn add(&mut self, raw: usize, packed: usize, seconds: f64) {
        self.raw += raw as f64;
        self.packed += packed as f64;
        self.seconds += seconds;
        if self.raw > MEMORY {
            let share = MEMORY / self.raw;
            [&mut self.raw, &mut self.packed, &mut self.seconds].into_iter().for_each(|sum| *sum *= share);
        }
    }

    fn pays(&self, pace: f64) -> bool {
        self.seconds + self.packed * pace < WORTH * self.raw * pace
    }
}

/// Seconds that a link takes for a byte, once they are measured. Called within the runtime.
pub fn measured(channel: &Channel) -> Arc<OnceLock<f64>> {
    let (pace, channel) = (Arc::new(OnceLock::new()), channel.clone());
    let found = pace.clone();
    tokio::spawn(async move {
        match measure(&channel).await {
            Ok(measured) => drop(found.set(measured)),
            Err(error) => tracing::debug!(peer = &**channel.peer(), %error, "a link can't be measured"),
        }
    });
    pace
}

/// The same of one link.
async fn measure(channel: &Channel) -> Result<f64> {
    let mut least = [Duration::MAX; 2];
    for _ in 0..TIMES {
        for (least, bytes) in least.iter_mut().zip([0, PROBE]) {
            let packet = Packet::bulk(&ToShard::Probe, Bytes::from(vec![0; bytes]))?;
            let start = Instant::now();
            channel.call(packet, DEADLINE).await?;
            *least = (*least).min(start.elapsed());
        }
    }
    Ok(least[1].saturating_sub(least[0]).as_secs_f64() / PROBE as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::value::Values;
    use xxhash_rust::xxh3::xxh3_64;

    /// Under `auto` on a link of so many bytes a second, behind a look at some values.
    fn way(rate: f64, values: &[f32]) -> Pack {
        let pace = Arc::new(OnceLock::from(1.0 / rate));
        let packer = Packer { asked: Compression::Auto, pace, looked: Mutex::default() };
        for _ in 0..FIRST {
            packer.look(Values::F32(values).bytes(), Type::F32);
        }
        packer.way(false)
    }

    #[test]
    fn auto_packs_what_gets_smaller_on_a_slow_link_alone() {
        let alike: Vec<f32> = (0..32_768).map(|at| (at / 64) as f32).collect();
        let mixed = |at: u32| f32::from_bits(xxh3_64(&at.to_le_bytes()) as u32);
        let random: Vec<f32> = (0..32_768).map(mixed).collect();
        assert_eq!(way(1e5, &alike), Pack::Lz4);
        assert_eq!(way(1e5, &random), Pack::Raw);
        // No machine packs a terabyte a second.
        assert_eq!(way(1e12, &alike), Pack::Raw);
    }

    #[test]
    fn auto_packs_nothing_before_the_link_is_measured() {
        let packer = Packer { asked: Compression::Auto, pace: Arc::default(), looked: Mutex::default() };
        packer.look(&[0; 4096], Type::F32);
        assert_eq!((packer.way(true), packer.looked.lock().parts), (Pack::Raw, 0));
    }
}
