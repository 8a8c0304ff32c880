//! How errors and reasons to wait write bytes.

use bytesize::ByteSize;

/// Bytes in the unit that suits them, e.g. `8.0 GiB`.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
