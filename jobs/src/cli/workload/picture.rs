//! A comparison as one SVG, or as one HTML page around it: per policy the slots in use over time and a row per slave with
//! its stage runs, all policies on the same time axis. Nothing is loaded from elsewhere.
//!
//! Invariants: names are escaped; jobs can be told apart without colour, by their hatching; what is too small or too much
//! to draw is said in the picture.

use super::lanes::{Piece, lanes};
use super::show::{Comparison, Outcome};
use crate::cli::file::Whole;
use crate::cli::svg::{self, escape, text};
use crate::cli::table::{count, seconds};
use flexps_common::error::Context;
use flexps_common::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

const LEFT: f64 = 90.0;
const WIDTH: f64 = 1000.0;
const USED: f64 = 46.0;
/// Most slaves that are drawn one by one.
const ROWS: usize = 32;
/// Most stage runs of a policy that are drawn one by one.
const PIECES: usize = 20_000;
/// Different hatchings; further jobs take them again.
const HATCHES: usize = 12;

/// Refuses a file name that is neither, and one where nothing can be written.
pub fn check(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    match path.extension().and_then(|e| e.to_str()) {
        // Who reads a pipe goes when it is closed, so it is opened once, to write the picture.
        Some("svg" | "html") if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) => {
            Ok(())
        }
        Some("svg" | "html") => Whole::create(path).map(drop).context(|| "--picture"),
        _ => Err(Error::user(format!("--picture {}: give a name that ends in .svg or .html", path.display()))),
    }
}

/// Writes the picture.
pub fn write(path: &Path, comparison: &Comparison) -> Result<()> {
    let svg = drawing(comparison);
    let html = path.extension().is_some_and(|e| e == "html");
    let text = if html { page(&comparison.title(), &svg) } else { svg };
    Whole::create(path)?.fill(|file| file.write_all(text.as_bytes()))
}

/// The page: the drawing, and a box that shows what the mouse is on.
fn page(title: &str, svg: &str) -> String {
    let title = escape(title);
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{margin:1rem;font:14px sans-serif}}#what{{position:fixed;right:1rem;top:1rem;padding:.4rem .6rem;background:#fff;border:1px solid #000;white-space:pre;display:none}}svg{{max-width:100%;height:auto}}</style>
</head><body>
{svg}<div id="what" role="status"></div>
<script>
const box=document.getElementById("what");
document.querySelectorAll("svg .run").forEach(run=>{{
 const title=run.querySelector("title");if(!title)return;const text=title.textContent;title.remove();
 run.addEventListener("mouseenter",()=>{{box.textContent=text;box.style.display="block";run.setAttribute("stroke-width","2")}});
 run.addEventListener("mouseleave",()=>{{box.style.display="none";run.removeAttribute("stroke-width")}});
}});
</script>
</body></html>
"#
    )
}

/// The drawing.
fn drawing(comparison: &Comparison) -> String {
    let span = comparison.outcomes.iter().map(|o| o.measures.makespan).fold(0.0, f64::max).max(1e-9);
    let hatches = hatches(comparison);
    let mut body = String::new();
    let mut y = 30.0;
    text(&mut body, 8.0, 20.0, "start", 15, &comparison.title());
    for outcome in &comparison.outcomes {
        y = policy(&mut body, outcome, span, &hatches, y);
    }
    y = axis(&mut body, span, y) + 12.0;
    y = legend(&mut body, &hatches, y);
    let mut patterns = String::new();
    for i in 0..HATCHES.min(hatches.len()) {
        pattern(&mut patterns, i);
    }
    let width = LEFT + WIDTH + 40.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {y:.0}\" width=\"{width:.0}\" height=\"{y:.0}\" \
         font-family=\"sans-serif\" role=\"img\">\n<title>{}</title>\n<defs>{patterns}</defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n",
        escape(&comparison.title())
    )
}

/// The jobs' hatchings, by the name in front of a copy's number.
fn hatches(comparison: &Comparison) -> BTreeMap<String, usize> {
    let mut found: Vec<String> = Vec::new();
    for job in comparison.outcomes.iter().flat_map(|o| &o.trace.jobs) {
        let family = family(&job.name);
        if !found.iter().any(|known| known == family) {
            found.push(family.to_owned());
        }
    }
    found.into_iter().enumerate().map(|(i, name)| (name, i % HATCHES)).collect()
}

/// `small` of `small-17`.
fn family(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((front, number)) if !front.is_empty() && number.parse::<u32>().is_ok() => front,
        _ => name,
    }
}

fn policy(out: &mut String, outcome: &Outcome, span: f64, hatches: &BTreeMap<String, usize>, top: f64) -> f64 {
    let trace = &outcome.trace;
    let first = trace.jobs.iter().map(|j| j.arrival.as_secs_f64()).fold(f64::INFINITY, f64::min);
    let x = |seconds: f64| LEFT + WIDTH * (seconds - first) / span;
    let m = &outcome.measures;
    let mut y = top + 18.0;
    let line = format!(
        "{}: makespan {}, {:.2} of the bound, {:.0} % of the slots used, worst wait {}",
        outcome.policy,
        seconds(m.makespan),
        m.over_bound,
        100.0 * m.utilisation,
        seconds(m.worst_wait)
    );
    text(out, 8.0, y, "start", 13, &line);
    y += 8.0;
    used(out, outcome, span, first, y);
    y += USED + 6.0;
    let slots: u32 = trace.slaves.iter().map(|s| s.slots).max().unwrap_or(1);
    let row = if trace.slaves.len() <= 6 {
        44.0
    } else if trace.slaves.len() <= 16 {
        22.0
    } else {
        12.0
    };
    let _ = writeln!(out, "<g stroke=\"#000\" stroke-width=\"0.4\">");
    let (pieces, mut skipped) = lanes(trace, ROWS);
    let mut drawn = 0;
    for Piece { run, slave, lane, lanes } in pieces {
        let of = &trace.runs[run];
        let (from, to) = (x(of.start.as_secs_f64()), x(of.end.as_secs_f64()));
        if to - from < 0.15 || drawn >= PIECES {
            skipped += 1;
            continue;
        }
        drawn += 1;
        let height = row / f64::from(slots);
        let job = &trace.jobs[of.job];
        let hatch = hatches.get(family(&job.name)).copied().unwrap_or_default();
        let at = y + row * slave as f64 + f64::from(lane) * height;
        let (wide, high) = (to - from, height * f64::from(lanes));
        let dashed = if of.failed { " stroke-dasharray=\"2 1\"" } else { "" };
        let told = format!(
            "{}, {} of round {}{}\n{} threads, {} of them here\nfrom {} to {} ({})\nwaited {}",
            job.name,
            of.stage,
            of.round,
            if of.failed { " (failed)" } else { "" },
            of.threads(),
            of.workers.iter().filter(|w| w.0 as usize == slave).map(|w| w.1).sum::<u32>(),
            seconds(of.start.as_secs_f64() - first),
            seconds(of.end.as_secs_f64() - first),
            seconds(of.end.saturating_sub(of.start).as_secs_f64()),
            seconds(of.start.saturating_sub(of.ready).as_secs_f64()),
        );
        let _ = writeln!(
            out,
            "<rect class=\"run\" x=\"{from:.2}\" y=\"{at:.2}\" width=\"{wide:.2}\" height=\"{high:.2}\" fill=\"url(#h{hatch})\"{dashed}><title>{}</title></rect>",
            escape(&told)
        );
    }
    let _ = writeln!(out, "</g>");
    for (i, slave) in trace.slaves.iter().take(ROWS).enumerate() {
        let at = y + row * i as f64;
        if row >= 12.0 {
            text(out, LEFT - 6.0, at + row / 2.0 + 4.0, "end", 10, &slave.name);
        }
        let _ = writeln!(out, "<path d=\"M{LEFT} {at:.1}h{WIDTH}v{row}h-{WIDTH}z\" fill=\"none\" stroke=\"#999\"/>");
    }
    y += row * trace.slaves.len().min(ROWS) as f64;
    let mut left_out = Vec::new();
    if trace.slaves.len() > ROWS {
        left_out.push(format!("{} further slaves", trace.slaves.len() - ROWS));
    }
    if skipped > 0 {
        left_out.push(format!("{} too short or too many to draw", count(skipped as u64, "stage run")));
    }
    if !left_out.is_empty() {
        y += 13.0;
        text(out, LEFT, y, "start", 10, &format!("not drawn: {}", left_out.join(", ")));
    }
    y + 6.0
}

/// Slots in use over time, as steps.
fn used(out: &mut String, outcome: &Outcome, span: f64, first: f64, top: f64) {
    let all: f64 = outcome.trace.slaves.iter().map(|s| f64::from(s.slots)).sum::<f64>().max(1.0);
    const BINS: usize = 500;
    let mut bins = vec![0.0; BINS];
    let width = span / BINS as f64;
    for run in &outcome.trace.runs {
        let (from, to) = (run.start.as_secs_f64() - first, run.end.as_secs_f64() - first);
        let threads = f64::from(run.threads());
        let mut bin = ((from / width) as usize).min(BINS - 1);
        while bin < BINS && bin as f64 * width < to {
            let (begin, end) = (bin as f64 * width, (bin + 1) as f64 * width);
            bins[bin] += threads * (to.min(end) - from.max(begin)).max(0.0) / width;
            bin += 1;
        }
    }
    let mut path = format!("M{LEFT} {:.1}", top + USED);
    for (bin, sum) in bins.iter().enumerate() {
        let x = LEFT + WIDTH * bin as f64 / BINS as f64;
        let y = top + USED * (1.0 - (sum / all).min(1.0));
        let _ = write!(path, "L{x:.1} {y:.1}H{:.1}", x + WIDTH / BINS as f64);
    }
    let _ = write!(path, "V{:.1}z", top + USED);
    let _ = writeln!(out, "<path d=\"{path}\" fill=\"#ccc\" stroke=\"#000\" stroke-width=\"0.6\"/>");
    let _ = writeln!(out, "<path d=\"M{LEFT} {top:.1}h{WIDTH}v{USED}h-{WIDTH}z\" fill=\"none\" stroke=\"#999\"/>");
    text(out, LEFT - 6.0, top + 9.0, "end", 10, &format!("{all:.0} slots"));
    text(out, LEFT - 6.0, top + USED, "end", 10, "0");
}

/// The time axis; about eight round steps.
fn axis(out: &mut String, span: f64, top: f64) -> f64 {
    let (step, digits) = svg::step(span, 8.0);
    let _ = writeln!(out, "<path d=\"M{LEFT} {top:.1}h{WIDTH}\" stroke=\"#000\"/>");
    let mut at = 0.0;
    while at <= span * 1.0001 {
        let x = LEFT + WIDTH * at / span;
        let _ = writeln!(out, "<path d=\"M{x:.1} {top:.1}v5\" stroke=\"#000\"/>");
        text(out, x, top + 17.0, "middle", 11, &format!("{at:.digits$} s"));
        at += step;
    }
    top + 22.0
}

fn legend(out: &mut String, hatches: &BTreeMap<String, usize>, top: f64) -> f64 {
    let (mut x, mut y) = (LEFT, top);
    let mut named: Vec<(&String, &usize)> = hatches.iter().collect();
    named.truncate(60);
    for (name, hatch) in named {
        let width = 34.0 + 6.6 * name.chars().count().min(40) as f64;
        if x + width > LEFT + WIDTH {
            (x, y) = (LEFT, y + 18.0);
        }
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"18\" height=\"12\" fill=\"url(#h{hatch})\" stroke=\"#000\"/>"
        );
        let shown: String = name.chars().take(40).collect();
        text(out, x + 23.0, y + 10.0, "start", 11, &shown);
        x += width;
    }
    y + 24.0
}

/// A hatching: a shade of its own, lines or dots of its own, and a light colour that costs nothing when printed.
fn pattern(out: &mut String, i: usize) {
    const TINTS: [&str; HATCHES] = [
        "#dbe9f6", "#fde3c8", "#d9efd5", "#f6d5d8", "#e6dcf0", "#efe6dc", "#fbe0f0", "#e8e8e8", "#f3f3c4", "#d3f1f3",
        "#ffffff", "#c9c9c9",
    ];
    const MARKS: [&str; HATCHES] = [
        "",
        "M0 8L8 0",
        "M0 0L8 8",
        "M0 4H8",
        "M4 0V8",
        "M0 8L8 0M0 0L8 8",
        "M0 4H8M4 0V8",
        "M4 4h.1",
        "M0 8L8 0M4 0V8",
        "M0 2H8M0 6H8",
        "M2 0V8M6 0V8",
        "M1 1h.1M5 5h.1",
    ];
    let _ = write!(
        out,
        "<pattern id=\"h{i}\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\"><rect width=\"8\" height=\"8\" fill=\"{}\"/>\
         <path d=\"{}\" stroke=\"#333\" stroke-width=\"1.1\" stroke-linecap=\"round\" fill=\"none\"/></pattern>",
        TINTS[i], MARKS[i]
    );
}
