//! Whether a plan is whole: its names can be told apart, its numbers are possible, and it speaks of nothing that it lacks.
//!
//! Invariant: behind this check each table and input of a step is one of the plan, so that nobody need look again.

use super::{LoadSpec, Plan, StageSpec, Step, TableOp, TableSpec, Threads};
use crate::error::{Error, Result};
use crate::ids::{InputId, TableId};
use crate::updates::Updates;
use crate::value::Type;

/// Most elements per key of a table: one key's values still fit a message.
pub const WIDEST: u32 = 1 << 20;

/// Most characters of a name.
const LONGEST: usize = 200;

/// Tables and inputs that ids can tell apart.
const MOST: usize = 1 << 16;

impl Plan {
    /// What a table is called; its id if the plan has none such.
    pub(super) fn table_name(&self, id: TableId) -> String {
        self.tables.get(usize::from(id.0)).map_or_else(|| id.to_string(), |table| table.name.clone())
    }

    /// What an input is called; its id if the plan has none such.
    pub(super) fn input_name(&self, id: InputId) -> String {
        self.inputs.get(usize::from(id.0)).map_or_else(|| id.to_string(), |input| input.name.clone())
    }

    /// Refuses an operation on tables that the plan lacks, or that don't go together.
    pub(crate) fn check_op(&self, op: &TableOp) -> Result<()> {
        match op {
            TableOp::Zero { table } => self.has_table(*table, "zero of").map(drop),
            TableOp::Scale { table, .. } => self.has_table(*table, "scale of").map(drop),
            TableOp::Norm2 { table, into } => {
                self.has_table(*table, "norm2 of")?;
                named("scalar", into)
            }
            TableOp::Copy { from, to } => alike(self.has_table(*from, "copy from")?, self.has_table(*to, "copy to")?),
        }
    }

    fn has_table(&self, id: TableId, who: &str) -> Result<&TableSpec> {
        let found = self.tables.get(usize::from(id.0));
        found.ok_or_else(|| lacks(who, format!("table {id}"), "table", self.tables.len()))
    }

    fn has_input(&self, id: InputId, who: &str) -> Result<()> {
        let found = self.inputs.get(usize::from(id.0)).map(drop);
        found.ok_or_else(|| lacks(who, format!("input {id}"), "input", self.inputs.len()))
    }
}

fn lacks(who: &str, what: String, kind: &str, count: usize) -> Error {
    let plural = if count == 1 { "" } else { "s" };
    Error::user(format!(
        "{who} {what}, but the plan has {count} {kind}{plural}, counted from 0: the handle is another plan's; take the \
         one that this plan gave for its {kind}"
    ))
}

/// Refuses a plan that breaks the rules of this module.
pub(super) fn check(plan: &Plan) -> Result<()> {
    tables(plan)?;
    inputs(plan)?;
    columns(plan)?;
    plan.scalars.keys().try_for_each(|name| named("scalar", name))?;
    plan.stages().into_iter().try_for_each(|spec| stage(plan, spec))?;
    steps(plan, &plan.body.0)?;
    rebuilt(plan)?;
    saved(plan)
}

/// Refuses tables that are rebuilt where a job goes on from a checkpoint, and changed elsewhere, as far as that is declared: what
/// is done there would be lost.
fn rebuilt(plan: &Plan) -> Result<()> {
    let (mut made, mut changed) = (Vec::new(), Vec::new());
    changes(&plan.body.0, false, &mut |id, inside| if inside { made.push(id) } else { changed.push(id) });
    match made.iter().find(|id| changed.contains(id)) {
        Some(id) => Err(Error::user(format!(
            "table {} is updated by what is to be rebuilt and changed elsewhere too, which would be lost where a job goes on; copy \
             it to another table, and change that",
            plan.table_name(*id)
        ))),
        None => Ok(()),
    }
}

/// Calls `each` with what steps change, as far as they say so, and whether it is rebuilt by stages.
fn changes(all: &[Step], inside: bool, each: &mut impl FnMut(TableId, bool)) {
    for step in all {
        match step {
            Step::Stage(stage) => stage.updates.iter().for_each(|id| each(*id, inside)),
            Step::Together(stages) => stages.iter().flat_map(|s| &s.updates).for_each(|id| each(*id, inside)),
            Step::Op(TableOp::Zero { table } | TableOp::Scale { table, .. }) if !inside => each(*table, inside),
            Step::Op(TableOp::Copy { to, .. }) if !inside => each(*to, inside),
            Step::Load(load) => each(load.table, inside),
            Step::Repeat { body, .. } | Step::When { body, .. } => changes(body, inside, each),
            Step::Rebuilt(body) => changes(body, true, each),
            Step::Op(_) | Step::Decide(_) => {}
        }
    }
}

fn columns(plan: &Plan) -> Result<()> {
    plan.columns.iter().enumerate().try_for_each(|(at, column)| {
        named("column", &column.name)?;
        plan.has_input(column.input, &format!("column {} is kept of rows of", column.name))?;
        if plan.columns[..at].contains(column) {
            let (name, input) = (&column.name, plan.input_name(column.input));
            return Err(Error::user(format!("column {name} of {input} is kept twice; name it once")));
        }
        if plan.stages().iter().any(|stage| stage.consumes && stage.input == Some(column.input)) {
            let (name, input) = (&column.name, plan.input_name(column.input));
            return Err(Error::user(format!("column {name} is kept of rows of {input}, which a stage consumes")));
        }
        Ok(())
    })
}

/// Refuses a name that reports and errors can't tell.
fn named(what: &str, name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::user(format!("a {what} of the plan has an empty name; give it one")));
    }
    let characters = name.chars().count();
    if characters > LONGEST {
        let begin: String = name.chars().take(40).collect();
        return Err(Error::user(format!(
            "the name of {what} {begin:?}... has {characters} characters; at most {LONGEST} are allowed"
        )));
    }
    if name.chars().any(char::is_control) {
        return Err(Error::user(format!("the name of {what} {name:?} holds a control character; leave it out")));
    }
    Ok(())
}

/// Refuses more than ids can tell apart, and two of one name.
fn apart(what: &str, names: Vec<&str>) -> Result<()> {
    if names.len() > MOST {
        return Err(Error::user(format!("the plan has {} {what}s; at most {MOST} are allowed", names.len())));
    }
    names.iter().try_for_each(|name| named(what, name))?;
    let mut sorted = names;
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            Err(Error::user(format!("two {what}s of the plan are called {}; each needs its own name", pair[0])))
        }
        None => Ok(()),
    }
}

fn tables(plan: &Plan) -> Result<()> {
    apart("table", plan.tables.iter().map(|table| table.name.as_str()).collect())?;
    match plan.tables.iter().find(|table| !(1..=WIDEST).contains(&table.width)) {
        Some(TableSpec { name, width, .. }) => {
            Err(Error::user(format!("table {name} has {width} elements per key; give it 1 to {WIDEST}")))
        }
        None => Ok(()),
    }
}

fn inputs(plan: &Plan) -> Result<()> {
    apart("input", plan.inputs.iter().map(|input| input.name.as_str()).collect())?;
    plan.inputs.iter().try_for_each(|input| match input.like {
        Some(like) => plan.has_input(like, &format!("input {} is to be like", input.name)),
        None => Ok(()),
    })
}

fn stage(plan: &Plan, stage: &StageSpec) -> Result<()> {
    let name = &stage.name;
    named("stage", name)?;
    for (ids, does) in [(&stage.reads, "reads"), (&stage.updates, "updates"), (&stage.may_round, "may round")] {
        ids.iter().try_for_each(|id| plan.has_table(*id, &format!("stage {name} {does}")).map(drop))?;
    }
    if let Some(input) = stage.input {
        plan.has_input(input, &format!("stage {name} passes over the rows of"))?;
    }
    if let Some((input, share)) = stage.draws {
        plan.has_input(input, &format!("stage {name} draws from"))?;
        if !(share > 0.0 && share <= 1.0) {
            let rows = plan.input_name(input);
            return Err(Error::user(format!(
                "stage {name} draws {share} of the rows of {rows}; give a share above 0, at most 1"
            )));
        }
    }
    workers(stage)?;
    filtered(plan, stage)
}

fn workers(stage: &StageSpec) -> Result<()> {
    let name = &stage.name;
    match stage.threads {
        Threads::Count(0) | Threads::PerSlave(0) | Threads::OneSlave(0) | Threads::Visit(0) | Threads::Range(0, _) => {
            return Err(Error::user(format!("stage {name} asks for 0 threads; give at least 1")));
        }
        Threads::Range(least, most) if least > most => {
            return Err(Error::user(format!(
                "stage {name} asks for at least {least} and at most {most} threads; give the smaller number first"
            )));
        }
        _ => {}
    }
    match stage.on.as_deref() {
        Some("") => Err(Error::user(format!(
            "stage {name} is to run on a slave with an empty name; give a slave's name, or leave it out"
        ))),
        Some(slave) if stage.input.is_some() => Err(Error::user(format!(
            "stage {name} is to run on {slave} alone, but passes over rows, which lie on all slaves of its job"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a filter that is none, or that nothing can pass.
fn filtered(plan: &Plan, stage: &StageSpec) -> Result<()> {
    let (name, Some(filter)) = (&stage.name, stage.filter) else { return Ok(()) };
    filter.check().map_err(|e| Error::user(e).context(format_args!("stage {name}")))?;
    let all: Vec<TableId> = (0..=u16::MAX).map(TableId).take(plan.tables.len()).collect();
    // A stage that stands alone need not say what it updates.
    let updates = if stage.together || !stage.updates.is_empty() { &stage.updates } else { &all };
    let may = |id: &&TableId| {
        let spec = &plan.tables[usize::from(id.0)];
        !stage.reads.contains(id) && adds_up(spec)
    };
    if updates.iter().any(|id| may(&id)) {
        return Ok(());
    }
    Err(Error::user(format!(
        "stage {name} is to hold back small updates (filter {filter}), but updates no table where that can be: it takes \
         floats whose updates add up; leave the filter out"
    )))
}

/// Whether small updates of a table may be summed. Of a function of a user's own nothing is known here.
fn adds_up(spec: &TableSpec) -> bool {
    let floats = matches!(spec.element, Type::F32 | Type::F64);
    floats && Updates::new().make(spec).map_or(true, |function| function.into_dyn().adds_up(spec.element))
}

fn steps(plan: &Plan, all: &[Step]) -> Result<()> {
    let full = |what: String, body: &[Step]| {
        if holds(body) { Ok(()) } else { Err(Error::user(format!("{what} holds no step; add one, or leave it out"))) }
    };
    all.iter().try_for_each(|step| match step {
        Step::Stage(_) | Step::Decide(_) => Ok(()),
        Step::Together(stages) if stages.is_empty() => {
            Err(Error::user("stages are to stand together, but there are none; add one, or leave the group out"))
        }
        Step::Together(_) => Ok(()),
        Step::Op(op) => plan.check_op(op),
        Step::Load(LoadSpec { table, model, tensor, input }) => {
            let spec = plan.has_table(*table, &format!("tensor {tensor} of {model} is to be loaded into"))?;
            plan.has_input(*input, &format!("tensor {tensor} of {model} is to suit rows of"))?;
            loadable(spec)
        }
        Step::Repeat { times, body, .. } => {
            full(format!("a repeat of at most {times} times"), body)?;
            none_rebuilt(body)?;
            steps(plan, body)
        }
        Step::When { scalar, value, body } => {
            named("scalar", scalar)?;
            full(format!("what is done when {scalar} is {value}"), body)?;
            none_rebuilt(body)?;
            steps(plan, body)
        }
        Step::Rebuilt(body) => {
            full("what is to be rebuilt".to_owned(), body)?;
            if body.iter().any(|step| matches!(step, Step::Repeat { .. } | Step::When { .. } | Step::Load(_))) {
                return Err(Error::user(
                    "what is to be rebuilt holds a repeat, a condition or a load; take stages, operations and decisions",
                ));
            }
            none_rebuilt(body)?;
            steps(plan, body)
        }
    })
}

/// A job that goes on is to know what to rebuild without a look at its loops and scalars.
fn none_rebuilt(body: &[Step]) -> Result<()> {
    if body.iter().any(|step| matches!(step, Step::Rebuilt(_))) {
        return Err(Error::user(
            "steps that are to be rebuilt stand in a repeat or under a condition; put them beside these",
        ));
    }
    Ok(())
}

/// Whether there is anything to do at all.
fn holds(body: &[Step]) -> bool {
    body.iter().any(|step| match step {
        Step::Repeat { body, .. } | Step::When { body, .. } | Step::Rebuilt(body) => holds(body),
        _ => true,
    })
}

fn alike(from: &TableSpec, to: &TableSpec) -> Result<()> {
    if (from.element, from.width) == (to.element, to.width) {
        return Ok(());
    }
    Err(Error::user(format!(
        "table {} ({} x {}) can't be copied to {} ({} x {}): both must be alike",
        from.name, from.element, from.width, to.name, to.element, to.width
    )))
}

/// A table is filled by adds, which must leave what is added.
fn loadable(spec: &TableSpec) -> Result<()> {
    if matches!(spec.update.as_str(), "add" | "assign") {
        return Ok(());
    }
    Err(Error::user(format!(
        "table {} can't be loaded, since its update function is {}; load into one with `add`, then copy",
        spec.name, spec.update
    )))
}

fn saved(plan: &Plan) -> Result<()> {
    let Some(save) = &plan.save else { return Ok(()) };
    if plan.inputs.is_empty() {
        return Err(Error::user(
            "the plan saves a model but has no input; give it one, whose labels and features the model is for",
        ));
    }
    plan.has_input(save.input, "the model is saved for rows of")?;
    apart("tensor", save.tensors.iter().map(|tensor| tensor.name.as_str()).collect())?;
    save.tensors.iter().try_for_each(|tensor| {
        let who = format!("tensor {} of the model is saved from", tensor.name);
        plan.has_table(tensor.table, &who).map(drop)
    })
}

#[cfg(test)]
mod tests;
