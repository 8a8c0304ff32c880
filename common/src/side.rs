//! What is written beside its place and renamed: hidden files and folders that go unless they are put there, and what killed
//! processes left of them.
//!
//! Invariant: a name is given out once, and only what has such a name, and that this process or nobody writes, is removed.

use parking_lot::{Mutex, MutexGuard};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Names that are tried for one.
const TRIES: usize = 1000;

/// What this process is writing.
static SIDES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file or folder beside another, `.NAME.PID-N.part`; what is there goes with it. It is locked, so that no other machine
/// that shares the disk removes it.
#[derive(Debug)]
pub struct Side {
    path: PathBuf,
    /// A file system without locks has the process ids alone.
    _lock: File,
}

impl Side {
    /// A folder beside `target`; none if that names no file, as `..` does. What killed processes left there is removed, now and
    /// then.
    pub fn folder(target: &Path) -> io::Result<Option<Self>> {
        Ok(Self::new(target, |path| fs::create_dir(path))?.map(|(side, ())| side))
    }

    /// The same with a file, which is open for writing. Who may read the one that is there may read this one, and nobody else.
    pub fn file(target: &Path) -> io::Result<Option<(Self, File)>> {
        Self::new(target, |path| {
            let file = File::create_new(path)?;
            keep_mode(target, path)?;
            Ok(file)
        })
    }

    fn new<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<Option<(Self, T)>> {
        let Some(parent) = target.parent().filter(|_| target.file_name().is_some()) else { return Ok(None) };
        if is_due(parent) {
            sweep(parent);
        }
        let mut sides = SIDES.lock();
        let mut tries = 0;
        let (path, made) = loop {
            let Some(path) = beside(target) else { return Ok(None) };
            match make(&path) {
                Ok(made) => break (path, made),
                // Of a process with the same id, killed before this one began, or in another container.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < TRIES => tries += 1,
                Err(e) => return Err(e),
            }
        };
        sides.push(path.clone());
        drop(sides);
        match hold(&path) {
            Ok(_lock) => Ok(Some((Self { path, _lock }, made))),
            Err(e) => {
                forget(&path);
                Err(e)
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it where `target` is, on the disk; what was there goes instead, and there is one or the other at any moment.
    pub fn put(&self, target: &Path) -> io::Result<()> {
        keep_mode(target, &self.path)?;
        sync(&self.path)?;
        if self.path.is_dir() && fs::symlink_metadata(target).is_ok() {
            // Where that fails otherwise too, so does what is tried instead.
            exchange(&self.path, target).or_else(|_| replace(&self.path, target))?;
        } else {
            fs::rename(&self.path, target)?;
        }
        target.parent().map_or(Ok(()), sync)
    }

    /// Keeps it beside its place, where it can't be put; gives its path.
    pub fn keep(&self) -> io::Result<PathBuf> {
        let mut kept = self.path.with_extension("kept");
        let mut others = 1;
        // What another one has kept is not to go.
        while fs::symlink_metadata(&kept).is_ok() {
            others += 1;
            kept = self.path.with_extension(format!("kept-{others}"));
        }
        fs::rename(&self.path, &kept)?;
        Ok(kept)
    }
}

/// What will stand in the place of `there` is for those that it is for, if there is one of its kind.
pub fn keep_mode(there: &Path, new: &Path) -> io::Result<()> {
    match fs::metadata(there) {
        Ok(there) if there.is_dir() == new.is_dir() => fs::set_permissions(new, there.permissions()),
        _ => Ok(()),
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        forget(&self.path);
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(if path.as_os_str().is_empty() { Path::new(".") } else { path })?.sync_all()
}

/// Puts the folder `side` where `target` is, and that where `side` was, so that there is a whole one at any moment.
#[cfg(target_os = "linux")]
fn exchange(side: &Path, target: &Path) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let name = |path: &Path| std::ffi::CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (side, target) = (name(side)?, name(target)?);
    let here = libc::AT_FDCWD;
    // SAFETY: both are strings that end with a zero, and live until the call has returned.
    let failed = unsafe { libc::renameat2(here, side.as_ptr(), here, target.as_ptr(), libc::RENAME_EXCHANGE) };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_side: &Path, _target: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The same on a file system that can't: if the process is killed in between, the old one stays as the hidden folder `*.old`.
fn replace(side: &Path, target: &Path) -> io::Result<()> {
    let old = side.with_extension("old");
    fs::rename(target, &old)?;
    if let Err(e) = fs::rename(side, target) {
        let _ = fs::rename(&old, target);
        return Err(e);
    }
    fs::rename(&old, side)
}

/// Removes all that this process is writing. Held to its end, nothing new is begun.
pub fn abandon() -> MutexGuard<'static, Vec<PathBuf>> {
    let sides = SIDES.lock();
    sides.iter().for_each(|side| remove(side));
    sides
}

fn forget(path: &Path) {
    let mut sides = SIDES.lock();
    remove(path);
    sides.retain(|side| side != path);
}

/// Removes what is there; gone already when it was put in its place.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
}

fn beside(target: &Path) -> Option<PathBuf> {
    let (parent, name) = (target.parent()?, target.file_name()?.to_string_lossy());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Some(parent.join(format!(".{name}.{}-{count}.part", std::process::id())))
}

/// Whether nobody has looked there for a while: a folder may get thousands of files.
fn is_due(parent: &Path) -> bool {
    const EVERY: Duration = Duration::from_secs(60);
    static LOOKED: Mutex<Option<(PathBuf, Instant)>> = Mutex::new(None);
    let mut looked = LOOKED.lock();
    if looked.as_ref().is_some_and(|(path, at)| path == parent && at.elapsed() < EVERY) {
        return false;
    }
    *looked = Some((parent.to_owned(), Instant::now()));
    true
}

fn hold(side: &Path) -> io::Result<File> {
    let lock = File::open(side)?;
    let _ = lock.try_lock();
    Ok(lock)
}

/// Removes what killed processes left in `parent`: no process here has their id but this one, which does not write it, and
/// none on another machine that shares the disk holds their lock.
fn sweep(parent: &Path) {
    // In a container each process may have the id of the one before.
    let ours = std::process::id();
    let is_dead = |pid: u32| Path::new("/proc/self").exists() && !Path::new("/proc").join(pid.to_string()).exists();
    sweep_left(parent, |_, pid| pid == ours || is_dead(pid));
}

/// Removes what others left beside `target`, to be put there, whatever processes have their ids now: for one who knows that
/// nobody else writes there, on a file system with locks.
pub fn sweep_beside(target: &Path) {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else { return };
    let name = name.to_string_lossy();
    sweep_left(parent, |of, _| of == name);
}

/// Removes what of ours in `parent` was `left`, by the name that it was to get and the process that gave out its own, unless
/// this process writes it, or who does holds its lock.
fn sweep_left(parent: &Path, left: impl Fn(&str, u32) -> bool) {
    let Ok(entries) = fs::read_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let alone = name.to_str().and_then(owner).is_some_and(|(of, pid)| left(of, pid)) && !is_written(&name);
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        // What is neither might wait for somebody when it is opened.
        if alone && (kind.is_file() || kind.is_dir()) && File::open(&path).is_ok_and(|left| left.try_lock().is_ok()) {
            remove(&path);
        }
    }
}

/// Whether this process is writing something of that name, in whatever folder: it gives out none twice.
fn is_written(name: &OsStr) -> bool {
    SIDES.lock().iter().any(|side| side.file_name() == Some(name))
}

/// For what a name was given out, and by which process, when it is one of ours.
fn owner(name: &str) -> Option<(&str, u32)> {
    let (of, numbers) = name.strip_prefix('.')?.strip_suffix(".part")?.rsplit_once('.')?;
    let (pid, count) = numbers.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if digits(pid) && digits(count) { Some((of, pid.parse().ok()?)) } else { None }
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
        // As if a process had been killed that had the id of this one.
        fs::write(path(&format!(".rows.{}-9999999.part", std::process::id())), "").unwrap();
        let other = format!(".rows.{}-99.part", std::os::unix::process::parent_id());
        let kept = ["rows.part", ".rows.part", "rows.4194305-0.part", ".rows.4194305-.part", ".rows.x-1.part", &other];
        for name in kept {
            fs::write(path(name), "").unwrap();
        }
        let held = path(".held.4194305-0.part");
        fs::write(&held, "").unwrap();
        let lock = hold(&held).unwrap();
        let sides = [0, 1].map(|_| Side::folder(&path("rows")).unwrap().unwrap());
        let [one, two] = [&sides[0], &sides[1]].map(Side::path);
        assert!(one != two && one.is_dir() && one.parent() == Some(here.path()), "{one:?} {two:?}");
        drop(sides);
        let mut names: Vec<_> = fs::read_dir(here.path()).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        let mut expected: Vec<_> = kept.iter().map(|name| path(name)).chain([held]).collect();
        expected.sort();
        assert_eq!(names, expected);
        drop(lock);
        assert!(Side::file(Path::new("..")).unwrap().is_none());
    }

    #[test]
    fn beside_a_place_of_ones_own_all_goes_that_nobody_holds() {
        let here = tempfile::tempdir().unwrap();
        let path = |name: &str| here.path().join(name);
        // Of one that lives, but may be another than the one that wrote it.
        let pid = std::os::unix::process::parent_id();
        let [left, held] = [0, 1].map(|count| path(&format!(".rows.{pid}-{count}.part")));
        let others = [&format!(".other.{pid}-0.part"), &format!(".a.rows.{pid}-0.part"), "rows.part", ".rows.x-1.part"];
        let others = others.map(path);
        for file in others.iter().chain([&left, &held]) {
            fs::write(file, "").unwrap();
        }
        let lock = hold(&held).unwrap();
        let (side, _) = Side::file(&path("rows")).unwrap().unwrap();
        sweep_beside(&path("rows"));
        assert!(!left.exists() && side.path().exists() && held.exists());
        assert!(others.iter().all(|other| other.exists()));
        drop(lock);
        sweep_beside(&path("rows"));
        assert!(!held.exists());
    }

    #[test]
    fn what_this_process_writes_stays_and_a_name_that_is_taken_is_passed_over() {
        let here = tempfile::tempdir().unwrap();
        let target = here.path().join("rows");
        let (one, _) = Side::file(&target).unwrap().unwrap();
        sweep(here.path());
        assert!(one.path().exists());
        let taken = std::cell::RefCell::new(Vec::new());
        let make = |path: &Path| {
            if taken.borrow().len() < 3 {
                fs::write(path, "of another container")?;
                taken.borrow_mut().push(path.to_owned());
            }
            File::create_new(path)
        };
        let (two, _) = Side::new(&target, make).unwrap().unwrap();
        assert!(!taken.borrow().iter().any(|path| path == two.path() || path == one.path()));
        drop(two);
        assert!(taken.borrow().iter().all(|path| path.exists()), "they are not ours");
        let endless = Side::new(&target, |_| Err::<(), _>(io::ErrorKind::AlreadyExists.into())).unwrap_err();
        assert_eq!(endless.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_is_kept_is_nobodys_to_remove() {
        let here = tempfile::tempdir().unwrap();
        let (side, file) = Side::file(&here.path().join("rows")).unwrap().unwrap();
        fs::write(side.path(), "whole").unwrap();
        drop(file);
        // A process of this one's number has kept something here before.
        let others = side.path().with_extension("kept");
        fs::write(&others, "another's").unwrap();
        let kept = side.keep().unwrap();
        drop(side);
        sweep(here.path());
        assert_eq!(fs::read_to_string(kept).unwrap(), "whole");
        assert_eq!(fs::read_to_string(others).unwrap(), "another's");
    }
}
