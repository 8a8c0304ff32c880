//! `flexps workload run`: the jobs of a workload on a live cluster, once per policy.
//!
//! Invariant: the next policy begins when every job of the one before has ended, and none is compared whose records are not
//! whole.

use super::args::RunArgs;
use super::file::{self, WorkFile};
use super::play::{Played, Submitted, leave, play, unless_interrupted};
use super::show::{Comparison, Outcome};
use super::{picture, recorded};
use crate::cli::args::{Access, given};
use crate::cli::client::Client;
use crate::cli::file::end_when_told;
use crate::cli::interrupt::Interrupt;
use crate::cli::node::Embedded;
use crate::cli::terminal::say;
use crate::sleep::{Nap, Sleep};
use crate::told::count;
use flexps_common::curve::Curve;
use flexps_common::job::{DynJob, Prepare, Registry};
use flexps_common::plan::{self, Plan};
use flexps_common::{Error, Result};
use flexps_master::job::admission;
use flexps_master::simulate::{Bounds, JobSpec, Luck, Threads, Timing, Trace, bounds, measure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Runs a workload file.
pub async fn run(args: RunArgs, registry: Registry) -> Result<()> {
    picture::check(args.compare.picture.as_deref())?;
    let master = given(&args.master);
    if let (Some(address), true) = (master, args.slaves.or(args.slots).is_some()) {
        return Err(Error::user(format!(
            "--slaves and --slots are of a cluster in this process, and the jobs go to the master at {address}: leave them out, \
             or --master and FLEXPS_MASTER"
        )));
    }
    let mut file = file::read(&args.file, &registry)?;
    let size = file.size(args.slaves, args.slots);
    file.workload.jobs.iter_mut().for_each(|job| faster(job, args.speed));
    let jobs = jobs(&file, &registry, args.seed)?;
    let plans = plans(&file, &jobs, &registry)?;
    let mut interrupt = Interrupt::new()?;
    if file.workload.luck.breakdowns.is_some() {
        say("note: slaves break down in simulations alone, not here");
    }
    let all = All { file: &file, jobs: &jobs, plans: &plans, policies: &args.compare.policies };
    let played = match (master, size) {
        (Some(address), _) => all.on_master(address, &args.access, &mut interrupt).await?,
        (None, (Some(slaves), Some(slots))) => all.here(&registry, slaves, slots, &mut interrupt).await?,
        _ => {
            return Err(Error::user(
                "no cluster: give --master HOST:PORT, or --slaves N --slots M for one in this process",
            ));
        }
    };
    // To compare much takes a while, in which nobody else listens.
    tokio::spawn(end_when_told(interrupt));
    compare(&args, &file, &played)
}

/// What is run under each policy.
struct All<'a> {
    file: &'a WorkFile,
    jobs: &'a [Box<dyn DynJob>],
    plans: &'a [(String, Plan)],
    policies: &'a [String],
}

impl All<'_> {
    /// On the cluster of a master, which has its own policy back in the end.
    async fn on_master(&self, address: &str, access: &Access, interrupt: &mut Interrupt) -> Result<Vec<Played>> {
        if !self.file.cluster.weights.is_empty() {
            say("note: the weights of shares are those that the master was started with (--share), not the file's");
        }
        if self.policies.len() > 1 {
            say(&format!(
                "note: each policy begins with what users have had, and with what the master at {address} has learnt, under those \
                 before it; without --master each has a cluster of its own"
            ));
        }
        let client = Arc::new(Client::connect(address, access)?);
        let asked = async {
            let before = client.overview().await?.policy;
            fit(&client, self.plans).await?;
            Ok(before)
        };
        let before = unless_interrupted(interrupt, asked).await?;
        let mut submitted = Submitted::default();
        let all = async {
            let mut all = Vec::new();
            for policy in self.policies {
                all.push(play(&client, policy, self.file, self.jobs, &mut submitted).await?);
            }
            Ok(all)
        };
        let all = unless_interrupted(interrupt, all).await;
        // Where all were played no job is left, and a comparison is not lost for want of an answer.
        leave(&client, &submitted, &before, interrupt).await;
        all
    }

    /// On clusters in this process, one for each policy: what users have had under another one counts for nothing.
    async fn here(
        &self,
        registry: &Registry,
        slaves: u32,
        slots: u32,
        interrupt: &mut Interrupt,
    ) -> Result<Vec<Played>> {
        let mut all = Vec::new();
        for policy in self.policies {
            let weights = self.file.cluster.weights.clone();
            let cluster = Embedded::of(registry.clone(), slaves, slots, self.file.memory, weights).await?;
            let (client, mut submitted) = (cluster.client(), Submitted::default());
            let one = async {
                fit(&client, self.plans).await?;
                play(&client, policy, self.file, self.jobs, &mut submitted).await
            };
            let played = unless_interrupted(interrupt, one).await;
            // With all jobs that it still has.
            cluster.stop().await;
            all.push(played?);
        }
        Ok(all)
    }
}

fn compare(args: &RunArgs, file: &WorkFile, played: &[Played]) -> Result<()> {
    let mut outcomes = Vec::new();
    let mut bound: Option<Bounds> = None;
    for Played { policy, names, records } in played {
        let mut trace = flexps_master::history::trace(records, names, |id| names.contains_key(&id));
        rename(&mut trace, &file.workload.jobs);
        let (workload, cluster) =
            flexps_master::history::workload(&file.workload.name, records, names, |id| names.contains_key(&id));
        let all_models = file.real.iter().all(Option::is_none);
        // Models say what the least is; of real jobs only what was recorded does, of the first policy for all.
        let least = bound.get_or_insert_with(|| match all_models {
            true => bounds(&file.workload, &cluster, args.seed),
            false => bounds(&workload, &cluster, 0),
        });
        let of = if all_models { &file.workload } else { &workload };
        let places: BTreeMap<&str, usize> = of.jobs.iter().enumerate().map(|(i, j)| (j.name.as_str(), i)).collect();
        let alone = trace.jobs.iter().map(|j| places.get(j.name.as_str()).and_then(|i| least.alone.get(*i)).copied());
        let least = Bounds { makespan: least.makespan, alone: alone.map(Option::unwrap_or_default).collect() };
        outcomes.push(Outcome { policy: policy.clone(), measures: measure(&trace, &least), trace });
    }
    let bound = bound.map(|b| b.makespan).unwrap_or_default();
    let how = if args.speed == 1.0 { "live".to_owned() } else { format!("live, {} times as fast", args.speed) };
    let comparison = Comparison { workload: file.workload.name.clone(), how, bound, outcomes };
    recorded::finish(&args.compare, &comparison)?;
    let failed: usize = comparison.outcomes.iter().map(|o| o.measures.failed).sum();
    if failed > 0 {
        let jobs = count(failed as u64, "job");
        return Err(Error::cluster(format!("{jobs} failed or cancelled; `flexps jobs` shows why")));
    }
    Ok(())
}

/// The jobs as the cluster runs them.
fn jobs(file: &WorkFile, registry: &Registry, seed: u64) -> Result<Vec<Box<dyn DynJob>>> {
    let env = Prepare { cache: crate::cli::run::cache_folder(), say };
    let make = |at: usize| {
        let (spec, real) = (&file.workload.jobs[at], &file.real[at]);
        let mut job = match real {
            Some(real) => registry.job(&real.name, &real.params)?,
            None => {
                let sleep = sleep(at, spec, &file.workload.luck, seed);
                let params = serde_json::to_string(&sleep).map_err(|e| Error::bug(format!("a sleep as JSON: {e}")))?;
                registry.job("sleep", &params)?
            }
        };
        job.prepare(&env)?;
        registry.plan(&*job).map_err(|e| e.context(format!("job {}", spec.name)))?;
        Ok(job)
    };
    (0..file.workload.jobs.len()).map(make).collect()
}

/// A plan of each table, with the name of the first job that has it: copies have the same stages.
fn plans(file: &WorkFile, jobs: &[Box<dyn DynJob>], registry: &Registry) -> Result<Vec<(String, Plan)>> {
    let mut kinds = BTreeSet::new();
    let mut plans = Vec::new();
    for (at, spec) in file.workload.jobs.iter().enumerate().filter(|(_, spec)| kinds.insert(spec.kind.as_str())) {
        let mut plan = registry.plan(&*jobs[at])?;
        file.real[at].as_ref().and_then(|real| real.memory).into_iter().for_each(|bytes| plan.fix_memory(bytes));
        plans.push((spec.name.clone(), plan));
    }
    Ok(plans)
}

/// Refuses what the master would refuse later, with the slaves that are there now.
async fn fit(client: &Client, plans: &[(String, Plan)]) -> Result<()> {
    let slaves = client.overview().await?.slaves;
    for (job, plan) in plans {
        admission::check(plan, &slaves).map_err(|e| e.context(format!("job {job}")))?;
    }
    Ok(())
}

/// A model as sleeping stages, each after the same ones, with the luck that a simulation would have. A run that fails there
/// sleeps for what it took and then again, in the same slots.
pub(super) fn sleep(at: usize, spec: &JobSpec, luck: &Luck, seed: u64) -> Sleep {
    let count = spec.stages.len() as u32;
    let factor = |stage: u32| {
        let mut total = 0.0;
        for attempt in 0.. {
            let drawn = luck.draw(Duration::from_secs(1), seed, at, stage, attempt);
            total += drawn.lasts.as_secs_f64();
            if !drawn.fails {
                break;
            }
        }
        total
    };
    let stages = (0..).zip(&spec.stages).map(|(place, stage)| {
        let threads = match stage.threads {
            Threads::Count(n) | Threads::Spread(n, _) => plan::Threads::Count(n),
            Threads::Range(least, most) => plan::Threads::Range(least, most),
            Threads::OneSlave(n) => plan::Threads::OneSlave(n),
            Threads::PerSlave(n) => plan::Threads::PerSlave(n),
            Threads::All => plan::Threads::All,
        };
        let curve = match stage.timing {
            Timing::Model(curve) => curve,
            Timing::Recorded(_) => Curve::default(),
        };
        let rounds = if *luck == Luck::default() { 0 } else { spec.rounds };
        let factors = (0..rounds).map(|round| factor(round * count + place)).collect();
        // Most come after the one above.
        let above = place.checked_sub(1).map(|above| above as usize);
        let after: Vec<String> = stage.after.iter().map(|first| named(spec, &spec.stages[*first].name)).collect();
        let after = (stage.after != above.into_iter().collect::<Vec<_>>()).then_some(after);
        Nap { name: named(spec, &stage.name), threads, on: None, memory: stage.memory, after, curve, factors }
    });
    Sleep { stages: stages.collect(), rounds: u64::from(spec.rounds) }
}

/// What a stage of a model is called where it runs: all models are one job there, and how long stages take is known by their
/// names.
fn named(spec: &JobSpec, stage: &str) -> String {
    format!("{}/{stage}", spec.kind)
}

/// The stages of models under their own names again.
fn rename(trace: &mut Trace, specs: &[JobSpec]) {
    let kinds: BTreeMap<&str, String> = specs.iter().map(|spec| (spec.name.as_str(), named(spec, ""))).collect();
    for run in &mut trace.runs {
        let kind = trace.jobs.get(run.job).and_then(|job| kinds.get(job.name.as_str()));
        if let Some(own) = kind.and_then(|kind| run.stage.strip_prefix(kind.as_str())) {
            run.stage = own.to_owned();
        }
    }
}

/// The same job with all times divided.
fn faster(job: &mut JobSpec, speed: f64) {
    job.arrival = job.arrival.div_f64(speed);
    job.deadline = job.deadline.map(|d| d.div_f64(speed));
    for stage in &mut job.stages {
        if let Timing::Model(Curve { work, cost, fixed }) = &mut stage.timing {
            [work, cost, fixed].into_iter().for_each(|x| *x /= speed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_master::simulate::{JobTrace, Run};

    #[test]
    fn models_of_different_kinds_are_known_apart_where_they_run_and_shown_under_their_own_names() {
        let spec =
            |name: &str, kind: &str| JobSpec { name: name.to_owned(), kind: kind.to_owned(), ..JobSpec::default() };
        let specs = [spec("long-1", "long"), spec("real", "svrg")];
        assert_ne!(named(&specs[0], "work"), named(&spec("short-1", "short"), "work"));
        let job = |name: &str| JobTrace { name: name.to_owned(), ..JobTrace::default() };
        let at = Duration::ZERO;
        let run = |job, stage: String| {
            let (workers, why) = (Vec::new(), None);
            Run { job, stage, round: 1, ready: at, start: at, end: at, workers, why, failed: false }
        };
        let mut trace = Trace {
            jobs: vec![job("long-1"), job("real")],
            runs: vec![run(0, named(&specs[0], "work")), run(1, "a/b".to_owned())],
            ..Trace::default()
        };
        rename(&mut trace, &specs);
        assert_eq!(trace.runs.iter().map(|run| run.stage.as_str()).collect::<Vec<_>>(), ["work", "a/b"]);
    }
}
