//! `/metrics`: the master's numbers in the text format of Prometheus, version 0.0.4.
//!
//! Invariant: each name has one HELP and one TYPE line, followed by all of its samples; names of users are escaped.

use crate::master::overview::Overview;
use flexps_common::report::State;
use flexps_common::wire::slaves::SlaveLine;
use std::fmt::Write;

/// The content type.
pub const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Samples: labels and value.
type Samples = Vec<(String, f64)>;

/// All numbers.
pub fn text(overview: &Overview) -> String {
    let Overview { slaves, jobs, queue, counts, .. } = overview;
    let alone = |value: f64| vec![(String::new(), value)];
    let by_slave = |value: fn(&SlaveLine) -> f64| -> Samples {
        slaves.iter().map(|s| (format!("{{slave=\"{}\"}}", escaped(&s.name)), value(s))).collect()
    };
    let live = |state: State| jobs.iter().filter(|job| job.state == state).count() as f64;
    let labelled = |label: &str, pairs: &[(&str, f64)]| -> Samples {
        pairs.iter().map(|(name, value)| (format!("{{{label}=\"{name}\"}}"), *value)).collect()
    };
    let longest = queue.iter().map(|w| w.waited).fold(0.0, f64::max);
    let ended = [("done", counts.done), ("failed", counts.failed), ("cancelled", counts.cancelled)];
    let ended = ended.map(|(name, n)| (name, n as f64));
    let mut out = String::new();
    for (name, kind, help, samples) in [
        ("uptime_seconds", "gauge", "Seconds since the master's begin.", alone(overview.up)),
        ("policy", "gauge", "1 for the policy that decides.", labelled("policy", &[(&overview.policy, 1.0)])),
        ("slaves", "gauge", "Live slaves.", alone(slaves.len() as f64)),
        ("slave_slots", "gauge", "Slots that a slave lends.", by_slave(|s| f64::from(s.slots))),
        ("slave_busy_slots", "gauge", "Slots in which stages run.", by_slave(|s| f64::from(s.busy))),
        (
            "slave_memory_bytes",
            "gauge",
            "Memory that stages may ask a slave for; +Inf where it has no limit.",
            by_slave(|s| s.memory.map_or(f64::INFINITY, |bytes| bytes as f64)),
        ),
        (
            "slave_memory_asked_bytes",
            "gauge",
            "Memory that stages which run on a slave asked for.",
            by_slave(|s| s.memory_asked as f64),
        ),
        ("slave_silent_seconds", "gauge", "Seconds since a slave was last heard.", by_slave(|s| s.silent)),
        (
            "slaves_lost_total",
            "counter",
            "Slaves that went without leaving in order.",
            alone(counts.slaves_lost as f64),
        ),
        (
            "jobs",
            "gauge",
            "Jobs that have not ended.",
            labelled("state", &[("queued", live(State::Queued)), ("running", live(State::Running))]),
        ),
        ("jobs_submitted_total", "counter", "Jobs submitted.", alone(counts.submitted as f64)),
        ("jobs_ended_total", "counter", "Jobs that ended, by how.", labelled("state", &ended)),
        ("queue_length", "gauge", "Jobs and stages that wait.", alone(queue.len() as f64)),
        ("queue_longest_wait_seconds", "gauge", "How long the one that waits longest has waited.", alone(longest)),
        ("stage_runs_total", "counter", "Stage runs that ended.", alone(counts.stage_runs as f64)),
        ("stage_slot_seconds_total", "counter", "Slots times seconds in which stages ran.", alone(counts.slot_seconds)),
        ("decisions_total", "counter", "Decisions of the policy.", alone(counts.decisions as f64)),
        ("decision_seconds_total", "counter", "Seconds that they took.", alone(counts.decision_seconds)),
        ("read_bytes_total", "counter", "Input that ended jobs read.", alone(counts.read_bytes as f64)),
        ("read_local_bytes_total", "counter", "Of which on the reader's own host.", alone(counts.local_bytes as f64)),
        (
            "sent_bytes_total",
            "counter",
            "Bytes that workers of ended jobs sent to other slaves.",
            alone(counts.sent_bytes as f64),
        ),
    ] {
        // Writing into a text can't fail.
        let _ = write!(out, "# HELP flexps_{name} {help}\n# TYPE flexps_{name} {kind}\n");
        for (labels, value) in samples {
            let _ = match value {
                f64::INFINITY => writeln!(out, "flexps_{name}{labels} +Inf"),
                value => writeln!(out, "flexps_{name}{labels} {value}"),
            };
        }
    }
    out
}

/// A label's value: backslash, quote and line break have escapes.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
