//! A job of your own, with the whole `flexps` command around it: ridge regression on sparse rows.
//!
//! ```text
//! cargo run --release --example custom_job -- run ridge --input rows.libsvm --model ridge-model
//! cargo run --release --example custom_job -- plan ridge --input rows.libsvm
//! ```
//!
//! In a crate of your own you need `flexps-common` (the job API), `flexps-jobs` (the command), `clap` and `serde`, and
//! these three things:
//!
//! 1. **Parameters** (`struct Ridge`): one struct is the command-line flags, their help and what goes over the wire.
//! 2. **A plan** (`Job::plan`): tables, inputs, and steps: stages, what the servers do by themselves, decisions, repeats.
//!    It is made again on every node, so it may depend on the parameters alone.
//! 3. **Stage functions** (`moments`, `solve`): plain synchronous Rust that a number of threads run, each with its
//!    [`Worker`]: its share of the rows, and the tables.
//!
//! The mathematics. With targets y in {-1, +1}, minimise
//! ```text
//! F(w) = 1/(2n) sum (w.x - y)^2 + lambda/2 |w|^2
//! ```
//! For each row (w.x)^2 <= |x|_1 sum_j |x_j| w_j^2, so that F's curvature is nowhere above the diagonal
//! ```text
//! D_j = (1/n) sum over rows of |x_j| |x|_1 + lambda
//! ```
//! and `w <- w - grad F(w) / D` lowers F at every step, with no step size to choose. The first stage makes the sums in D
//! in one pass; the second takes the steps. The penalty's gradient is dealt out to the workers by how many of their
//! rows contain a feature, so that what they push adds up to exactly one step.
//!
//! Invariant: after every clock of `solve` the table `weights` is one full step further, whatever the number of workers.

use clap::Args;
use flexps_common::data::block::KeyMap;
use flexps_common::data::schema::DataPath;
use flexps_common::data::{Block, InputSpec};
use flexps_common::job::{Job, Registry};
use flexps_common::metrics::Metric;
use flexps_common::plan::{Flow, Input, Plan, SaveSpec, SaveTensor, Table};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};

/// Parameters. Each field is a flag; its doc comment is the flag's help.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
struct Ridge {
    /// Rows in libsvm format: files, directories, globs, local or hdfs://
    #[arg(long, required = true, value_name = "PATH", num_args = 1..)]
    input: Vec<DataPath>,

    /// Folder to save the model in [default: not saved]
    #[arg(long, value_name = "DIR")]
    model: Option<DataPath>,

    /// Strength of the L2 penalty
    #[arg(long, default_value_t = 0.01)]
    lambda: f64,

    /// Rounds at most
    #[arg(long, default_value_t = 100)]
    epochs: u64,

    /// Steps of a round
    #[arg(long, default_value_t = 10)]
    steps: u32,

    /// Stop when a round lowers the objective by less than this fraction of it
    #[arg(long, default_value_t = 1e-6)]
    tolerance: f64,
}

impl Job for Ridge {
    const NAME: &'static str = "ridge";
    const ABOUT: &'static str = "Ridge regression by diagonally preconditioned descent";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        if !(self.lambda > 0.0 && self.lambda.is_finite()) {
            return Err(Error::user(format!("--lambda {} is out of range; give more than 0", self.lambda)));
        }
        let rows = plan.input(InputSpec::new("input", self.input.clone()))?;
        // A table needs no size: features are found while reading. Two numbers per feature here, one there.
        let moments_table = plan.table::<f32>("moments", 2);
        let weights = plan.table::<f32>("weights", 1);

        let (lambda, steps, tolerance) = (self.lambda, self.steps, self.tolerance);
        let body = &mut plan.body;
        body.stage("moments", move |worker| moments(worker, rows, moments_table)).input(rows);
        // All that a round needs of those before it is in tables and scalars, so a job can go on from here (`--checkpoint`).
        body.resumable(self.epochs, |round| {
            let problem = Problem { rows, moments: moments_table, weights, lambda, steps };
            round.stage("solve", move |worker| problem.solve(worker)).input(rows);
            round.norm2(weights, "norm2");
            // A decision runs in the master, on what stages and servers summed.
            round.decide(move |progress| {
                let rows = progress.metric("solve", "rows")?;
                let squares = progress.metric("solve", "squared_residuals")?;
                let objective = squares / (2.0 * rows) + lambda / 2.0 * progress.scalar("norm2", 0.0);
                let before = progress.objective.replace(objective).unwrap_or(f64::INFINITY);
                if before - objective < tolerance * objective {
                    return Ok(Flow::Stop(format!("tolerance {tolerance} reached")));
                }
                Ok(Flow::Next)
            });
        });
        if let Some(path) = self.model.clone() {
            let tensor = SaveTensor { name: "weights".to_owned(), table: weights.id, keys: None, by_class: false };
            plan.save(SaveSpec { path, overwrite: false, tensors: vec![tensor], input: rows.id });
        }
        Ok(())
    }
}

/// Non-zeros of row `i`: local feature and value.
fn row(block: &Block, i: usize) -> impl Iterator<Item = (usize, f32)> + Clone {
    let row = block.row(i);
    row.indices.iter().enumerate().map(move |(at, k)| (*k as usize, row.values.map_or(1.0, |values| values[at])))
}

/// Stage one: for each feature, the sum of |x_j| |x|_1 over all rows, and how many rows contain it.
fn moments(worker: &mut Worker<'_>, rows: Input, table: Table<f32>) -> Result<()> {
    let map = worker.key_map(rows)?;
    let own = own_moments(worker, rows, &map)?;
    worker.add_mapped(table, &map, &own)
}

/// The same over this worker's rows alone, by local feature.
fn own_moments(worker: &mut Worker<'_>, rows: Input, map: &KeyMap) -> Result<Vec<f32>> {
    let mut own = vec![0.0; 2 * map.len()];
    let mut pass = worker.pass(rows);
    while let Some((_, block)) = pass.next(worker)? {
        for i in 0..block.rows() {
            let norm1: f32 = row(&block, i).map(|(_, x)| x.abs()).sum();
            for (k, x) in row(&block, i) {
                own[2 * k] += x.abs() * norm1;
                own[2 * k + 1] += 1.0;
            }
        }
    }
    Ok(own)
}

/// What stage two needs of the plan.
#[derive(Debug, Clone, Copy)]
struct Problem {
    rows: Input,
    moments: Table<f32>,
    weights: Table<f32>,
    lambda: f64,
    steps: u32,
}

impl Problem {
    /// Stage two: some steps, a clock after each, then the squared residuals where they led.
    fn solve(&self, worker: &mut Worker<'_>) -> Result<()> {
        let map = worker.key_map(self.rows)?;
        let count = worker.facts(self.rows)?.rows as f64;
        let own = own_moments(worker, self.rows, &map)?;
        let (mut all, mut weights) = (Vec::new(), Vec::new());
        worker.get_mapped(self.moments, &map, &mut all)?;
        for _ in 0..self.steps {
            worker.get_mapped(self.weights, &map, &mut weights)?;
            let (mut change, _) = self.gradient(worker, &weights)?;
            for (j, change) in change.iter_mut().enumerate() {
                let (moment, rows) = (f64::from(all[2 * j]), f64::from(all[2 * j + 1]));
                let share = f64::from(own[2 * j + 1]) / rows.max(1.0);
                let gradient = f64::from(*change) / count + self.lambda * share * f64::from(weights[j]);
                *change = (-gradient / (moment / count + self.lambda)) as f32;
            }
            worker.add_mapped(self.weights, &map, &change)?;
            // Under BSP the next read sees the pushes of all workers, and none of the step after.
            worker.clock()?;
        }
        worker.get_mapped(self.weights, &map, &mut weights)?;
        let (_, (squares, rows)) = self.gradient(worker, &weights)?;
        worker.report("squared_residuals", Metric::Sum(squares));
        worker.report("rows", Metric::Count(rows));
        Ok(())
    }

    /// Sum of (w.x - y) x over this worker's rows, and of (w.x - y)^2, and the number of rows.
    fn gradient(&self, worker: &mut Worker<'_>, weights: &[f32]) -> Result<(Vec<f32>, (f64, u64))> {
        let mut gradient = vec![0.0; weights.len()];
        let (mut squares, mut rows) = (0.0, 0);
        let mut pass = worker.pass(self.rows);
        while let Some((_, block)) = pass.next(worker)? {
            for i in 0..block.rows() {
                let score: f32 = row(&block, i).map(|(k, x)| x * weights[k]).sum();
                let residual = score - block.row(i).label;
                squares += f64::from(residual).powi(2);
                row(&block, i).for_each(|(k, x)| gradient[k] += residual * x);
            }
            rows += block.rows() as u64;
        }
        Ok((gradient, (squares, rows)))
    }
}

fn main() -> std::process::ExitCode {
    flexps_jobs::cli::main(Registry::new().with::<Ridge>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::host::Host;

    /// A job is tested on the one-thread host, or on one that plays several workers, without a cluster.
    #[test]
    fn it_solves_the_normal_equations() {
        // Rows (1, 2), (1, 0), (0, 1) with targets 1, -1, 1.
        let block = |y: f32, indices: &[u32], values: &[f32]| Block {
            labels: [y].into(),
            offsets: [0, indices.len() as u32].into(),
            indices: indices.into(),
            values: Some(values.into()),
        };
        let rows = vec![block(1.0, &[0, 1], &[1.0, 2.0]), block(-1.0, &[0], &[1.0]), block(1.0, &[1], &[1.0])];
        let input = vec!["rows".parse().unwrap()];
        let job = Ridge { input, model: None, lambda: 0.5, epochs: 100, steps: 10, tolerance: 1e-9 };
        // (X'X + 1.5 I) w = X'y: 3.5 a + 2 b = 0, 2 a + 6.5 b = 3.
        let b = 3.0 / (6.5 - 4.0 / 3.5);
        let solution = [-2.0 * b / 3.5, b];
        for host in [Host::new(), Host::cluster(1, 2), Host::cluster(3, 1)] {
            let mut plan = Plan::default();
            job.plan(&mut plan).unwrap();
            let outcome = host.rows(rows.clone()).run(&plan).unwrap();
            for (reached, solution) in outcome.table("weights", 0..2).iter().zip(solution) {
                assert!((reached - solution).abs() < 1e-5, "{reached} is not {solution}");
            }
        }
    }
}
