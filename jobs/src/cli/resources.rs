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

/// Memory for cached rows unless told: half of what is free, on the machine and in the control group of this process.
pub fn default_cache() -> u64 {
    let free = meminfo("MemAvailable:").into_iter().chain(groups().into_iter().map(|group| group.free())).min();
    // Where nobody says what is free, what any machine has.
    free.map_or(1 << 30, |free| free / 2)
}

/// Memory that stages may ask for unless told: what the machine has, or the control group of this process may use. None where
/// the system does not say.
pub fn default_memory() -> Option<u64> {
    meminfo("MemTotal:").into_iter().chain(groups().into_iter().map(|group| group.limit)).min()
}

fn groups() -> Vec<Group> {
    let names = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    limited(Path::new("/sys/fs/cgroup"), &names)
}

/// Bytes that the system tells under this name.
fn meminfo(name: &str) -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = info.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A control group that has a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    /// Bytes that its processes may use.
    limit: u64,
    /// Bytes that they use and the system would not give up for others.
    used: u64,
}

impl Group {
    fn free(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The groups (as in `/proc/self/cgroup`) and those around them that have a limit. A container sees its own group as the
/// root, whatever it is called outside.
fn limited(root: &Path, groups: &str) -> Vec<Group> {
    let of_line = |line: &str| {
        let (kinds, path) = line.split_once(':')?.1.split_once(':')?;
        let (base, names) = match kinds {
            "" => (root.to_owned(), ["memory.max", "memory.current", "inactive_file"]),
            kinds if kinds.split(',').any(|kind| kind == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
            }
            _ => return None,
        };
        let around = Path::new(path.trim_start_matches('/')).ancestors();
        Some(around.filter_map(|group| limit(&base.join(group), names)).collect::<Vec<_>>())
    };
    groups.lines().filter_map(of_line).flatten().collect()
}

/// What the files of these names tell of a group; the last one is a line of its statistics.
fn limit(folder: &Path, [limit, used, file_pages]: [&str; 3]) -> Option<Group> {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    // Pages of files that nobody has read lately count as used, and go as soon as somebody needs the memory.
    let statistics = read("memory.stat").unwrap_or_default();
    let pages = statistics.lines().find_map(|line| line.strip_prefix(file_pages)?.trim().parse::<u64>().ok());
    Some(Group { limit, used: number(used).unwrap_or(0).saturating_sub(pages.unwrap_or(0)) })
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
        let least = |groups: &str| limited(root.path(), groups).into_iter().map(|group| group.limit).min();
        assert_eq!(least("0::/user/job\n"), None);
        write("user/job/memory.max", "max\n");
        assert_eq!(least("0::/user/job\n"), None);
        write("user/memory.max", "1000\n");
        write("memory/outside/memory.limit_in_bytes", "2000\n");
        assert_eq!(least("0::/user/job\n"), Some(1000));
        assert_eq!(least("5:cpu,memory:/outside\n3:cpu:/user\n"), Some(2000));
        // Of a group that can't be seen from here, the root is the process's own.
        write("memory.max", "300\n");
        assert_eq!(least("0::/not/seen\n"), Some(300));
    }

    #[test]
    fn what_is_free_in_a_control_group_is_its_limit_without_what_is_in_use() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let free = |groups: &str| limited(root.path(), groups).into_iter().map(Group::free).min();
        write("user/memory.max", "1000\n");
        assert_eq!(free("0::/user/job\n"), Some(1000), "nobody says what is in use");
        write("user/memory.current", "700\n");
        assert_eq!(free("0::/user/job\n"), Some(300));
        write("user/memory.stat", "anon 400\ninactive_file 250\nactive_file 50\n");
        assert_eq!(free("0::/user/job\n"), Some(550));
        // The group around it has more, and less of it left.
        write("memory.max", "5000\n");
        write("memory.current", "4900\n");
        assert_eq!(free("0::/user/job\n"), Some(100));
        write("memory/in/memory.limit_in_bytes", "2000\n");
        write("memory/in/memory.usage_in_bytes", "2500\n");
        assert_eq!(free("5:cpu,memory:/in\n"), Some(0), "more than there may be");
        write("memory/in/memory.stat", "inactive_file 1\ntotal_inactive_file 1500\n");
        assert_eq!(free("5:cpu,memory:/in\n"), Some(1000));
    }
}
