//! What a reader whose own queue is empty may take from others.
//!
//! Invariant: what is on the reader's host, and not the next thing of another slave, is taken at once; all else only
//! after a moment ([`Assigner::moment`]), in which slaves of the same speed come to it themselves. A split that is being
//! read is cut by its reader, who alone knows how far it is, so that no row is read twice.

use super::plan::{Distance, distance};
use super::{Assigner, Cut, Reader};
use flexps_common::data::Form;
use flexps_common::experiment::Splits;
use flexps_common::ids::SlaveId;
use flexps_common::wire::control::LEAST_PART;
use std::cmp::Reverse;
use std::time::Duration;

/// How long a reader that waits does so before it asks again.
const MOST: Duration = Duration::from_millis(20);
const LEAST: Duration = Duration::from_millis(2);

/// What there is to take.
pub enum Found {
    /// A split that was planned for a slave.
    Split(SlaveId, usize),
    /// A part of one that is being read.
    Cut(Cut),
    /// Something later.
    Later(Duration),
    /// Nothing any more.
    Nothing,
}

impl Assigner {
    /// What `thief` may take at `now`.
    pub(super) fn steal(&self, thief: SlaveId, now: Duration) -> Found {
        let Some(reader) = self.reader(thief) else { return Found::Nothing };
        if self.asked.values().any(|slave| *slave == thief) {
            return Found::Later(LEAST);
        }
        let pace = self.paces.get(&thief).copied().unwrap_or_default();
        // One that reads asks ahead: it has not begun to wait.
        let waited = pace.idle.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let left = self.moment(thief).saturating_sub(waited);
        let later = Found::Later(left.clamp(LEAST, MOST));
        let patient = pace.waited || (pace.idle.is_some() && left.is_zero());
        let (at_once, any) = self.planned(reader, patient);
        if let Some((victim, index)) = at_once {
            return Found::Split(victim, index);
        }
        if any {
            return later;
        }
        match self.slowest(thief, now) {
            Some(cut) if patient && pace.idle.is_some() => Found::Cut(cut),
            Some(_) => later,
            None => Found::Nothing,
        }
    }

    /// The best of what others have not taken, nearest first, then from who has the most bytes left; and whether there is
    /// anything for one who is patient.
    fn planned(&self, reader: &Reader, patient: bool) -> (Option<(SlaveId, usize)>, bool) {
        let (mut best, mut any) = (None, false);
        for (victim, queue) in &self.queues {
            let rest: u64 = queue.iter().map(|i| self.splits[*i].end - self.splits[*i].start).sum();
            for (place, index) in queue.iter().enumerate() {
                any = true;
                let distance = self.far(reader, *index);
                if !patient && (distance != Distance::Local || place == 0) {
                    continue;
                }
                let rank = (distance, Reverse((rest, *index)));
                if best.as_ref().is_none_or(|(least, _, _)| rank < *least) {
                    best = Some((rank, *victim, *index));
                }
            }
        }
        (best.map(|(_, victim, index)| (victim, index)), any)
    }

    /// How far a split is, as far as that counts: where nobody is nearer, it is as good as local.
    pub(super) fn far(&self, reader: &Reader, index: usize) -> Distance {
        let far = distance(reader, &self.splits[index], &self.racks);
        if self.rules.splits == Splits::Random || self.nearest[index] == far { Distance::Local } else { far }
    }

    /// The split to cut: of the slave that will take longest for what it has, the last that it took. Its reader keeps what
    /// it reads in the time in which the thief reads the rest.
    fn slowest(&self, thief: SlaveId, now: Duration) -> Option<Cut> {
        let mut longest: Option<(f64, Cut)> = None;
        for reader in self.readers.iter().filter(|r| r.slave != thief && !self.gone.contains(&r.slave)) {
            let unread = self.unread(reader.slave);
            let free = |index: &&usize| !self.asked.contains_key(*index) && !self.kept.contains(*index);
            let Some(index) = unread.iter().rev().find(free) else { continue };
            let split = &self.splits[*index];
            // A compressed file is given whole or not at all; a small split is not worth the asking.
            let begun = unread.first() == Some(index);
            if begun && (split.form != Form::Text || split.end - split.start < 2 * LEAST_PART) {
                continue;
            }
            let rate = self.rate(reader.slave, now).unwrap_or(f64::MIN_POSITIVE);
            let seconds = self.bytes(unread) as f64 / rate;
            let keep = self.rate(thief, now).map_or(0.5, |own| rate / (rate + own));
            if longest.as_ref().is_none_or(|(most, _)| seconds > *most) {
                longest = Some((seconds, Cut { slave: reader.slave, index: *index as u32, keep }));
            }
        }
        longest.map(|(_, cut)| cut)
    }
}
