//! How a file holds its rows: told by its first bytes, not by its name.

use super::compression::{self, Compression};
use super::dataset;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// First bytes that [`Form::detect`] looks at.
pub const HEAD: usize = if compression::HEAD > dataset::HEADER { compression::HEAD } else { dataset::HEADER };

/// How a file holds its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// libsvm text.
    Text,
    /// libsvm text, compressed.
    Packed(Compression),
    /// A dataset file, see [`dataset`].
    Dataset,
}

impl Form {
    /// That of a file that starts with `head`: its first [`HEAD`] bytes, or all. An error for an archive that can't be
    /// read, and for a dataset file of another version or byte order.
    pub fn detect(head: &[u8], path: &str) -> Result<Self> {
        let head = &head[..head.len().min(HEAD)];
        if dataset::starts(head, path)? {
            return Ok(Self::Dataset);
        }
        Ok(Compression::detect(head, path)?.map_or(Self::Text, Self::Packed))
    }
}
