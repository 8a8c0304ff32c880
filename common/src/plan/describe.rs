//! A plan as text, for people and for its hash.
//!
//! Invariant: the text holds every name, number and order that nodes must agree on.

use super::{Compression, LoadSpec, Plan, StageSpec, Step, Storage, TableOp, Threads};
use crate::ids::TableId;

impl Plan {
    /// The plan as text: tables, inputs, columns, then the steps, indented by repeat.
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let mut out = String::new();
        for t in &self.tables {
            let _ = writeln!(
                out,
                "table {}: {} x {}, {}, {}{}",
                t.name,
                t.element,
                t.width,
                if t.storage == Storage::Dense { "dense" } else { "sparse" },
                t.update,
                if t.update_params.is_empty() { String::new() } else { format!(" {:?}", t.update_params) }
            );
        }
        for i in &self.inputs {
            let paths: Vec<_> = i.paths.iter().map(|p| p.0.as_str()).collect();
            let _ = writeln!(out, "input {}: {}", i.name, paths.join(" "));
        }
        for c in &self.columns {
            let _ = writeln!(out, "column {} of {}, in checkpoints", c.name, self.input_name(c.input));
        }
        for (name, value) in &self.scalars {
            let _ = writeln!(out, "scalar {name} = {value}");
        }
        if self.compression != Compression::None {
            let _ = writeln!(out, "compress {}", self.compression);
        }
        self.describe_steps(&self.body.0, 0, &mut out);
        if let Some(save) = &self.save {
            let names: Vec<_> = save.tensors.iter().map(|t| t.name.as_str()).collect();
            let _ = writeln!(out, "save {} to {}", names.join(", "), save.path);
        }
        out
    }

    fn describe_stage(&self, s: &StageSpec) -> String {
        let table = |id: &TableId| self.table_name(*id);
        let pass = if s.consumes { "consumes rows" } else { "rows" };
        let input = s.input.map_or(String::new(), |i| format!(", {pass} of {}", self.input_name(i)));
        let draws = s
            .draws
            .map_or(String::new(), |(i, share)| format!(", draws {share} of the rows of {}", self.input_name(i)));
        let reads: String = s.reads.iter().map(|id| format!(", reads {}", table(id))).collect();
        let updates: String = s.updates.iter().map(|id| format!(", updates {}", table(id))).collect();
        let may_round: String = s.may_round.iter().map(|id| format!(", may round {}", table(id))).collect();
        let on = s.on.as_ref().map_or(String::new(), |slave| format!(" on {slave}"));
        let memory = if s.memory > 0 { format!(", {} bytes of memory", s.memory) } else { String::new() };
        let filter = s.filter.map_or(String::new(), |filter| format!(", filter {filter}"));
        let (name, threads, model) = (&s.name, threads(s.threads), s.consistency);
        format!("stage {name}: {threads}{on}{memory}, {model}{filter}{input}{draws}{reads}{updates}{may_round}")
    }

    fn describe_steps(&self, steps: &[Step], depth: usize, out: &mut String) {
        use std::fmt::Write;
        let name = |id: &TableId| self.table_name(*id);
        for step in steps {
            let _ = write!(out, "{:1$}", "", 2 * depth);
            let _ = match step {
                Step::Stage(stage) => writeln!(out, "{}", self.describe_stage(stage)),
                Step::Together(stages) => {
                    let _ = writeln!(out, "together");
                    for stage in stages {
                        let after = match &stage.after[..] {
                            [] => "at once".to_owned(),
                            names => format!("after {}", names.join(", ")),
                        };
                        let _ = writeln!(out, "{:2$}{}, {after}", "", self.describe_stage(stage), 2 * depth + 2);
                    }
                    Ok(())
                }
                Step::Op(TableOp::Copy { from, to }) => writeln!(out, "copy {} to {}", name(from), name(to)),
                Step::Op(TableOp::Zero { table }) => writeln!(out, "zero {}", name(table)),
                Step::Op(TableOp::Scale { table, by }) => writeln!(out, "scale {} by {by}", name(table)),
                Step::Op(TableOp::Norm2 { table, into }) => writeln!(out, "norm2 of {} into {into}", name(table)),
                Step::Load(LoadSpec { table, model, tensor, .. }) => {
                    writeln!(out, "load {} from {tensor} of {model}", name(table))
                }
                Step::Decide(_) => writeln!(out, "decide"),
                Step::Repeat { times, body, resumable } => {
                    let resumable = if *resumable { ", resumable" } else { "" };
                    let _ = writeln!(out, "repeat at most {times} times{resumable}");
                    self.describe_steps(body, depth + 1, out);
                    Ok(())
                }
                Step::Rebuilt(body) => {
                    let _ = writeln!(out, "rebuilt where the job resumes");
                    self.describe_steps(body, depth + 1, out);
                    Ok(())
                }
                Step::When { scalar, value, body } => {
                    let _ = writeln!(out, "when {scalar} is {value}");
                    self.describe_steps(body, depth + 1, out);
                    Ok(())
                }
            };
        }
    }
}

fn threads(threads: Threads) -> String {
    let count = |n: u32| format!("{n} thread{}", if n == 1 { "" } else { "s" });
    match threads {
        Threads::Count(n) => count(n),
        Threads::All => "a thread on each slot".to_owned(),
        Threads::Cores => "a thread on each slot, no more than cores".to_owned(),
        Threads::PerSlave(n) => format!("{} on each slave", count(n)),
        Threads::OneSlave(n) => format!("{} on one slave", count(n)),
        Threads::Range(least, most) => format!("{least} to {}", count(most)),
        Threads::Visit(n) => format!("{} on one slave after the other", count(n)),
        Threads::Auto => "auto threads".to_owned(),
        Threads::Offline => "offline threads".to_owned(),
    }
}
