//! The lines that tell a person how a running job is doing: one for the reading, one per stage.
//!
//! Invariant: without a terminal nothing is drawn; what is drawn is cleared before anything else is said.

use super::terminal;
use flexps_common::report::{Report, StageReport};
use flexps_common::wire::api::{JobNews, RunningStage};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::Duration;

/// The lines, in order of first appearance.
pub struct Lines {
    all: Option<MultiProgress>,
    lines: Vec<(String, ProgressBar)>,
}

impl Lines {
    /// No line yet.
    pub fn new() -> Self {
        Self { all: terminal::watched().then(MultiProgress::new), lines: Vec::new() }
    }

    /// Whether anybody sees them.
    pub fn shown(&self) -> bool {
        self.all.is_some()
    }

    /// Says one line above the others.
    pub fn say(&self, line: &str) {
        match &self.all {
            Some(all) => all.suspend(|| terminal::say(line)),
            None => terminal::say(line),
        }
    }

    /// Removes all lines.
    pub fn clear(&mut self) {
        if let Some(all) = &self.all {
            // A terminal that is gone needs no clearing.
            let _ = all.clear();
        }
        self.lines.clear();
    }

    /// Shows the news.
    pub fn update(&mut self, news: &JobNews) {
        if self.all.is_none() {
            return;
        }
        match news.waiting.as_ref().filter(|_| news.stage.is_none()) {
            Some(waiting) => self.set("waiting", &format!("waiting: {waiting}")),
            None => self.drop("waiting"),
        }
        if news.report.read.bytes > 0 {
            self.set("read", &reading(&news.report));
        }
        for (name, text) in stages(news) {
            self.set(&name, &text);
        }
    }

    fn drop(&mut self, name: &str) {
        if let Some(at) = self.lines.iter().position(|(known, _)| known == name) {
            self.lines.remove(at).1.finish_and_clear();
        }
    }

    fn set(&mut self, name: &str, text: &str) {
        let Some(all) = &self.all else { return };
        let line = match self.lines.iter().find(|(known, _)| known == name) {
            Some((_, line)) => line,
            None => {
                let line = all.add(ProgressBar::new_spinner());
                if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                    line.set_style(style);
                }
                line.enable_steady_tick(Duration::from_millis(120));
                self.lines.push((name.to_owned(), line));
                match self.lines.last() {
                    Some((_, line)) => line,
                    None => return,
                }
            }
        };
        line.set_message(text.to_owned());
    }
}

/// `read 120 MB of 4 files, 150.0 k rows, 410 MB/s, 98 % local`, without what is not known.
fn reading(report: &Report) -> String {
    let read = &report.read;
    let mut text = format!("read {:.0} MB of {} files", read.bytes as f64 / 1e6, read.files);
    if read.rows > 0 {
        text += &format!(", {} rows", count(read.rows as f64));
    }
    if read.seconds > 0.0 {
        text += &format!(", {:.0} MB/s", read.bytes as f64 / read.seconds / 1e6);
    }
    if let Some(share) = read.local_share() {
        text += &format!(", {:.0} % local", 100.0 * share);
    }
    text
}

/// A line for each stage that ran or runs, by first appearance.
fn stages(news: &JobNews) -> Vec<(String, String)> {
    let report = &news.report;
    let mut last: Vec<&StageReport> = Vec::new();
    for run in &report.stages {
        match last.iter_mut().find(|known| known.name == run.name) {
            Some(known) => *known = run,
            None => last.push(run),
        }
    }
    let objective = report.objective.map_or(String::new(), |o| format!(", objective {o:.6}"));
    let mut lines: Vec<(String, String)> = last
        .iter()
        .map(|run| {
            let mut text = format!("{}: epoch {}{objective}", run.name, run.epoch);
            if run.rows > 0 && run.seconds > 0.0 {
                text += &format!(", {} rows/s", count(run.rows as f64 / run.seconds));
            }
            (run.name.clone(), text)
        })
        .collect();
    if let Some(RunningStage { name, threads, epoch }) = &news.stage {
        let text = format!("{name}: epoch {epoch}{objective}, running on {threads} threads");
        match lines.iter_mut().find(|(known, _)| known == name) {
            Some((_, shown)) => shown.push_str(&format!(", epoch {epoch} running")),
            None => lines.push((name.clone(), text)),
        }
    }
    lines
}

/// `950`, `12.3 k`, `4.5 M`.
fn count(x: f64) -> String {
    match x {
        x if x >= 1e6 => format!("{:.1} M", x / 1e6),
        x if x >= 1e3 => format!("{:.1} k", x / 1e3),
        x => format!("{x:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::ids::JobId;
    use flexps_common::report::{ReadReport, State};

    fn report(read: ReadReport, stages: Vec<StageReport>) -> Report {
        Report {
            job: "svrg".to_owned(),
            id: JobId(1),
            state: State::Running,
            error: None,
            failed_log: None,
            params: serde_json::Value::Null,
            objective: None,
            metrics: Default::default(),
            stopped: None,
            epochs: Vec::new(),
            stages,
            transfers: Vec::new(),
            progress: Vec::new(),
            threads: Vec::new(),
            read,
            repeats: Vec::new(),
            model: None,
            checkpoint: None,
            peak_memory_bytes: 0,
            seconds: 1.0,
            scheduling: Default::default(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut read = ReadReport { files: 4, bytes: 120_000_000, ..ReadReport::default() };
        assert_eq!(reading(&report(read.clone(), Vec::new())), "read 120 MB of 4 files");
        (read.rows, read.seconds, read.located_bytes, read.local_bytes) = (1500, 0.5, 120_000_000, 90_000_000);
        assert_eq!(reading(&report(read, Vec::new())), "read 120 MB of 4 files, 1.5 k rows, 240 MB/s, 75 % local");
        let mut run = StageReport {
            name: "shares".to_owned(),
            epoch: 2,
            threads: 2,
            slaves: vec!["h1".to_owned()],
            seconds: 0.5,
            worker_seconds: 1.0,
            wait_seconds: 0.0,
            bytes_sent: 0,
            bytes_received: 0,
            rows: 0,
            ..StageReport::default()
        };
        let shown = |run: &StageReport| {
            let report = report(ReadReport::default(), vec![run.clone()]);
            stages(&JobNews { version: 1, waiting: None, stage: None, reading: false, report })
        };
        assert_eq!(shown(&run)[0].1, "shares: epoch 2");
        run.rows = 1000;
        assert_eq!(shown(&run)[0].1, "shares: epoch 2, 2.0 k rows/s");
    }
}
