//! The machine that a process is on: its cores, and what an address says of it.
//!
//! Invariant: there is always a core.

/// Cores that this process may use.
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
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
