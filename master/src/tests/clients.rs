//! What a client gets.

use super::fake::*;
use flexps_common::Result;
use flexps_common::data::schema::DataPath;
use flexps_common::error::Fault;
use flexps_common::ids::JobId;
use flexps_common::model::Model;
use flexps_common::report::{Report, State};
use flexps_common::scheduling::Scheduling;
use flexps_common::storage::Storage;
use flexps_common::transport::{Connection, Packet, Service};
use flexps_common::wire::api::{BODY, JobLine, JobNews, Request, RunningStage};
use flexps_common::wire::control::{FromMaster, ToMaster, ToSlave};
use futures::future::BoxFuture;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_on_all_slaves_and_its_report_holds_everything() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let slaves = [cluster.slave("h2", 2).await, cluster.scripted("h1", 2, 0.25, obey).await];
    let model = dir.path().join("model").to_string_lossy().into_owned();
    let job = Rounds { rounds: 3, threads: 4, input: Some(rows(&dir)), model: Some(model.clone()) };
    let id = cluster.submit(job).await.unwrap();
    let report = cluster.end(id).await;
    assert_eq!((report.state, &report.error, report.objective), (State::Done, &None, Some(0.5)));
    assert_eq!(report.epochs.iter().map(|e| e.epoch).collect::<Vec<_>>(), [1, 2, 3]);
    let stage = &report.stages[2];
    assert_eq!((stage.name.as_str(), stage.epoch, stage.threads), ("work", 3, 4));
    assert_eq!((stage.slaves.as_slice(), stage.rows), (&["h1".to_owned(), "h2".to_owned()][..], 6));
    assert_eq!((report.read.files, report.read.rows, report.read.bytes, report.read.local_bytes), (1, 20, 200, 180));
    assert_eq!((report.model.as_ref(), report.peak_memory_bytes), (Some(&model), 1 << 40));
    assert_eq!(report.metrics.get("loss"), Some(&0.5));
    assert!(!report.metrics.contains_key("nan"), "JSON has no NaN");
    assert!(report.notes.iter().any(|n| n == "index base 1, labels -1/+1 detected in --input"), "{:?}", report.notes);
    let saved = Model::load(&Storage::default(), &DataPath(model)).unwrap();
    // The first chunk is served by the first slave by name, the second by the other.
    let chunk = 1 << 16;
    let expected: Vec<f32> = (0..FEATURES).map(|key| if key < chunk { 0.25 } else { 0.5 }).collect();
    assert!(saved.weights == expected);
    assert_eq!((saved.description.index_base, saved.description.epochs), (1, 3));
    for slave in slaves {
        assert!(slave.saw(|m| matches!(m, ToSlave::Close { job } if *job == id)));
        assert!(slave.saw(|m| matches!(m, ToSlave::Facts { facts, .. } if facts.rows == 20)));
    }
    let lines: Vec<JobLine> = cluster.get("jobs").await.unwrap();
    assert_eq!((lines.len(), lines[0].state, lines[0].objective), (1, State::Done, Some(0.5)));
}

#[tokio::test]
async fn a_job_that_can_not_fit_is_refused_at_submission_with_the_numbers() {
    let cluster = Cluster::new().await;
    let _slave = cluster.slave("h1", 8).await;
    let error = cluster.submit(Rounds { threads: 12, ..Rounds::default() }).await.unwrap_err();
    assert_eq!(error.fault, Fault::User);
    assert!(error.message.starts_with("stage work needs 12 slots, the cluster has 8"), "{error}");
    let error = cluster.submit(Rounds { threads: 0, ..Rounds::default() }).await.unwrap_err();
    assert!(error.message.contains("asks for 0 threads"), "{error}");
}

#[tokio::test]
async fn another_plan_or_an_unknown_job_is_refused() {
    let cluster = Cluster::new().await;
    let submit = |name: &str| ToMaster::Submit {
        name: name.to_owned(),
        params: serde_json::to_string(&Rounds::default()).unwrap(),
        plan_hash: 1,
        reproducible: false,
        token: 1,
        scheduling: Default::default(),
        experiment: Default::default(),
        detached: false,
    };
    let error = cluster.ask(submit("rounds")).await.unwrap_err();
    assert!(error.message.contains("the same build"), "{error}");
    let error = cluster.ask(submit("magic")).await.unwrap_err();
    assert!(error.message.contains("no job is called 'magic'"), "{error}");
    let error = cluster.get::<JobNews>("jobs/j9").await.unwrap_err();
    assert!(error.message.contains("no job j9"), "{error}");
}

#[tokio::test]
async fn who_gives_the_token_of_his_job_means_no_other_of_its_identity() {
    let (cluster, token) = (Cluster::new().await, new_token());
    let id = cluster.submit_with(Rounds::default(), token).await.unwrap();
    let news = async |token| cluster.get::<JobNews>(&format!("jobs/{id}?token={token}")).await;
    let path = |token| format!("jobs/{id}/cancel?token={token}");
    let cancel = async |token| cluster.post(&path(token), &serde_json::json!({})).await;
    let other = u64::MAX - token;
    for error in [news(other).await.unwrap_err(), cancel(other).await.unwrap_err()] {
        assert!(error.exit_code() == 2 && error.message.starts_with("no job j1"), "{error}");
    }
    assert_eq!(news(token).await.unwrap().report.state, State::Queued, "it was not cancelled");
    cancel(token).await.unwrap();
    assert_eq!(cluster.end(id).await.state, State::Cancelled);
}

#[tokio::test]
async fn a_submission_that_is_sent_again_is_the_same_job() {
    let cluster = Cluster::new().await;
    let token = new_token();
    let first = cluster.submit_with(Rounds::default(), token).await.unwrap();
    assert_eq!(cluster.submit_with(Rounds::default(), token).await.unwrap(), first);
    assert_ne!(cluster.submit(Rounds::default()).await.unwrap(), first);
}

#[tokio::test]
async fn a_job_without_slaves_waits_and_says_so_and_runs_when_one_joins() {
    let cluster = Cluster::new().await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(id, |news, _| news.waiting.as_deref() == Some("waits for a slave")).await;
    let _slave = cluster.slave("h1", 1).await;
    assert_eq!(cluster.end(id).await.state, State::Done);
}

#[tokio::test]
async fn bad_inputs_and_model_paths_fail_the_job_before_it_starts() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let slave = cluster.slave("h1", 1).await;
    let missing = dir.path().join("missing").to_string_lossy().into_owned();
    let id = cluster.submit(Rounds { input: Some(missing.clone()), ..Rounds::default() }).await.unwrap();
    let error = cluster.end(id).await.error.unwrap();
    assert!(error.fault == Fault::User && error.message.contains(&missing), "{error}");
    let in_the_way = dir.path().to_string_lossy().into_owned();
    let job = Rounds { input: Some(rows(&dir)), model: Some(in_the_way), ..Rounds::default() };
    let id = cluster.submit(job).await.unwrap();
    let error = cluster.end(id).await.error.unwrap();
    assert!(error.fault == Fault::User && error.message.contains("is no model"), "{error}");
    assert!(slave.seen.lock().is_empty(), "the slave never heard of these jobs");
}

#[tokio::test]
async fn a_cancel_ends_a_queued_job_and_a_running_one_and_frees_the_slots() {
    let cluster = Cluster::new().await;
    let slave = cluster.scripted("h1", 1, 0.5, until_cancelled(|job| job != JobId(3))).await;
    let first = cluster.submit(Rounds::default()).await.unwrap();
    cluster
        .until(first, |news, _| news.stage == Some(RunningStage { name: "work".to_owned(), threads: 1, epoch: 1 }))
        .await;
    let second = cluster.submit(Rounds::default()).await.unwrap();
    cluster.until(second, |news, _| news.waiting.as_deref() == Some("needs 1 slots, 0 of 1 are free")).await;
    let third = cluster.submit(Rounds::default()).await.unwrap();
    for job in [second, first] {
        cluster.cancel(job).await;
        let report = cluster.end(job).await;
        assert_eq!((report.state, report.error.map(|e| e.fault)), (State::Cancelled, Some(Fault::Cancelled)));
    }
    assert_eq!(cluster.end(third).await.state, State::Done);
    for (job, how) in [(second, "j2 has ended already: it was cancelled"), (third, "j3 has ended already: it is done")]
    {
        let error = cluster.post(&format!("jobs/{job}/cancel"), &serde_json::json!({})).await.unwrap_err();
        assert_eq!((error.fault, error.message.as_str()), (Fault::User, how));
    }
    assert!(slave.saw(|m| matches!(m, ToSlave::Close { job } if *job == first)));
    assert!(!slave.saw(|m| matches!(m, ToSlave::Open { job, .. } if *job == second)));
}

#[tokio::test]
async fn a_model_that_diverged_fails_the_job_and_is_not_written() {
    let (cluster, dir) = (Cluster::new().await, tempfile::tempdir().unwrap());
    let _slave = cluster.scripted("h1", 1, f32::NAN, obey).await;
    let model = dir.path().join("model");
    let path = Some(model.to_string_lossy().into_owned());
    let id = cluster.submit(Rounds { input: Some(rows(&dir)), model: path, ..Rounds::default() }).await.unwrap();
    let report = cluster.end(id).await;
    assert!(report.state == State::Failed && report.model.is_none());
    assert!(report.error.unwrap().message.contains("diverged"));
    assert!(!model.exists());
}

#[tokio::test]
async fn a_master_that_is_stopped_cancels_its_jobs_and_ends() {
    let mut cluster = Cluster::new().await;
    let id = cluster.submit(Rounds::default()).await.unwrap();
    let client = cluster.client.clone();
    let question = ToMaster::Api(Request::get(format!("jobs/{id}?seen={}&wait_ms=30000", u64::MAX)));
    let watching = tokio::spawn(async move { client.ask::<_, FromMaster>(&question, DEADLINE).await });
    // The job waits for a slave, so that its watcher waits too.
    cluster.until(id, |news, _| news.waiting.as_deref() == Some("waits for a slave")).await;
    cluster.master.stop();
    tokio::time::timeout(DEADLINE, cluster.master.wait()).await.unwrap().unwrap();
    let Ok(FromMaster::Api(answer)) = watching.await.unwrap() else { panic!("the watcher gets the end") };
    assert_eq!(answer.read::<JobNews>().unwrap().report.state, State::Cancelled);
}

#[tokio::test]
async fn a_master_that_is_stopped_waits_for_the_next_question_of_who_follows_a_job_but_not_for_ever() {
    let mut cluster = Cluster::new().await;
    let [asks, leaves] =
        [cluster.submit(Rounds::default()).await.unwrap(), cluster.submit(Rounds::default()).await.unwrap()];
    for job in [asks, leaves] {
        let news: JobNews = cluster.get(&format!("jobs/{job}?seen={}&wait_ms=50", u64::MAX)).await.unwrap();
        assert!(!news.report.state.ended());
    }
    cluster.master.stop();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let news: JobNews = cluster.get(&format!("jobs/{asks}?seen={}&wait_ms=50", u64::MAX)).await.unwrap();
    assert_eq!(news.report.state, State::Cancelled);
    tokio::time::timeout(DEADLINE, cluster.master.wait()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_job_whose_slaves_take_long_to_open_it_keeps_its_turn() {
    let (cluster, launched) = (Cluster::new().await, Arc::new(Mutex::new(Vec::new())));
    let order = launched.clone();
    let _slave = cluster
        .scripted("h1", 1, 0.5, move |me, message| {
            match message {
                ToSlave::Open { job: JobId(1), .. } => std::thread::sleep(Duration::from_millis(300)),
                ToSlave::Launch(launch) => order.lock().unwrap().push(launch.job),
                _ => {}
            }
            obey(me, message)
        })
        .await;
    let [first, second] =
        [cluster.submit(Rounds::default()).await.unwrap(), cluster.submit(Rounds::default()).await.unwrap()];
    for job in [first, second] {
        assert_eq!(cluster.end(job).await.state, State::Done);
    }
    assert_eq!(*launched.lock().unwrap(), [first, second]);
}

/// A slave that hears all and answers nothing.
struct Mute(Arc<Notify>);

impl Service for Mute {
    fn call(&self, _: Connection, _: Packet) -> BoxFuture<'static, Result<Packet>> {
        self.0.notify_one();
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn a_master_that_is_stopped_waits_for_no_answer_of_a_slave_that_is_gone() {
    let (mut cluster, heard) = (Cluster::new().await, Arc::new(Notify::new()));
    let _mute = cluster.network.listen("h1-control", Arc::new(Mute(heard.clone()))).await.unwrap();
    let joined = cluster.ask(ToMaster::Register(Cluster::registration("h1", 1, 1))).await;
    let Ok(FromMaster::Registered { slave }) = joined else { panic!("{joined:?}") };
    cluster.submit(Rounds::default()).await.unwrap();
    tokio::time::timeout(DEADLINE, heard.notified()).await.expect("it is to open the job");
    cluster.master.stop();
    cluster.ask(ToMaster::Leave { slave }).await.unwrap();
    let start = Instant::now();
    tokio::time::timeout(DEADLINE, cluster.master.wait()).await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_stage_costs_the_master_little() {
    const ROUNDS: u64 = 2_000;
    let cluster = Cluster::new().await;
    let _slaves = [cluster.slave("h1", 1).await, cluster.slave("h2", 1).await];
    let id = cluster.submit(Rounds { rounds: ROUNDS, threads: 2, ..Rounds::default() }).await.unwrap();
    let since = Instant::now();
    let report = cluster.end(id).await;
    assert_eq!(report.stages.len() as u64, ROUNDS);
    let each = since.elapsed() / ROUNDS as u32;
    println!("an empty stage on two scripted slaves: {each:?}");
    assert!(each.as_micros() < 2_000, "{each:?}");
}

#[tokio::test]
async fn a_job_after_another_waits_for_its_end_and_fails_with_it() {
    let cluster = Cluster::new().await;
    let after = |job| Scheduling { after: vec![job], ..Scheduling::default() };
    let error = cluster.submit_scheduled(Rounds::default(), after(JobId(7))).await.unwrap_err();
    assert!(error.message.contains("--after") && error.message.contains("j7"), "{error}");
    // Nothing can run yet.
    let first = cluster.submit(Rounds::default()).await.unwrap();
    let second = cluster.submit_scheduled(Rounds::default(), after(first)).await.unwrap();
    let third = cluster.submit_scheduled(Rounds::default(), after(second)).await.unwrap();
    cluster.until(third, |news, _| news.waiting.as_deref() == Some("waits for the end of j2")).await;
    cluster.cancel(second).await;
    let report = cluster.end(third).await;
    let after_which = |report: Report| {
        let error = report.error.unwrap();
        assert!(error.message.contains("j2, after which it was to run, was cancelled"), "{error}");
        (report.state, error.fault)
    };
    assert_eq!(after_which(report), (State::Failed, Fault::Cluster), "nobody made a mistake");
    let late = cluster.submit_scheduled(Rounds::default(), after(second)).await.unwrap();
    assert_eq!(after_which(cluster.end(late).await), (State::Failed, Fault::User), "it had ended before");
    let fourth = cluster.submit_scheduled(Rounds::default(), after(first)).await.unwrap();
    let _slave = cluster.slave("s", 2).await;
    assert_eq!(cluster.end(fourth).await.state, State::Done);
    assert_eq!(cluster.end(first).await.state, State::Done);
}

#[tokio::test]
async fn two_jobs_that_each_need_more_than_half_of_the_cluster_end_a_hundred_times() {
    let cluster = Cluster::new().await;
    let _slaves = [cluster.slave("h1", 2).await, cluster.slave("h2", 2).await];
    for round in 0..100 {
        let policy = crate::scheduler::POLICIES[round % crate::scheduler::POLICIES.len()];
        cluster.post("policy", &serde_json::json!({ "policy": policy })).await.unwrap();
        let wide = || Rounds { rounds: 3, threads: 3, ..Rounds::default() };
        let (first, second) = tokio::join!(cluster.submit(wide()), cluster.submit(wide()));
        for job in [first.unwrap(), second.unwrap()] {
            let report = cluster.end(job).await;
            assert_eq!((report.state, report.stages.len()), (State::Done, 3), "round {round}: {report:?}");
        }
    }
}

#[tokio::test]
async fn a_job_that_ends_after_its_deadline_says_by_how_much() {
    let (cluster, late) = (Cluster::new().await, Scheduling { deadline: Some(1e-6), ..Scheduling::default() });
    let _slave = cluster.slave("h1", 1).await;
    let job = cluster.submit_scheduled(Rounds::default(), late).await.unwrap();
    let report = cluster.end(job).await;
    assert!(report.notes.iter().any(|note| note.contains("s after its deadline of 0.0 s")), "{:?}", report.notes);
    let job = cluster.submit_scheduled(Rounds::default(), Scheduling { deadline: Some(1e6), ..Scheduling::default() });
    let report = cluster.end(job.await.unwrap()).await;
    assert!(!report.notes.iter().any(|note| note.contains("deadline")), "{:?}", report.notes);
}

#[tokio::test]
async fn what_the_api_does_not_take_is_refused_over_a_connection_as_over_http() {
    let cluster = Cluster::new().await;
    let of = async |method: &str, path: &str, body: &str| {
        let (method, path, body) = (method.to_owned(), path.to_owned(), body.to_owned());
        let answer = cluster.api(Request { method, path, body }).await;
        (answer.status, answer.document().unwrap_err())
    };
    let long = " ".repeat(BODY + 1);
    for (method, path, body, status, says) in [
        ("GET", "nothing", "", 404, "there is nothing here"),
        ("GET", "/jobs", "", 404, "there is nothing here"),
        ("GET", "jobs/j9", "", 404, "no job j9"),
        ("POST", "jobs/j9/cancel", "{}", 404, "no job j9"),
        ("POST", "overview", "{}", 405, "only GET"),
        ("GET", "policy", "", 405, "only POST"),
        ("GET", "history?from=x", "", 400, "from=x is no number"),
        ("POST", "jobs", "{", 400, "no submission"),
        ("POST", "policy", "{}", 400, "names no policy"),
        ("POST", "policy", r#"{"policy":"magic"}"#, 400, "magic"),
        ("POST", "jobs", &long, 400, "at most 65536 bytes"),
    ] {
        let (given, error) = of(method, path, body).await;
        assert!(given == status && error.fault == Fault::User && error.message.contains(says), "{path}: {error}");
    }
}
