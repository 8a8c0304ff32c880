//! An update function of your own: what the servers do when workers add to a table.
//!
//! ```text
//! cargo run --release --example own_update -- run extremes --input rows.libsvm --model extremes
//! ```
//!
//! `add` sums what workers push. Here a key keeps whatever is furthest from a centre instead, so that one pass finds each
//! feature's most extreme value, sign included, with no worker ever reading the table. Beside a job (see
//! `custom_job.rs`) it takes two things:
//!
//! 1. **A function** (`impl Update for Furthest`): what becomes of one key's values, for elements of any type. Where the
//!    order of updates is not fixed its result should not depend on it.
//! 2. **A name** (`Registry::update`): tables ask for it by `TableSpec::update`, and their `update_params` are what it is
//!    made from. A plan that names one that is not registered is refused before anything runs.
//!
//! Invariant: what a key keeps depends on which values were pushed, not on their order.

use clap::Args;
use flexps_common::data::InputSpec;
use flexps_common::data::schema::DataPath;
use flexps_common::job::{Job, Registry};
use flexps_common::plan::{Plan, SaveSpec, SaveTensor, Storage, TableSpec};
use flexps_common::updates::Update;
use flexps_common::value::{Element, Type};
use flexps_common::worker::Worker;
use flexps_common::{Error, Result};
use serde::{Deserialize, Serialize};

/// Of the current value and an update, keeps what is further from the centre; of two as far, the greater. A value of 0
/// counts as none: that is what a key holds that nobody has updated.
#[derive(Debug, Clone, Copy)]
struct Furthest {
    centre: f64,
}

impl Furthest {
    fn new(params: &[f64]) -> Result<Self> {
        match *params {
            [centre] if centre.is_finite() => Ok(Self { centre }),
            _ => Err(Error::user(format!("furthest takes one parameter, the centre, not {params:?}"))),
        }
    }
}

impl Update for Furthest {
    fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
        let rank = |x: T| {
            let x = x.to_f64();
            (x != 0.0, (x - self.centre).abs(), x)
        };
        for (current, update) in current.iter_mut().zip(update) {
            if rank(*update) > rank(*current) {
                *current = *update;
            }
        }
    }

    fn fits(&self, element: Type, _width: u32) -> Result<()> {
        match element {
            Type::U32 => Err(Error::user("furthest needs elements with a sign")),
            _ => Ok(()),
        }
    }
}

/// Parameters.
#[derive(Debug, Clone, Serialize, Deserialize, Args)]
struct Extremes {
    /// Rows in libsvm format: files, directories, globs, local or hdfs://
    #[arg(long, required = true, value_name = "PATH", num_args = 1..)]
    input: Vec<DataPath>,

    /// Folder to save the values in [default: not saved]
    #[arg(long, value_name = "DIR")]
    model: Option<DataPath>,

    /// What values are far from
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    centre: f64,

    /// What a feature keeps of its values: the `furthest` from --centre, or what another update function makes of them,
    /// e.g. `max` or `add`
    #[arg(long, default_value = "furthest", value_name = "FUNCTION")]
    keep: String,
}

impl Job for Extremes {
    const NAME: &'static str = "extremes";
    const ABOUT: &'static str = "Each feature's most extreme value";

    fn plan(&self, plan: &mut Plan) -> Result<()> {
        let rows = plan.input(InputSpec::new("input", self.input.clone()))?;
        let table = plan.table_with::<f32>(TableSpec {
            name: "extremes".into(),
            element: Type::F32,
            width: 1,
            storage: Storage::Dense,
            update: self.keep.clone(),
            update_params: if self.keep == "furthest" { vec![self.centre] } else { Vec::new() },
        });
        let push = move |worker: &mut Worker<'_>| {
            let map = worker.key_map(rows)?;
            let mut pass = worker.pass(rows);
            while let Some((_, block)) = pass.next(worker)? {
                // A row at a time for brevity; keys rise within a row.
                for row in (0..block.rows()).map(|i| block.row(i)) {
                    let keys: Vec<_> = row.indices.iter().map(|k| map.key(*k)).collect();
                    match row.values {
                        Some(values) => worker.add(table, &keys, values)?,
                        None => worker.add(table, &keys, &vec![1.0; keys.len()])?,
                    }
                }
            }
            Ok(())
        };
        plan.body.stage("push", push).input(rows);
        if let Some(path) = self.model.clone() {
            let tensor = SaveTensor { name: "weights".to_owned(), table: table.id, keys: None, by_class: false };
            plan.save(SaveSpec { path, overwrite: false, tensors: vec![tensor], input: rows.id });
        }
        Ok(())
    }
}

fn main() -> std::process::ExitCode {
    flexps_jobs::cli::main(Registry::new().with::<Extremes>().update("furthest", Furthest::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_key_keeps_does_not_depend_on_the_order_of_updates() {
        let furthest = Furthest::new(&[1.0]).unwrap();
        for order in [[3.0, -1.0, 2.0], [-1.0, 2.0, 3.0], [2.0, 3.0, -1.0]] {
            let mut current = [0.0f32];
            order.iter().for_each(|x| furthest.apply(&mut current, &[*x]));
            assert_eq!(current, [3.0], "of 3 and -1, as far from 1, the greater");
        }
    }
}
