//! The master's API, metrics and events, over real sockets.

use crate::support::http::{WITHIN, connect, events, get, post, report, request, say, submit};
use crate::support::process::{flexps, tail};
use crate::support::{Cluster, folder, wait};
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

#[test]
fn the_api_shows_what_the_command_shows() {
    let cluster = Cluster::start(2, 2);
    let pages = &cluster.pages;
    let params = json!({ "stage": ["wide:4:0.8", "narrow:1:0.1"], "rounds": 2 });
    let job = submit(pages, "sleep", params.clone());
    let shown = report(pages, job);
    assert_eq!(shown["state"], "done", "{shown}");
    assert_eq!(shown, cluster.ask(["status", &format!("j{job}")]).json());
    assert_eq!(get(pages, "/api/v1/jobs").body, cluster.ask(["jobs", "--json"]).ok().stdout.trim_end());
    let whole = get(pages, &format!("/api/v1/jobs/j{job}")).body;
    let status = cluster.ask(["status", &format!("j{job}"), "--json"]).ok().stdout;
    assert!(whole.contains(status.trim_end()), "{whole}\n{status}");
    assert_eq!(get(pages, "/api/v1/jobs").json(), get(pages, "/api/v1/overview").json()["jobs"]);
    let slaves = get(pages, "/api/v1/slaves").json();
    let name = |slave: &serde_json::Value| slave["name"].as_str().unwrap().to_owned();
    let names: std::collections::BTreeSet<_> = slaves.as_array().unwrap().iter().map(name).collect();
    assert!(names.iter().eq(["h1", "h2"]), "{slaves}");
    // A job's own times, and those of the whole master.
    let stages = shown["stages"].as_array().unwrap();
    let starts: Vec<_> = stages.iter().map(|stage| stage["start"].as_f64().unwrap()).collect();
    assert!(starts.len() == 4 && starts.is_sorted() && starts[3] < shown["seconds"].as_f64().unwrap(), "{starts:?}");
    let history = get(pages, "/api/v1/history").json();
    let ran = history["records"].as_array().unwrap().iter().filter(|record| record["what"] == "run").count();
    assert_eq!((ran, history["first"].as_u64(), history["next"].as_u64()), (4, Some(0), Some(7)), "{history}");
    assert_eq!(get(pages, "/api/v1/history?last=2").json()["records"].as_array().map(Vec::len), Some(2));
    // The same submission again is the same job.
    let again = json!({ "job": "sleep", "params": params, "token": 77 });
    let ids =
        [post(pages, "/api/v1/jobs", &again), post(pages, "/api/v1/jobs", &again)].map(|a| a.json()["id"].clone());
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn the_queue_says_with_numbers_why_each_stage_waits() {
    let cluster = Cluster::start(2, 2);
    let pages = &cluster.pages;
    let holder = submit(pages, "sleep", json!({ "stage": ["hold:3:1000"] }));
    wait::until("three busy slots", WITHIN, || {
        (get(pages, "/api/v1/overview").json()["running"][0]["stage"] == "hold").then_some(())
    });
    let wide = submit(pages, "sleep", json!({ "stage": ["wide:4:0.1"] }));
    let after = json!({ "priority": 0, "user": "ann", "queue": null, "after": [wide], "deadline": null });
    let body = json!({ "job": "sleep", "params": { "stage": ["x:1:0.1"] }, "scheduling": after });
    assert_eq!(post(pages, "/api/v1/jobs", &body).status, 201);
    let queue = wait::until("two that wait", WITHIN, || {
        let queue = get(pages, "/api/v1/queue").json();
        (queue[1]["why"].is_string() && queue[0]["stage"] == "wide").then_some(queue)
    });
    assert_eq!(queue[0]["why"], "needs 4 slots, 1 of 4 are free", "{queue}");
    assert_eq!(queue[1]["why"], format!("waits for the end of j{wide}"), "{queue}");
    let overview = get(pages, "/api/v1/overview").json();
    let whys = |queue: &serde_json::Value| [0, 1].map(|at| (queue[at]["stage"].clone(), queue[at]["why"].clone()));
    assert_eq!(whys(&overview["queue"]), whys(&queue), "{overview}");
    assert_eq!(post(pages, &format!("/api/v1/jobs/j{holder}/cancel"), &json!({})).status, 202);
    assert_eq!(report(pages, holder)["state"], "cancelled");
    assert_eq!(report(pages, wide)["state"], "done");
}

#[test]
fn another_policy_decides_once_it_is_asked_for() {
    let cluster = Cluster::start(1, 1);
    let pages = &cluster.pages;
    assert_eq!(get(pages, "/api/v1/overview").json()["policy"], "greedy");
    assert_eq!(post(pages, "/api/v1/policy", &json!({ "policy": "fair" })).json(), json!({ "policy": "fair" }));
    assert_eq!(get(pages, "/api/v1/overview").json()["policy"], "fair");
    let refused = post(pages, "/api/v1/policy", &json!({ "policy": "magic" }));
    assert!(refused.status == 400 && refused.body.contains("prioritized"), "{refused:?}");
    assert_eq!(get(pages, "/api/v1/overview").json()["policy"], "fair");
}

#[test]
fn metrics_have_help_and_type_lines_and_count_what_happened() {
    let cluster = Cluster::start(2, 3);
    let pages = &cluster.pages;
    let job = submit(pages, "sleep", json!({ "stage": ["wide:4:0.4"], "rounds": 3 }));
    report(pages, job);
    let answer = get(pages, "/metrics");
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{answer:?}");
    let mut known = Vec::new();
    for line in answer.body.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, help] => {
                assert!(!known.contains(&name.to_owned()) && help.ends_with('.'), "{line}");
                known.push(name.to_owned());
            }
            ["#", "TYPE", name, kind] => {
                assert!(
                    known.last().is_some_and(|last| last == name) && ["gauge", "counter"].contains(&kind),
                    "{line}"
                );
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            }
            [sample, value] => {
                let name = sample.split('{').next().unwrap();
                assert!(known.last().is_some_and(|last| last == name) && value.parse::<f64>().is_ok(), "{line}");
            }
            _ => panic!("no line of metrics: {line}"),
        }
    }
    for line in [
        "flexps_slaves 2",
        "flexps_slave_slots{slave=\"h1\"} 3",
        "flexps_slave_busy_slots{slave=\"h2\"} 0",
        "flexps_jobs_submitted_total 1",
        "flexps_jobs_ended_total{state=\"done\"} 1",
        "flexps_jobs_ended_total{state=\"failed\"} 0",
        "flexps_stage_runs_total 3",
        "flexps_policy{policy=\"greedy\"} 1",
    ] {
        assert!(answer.body.lines().any(|own| own == line), "{line} is not in\n{}", answer.body);
    }
}

#[test]
fn events_tell_of_a_job_as_it_goes() {
    let cluster = Cluster::start(1, 2);
    let mut seen = events(&cluster.pages);
    assert_eq!(seen.next().unwrap()["slaves"][0]["name"], "h1");
    let job = submit(&cluster.pages, "sleep", json!({ "stage": ["work:2:3"] }));
    let running = seen.find(|view| view["running"][0]["stage"] == "work").expect("news of the stage");
    assert_eq!((running["running"][0]["job"].as_u64(), running["slaves"][0]["busy"].as_u64()), (Some(job), Some(2)));
    let done = seen.find(|view| view["jobs"][0]["state"] == "done").expect("news of the end");
    assert_eq!(done["running"], json!([]));
}

#[test]
fn what_is_not_ours_is_refused_and_changes_nothing() {
    let cluster = Cluster::start(1, 1);
    let pages = cluster.pages.as_str();
    let job = json!({ "job": "sleep", "params": { "stage": ["x:1:0.1"] } }).to_string();
    let json_type = "Content-Type: application/json";
    let of = |text: String| say(pages, text.as_bytes()).map(|answer| answer.status);
    let length = format!("Content-Length: {}", job.len());
    let evil = format!("POST /api/v1/jobs HTTP/1.1\r\nHost: evil.example\r\n{json_type}\r\n{length}\r\n\r\n{job}");
    assert_eq!(of(evil), Some(421));
    assert_eq!(of("GET / HTTP/1.0\r\n\r\n".to_owned()), Some(421));
    assert_eq!(request(pages, "POST", "/api/v1/jobs", &[json_type, "Origin: http://evil.example"], &job).status, 403);
    assert_eq!(request(pages, "POST", "/api/v1/jobs", &["Content-Type: text/plain"], &job).status, 415);
    for (method, path, allowed) in [
        ("DELETE", "/api/v1/jobs/j1", "GET"),
        ("PUT", "/api/v1/jobs", "GET, POST"),
        ("POST", "/", "GET"),
        ("GET", "/api/v1/jobs/j1/cancel", "POST"),
        ("DELETE", "/api/v1/policy", "POST"),
        ("HEAD", "/api/v1/policy", "POST"),
        ("OPTIONS", "/metrics", "GET"),
    ] {
        // Only of a POST is it asked what it brings.
        let headers = if method == "POST" { &[json_type][..] } else { &[] };
        let answer = request(pages, method, path, headers, "");
        assert_eq!(answer.status, 405, "{method} {path}");
        assert!(answer.head.to_lowercase().contains(&format!("allow: {}", allowed.to_lowercase())), "{answer:?}");
    }
    for path in ["/../etc/passwd", "/api/v2/jobs", "/page.html", "/api/v1/jobs/x", "/api/v1/jobs/j9"] {
        assert_eq!(get(pages, path).status, 404, "{path}");
    }
    for (body, says) in [
        ("{".to_owned(), "no submission"),
        (json!({ "job": "magic" }).to_string(), "no job is called 'magic'"),
        (json!({ "job": "sleep", "params": { "nope": 1 } }).to_string(), "--nope"),
        (json!({ "job": "sleep", "params": { "priority": 5 } }).to_string(), "it belongs into"),
        (json!({ "job": "sleep", "params": { "reproducible": true } }).to_string(), "it stands beside"),
        (
            json!({ "job": "sleep", "params": { "fixed-threads": 2 } }).to_string(),
            "give --fixed-threads to `flexps run`",
        ),
        (json!({ "job": "sleep", "params": { "epochs": 2 } }).to_string(), "it is one of "),
        (json!({ "job": "sleep" }).to_string(), "not provided: --stage <STAGE>"),
        (json!({ "job": "sleep", "params": { "stage": ["x:9:1"] } }).to_string(), "needs 9 slots, the cluster has 1"),
        (json!({ "job": "sleep", "extra": 1 }).to_string(), "unknown field"),
        (format!("{{\"job\":\"{}\"}}", "x".repeat(100_000)), "at most 65536 bytes"),
    ] {
        let answer = request(pages, "POST", "/api/v1/jobs", &[json_type], &body);
        assert!(answer.status == 400 && answer.body.contains(says), "{says}: {answer:?}");
    }
    let long = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for garbage in [long, many, "\x16\x03\x01\x02".to_owned(), "GET\r\n\r\n".to_owned()] {
        assert!(say(pages, garbage.as_bytes()).is_none_or(|answer| [400, 431].contains(&answer.status)));
    }
    assert_eq!(get(pages, "/api/v1/jobs").json(), json!([]));
    let page = get(pages, "/");
    assert!(page.status == 200 && page.head.contains("frame-ancestors 'none'") && !page.head.contains("unsafe"));
}

#[test]
fn a_head_is_that_of_the_whole_answer() {
    let cluster = Cluster::start(1, 1);
    let pages = cluster.pages.as_str();
    for path in ["/", "/metrics", "/api/v1/kinds", "/api/v1/jobs", "/api/v1/events", "/nothing"] {
        let head = request(pages, "HEAD", path, &[], "");
        assert_eq!((head.status, head.body.as_str()), (if path == "/nothing" { 404 } else { 200 }, ""), "{path}");
    }
    let length = |answer: crate::support::http::Answer| {
        let head = answer.head.to_lowercase();
        head.lines().find_map(|line| line.strip_prefix("content-length: ").map(str::to_owned))
    };
    let whole = length(get(pages, "/api/v1/kinds"));
    assert!(whole.is_some() && length(request(pages, "HEAD", "/api/v1/kinds", &[], "")) == whole, "{whole:?}");
}

#[test]
fn a_submission_says_of_its_scheduling_what_it_wants_said_and_no_more() {
    let cluster = Cluster::start(1, 1);
    let pages = cluster.pages.as_str();
    let of = |scheduling: serde_json::Value| {
        let params = json!({ "stage": ["x:1:0.01"] });
        post(pages, "/api/v1/jobs", &json!({ "job": "sleep", "params": params, "scheduling": scheduling }))
    };
    let plain = json!({
        "priority": 0, "user": "", "queue": null, "after": [], "deadline": null, "memory": null, "restarts": 0, "slaves": null,
        "checkpoint": null
    });
    let (kept, there) = (cluster.folder().join("kept"), "hdfs://127.0.0.1:1/kept");
    for (said, more) in [
        (json!({}), json!({})),
        (json!({ "priority": -5, "restarts": 2 }), json!({ "priority": -5, "restarts": 2 })),
        (json!({ "slaves": 1 }), json!({ "slaves": 1 })),
        (json!({ "user": "ann", "deadline": 60 }), json!({ "user": "ann", "deadline": 60.0 })),
        (json!({ "checkpoint": { "folder": kept } }), json!({ "checkpoint": { "folder": kept, "every": 60.0 } })),
        (json!({ "checkpoint": { "folder": there } }), json!({ "checkpoint": { "folder": there, "every": 60.0 } })),
    ] {
        let answer = of(said);
        assert_eq!(answer.status, 201, "{answer:?}");
        let mut whole = plain.clone();
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(report(pages, answer.json()["id"].as_u64().unwrap())["scheduling"], whole);
    }
    for (said, says) in [
        (json!({ "prio": 5 }), "unknown field `prio`"),
        (json!({ "deadline": -1 }), "a deadline of -1 s"),
        (json!({ "slaves": 0 }), "no slaves"),
        (json!({ "checkpoint": { "folder": kept, "every": -1 } }), "a checkpoint every -1.0 s"),
        (json!({ "checkpoint": { "folder": kept, "every": 18_446_744_073_709_549_568_u64 } }), "give seconds of 0 to "),
        (json!({ "checkpoint": { "folder": "" } }), "an empty path"),
        (json!({ "checkpoint": { "folder": "s3://kept" } }), "scheme s3:// is not known"),
        (json!({ "checkpoint": { "path": kept } }), "unknown field `path`"),
        (json!({ "memory": 0 }), "no bytes of memory"),
    ] {
        let answer = of(said);
        assert!(answer.status == 400 && answer.body.contains(says), "{says}: {answer:?}");
    }
}

#[test]
fn clients_that_never_read_or_never_finish_hold_nothing() {
    let cluster = Cluster::start(1, 1);
    let pages = cluster.pages.as_str();
    let begin = Instant::now();
    // More than may be there at once begin a request and say no more.
    let silent: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = connect(pages);
            let _ = stream.write_all(b"GET / HTTP/1.1\r\nHo");
            stream
        })
        .collect();
    wait::until("an answer beside them", Duration::from_secs(15), || {
        say(pages, format!("GET /metrics HTTP/1.1\r\nHost: {pages}\r\n\r\n").as_bytes()).filter(|a| a.status == 200)
    });
    assert_closed(silent);
    // So do some with a body; and others listen, but never read.
    let half = |text: &str| {
        let mut stream = connect(pages);
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let mut stuck: Vec<_> = (0..30)
        .map(|_| half(&format!("POST /api/v1/jobs HTTP/1.1\r\nHost: {pages}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{")))
        .collect();
    stuck.extend((0..60).map(|_| half(&format!("GET /api/v1/events HTTP/1.1\r\nHost: {pages}\r\n\r\n"))));
    assert_eq!(get(pages, "/api/v1/jobs").status, 200);
    let job = submit(pages, "sleep", json!({ "stage": ["x:1:0.5"] }));
    assert_eq!(report(pages, job)["state"], "done");
    assert_closed(stuck);
    assert!(begin.elapsed() < Duration::from_secs(90), "{:?}", begin.elapsed());
}

/// Fails unless the other side closes all of them by itself.
#[track_caller]
fn assert_closed(streams: Vec<std::net::TcpStream>) {
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(40))).unwrap();
        if let Err(e) = stream.read_to_end(&mut Vec::new()) {
            assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "a connection was kept: {e}");
        }
    }
}

#[test]
fn with_a_secret_only_its_token_opens_the_pages_and_neither_is_shown() {
    let secret = "a-secret-of-this-test";
    let cluster = Cluster::with(1, 1, &[("FLEXPS_SECRET", secret)]);
    let pages = cluster.pages.as_str();
    let token = flexps(["token"]).env("FLEXPS_SECRET", secret).ok().stdout.trim().to_owned();
    assert!(token.len() == 64 && !token.contains(secret), "{token}");
    let with = |line: &str, path: &str| request(pages, "GET", path, &[line], "");
    for path in ["/", "/metrics", "/api/v1/jobs", "/api/v1/events", "/nothing"] {
        for line in ["X: y", &format!("Authorization: Bearer {secret}"), "Authorization: Basic eDp5"] {
            let answer = with(line, path);
            assert!(
                answer.status == 401 && answer.head.to_lowercase().contains("www-authenticate: basic"),
                "{answer:?}"
            );
        }
    }
    let bearer = format!("Authorization: Bearer {token}");
    let mut said = String::new();
    for path in ["/", "/metrics", "/api/v1/overview", "/api/v1/history", "/api/v1/kinds"] {
        let answer = with(&bearer, path);
        assert_eq!(answer.status, 200, "{path}");
        said.push_str(&answer.body);
    }
    said.push_str(&cluster.master.log());
    assert!(!said.contains(secret) && !said.contains(&token), "{}", tail(&said));
    flexps(["token"]).exits(2).says(&["no secret, no token"]);
}

#[test]
fn beyond_loopback_no_page_is_served_without_a_secret() {
    let run = flexps(["master", "--bind", "127.0.0.1:0", "--http", "0.0.0.0:0"]).within(20).exits(2);
    run.says(&["--http 0.0.0.0:0", "beyond loopback a shared secret is needed"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    flexps(["master", "--bind", "127.0.0.1:0", "--http", &address])
        .within(20)
        .exits(2)
        .says(&[&format!("--http {address} is in use; choose another address, or end the process that has it")]);
    let folder = folder();
    let nowhere = flexps(["master", "--bind", "127.0.0.1:0", "--http", "nowhere"]).in_folder(folder.path());
    nowhere.within(20).exits(2).says(&["--http nowhere", "give HOST:PORT"]);
}
