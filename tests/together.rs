//! Stages of one job side by side, on real processes.

use crate::support::{Cluster, flexps, wait};
use std::time::Duration;

const DIAMOND: [&str; 8] = [
    "--stage",
    "load:1:0.1",
    "--stage",
    "left:2:1",
    "--stage",
    "right:2:1,after=load",
    "--stage",
    "sum:4:0.4,after=left+right",
];

#[test]
fn stages_that_do_not_wait_for_one_another_overlap_and_the_others_wait() {
    let cluster = Cluster::start(2, 2);
    let report = cluster.ask(["run", "sleep", "--rounds", "2"]).args(DIAMOND).json();
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 8, "{report}");
    let mut before = 0.0;
    for round in 1..=2 {
        let times = |name: &str| {
            let run = stages.iter().find(|s| s["name"] == name && s["epoch"] == round).unwrap();
            let start = run["start"].as_f64().unwrap();
            // Times from the job's submission are rounded.
            (start, start + run["seconds"].as_f64().unwrap() - 1e-6)
        };
        let [load, left, right, sum] = ["load", "left", "right", "sum"].map(times);
        assert!(load.0 >= before && left.0 >= load.1 && right.0 >= load.1, "{report}");
        assert!(left.0 < right.1 && right.0 < left.1, "one after the other: {report}");
        assert!(sum.0 >= left.1.max(right.1), "{report}");
        before = sum.1;
    }
}

#[test]
fn stages_that_wait_side_by_side_each_say_why_and_a_cancel_ends_all() {
    let cluster = Cluster::start(1, 3);
    let stages = ["--stage", "left:2:60", "--stage", "right:1:60,after=", "--stage", "more:2:60,after=", "--stage"];
    let job = cluster.ask(["run", "sleep", "--detach"]).args(stages).args(["last:3:60,after="]).ok();
    let id = job.stdout.trim().to_owned();
    wait::until("two that run and two that wait", Duration::from_secs(20), || {
        let text = cluster.ask(["status", &id]).ok().stdout;
        let waits = ["more: needs 2", "last: needs 3"].map(|wait| format!("stage {wait} slots, 0 of 3 are free"));
        (text.contains(&waits.join("; ")) && text.contains("stage left, right of epoch 1")).then_some(())
    });
    cluster.ask(["cancel", &id]).ok();
    let report = wait::until("the job's end", Duration::from_secs(20), || {
        let report = cluster.ask(["status", &id]).json();
        (report["state"] == "cancelled").then_some(report)
    });
    assert!(report["stages"].as_array().is_some_and(Vec::is_empty), "{report}");
    // All slots are free again.
    cluster.ask(["run", "sleep", "--stage", "wide:3:0"]).ok();
}

#[test]
fn a_plan_shows_its_graph_and_a_name_that_is_not_there_is_the_users_mistake() {
    let plan = flexps(["plan", "sleep"]).args(DIAMOND).ok();
    for line in [
        "  together",
        "    stage load: 1 thread, bsp, at once",
        "    stage left: 2 threads, bsp, after load",
        "    stage right: 2 threads, bsp, after load",
        "    stage sum: 4 threads, bsp, after left, right",
    ] {
        assert!(plan.stdout.lines().any(|shown| shown == line), "no line '{line}' in {plan}");
    }
    let run = flexps(["run", "sleep", "--slots", "2", "--stage", "a:1:1", "--stage", "b:1:1,after=c"]).exits(2);
    run.says(&["stage b: a stage comes after stages above it in its group (a), not c"]);
}
