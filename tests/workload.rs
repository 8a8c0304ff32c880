//! Comparing policies: simulated, live, and from what a master recorded.

use crate::support::http::get;
use crate::support::{Cluster, flexps, folder, wait};
use flexps_master::history::{read, trace, workload};
use flexps_master::scheduler::policy;
use flexps_master::simulate::{Trace, simulate};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name)
}

fn of<'a>(comparison: &'a Value, policy: &str) -> &'a Value {
    let policies = comparison["policies"].as_array().expect("a list of policies");
    policies.iter().find(|p| p["policy"] == policy).unwrap_or_else(|| panic!("no {policy} in {comparison}"))
}

/// When a job ended.
fn end(comparison: &Value, policy: &str, job: &str) -> f64 {
    let jobs = of(comparison, policy)["jobs"].as_array().expect("a list of jobs");
    jobs.iter().find(|j| j["name"] == job).and_then(|j| j["end"].as_f64()).expect("the job ended")
}

#[test]
fn six_tasks_stand_to_one_another_as_they_should() {
    let comparison = flexps(["workload", "simulate"]).arg(shipped("six-tasks.toml")).json();
    let makespan = |policy: &str| of(&comparison, policy)["measures"]["makespan"].as_f64().unwrap();
    let measure = |policy: &str, what: &str| of(&comparison, policy)["measures"][what].as_f64().unwrap();
    assert!(measure("prioritized", "over_bound") <= 1.05, "{comparison}");
    assert!(makespan("sequential") > 3.0 * makespan("prioritized"));
    assert!(makespan("greedy") > makespan("prioritized"));
    assert_eq!(of(&comparison, "greedy")["measures"]["worst_waiter"], "sweep of factors");
    assert!(measure("greedy", "worst_wait") > 10.0 * measure("prioritized", "worst_wait"));
    let again = flexps(["workload", "simulate"]).arg(shipped("six-tasks.toml")).json();
    assert_eq!(comparison, again);
}

#[test]
fn a_picture_stands_for_itself_and_its_names_are_escaped() {
    let folder = folder();
    let file = folder.path().join("w.toml");
    std::fs::write(&file, "[[job]]\nname='<b>&\"'\nstage=[{name='x',threads=2,work=1}]\n").unwrap();
    for name in ["p.svg", "p.html"] {
        let picture = folder.path().join(name);
        let run = flexps(["workload", "simulate", "--slaves", "2", "--slots", "2", "--picture"]);
        run.arg(&picture).arg(&file).ok();
        let text = std::fs::read_to_string(&picture).unwrap();
        assert!(text.contains("&lt;b&gt;&amp;&quot;") && !text.contains("<b>"), "{text}");
        assert!(!text.replace("http://www.w3.org/2000/svg", "").contains("http"), "something is loaded");
        let svg = &text[text.find("<svg").unwrap()..text.find("</svg>").unwrap()];
        assert_eq!(svg.matches("class=\"run\"").count(), 5 * 2, "a piece per policy and slave");
    }
    let run = flexps(["workload", "simulate", "--picture", "p.png"]).arg(&file).exits(2);
    run.says(&["--picture p.png", ".svg or .html"]);
}

#[test]
fn a_picture_may_go_to_a_pipe() {
    let folder = folder();
    let (file, pipe) = (folder.path().join("w.toml"), folder.path().join("p.svg"));
    std::fs::write(&file, "[[job]]\nname='a'\nstage=[{name='x',threads=2,work=1}]\n").unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = flexps(["workload", "simulate", "--slaves", "2", "--slots", "2", "--picture"]);
    let running = run.arg(&pipe).arg(&file).within(20).start();
    let drawn = std::fs::read_to_string(&pipe).unwrap();
    assert!(drawn.ends_with("</svg>\n"), "{drawn}");
    assert_eq!(running.finish().code, 0);
}

#[test]
fn a_mistake_in_a_file_is_the_users_and_nothing_runs() {
    let folder = folder();
    let file = folder.path().join("w.toml");
    std::fs::write(&file, "[[job]]\nname='a'\narrival=-1\nstage=[{name='x',threads=2,work=1}]\n").unwrap();
    for command in ["simulate", "run"] {
        let run = flexps(["workload", command, "--slaves", "2", "--slots", "2"]).arg(&file).exits(2);
        run.says(&["w.toml:3:9: -1 is no time"]);
        assert_eq!(run.stdout, "");
    }
    let run = flexps(["workload", "simulate", "--policies", "greedy,magic"]).arg(shipped("six-tasks.toml")).exits(2);
    run.says(&["magic", "prioritized"]);
    let run = flexps(["workload", "simulate", "--slaves", "1"]).arg(shipped("six-tasks.toml")).exits(2);
    run.says(&["stage sweep of job factors needs 300 slots, the cluster has 60"]);
}

#[test]
fn what_can_never_fit_is_refused_before_the_first_policy_runs() {
    let cluster = Cluster::start(1, 2);
    let file = cluster.folder().join("late.toml");
    let late = "[[job]]\nname='b'\narrival=50\nstage=[{name='work',threads=100,work=1}]\n";
    let text =
        format!("cluster={{slaves=1,slots=2}}\n[[job]]\nname='a'\nstage=[{{name='work',threads=1,work=1}}]\n{late}");
    std::fs::write(&file, text).unwrap();
    let here = flexps(["workload", "run", "--policies", "greedy"]).env("FLEXPS_MASTER", "");
    for run in [here, cluster.ask(["workload", "run", "--policies", "greedy"])] {
        let run = run.arg(&file).exits(2);
        run.says(&["job b: stage b/work needs 100 slots, the cluster has 2"]);
        assert!(!run.stderr.contains("running"), "{run}");
    }
    let history = cluster.ask(["history", "export"]).ok().stdout;
    assert!(!history.contains("\"what\":\"job\"") && !history.contains("\"what\":\"policy\""), "{history}");
}

#[test]
fn a_giant_starves_live_under_greedy_and_not_under_prioritized() {
    let run = flexps(["workload", "run", "--speed", "20", "--policies", "greedy,prioritized"]).within(100);
    let comparison = run.arg(shipped("giant-among-smalls.toml")).json();
    let last = |policy: &str| {
        let jobs = of(&comparison, policy)["jobs"].as_array().unwrap();
        let smalls = jobs.iter().filter(|j| j["name"] != "giant");
        smalls.map(|j| j["end"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    assert!(end(&comparison, "greedy", "giant") > last("greedy"), "{comparison}");
    assert!(end(&comparison, "prioritized", "giant") < last("prioritized"), "{comparison}");
    assert_eq!(of(&comparison, "greedy")["measures"]["failed"], 0);
    // The same simulated: under greedy it waits as long as smalls come, two minutes.
    let comparison = flexps(["workload", "simulate"]).arg(shipped("giant-among-smalls.toml")).json();
    let wait = |policy: &str| of(&comparison, policy)["measures"]["worst_wait"].as_f64().unwrap();
    assert_eq!(of(&comparison, "greedy")["measures"]["worst_waiter"], "everything of giant");
    assert!(wait("greedy") > 100.0, "{comparison}");
    for policy in ["prioritized", "backfill", "fair"] {
        assert!(wait(policy) < 20.0, "{policy}: {comparison}");
    }
}

/// Of two that have 20 jobs each for 4 slots, one with nine times the other's weight.
#[track_caller]
fn assert_most_are_of(owner: &str, comparison: &Value) {
    let mut jobs = of(comparison, "fair")["jobs"].as_array().unwrap().clone();
    jobs.sort_by(|a, b| a["end"].as_f64().unwrap().total_cmp(&b["end"].as_f64().unwrap()));
    // Live, the first slots are taken before its jobs are there. Of four, three are its then; two if all weighed the same.
    let own = jobs[8..24].iter().filter(|job| job["owner"] == owner).count();
    assert!(own >= 11, "{own} of 16 are of {owner}\n{comparison}");
}

#[test]
fn shares_of_a_file_weigh_live_as_they_do_in_a_simulation() {
    let folder = folder();
    let file = folder.path().join("shares.toml");
    let jobs = |user: &str| {
        format!("[[job]]\nname='{user}'\nuser='{user}'\ncopies=20\nstage=[{{name='x',threads=1,work=0.3}}]\n")
    };
    std::fs::write(&file, format!("cluster={{slaves=1,slots=4}}\n{}{}[shares]\nbob=9\n", jobs("ann"), jobs("bob")))
        .unwrap();
    for command in ["simulate", "run"] {
        let comparison = flexps(["workload", command, "--policies", "fair"]).arg(&file).within(60).json();
        assert_most_are_of("bob", &comparison);
    }
    // A master has its own, of queues too.
    let mut cluster = Cluster::start(1, 4);
    cluster.restart_master(&["--http", "127.0.0.1:0", "--share", "team=9"]);
    cluster.pages = cluster.master.line("pages at http://").trim_end_matches('/').to_owned();
    cluster.await_slaves(1);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("user='bob'", "user='ann'\nqueue='team'").replace("bob=9", "team=1")).unwrap();
    let run = cluster.ask(["workload", "run", "--policies", "fair", "--json"]).arg(&file).within(60).ok();
    run.says(&["the weights of shares are those that the master was started with"]);
    assert_most_are_of("team", &run.json());
    // It has its own policy back, too.
    assert_eq!(get(&cluster.pages, "/api/v1/overview").json()["policy"], "greedy");
}

/// The shipped file of six tasks, two of them as the real jobs that they stand for.
fn six_tasks_with_real_jobs() -> String {
    let text = std::fs::read_to_string(shipped("six-tasks.toml")).unwrap();
    let real = |job: &str| {
        let (name, rest) = match job.trim_start().lines().next() {
            Some("name = \"svrg\"") => {
                ("svrg", "priority = 1\nparams = { epochs = 4, wide = 6, narrow = 3, tolerance = 0 }")
            }
            Some("name = \"lr\"") => ("lr", "params = { epochs = 4, threads = 3, tolerance = 0 }"),
            _ => return job.to_owned(),
        };
        format!("\nname = '{name}'\nrun = '{name}'\n{rest}\n")
    };
    text.split("[[job]]").map(real).collect::<Vec<_>>().join("[[job]]")
}

#[test]
fn six_tasks_of_which_two_are_real_run_on_three_slaves_and_their_replay_repeats_them() {
    let cluster = Cluster::start(3, 100);
    let (file, picture) = (cluster.folder().join("six.toml"), cluster.folder().join("six.svg"));
    std::fs::write(&file, six_tasks_with_real_jobs()).unwrap();
    let run = cluster.ask(["workload", "run", "--policies", "prioritized", "--speed", "6", "--picture"]);
    let run = run.arg(&picture).arg(&file).within(200).ok();
    assert!(run.stdout.contains("6 jobs on 3 slaves with 300 slots in all (live"), "{run}");
    assert!(run.stdout.lines().any(|line| line.starts_with("prioritized ")), "{run}");
    let drawn = std::fs::read_to_string(&picture).unwrap();
    assert!(drawn.contains("class=\"run\"") && drawn.contains("factors") && drawn.contains("svrg"), "no picture");
    // Under the policy that was recorded, its replay starts the same stages in the same order, and takes as long.
    let history = cluster.folder().join("history");
    cluster.ask(["history", "export", "--output"]).arg(&history).ok();
    let text = std::fs::read_to_string(&history).unwrap();
    let (records, torn) = read("history", text.as_bytes()).unwrap();
    assert_eq!(torn, None);
    let names = BTreeMap::new();
    let (live, (workload, slaves)) = (trace(&records, &names, |_| true), workload("six", &records, &names, |_| true));
    let played = simulate(&workload, &slaves, &*policy("prioritized").unwrap(), 0).unwrap();
    let order = |trace: &Trace| {
        let mut runs: Vec<_> = trace.runs.iter().map(|r| (r.start, r.job, r.round, r.stage.clone())).collect();
        runs.sort();
        runs.into_iter().map(|(_, job, round, stage)| (job, round, stage)).collect::<Vec<_>>()
    };
    assert_eq!(order(&live), order(&played));
    let [recorded, replayed] =
        [&live, &played].map(|t| t.jobs.iter().filter_map(|j| j.end).max().unwrap().as_secs_f64());
    assert!((recorded - replayed).abs() <= 0.05 * recorded, "recorded {recorded} s, played {replayed} s");
}

#[test]
fn jobs_whose_stages_stand_in_a_diamond_run_live_and_their_history_keeps_the_graph() {
    let cluster = Cluster::start(2, 4);
    let run = cluster.ask(["workload", "run", "--policies", "prioritized", "--speed", "20"]);
    let run = run.arg(shipped("diamond.toml")).within(100).json();
    assert_eq!(of(&run, "prioritized")["measures"]["failed"], 0, "{run}");
    let history = cluster.folder().join("history");
    cluster.ask(["history", "export", "--output"]).arg(&history).ok();
    let (records, _) = read("history", &*std::fs::read(&history).unwrap()).unwrap();
    let (workload, slaves) = workload("diamond", &records, &BTreeMap::new(), |_| true);
    let jobs: Vec<_> = workload.jobs.iter().filter(|job| job.stages.len() == 8).collect();
    assert_eq!(jobs.len(), 3);
    for stages in jobs.iter().map(|job| &job.stages) {
        for stage in stages {
            // Where they ran they had their job's name in front.
            let own = |name: &'_ str| name.rsplit('/').next().unwrap_or_default().to_owned();
            let mut after: Vec<String> = stage.after.iter().map(|first| own(&stages[*first].name)).collect();
            after.sort_unstable();
            let after: Vec<&str> = after.iter().map(String::as_str).collect();
            match own(&stage.name).as_str() {
                "load" => assert!(matches!(after[..], [] | ["gradient", "join", "load", "statistics"]), "{after:?}"),
                "join" => assert_eq!(after, ["gradient", "statistics"]),
                _ => assert_eq!(after, ["load"]),
            }
        }
    }
    let trace = simulate(&workload, &slaves, &*policy("fair").unwrap(), 0).unwrap();
    assert_eq!(trace.runs.len(), 3 * 8 + 8);
}

#[test]
fn a_live_run_is_recorded_and_its_replay_repeats_it() {
    let cluster = Cluster::start(3, 4);
    let file = cluster.folder().join("w.toml");
    let text = "[[job]]\nname='svrg'\nrun='svrg'\nparams={epochs=3}\n[[job]]\nname='lr'\nrun='lr'\npriority=1\n\
        params={epochs=1}\nafter=['first']\n[[job]]\nname='first'\nuser='ann'\nrounds=2\n\
        stage=[{name='x',threads=8,work=4.0},{name='y',threads='all',work=6.0}]\n\
        [[job]]\nname='small'\ncopies=6\nevery=0.3\narrival=0.1\nstage=[{name='z',threads=3,work=1.5}]\n";
    std::fs::write(&file, text).unwrap();
    let run = cluster.ask(["workload", "run", "--policies", "prioritized"]).arg(&file).within(100).json();
    let live = of(&run, "prioritized");
    assert_eq!((live["measures"]["failed"].as_u64(), live["jobs"].as_array().map(Vec::len)), (Some(0), Some(9)));
    assert!(end(&run, "prioritized", "lr") > end(&run, "prioritized", "first"), "{run}");
    let history = cluster.folder().join("history");
    cluster.ask(["history", "export", "--output"]).arg(&history).ok();
    let replay = flexps(["workload", "replay", "--policies", "prioritized,fair"]).arg(&history).json();
    let makespan = |policy: &str| of(&replay, policy)["measures"]["makespan"].as_f64().unwrap();
    let (recorded, played) = (makespan("recorded"), makespan("prioritized"));
    assert!((recorded - played).abs() <= 0.05 * recorded, "recorded {recorded} s, played {played} s");
    assert_eq!(of(&replay, "recorded")["stage_runs"], of(&replay, "prioritized")["stage_runs"]);
    // Torn at its end, it is good up to there; torn elsewhere, it is refused.
    let text = std::fs::read_to_string(&history).unwrap();
    std::fs::write(&history, &text[..text.len() - 9]).unwrap();
    flexps(["workload", "replay"]).arg(&history).ok().says(&["is cut off in line"]);
    std::fs::write(&history, text.replacen("\"what\":\"run\"", "\"what\":\"r", 1)).unwrap();
    flexps(["workload", "replay"]).arg(&history).exits(2).says(&["no record"]);
}

#[test]
fn a_job_that_was_confined_to_slaves_is_replayed_on_the_same_ones() {
    let cluster = Cluster::start(3, 2);
    let on_h3 = cluster.ask(["run", "sleep", "--detach", "--stage", "a:1@h3:0.3", "--stage", "b:1:0.2"]).ok();
    cluster.ask(["run", "sleep", "--rounds", "3", "--stage", "tour:1/visit:0.1", "--stage", "all:1/slave:0.1"]).ok();
    cluster.ask(["run", "sleep", "--stage", "last:1:0"]).arg("--after").arg(on_h3.stdout.trim()).ok();
    let history = cluster.folder().join("history");
    cluster.ask(["history", "export", "--output"]).arg(&history).ok();
    let (records, _) = read("history", &*std::fs::read(&history).unwrap()).unwrap();
    let where_to = |trace: &Trace| {
        let name = |place: u32| trace.slaves[place as usize].name.clone();
        let on = |w: &[(u32, u32)]| w.iter().map(|(place, n)| (name(*place), *n)).collect::<Vec<_>>();
        let mut runs: Vec<_> = trace.runs.iter().map(|r| (r.job, r.stage.clone(), r.round, on(&r.workers))).collect();
        runs.sort();
        runs
    };
    let recorded = where_to(&trace(&records, &BTreeMap::new(), |_| true));
    let (workload, slaves) = workload("w", &records, &BTreeMap::new(), |_| true);
    // They registered in any order.
    let names: Vec<_> = workload.jobs[0].slaves.iter().map(|place| slaves.names[*place].as_str()).collect();
    assert_eq!(names, ["h3"]);
    assert_eq!(recorded.iter().filter(|run| run.0 == 0).map(|run| run.3[0].0.as_str()).collect::<Vec<_>>(), ["h3"; 2]);
    assert_eq!(recorded.iter().filter(|run| run.1 == "tour").count(), 3);
    for name in ["greedy", "prioritized"] {
        assert_eq!(where_to(&simulate(&workload, &slaves, &*policy(name).unwrap(), 0).unwrap()), recorded, "{name}");
    }
}

#[test]
fn a_live_job_may_wait_for_one_that_ended_longer_ago_than_masters_remember() {
    let here = folder();
    let file = here.path().join("after.toml");
    let text = r#"
        cluster = { slaves = 1, slots = 4 }
        job = [
          { name = "setup", stage = [{ name = "s", threads = 1, work = 0.01 }] },
          { name = "small", copies = 230, every = 0.01, arrival = 0.1, after = ["setup"], stage = [{ name = "w", threads = 1, work = 0.001 }] },
        ]
    "#;
    std::fs::write(&file, text).unwrap();
    let run = flexps(["workload", "run", "--policies", "greedy"]).arg(&file).env("FLEXPS_MASTER", "").json();
    let jobs = of(&run, "greedy")["jobs"].as_array().unwrap().clone();
    assert_eq!(jobs.len(), 231);
    assert!(jobs.iter().all(|job| job["end"].is_number()), "{run}");
}

#[test]
fn a_run_is_left_at_once_when_its_master_is_silent_and_cancels_its_jobs_when_it_is_not() {
    let cluster = Cluster::start(1, 8);
    let file = cluster.folder().join("long.toml");
    std::fs::write(&file, "[[job]]\nname='a'\ncopies=4\nstage=[{name='x',threads=1,work=300}]\n").unwrap();
    let states = || -> Vec<String> {
        let jobs = get(&cluster.pages, "/api/v1/jobs").json();
        jobs.as_array().unwrap().iter().map(|job| job["state"].as_str().unwrap().to_owned()).collect()
    };
    let start = |jobs: usize| {
        let running = cluster.ask(["workload", "run", "--policies", "fair"]).arg(&file).within(40).start();
        wait::until("its jobs", Duration::from_secs(20), || (states().len() == jobs).then_some(()));
        running
    };
    let first = start(4);
    first.signal(libc::SIGINT);
    assert_eq!(first.finish().code, 130);
    wait::until("the end of its jobs", Duration::from_secs(20), || {
        states().iter().all(|state| state == "cancelled").then_some(())
    });
    assert_eq!(get(&cluster.pages, "/api/v1/overview").json()["policy"], "greedy");
    let mut second = start(8);
    cluster.master.signal(libc::SIGSTOP);
    second.signal(libc::SIGINT);
    second.await_stderr("Ctrl-C leaves at once");
    let asked = Instant::now();
    second.signal(libc::SIGINT);
    let run = second.finish();
    assert!(run.code == 130 && asked.elapsed() < Duration::from_secs(5), "{run}");
    run.says(&["jobs may still run there"]);
}

#[test]
fn a_job_that_was_on_its_way_when_its_run_was_left_is_cancelled_too() {
    let cluster = Cluster::start(1, 8);
    let file = cluster.folder().join("late.toml");
    let job = |name: &str, arrival| {
        format!("[[job]]\nname='{name}'\narrival={arrival}\nstage=[{{name='x',threads=1,work=300}}]\n")
    };
    std::fs::write(&file, job("a", 0) + &job("b", 1)).unwrap();
    let states = || -> Vec<String> {
        let jobs = get(&cluster.pages, "/api/v1/jobs").json();
        jobs.as_array().unwrap().iter().map(|job| job["state"].as_str().unwrap().to_owned()).collect()
    };
    let mut running = cluster.ask(["workload", "run", "--policies", "fair"]).arg(&file).within(60).start();
    wait::until("its first job", Duration::from_secs(20), || (!states().is_empty()).then_some(()));
    // It has the second one behind it, before it is told so.
    cluster.master.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(2));
    running.signal(libc::SIGINT);
    running.await_stderr("Ctrl-C leaves at once");
    cluster.master.signal(libc::SIGCONT);
    assert_eq!(running.finish().code, 130);
    wait::until("the end of its jobs", Duration::from_secs(20), || {
        let states = states();
        let live = states.iter().any(|state| state == "queued" || state == "running");
        (states.len() == 2 && !live).then_some(())
    });
    assert_eq!(get(&cluster.pages, "/api/v1/overview").json()["policy"], "greedy");
}

#[test]
fn an_export_that_is_interrupted_leaves_nothing() {
    let (cluster, here) = (Cluster::start(1, 1), folder());
    cluster.master.signal(libc::SIGSTOP);
    let export = cluster.ask(["history", "export", "--output"]).arg(here.path().join("history")).within(40).start();
    let files = || std::fs::read_dir(here.path()).unwrap().count();
    wait::until("its file", Duration::from_secs(8), || (files() > 0).then_some(()));
    export.signal(libc::SIGINT);
    let run = export.finish();
    assert_eq!((run.code, files()), (130, 0), "{run}");
    run.says(&["cancelled"]);
}

#[test]
fn without_a_master_no_policy_pays_for_what_users_had_under_another() {
    let here = folder();
    let file = here.path().join("w.toml");
    // When `hold` ends, bob has had less than ann, and in the end more.
    let text = r#"
        cluster = { slaves = 1, slots = 1 }
        job = [
          { name = "early", user = "ann", stage = [{ name = "x", threads = 1, work = 0.3 }] },
          { name = "hold", user = "carl", after = ["early"], stage = [{ name = "x", threads = 1, work = 1.0 }] },
          { name = "ann", user = "ann", arrival = 0.8, stage = [{ name = "x", threads = 1, work = 0.2 }] },
          { name = "bob", user = "bob", arrival = 0.8, stage = [{ name = "x", threads = 1, work = 0.2 }] },
          { name = "late", user = "bob", after = ["ann", "bob"], stage = [{ name = "x", threads = 1, work = 1.5 }] },
        ]
    "#;
    std::fs::write(&file, text).unwrap();
    let run = flexps(["workload", "run", "--policies", "greedy,fair"]).arg(&file).within(60).json();
    assert!(end(&run, "fair", "bob") < end(&run, "fair", "ann"), "{run}");
}

#[test]
fn records_that_a_master_forgot_are_missed() {
    let cluster = Cluster::start(1, 2);
    let forgotten = cluster.ask(["run", "sleep", "--stage", "first:1:0"]).ok();
    assert!(!cluster.ask(["history", "export"]).ok().stderr.contains("older record"), "{forgotten}");
    // Long names fill the memory that there is for records soon.
    let file = cluster.folder().join("many.toml");
    let job = "[[job]]\nname='many'\nrounds=50000\nstage=[{name='NAME',threads=1,work=0}]\n";
    std::fs::write(&file, job.replace("NAME", &"x".repeat(190))).unwrap();
    let run = cluster.ask(["workload", "run", "--policies", "greedy"]).arg(&file).within(200).exits(1);
    run.says(&["has no record of job many any more", "fewer rounds"]);
    let export = cluster.ask(["history", "export"]).ok();
    export.says(&["note: without ", "older records", "--history FILE"]);
    assert!(export.stdout.starts_with("{\"what\":\"begin\"") && !export.stdout.contains("\"first\""), "{export}");
}
