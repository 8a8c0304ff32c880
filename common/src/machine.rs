//! The machine that a process is on: its cores, and what an address says of it.
//!
//! Invariant: there is always a core.

use std::sync::LazyLock;

/// Asked for once: the system looks into the files of control groups for it, which takes longer than a short stage.
static CORES: LazyLock<u32> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32));

/// Cores that this process might use when it first asked.
pub fn cores() -> u32 {
    *CORES
}

/// The machine of an address, `10.0.0.1` of `10.0.0.1:7070`; the addresses of one process, which have no port, are all on "".
pub fn of(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |(machine, _)| machine)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn slaves_are_on_one_machine_where_their_addresses_differ_by_port_alone() {
        let same = |one, other| of(one) == of(other);
        assert!(same("10.0.0.1:7070", "10.0.0.1:7071") && same("h1 bulk", "h2 bulk"));
        assert!(!same("10.0.0.1:7070", "10.0.0.2:7070") && same("[::1]:7070", "[::1]:80"));
    }
}
