//! `flexps model export`: a model in the formats of other programs.
//!
//! Invariant: indices are those of the rows that the model was trained on, but where a format counts from 1 by itself.

use super::args::Format;
use super::file::Whole;
use super::model::load;
use super::terminal::say;
use flexps_common::Result;
use flexps_common::model::Model;
use ndarray_npy::WriteNpyExt;
use std::io::Write;
use std::path::Path;

/// Writes the model in `folder` to `output`.
pub fn export(folder: &Path, format: Format, output: &Path) -> Result<()> {
    let model = load(folder)?;
    Whole::create(output)?.fill(|file| match format {
        Format::Liblinear => liblinear(&model, file),
        Format::Text => text(&model, file),
        Format::Npy => npy(&model, file),
    })?;
    if format == Format::Liblinear && model.description.index_base == 0 {
        say("note: liblinear counts features from 1, this model's rows from 0: add 1 to the indices of rows");
    }
    Ok(())
}

/// liblinear's own text format. Its weights speak for the label that is named first.
fn liblinear(model: &Model, out: &mut impl Write) -> std::io::Result<()> {
    let labels = model.description.labels;
    writeln!(out, "solver_type L2R_LR\nnr_class 2\nlabel {} {}", labels.positive, labels.negative)?;
    writeln!(out, "nr_feature {}", model.weights.len())?;
    writeln!(out, "bias {}\nw", if model.bias.is_some() { 1 } else { -1 })?;
    model.weights.iter().chain(&model.bias).try_for_each(|w| writeln!(out, "{w} "))
}

/// A line for each weight that is not zero.
fn text(model: &Model, out: &mut impl Write) -> std::io::Result<()> {
    for (at, w) in model.weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
        writeln!(out, "{} {w}", at as u64 + u64::from(model.description.index_base))?;
    }
    model.bias.map_or(Ok(()), |bias| writeln!(out, "bias {bias}"))
}

/// A NumPy array; the bias, if there is one, is its last element, as in liblinear's files.
fn npy(model: &Model, out: &mut impl Write) -> std::io::Result<()> {
    let all: ndarray::Array1<f32> = model.weights.iter().chain(&model.bias).copied().collect();
    all.write_npy(out).map_err(std::io::Error::other)
}
