//! A master and slaves as processes: the same jobs, the same answers, and what happens when one of them goes.

use crate::support::cluster::Node;
use crate::support::{Cluster, Rows, assert_close, flexps, folder, model, wait};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// A job that runs until somebody ends it.
const ENDLESS: [&str; 6] = ["run", "svrg", "--epochs", "100000000", "--tolerance", "0"];

/// Rows for a job that is about something else.
fn some_rows(cluster: &Cluster) -> PathBuf {
    Rows::generate(20, 3000, 300, 15).write(cluster.folder(), "rows")
}

/// Submits a job without an end and waits until one of its stages runs; gives its id.
#[track_caller]
fn endless(cluster: &Cluster, rows: &Path) -> String {
    let run = cluster.ask(ENDLESS).arg("--detach").arg("--input").arg(rows).ok();
    let id = run.stdout.trim().to_owned();
    wait::until("the first epoch", 20 * SECOND, || {
        let status = cluster.ask(["status", &id]).json();
        (status["epochs"].as_array().map_or(0, Vec::len) > 0).then_some(())
    });
    id
}

/// Waits until the first job runs.
#[track_caller]
fn await_running(cluster: &Cluster) {
    wait::until("the job to run", 20 * SECOND, || {
        (cluster.ask(["jobs"]).json()[0]["state"] == "running").then_some(())
    });
}

/// The state of a job, and its error.
fn state(cluster: &Cluster, id: &str) -> (String, String) {
    let status = cluster.ask(["status", id]).json();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    (text(&status["state"]), text(&status["error"]["message"]))
}

#[test]
fn three_slaves_reach_the_objective_of_one_process_and_repeat_their_bits() {
    let cluster = Cluster::start(3, 2);
    let rows = Rows::generate(21, 6000, 500, 20).write(cluster.folder(), "rows");
    for job in ["svrg", "lr"] {
        let folder = |name: &str| cluster.folder().join(format!("{job}-{name}"));
        let flags = ["run", job, "--tolerance", "1e-5", "--reproducible", "--input"];
        let alone = flexps(flags).arg(&rows).json();
        let run = |name: &str| cluster.ask(flags).arg(&rows).arg("--model").arg(folder(name)).json();
        let (once, twice) = (run("once"), run("twice"));
        assert_close(once["objective"].as_f64().unwrap(), alone["objective"].as_f64().unwrap(), 1e-3);
        assert_eq!(once["objective"], twice["objective"]);
        assert!(model::read(&folder("once")).bytes == model::read(&folder("twice")).bytes, "{job}: other bits");
        let slaves = once["stages"][0]["slaves"].as_array().unwrap().len();
        assert_eq!(slaves, 3, "{job} ran on {slaves} slaves");
        assert!(once["stages"].as_array().unwrap().iter().any(|s| s["bytes_sent"].as_u64() > Some(0)), "{job}");
    }
}

#[test]
fn every_consistency_model_works_between_processes() {
    let cluster = Cluster::start(2, 2);
    let rows = some_rows(&cluster);
    let mut objectives = Vec::new();
    for consistency in ["bsp", "ssp:1", "asp"] {
        let run = cluster.ask(["run", "svrg", "--epochs", "30", "--tolerance", "1e-7", "--consistency", consistency]);
        objectives.push(run.arg("--input").arg(&rows).json()["objective"].as_f64().unwrap());
    }
    assert_close(objectives[0], objectives[1], 1e-3);
    assert_close(objectives[0], objectives[2], 1e-3);
}

#[test]
fn batches_reach_the_same_objective_between_processes_under_all_four_models_and_say_how_they_kept_in_step() {
    let cluster = Cluster::start(2, 2);
    // Few of many features a row, so that batches of few rows seldom meet.
    let rows = Rows::generate(23, 2000, 4000, 6).write(cluster.folder(), "rows");
    let mut objectives = Vec::new();
    for consistency in ["bsp", "ssp:1", "asp", "sparse-ssp:1:4"] {
        let flags = ["run", "lr", "--solver", "sgd", "--batch", "8", "--epochs", "40", "--tolerance", "1e-6"];
        let report = cluster.ask(flags).args(["--consistency", consistency]).arg("--input").arg(&rows).json();
        objectives.push(report["objective"].as_f64().unwrap());
        let trained = report["stages"].as_array().unwrap().iter().filter(|stage| stage["name"] == "train");
        let pace = |stage: &serde_json::Value, name: &str| stage["pace"][name].as_u64().unwrap();
        let (mut most, mut bytes) = (0, 0);
        for stage in trained {
            most = most.max(pace(stage, "most_lead"));
            bytes += pace(stage, "control_bytes");
            assert_eq!(stage["pace"]["worker_waits"].as_array().map(Vec::len), Some(4), "{stage}");
            let clocks: u64 = stage["pace"]["lead"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
            // 2000 rows in batches of 8, and a short one at the end of each block.
            assert!((250..300).contains(&clocks), "{clocks} clocks under {consistency}");
            assert!(consistency == "sparse-ssp:1:4" || pace(stage, "conflicts") == 0, "{stage}");
        }
        let allowed = match consistency {
            "bsp" => 0..=0,
            "ssp:1" => 0..=1,
            "asp" => 0..=u64::MAX,
            _ => 2..=5,
        };
        assert!(allowed.contains(&most), "at most {most} clocks ahead under {consistency}");
        assert!(bytes > 0, "no control messages under {consistency}");
    }
    for (objective, others) in objectives.iter().zip(&objectives[1..]) {
        assert_close(*objective, *others, 1e-2);
    }
}

#[test]
fn a_detached_job_is_listed_shown_and_cancelled() {
    let cluster = Cluster::start(2, 1);
    let rows = some_rows(&cluster);
    let id = endless(&cluster, &rows);
    let jobs = cluster.ask(["jobs"]).json();
    assert_eq!((&jobs[0]["name"], &jobs[0]["state"]), (&"svrg".into(), &"running".into()), "{jobs}");
    assert!(cluster.ask(["status"]).ok().stdout.contains("2 slaves"));
    assert!(cluster.ask(["status", &id]).ok().stdout.contains("running"));
    assert!(cluster.ask(["slaves"]).ok().stdout.contains("h2"));
    cluster.ask(["cancel", &id]).ok();
    wait::until("the cancelled job's end", 10 * SECOND, || (state(&cluster, &id).0 == "cancelled").then_some(()));
    cluster.ask(["cancel", &id]).exits(2).says(&[&id, "has ended already", "was cancelled"]);
    let shown = cluster.ask(["status", &id]).ok().stdout;
    assert!(shown.starts_with(&format!("{id} svrg: cancelled\n")), "{shown}");
    cluster.ask(["run", "svrg", "--epochs", "2", "--input"]).arg(&rows).ok();
}

#[test]
fn ctrl_c_on_the_client_cancels_the_job_on_the_cluster() {
    let cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(30).start();
    await_running(&cluster);
    running.signal(libc::SIGINT);
    assert_eq!(running.finish().code, 130);
    assert_eq!(state(&cluster, "j1").0, "cancelled");
}

#[test]
fn an_unknown_job_id_is_the_users_mistake() {
    let cluster = Cluster::start(0, 1);
    cluster.ask(["status", "j99"]).exits(2).says(&["j99"]);
    cluster.ask(["cancel", "j99"]).exits(2).says(&["j99"]);
    cluster.ask(["status", "seven"]).exits(2).says(&["seven", "j7"]);
}

#[test]
fn a_second_job_gets_its_turns_between_the_stages_of_one_without_an_end() {
    let cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let first = endless(&cluster, &rows);
    cluster.ask(["run", "svrg", "--epochs", "2", "--input"]).arg(&rows).ok();
    assert_eq!(state(&cluster, &first).0, "running");
}

#[test]
fn more_threads_than_slots_are_refused_with_the_numbers() {
    let cluster = Cluster::start(2, 2);
    let rows = some_rows(&cluster);
    cluster.ask(["run", "lr", "--threads", "5", "--input"]).arg(&rows).exits(2).says(&["5", "4"]);
}

#[test]
fn a_slave_killed_in_mid_stage_fails_the_job_by_name_and_the_cluster_takes_the_next() {
    let mut cluster = Cluster::start(3, 1);
    let rows = some_rows(&cluster);
    let id = endless(&cluster, &rows);
    cluster.slaves[1].kill();
    let killed = Instant::now();
    let error = wait::until("the job to fail", 15 * SECOND, || {
        let (state, error) = state(&cluster, &id);
        (state == "failed").then_some(error)
    });
    assert!(error.contains("h2"), "the error does not name the slave: {error}");
    assert!(killed.elapsed() < 15 * SECOND);
    cluster.await_slaves(2);
    let report = cluster.ask(["run", "svrg", "--epochs", "2", "--input"]).arg(&rows).json();
    assert_eq!(report["state"], "done");
}

#[test]
fn a_job_that_may_restart_starts_over_when_a_slave_is_killed_in_mid_stage_and_ends_as_any_other() {
    let mut cluster = Cluster::start(3, 1);
    let (rows, model) = (some_rows(&cluster), cluster.folder().join("model"));
    let job = ["run", "svrg", "--epochs", "300", "--tolerance", "0", "--restarts", "1", "--detach"];
    let id = cluster.ask(job).arg("--model").arg(&model).arg("--input").arg(&rows).ok().stdout.trim().to_owned();
    let report = || cluster.ask(["status", &id]).json();
    wait::until("the first epoch", 20 * SECOND, || {
        report()["epochs"].as_array().is_some_and(|all| !all.is_empty()).then_some(())
    });
    cluster.slaves[1].kill();
    let report = wait::until("the job's end", 60 * SECOND, || {
        let report = cluster.ask(["status", &id]).json();
        ["done", "failed"].contains(&report["state"].as_str().unwrap()).then_some(report)
    });
    assert_eq!((&report["state"], &report["read"]["rows"]), (&"done".into(), &3000.into()), "{report}");
    assert_eq!(
        (report["epochs"].as_array().unwrap().len(), &report["repeats"][0]["slave"]),
        (300, &"h2".into()),
        "{report}"
    );
    let said = |note: &serde_json::Value| {
        note.as_str().is_some_and(|note| note.contains("(h2) is gone") && note.ends_with("started over"))
    };
    assert!(report["notes"].as_array().unwrap().iter().any(said), "{}", report["notes"]);
    flexps(["model", "show"]).arg(&model).ok();
}

#[test]
fn a_follower_of_a_job_whose_slave_is_killed_exits_1_naming_it() {
    let mut cluster = Cluster::start(2, 1);
    let rows = some_rows(&cluster);
    let running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(60).start();
    wait::until("the job to run", 20 * SECOND, || {
        let status = cluster.ask(["status", "j1"]).run();
        (status.code == 0 && status.stdout.contains("stochastic")).then_some(())
    });
    cluster.slaves[0].kill();
    let run = running.finish();
    assert_eq!(run.code, 1, "{run}");
    run.says(&["h1"]);
}

#[test]
fn a_master_killed_is_missed_in_words_and_its_slaves_come_back_to_the_next() {
    let mut cluster = Cluster::start(2, 1);
    let rows = some_rows(&cluster);
    let mut running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(90).start();
    await_running(&cluster);
    cluster.master.kill();
    running.await_stderr("trying for");
    cluster.restart_master(&[]);
    let run = running.finish();
    assert_eq!(run.code, 1, "{run}");
    run.says(&[&cluster.address, "started anew", "j1"]);
    cluster.await_slaves(2);
    assert!(cluster.slaves[0].log().contains("the master does not answer"), "a slave says that its master was gone");
    cluster.ask(["run", "svrg", "--epochs", "2", "--input"]).arg(&rows).ok();
}

#[test]
fn a_master_that_never_comes_back_is_given_up_by_its_client() {
    let mut cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let mut running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(90).start();
    await_running(&cluster);
    cluster.master.kill();
    running.await_stderr("trying for 30 s");
    let run = running.finish();
    assert_eq!(run.code, 1, "{run}");
    run.says(&["error: gave up following j1", &cluster.address]);
}

#[test]
fn what_is_no_address_of_a_master_is_refused_at_once() {
    for address in ["127.0.0.1", ":99999"] {
        for command in [&["slave", "--slots", "1"][..], &["jobs"], &["run", "sleep", "--stage", "one:1:1"]] {
            let run = flexps(command).args(["--master", address]).within(20).exits(2);
            run.says(&[address, "HOST:PORT", "127.0.0.1:7070"]);
            assert!(run.elapsed < 5 * SECOND, "{run}");
        }
    }
}

#[test]
fn a_client_without_a_master_says_so_within_its_deadline() {
    let commands: [&[&str]; 3] = [&["jobs"], &["cancel", "j3"], &["snapshot", "j3", "--model", "nowhere"]];
    let running = commands.map(|command| flexps(command).args(["--master", "127.0.0.1:1"]).within(45).start());
    for run in running.map(|running| running.finish()) {
        assert_eq!(run.code, 1, "{run}");
        run.says(&["127.0.0.1:1 can't be reached", "tried for 10s"]);
    }
}

#[test]
fn a_terminated_slave_leaves_in_order_and_a_terminated_master_too() {
    let mut cluster = Cluster::start(2, 1);
    cluster.slaves[0].signal(libc::SIGTERM);
    assert_eq!(cluster.slaves[0].ends(10 * SECOND), 0);
    cluster.await_slaves(1);
    cluster.master.signal(libc::SIGINT);
    assert_eq!(cluster.master.ends(10 * SECOND), 0);
    for node in [&cluster.slaves[0], &cluster.master] {
        assert!(!node.log().contains("socket"), "an end in order warns of nothing\n{}", node.log());
    }
}

#[test]
fn a_slave_whose_terminal_is_closed_leaves_in_order_unless_it_was_started_to_ignore_that() {
    let mut cluster = Cluster::start(2, 1);
    cluster.slaves[0].signal(libc::SIGHUP);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    // Its processes ignore what this one does.
    if u64::from_str_radix(ignored, 16).unwrap() & 1 == 1 {
        std::thread::sleep(SECOND);
        cluster.await_slaves(2);
    } else {
        assert_eq!(cluster.slaves[0].ends(10 * SECOND), 0);
        cluster.await_slaves(1);
    }
}

#[test]
fn a_terminated_master_tells_those_who_follow_its_jobs() {
    let mut cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(60).start();
    await_running(&cluster);
    let queued = cluster.ask(ENDLESS).args(["--after", "j1"]).arg("--input").arg(&rows).within(60).start();
    wait::until("the second job", 20 * SECOND, || (cluster.ask(["jobs"]).json()[1]["state"] == "queued").then_some(()));
    cluster.master.signal(libc::SIGTERM);
    assert_eq!(cluster.master.ends(20 * SECOND), 0);
    for run in [running.finish(), queued.finish()] {
        assert_eq!(run.code, 1, "{run}");
        run.says(&["error: the master was told to end"]);
    }
}

#[test]
fn ctrl_c_leaves_a_master_that_stands_still_before_the_job_is_taken_and_while_it_is_to_be_cancelled() {
    let cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let mut running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(60).start();
    await_running(&cluster);
    cluster.master.signal(libc::SIGSTOP);
    let submits = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(60).start();
    running.signal(libc::SIGINT);
    running.await_stderr("Ctrl-C again leaves at once");
    running.signal(libc::SIGINT);
    submits.signal(libc::SIGINT);
    let asked = Instant::now();
    for run in [running.finish(), submits.finish()] {
        assert_eq!(run.code, 130, "{run}");
    }
    assert!(asked.elapsed() < 4 * SECOND, "{:?}", asked.elapsed());
    cluster.master.signal(libc::SIGCONT);
}

#[test]
fn ctrl_c_cancels_the_job_of_a_master_that_stands_still_for_longer_than_an_answer_may_take() {
    let cluster = Cluster::start(1, 1);
    let rows = some_rows(&cluster);
    let mut running = cluster.ask(ENDLESS).arg("--input").arg(&rows).within(60).start();
    await_running(&cluster);
    cluster.master.signal(libc::SIGSTOP);
    running.signal(libc::SIGINT);
    running.await_stderr("Ctrl-C again leaves at once");
    std::thread::sleep(12 * SECOND);
    cluster.master.signal(libc::SIGCONT);
    let run = running.finish();
    assert_eq!(run.code, 130, "{run}");
    assert_eq!(cluster.ask(["jobs"]).json()[0]["state"], "cancelled");
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::start(0, 1);
    flexps(["master", "--bind", &cluster.address]).within(20).exits(2).says(&[&cluster.address, "in use"]);
}

#[test]
fn a_second_slave_of_the_same_name_is_refused() {
    let mut cluster = Cluster::start(1, 1);
    let again = cluster.add_slave("h1", 1, &[]);
    assert_eq!(cluster.slaves[again].ends(20 * SECOND), 2);
    let log = cluster.slaves[again].log();
    assert!(log.contains("error: ") && log.contains("h1") && log.contains("--name"), "{log}");
    let named = cluster.add_slave("h1", 1, &["--name", "h1b"]);
    cluster.await_slaves(2);
    assert!(cluster.slaves[named].log().is_empty() || !cluster.slaves[named].log().contains("error:"));
}

#[test]
fn a_slave_that_is_killed_and_started_again_at_once_comes_back_under_its_name() {
    let mut cluster = Cluster::start(2, 1);
    cluster.slaves[1].kill();
    let again = cluster.add_slave("h2", 1, &[]);
    let pid = u64::try_from(cluster.slaves[again].pid()).unwrap();
    wait::until("the new process of h2", 20 * SECOND, || {
        let slaves = cluster.ask(["slaves"]).json();
        slaves.as_array()?.iter().any(|slave| slave["name"] == "h2" && slave["pid"] == pid).then_some(())
    });
    cluster.await_slaves(2);
}

#[test]
fn a_slave_or_a_client_of_another_build_is_refused() {
    let mut cluster = Cluster::start(0, 1);
    let args = ["slave", "--master", &cluster.address, "--host", "old", "--slots", "1"];
    let mut old = Node::start(cluster.folder(), "old", &args, &[("FLEXPS_BUILD_ID", "12345")]);
    assert_eq!(old.ends(20 * SECOND), 2, "{}", old.log());
    assert!(old.log().contains("build"), "{}", old.log());
    for command in [&["status"][..], &["jobs"], &["run", "sleep", "--stage", "x:1:0"]] {
        let run = cluster.ask(command).env("FLEXPS_BUILD_ID", "12345").within(20).exits(2);
        run.says(&[&cluster.address, "a client of another build", "0000000000003039", "use the same binary"]);
    }
    cluster.add_slave("new", 1, &[]);
    cluster.await_slaves(1);
}

#[test]
fn a_wrong_secret_is_refused_and_the_right_one_works() {
    let cluster = Cluster::with(1, 1, &[("FLEXPS_SECRET", "open sesame")]);
    let stranger = |secret: Option<&str>| {
        let run = flexps(["slaves", "--master", &cluster.address]).within(30);
        match secret {
            Some(secret) => run.env("FLEXPS_SECRET", secret),
            None => run,
        }
    };
    stranger(Some("open barley")).exits(2).says(&["secret"]);
    stranger(None).exits(2).says(&["secret"]);
    let file = cluster.folder().join("secret");
    std::fs::write(&file, "open sesame\n").unwrap();
    let slaves = stranger(None).arg("--secret-file").arg(&file).json();
    assert_eq!(slaves.as_array().map(Vec::len), Some(1));
}

#[test]
fn nodes_talk_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    let here = folder();
    let mut master = Node::start(here.path(), "master", &["master", "--bind", "[::1]:0"], &[]);
    let address = master.line("listening on ");
    assert!(address.starts_with("[::1]:"), "{address}");
    let slave = |host, bind| {
        let args = ["slave", "--master", &address, "--slots", "1", "--host", host, "--bind", bind];
        Node::start(here.path(), host, &args, &[])
    };
    let _slaves = [slave("h1", "::1"), slave("h2", "[::1]")];
    wait::until("two slaves", 20 * SECOND, || {
        let slaves = flexps(["slaves", "--master", &address]).json();
        (slaves.as_array().map(Vec::len) == Some(2)).then_some(())
    });
    let rows = Rows::generate(23, 1000, 100, 10).write(here.path(), "rows");
    let report = flexps(["run", "svrg", "--epochs", "2", "--master", &address, "--input"]).arg(&rows).json();
    assert_eq!(report["stages"][0]["slaves"].as_array().map(Vec::len), Some(2), "{report}");
}

#[test]
fn another_clusters_nodes_are_refused_by_name() {
    let cluster = Cluster::start(0, 1);
    let run = flexps(["slaves", "--master", &cluster.address, "--cluster", "theirs"]).within(30).exits(2);
    run.says(&["theirs", "flexps"]);
}

#[test]
fn a_large_model_survives_the_way_between_processes() {
    let cluster = Cluster::start(2, 1);
    let rows = Rows::generate(22, 4000, 200_000, 60);
    let path = rows.write(cluster.folder(), "rows");
    let folder = cluster.folder().join("model");
    let run = cluster.ask(["run", "svrg", "--epochs", "3", "--tolerance", "0", "--input"]).arg(&path);
    let report = run.arg("--model").arg(&folder).json();
    let saved = model::read(&folder);
    assert_eq!(saved.weights.len() as u64, report["read"]["inputs"]["input"]["features"].as_u64().unwrap());
    let by_hand = crate::support::optimum::objective(&rows, &saved.weights, 0.0, 1.0 / 4000.0);
    assert_close(report["objective"].as_f64().unwrap(), by_hand, 1e-4);
}
