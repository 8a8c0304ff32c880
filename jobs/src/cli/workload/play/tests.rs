//! What is promised of the jobs of a workload.

use super::super::file::parse;
use super::super::live::sleep;
use super::super::recorded::tests::job;
use super::*;
use flexps_common::report::State;
use flexps_common::transport::{Connection, Listener, Network, Packet, Service};
use flexps_common::wire::api::Answer;
use flexps_common::wire::control::{FromMaster, ToMaster};
use flexps_master::history::FORMAT;
use flexps_master::simulate::Luck;
use std::pin::Pin;
use std::sync::Mutex;

/// What comes of a submission.
enum Way {
    Answered,
    /// The job is taken, and the answer comes never.
    Silent,
    /// The job is taken, and the answer goes astray.
    Astray,
    /// It is refused, since the first job was forgotten.
    Forgotten,
    /// It is refused for no reason.
    Refused,
}

/// A master whose jobs end at once.
struct Fake(Mutex<Books>);

struct Books {
    /// Of the submissions to come, the last one first; the others are answered.
    ways: Vec<Way>,
    /// Of its jobs, from j1 on.
    tokens: Vec<u64>,
    /// The oldest job that it knows.
    first: usize,
    /// For which jobs those that were submitted, or tried to be, were to wait.
    after: Vec<Vec<JobId>>,
    /// Where it was asked to cancel.
    cancelled: Vec<String>,
}

impl Books {
    fn submit(&mut self, token: u64, after: Vec<JobId>) -> Option<Result<FromMaster>> {
        let way = self.ways.pop().unwrap_or(Way::Answered);
        self.after.push(after);
        match way {
            Way::Forgotten => {
                self.first += 1;
                return Some(Err(Error::user("--after: no job j1")));
            }
            Way::Refused => return Some(Err(Error::user("--after: no"))),
            _ => {}
        }
        let known = self.tokens.iter().position(|known| *known == token);
        let at = known.unwrap_or_else(|| {
            self.tokens.push(token);
            self.tokens.len() - 1
        });
        match way {
            Way::Silent => None,
            Way::Astray => Some(Err(Error::cluster("no answer").retryable())),
            _ => Some(Ok(FromMaster::Submitted(JobId(at as u64 + 1)))),
        }
    }

    fn document(&mut self, path: &str) -> String {
        let ids = |first: usize| (first as u64..=self.tokens.len() as u64).map(JobId);
        if path == "jobs" {
            let line = |id| JobLine {
                id,
                name: "sleep".to_owned(),
                state: State::Done,
                seconds: 0.0,
                objective: None,
                note: None,
                scheduling: Scheduling::default(),
            };
            return serde_json::to_string(&ids(self.first).map(line).collect::<Vec<_>>()).unwrap();
        }
        if let Some(from) = path.strip_prefix("history?from=") {
            let begin =
                Record::Begin { format: FORMAT, policy: "fair".to_owned(), unix_ms: 0, shares: BTreeMap::new() };
            let records: Vec<Record> = std::iter::once(begin).chain(ids(1).map(|id| job(id.0))).collect();
            let told = if from == "0" { &records[..] } else { &[] };
            return serde_json::json!({ "first": 0, "next": records.len(), "end": records.len(), "records": told })
                .to_string();
        }
        if path.contains("/cancel") {
            self.cancelled.extend(path.split('?').next().map(str::to_owned));
        }
        "{}".to_owned()
    }
}

impl Service for Fake {
    fn call(&self, _: Connection, request: Packet) -> Pin<Box<dyn Future<Output = Result<Packet>> + Send>> {
        let mut books = self.0.lock().unwrap();
        let answer = match request.message().unwrap() {
            ToMaster::Submit { token, scheduling, .. } => books.submit(token, scheduling.after),
            ToMaster::Api(request) => {
                Some(Ok(FromMaster::Api(Answer { status: 200, body: books.document(&request.path) })))
            }
            other => panic!("{other:?}"),
        };
        match answer {
            Some(answer) => Box::pin(std::future::ready(answer.and_then(|answer| Packet::control(&answer)))),
            None => Box::pin(std::future::pending()),
        }
    }
}

/// Two jobs, of which the second waits for the first, and their master.
struct Scene {
    master: Arc<Fake>,
    client: Arc<Client>,
    file: WorkFile,
    jobs: Vec<Box<dyn DynJob>>,
    submitted: Submitted,
    _listener: Listener,
}

impl Scene {
    async fn new(ways: impl IntoIterator<Item = Way>) -> Self {
        let mut ways: Vec<Way> = ways.into_iter().collect();
        ways.reverse();
        let books = Books { ways, tokens: Vec::new(), first: 1, after: Vec::new(), cancelled: Vec::new() };
        let (master, network) = (Arc::new(Fake(Mutex::new(books))), Network::in_process());
        let listener = network.listen("m", master.clone()).await.unwrap();
        let stage = "stage = [{ name = 'x', threads = 1, work = 0.01 }]";
        let text = format!("[[job]]\nname = 'a'\n{stage}\n[[job]]\nname = 'b'\nafter = ['a']\n{stage}\n");
        let registry = crate::registry();
        let file = parse("w.toml", &text, &registry).unwrap();
        let job = |(at, spec): (usize, &JobSpec)| {
            let sleep = sleep(at, spec, &Luck::default(), 1);
            registry.job("sleep", &serde_json::to_string(&sleep).unwrap()).unwrap()
        };
        let jobs = file.workload.jobs.iter().enumerate().map(job).collect();
        let (client, submitted) = (Arc::new(Client::new(&network, "m")), Submitted::default());
        Self { master, client, file, jobs, submitted, _listener: listener }
    }

    async fn play(&mut self) -> Result<Played> {
        play(&self.client, "fair", &self.file, &self.jobs, &mut self.submitted).await
    }
}

#[tokio::test]
async fn a_job_whose_submission_was_left_before_its_answer_came_is_cancelled() {
    let mut scene = Scene::new([Way::Silent]).await;
    assert!(tokio::time::timeout(Duration::from_millis(200), scene.play()).await.is_err());
    cancel(&scene.client, &scene.submitted).await.unwrap();
    let books = scene.master.0.lock().unwrap();
    assert_eq!((books.tokens.len(), &*books.cancelled), (1, &["jobs/j1/cancel".to_owned()][..]));
}

#[tokio::test]
async fn a_submission_whose_answer_goes_astray_is_repeated_and_makes_one_job() {
    let mut scene = Scene::new([Way::Astray]).await;
    assert_eq!(scene.play().await.unwrap().names.len(), 2);
    assert!(scene.submitted.is_empty(), "{:?}", scene.submitted);
    assert_eq!(scene.master.0.lock().unwrap().tokens.len(), 2);
}

#[tokio::test]
async fn a_job_may_wait_for_one_that_is_forgotten_before_it_is_submitted() {
    let mut scene = Scene::new([Way::Answered, Way::Forgotten]).await;
    assert_eq!(scene.play().await.unwrap().names.len(), 2);
    assert_eq!(scene.master.0.lock().unwrap().after, [vec![], vec![JobId(1)], vec![]]);
    // What is refused for another reason is told.
    let mut scene = Scene::new([Way::Answered, Way::Refused]).await;
    let error = scene.play().await.map(|_| ()).unwrap_err();
    assert!(error.exit_code() == 2 && error.message == "--after: no", "{error}");
    cancel(&scene.client, &scene.submitted).await.unwrap();
    let books = scene.master.0.lock().unwrap();
    assert_eq!((books.tokens.len(), &*books.cancelled), (1, &["jobs/j1/cancel".to_owned()][..]));
}

#[test]
fn a_job_of_which_nothing_is_recorded_any_more_is_missed() {
    let names = |ids: &[u64]| ids.iter().map(|id| (JobId(*id), format!("n{id}"))).collect::<BTreeMap<_, _>>();
    // That of others is there too.
    let records = [job(1), job(2), job(9)];
    whole(&names(&[1, 2]), &records, "m:1").unwrap();
    let error = whole(&names(&[1, 3]), &records, "m:1").unwrap_err();
    assert!(error.exit_code() == 1 && error.message.contains("at m:1 has no record of job n3 any more"), "{error}");
    let error = whole(&names(&[2, 3, 4, 5]), &records, "m:1").unwrap_err();
    assert!(error.message.contains("of job n3 and 2 more any more"), "{error}");
}

#[test]
fn jobs_are_ordered_by_those_that_they_wait_for_however_many_ways_lead_there() {
    // Layers of which each job waits for all of the one above: there are more ways than can be counted.
    let (layers, each) = (40, 30);
    let job = |at: usize| {
        let above = at / each;
        let after = if above == 0 { Vec::new() } else { ((above - 1) * each..above * each).collect() };
        // The last are to come first.
        JobSpec { after, arrival: Duration::from_secs((layers - above) as u64), ..JobSpec::default() }
    };
    let jobs: Vec<JobSpec> = (0..layers * each).map(job).collect();
    assert_eq!(order(&jobs), (0..layers * each).collect::<Vec<_>>());
    // A chain that is longer than a stack is deep.
    let long = 100_000;
    let after = |at: usize| if at + 1 < long { vec![at + 1] } else { Vec::new() };
    let jobs: Vec<JobSpec> = (0..long).map(|at| JobSpec { after: after(at), ..JobSpec::default() }).collect();
    assert_eq!(order(&jobs), (0..long).rev().collect::<Vec<_>>());
}
