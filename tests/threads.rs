//! Threads of which nobody gives a number: on real processes, as many as there are cores, or as the engine finds by trying with
//! stages that sleep as long as a curve says.

use crate::support::{Cluster, Rows, assert_close, flexps, folder};

/// 0.64/p + 0.04 p seconds: 0.68, 0.40, 0.33 and 0.32 on 1 to 4 threads, but for 6 and 8 more again.
const STAGE: &str = "tuned:auto:0.64:0.04";

#[test]
fn auto_threads_are_tried_fitted_and_chosen_and_shown_in_report_status_and_picture() {
    let cluster = Cluster::start(2, 4);
    let run = cluster.ask(["run", "sleep", "--stage", STAGE, "--stage", "given:1:0.01", "--rounds", "16", "--detach"]);
    let id = run.ok().stdout.trim().to_owned();
    let report = crate::support::wait::until("the job's end", std::time::Duration::from_secs(60), || {
        let report = cluster.ask(["status", &id]).json();
        (report["state"] == "done").then_some(report)
    });
    let [found] = report["threads"].as_array().unwrap().as_slice() else { panic!("{}", report["threads"]) };
    assert_eq!((found["stage"].as_str(), found["way"].as_str()), (Some("tuned"), Some("auto")), "{found}");
    // Within a tenth of the best, on a machine that may be busy.
    let chosen = found["threads"].as_u64().unwrap();
    assert!((3..=5).contains(&chosen), "{found}");
    let tried: Vec<_> = found["tried"].as_array().unwrap().iter().map(|t| t["threads"].as_u64().unwrap()).collect();
    assert!(tried.len() >= 3 && tried.first() == Some(&1) && tried.last() == Some(&8), "{found}");
    assert_close(found["curve"]["work"].as_f64().unwrap(), 0.64, 0.3);
    let stages = report["stages"].as_array().unwrap();
    let runs: Vec<_> = stages.iter().filter(|s| s["name"] == "tuned").map(|s| s["threads"].as_u64().unwrap()).collect();
    assert_eq!((runs[0], runs.len()), (8, 16));
    assert!(runs[8..].iter().all(|threads| (3..=5).contains(threads)), "{runs:?}");
    assert!(stages.iter().filter(|s| s["name"] == "given").all(|s| s["threads"] == 1));

    let here = folder();
    let picture = here.path().join("curve.svg");
    let status = cluster.ask(["status", &id, "--curve"]).arg(&picture).ok();
    let tuned = format!("tuned: {chosen} of 1-8, least elapsed; 1: ");
    for shown in ["threads  ", &tuned, "/p + ", "of its time"] {
        assert!(status.stdout.contains(shown), "{status}");
    }
    let text = std::fs::read_to_string(&picture).unwrap();
    let svg = roxmltree::Document::parse(&text).unwrap();
    let points = svg.descendants().filter(|node| node.attribute("class") == Some("tried")).count();
    assert_eq!(points, tried.len(), "{text}");

    let cheap = ["run", "sleep", "--stage", STAGE, "--rounds", "8", "--optimize", "worker-time"];
    let report = cluster.ask(cheap).json();
    assert_eq!(report["threads"][0]["threads"], 1, "{}", report["threads"]);
    let given = cluster.ask(["run", "sleep", "--stage", "given:1:0.01", "--detach"]).ok().stdout.trim().to_owned();
    let none = cluster.ask(["status", &given, "--curve"]).arg(&picture).exits(2);
    none.says(&["there is nothing to draw"]);
}

#[test]
fn a_stage_whose_threads_are_tried_never_waits_for_more_than_are_free() {
    let cluster = Cluster::start(1, 4);
    let detached = |stages: &[&str], rounds: &str| {
        let stages = stages.iter().flat_map(|stage| ["--stage", stage]);
        let run = cluster.ask(["run", "sleep", "--detach", "--rounds", rounds]).args(stages);
        run.ok().stdout.trim().to_owned()
    };
    // Each time that the first job's stage on one slot comes, it takes one of the four that were free.
    let first = detached(&["wide:all:0.5", "narrow:1:0.5"], "8");
    let tried = detached(&["tried:auto:0.05"], "8");
    let state = |id: &str| cluster.ask(["status", id]).json()["state"].clone();
    crate::support::wait::until("the end", std::time::Duration::from_secs(30), || {
        (state(&tried) == "done").then_some(())
    });
    assert_eq!(state(&first), "running", "it ran where the other was done only");
}

#[test]
fn a_search_for_threads_is_made_once() {
    let here = folder();
    let job = ["run", "sleep", "--slots", "3", "--stage", "searched:offline:0.06:0.02", "--rounds", "12"];
    let run = || flexps(job).env("XDG_CACHE_HOME", here.path()).json();
    let first = run();
    let found = &first["threads"][0];
    assert_eq!((found["way"].as_str(), found["tries"].as_u64()), (Some("offline"), Some(9)), "{found}");
    let tried: Vec<_> = found["tried"].as_array().unwrap().iter().map(|t| t["threads"].as_u64().unwrap()).collect();
    assert_eq!(tried, [1, 2, 3], "{found}");
    let again = run();
    assert_eq!((&again["threads"][0]["tries"], &again["threads"][0]["threads"]), (&0.into(), &found["threads"]));
    let stages = again["stages"].as_array().unwrap();
    assert!(stages.iter().all(|stage| stage["threads"] == found["threads"]), "{}", again["stages"]);
}

#[test]
fn jobs_whose_threads_change_reach_the_objective_of_jobs_whose_threads_do_not() {
    let cluster = Cluster::start(2, 2);
    let rows = Rows::generate(45, 3000, 200, 12).write(cluster.folder(), "rows");
    let both = ["--wide", "auto", "--narrow", "auto"];
    let run = |more: &[&str]| {
        let run = cluster.ask(["run", "svrg", "--epochs", "40", "--tolerance", "1e-6"].iter().chain(more));
        run.arg("--input").arg(&rows).json()
    };
    let (given, found) = (run(&[]), run(&both));
    assert_close(given["objective"].as_f64().unwrap(), found["objective"].as_f64().unwrap(), 1e-4);
    let names = |report: &serde_json::Value| -> Vec<String> {
        let all = report["threads"].as_array().unwrap().iter();
        all.map(|found| found["stage"].as_str().unwrap().to_owned()).collect()
    };
    assert!(names(&found).contains(&"stochastic".to_owned()) && names(&found).contains(&"full-gradient".to_owned()));
    // Bits that are to repeat need counts that do.
    let [once, twice] = [0, 1].map(|_| run(&["--wide", "auto", "--reproducible"]));
    assert_eq!(once["objective"], twice["objective"]);
    assert!(once["threads"].as_array().unwrap().is_empty(), "{}", once["threads"]);
    let notes = once["notes"].to_string();
    assert!(notes.contains("with --reproducible no threads are tried"), "{notes}");
}

#[test]
fn stages_with_a_range_of_threads_take_what_is_free() {
    let cluster = Cluster::start(2, 2);
    let rows = Rows::generate(46, 2000, 200, 12).write(cluster.folder(), "rows");
    let threads = |more: &[&str]| -> (Vec<u64>, f64) {
        let wide = ["run", "svrg", "--wide", "2..3", "--epochs", "30", "--tolerance", "1e-6"];
        let report = cluster.ask(wide.iter().chain(more)).arg("--input").arg(&rows).json();
        let stages = report["stages"].as_array().unwrap().iter().filter(|s| s["name"] == "full-gradient");
        (stages.map(|s| s["threads"].as_u64().unwrap()).collect(), report["objective"].as_f64().unwrap())
    };
    let (alone, objective) = threads(&[]);
    assert!(!alone.is_empty() && alone.iter().all(|n| *n == 3), "{alone:?}");
    let (least, _) = threads(&["--reproducible"]);
    assert!(!least.is_empty() && least.iter().all(|n| *n == 2), "{least:?}");
    let busy = cluster.ask(["run", "sleep", "--stage", "busy:1/slave:300", "--detach"]).ok().stdout.trim().to_owned();
    crate::support::wait::until("the other job's start", std::time::Duration::from_secs(30), || {
        (cluster.ask(["status", &busy]).json()["state"] == "running").then_some(())
    });
    let (beside, same) = threads(&[]);
    assert!(!beside.is_empty() && beside.iter().all(|n| *n == 2), "{beside:?}");
    assert_close(objective, same, 1e-4);
    cluster.ask(["cancel", &busy]).ok();
}

#[test]
fn a_stage_runs_on_the_slave_that_it_names_or_visits_each_once() {
    let cluster = Cluster::start(3, 2);
    let stages = ["--stage", "visit:2/visit:0.01", "--stage", "there:1@h2:0.01"];
    let report = cluster.ask(["run", "sleep", "--rounds", "6"].iter().chain(&stages)).json();
    let on = |name: &str| -> Vec<String> {
        let runs = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == name);
        runs.map(|run| run["slaves"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()).collect()
    };
    assert_eq!(on("there"), ["h2"; 6]);
    for mut turn in on("visit").chunks(3).map(<[String]>::to_vec) {
        turn.sort();
        assert_eq!(turn, ["h1", "h2", "h3"], "{report}");
    }
    let nowhere = cluster.ask(["run", "sleep", "--stage", "there:1@h7:0.01"]).exits(2);
    nowhere.says(&["stage there is to run on h7", "there are h1, h2, h3"]);
}

#[test]
fn without_a_number_stages_have_no_more_threads_than_cores_and_the_report_says_why() {
    let here = folder();
    let rows = Rows::generate(47, 400, 60, 8).write(here.path(), "rows");
    let run = |job: &[&str]| {
        let run = flexps(["run"]).args(job).args(["--slots", "4", "--cores", "2", "--tolerance", "1e-3"]);
        let report = run.arg("--input").arg(&rows).json();
        let stages = report["stages"].as_array().unwrap().iter();
        (stages.map(|s| s["threads"].as_u64().unwrap()).max(), report["notes"].to_string())
    };
    let says =
        "2 threads on 1 of 1 slave: the slaves' machine has 2 cores; --threads (of svrg --wide) gives another number";
    for job in [&["lr"][..], &["lr", "--solver", "sgd"], &["svrg"], &["svm"], &["lr", "--penalty", "l1"]] {
        let (threads, notes) = run(job);
        assert_eq!(threads, Some(2), "{job:?}");
        assert!(notes.contains(says), "{job:?}: {notes}");
    }
    for job in [&["lr", "--threads", "4"][..], &["svrg", "--wide", "4"]] {
        let (threads, notes) = run(job);
        assert_eq!(threads, Some(4), "{job:?}");
        assert!(!notes.contains("cores"), "{job:?}: {notes}");
    }
}
