//! How many workers of a slave take consumed rows: the first one alone, and one more whenever those that take can't keep up
//! with the reading while parsers leave cores idle.
//!
//! What several workers learn has to be brought together, and none of them knows what the others have just seen: one that
//! keeps up costs least. One that takes hears of the next one a block before it begins, to leave for it what it needs to
//! know. Invariant: there is always one that may take, and beside that one no more than have come; where blocks wait and nobody
//! takes them, the next worker may before long.

use flexps_common::machine;
use std::time::{Duration, Instant};

/// A time that is looked at: long enough for the first worker to have got going.
const WINDOW: Duration = Duration::from_millis(100);
/// The part of it for which reading must have been held up and a core idle: less would not pay for bringing together what
/// two have learnt.
const PART: u32 = 3;

/// Such times in which nobody took a block: then none comes to hear of the next worker.
const IN_VAIN: u32 = 5;

/// The worker that is to take from now on too.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Next {
    /// None is.
    No,
    /// Those that take are to hear of it.
    Called,
    /// One of them has.
    Told,
}

/// Who may take; see the module. Times are those that passed, not the processor's: where others use the cores too, it holds
/// up parsers and takers alike.
#[derive(Debug)]
pub struct Takers {
    cores: u32,
    count: usize,
    /// How many have come.
    came: usize,
    next: Next,
    /// When the first worker came, or the time began that is looked at.
    since: Option<Instant>,
    /// How long reading was held up since then, but for a time that has not ended.
    held_up: Duration,
    /// Since when it is.
    waits: Option<Instant>,
    /// How long parsers were at work, together.
    parsing: Duration,
    /// Whether a block was taken.
    taken: bool,
    /// For how many such times none was.
    in_vain: u32,
}

impl Default for Takers {
    /// One, on this machine.
    fn default() -> Self {
        Self::new(machine::cores())
    }
}

impl Takers {
    /// One, on a machine of so many cores.
    fn new(cores: u32) -> Self {
        let none = Duration::ZERO;
        Self {
            cores,
            count: 1,
            came: 0,
            next: Next::No,
            since: None,
            held_up: none,
            waits: None,
            parsing: none,
            taken: false,
            in_vain: 0,
        }
    }

    /// How many may, and the one that is about to.
    pub fn count(&self) -> usize {
        self.count + usize::from(self.next != Next::No)
    }

    /// Whether the worker of this number may take.
    pub fn has(&self, worker: usize) -> bool {
        worker < self.count
    }

    /// A worker has come for rows. Whether one more may take from now on.
    pub fn come(&mut self, worker: usize, now: Instant) -> bool {
        self.came = self.came.max(worker + 1);
        if self.since.is_none() {
            self.restart(now);
        }
        match self.next {
            Next::Called if self.has(worker) => self.next = Next::Told,
            Next::Told if self.has(worker) => return self.grow(),
            _ => {}
        }
        false
    }

    fn grow(&mut self) -> bool {
        (self.next, self.in_vain) = (Next::No, 0);
        self.count += 1;
        true
    }

    /// Reading is held up by blocks that nobody takes, or over while there are some.
    pub fn wait(&mut self, now: Instant) {
        self.waits.get_or_insert(now);
    }

    /// It goes on.
    pub fn go_on(&mut self, now: Instant) {
        self.held_up += self.waits.take().map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    }

    /// A parser made a block in this time.
    pub fn parsed(&mut self, time: Duration) {
        self.parsing += time;
    }

    /// A block was taken.
    pub fn took(&mut self) {
        self.taken = true;
    }

    /// Looks whether one more is needed. Whether one may take from now on: one that was called, when none of those that take
    /// comes to hear of it.
    pub fn look(&mut self, now: Instant) -> bool {
        let Some(since) = self.since else { return false };
        let all = now.saturating_duration_since(since);
        if all < WINDOW {
            return false;
        }
        let held_up = self.held_up + self.waits.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let left = all * self.cores.saturating_sub(self.count as u32);
        let idle = !self.taken || left >= self.parsing + all / PART;
        self.in_vain = if self.taken { 0 } else { self.in_vain + 1 };
        self.restart(now);
        if self.next != Next::No {
            return self.in_vain > IN_VAIN && self.grow();
        }
        if idle && held_up >= all / PART && self.count < self.came {
            self.next = Next::Called;
        }
        false
    }

    fn restart(&mut self, now: Instant) {
        self.since = Some(now);
        (self.held_up, self.parsing, self.taken) = (Duration::ZERO, Duration::ZERO, false);
        self.waits = self.waits.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How many take after two seconds, in which each block's reading is held up and parsed for so many milliseconds of ten.
    fn after(cores: u32, held_up: u32, parsing: u32) -> usize {
        after_of(cores, cores as usize, (held_up, parsing))
    }

    /// The same where there are so many workers.
    fn after_of(cores: u32, workers: usize, (held_up, parsing): (u32, u32)) -> usize {
        let (mut takers, mut now) = (Takers::new(cores), Instant::now());
        takers.come(workers - 1, now);
        for _ in 0..200 {
            takers.come(0, now);
            takers.took();
            takers.parsed(parsing * MS);
            takers.wait(now);
            takers.go_on(now + held_up * MS);
            now += 10 * MS;
            takers.look(now);
        }
        assert!((0..takers.count).all(|worker| takers.has(worker)) && !takers.has(takers.count));
        takers.count
    }

    #[test]
    fn one_takes_alone_as_long_as_it_keeps_up_and_another_comes_when_it_does_not() {
        assert_eq!(after(2, 2, 1), 1, "a fifth of the time is nothing");
        assert_eq!(after(2, 5, 3), 2);
        assert_eq!(after(2, 5, 9), 1, "parsers need the other core");
        assert_eq!(after(8, 5, 9), 7);
        assert_eq!(after(1, 9, 1), 1);
        assert_eq!(after_of(8, 2, (9, 1)), 2, "there are no more");
    }

    #[test]
    fn what_nobody_takes_at_all_is_before_long_for_the_next_one() {
        let (mut takers, start) = (Takers::new(1), Instant::now());
        takers.wait(start);
        assert!(!takers.look(start + 1000 * MS), "no worker has come");
        let start = start + 1000 * MS;
        assert!(!takers.come(5, start));
        for worker in 1..5 {
            let then = start + worker * (IN_VAIN + 1) * WINDOW;
            assert!((1..=IN_VAIN).rev().all(|window| !takers.look(then - window * WINDOW)));
            assert!(takers.look(then) && !takers.look(then));
            assert!(takers.has(worker as usize) && !takers.has(worker as usize + 1));
        }
    }

    #[test]
    fn who_takes_hears_of_the_next_one_a_block_before_it_begins() {
        let (mut takers, now) = (Takers::new(4), Instant::now());
        takers.come(0, now);
        takers.come(1, now);
        takers.wait(now);
        takers.look(now + WINDOW);
        assert!(takers.count() == 2 && !takers.has(1));
        assert!(!takers.come(1, now + WINDOW) && !takers.come(0, now + WINDOW) && !takers.has(1));
        assert!(takers.come(0, now + WINDOW) && takers.count() == 2 && takers.has(1));
    }
}
