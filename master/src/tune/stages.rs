//! The tuners of a job's stages.
//!
//! Invariant: a stage has one if its plan leaves its threads to the engine, and the job need not repeat its bits.

use super::searches::Known;
use super::{Tuner, Way};
use flexps_common::curve::Optimize;
use flexps_common::plan::{Plan, Threads};
use flexps_common::report::ThreadsReport;
use std::collections::BTreeMap;

/// Tuners by the stage's place in the plan.
#[derive(Debug, Default)]
pub struct Tuners(BTreeMap<u32, (String, Tuner)>);

impl Tuners {
    /// Those of a plan, with what earlier searches found.
    pub fn of(plan: &Plan, optimize: Optimize, mut known: Known) -> Self {
        let mut tuners = BTreeMap::new();
        for (place, stage) in (0..).zip(plan.stages()) {
            let way = match stage.threads {
                Threads::Auto => Way::Fitted,
                Threads::Offline => Way::Searched,
                _ => continue,
            };
            let known = if way == Way::Searched { known.remove(&place) } else { None };
            tuners.insert(place, (stage.name.clone(), Tuner::new(way, optimize, known.unwrap_or_default())));
        }
        Self(tuners)
    }

    /// The threads of a stage's next run within the limits, on slaves with so many cores; none where nothing is tried.
    pub fn next(&mut self, stage: u32, limits: (u32, u32), cores: u32) -> Option<u32> {
        self.0.get_mut(&stage).map(|(_, tuner)| tuner.next(limits, cores))
    }

    /// A run of a stage ended; `measured` says whether another one would take as long.
    pub fn ran(&mut self, stage: u32, threads: u32, seconds: f64, measured: bool) {
        if let Some((_, tuner)) = self.0.get_mut(&stage) {
            tuner.ran(threads, seconds, measured);
        }
    }

    /// What was found for each stage that ran.
    pub fn report(&self) -> Vec<ThreadsReport> {
        self.0.values().map(|(name, tuner)| tuner.report(name)).filter(|report| !report.tried.is_empty()).collect()
    }

    /// What searches found, for later jobs.
    pub fn searched(&self) -> Known {
        let searched = self.0.iter().filter(|(_, (_, tuner))| tuner.way == Way::Searched);
        searched.map(|(place, (_, tuner))| (*place, tuner.known())).filter(|(_, known)| !known.is_empty()).collect()
    }
}
