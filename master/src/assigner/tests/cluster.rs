//! Slaves that read in virtual time, as real ones do: each asks for its next split when it begins one, waits as it is told,
//! and gives away what it has not begun to read.
//!
//! Invariant: what happens depends on the assigner, the speeds and the seed alone.

use crate::assigner::{Assigner, Next};
use flexps_common::data::Form;
use flexps_common::ids::SlaveId;
use flexps_common::wire::control::{LEAST_PART, Split};
use std::time::Duration;

/// Bytes that a reader has claimed ahead of what it has read.
const AHEAD: f64 = 65536.0;
/// Seconds that a slave takes to answer.
const ANSWER: f64 = 0.001;

/// A slave that reads.
#[derive(Debug)]
pub struct Slave {
    id: SlaveId,
    /// Bytes a second that it reads.
    speed: f64,
    held: Vec<Part>,
    read: u64,
    asks: Option<f64>,
    /// When it is to answer what it was asked: split, share to keep.
    gives: Vec<(f64, u32, f64)>,
    /// When it is gone.
    dies: Option<f64>,
    /// What it has read to the end.
    pub done: Vec<Split>,
}

#[derive(Debug)]
struct Part {
    split: Split,
    began: Option<f64>,
}

impl Slave {
    /// One that reads so many bytes a second, and is gone after `dies` seconds, if ever.
    pub fn new(id: SlaveId, speed: f64, dies: Option<f64>) -> Self {
        let (held, gives, done) = (Vec::new(), Vec::new(), Vec::new());
        Self { id, speed, held, read: 0, asks: Some(0.0), gives, dies, done }
    }

    fn finishes(&self) -> Option<f64> {
        let part = self.held.first()?;
        Some(part.began? + (part.split.end - part.split.start) as f64 / self.speed)
    }

    /// The next thing that happens to it.
    fn next(&self) -> Option<f64> {
        let give = self.gives.iter().map(|(at, _, _)| *at);
        give.chain(self.finishes()).chain(self.asks).chain(self.dies).min_by(f64::total_cmp)
    }

    /// Begins the first of what it has, and asks for the next.
    fn begin(&mut self, now: f64) {
        while self.held.first().is_some_and(|part| part.split.start == part.split.end) {
            self.held.remove(0);
            self.read += 1;
            self.asks = Some(now);
        }
        if let Some(part) = self.held.first_mut().filter(|part| part.began.is_none()) {
            part.began = Some(now);
            self.asks = Some(now);
        }
    }

    fn give(&mut self, index: u32, keep: f64, now: f64) -> Option<u64> {
        let speed = self.speed;
        let Part { split, began } = self.held.iter_mut().find(|part| part.split.index == index)?;
        let end = match began {
            None => split.start,
            Some(_) if split.form != Form::Text => return None,
            Some(began) => {
                let at = (split.start + (speed * (now - *began) + AHEAD) as u64).min(split.end);
                let rest = split.end - at;
                at + ((rest as f64 * keep) as u64).min(rest.checked_sub(LEAST_PART)?)
            }
        };
        split.end = end;
        Some(end)
    }
}

/// Lets the slaves read all that there is, and returns how many seconds that took. Nobody is told the end before all is read,
/// and nobody goes after that.
pub fn read(assigner: &mut Assigner, slaves: &mut Vec<Slave>) -> f64 {
    let (mut end, mut told) = (0.0_f64, false);
    for _ in 0..10_000_000 {
        let times = slaves.iter().enumerate().filter_map(|(place, slave)| Some((slave.next()?, place)));
        let Some((now, place)) = times.min_by(|a, b| a.0.total_cmp(&b.0)) else { return end };
        let slave = &mut slaves[place];
        if slave.dies.take_if(|at| *at <= now).is_some() {
            if !told {
                let id = slaves.remove(place).id;
                assigner.give_back(id);
            }
        } else if let Some(at) = slave.gives.iter().position(|(at, _, _)| *at <= now) {
            let (_, index, keep) = slave.gives.remove(at);
            let kept = slave.give(index, keep, now);
            assigner.kept(index, kept);
        } else if slave.finishes().is_some_and(|at| at <= now) {
            let part = slave.held.remove(0);
            slave.done.push(part.split);
            slave.read += 1;
            slave.begin(now);
            end = end.max(now);
        } else {
            slave.asks = None;
            match assigner.next(slave.id, slave.read, Duration::from_secs_f64(now)) {
                Next::Split(split) => slave.held.push(Part { split, began: None }),
                Next::Wait(wait) => slave.asks = Some(now + wait.as_secs_f64()),
                Next::Cut(cut) => {
                    slave.asks = Some(now + 2.0 * ANSWER);
                    let other = slaves.iter_mut().find(|slave| slave.id == cut.slave);
                    other.into_iter().for_each(|other| other.gives.push((now + ANSWER, cut.index, cut.keep)));
                    continue;
                }
                Next::End if assigner.is_read() => told = true,
                Next::End => {
                    let pause = assigner.pause(slave.id, Duration::from_secs_f64(now));
                    slave.asks = Some(now + pause.as_secs_f64());
                }
            }
            slave.begin(now);
        }
    }
    f64::INFINITY
}
