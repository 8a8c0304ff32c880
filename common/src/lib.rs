//! The contracts of flexps: what a job is, what a plan says, what rows look like, what processes say to one another and
//! how they say it. Master, slave and jobs meet here and nowhere else.

pub mod announced;
pub mod background;
pub mod caught;
pub mod checkpoint;
pub mod curve;
pub mod data;
pub mod error;
pub mod experiment;
pub mod home;
pub mod host;
pub mod ids;
pub mod job;
pub mod machine;
pub mod metrics;
pub mod model;
pub mod notes;
pub mod pace;
pub mod plan;
pub mod prefetch;
pub mod random;
pub mod repeat;
pub mod report;
pub mod scheduling;
pub mod siblings;
pub mod side;
pub mod storage;
pub mod tail;
pub mod transport;
pub mod updates;
pub mod value;
pub mod waiting;
pub mod widest;
pub mod wire;
pub mod worker;

pub use error::{Error, Result};
