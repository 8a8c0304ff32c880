//! Workload files: TOML in, a checked workload out.
//!
//! Invariant: what is wrong is told with file, line, column and what is allowed, before anything runs; what comes out keeps
//! the promises of [`Workload`].

use super::text::{Place, Value};
use flexps_common::curve::Curve;
use flexps_common::job::Registry;
use flexps_common::{Error, Result};
use flexps_master::simulate::{Cluster, JobSpec, Luck, StageSpec, Timing, Workload};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

/// Most jobs of a file, copies included.
const MOST_JOBS: u64 = 1_000_000;

/// Most pairs of jobs of a file of which one waits for the other: each is kept.
const MOST_PAIRS: u64 = 10_000_000;

/// Most stage runs of a file, copies and rounds included.
const MOST_RUNS: u64 = 10_000_000;

/// A checked file.
#[derive(Debug)]
pub struct WorkFile {
    /// Its jobs, in order of arrival.
    pub workload: Workload,
    /// Its cluster; without slaves, or with slaves without slots, when it does not say.
    pub cluster: Cluster,
    /// Bytes of memory of each of its slaves, if it says.
    pub memory: Option<u64>,
    /// The real job behind each; none for one that is only a model.
    pub real: Vec<Option<Real>>,
}

/// A real job.
#[derive(Debug, Clone)]
pub struct Real {
    /// Its name in the registry.
    pub name: String,
    /// Its parameters as JSON.
    pub params: String,
    /// Bytes of memory that each of its stages needs on each slave, if the file says.
    pub memory: Option<u64>,
}

impl WorkFile {
    /// The cluster's slaves and the slots of each: what the flags say, else what the file says.
    pub fn size(&self, slaves: Option<u32>, slots: Option<u32>) -> (Option<u32>, Option<u32>) {
        let own = &self.cluster.slots;
        let slaves = slaves.or_else(|| u32::try_from(own.len()).ok()).filter(|n| *n > 0);
        (slaves, slots.or_else(|| own.first().copied()).filter(|n| *n > 0))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "about")]
    _about: String,
    #[serde(default)]
    cluster: ClusterTable,
    #[serde(default)]
    luck: LuckTable,
    #[serde(default)]
    shares: BTreeMap<String, Spanned<f64>>,
    #[serde(default)]
    job: Vec<JobTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ClusterTable {
    slaves: Option<Spanned<u32>>,
    slots: Option<Spanned<u32>>,
    memory: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LuckTable {
    jitter: Option<Spanned<f64>>,
    stragglers: Option<Stragglers>,
    failures: Option<Spanned<f64>>,
    breakdowns: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stragglers {
    probability: Spanned<f64>,
    slowdown: Spanned<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JobTable {
    name: Spanned<String>,
    arrival: Option<Value>,
    copies: Option<Spanned<u32>>,
    every: Option<Value>,
    #[serde(default = "one")]
    burst: Spanned<u32>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    user: String,
    queue: Option<String>,
    deadline: Option<Value>,
    #[serde(default)]
    after: Vec<Spanned<String>>,
    rounds: Option<Spanned<u32>>,
    memory: Option<Value>,
    run: Option<Spanned<String>>,
    params: Option<Spanned<toml::Table>>,
    #[serde(default)]
    stage: Vec<StageTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageTable {
    name: Spanned<String>,
    threads: Value,
    work: Option<Value>,
    cost: Option<Value>,
    fixed: Option<Value>,
    after: Option<Vec<Spanned<String>>>,
    memory: Option<Value>,
}

fn one() -> Spanned<u32> {
    Spanned::new(0..0, 1)
}

/// Reads and checks a file. `registry` knows the real jobs.
pub fn read(path: &Path, registry: &Registry) -> Result<WorkFile> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|e| flexps_common::error::io(&name, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        Error::user(format!("{name} is no text at byte {}; is it a workload?", e.utf8_error().valid_up_to()))
    })?;
    parse(&name, &text, registry)
}

/// Checks the text of a file called `path`.
pub fn parse(path: &str, text: &str, registry: &Registry) -> Result<WorkFile> {
    let at = Place { path, text };
    let file: File = toml::from_str(text).map_err(|e| {
        let span = e.span().unwrap_or(0..0);
        at.error(&span, e.message())
    })?;
    if file.job.is_empty() {
        return Err(at.error(&(0..0), "no [[job]] in it; a workload has at least one"));
    }
    let stem = Path::new(path).file_stem().map_or_else(|| path.to_owned(), |s| s.to_string_lossy().into_owned());
    let memory = file.cluster.memory.as_ref().map(|v| at.size(v)).transpose()?;
    let mut cluster = cluster(&at, &file.cluster, memory)?;
    for (name, weight) in &file.shares {
        if !(*weight.get_ref() > 0.0 && weight.get_ref().is_finite()) {
            return Err(at.error(&weight.span(), &format!("share {name}: a weight is a number above 0")));
        }
        cluster.weights.insert(name.clone(), *weight.get_ref());
    }
    let mut jobs: Vec<(JobSpec, Option<Real>)> = Vec::new();
    let mut copies: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let mut runs = 0;
    for table in &file.job {
        let made = expand(&at, table, registry, (jobs.len() as u64, runs))?;
        runs += made.first().map_or(0, |(job, _)| stage_runs(job, made.len() as u64));
        let name = table.name.get_ref().as_str();
        if copies.insert(name, made.iter().map(|(j, _)| j.name.clone()).collect()).is_some() {
            return Err(at.error(&table.name.span(), &format!("job {name} is there already; names are unique")));
        }
        jobs.extend(made);
    }
    let mut all = BTreeSet::new();
    if let Some((twice, _)) = jobs.iter().find(|(j, _)| !all.insert(j.name.clone())) {
        let table = file.job.iter().find(|t| *t.name.get_ref() == twice.kind).map_or(0..0, |t| t.name.span());
        return Err(at.error(&table, &format!("a copy is called {}, and so is another job", twice.name)));
    }
    // In order of arrival, those of one moment as the file has them; then names become places.
    jobs.sort_by_key(|(j, _)| j.arrival);
    let places: BTreeMap<String, usize> = jobs.iter().enumerate().map(|(i, (j, _))| (j.name.clone(), i)).collect();
    let mut pairs = 0u64;
    for table in &file.job {
        let own = copies.get(table.name.get_ref().as_str()).map_or(&[][..], Vec::as_slice);
        let mut after: Vec<usize> = Vec::new();
        for first in &table.after {
            let Some(names) = copies.get(first.get_ref().as_str()) else {
                let known: Vec<&str> = copies.keys().copied().collect();
                let text = format!("no job is called {}; there are {}", first.get_ref(), known.join(", "));
                return Err(at.error(&first.span(), &text));
            };
            pairs += names.len() as u64 * own.len() as u64;
            if pairs > MOST_PAIRS {
                let text = format!(
                    "more than {MOST_PAIRS} pairs of jobs of which one waits for the other; put a job between them that waits for \
                     all of {} and for which all of {} wait",
                    first.get_ref(),
                    table.name.get_ref()
                );
                return Err(at.error(&first.span(), &text));
            }
            after.extend(names.iter().filter_map(|name| places.get(name)));
        }
        for name in own {
            if let Some(place) = places.get(name) {
                jobs[*place].0.after.clone_from(&after);
            }
        }
    }
    cycles(&at, &file)?;
    let (jobs, real) = jobs.into_iter().unzip();
    let name = file.name.unwrap_or(stem);
    let workload = Workload { name, jobs, luck: luck(&at, &file.luck)?, ..Workload::default() };
    Ok(WorkFile { workload, cluster, memory, real })
}

fn cluster(at: &Place<'_>, table: &ClusterTable, memory: Option<u64>) -> Result<Cluster> {
    let count = |value: &Option<Spanned<u32>>, most: u32| match value {
        None => Ok(0),
        Some(n) if (1..=most).contains(n.get_ref()) => Ok(*n.get_ref()),
        Some(n) => Err(at.error(&n.span(), &format!("{} is not in 1..={most}", n.get_ref()))),
    };
    let (slaves, slots) = (count(&table.slaves, 100_000)?, count(&table.slots, 4096)?);
    Ok(Cluster::equal(slaves, slots).with_memory(memory))
}

fn luck(at: &Place<'_>, table: &LuckTable) -> Result<Luck> {
    let within = |value: Option<&Spanned<f64>>, least: f64, most: f64| match value {
        None => Ok(0.0),
        Some(x) if (least..=most).contains(x.get_ref()) => Ok(*x.get_ref()),
        Some(x) => Err(at.error(&x.span(), &format!("{} is not in {least}..={most}", x.get_ref()))),
    };
    let stragglers = table.stragglers.as_ref();
    Ok(Luck {
        jitter: within(table.jitter.as_ref(), 0.0, 3.0)?,
        straggler_probability: within(stragglers.map(|s| &s.probability), 0.0, 1.0)?,
        straggler_slowdown: within(stragglers.map(|s| &s.slowdown), 1.0, 1e6)?,
        failure_probability: within(table.failures.as_ref(), 0.0, 0.95)?,
        breakdowns: table
            .breakdowns
            .as_ref()
            .map(|text| text.get_ref().parse().map_err(|e: Error| at.error(&text.span(), &e.message)))
            .transpose()?,
    })
}

type Made = Vec<(JobSpec, Option<Real>)>;

/// The stage runs of so many jobs like this one.
fn stage_runs(job: &JobSpec, copies: u64) -> u64 {
    // A round without stages takes its time to be counted, too.
    copies.saturating_mul(u64::from(job.rounds)).saturating_mul(job.stages.len().max(1) as u64)
}

/// A table's copies, after so many jobs and stage runs of tables above it.
fn expand(at: &Place<'_>, table: &JobTable, registry: &Registry, (before, runs): (u64, u64)) -> Result<Made> {
    let name = table.name.get_ref();
    if name.is_empty() {
        return Err(at.error(&table.name.span(), "a job needs a name"));
    }
    let positive = |value: &Spanned<u32>, what: &str| match *value.get_ref() {
        0 => Err(at.error(&value.span(), &format!("{what} is at least 1"))),
        n => Ok(n),
    };
    let copies = table.copies.as_ref().map_or(Ok(1), |n| positive(n, "copies"))?;
    let burst = positive(&table.burst, "burst")?;
    if before + u64::from(copies) > MOST_JOBS {
        let span = table.copies.as_ref().map_or_else(|| table.name.span(), Spanned::span);
        return Err(at.error(&span, &format!("more than {MOST_JOBS} jobs")));
    }
    let time = |value: &Option<Value>| value.as_ref().map_or(Ok(Duration::ZERO), |v| at.time(v));
    let (arrival, every) = (time(&table.arrival)?, time(&table.every)?);
    let memory = table.memory.as_ref().map(|v| at.size(v)).transpose()?;
    let real = real(at, table, registry)?.map(|(name, params)| Real { name, params, memory });
    if table.stage.is_empty() && real.is_none() {
        return Err(at.error(&table.name.span(), "a job needs a [[job.stage]], or `run = \"…\"` with a real job"));
    }
    let spec = JobSpec {
        name: name.clone(),
        kind: name.clone(),
        arrival,
        priority: table.priority,
        owner: table.queue.clone().unwrap_or_else(|| table.user.clone()),
        deadline: table.deadline.as_ref().map(|v| at.time(v)).transpose()?,
        stages: stages(at, &table.stage, memory.unwrap_or(0))?,
        rounds: table.rounds.as_ref().map_or(Ok(1), |n| positive(n, "rounds"))?,
        ..JobSpec::default()
    };
    if runs.saturating_add(stage_runs(&spec, u64::from(copies))) > MOST_RUNS {
        let span = table.rounds.as_ref().or(table.copies.as_ref()).map_or_else(|| table.name.span(), Spanned::span);
        let text = format!("more than {MOST_RUNS} stage runs, which are copies times rounds times stages; give fewer");
        return Err(at.error(&span, &text));
    }
    let copy = |i: u32| {
        let name = if copies == 1 { name.clone() } else { format!("{name}-{}", i + 1) };
        (JobSpec { name, arrival: arrival + every * (i / burst), ..spec.clone() }, real.clone())
    };
    Ok((0..copies).map(copy).collect())
}

/// The real job: its parameters are checked by making it once.
fn real(at: &Place<'_>, table: &JobTable, registry: &Registry) -> Result<Option<(String, String)>> {
    let Some(run) = &table.run else {
        return match &table.params {
            Some(params) => Err(at.error(&params.span(), "params belong to a real job: `run = \"…\"` is missing")),
            None => Ok(None),
        };
    };
    let known: Vec<&str> = registry.kinds().map(|k| k.name).collect();
    let Some(kind) = registry.kinds().find(|k| k.name == run.get_ref()) else {
        return Err(
            at.error(&run.span(), &format!("no job is called {}; there are {}", run.get_ref(), known.join(", ")))
        );
    };
    let params = table.params.as_ref().map(Spanned::get_ref).cloned().unwrap_or_default();
    let made = serde_json::to_value(params).map_err(Error::user).and_then(|params| {
        let params = params.as_object().cloned().unwrap_or_default();
        kind.from_flags(&params)?.params()
    });
    match made {
        Ok(params) => Ok(Some((kind.name.to_owned(), params))),
        Err(e) => {
            let span = table.params.as_ref().map_or_else(|| run.span(), Spanned::span);
            Err(at.error(&span, &e.message))
        }
    }
}

/// The stages; those that don't say need so much `memory`.
fn stages(at: &Place<'_>, tables: &[StageTable], memory: u64) -> Result<Vec<StageSpec>> {
    let mut made: Vec<StageSpec> = Vec::new();
    for table in tables {
        let name = table.name.get_ref();
        if made.iter().any(|s| s.name == *name) {
            return Err(at.error(&table.name.span(), &format!("stage {name} is there already; names are unique")));
        }
        let number = |value: &Option<Value>| value.as_ref().map_or(Ok(0.0), |v| at.time(v).map(|t| t.as_secs_f64()));
        let after = match &table.after {
            None => made.len().checked_sub(1).into_iter().collect(),
            Some(names) => {
                let place = |first: &Spanned<String>| {
                    made.iter().position(|s| s.name == *first.get_ref()).ok_or_else(|| {
                        let known: Vec<_> = made.iter().map(|s| s.name.as_str()).collect();
                        let text = format!(
                            "a stage comes after stages above it ({}), not {}",
                            if known.is_empty() { "there are none".to_owned() } else { known.join(", ") },
                            first.get_ref()
                        );
                        at.error(&first.span(), &text)
                    })
                };
                names.iter().map(place).collect::<Result<_>>()?
            }
        };
        made.push(StageSpec {
            name: name.clone(),
            threads: at.threads(&table.threads)?,
            timing: Timing::Model(Curve {
                work: number(&table.work)?,
                cost: number(&table.cost)?,
                fixed: number(&table.fixed)?,
            }),
            after,
            memory: table.memory.as_ref().map_or(Ok(memory), |v| at.size(v))?,
            slaves: Vec::new(),
        });
    }
    Ok(made)
}

/// Jobs that wait for one another in a circle.
fn cycles(at: &Place<'_>, file: &File) -> Result<()> {
    let places: BTreeMap<&str, usize> =
        file.job.iter().enumerate().map(|(i, t)| (t.name.get_ref().as_str(), i)).collect();
    // 0 not seen, 1 on the way, 2 done.
    let mut seen = vec![0u8; file.job.len()];
    for start in 0..file.job.len() {
        let mut way: Vec<(usize, usize)> = vec![(start, 0)];
        while let Some((job, next)) = way.pop() {
            if next == 0 && seen[job] == 2 {
                continue;
            }
            seen[job] = 1;
            let Some(first) = file.job[job].after.get(next) else {
                seen[job] = 2;
                continue;
            };
            way.push((job, next + 1));
            let Some(place) = places.get(first.get_ref().as_str()) else { continue };
            if seen[*place] == 1 {
                let from = way.iter().position(|(j, _)| j == place).unwrap_or(0);
                let mut names: Vec<&str> =
                    way[from..].iter().map(|(j, _)| file.job[*j].name.get_ref().as_str()).collect();
                names.push(first.get_ref());
                return Err(at.error(&first.span(), &format!("jobs wait for one another: {}", names.join(" after "))));
            }
            way.push((*place, 0));
        }
    }
    Ok(())
}
