//! The history file of a master, over several masters.

use crate::support::cluster::Node;
use crate::support::http::{get, report, submit};
use crate::support::process::flexps;
use crate::support::{folder, wait};
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
    assert_eq!((&jobs[0]["state"], &jobs[1]["state"]), (&json!("done"), &json!("failed")), "{jobs}");
    assert_eq!(jobs[1]["note"], "its master ended before it did");
    let known = get(&pages, &format!("/api/v1/jobs/j{done}")).json()["report"]["stages"].clone();
    assert_eq!((known.as_array().map(Vec::len), &known[1]["slaves"]), (Some(2), &json!(["h1"])), "{known}");
    assert!(await_slave(&pages) > id, "a slave has an identity of its own in each life of the master");
    let next = submit(&pages, "sleep", json!({ "stage": ["x:2:0.4"] }));
    assert_eq!(next, cut + 1);
    assert_eq!(report(&pages, next)["state"], "done");
    second.signal(libc::SIGTERM);
    assert_eq!(second.ends(Duration::from_secs(20)), 0);
    drop(slave);
    // Both lives are one history, in which times grow; the last one can be played again.
    let text = std::fs::read_to_string(&file).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let times: Vec<f64> = records.iter().filter_map(|r| r["at"].as_f64()).collect();
    assert!(times.is_sorted(), "{text}");
    let replay = flexps(["workload", "replay", "--policies", "greedy"]).arg(&file).json();
    assert_eq!(replay["policies"][0]["jobs"].as_array().map(Vec::len), Some(1), "{replay}");
    flexps(["master", "--bind", "127.0.0.1:0", "--history"])
        .arg(folder.path().join("h1.log"))
        .within(20)
        .exits(2)
        .says(&["--history", "no record"]);
}
