//! Names of what is written beside its place and renamed, and the removal of what killed processes left of it.
//!
//! Invariant: a name is given out once, and only what has such a name, of a process that is gone, is removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A new hidden path beside `target`, `.NAME.PID-N.part`; none if that names no file, as `..` does. What killed processes
/// left beside it is removed.
pub fn beside(target: &Path) -> Option<PathBuf> {
    let (parent, name) = (target.parent()?, target.file_name()?.to_string_lossy());
    sweep(parent);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Some(parent.join(format!(".{name}.{}-{count}.part", std::process::id())))
}

/// Opens a file or folder that was made under such a name, and locks it: while it is open, no other machine that shares the
/// disk removes it.
pub fn hold(side: &Path) -> std::io::Result<File> {
    let lock = File::open(side)?;
    // A file system without locks has the process ids alone.
    let _ = lock.try_lock();
    Ok(lock)
}

/// Removes what killed processes left in `parent`: no process here has their id, and none on another machine that shares the
/// disk holds their lock.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(owner) else { continue };
        let alone = Path::new("/proc/self").exists() && !Path::new("/proc").join(pid.to_string()).exists();
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        // What is neither might wait for somebody when it is opened.
        if alone && (kind.is_file() || kind.is_dir()) && File::open(&path).is_ok_and(|left| left.try_lock().is_ok()) {
            let _ = if kind.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
}

/// The process that gave out a name, when it is one of ours.
fn owner(name: &str) -> Option<u32> {
    let (_, numbers) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    let (pid, count) = numbers.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(pid) && digits(count) { pid.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_processes_left_goes_and_nothing_else() {
        let here = tempfile::tempdir().unwrap();
        let path = |name: &str| here.path().join(name);
        // No process has so large an id.
        for left in [".rows.4194305-0.part", ".a.b.4194305-12.part"] {
            fs::write(path(left), "").unwrap();
        }
        fs::create_dir(path(".model.4194305-1.part")).unwrap();
        let ours = format!(".rows.{}-99.part", std::process::id());
        let kept = ["rows.part", ".rows.part", "rows.4194305-0.part", ".rows.4194305-.part", ".rows.x-1.part", &ours];
        for name in kept {
            fs::write(path(name), "").unwrap();
        }
        let held = path(".held.4194305-0.part");
        fs::write(&held, "").unwrap();
        let lock = hold(&held).unwrap();
        let (one, two) = (beside(&path("rows")).unwrap(), beside(&path("rows")).unwrap());
        assert!(one != two && !one.exists() && one.parent() == Some(here.path()), "{one:?} {two:?}");
        let mut names: Vec<_> = fs::read_dir(here.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let mut expected: Vec<_> = kept.iter().map(|name| path(name)).chain([held]).collect();
        expected.sort();
        assert_eq!(names, expected);
        drop(lock);
        assert_eq!(beside(Path::new("..")), None);
    }
}
