//! Identities that cross process borders, and the build's own.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A table's key. A libsvm index fits it after the index base is taken off.
pub type Key = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(/// A job, counted by the master from 1.
    JobId(u64), "j");
id!(/// A slave as the master registered it; a slave that comes back gets a new one.
    SlaveId(u32), "s");
id!(/// A table's place in its plan.
    TableId(u16), "t");
id!(/// An input's place in its plan.
    InputId(u16), "i");
id!(/// The count of stage runs in a job, from 1: each run of a repeated stage has its own.
    StageRun(u64), "r");

impl std::str::FromStr for JobId {
    type Err = crate::Error;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let digits = s.strip_prefix('j').unwrap_or(s);
        digits.parse().map(JobId).map_err(|_| crate::Error::user(format!("'{s}' is no job id; one looks like j7")))
    }
}

/// Tells this build from others: nodes of different builds don't work together, since plans are derived again on each.
/// The hash of the running executable.
pub fn build_id() -> u64 {
    static ID: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *ID.get_or_init(|| {
        if let Some(forced) = std::env::var("FLEXPS_BUILD_ID").ok().and_then(|v| v.parse().ok()) {
            return forced;
        }
        let read = || -> std::io::Result<u64> {
            use std::io::Read;
            let mut file = std::fs::File::open(std::env::current_exe()?)?;
            let mut hasher = xxhash_rust::xxh3::Xxh3::new();
            let mut buffer = vec![0; 1 << 20];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.digest()),
                    n => hasher.update(&buffer[..n]),
                }
            }
        };
        read().unwrap_or(0)
    })
}
