//! Rows: what the reader makes of a file and what workers iterate.

pub mod block;
pub mod compression;
pub mod dataset;
pub mod drawn;
pub mod form;
pub mod generate;
pub mod indexer;
pub mod keys;
pub mod libsvm;
pub mod look;
mod number;
mod occurring;
pub mod schema;
pub mod sniff;
mod wide;

pub use block::{Block, Row};
pub use form::Form;
pub use occurring::Occurring;
pub use schema::{Facts, InputSpec, Labels, Schema, Wanted};
