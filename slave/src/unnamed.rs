//! Files without a name: gone when the process is, however it ends.

use std::fs::File;
use std::path::Path;

/// An empty file in `folder`, which is made if need be. The name that it has for a moment begins with `prefix`.
pub fn file(folder: &Path, prefix: &str) -> std::io::Result<File> {
    std::fs::create_dir_all(folder)?;
    let unique = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let path = folder.join(format!(".flexps-{prefix}-{}-{unique}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
