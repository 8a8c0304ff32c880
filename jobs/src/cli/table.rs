//! A finished job for people: the table of its stages, then the result.

pub use crate::told::count;

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use flexps_common::checkpoint::Kept;
use flexps_common::pace::Pace;
use flexps_common::report::{
    CacheUse, DiskUse, FilterUse, PackUse, ProgressReport, Report, StageReport, SumUse, ThreadsReport, TransferReport,
};
use std::ops::Range;

/// A table whose columns `numbers` are aligned to the right.
pub fn table<const N: usize>(head: [&str; N], numbers: Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
        if numbers.contains(&column.index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The lines of a table, without blanks at their ends. Names come from whoever submits jobs: they steer no terminal.
pub fn lines(table: &Table) -> String {
    let shown = |line: String| line.trim_end().replace(char::is_control, "\u{fffd}");
    table.lines().map(|line| shown(line) + "\n").collect()
}

/// Runs of one stage, folded.
struct Folded<'a> {
    name: &'a str,
    runs: u64,
    threads: (u32, u32),
    slaves: (usize, usize),
    seconds: f64,
    worker_seconds: f64,
    wait_seconds: f64,
    bytes: u64,
}

impl<'a> Folded<'a> {
    fn new(run: &'a StageReport) -> Self {
        Self {
            name: &run.name,
            runs: 0,
            threads: (run.threads, run.threads),
            slaves: (run.slaves.len(), run.slaves.len()),
            seconds: 0.0,
            worker_seconds: 0.0,
            wait_seconds: 0.0,
            bytes: 0,
        }
    }

    fn add(&mut self, run: &StageReport) {
        self.runs += 1;
        self.threads = (self.threads.0.min(run.threads), self.threads.1.max(run.threads));
        self.slaves = (self.slaves.0.min(run.slaves.len()), self.slaves.1.max(run.slaves.len()));
        self.seconds += run.seconds;
        self.worker_seconds += run.worker_seconds;
        self.wait_seconds += run.wait_seconds;
        self.bytes += run.bytes_sent + run.bytes_received;
    }
}

/// One line per stage name, by first appearance; times and bytes are sums over its runs.
pub fn stages(runs: &[StageReport]) -> String {
    let mut folded: Vec<Folded<'_>> = Vec::new();
    for run in runs {
        let at = folded.iter().position(|known| known.name == run.name).unwrap_or_else(|| {
            folded.push(Folded::new(run));
            folded.len() - 1
        });
        folded[at].add(run);
    }
    let mut table = table(["stage", "runs", "threads", "slaves", "elapsed", "worker time", "waiting", "moved"], 1..8);
    for stage in &folded {
        table.add_row([
            stage.name.to_owned(),
            stage.runs.to_string(),
            span(stage.threads),
            span(stage.slaves),
            seconds(stage.seconds),
            seconds(stage.worker_seconds),
            seconds(stage.wait_seconds),
            size(stage.bytes),
        ]);
    }
    lines(&table)
}

/// The result: what was read, how the job ended, its numbers, its model, and what else a user should know.
pub fn result(report: &Report) -> String {
    let mut lines: Vec<(&str, String)> = Vec::new();
    let read = &report.read;
    if read.rows > 0 {
        let local = read.local_share().map_or(String::new(), |share| format!(", {:.0} % local", 100.0 * share));
        let kept =
            if read.spilled_bytes > 0 { format!(", {} kept on disk", size(read.spilled_bytes)) } else { String::new() };
        lines.push((
            "read",
            format!(
                "{}, {} in {}, {}{local}{kept}",
                count(read.rows, "row"),
                size(read.bytes),
                count(read.files, "file"),
                seconds(read.seconds),
            ),
        ));
    }
    if let Some(last) = report.epochs.last() {
        let why = report.stopped.as_deref().map_or(String::new(), |why| format!(": {why}"));
        lines.push(("epochs", format!("{}{why}", last.epoch)));
    }
    if let Some(objective) = report.objective {
        lines.push(("objective", format!("{objective:.9}")));
    }
    for (name, value) in report.metrics.iter().filter(|(name, _)| *name != "objective" || report.objective.is_none()) {
        lines.push((name, number(*value)));
    }
    if let Some(model) = &report.model {
        lines.push(("model", model.clone()));
    }
    if let Some(pace) = pace(&report.stages) {
        lines.push(("pace", pace));
    }
    let mut disk = DiskUse::default();
    report.stages.iter().for_each(|stage| disk.merge(&stage.model_disk));
    if disk.written_bytes > 0 {
        let (written, back) = (size(disk.written_bytes), size(disk.read_bytes));
        lines.push(("model memory", format!("exceeded: {written} of tables went to disk, {back} came back")));
    }
    let mut cache = CacheUse::default();
    report.stages.iter().for_each(|stage| cache.merge(&stage.cache));
    if cache.hits > 0 {
        let share = 100.0 * cache.hits as f64 / (cache.hits + cache.misses) as f64;
        lines.push(("cache", format!("{share:.0} % of {} of other slaves", count(cache.hits + cache.misses, "key"))));
    }
    let mut sums = SumUse::default();
    report.stages.iter().for_each(|stage| sums.merge(&stage.sums));
    if sums.updates > 0 {
        let (updates, of, sent) = (count(sums.updates, "update"), size(sums.bytes), size(sums.sent_bytes));
        lines.push(("sums", format!("{updates} of other slaves' shards, {of}, went as {}, {sent}", sums.sent)));
    }
    let mut filter = FilterUse::default();
    report.stages.iter().for_each(|stage| filter.merge(&stage.filter));
    if filter.entries > 0 {
        let share = 100.0 * filter.held as f64 / filter.entries as f64;
        let (entries, saved) = (count(filter.entries, "changed key"), size(filter.saved_bytes));
        lines.push(("filter", format!("{share:.0} % of {entries} held back, {saved} of values not sent")));
    }
    lines.extend(compression(report).map(|text| ("compression", text)));
    if let Some(transfers) = transfers(&report.transfers) {
        lines.push(("transfers", transfers));
    }
    if let Some(Kept { folder, written, behind, bytes, seconds: took, .. }) =
        report.checkpoint.as_ref().filter(|kept| kept.written > 0)
    {
        let (written, size) = (count(*written, "time"), size(*bytes));
        lines.push(("checkpoint", format!("{folder}: {written} in {}, last behind {behind}, {size}", seconds(*took))));
    }
    if !report.progress.is_empty() {
        lines.push(("progress", progress(&report.progress)));
    }
    for found in &report.threads {
        lines.push(("threads", threads(found)));
    }
    let memory = match report.peak_memory_bytes {
        0 => String::new(),
        bytes => format!(", at most {} of memory in a process", size(bytes)),
    };
    lines.push(("time", format!("{}{memory}", seconds(report.seconds))));
    for note in &report.notes {
        lines.push(("note", note.clone()));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    lines.iter().map(|(name, text)| format!("{name:<width$}  {text}\n")).collect()
}

/// How far workers went ahead, where any did: `train at most 7 clocks ahead, 12 conflicts, 3.1 kB to tell of clocks`.
fn pace(runs: &[StageReport]) -> Option<String> {
    let most = runs.iter().max_by_key(|run| run.pace.most_lead).filter(|run| run.pace.most_lead > 0)?;
    let sum = |part: fn(&Pace) -> u64| runs.iter().filter(|run| run.name == most.name).map(|run| part(&run.pace)).sum();
    let conflicts = match sum(|pace| pace.conflicts) {
        0 => String::new(),
        n => format!(", {}", count(n, "conflict")),
    };
    let told = match sum(|pace| pace.control_bytes) {
        0 => String::new(),
        bytes => format!(", {} to tell of clocks", size(bytes)),
    };
    Some(format!("{} at most {} ahead{conflicts}{told}", most.name, count(most.pace.most_lead, "clock")))
}

/// The loss of a streaming pass as rows came: `0.6931 on 128, 0.5512 on 256, 0.4871 on 300 rows`.
fn progress(points: &[ProgressReport]) -> String {
    let point = |point: &ProgressReport| format!("{:.4} on {}", point.loss, point.rows);
    format!("{} rows", points.iter().map(point).collect::<Vec<_>>().join(", "))
}

/// How a stage's threads were found: `wide: 6 of 1-8, least elapsed; 1: 80.0 ms, 3: 30.1 ms, ...; 0.08/p + 0 p + 0.01 s, off
/// by 2 %; 4 tries took 1.2 % of its time`.
fn threads(found: &ThreadsReport) -> String {
    let (least, most) = found.limits;
    let tried: Vec<_> = found.tried.iter().map(|t| format!("{}: {}", t.threads, seconds(t.seconds))).collect();
    let fit = match (found.curve, found.error) {
        (Some(curve), Some(error)) if found.way == "auto" => format!("; {curve}, off by {:.0} %", 100.0 * error),
        _ => String::new(),
    };
    let anew = if found.restarts > 0 { format!(", all anew {}", count(found.restarts, "time")) } else { String::new() };
    format!(
        "{}: {} of {least}-{most}, least {}; {}{fit}; {} took {:.1} % of its time{anew}",
        found.stage,
        found.threads,
        found.optimize,
        tried.join(", "),
        if found.tries == 1 { "1 try".to_owned() } else { format!("{} tries", found.tries) },
        100.0 * found.tried_seconds / found.seconds.max(f64::MIN_POSITIVE),
    )
}

/// What compression made of what went between slaves: `12.0 MB of values went as 9.1 MB, 80 % in lz4, 0 % as f16`.
fn compression(report: &Report) -> Option<String> {
    let mut used = PackUse::default();
    report.stages.iter().for_each(|stage| used.merge(&stage.packed));
    let [raw, bytes] = [|t: &TransferReport| t.raw_bytes, |t: &TransferReport| t.bytes]
        .map(|of| report.transfers.iter().map(of).sum::<u64>());
    let values = (used.raw_bytes > 0).then(|| {
        let share = |part: u64| 100.0 * part as f64 / used.raw_bytes as f64;
        let (by_lz4, by_f16) = (share(used.lz4_bytes), share(used.f16_bytes));
        format!(
            "{} of values went as {}, {by_lz4:.0} % in lz4, {by_f16:.0} % as f16",
            size(used.raw_bytes),
            size(used.bytes)
        )
    });
    let chunks = (raw > bytes).then(|| format!("{} of chunks as {}", size(raw), size(bytes)));
    let parts: Vec<_> = values.into_iter().chain(chunks).collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// How the model went from stage to stage: `10 in 12.0 ms, 1.2 MB (1 MB by memory); the busiest slave was to carry 4 MB with
/// them, 9 MB over all shards`.
fn transfers(transfers: &[TransferReport]) -> Option<String> {
    if transfers.is_empty() {
        return None;
    }
    let sum = |of: fn(&TransferReport) -> u64| size(transfers.iter().map(of).sum());
    let took: f64 = transfers.iter().map(|t| t.milliseconds).sum();
    let failed = transfers.iter().filter(|t| t.failed.is_some()).count();
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let memory = transfers.iter().map(|t| t.memory_bytes).sum();
    let memory = if memory > 0 { format!(" ({} by memory)", size(memory)) } else { String::new() };
    Some(format!(
        "{} in {}, {}{memory}{failed}; the busiest slave was to carry {} with them, {} over all shards",
        transfers.len(),
        seconds(took / 1e3),
        sum(|t| t.bytes),
        sum(|t| t.expected_bytes),
        sum(|t| t.shards_bytes),
    ))
}

/// `3` or `1-3`.
fn span<T: PartialEq + std::fmt::Display>((least, most): (T, T)) -> String {
    if least == most { most.to_string() } else { format!("{least}-{most}") }
}

/// `1.2 MB`.
fn size(bytes: u64) -> String {
    ByteSize(bytes).display().si().to_string()
}

/// `8.0 GiB`, or that there is no limit.
pub fn memory(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "no limit".to_owned(), |bytes| ByteSize(bytes).display().iec().to_string())
}

/// `1.2 ms`, `3.45 s`, `12 min 3 s`.
pub fn seconds(x: f64) -> String {
    match x {
        x if x < 1.0 => format!("{:.1} ms", x * 1e3),
        x if x < 120.0 => format!("{x:.2} s"),
        x => {
            let whole = x.round();
            format!("{:.0} min {:.0} s", (whole / 60.0).floor(), whole % 60.0)
        }
    }
}

/// Six decimals, none of whole numbers; with an exponent and six significant digits what is below 1e-4 or from 1e9 on.
pub fn number(x: f64) -> String {
    if x == x.trunc() && x.abs() < 1e15 {
        format!("{x}")
    } else if x.abs() < 1e-4 || x.abs() >= 1e9 {
        format!("{x:.5e}")
    } else {
        format!("{x:.6}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_steers_no_terminal() {
        let mut table = table(["stage"], 0..0);
        table.add_row(["\u{1b}[31mred\u{7}"]);
        assert_eq!(lines(&table), "stage\n\u{fffd}[31mred\u{fffd}\n");
    }

    #[test]
    fn there_are_fewer_than_sixty_seconds_beside_minutes() {
        assert_eq!(
            [179.7, 119.4, 120.0, 3599.6].map(seconds),
            ["3 min 0 s", "119.40 s", "2 min 0 s", "60 min 0 s"].map(str::to_owned)
        );
    }

    #[test]
    fn a_number_has_six_decimals_unless_it_is_whole_or_needs_an_exponent() {
        assert_eq!(
            [1.0 / 3000.0, 3.0691484, 500_000.0, 1.0 / 30_000.0, 1e15 / 7.0].map(number),
            ["0.000333", "3.069148", "500000", "3.33333e-5", "1.42857e14"].map(str::to_owned)
        );
    }

    #[test]
    fn repeated_stages_are_one_line_with_their_count() {
        let run = |name: &str, epoch, threads| StageReport {
            name: name.into(),
            epoch,
            threads,
            slaves: vec!["a".into()],
            seconds: 0.5,
            worker_seconds: 1.0,
            wait_seconds: 0.25,
            bytes_sent: 1000,
            bytes_received: 500,
            rows: 10,
            ..StageReport::default()
        };
        assert_eq!(pace(&[run("wide", 1, 4)]), None);
        let mut ahead = [run("wide", 1, 4), run("narrow", 1, 2), run("narrow", 2, 2)];
        ahead[1].pace = Pace { most_lead: 7, conflicts: 1, control_bytes: 2000, ..Pace::default() };
        ahead[2].pace = Pace { most_lead: 2, conflicts: 2, control_bytes: 500, ..Pace::default() };
        let expected = "narrow at most 7 clocks ahead, 3 conflicts, 2.5 kB to tell of clocks";
        assert_eq!(pace(&ahead).as_deref(), Some(expected));
        let text = stages(&[run("wide", 1, 4), run("narrow", 1, 1), run("wide", 2, 2)]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        let wide: Vec<_> = lines[1].split_whitespace().collect();
        assert_eq!(wide, ["wide", "2", "2-4", "1", "1.00", "s", "2.00", "s", "500.0", "ms", "3.0", "kB"], "{text}");
    }
}
