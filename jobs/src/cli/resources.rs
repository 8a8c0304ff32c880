//! What a slave may use of its machine: the flags, and what holds where they are not given.

use clap::Args;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What a slave, or the embedded one, may use of the machine.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub struct Resources {
    /// Worker threads to lend [default: the machine's cores]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub slots: Option<u32>,
    /// Cores that are this slave's own: as many threads, at most, stages have here of which nobody gives a number [default: those
    /// of the machine, with its other slaves]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cores: Option<u32>,
    /// Memory that stages may ask for, e.g. 64GiB, before others wait; nobody measures what they take [default: what the
    /// machine has, or its container may use]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// Memory for cached rows, e.g. 4GiB; further rows go to disk [default: half of what is free]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub cache_memory: Option<u64>,
    /// Memory for the jobs' tables, e.g. 2GiB; what was used least lately goes to disk [default: no limit]
    #[arg(long, global = true, value_name = "SIZE", value_parser = size)]
    pub model_memory: Option<u64>,
    /// Folder for rows and tables that exceed the memory [default: the system's folder for temporary files]
    #[arg(long, global = true, value_name = "DIR")]
    pub spill_dir: Option<PathBuf>,
}

impl Resources {
    /// The flags that were given.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("--slots", self.slots.is_some()),
            ("--cores", self.cores.is_some()),
            ("--memory", self.memory.is_some()),
            ("--cache-memory", self.cache_memory.is_some()),
            ("--model-memory", self.model_memory.is_some()),
            ("--spill-dir", self.spill_dir.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).collect()
    }
}

/// Memory for cached rows unless told: half of what is free.
pub fn default_cache() -> u64 {
    // Where nobody says what is free, what any machine has.
    meminfo("MemAvailable:").map_or(1 << 30, |free| free / 2)
}

/// Memory that stages may ask for unless told: what the machine has, or the control group of this process may use. None where
/// the system does not say.
pub fn default_memory() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    meminfo("MemTotal:").into_iter().chain(limit(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// Bytes that the system tells under this name.
fn meminfo(name: &str) -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = info.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The least limit of the groups (as in `/proc/self/cgroup`) and of those around them, if there is any. A container sees its
/// own group as the root, whatever it is called outside.
fn limit(root: &Path, groups: &str) -> Option<u64> {
    let of_line = |line: &str| {
        let (_, group) = line.split_once(':')?;
        let (kinds, path) = group.split_once(':')?;
        let (base, file) = match kinds {
            "" => (root.to_owned(), "memory.max"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        let read = |group: &Path| std::fs::read_to_string(base.join(group).join(file)).ok()?.trim().parse::<u64>().ok();
        around.filter_map(read).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// A size such as `512MiB` in bytes.
pub fn size(text: &str) -> Result<u64, String> {
    match bytesize::ByteSize::from_str(text) {
        Ok(size) if size.0 > 0 => Ok(size.0),
        _ => Err(format!("'{text}' is no size; give a number with a unit, e.g. 512MiB or 4GiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_are_not_zero() {
        assert_eq!(size("4GiB"), Ok(4 << 30));
        assert_eq!(size("100"), Ok(100));
        assert!(size("0").is_err() && size("lots").is_err() && size("-1").is_err());
    }

    #[test]
    fn the_least_limit_of_the_control_groups_around_a_process_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(limit(root.path(), "0::/user/job\n"), None);
        write("user/job/memory.max", "max\n");
        assert_eq!(limit(root.path(), "0::/user/job\n"), None);
        write("user/memory.max", "1000\n");
        write("memory/outside/memory.limit_in_bytes", "2000\n");
        assert_eq!(limit(root.path(), "0::/user/job\n"), Some(1000));
        assert_eq!(limit(root.path(), "5:cpu,memory:/outside\n3:cpu:/user\n"), Some(2000));
        // Of a group that can't be seen from here, the root is the process's own.
        write("memory.max", "300\n");
        assert_eq!(limit(root.path(), "0::/not/seen\n"), Some(300));
    }
}
