//! What a job's experiment asks for that this cluster, or this job, does not have, and how a user hears of it.
//!
//! Invariant: a report names every injection that its times were made under.

use flexps_common::curve::Optimize;
use flexps_common::experiment::{Experiment, Splits, Switch};
use flexps_common::plan::{Compression, Plan};
use flexps_common::{Error, Result};

/// Refuses slaves that the cluster does not have.
pub fn check(experiment: &Experiment, slaves: &[&str]) -> Result<()> {
    match experiment.delayed().find(|name| !slaves.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let mut known = slaves.to_vec();
            known.sort_unstable();
            Err(Error::user(format!("--inject delay: no slave is called {name}; give one of {}", known.join(", "))))
        }
    }
}

/// Refuses what changes nothing in any stage of the plan.
pub fn fits(experiment: &Experiment, plan: &Plan) -> Result<()> {
    if experiment.optimize == Optimize::default() || plan.stages().iter().any(|stage| stage.threads.found()) {
        return Ok(());
    }
    Err(Error::user(
        "--optimize says what threads that are left to the engine are to make least, and no stage of this job has such; give \
         its threads as auto or offline, or leave it out",
    ))
}

/// Notes of a job that starts on `slaves`.
pub fn at_start(experiment: &Experiment, slaves: &[&str]) -> Vec<String> {
    let mut notes: Vec<_> = experiment.inject.iter().map(|injection| format!("with {injection}")).collect();
    notes.extend(experiment.fixed_threads.map(|n| format!("with --fixed-threads {n}")));
    if experiment.splits == Splits::Random {
        notes.push("with --splits random".to_owned());
    }
    if experiment.slave_cache != Switch::Auto {
        notes.push(format!("with --slave-cache {}", experiment.slave_cache));
    }
    if experiment.sum_updates {
        notes.push("with --sum-updates".to_owned());
    }
    notes.extend(experiment.compress.map(|compression| match compression {
        Compression::F16 => "with --compress f16: some values between slaves are rounded".to_owned(),
        _ => format!("with --compress {compression}"),
    }));
    for name in experiment.delayed() {
        if !slaves.contains(&name) {
            notes.push(format!("the delay of {name} changes nothing: the job does not run there"));
        } else if slaves.len() == 1 {
            notes.push(format!("the delay of {name} changes nothing: the job runs on no other slave"));
        }
    }
    notes
}

/// Notes of a job whose stages had at most so many workers.
pub fn at_end(experiment: &Experiment, widest: u32) -> Vec<String> {
    let absent = experiment.slowed().filter(|worker| *worker >= widest);
    let note =
        |worker| format!("no worker {worker} was slowed: no stage had more than {widest} workers, counted from 0");
    absent.map(note).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::error::Fault;
    use flexps_common::plan::Threads;

    fn experiment(texts: &[&str]) -> Experiment {
        Experiment { inject: texts.iter().map(|text| text.parse().unwrap()).collect(), ..Experiment::default() }
    }

    #[test]
    fn a_slave_that_the_cluster_does_not_have_is_refused_with_those_that_it_has() {
        let told = experiment(&["slow:worker=9,factor=2", "delay:slave=h1,ms=1", "delay:slave=h3,ms=1"]);
        let error = check(&told, &["h1", "h2"]).unwrap_err();
        assert_eq!(error.message, "--inject delay: no slave is called h3; give one of h1, h2");
        check(&told, &["h1", "h2", "h3"]).unwrap();
    }

    #[test]
    fn what_to_optimize_is_refused_where_no_threads_are_left_to_the_engine() {
        let plan = |threads| {
            let mut plan = Plan::default();
            plan.body.stage("work", |_| Ok(())).threads(threads);
            plan
        };
        let told = Experiment { optimize: "worker-time".parse().unwrap(), ..Experiment::default() };
        let error = fits(&told, &plan(Threads::Count(2))).unwrap_err();
        assert!(error.fault == Fault::User && error.message.starts_with("--optimize"), "{error}");
        fits(&told, &plan(Threads::Offline)).unwrap();
        fits(&Experiment::default(), &plan(Threads::Count(2))).unwrap();
    }

    #[test]
    fn the_report_names_each_injection_and_those_that_change_nothing() {
        let told = experiment(&["slow:worker=2,factor=2", "delay:slave=h1,ms=1"]);
        let told = Experiment { slave_cache: Switch::Off, sum_updates: true, ..told };
        let with =
            ["with slow:worker=2,factor=2", "with delay:slave=h1,ms=1", "with --slave-cache off", "with --sum-updates"];
        assert_eq!(at_start(&told, &["h1", "h2"]), with);
        let notes = |slaves: &[&str]| at_start(&told, slaves)[4..].join("; ");
        assert_eq!(notes(&["h1"]), "the delay of h1 changes nothing: the job runs on no other slave");
        assert_eq!(notes(&["h2"]), "the delay of h1 changes nothing: the job does not run there");
        assert_eq!(at_end(&told, 3), Vec::<String>::new());
        assert_eq!(at_end(&told, 2), ["no worker 2 was slowed: no stage had more than 2 workers, counted from 0"]);
    }
}
