//! How long one decision takes: 1,000 slaves of 16 slots, 10,000 ready stages of all kinds, in four states of the cluster.
//! Prints a line of JSON per policy: milliseconds of processor time (other programs on the machine don't count) at the
//! median, the 99th percentile and the most.

use flexps_common::ids::{JobId, SlaveId};
use flexps_master::scheduler::{POLICIES, Ready, Reservation, Running, Runs, Share, Slots, View, Want, policy};
use std::sync::Arc;
use std::time::Duration;

const SLAVES: u32 = 1_000;
const SLOTS: u32 = 16;
const READY: u64 = 10_000;
const ROUNDS: usize = 400;

/// Numbers that are as good as random and the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % below
    }
}

fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into the structure that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn stages(dice: &mut Dice, now: Duration) -> Vec<Ready> {
    let all: Arc<[SlaveId]> = (1..=SLAVES).map(SlaveId).collect();
    let some: Vec<Arc<[SlaveId]>> = (0..50)
        .map(|_| {
            let first = 1 + dice.roll(u64::from(SLAVES) - 20) as u32;
            (first..first + 20).map(SlaveId).collect()
        })
        .collect();
    (1..=READY)
        .map(|job| {
            let n = 1 + dice.roll(8) as u32;
            let want = match dice.roll(10) {
                0 => Want::OneSlave(n.min(SLOTS)),
                1 => Want::PerSlave(1 + n % 3),
                2 => Want::Range { least: n, most: 8 * n, each: 0 },
                3 => Want::Spread { threads: 100 * n, each: 0 },
                4 => Want::All,
                _ => Want::Spread { threads: n, each: 0 },
            };
            let slaves = if dice.roll(4) == 0 { &some[dice.roll(50) as usize] } else { &all };
            Ready {
                job: JobId(job),
                stage: 0,
                priority: dice.roll(5) as i32,
                owner: dice.roll(20) as u32,
                since: now - Duration::from_millis(dice.roll(90_000)),
                passed_over: dice.roll(20) as u32,
                want,
                memory: 0,
                slaves: slaves.clone(),
                near: None,
                estimate: (dice.roll(5) > 0).then(|| Duration::from_millis(100 + dice.roll(20_000))),
            }
        })
        .collect()
}

fn main() {
    let now = Duration::from_secs(1_000);
    let shares = vec![Share::default(); 20];
    for name in POLICIES {
        let (policy, mut dice, mut took) = (policy(name).expect("a policy of ours"), Dice(7), Vec::new());
        for round in 0..ROUNDS {
            let ready = stages(&mut dice, now);
            let mut slaves: Vec<Slots> = (1..=SLAVES)
                .map(|id| Slots { id: SlaveId(id), slots: SLOTS, free: SLOTS, cores: SLOTS, memory: u64::MAX })
                .collect();
            let mut running = Runs::new();
            // Idle, half busy, nearly full, full.
            let busy = [0, 8, 15, 16][round % 4];
            for slave in slaves.iter_mut().filter(|_| busy > 0) {
                let n = if busy == SLOTS { busy } else { dice.roll(u64::from(busy) + 1) as u32 };
                slave.free -= n;
                let until = Some(now + Duration::from_millis(dice.roll(20_000)));
                let run = Running { owner: 0, workers: vec![(slave.id, n)], memory: 0, since: Duration::ZERO, until };
                running.insert((JobId(u64::from(slave.id.0) + 1_000_000), 0), run);
            }
            // The first decision of a state makes its reservations, later ones keep them: both count.
            let mut reserved: Vec<Reservation> = Vec::new();
            for _ in 0..2 {
                let (slaves, ready, running, shares, reserved_so_far) = (&slaves, &ready, &running, &shares, &reserved);
                let view = View { now, slaves, ready, started: &[], running, reserved: reserved_so_far, shares };
                let start = processor_time();
                let decision = policy.decide(&view);
                took.push(processor_time() - start);
                reserved = decision.reserved;
            }
        }
        took.sort_unstable();
        let ms = |share: f64| 1e3 * took[((took.len() - 1) as f64 * share) as usize].as_secs_f64();
        println!(
            r#"{{"policy":"{name}","decisions":{},"p50_ms":{:.3},"p99_ms":{:.3},"most_ms":{:.3}}}"#,
            took.len(),
            ms(0.5),
            ms(0.99),
            ms(1.0)
        );
    }
}
