//! What is promised where slaves differ in speed or go: in virtual time.

use super::*;

/// The bytes of one split of the inputs below.
const SPLIT: u64 = 64 * MIB;

/// Splits of one file, each on `replicas` of the hosts, in turn and by lot.
fn replicated(splits: usize, hosts: &[&str], replicas: usize, seed: u64) -> (Vec<Split>, Racks) {
    let mut dice = seed;
    let blocks: Vec<(u64, Vec<&str>)> = (0..splits)
        .map(|_| {
            let mut on = Vec::new();
            while on.len() < replicas.min(hosts.len()) {
                dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let host = hosts[(dice >> 33) as usize % hosts.len()];
                if !on.contains(&host) {
                    on.push(host);
                }
            }
            (SPLIT, on)
        })
        .collect();
    let blocks: Vec<(u64, &[&str])> = blocks.iter().map(|(len, on)| (*len, on.as_slice())).collect();
    cut(InputId(0), &[source("/f", &blocks)], 1)
}

/// Reads with these speeds, in splits a second, and returns the seconds beside the ideal, and what was handed out.
fn reads((splits, racks): (Vec<Split>, Racks), hosts: &[&str], speeds: &[f64], rules: Rules) -> (f64, Handed) {
    let ideal = splits.len() as f64 / speeds.iter().sum::<f64>();
    let mut assigner = Assigner::new(splits, readers(hosts), racks, rules);
    let bytes = speeds.iter().map(|speed| speed * SPLIT as f64);
    let mut slaves = (1..).zip(bytes).map(|(id, speed)| Slave::new(SlaveId(id), speed, None)).collect();
    let seconds = read(&mut assigner, &mut slaves);
    (seconds / ideal, assigner.handed())
}

#[test]
fn slaves_of_one_speed_read_what_is_on_their_hosts_and_by_lot_half_of_it() {
    for seed in 0..20 {
        let rules = |splits| Rules { splits, reproducible: false };
        let input = || replicated(64, &HOSTS, 2, seed);
        let (over, near) = reads(input(), &HOSTS, &[1.0; 4], rules(Splits::Near));
        assert!(near.local_bytes as f64 >= 0.95 * near.bytes as f64, "seed {seed}: {near:?}");
        assert!(over <= 1.1, "seed {seed}: {over}");
        let (_, random) = reads(input(), &HOSTS, &[1.0; 4], rules(Splits::Random));
        let share = random.local_bytes as f64 / random.bytes as f64;
        assert!((0.3..0.7).contains(&share), "seed {seed}: {share}");
    }
}

#[test]
fn the_others_take_from_a_slow_slave_to_the_end() {
    for seed in 0..20 {
        let speeds = [1.0, 0.25, 1.0, 1.0];
        let (over, handed) = reads(replicated(64, &HOSTS, 2, seed), &HOSTS, &speeds, Rules::default());
        assert!(over <= 1.25 && handed.stolen > 0, "seed {seed}: {over} {handed:?}");
        let planned = Rules { reproducible: true, ..Rules::default() };
        let (over, handed) = reads(replicated(64, &HOSTS, 2, seed), &HOSTS, &speeds, planned);
        assert!(over > 2.5 && handed.stolen == 0, "seed {seed}: {over} {handed:?}");
    }
}

#[test]
fn a_part_of_what_a_slow_slave_reads_goes_to_one_that_has_nothing_to_do() {
    let one = cut(InputId(0), &[source("/f", &[(SPLIT, &["a1", "a2"]), (SPLIT, &["a1", "a2"])])], 1);
    // Alone, the slow one would take ten times as long.
    let (over, handed) = reads(one, &["a1", "a2"], &[1.0, 0.1], Rules::default());
    assert!(handed.splits > 2 && handed.stolen > 0 && over < 2.0, "{over} {handed:?}");
}

#[test]
fn a_reader_waits_for_what_is_not_on_its_host_as_long_as_a_split_takes_it_and_no_longer() {
    let blocks: Vec<(u64, &[&str])> = vec![(SPLIT, &["a1"]), (SPLIT, &["b1"]), (SPLIT, &["b1"]), (SPLIT, &["b1"])];
    let (splits, racks) = cut(InputId(0), &[source("/f", &blocks)], 1);
    let mut assigner = Assigner::new(splits, readers(&["a1", "b1"]), racks, Rules::default());
    let at = Duration::from_millis;
    let mut ask = |slave, read, now| assigner.next(SlaveId(slave), read, at(now));
    assert!(matches!(ask(1, 0, 0), Next::Split(s) if s.index == 0));
    assert!(matches!(ask(2, 0, 0), Next::Split(s) if s.index == 1));
    assert!(matches!(ask(2, 0, 0), Next::Split(s) if s.index == 2));
    // It reads until 100: then it has nothing, and its moment is 100 ms.
    assert!(matches!(ask(1, 0, 50), Next::Wait(_)));
    for now in [100, 150, 199] {
        assert!(matches!(ask(1, 1, now), Next::Wait(wait) if wait <= at(20)), "at {now}");
    }
    assert!(matches!(ask(1, 1, 200), Next::Split(s) if s.index == 3));
}

#[test]
fn a_reader_that_has_read_many_splits_waits_longer_but_not_for_more_than_three() {
    // An eighth of those that it has read; at most three.
    for (near, splits) in [(16, 2), (24, 3), (48, 3)] {
        let host = |at: u64| if at < near { ["a1"] } else { ["b1"] };
        let hosts: Vec<[&str; 1]> = (0..2 * near).map(host).collect();
        let blocks: Vec<(u64, &[&str])> = hosts.iter().map(|hosts| (SPLIT, &hosts[..])).collect();
        let (cuts, racks) = cut(InputId(0), &[source("/f", &blocks)], 1);
        let mut assigner = Assigner::new(cuts, readers(&["a1", "b1"]), racks, Rules::default());
        let mut ask = |read, now| assigner.next(SlaveId(1), read, Duration::from_millis(now));
        for read in 0..near {
            assert!(matches!(ask(read, 100 * read), Next::Split(_)), "{read} are read");
        }
        let end = 100 * near;
        for now in [end, end + 50, end + 100 * splits - 1] {
            assert!(matches!(ask(near, now), Next::Wait(_)), "at {now} of {near}");
        }
        assert!(matches!(ask(near, end + 100 * splits), Next::Split(s) if u64::from(s.index) >= near), "of {near}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_the_speeds_and_whoever_goes_each_byte_is_read_once_and_nobody_is_idle_for_long(
        sources in sources(),
        speeds in prop::collection::vec(0.05..1.0f64, 4),
        dies in prop::option::of((2u32..5, 0.0..4.0f64)),
        reproducible in any::<bool>(),
        random in any::<bool>(),
    ) {
        let (splits, racks) = cut(InputId(0), &sources, 4);
        let all: u64 = splits.iter().map(|s| s.end - s.start).sum();
        let largest = splits.iter().map(|s| s.end - s.start).max().unwrap_or(0) as f64;
        let rules = Rules { splits: if random { Splits::Random } else { Splits::Near }, reproducible };
        let mut assigner = Assigner::new(splits, readers(&HOSTS), racks, rules);
        let unit = 32.0 * MIB as f64;
        let mut slaves: Vec<Slave> = (1..).zip(&speeds).map(|(id, s)| {
            Slave::new(SlaveId(id), s * unit, dies.filter(|(who, _)| *who == id).map(|(_, at)| at))
        }).collect();
        let seconds = read(&mut assigner, &mut slaves);
        let mut done: Vec<_> =
            slaves.iter().flat_map(|s| &s.done).map(|s| (s.path.clone(), s.start, s.end)).collect();
        done.sort();
        prop_assert_eq!(done.iter().map(|(_, start, end)| end - start).sum::<u64>(), all);
        for pair in done.windows(2) {
            prop_assert!(pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1, "read twice: {:?}", pair);
        }
        if dies.is_none() && !reproducible {
            // A moment, and the largest split that may be given only whole, at the slowest.
            let ideal = all as f64 / (speeds.iter().sum::<f64>() * unit);
            let slowest = speeds.iter().copied().fold(1.0, f64::min) * unit;
            prop_assert!(seconds <= ideal + 2.0 * largest / slowest + 3.5, "{seconds} s, ideal {ideal} s");
        }
    }
}
