//! Rows that a stage consumes.
//!
//! Invariant: one run of one stage sees them, and none after it or beside it.

use super::{StageSpec, Step};
use crate::error::{Error, Result};
use crate::ids::InputId;

/// Refuses steps of which two runs would see rows that one of them consumes.
pub(super) fn check(steps: &[Step], input: impl Fn(InputId) -> String) -> Result<()> {
    let mut stages = Vec::new();
    walk(steps, false, &mut stages);
    for (at, (stage, repeated)) in stages.iter().enumerate() {
        let Some(id) = stage.input.filter(|_| stage.consumes) else { continue };
        let (name, rows) = (&stage.name, input(id));
        if *repeated {
            return Err(Error::user(format!(
                "stage {name} consumes the rows of {rows}, and is repeated: they are gone then"
            )));
        }
        let sees = |other: &StageSpec| other.input == Some(id) || other.draws.is_some_and(|(of, _)| of == id);
        let other = stages.iter().enumerate().find(|(other, (spec, _))| *other != at && sees(spec));
        if let Some((_, (other, _))) = other {
            let other = &other.name;
            return Err(Error::user(format!(
                "stage {name} consumes the rows of {rows}, and stage {other} needs them too"
            )));
        }
        if stage.draws.is_some_and(|(of, _)| of == id) {
            return Err(Error::user(format!("stage {name} consumes the rows of {rows}, and draws from them too")));
        }
    }
    Ok(())
}

/// All stages, each with whether it is repeated.
fn walk<'a>(steps: &'a [Step], repeated: bool, found: &mut Vec<(&'a StageSpec, bool)>) {
    for step in steps {
        match step {
            Step::Stage(stage) => found.push((stage, repeated)),
            Step::Together(stages) => found.extend(stages.iter().map(|stage| (stage, repeated))),
            Step::When { body, .. } | Step::Rebuilt(body) => walk(body, repeated, found),
            Step::Repeat { body, .. } => walk(body, true, found),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::data::InputSpec;
    use crate::data::schema::DataPath;
    use crate::plan::{Input, Plan};

    fn rows(name: &str) -> InputSpec {
        InputSpec::new(name, vec![DataPath("rows".to_owned())])
    }

    fn refused(build: impl FnOnce(&mut Plan, Input)) -> String {
        let mut plan = Plan::default();
        let input = plan.input(rows("input")).unwrap();
        plan.body.stage("first", |_| Ok(())).consumes(input);
        build(&mut plan, input);
        plan.check().map_or_else(|e| e.message, |()| plan.describe())
    }

    #[test]
    fn rows_that_a_stage_consumes_are_for_nobody_else() {
        let text = refused(|plan, input| {
            plan.body.stage("other", |_| Ok(())).input(input);
        });
        assert_eq!(text, "stage first consumes the rows of input, and stage other needs them too");
        let text = refused(|plan, input| {
            plan.body.stage("other", |_| Ok(())).draws(input, 0.5);
        });
        assert_eq!(text, "stage first consumes the rows of input, and stage other needs them too");
        let text = refused(|plan, _| {
            let both = plan.input(rows("both")).unwrap();
            plan.body.stage("both", |_| Ok(())).consumes(both).draws(both, 0.5);
        });
        assert_eq!(text, "stage both consumes the rows of both, and draws from them too");
        let text = refused(|plan, _| {
            let held_out = plan.input(rows("validation")).unwrap();
            plan.body.repeat(2, |steps| {
                steps.stage("again", |_| Ok(())).consumes(held_out);
            });
        });
        assert_eq!(text, "stage again consumes the rows of validation, and is repeated: they are gone then");
        let text = refused(|_, _| {});
        assert!(
            text.contains("stage first: a thread on each slot, no more than cores, bsp, consumes rows of input"),
            "{text}"
        );
    }
}
