//! The history file of a master, over several masters.

use crate::support::cluster::Node;
use crate::support::http::{get, post, report, submit};
use crate::support::process::flexps;
use crate::support::{Rows, folder, wait};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// A master that goes on with a history, and where its pages and itself are.
fn master(folder: &Path, name: &str, bind: &str) -> (Node, String, String) {
    let history = folder.join("history");
    let args = ["master", "--bind", bind, "--http", "127.0.0.1:0", "--history", history.to_str().unwrap()];
    let mut node = Node::start(folder, name, &args, &[]);
    let address = node.line("listening on ");
    let pages = node.line("pages at http://").trim_end_matches('/').to_owned();
    (node, address, pages)
}

fn await_slave(pages: &str) -> u64 {
    wait::until("a slave", Duration::from_secs(20), || get(pages, "/api/v1/slaves").json()[0]["id"].as_u64())
}

#[test]
fn a_master_goes_on_where_the_history_of_the_one_before_stops() {
    let folder = folder();
    let (mut first, address, pages) = master(folder.path(), "first", "127.0.0.1:0");
    let slave = Node::start(
        folder.path(),
        "h1",
        &["slave", "--master", &address, "--slots", "2", "--cores", "2", "--host", "h1"],
        &[],
    );
    let id = await_slave(&pages);
    let done = submit(&pages, "sleep", json!({ "stage": ["x:2:0.4"], "rounds": 2 }));
    report(&pages, done);
    let cut = submit(&pages, "sleep", json!({ "stage": ["y:2:1000"] }));
    wait::until("its stage", Duration::from_secs(20), || {
        (get(&pages, "/api/v1/overview").json()["running"][0]["stage"] == "y").then_some(())
    });
    // What the history holds is on its way to the file.
    let file = folder.path().join("history");
    wait::until("its record", Duration::from_secs(20), || {
        std::fs::read_to_string(&file).unwrap().contains(&format!("\"job\":{cut}")).then_some(())
    });
    first.kill();
    // As if it had been cut off in the middle of a line.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text + "{\"what\":\"en").unwrap();

    let (mut second, _, pages) = master(folder.path(), "second", &address);
    assert!(second.log().contains("is cut off in line"), "{}", second.log());
    let jobs = get(&pages, "/api/v1/jobs").json();
    assert_eq!(jobs[0]["state"], "done", "{jobs}");
    assert!(["queued", "running"].contains(&jobs[1]["state"].as_str().unwrap()), "{jobs}");
    let known = get(&pages, &format!("/api/v1/jobs/j{done}")).json()["report"]["stages"].clone();
    assert_eq!((known.as_array().map(Vec::len), &known[1]["slaves"]), (Some(2), &json!(["h1"])), "{known}");
    assert!(await_slave(&pages) > id, "a slave has an identity of its own in each life of the master");
    // Nobody follows it, so it runs again.
    wait::until("its stage", Duration::from_secs(20), || {
        (get(&pages, "/api/v1/overview").json()["running"][0]["stage"] == "y").then_some(())
    });
    post(&pages, &format!("/api/v1/jobs/j{cut}/cancel"), &json!({}));
    assert_eq!(report(&pages, cut)["state"], "cancelled");
    let next = submit(&pages, "sleep", json!({ "stage": ["x:2:0.4"] }));
    assert_eq!(next, cut + 1);
    assert_eq!(report(&pages, next)["state"], "done");
    second.signal(libc::SIGTERM);
    assert_eq!(second.ends(Duration::from_secs(20)), 0);
    drop(slave);
    let (mut third, ..) = master(folder.path(), "third", "127.0.0.1:0");
    third.signal(libc::SIGTERM);
    assert_eq!(third.ends(Duration::from_secs(20)), 0);
    // All lives are one history, in which times grow; the last one that ended a job can be played again.
    let text = std::fs::read_to_string(&file).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<f64> = records.iter().filter_map(|r| r["at"].as_f64()).collect();
    assert!(times.is_sorted(), "{text}");
    assert_eq!(text.matches("\"what\":\"begin\"").count(), 3, "{text}");
    let replay = flexps(["workload", "replay", "--json", "--policies", "greedy"]).arg(&file).ok();
    replay.says(&["without 1 job of 1 earlier master"]);
    assert_eq!(replay.json()["policies"][0]["jobs"].as_array().map(Vec::len), Some(2), "{replay}");
    let idle = folder.path().join("idle");
    std::fs::write(&idle, text.lines().next().unwrap().to_owned() + "\n").unwrap();
    flexps(["workload", "replay"]).arg(&idle).exits(2).says(&["holds no job that has ended"]);
    flexps(["master", "--bind", "127.0.0.1:0", "--history"])
        .arg(folder.path().join("h1.log"))
        .within(20)
        .exits(2)
        .says(&["--history", "no record"]);
}

#[test]
fn jobs_that_nobody_follows_outlive_their_master() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let rows = Rows::generate(51, 3000, 300, 15).write(folder.path(), "rows");
    let (mut first, address, pages) = master(folder.path(), "first", "127.0.0.1:0");
    let lends = ["--slots", "1", "--cores", "1"];
    let slave = |host: &str| {
        let named = ["slave", "--master", &address, "--host", host];
        Node::start(folder.path(), host, &[&named[..], &lends[..]].concat(), &[])
    };
    let mut slaves = [slave("h1"), slave("h2")];
    wait::until("slaves", Duration::from_secs(20), || {
        (get(&pages, "/api/v1/slaves").json().as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let ask = |args: &[&str]| flexps(["run"]).args(args).env("FLEXPS_MASTER", &address);
    let id = |run: crate::support::process::Run| run.stdout.trim().to_owned();
    let long = ["svrg", "--epochs", "250", "--tolerance", "0", "--detach", "--checkpoint-every", "1ms", "--input"];
    let long = id(ask(&long).arg(&rows).arg("--checkpoint").arg(path("kept")).arg("--model").arg(path("model")).ok());
    let next = id(ask(&["sleep", "--stage", "x:2:0.1", "--detach", "--after", &long]).ok());
    let followed = ask(&["sleep", "--stage", "y:1:0.1", "--after", &next]).start();
    let file = path("history");
    wait::until("a checkpoint, and records", Duration::from_secs(30), || {
        let listed = get(&pages, "/api/v1/jobs").json().as_array().map(Vec::len) == Some(3);
        (path("kept/checkpoint.bin").exists()
            && listed
            && std::fs::read_to_string(&file).unwrap().contains("\"job\":3"))
        .then_some(())
    });
    first.kill();
    drop(followed);

    let (mut second, _, pages) = master(folder.path(), "second", &address);
    let report = |pages: &str, job: &str| report(pages, job[1..].parse().unwrap());
    let resumed = report(&pages, &long);
    assert_eq!(
        (&resumed["state"], resumed["epochs"].as_array().map(Vec::len)),
        (&json!("done"), Some(250)),
        "{resumed}"
    );
    assert!(resumed["checkpoint"]["resumed"].is_string(), "{}", resumed["checkpoint"]);
    assert_eq!(resumed["stages"][0]["slaves"].as_array().map(Vec::len), Some(2), "it waits for slaves to come back");
    assert!(resumed["notes"].to_string().contains("queued again"), "{}", resumed["notes"]);
    assert_eq!(report(&pages, &next)["state"], "done");
    let lost = report(&pages, "j3");
    assert_eq!(lost["error"]["message"], "its master ended before it did", "{lost}");
    assert_eq!(get(&pages, "/api/v1/jobs/j3?token=1").status, 404, "whoever follows another job is told of this one");
    flexps(["model", "show"]).arg(path("model")).ok();

    // One that is told to end leaves its queue as well.
    let waits = id(ask(&["sleep", "--stage", "z:2:0.5", "--detach"]).ok());
    let behind = id(ask(&["sleep", "--stage", "z:2:0.1", "--detach", "--after", &waits]).ok());
    let cancelled = id(ask(&["sleep", "--stage", "z:2:300", "--detach", "--after", &waits]).ok());
    flexps(["cancel", &cancelled]).env("FLEXPS_MASTER", &address).ok();
    second.signal(libc::SIGTERM);
    assert_eq!(second.ends(Duration::from_secs(20)), 0);
    let (mut third, _, pages) = master(folder.path(), "third", &address);
    assert_eq!(report(&pages, &waits)["state"], "done");
    assert_eq!(report(&pages, &behind)["state"], "done");
    assert_eq!(report(&pages, &cancelled)["state"], "cancelled");

    // A slave that does not come back is waited for, but not without end.
    let alone = id(ask(&["sleep", "--stage", "z:1:4", "--detach"]).ok());
    wait::until("its record", Duration::from_secs(20), || {
        std::fs::read_to_string(&file).unwrap().contains(&format!("\"job\":{}", &alone[1..])).then_some(())
    });
    third.kill();
    slaves[1].kill();
    let (mut fourth, _, pages) = master(folder.path(), "fourth", &address);
    wait::until("who is waited for", Duration::from_secs(8), || {
        let queue = get(&pages, "/api/v1/queue").json();
        queue[0]["why"].as_str().is_some_and(|why| why.contains("waits for h2 to come back")).then_some(())
    });
    let ran = report(&pages, &alone);
    assert_eq!((&ran["state"], &ran["stages"][0]["slaves"]), (&json!("done"), &json!(["h1"])), "{ran}");

    // Whoever is told that his job is to end may rely on it.
    let ended = id(ask(&["sleep", "--stage", "z:1:300", "--detach"]).ok());
    wait::until("its stage", Duration::from_secs(20), || {
        get(&pages, &format!("/api/v1/jobs/{ended}")).json()["stage"].is_object().then_some(())
    });
    flexps(["cancel", &ended]).env("FLEXPS_MASTER", &address).ok();
    fourth.kill();
    let (_fifth, _, pages) = master(folder.path(), "fifth", &address);
    assert_eq!(report(&pages, &ended)["state"], "cancelled");
}

#[test]
fn a_master_that_can_not_start_leaves_the_history_as_it_was() {
    let folder = folder();
    let (mut first, _, pages) = master(folder.path(), "first", "127.0.0.1:0");
    let queued = submit(&pages, "sleep", json!({ "stage": ["x:2:0.4"] }));
    let file = folder.path().join("history");
    wait::until("its record", Duration::from_secs(20), || {
        std::fs::read_to_string(&file).unwrap().contains(&format!("\"job\":{queued}")).then_some(())
    });
    first.kill();
    let before = std::fs::read_to_string(&file).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for [bind, http] in [["127.0.0.1:0", taken.as_str()], [taken.as_str(), "127.0.0.1:0"]] {
        let start = flexps(["master", "--bind", bind, "--http", http, "--history"]).arg(&file);
        start.within(20).exits(2).says(&[&format!("{taken} is in use; choose another address, or end the process")]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    }
    let (_second, _, pages) = master(folder.path(), "second", "127.0.0.1:0");
    assert_eq!(get(&pages, &format!("/api/v1/jobs/j{queued}")).json()["report"]["state"], "queued");
}
