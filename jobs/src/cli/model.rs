//! `flexps model show`: what a saved model is.

use super::table::number;
use super::terminal::out;
use flexps_common::data::schema::DataPath;
use flexps_common::model::Model;
use flexps_common::storage::Storage;
use flexps_common::{Error, Result};
use std::path::Path;

/// The model in `folder`.
pub fn load(folder: &Path) -> Result<Model> {
    let text = folder.to_str().ok_or_else(|| Error::user(format!("{}: a path must be UTF-8", folder.display())))?;
    Model::load(&Storage::default(), &text.parse::<DataPath>()?)
}

fn biases(bias: &[f32]) -> String {
    let all: Vec<_> = bias.iter().map(|b| number(f64::from(*b))).collect();
    if all.is_empty() { String::from("none") } else { all.join(" ") }
}

/// Describes the model in `folder`.
pub fn show(folder: &Path, json: bool) -> Result<()> {
    let model = load(folder)?;
    let about = &model.description;
    let nonzero = model.weights.iter().filter(|w| **w != 0.0).count();
    let norm2: f64 = model.weights.iter().map(|w| f64::from(*w) * f64::from(*w)).sum();
    if json {
        let mut object = serde_json::to_value(about).map_err(|e| Error::bug(format!("a model as JSON: {e}")))?;
        object["nonzero_weights"] = nonzero.into();
        object["norm"] = norm2.sqrt().into();
        object["bias"] = match model.bias[..] {
            [] => None::<f32>.into(),
            [one] => one.into(),
            ref all => all.to_vec().into(),
        };
        return out(&format!("{object}\n"));
    }
    let mut lines = vec![
        ("job", about.job.clone()),
        ("written by", about.created_by.clone()),
        ("labels", about.labels.to_string()),
        ("features", format!("{}, indices from {}", about.features, about.index_base)),
        ("weights", format!("{nonzero} are not zero, norm {}", number(norm2.sqrt()))),
        ("bias", biases(&model.bias)),
        ("trained on", format!("{} rows, {} non-zeros", about.facts.rows, about.facts.nonzeros)),
        ("epochs", about.epochs.to_string()),
        ("objective", about.objective.map_or(String::from("unknown"), |o| format!("{o:.9}"))),
    ];
    if let Some(params) = about.params.as_object() {
        let given = params.iter().filter(|(_, value)| !value.is_null());
        lines.push(("parameters", given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")));
    }
    for (name, values) in &model.others {
        lines.push(("tensor", format!("{name}, {} values", values.len())));
    }
    out(&lines.iter().map(|(name, text)| format!("{name:<11} {text}\n")).collect::<String>())
}
