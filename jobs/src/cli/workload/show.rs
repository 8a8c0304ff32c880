//! A comparison as a table and as JSON.

use crate::cli::table::{count, lines, seconds, table};
use crate::cli::terminal::out;
use flexps_common::{Error, Result};
use flexps_master::simulate::{Measures, Trace};
use serde_json::json;
use std::time::Duration;

/// What one policy made of the workload.
pub struct Outcome {
    /// Its name.
    pub policy: String,
    /// In numbers.
    pub measures: Measures,
    /// What happened.
    pub trace: Trace,
}

/// The same workload under several policies.
pub struct Comparison {
    /// The workload's name.
    pub workload: String,
    /// Where the traces come from, e.g. `simulated, seed 1`.
    pub how: String,
    /// Least makespan that any policy can reach.
    pub bound: Duration,
    /// By policy.
    pub outcomes: Vec<Outcome>,
}

impl Comparison {
    /// `six-tasks: 6 jobs on 5 slaves of 60 slots (simulated, seed 1)`.
    pub fn title(&self) -> String {
        let Some(first) = self.outcomes.first() else { return self.workload.clone() };
        let slots: u32 = first.trace.slaves.iter().map(|s| s.slots).sum();
        format!(
            "{}: {} on {} with {} in all ({})",
            self.workload,
            count(first.trace.jobs.len() as u64, "job"),
            count(first.trace.slaves.len() as u64, "slave"),
            count(u64::from(slots), "slot"),
            self.how
        )
    }
}

/// Prints it.
pub fn print(comparison: &Comparison, as_json: bool) -> Result<()> {
    if as_json {
        let text = serde_json::to_string(&object(comparison)).map_err(|e| Error::bug(format!("as JSON: {e}")))?;
        return out(&(text + "\n"));
    }
    out(&text(comparison))
}

/// The table.
fn text(comparison: &Comparison) -> String {
    let head =
        ["policy", "makespan", "/bound", "mean job", "p95 job", "slowdown", "used", "fairness", "worst wait", "of"];
    let mut shown = table(head, 1..9);
    for Outcome { policy, measures: m, .. } in &comparison.outcomes {
        shown.add_row([
            policy.clone(),
            seconds(m.makespan),
            format!("{:.3}", m.over_bound),
            seconds(m.mean_job),
            seconds(m.p95_job),
            format!("{:.2}", m.slowdown),
            format!("{:.0} %", 100.0 * m.utilisation),
            format!("{:.3}", m.fairness),
            seconds(m.worst_wait),
            m.worst_waiter.clone(),
        ]);
    }
    let bound = seconds(comparison.bound.as_secs_f64());
    let mut text = format!("{}\nno policy can take less than {bound}\n\n{}", comparison.title(), lines(&shown));
    for Outcome { policy, measures: m, .. } in &comparison.outcomes {
        if m.late > 0 {
            text.push_str(&format!("{policy}: {} late\n", count(m.late as u64, "job")));
        }
        if m.breakdowns > 0 {
            let (times, lost) = (count(m.breakdowns as u64, "time"), seconds(m.lost));
            text.push_str(&format!("{policy}: a slave broke down {times}, {lost} of slots were lost\n"));
        }
        if m.failed > 0 {
            text.push_str(&format!("{policy}: {} failed or cancelled\n", count(m.failed as u64, "job")));
        }
    }
    text
}

fn object(comparison: &Comparison) -> serde_json::Value {
    let policies: Vec<_> = comparison
        .outcomes
        .iter()
        .map(|o| {
            let jobs: Vec<_> = o
                .trace
                .jobs
                .iter()
                .map(|j| {
                    json!({
                        "name": j.name,
                        "owner": j.owner,
                        "priority": j.priority,
                        "arrival": j.arrival.as_secs_f64(),
                        "end": j.end.map(|e| e.as_secs_f64()),
                        "failed": j.failed,
                    })
                })
                .collect();
            json!({"policy": o.policy, "measures": o.measures, "stage_runs": o.trace.runs.len(), "jobs": jobs})
        })
        .collect();
    let slaves = comparison.outcomes.first().map(|o| o.trace.slaves.clone()).unwrap_or_default();
    json!({
        "workload": comparison.workload,
        "how": comparison.how,
        "slaves": slaves,
        "bound": comparison.bound.as_secs_f64(),
        "policies": policies,
    })
}
