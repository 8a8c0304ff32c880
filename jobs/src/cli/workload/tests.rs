//! Workload files and pictures.

use super::file::parse;
use super::lanes::lanes;
use flexps_common::job::Registry;
use flexps_master::scheduler::policy;
use flexps_master::simulate::{Cluster, Threads, simulate};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn registry() -> Registry {
    crate::registry()
}

fn refused(text: &str) -> String {
    parse("w.toml", text, &registry()).unwrap_err().message
}

const STAGE: &str = "[[job.stage]]\nname = 'work'\nthreads = 2\nwork = 4\n";

#[test]
fn mistakes_are_told_with_line_column_and_what_is_allowed() {
    let job = |more: &str| format!("[[job]]\nname = 'a'\n{more}\n{STAGE}");
    let cases = [
        ("", "w.toml:1:1: no [[job]]"),
        ("[[job]", "w.toml:1:7: "),
        (&job("arrival = -3"), "w.toml:3:11: -3 is no time; give seconds of 0 or more"),
        (&job("arrival = 'soon'"), "w.toml:3:11: \"soon\" is no time"),
        (&job("arrival = nan"), "w.toml:3:11: nan is no time"),
        (&job("after = ['b']"), "w.toml:3:10: no job is called b; there are a"),
        (&job("after = ['a']"), "w.toml:3:10: jobs wait for one another: a after a"),
        (&job("run = 'magic'"), "w.toml:3:7: no job is called magic; there are lasso"),
        (&job("params = { x = 1 }"), "w.toml:3:10: params belong to a real job"),
        (&job("colour = 'red'"), "w.toml:3:1: unknown field `colour`, expected one of `name`, `arrival`"),
        (&job("copies = 0"), "w.toml:3:10: copies is at least 1"),
        (&job("copies = 99999999"), "w.toml:3:10: more than 1000000 jobs"),
        (&job("rounds = 0"), "w.toml:3:10: rounds is at least 1"),
        (&job("rounds = 4000000000"), "w.toml:3:10: more than 10000000 stage runs"),
        (&job("rounds = 5000\ncopies = 2001"), "w.toml:3:10: more than 10000000 stage runs"),
        (&(job("") + &job("")), "w.toml:9:8: job a is there already"),
        (&(job("") + STAGE), "w.toml:9:8: stage work is there already"),
        (&(job("") + "after = ['x']"), "w.toml:8:10: a stage comes after stages above it (there are none), not x"),
        ("[[job]]\nname = 'a'", "w.toml:2:8: a job needs a [[job.stage]]"),
        (&(job("") + "[cluster]\nslots = 0\n"), "w.toml:9:9: 0 is not in 1..=4096"),
        ("[luck]\nfailures = 1.5\n", "w.toml:1:1: no [[job]]"),
        (&(job("") + "[luck]\nfailures = 1.5\n"), "w.toml:9:12: 1.5 is not in 0..=0.95"),
        (&(job("") + "[luck]\nbreakdowns = 'often'\n"), "w.toml:9:14: 'often' says not when"),
        (&(job("") + "[shares]\nann = 0.0\n"), "w.toml:9:7: share ann: a weight is a number above 0"),
        (&job("").replace("= 2", "= 'many'"), "w.toml:6:11: \"many\" is no number of threads; give 12, \"8..32\""),
        (&job("").replace("= 2", "= 0"), "w.toml:6:11: 0 is no number of threads"),
        (&job("run = 'lr'\nparams = { epochs = 'few' }"), "w.toml:4:10: lr: "),
    ];
    for (text, expected) in cases {
        let error = refused(text);
        assert!(error.starts_with(expected), "{error}\nis not\n{expected}\nfor\n{text}");
    }
    let circle = "[[job]]\nname='a'\nafter=['b']\nstage=[{name='s',threads=1}]\n[[job]]\nname='b'\nafter=['a']\nstage=[{name='s',threads=1}]\n";
    assert!(refused(circle).contains("jobs wait for one another"), "{}", refused(circle));
}

#[test]
fn copies_that_wait_for_more_copies_than_can_be_kept_are_refused() {
    let text = |copies: u32| {
        let job = |name: &str, after: &str| {
            format!("[[job]]\nname='{name}'\ncopies={copies}\nafter=[{after}]\nstage=[{{name='s',threads=1}}]\n")
        };
        job("a", "") + &job("b", "'a'")
    };
    let error = refused(&text(10_000));
    assert!(error.starts_with("w.toml:9:8: more than 10000000 pairs") && error.contains("all of a"), "{error}");
    let file = parse("w.toml", &text(300), &registry()).unwrap();
    assert_eq!(file.workload.jobs.iter().map(|job| job.after.len()).sum::<usize>(), 300 * 300);
}

#[test]
fn what_is_no_text_or_no_file_is_the_users_mistake() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("w.toml");
    std::fs::write(&path, b"about = '\xff'").unwrap();
    for (path, says) in
        [(path.as_path(), "w.toml is no text at byte 9"), (here.path(), "a folder stands where a file is needed")]
    {
        let error = super::file::read(path, &registry()).err().unwrap();
        assert!(error.exit_code() == 2 && error.message.contains(says), "{error}");
    }
}

#[test]
fn copies_arrive_in_bursts_and_others_wait_for_all_of_them() {
    let text = "[cluster]\nslaves=2\nslots=4\nmemory='1GiB'\n[[job]]\nname='last'\nafter=['c']\nstage=[{name='s',threads='2..3'}]\n\
        [[job]]\nname='c'\ncopies=5\narrival='1s'\nevery=10\nburst=2\nuser='ann'\nqueue='q'\nstage=[{name='x',threads='all'},\
        {name='y',threads='1 per slave',after=[]},{name='z',threads='4 on one slave'}]\n";
    let file = parse("w.toml", text, &registry()).unwrap();
    let names: Vec<_> = file.workload.jobs.iter().map(|j| (j.name.as_str(), j.arrival.as_secs())).collect();
    assert_eq!(names, [("last", 0), ("c-1", 1), ("c-2", 1), ("c-3", 11), ("c-4", 11), ("c-5", 21)]);
    assert_eq!(file.workload.jobs[0].after, [1, 2, 3, 4, 5]);
    let c = &file.workload.jobs[1];
    assert_eq!((c.owner.as_str(), c.kind.as_str()), ("q", "c"));
    assert_eq!(
        c.stages.iter().map(|s| s.threads).collect::<Vec<_>>(),
        [Threads::All, Threads::PerSlave(1), Threads::OneSlave(4)]
    );
    assert_eq!(c.stages.iter().map(|s| s.after.clone()).collect::<Vec<_>>(), [vec![], vec![], vec![1]]);
    assert_eq!((file.cluster, file.memory), (Cluster::equal(2, 4).with_memory(Some(1 << 30)), Some(1 << 30)));
}

/// The files that come with flexps.
fn shipped() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "toml"));
    assert!(files.len() >= 4);
    files
}

#[test]
fn every_shipped_file_plays_under_every_policy_and_no_lane_is_taken_twice() {
    for path in shipped() {
        let file = super::file::read(&path, &registry()).unwrap();
        for name in flexps_master::scheduler::POLICIES {
            let trace = simulate(&file.workload, &file.cluster, &*policy(name).unwrap(), 1).unwrap();
            let (pieces, lost) = lanes(&trace, usize::MAX);
            assert_eq!(lost, 0, "{} {name}", path.display());
            let threads: u32 = trace.runs.iter().map(|r| r.threads()).sum();
            assert_eq!(pieces.iter().map(|p| p.lanes).sum::<u32>(), threads);
        }
    }
}

#[test]
fn the_giant_starves_under_greedy_and_not_under_prioritized() {
    let path = shipped().into_iter().find(|p| p.ends_with("giant-among-smalls.toml")).unwrap();
    let file = super::file::read(&path, &registry()).unwrap();
    let giant = file.workload.jobs.iter().position(|j| j.name == "giant").unwrap();
    let last_small = file.workload.jobs.iter().map(|j| j.arrival).max().unwrap();
    let start = |name: &str| {
        let trace = simulate(&file.workload, &file.cluster, &*policy(name).unwrap(), 1).unwrap();
        trace.runs.iter().find(|r| r.job == giant).unwrap().start
    };
    assert!(start("greedy") > last_small, "greedy starts it at {:?}", start("greedy"));
    for name in ["prioritized", "backfill", "fair"] {
        assert!(start(name) < last_small / 4, "{name} starts it at {:?}", start(name));
    }
    assert!(last_small > Duration::from_secs(60));
}

#[test]
fn models_sleep_live_for_as_long_as_their_runs_last_in_a_simulation() {
    let text = "cluster={slaves=1,slots=2}\n[[job]]\nname='before'\nstage=[{name='x',threads=1,work=1}]\n[[job]]\n\
                name='a'\nrounds=3\nstage=[{name='x',threads=1,work=1},{name='y',threads=2,work=3}]\n[luck]\njitter=0.5\n\
                failures=0.5\n";
    let file = parse("w.toml", text, &registry()).unwrap();
    let trace = simulate(&file.workload, &file.cluster, &*policy("greedy").unwrap(), 7).unwrap();
    assert!(trace.runs.iter().filter(|run| run.job == 1 && run.failed).count() > 1, "no run fails");
    let live = super::live::sleep(1, &file.workload.jobs[1], &file.workload.luck, 7);
    for (stage, nap) in file.workload.jobs[1].stages.iter().zip(&live.stages) {
        for round in 0..3 {
            let here =
                trace.runs.iter().filter(|run| run.job == 1 && run.stage == stage.name && run.round == round + 1);
            let (lasted, threads) =
                here.fold((0.0, 0), |(sum, _), run| (sum + (run.end - run.start).as_secs_f64(), run.threads()));
            let sleeps = nap.factors[round as usize] * nap.curve.seconds(threads);
            assert!((sleeps - lasted).abs() < 1e-6, "{} in round {round}: {sleeps} and {lasted} s", stage.name);
        }
    }
}
