//! `flexps data info`: what files of rows hold, and where their blocks are.

use super::args::InfoArgs;
use super::rows::Files;
use super::table::count;
use super::terminal::{out, say};
use bytesize::ByteSize;
use flexps_common::data::libsvm::without_flags;
use flexps_common::data::{Facts, Form, Schema};
use flexps_common::storage::FileMeta;
use flexps_common::{Error, Result};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write;
use tokio::runtime::Handle;

/// Describes rows.
pub fn info(runtime: &Handle, args: &InfoArgs) -> Result<()> {
    let files = Files::list(runtime, &args.input)?;
    // Bad rows are told of, not stumbled over.
    let schema = Schema { bad_rows: u64::MAX, ..files.detect()? };
    let (mut facts, mut bad) = (Facts::default(), None::<Error>);
    files.each(&schema, |parsed| {
        facts.merge(&parsed.facts);
        bad = bad.take().or_else(|| parsed.bad.into_iter().next().map(without_flags));
        Ok(())
    })?;
    let listed = &files.listing.files;
    let forms = listed.iter().map(|file| files.form(file)).collect::<Result<Vec<_>>>()?;
    if args.json {
        let files: Vec<_> = listed.iter().zip(&forms).map(|(file, form)| one_file(file, *form)).collect();
        let object = json!({
            "rows": facts.rows,
            "features": facts.features,
            "nonzeros": facts.nonzeros,
            "labels": match schema.labels.all() {
                [negative, positive] => json!({ "negative": negative, "positive": positive }),
                all => json!(all),
            },
            "positives": facts.positives,
            "index_base": schema.index_base,
            "empty_rows": facts.empty_rows,
            "bad_rows": facts.bad_rows,
            "first_bad_row": bad.map(|e| e.message),
            "max_norm": facts.max_norm2.sqrt(),
            "files": files,
        });
        return out(&format!("{object}\n"));
    }
    for note in &files.listing.notes {
        say(&format!("note: {note}"));
    }
    out(&text(&facts, &schema, bad.as_ref(), listed, &forms))
}

/// The name of a file's form, and that of its compression.
fn names(form: Form) -> (&'static str, &'static str) {
    match form {
        Form::Text => ("libsvm", "none"),
        Form::Packed(compression) => ("libsvm", compression.name()),
        Form::Dataset => ("dataset", "none"),
    }
}

fn one_file(file: &FileMeta, form: Form) -> serde_json::Value {
    let (form, packed) = names(form);
    let blocks: Vec<_> = file
        .blocks
        .iter()
        .map(|block| json!({ "start": block.start, "end": block.end, "hosts": block.hosts, "racks": block.racks }))
        .collect();
    json!({ "path": file.path, "bytes": file.len, "format": form, "compression": packed, "blocks": blocks })
}

fn text(facts: &Facts, schema: &Schema, bad: Option<&Error>, files: &[FileMeta], forms: &[Form]) -> String {
    let mut text = String::new();
    let labels = match schema.labels.all() {
        [negative, positive] => {
            let (positives, negatives) = (facts.positives, facts.rows - facts.positives);
            format!("{positives} of label {positive}, {negatives} of label {negative}")
        }
        [] => String::from("labels are numbers"),
        _ => format!("of labels {}", schema.labels),
    };
    let _ = writeln!(text, "rows       {}: {labels}, {} without features", facts.rows, facts.empty_rows);
    let _ = writeln!(text, "features   {}, indices from {}", facts.features, schema.index_base);
    let a_row = facts.nonzeros as f64 / facts.rows.max(1) as f64;
    let _ = writeln!(text, "non-zeros  {}, {a_row:.1} a row", facts.nonzeros);
    let _ = writeln!(text, "norms      at most {:.4}", facts.max_norm2.sqrt());
    if let Some(bad) = bad {
        let _ = writeln!(text, "bad rows   {}; the first: {bad}", facts.bad_rows);
    }
    for (file, form) in files.iter().zip(forms) {
        let size = ByteSize(file.len).display().si();
        let packed = match names(*form) {
            ("libsvm", "none") => String::new(),
            ("libsvm", packed) => format!(", {packed}"),
            (form, _) => format!(", {form}"),
        };
        let _ =
            writeln!(text, "file       {}: {size}{packed}, {}", file.path, count(file.blocks.len() as u64, "block"));
    }
    let mut hosts: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for block in files.iter().flat_map(|file| &file.blocks) {
        for host in &block.hosts {
            let of_host = hosts.entry(host).or_default();
            *of_host = (of_host.0 + 1, of_host.1 + block.end - block.start);
        }
    }
    for (host, (blocks, bytes)) in hosts {
        let _ = writeln!(text, "host       {host}: {}, {}", count(blocks, "block"), ByteSize(bytes).display().si());
    }
    text
}
