//! A shard that has forgotten key lists gets them again.

use super::master::member;
use crate::bulk::Bulk;
use crate::job::{OpenJob, Opening};
use crate::jobs::Jobs;
use crate::kv::{Keys, Room};
use crate::stage::backend::Engine;
use crate::stage::filter;
use flexps_common::Result;
use flexps_common::home::Home;
use flexps_common::ids::{JobId, SlaveId, StageRun, TableId};
use flexps_common::plan::{Consistency, Plan, Significant, Table};
use flexps_common::transport::{Connection, Network, Packet, Service};
use flexps_common::value::{Element, ValuesMut};
use flexps_common::wire::control::Launch;
use flexps_common::wire::lists::KeyMemory;
use flexps_common::wire::slaves::Peer;
use flexps_common::worker::{Backend, Place, Pull, Push};
use futures::future::BoxFuture;
use std::sync::Arc;

/// Takes clocks and does nothing with them.
struct Deaf;

impl Service for Deaf {
    fn call(&self, _from: Connection, _request: Packet) -> BoxFuture<'static, Result<Packet>> {
        Box::pin(std::future::ready(Ok(Packet::default())))
    }
}

/// What a worker's work behind a filter has left of a table in its second chunk, which is on a slave that remembers lists of
/// at most 1000 keys, one at a time; the worker's believes that it has them all.
async fn left_by(filter: Option<Significant>, work: impl FnOnce(Engine, Table<f32>) + Send + 'static) -> Vec<f32> {
    let network = Network::in_process();
    let mut plan = Plan::default();
    let table = plan.table::<f32>("t", 1);
    plan.table::<f32>("other", 1);
    plan.body.stage("stage", |_| Ok(())).consistency(Consistency::Asp);
    let peer = |i: u32| Peer { id: SlaveId(i), name: format!("h{i}"), bulk: format!("h{i} bulk") };
    let open = |you| {
        let opening = Opening {
            id: JobId(1),
            name: "j".into(),
            plan: plan.clone(),
            slaves: vec![peer(1), peer(2)],
            you: member(you),
            experiment: Default::default(),
        };
        Arc::new(OpenJob::new(opening, &network, &Default::default(), &Room::unlimited()).unwrap())
    };
    let (here, there) = (open(SlaveId(1)), open(SlaveId(2)));
    let jobs = Jobs::default();
    jobs.insert(there.clone());
    let service = Bulk { jobs, memory: Arc::new(KeyMemory::new(4000)) };
    let _listener = network.listen("h2 bulk", Arc::new(service)).await.unwrap();
    let _clocks = network.listen("h2 control", Arc::new(Deaf)).await.unwrap();
    let launch = Launch {
        job: JobId(1),
        run: StageRun(1),
        stage: 0,
        epoch: 0,
        workers: vec![(SlaveId(1), 1)],
        scalars: Default::default(),
        phase: 1,
        homes: Some(vec![Home::All; plan.tables.len()]),
        beside: Vec::new(),
    };
    let run = here.begin(&launch).unwrap();
    there.begin(&launch).unwrap();
    let filter = filter::of(filter, &here.shard);
    let engine = Engine::new(here, run, Place { threads: 1, ..Place::default() }, Arc::default(), filter);
    tokio::task::spawn_blocking(move || work(engine, table)).await.unwrap();
    let mut all = vec![0.0; 65_536];
    there.shard.get(table.id, Keys::Range { start: 65_536, count: 65_536 }, ValuesMut::F32(&mut all)).unwrap();
    all
}

fn lists() -> Vec<Vec<u32>> {
    (0..3u32).map(|i| (0..900).map(|k| 65_536 + k * 7 + i).chain([200_000 + i]).collect()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_forgot_a_key_list_gets_it_again_and_no_update_is_lost() {
    let work = |mut engine: Engine, table: Table<f32>| {
        let lists = lists();
        let mut values = vec![0.0f32; 901];
        for round in 0..4 {
            for keys in &lists {
                let ticket = engine.start_get(&[Pull { table: table.id, keys }]).unwrap();
                let ones = vec![1.0f32; keys.len()];
                engine.add(&[Push { table: table.id, keys, values: f32::wrap(&ones) }]).unwrap();
                engine.finish_get(ticket, &mut [f32::wrap_mut(&mut values)]).unwrap();
            }
            engine.clock().unwrap();
            for keys in &lists {
                engine.get(Pull { table: table.id, keys }, f32::wrap_mut(&mut values)).unwrap();
                assert!(values.iter().all(|x| *x == (round + 1) as f32), "{values:?}");
            }
        }
    };
    assert_eq!(left_by(None, work).await.iter().sum::<f32>(), 4.0 * 2700.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_forgot_the_list_of_which_some_keys_are_sent_gets_these_again() {
    let work = |mut engine: Engine, table: Table<f32>| {
        let mut values = vec![0.0f32; 901];
        let others: Vec<u32> = (0..901).map(|k| 65_536 + k * 11).collect();
        for round in 0..8 {
            for keys in &lists() {
                engine.get(Pull { table: table.id, keys }, f32::wrap_mut(&mut values)).unwrap();
                // In its place the shard remembers this one.
                engine.get(Pull { table: TableId(1), keys: &others }, f32::wrap_mut(&mut values)).unwrap();
                // Every other one is small beside what it changes from the second round on.
                let change = |at: usize| if round == 0 || at.is_multiple_of(2) { 1.0 } else { 1.0 / 64.0 };
                let changes: Vec<_> = (0..901).map(change).collect();
                engine.add(&[Push { table: table.id, keys, values: f32::wrap(&changes) }]).unwrap();
            }
            engine.clock().unwrap();
        }
        let used = engine.filter.as_ref().unwrap().used();
        assert!(used.held > 3 * 450 * 5, "{used:?}");
        engine.end().unwrap();
    };
    let all = left_by(Some(Significant { share: 0.1, clocks: 100 }), work).await;
    for keys in lists() {
        for (at, key) in keys.iter().take(900).enumerate() {
            let expected = if at.is_multiple_of(2) { 8.0 } else { 1.0 + 7.0 / 64.0 };
            assert_eq!(all[*key as usize - 65_536], expected, "key {key}");
        }
    }
}
