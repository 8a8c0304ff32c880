//! The jobs that come with flexps, and the `flexps` command.
//!
//! Without the feature `cli` this library depends on `flexps-common` alone: an algorithm needs only the small API.

mod auto;
mod best;
#[cfg(feature = "cli")]
pub mod cli;
mod first;
#[cfg(test)]
mod fixtures;
pub mod flags;
pub mod lasso;
pub mod logistic;
pub mod lr;
#[cfg(test)]
mod newton;
mod objective;
mod order;
mod pages;
pub mod parts;
mod plane;
pub mod primal;
mod progressive;
pub mod rules;
mod sample;
pub mod sdca;
mod shares;
pub mod sleep;
mod step;
mod stream;
mod sums;
pub mod svm;
pub mod svrg;
mod told;
mod validation;
mod vector;
pub mod workers;

use flexps_common::job::Registry;

/// The jobs of this crate.
pub fn registry() -> Registry {
    Registry::new()
        .with::<lasso::Lasso>()
        .with::<lr::Lr>()
        .with::<sleep::Sleep>()
        .with::<svm::Svm>()
        .with::<svrg::Svrg>()
}
