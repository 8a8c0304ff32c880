//! What the tests stand on: processes with deadlines, clusters that clean up, rows whose best model is known.

pub mod browser;
pub mod cluster;
pub mod hdfs;
pub mod held;
pub mod http;
pub mod kept;
pub mod least;
pub mod model;
pub mod optimum;
pub mod process;
pub mod rows;
pub mod wait;

pub use cluster::Cluster;
pub use held::Held;
pub use process::flexps;
pub use rows::Rows;

/// A folder that goes with its test.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder for temporary files")
}

/// Fails unless `a` and `b` differ by at most `relative` of the larger.
#[track_caller]
pub fn assert_close(a: f64, b: f64, relative: f64) {
    let gap = (a - b).abs() / a.abs().max(b.abs()).max(1e-300);
    assert!(gap <= relative, "{a} and {b} differ by {gap:.3e}, at most {relative:.1e} is allowed");
}
