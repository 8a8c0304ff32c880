//! How long a job's stages take by their threads, as an SVG: the runs that were measured, the curve through them, and the
//! count that was chosen.
//!
//! Invariant: readable in black and white; names are escaped; nothing is loaded from elsewhere.

use super::file::Whole;
use super::svg::{escape, step, text};
use super::table::seconds;
use flexps_common::report::{Report, ThreadsReport};
use flexps_common::{Error, Result};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

const LEFT: f64 = 80.0;
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
/// From one stage's picture to the next.
const EACH: f64 = HEIGHT + 100.0;

/// Writes the picture; an error of the user when no stage of the job was tried on any count.
pub fn write(path: &Path, report: &Report) -> Result<()> {
    if report.threads.is_empty() {
        return Err(Error::user(format!(
            "{} {} has no stage whose threads are `auto` or `offline` and were tried yet: there is nothing to draw",
            report.id, report.job
        )));
    }
    Whole::create(path)?.fill(|file| file.write_all(svg(report).as_bytes()))
}

fn svg(report: &Report) -> String {
    let (width, height) = (LEFT + WIDTH + 30.0, EACH * report.threads.len() as f64 + 30.0);
    let title = format!("{} {}: seconds of a stage run by its threads", report.id, report.job);
    let mut body = String::new();
    text(&mut body, 8.0, 20.0, "start", 15, &title);
    for (i, found) in report.threads.iter().enumerate() {
        stage(&mut body, found, 30.0 + EACH * i as f64);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" role=\"img\">\n<title>{}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{body}</svg>\n",
        escape(&title)
    )
}

fn stage(out: &mut String, found: &ThreadsReport, top: f64) {
    let least = found.tried.iter().map(|t| t.threads).chain([found.limits.0]).min().unwrap_or(1);
    let most = found.tried.iter().map(|t| t.threads).chain([found.limits.1, least + 1]).max().unwrap_or(2);
    let curve = found.curve.filter(|_| found.way == "auto");
    let drawn: Vec<(f64, f64)> = match curve {
        Some(curve) => {
            // Many points between two counts, so that the curve is one.
            let at = |i: u32| f64::from(least) + f64::from(most - least) * f64::from(i) / 200.0;
            (0..=200).map(at).map(|p| (p, curve.work / p + curve.cost * p + curve.fixed)).collect()
        }
        None => found.tried.iter().map(|t| (f64::from(t.threads), t.seconds)).collect(),
    };
    let highest = found.tried.iter().map(|t| t.seconds).chain(drawn.iter().map(|d| d.1)).fold(1e-9, f64::max) * 1.05;
    let (begin, base) = (top + 46.0, top + 46.0 + HEIGHT);
    let x = |p: f64| LEFT + WIDTH * (p - f64::from(least)) / f64::from(most - least);
    let y = |s: f64| base - HEIGHT * s / highest;
    let fit = curve.map_or(String::new(), |curve| {
        format!(", T(p) = {curve}, a run is off by {:.0} %", 100.0 * found.error.unwrap_or_default())
    });
    text(
        out,
        8.0,
        top + 20.0,
        "start",
        13,
        &format!("{}: {} threads, least {}", found.stage, found.threads, found.optimize),
    );
    text(out, 8.0, top + 36.0, "start", 11, &format!("{}{fit}", found.way));
    let _ =
        writeln!(out, "<path d=\"M{LEFT} {begin:.1}V{base:.1}H{:.1}\" fill=\"none\" stroke=\"#000\"/>", LEFT + WIDTH);
    let (by, _) = step(f64::from(most - least), 10.0);
    let by = by.max(1.0) as usize;
    for p in (least..=most).step_by(by) {
        let _ = writeln!(out, "<path d=\"M{:.1} {base:.1}v5\" stroke=\"#000\"/>", x(f64::from(p)));
        text(out, x(f64::from(p)), base + 17.0, "middle", 11, &p.to_string());
    }
    text(out, LEFT + WIDTH / 2.0, base + 34.0, "middle", 11, "threads");
    let (by, digits) = step(highest, 5.0);
    let mut at = 0.0;
    while at <= highest {
        let _ = writeln!(out, "<path d=\"M{LEFT} {:.1}h-5\" stroke=\"#000\"/>", y(at));
        text(out, LEFT - 8.0, y(at) + 4.0, "end", 11, &format!("{at:.digits$} s"));
        at += by;
    }
    let points: String = drawn.iter().map(|(p, s)| format!("{:.1},{:.1} ", x(*p), y(*s))).collect();
    let _ = writeln!(
        out,
        "<polyline class=\"curve\" points=\"{points}\" fill=\"none\" stroke=\"#000\" stroke-width=\"1.5\"/>"
    );
    let chosen = x(f64::from(found.threads));
    let _ = writeln!(
        out,
        "<path class=\"chosen\" d=\"M{chosen:.1} {begin:.1}V{base:.1}\" stroke=\"#000\" stroke-dasharray=\"5 4\"/>"
    );
    for tried in &found.tried {
        let told = format!("{} threads: {}, the median of {} runs", tried.threads, seconds(tried.seconds), tried.runs);
        let _ = writeln!(
            out,
            "<circle class=\"tried\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\" fill=\"#fff\" stroke=\"#000\" stroke-width=\"1.5\"><title>{}</title></circle>",
            x(f64::from(tried.threads)),
            y(tried.seconds),
            escape(&told)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flexps_common::curve::Curve;
    use flexps_common::report::Tried;

    /// A stage with a name that must be escaped.
    fn found(way: &str) -> ThreadsReport {
        let tried = |threads, seconds| Tried { threads, runs: 3, seconds };
        ThreadsReport {
            stage: "a<b".to_owned(),
            way: way.to_owned(),
            optimize: "elapsed".to_owned(),
            limits: (1, 8),
            tried: vec![tried(1, 9.0), tried(3, 4.0), tried(8, 3.5)],
            curve: Some(Curve { work: 8.0, cost: 0.25, fixed: 0.5 }),
            error: Some(0.02),
            threads: 6,
            expected_seconds: Some(3.3),
            tries: 3,
            tried_seconds: 16.5,
            seconds: 100.0,
            restarts: 0,
        }
    }

    #[test]
    fn each_count_that_was_tried_is_a_point_and_the_chosen_one_a_line() {
        for way in ["auto", "offline"] {
            let mut out = String::from("<svg>");
            stage(&mut out, &found(way), 0.0);
            out.push_str("</svg>");
            let svg = roxmltree::Document::parse(&out).unwrap();
            let of = |class: &str| svg.descendants().filter(|n| n.attribute("class") == Some(class)).count();
            assert_eq!((of("tried"), of("curve"), of("chosen")), (3, 1, 1), "{out}");
            assert!(
                out.contains("a&lt;b: 6 threads") && out.contains("3 threads: 4.00 s, the median of 3 runs"),
                "{out}"
            );
            assert_eq!(out.contains("8.0000/p + 0.2500 p + 0.5000 s"), way == "auto");
        }
    }
}
