//! What the file assigner makes of slaves that differ in speed, in virtual time: 4 hosts, 2 replicas, 64 splits of 64 MiB,
//! placed 100 times by lot. Prints a line of JSON per way: how long the reading takes beside the ideal (all bytes over all
//! speeds), and the share of local bytes, in the middle and at the worst.

use flexps_common::data::Form;
use flexps_common::experiment::Splits;
use flexps_common::ids::{InputId, SlaveId};
use flexps_common::wire::control::Split;
use flexps_master::assigner::{self, Assigner, Racks, Reader, Rules};

#[path = "../src/assigner/tests/cluster.rs"]
mod cluster;

const HOSTS: usize = 4;
const SPLITS: u64 = 64;
const BYTES: u64 = 64 << 20;

/// Splits of one file; each on two hosts.
fn splits(seed: u64) -> Vec<Split> {
    let mut dice = seed;
    let mut roll = |below: u64| {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 33) % below
    };
    (0..SPLITS)
        .map(|i| {
            let first = roll(HOSTS as u64);
            let second = (first + 1 + roll(HOSTS as u64 - 1)) % HOSTS as u64;
            Split {
                input: InputId(0),
                index: i as u32,
                path: "/rows".to_owned(),
                start: i * BYTES,
                end: (i + 1) * BYTES,
                file_len: SPLITS * BYTES,
                modified: 0,
                form: Form::Text,
                hosts: [first, second].map(|host| format!("h{host}")).to_vec(),
            }
        })
        .collect()
}

fn main() {
    let near = Rules { splits: Splits::Near, reproducible: false };
    let (even, slow) = ([1.0; HOSTS], [1.0, 0.25, 1.0, 1.0]);
    for (what, speeds, rules) in [
        ("even", even, near),
        ("even, random", even, Rules { splits: Splits::Random, ..near }),
        ("one slow", slow, near),
        ("one slow, as planned", slow, Rules { reproducible: true, ..near }),
    ] {
        let (mut over, mut local) = (Vec::new(), Vec::new());
        for seed in 0..100 {
            let readers = (0..HOSTS).map(|i| Reader { slave: SlaveId(i as u32), host: format!("h{i}") });
            let mut assigner = Assigner::new(splits(seed), readers.collect(), Racks::new(), rules);
            let bytes = speeds.iter().map(|speed| speed * BYTES as f64);
            let mut slaves =
                (0..).zip(bytes).map(|(id, speed)| cluster::Slave::new(SlaveId(id), speed, None)).collect();
            let seconds = cluster::read(&mut assigner, &mut slaves);
            over.push(seconds * speeds.iter().sum::<f64>() / SPLITS as f64);
            let handed = assigner.handed();
            local.push(handed.local_bytes as f64 / handed.bytes as f64);
        }
        over.sort_by(f64::total_cmp);
        local.sort_by(f64::total_cmp);
        println!(
            r#"{{"what": "{what}", "over_ideal": {:.3}, "worst_over_ideal": {:.3}, "local": {:.3}, "worst_local": {:.3}}}"#,
            over[50], over[99], local[50], local[0]
        );
    }
}
