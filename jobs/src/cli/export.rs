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
    let about = &model.description;
    // Only of logistic regression it takes scores for log odds.
    let of_classes = match (about.job.as_str(), about.params["loss"].as_str()) {
        ("svm", Some("hinge")) => "L2R_L1LOSS_SVC_DUAL",
        ("svm", _) => "L2R_L2LOSS_SVC",
        _ => "L2R_LR",
    };
    match about.labels.all() {
        [] => writeln!(out, "solver_type L2R_L2LOSS_SVR\nnr_class 2")?,
        [negative, positive] => writeln!(out, "solver_type {of_classes}\nnr_class 2\nlabel {positive} {negative}")?,
        all => {
            let names: Vec<_> = all.iter().map(f32::to_string).collect();
            writeln!(out, "solver_type {of_classes}\nnr_class {}\nlabel {}", all.len(), names.join(" "))?;
        }
    }
    writeln!(out, "nr_feature {}", about.features)?;
    writeln!(out, "bias {}\nw", if model.bias.is_empty() { -1 } else { 1 })?;
    // A line for each feature, a number for each score.
    let (features, outputs) = (about.features as usize, about.outputs());
    for at in 0..features {
        (0..outputs).try_for_each(|class| write!(out, "{} ", model.weights[class * features + at]))?;
        writeln!(out)?;
    }
    if !model.bias.is_empty() {
        model.bias.iter().try_for_each(|b| write!(out, "{b} "))?;
        writeln!(out)?;
    }
    Ok(())
}

/// A line for each weight that is not zero; of more than two classes it begins with the class's label.
fn text(model: &Model, out: &mut impl Write) -> std::io::Result<()> {
    let about = &model.description;
    let features = (about.features as usize).max(1);
    let class =
        |at: usize| if about.outputs() > 1 { format!("{} ", about.labels.of(at as f32)) } else { String::new() };
    for (at, w) in model.weights.iter().enumerate().filter(|(_, w)| **w != 0.0) {
        let index = (at % features) as u64 + u64::from(about.index_base);
        writeln!(out, "{}{index} {w}", class(at / features))?;
    }
    model.bias.iter().enumerate().try_for_each(|(at, bias)| writeln!(out, "{}bias {bias}", class(at)))
}

/// A NumPy array; the bias, if there is one, is its last element, as in liblinear's files.
fn npy(model: &Model, out: &mut impl Write) -> std::io::Result<()> {
    let all: ndarray::Array1<f32> = model.weights.iter().chain(&model.bias).copied().collect();
    all.write_npy(out).map_err(std::io::Error::other)
}
