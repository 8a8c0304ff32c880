//! Parameters of a submission that are none of its job: where they belong.
//!
//! Invariant: what the job has is left to it.

use flexps_common::experiment;
use flexps_common::job::{Kind, Registry};
use flexps_common::{Error, Result};

/// What a submission says below `scheduling`.
pub const SCHEDULING: [&str; 9] =
    ["priority", "user", "queue", "after", "deadline", "memory", "restarts", "slaves", "checkpoint"];

/// An error that says of the first of the parameters that belongs elsewhere where that is. What belongs nowhere is the job's to
/// refuse.
pub fn check<'a>(kind: &Kind, registry: &Registry, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let foreign = |name: &'a String| {
        let flag = name.replace('_', "-");
        if kind.has(&flag) { None } else { Some((name, place(&flag, registry)?)) }
    };
    match names.into_iter().find_map(foreign) {
        Some((name, place)) => {
            Err(Error::user(format!("{}: \"{name}\" is no parameter of the job; {place}", kind.name)))
        }
        None => Ok(()),
    }
}

/// Where what the job does not have belongs, if that is known.
fn place(flag: &str, registry: &Registry) -> Option<String> {
    let there = "into \"scheduling\", beside \"params\"";
    let owners: Vec<&str> = registry.kinds().filter(|kind| kind.has(flag)).map(|kind| kind.name).collect();
    match flag {
        "reproducible" => Some("it stands beside \"params\"".to_owned()),
        "stage-memory" => Some(format!("as \"memory\" it belongs {there}")),
        "checkpoint-every" => Some(format!("as \"every\" of \"checkpoint\" it belongs {there}")),
        _ if SCHEDULING.contains(&flag) => Some(format!("it belongs {there}")),
        _ if experiment::FLAGS.contains(&flag) => {
            Some(format!("it is an experiment, which is not taken here: give --{flag} to `flexps run`"))
        }
        _ => (!owners.is_empty()).then(|| format!("it is one of {}", owners.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Args;
    use flexps_common::job::Job;
    use flexps_common::plan::Plan;
    use serde::{Deserialize, Serialize};

    macro_rules! job {
        ($type:ident, $name:literal, $flag:ident) => {
            #[derive(Args, Serialize, Deserialize)]
            struct $type {
                #[arg(long)]
                $flag: Option<u32>,
            }

            impl Job for $type {
                const NAME: &'static str = $name;
                const ABOUT: &'static str = "";

                fn plan(&self, _: &mut Plan) -> Result<()> {
                    Ok(())
                }
            }
        };
    }

    job!(One, "one", max_rows);
    job!(Other, "other", transfer);

    #[test]
    fn what_stands_elsewhere_is_said_to_and_what_the_job_has_is_its_own() {
        let registry = Registry::new().with::<One>().with::<Other>();
        let said = |job: &str, name: &str| {
            let checked = check(registry.kind(job).unwrap(), &registry, [&"none".to_owned(), &name.to_owned()]);
            checked.err().map(|e| e.message).unwrap_or_default()
        };
        for (name, says) in [
            ("reproducible", "one: \"reproducible\" is no parameter of the job; it stands beside \"params\""),
            ("stage-memory", "as \"memory\" it belongs into \"scheduling\""),
            (
                "stage_memory",
                "\"stage_memory\" is no parameter of the job; as \"memory\" it belongs into \"scheduling\"",
            ),
            ("checkpoint-every", "as \"every\" of \"checkpoint\" it belongs into \"scheduling\""),
            ("priority", "it belongs into \"scheduling\", beside \"params\""),
            ("transfer", "it is an experiment, which is not taken here: give --transfer to `flexps run`"),
            ("fixed_threads", "give --fixed-threads to `flexps run`"),
        ] {
            assert!(said("one", name).contains(says), "{name}: {}", said("one", name));
        }
        let of = said("other", "max-rows");
        assert_eq!(of, "other: \"max-rows\" is no parameter of the job; it is one of one");
        assert_eq!(["max-rows", "max_rows"].map(|name| said("one", name)), ["", ""]);
        assert_eq!(["transfer", "none"].map(|name| said("other", name)), ["", ""]);
    }
}
