//! A shard that has forgotten key lists gets them again.

use crate::bulk::Bulk;
use crate::job::{OpenJob, Opening};
use crate::kv::{Keys, Room};
use crate::node::Jobs;
use crate::stage::backend::Engine;
use flexps_common::Result;
use flexps_common::home::Home;
use flexps_common::ids::{JobId, SlaveId, StageRun};
use flexps_common::plan::{Consistency, Plan};
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_forgot_a_key_list_gets_it_again_and_no_update_is_lost() {
    let network = Network::in_process();
    let mut plan = Plan::default();
    let table = plan.table::<f32>("t", 1);
    plan.body.stage("stage", |_| Ok(())).consistency(Consistency::Asp);
    let peer = |i: u32| Peer { id: SlaveId(i), name: format!("h{i}"), bulk: format!("h{i} bulk") };
    let open = |you| {
        let opening = Opening {
            id: JobId(1),
            name: "j".into(),
            plan: plan.clone(),
            slaves: vec![peer(1), peer(2)],
            you,
            experiment: Default::default(),
        };
        Arc::new(OpenJob::new(opening, &network, &Default::default(), &Room::unlimited()).unwrap())
    };
    let (here, there) = (open(SlaveId(1)), open(SlaveId(2)));
    let jobs = Jobs::default();
    jobs.insert(there.clone());
    // Remembers lists of at most 1000 keys, one at a time; the sender believes it has them all.
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
    let work = move || {
        let mut engine = Engine::new(here, run, Place { threads: 1, ..Place::default() }, Arc::default());
        let lists: Vec<Vec<u32>> =
            (0..3u32).map(|i| (0..900).map(|k| 65_536 + k * 7 + i).chain([200_000 + i]).collect()).collect();
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
    tokio::task::spawn_blocking(work).await.unwrap();
    let mut all = vec![0.0; 65_536];
    there.shard.get(table.id, Keys::Range { start: 65_536, count: 65_536 }, ValuesMut::F32(&mut all)).unwrap();
    assert_eq!(all.iter().sum::<f32>(), 4.0 * 2700.0);
}
