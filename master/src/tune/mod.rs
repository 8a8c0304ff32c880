//! How many threads a stage that repeats is to have, found by trying: what `auto` and `offline` threads are.
//!
//! Pure: the job's driver says how long a run took, and asks for the next one's threads. The first run, which finds caches
//! cold, is not measured; then three counts are tried, T(p) is fitted through them, and the count is taken that the fit says
//! is best. What runs then is watched: each run makes the fit surer, a count that may be better after all is tried again as
//! long as trying takes a small part of the stage's time, and when runs no longer take what they took, all is tried anew.
//! What a count costs is the mean of its runs, since a job pays their sum; but how often a run comes that takes far longer than
//! others, a few runs can't tell: no run counts more than two medians, and the slowest no more than the next.
//! Among counts that the runs can't tell apart it stays at the one that it has, unless a smaller one costs no more: threads
//! that are not needed take slots from others.
//! Invariants: a count is within the limits that were given; the same runs give the same counts.

mod fit;
pub mod searches;
mod stages;

#[cfg(test)]
mod tests;

pub use fit::Fit;
pub use stages::Tuners;

use flexps_common::curve::Optimize;
use flexps_common::report::{ThreadsReport, Tried};
use std::collections::{BTreeMap, VecDeque};

/// Runs of a count that are remembered.
const REMEMBERED: usize = 32;
/// Medians that a run counts as, at most.
const SLOWEST: f64 = 2.0;
/// The part of a stage's time that doubts may take, beside the first tries.
const DOUBTS: f64 = 0.03;
/// Runs of a count before what is usual for it is known.
const USUAL: usize = 5;
/// Unusual runs in a row, all slower or all faster, before all is tried anew; twice as many each time. What runs beside a stage
/// for a moment slows some in a row down too, and counts that are tried in such a moment look worse than they are.
const UNUSUAL: usize = 8;
/// The same when all take more than [`FAR`] times as long as usual, or as much less.
const STRIKING: usize = 3;
const FAR: f64 = 3.0;
/// How often they double.
const PATIENCE: u64 = 5;
/// A run that is off by less of its time is not unusual.
const OFF: f64 = 0.25;
/// The part by which a count may cost more than the best one and still be taken, if their runs can't tell them apart.
const NEAR: f64 = 0.03;
/// Runs of each count in an exhaustive search.
const SEARCHED: usize = 3;

/// How counts are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A few are tried, the fit says the rest.
    Fitted,
    /// All are tried; what is known of earlier jobs counts.
    Searched,
}

/// What is known of one stage.
#[derive(Debug, Clone)]
pub struct Tuner {
    way: Way,
    optimize: Optimize,
    /// Seconds of the last runs, by count.
    seen: BTreeMap<u32, VecDeque<f64>>,
    fit: Option<Fit>,
    /// The count that it has, once there is one.
    chosen: Option<u32>,
    /// The limits of the run that was asked for last.
    limits: (u32, u32),
    /// Of the slaves that it may have.
    cores: u32,
    runs: u64,
    seconds: f64,
    tries: u64,
    tried_seconds: f64,
    unusual: Vec<f64>,
    restarts: u64,
}

/// What a count is expected to cost.
#[derive(Debug, Clone, Copy)]
struct Priced {
    threads: u32,
    price: f64,
    /// One standard deviation, as a part of it.
    off: f64,
}

impl Tuner {
    /// A tuner that knows nothing yet, or what an earlier search found: seconds of runs by count.
    pub fn new(way: Way, optimize: Optimize, known: BTreeMap<u32, Vec<f64>>) -> Self {
        let seen = known.into_iter().map(|(threads, runs)| (threads, runs.into())).collect();
        let mut tuner = Self {
            way,
            optimize,
            seen,
            fit: None,
            chosen: None,
            limits: (1, 1),
            cores: 1,
            runs: 0,
            seconds: 0.0,
            tries: 0,
            tried_seconds: 0.0,
            unusual: Vec::new(),
            restarts: 0,
        };
        tuner.refit();
        tuner
    }

    /// The threads of the next run, at least and at most as the limits say, on slaves with so many cores.
    pub fn next(&mut self, (least, most): (u32, u32), cores: u32) -> u32 {
        let most = most.max(least);
        (self.limits, self.cores) = ((least, most), cores);
        if self.runs == 0 && self.seen.is_empty() {
            return most;
        }
        if let Some(untried) = self.untried() {
            return untried;
        }
        let best = self.best();
        match self.way {
            Way::Fitted if self.seen.contains_key(&best) => self.doubted(best).unwrap_or(best),
            _ => best,
        }
    }

    /// A run took so long; `measured` says whether that tells what another would take.
    pub fn ran(&mut self, threads: u32, seconds: f64, measured: bool) {
        // The first one finds caches cold.
        let measured = measured && self.runs > 0;
        self.runs += 1;
        self.seconds += seconds;
        if !measured || seconds <= 0.0 || !seconds.is_finite() {
            return;
        }
        if self.untried() == Some(threads) || threads != self.best() || !self.seen.contains_key(&threads) {
            self.tries += 1;
            self.tried_seconds += seconds;
        }
        if self.way == Way::Fitted {
            self.watch(threads, seconds);
        }
        let runs = self.seen.entry(threads).or_default();
        runs.push_back(seconds);
        if runs.len() > REMEMBERED {
            runs.pop_front();
        }
        self.refit();
        self.chosen = if self.untried().is_none() { Some(self.best()) } else { None };
    }

    /// What was tried, found and chosen.
    pub fn report(&self, stage: &str) -> ThreadsReport {
        let tried = |(threads, runs): (&u32, &VecDeque<f64>)| Tried {
            threads: *threads,
            runs: runs.len() as u64,
            seconds: mean(runs),
        };
        let chosen = self.best();
        ThreadsReport {
            stage: stage.to_owned(),
            way: if self.way == Way::Fitted { "auto" } else { "offline" }.to_owned(),
            optimize: self.optimize.to_string(),
            limits: self.limits,
            tried: self.seen.iter().map(tried).collect(),
            curve: self.fit.as_ref().map(|fit| fit.curve),
            error: self.fit.as_ref().map(|fit| fit.error),
            threads: chosen,
            expected_seconds: self.expected(chosen).map(|(seconds, _)| seconds),
            tries: self.tries,
            tried_seconds: self.tried_seconds,
            seconds: self.seconds,
            restarts: self.restarts,
        }
    }

    /// Seconds of the runs that it remembers, by count: what a later search goes on with.
    pub fn known(&self) -> BTreeMap<u32, Vec<f64>> {
        self.seen.iter().map(|(threads, runs)| (*threads, runs.iter().copied().collect())).collect()
    }

    fn refit(&mut self) {
        let runs: Vec<(u32, f64)> =
            self.seen.iter().flat_map(|(threads, runs)| runs.iter().map(|seconds| (*threads, *seconds))).collect();
        self.fit = Fit::of(&runs);
    }

    /// A count that must be tried before anything can be said.
    fn untried(&self) -> Option<u32> {
        let (least, most) = self.limits;
        let runs = |threads: u32| self.seen.get(&threads).map_or(0, VecDeque::len);
        if self.way == Way::Searched {
            let next = (least..=most).rev().min_by_key(|threads| runs(*threads));
            return next.filter(|threads| runs(*threads) < SEARCHED);
        }
        // Near enough to a limit is as good as on it: limits change with the slots that are free.
        let any = |from: u32, to: u32| self.seen.range(from.min(to)..=to).next().is_some();
        let wide = most - least;
        let (low, high) = (least + (least / 3).min(wide / 8), most - wide / 4);
        if !any(high, u32::MAX) {
            return Some(most);
        }
        if !any(0, low) {
            return Some(least);
        }
        let between = |threads: u32| low < threads && threads < high;
        // Where there are more slots than cores, what computes is as fast as it gets on as many as the cores, which the
        // curve can't tell from counts far from there.
        let usual = (f64::from(least) * f64::from(most)).sqrt().round() as u32;
        let middle = if between(self.cores) { self.cores } else { usual };
        (between(middle) && !any(low + 1, high - 1)).then_some(middle)
    }

    /// The prices of all counts, each with the part of it that it may be off.
    fn prices(&self) -> impl Iterator<Item = Priced> {
        let (least, most) = self.limits;
        (least..=most).filter_map(|threads| {
            let (seconds, deviation) = self.expected(threads)?;
            Some(Priced { threads, price: self.optimize.price(threads, seconds), off: deviation / seconds })
        })
    }

    /// The count with the least price; or of those that can't be told from it, and cost little more if they can, the one that
    /// it has, unless a smaller one costs no more.
    fn best(&self) -> u32 {
        let all: Vec<Priced> = self.prices().collect();
        let Some(lowest) = all.iter().min_by(|a, b| a.price.total_cmp(&b.price)) else { return self.limits.1 };
        // As long as nobody knows how far runs differ, what the fit says is taken as it is.
        let part = if self.fit.as_ref().is_some_and(|fit| fit.told) { NEAR } else { 0.0 };
        let near = |one: &&Priced| one.price <= lowest.price * (1.0 + one.off.hypot(lowest.off).min(part));
        let has = all.iter().filter(near).find(|one| Some(one.threads) == self.chosen);
        let most = has.map_or(f64::INFINITY, |has| has.price);
        // What the fit alone says of a count is no reason to take it for its size.
        let tried = |one: &&Priced| self.seen.contains_key(&one.threads) && one.price <= most;
        let taken = has.unwrap_or(lowest);
        all.iter().filter(near).find(tried).filter(|one| one.threads < taken.threads).unwrap_or(taken).threads
    }

    /// A count whose price may be below all that is known, if there is time for doubts.
    fn doubted(&self, best: u32) -> Option<u32> {
        if self.tried_seconds > DOUBTS * self.seconds {
            return None;
        }
        let price = self.prices().map(|one| one.price).fold(f64::INFINITY, f64::min);
        let lowest = |one: Priced| {
            let tried = self.seen.get(&one.threads).map_or(0, VecDeque::len) as f64;
            // A few slow runs must not speak against a count for ever: the more runs there were of others, the less is
            // known of it.
            let doubts = (2.0 * (self.runs as f64 / (tried + 1.0)).ln()).max(0.0).sqrt();
            let lowest = one.price * (1.0 - doubts * one.off);
            (one.threads != best && lowest < price).then_some((one.threads, lowest))
        };
        self.prices().filter_map(lowest).min_by(|a, b| a.1.total_cmp(&b.1)).map(|(threads, _)| threads)
    }

    /// Seconds of a run, and their deviation. Of a count that was tried little a slow run is thought to be rare, so that it is
    /// tried again, and the fit counts as one more run.
    fn expected(&self, threads: u32) -> Option<(f64, f64)> {
        let runs = self.seen.get(&threads);
        if self.way == Way::Searched {
            return runs.map(|runs| (mean(runs), 0.0));
        }
        let fit = self.fit.as_ref()?;
        let fitted = fit.curve.seconds(threads);
        let Some(runs) = runs else { return Some((fitted, fit.deviation(threads).hypot(fit.error * fitted))) };
        let seconds =
            if runs.len() < USUAL { middle(&sorted(runs.iter().copied().chain([fitted]))) } else { mean(runs) };
        Some((seconds, fit.error * seconds / (runs.len() as f64 + 1.0).sqrt()))
    }

    /// Forgets all when the last runs of a count were not what is usual for it.
    fn watch(&mut self, threads: u32, seconds: f64) {
        let Some(runs) = self.seen.get(&threads).filter(|runs| runs.len() >= USUAL) else {
            return self.unusual.clear();
        };
        let usual = middle(&sorted(runs.iter().copied()));
        let off = sorted(runs.iter().map(|run| (run - usual).abs()));
        // The median of normal deviations is 0.67 of their standard deviation.
        if (seconds - usual).abs() <= (OFF * usual).max(3.0 * 1.48 * middle(&off)) {
            return self.unusual.clear();
        }
        if self.unusual.last().is_some_and(|last| (*last < usual) != (seconds < usual)) {
            self.unusual.clear();
        }
        self.unusual.push(seconds);
        // What made it try anew before may be mere noise.
        let striking = |run: &f64| *run > FAR * usual || *run * FAR < usual;
        let enough = if self.unusual.iter().all(striking) { STRIKING } else { UNUSUAL };
        if self.unusual.len() >= enough << self.restarts.min(PATIENCE) {
            self.seen.clear();
            // The last one is noted by who called.
            self.unusual.pop();
            self.seen.insert(threads, std::mem::take(&mut self.unusual).into());
            self.restarts += 1;
        }
    }
}

/// The mean of runs of which none counts more than [`SLOWEST`] medians, and the slowest no more than the next; 0 of nothing.
fn mean(runs: &VecDeque<f64>) -> f64 {
    let sorted = sorted(runs.iter().copied());
    let Some(next) = sorted.get(sorted.len().saturating_sub(2)) else { return 0.0 };
    let most = next.min(SLOWEST * middle(&sorted));
    sorted.iter().map(|seconds| seconds.min(most)).sum::<f64>() / sorted.len() as f64
}

fn sorted(runs: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sorted: Vec<f64> = runs.collect();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The median of runs in order; of an even number the lower of the middle two, since what disturbs a run makes it slower; 0
/// of nothing.
fn middle(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}
