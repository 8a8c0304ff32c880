//! Rows for tests, drawn from a seed.

use crate::flags::Common;
use crate::newton::Problem;
use flexps_common::data::{Block, schema::DataPath};
use flexps_common::host::{Host, Outcome};
use flexps_common::job::Job;
use flexps_common::plan::Plan;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// What the rows look like.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    pub rows: usize,
    pub features: u32,
    pub nonzeros: usize,
    /// Values of feature j are multiplied by 10^(-scales .. scales), by j.
    pub scales: f32,
    /// All values are 1, one feature of each of `nonzeros` groups: like a9a.
    pub one_hot: bool,
    pub seed: u64,
}

impl Rows {
    pub fn sparse(seed: u64) -> Self {
        Self { rows: 400, features: 60, nonzeros: 8, scales: 0.0, one_hot: false, seed }
    }

    /// In so many blocks of nearly equal size.
    pub fn blocks(self, blocks: usize) -> Vec<Block> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let truth: Vec<f32> = (0..self.features).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut out = Vec::new();
        for part in 0..blocks {
            let rows = self.rows * (part + 1) / blocks - self.rows * part / blocks;
            let (mut labels, mut offsets, mut indices, mut values) = (vec![], vec![0], vec![], vec![]);
            for _ in 0..rows {
                let row = if self.one_hot { self.one_hot_row(&mut rng) } else { self.row(&mut rng) };
                let score: f32 = row.iter().map(|(k, v)| truth[*k as usize] * v).sum::<f32>() + 0.3;
                let noise: f32 = rng.random_range(-1.0..1.0);
                labels.push(if score + noise > 0.0 { 1.0 } else { -1.0 });
                indices.extend(row.iter().map(|(k, _)| *k));
                values.extend(row.iter().map(|(_, v)| *v));
                offsets.push(indices.len() as u32);
            }
            out.push(Block { labels, offsets, indices, values: (!self.one_hot).then_some(values) });
        }
        out
    }

    fn row(&self, rng: &mut ChaCha8Rng) -> Vec<(u32, f32)> {
        let mut keys: Vec<u32> = (0..self.nonzeros).map(|_| rng.random_range(0..self.features)).collect();
        keys.sort_unstable();
        keys.dedup();
        let scale = |key: u32| 10f32.powf(self.scales * (2.0 * key as f32 / self.features as f32 - 1.0));
        keys.into_iter().map(|key| (key, scale(key) * rng.random_range(-1.0..1.0))).collect()
    }

    fn one_hot_row(&self, rng: &mut ChaCha8Rng) -> Vec<(u32, f32)> {
        let size = self.features / self.nonzeros as u32;
        // Squared, so that some categories are common and some rare.
        let pick = |rng: &mut ChaCha8Rng| (rng.random_range(0.0..1.0f32).powi(2) * size as f32) as u32;
        (0..self.nonzeros as u32).map(|group| (group * size + pick(rng), 1.0)).collect()
    }
}

/// A path that the host never opens.
pub fn path(name: &str) -> DataPath {
    DataPath(name.to_owned())
}

/// Flags that ask for the optimum.
pub fn flags() -> Common {
    Common { input: vec![path("rows")], epochs: 200, tolerance: 0.0, seed: 1, ..Common::default() }
}

/// Runs a job on the host.
pub fn run(host: Host, job: &impl Job, blocks: &[Block]) -> Outcome {
    let mut plan = Plan::default();
    Job::plan(job, &mut plan).unwrap();
    host.rows(blocks.to_vec()).run(&plan).unwrap()
}

/// How far, relatively, the model in the tables is above the optimum that Newton's method finds.
pub fn suboptimality(outcome: &Outcome, flags: &Common, blocks: &[Block]) -> f64 {
    let facts = flexps_common::host::facts(blocks, 0);
    let lambda = flags.lambda.unwrap_or(1.0 / facts.rows as f64);
    let problem = Problem { blocks, lambda, bias: flags.bias, features: facts.features as usize };
    let (_, best) = problem.solve();
    let mut model = outcome.table("weights", 0..facts.features as u32);
    if flags.bias {
        model.extend(outcome.table("bias", 0..1));
    }
    let reached = problem.objective(&model);
    let reported = outcome.progress.objective.unwrap();
    assert!((reached - reported).abs() < 1e-5 * reached, "reported {reported}, is {reached}");
    (reached - best) / best
}

/// Runs a job and demands that it gets within `most` of the optimum.
pub fn assert_reaches(host: Host, job: &impl Job, flags: &Common, blocks: &[Block], most: f64) -> Outcome {
    let outcome = run(host, job, blocks);
    let above = suboptimality(&outcome, flags, blocks);
    assert!(above < most, "{above:e} above the optimum after {} epochs: {:?}", outcome.epochs.len(), outcome.stopped);
    outcome
}

/// A block of rows with these labels, and features with their values.
pub fn block(labels: &[f32], rows: &[&[(u32, f32)]]) -> Block {
    Block {
        labels: labels.into(),
        offsets: std::iter::once(0)
            .chain(rows.iter().scan(0, |n, r| {
                *n += r.len() as u32;
                Some(*n)
            }))
            .collect(),
        indices: rows.iter().flat_map(|r| r.iter().map(|(k, _)| *k)).collect(),
        values: Some(rows.iter().flat_map(|r| r.iter().map(|(_, v)| *v)).collect()),
    }
}
