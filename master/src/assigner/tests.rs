//! Promises of the assigner.

mod cluster;
mod slow;

use super::*;
use cluster::{Slave, read};
use flexps_common::data::Form;
use flexps_common::data::compression::Compression;
use flexps_common::ids::InputId;
use flexps_common::storage::{BlockMeta, FileMeta};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const PACKED: Form = Form::Packed(Compression::Gzip);

fn source(path: &str, blocks: &[(u64, &[&str])]) -> Source {
    let mut start = 0;
    let blocks: Vec<BlockMeta> = blocks
        .iter()
        .map(|(len, hosts)| {
            let hosts: Vec<String> = hosts.iter().map(|h| (*h).to_owned()).collect();
            let racks = hosts.iter().map(|h| format!("/rack-{}", h.as_bytes()[0])).collect();
            start += len;
            BlockMeta { start: start - len, end: start, hosts, racks }
        })
        .collect();
    Source {
        file: FileMeta { path: path.to_owned(), len: start, modified: 0, blocks },
        form: Form::Text,
        edges: Vec::new(),
    }
}

fn readers(hosts: &[&str]) -> Vec<Reader> {
    (1..).zip(hosts).map(|(id, host)| Reader { slave: SlaveId(id), host: (*host).to_owned() }).collect()
}

fn assigner(sources: &[Source], hosts: &[&str], reproducible: bool) -> Assigner {
    let (splits, racks) = cut(InputId(0), sources, hosts.len());
    Assigner::new(splits, readers(hosts), racks, Rules { reproducible, ..Rules::default() })
}

/// The next split of a slave that says each time that it has read all it has, and is patient.
fn next(assigner: &mut Assigner, slave: SlaveId) -> Option<Split> {
    let read = assigner.taken.get(&slave).map_or(0, Vec::len) as u64;
    for second in 0..100 {
        match assigner.next(slave, read, Duration::from_secs(second)) {
            Next::Split(split) => return Some(split),
            Next::Wait(_) => {}
            Next::Cut(cut) => assigner.kept(cut.index, None),
            Next::End => return None,
        }
    }
    panic!("waits for ever");
}

const HOSTS: [&str; 4] = ["a1", "a2", "b1", "c1"];

fn sources() -> impl Strategy<Value = Vec<Source>> {
    let block = (1u64..40 * MIB, prop::collection::vec(0usize..5, 0..3));
    let file = (prop::collection::vec(block, 0..5), any::<bool>());
    prop::collection::vec(file, 0..5).prop_map(|files| {
        let mut found = Vec::new();
        for (i, (blocks, compressed)) in files.iter().enumerate() {
            let all = ["a1", "a2", "b1", "c1", "x9"];
            let hosts: Vec<Vec<&str>> = blocks.iter().map(|(_, h)| h.iter().map(|i| all[*i]).collect()).collect();
            let blocks: Vec<_> = blocks.iter().zip(&hosts).map(|((len, _), h)| (*len, h.as_slice())).collect();
            let form = if *compressed { PACKED } else { Form::Text };
            found.push(Source { form, ..source(&format!("/f{i}"), &blocks) });
        }
        found
    })
}

proptest! {
    #[test]
    fn splits_cover_every_file_and_keep_block_edges(sources in sources(), slaves in 1usize..5) {
        let (splits, _) = cut(InputId(0), &sources, slaves);
        for source in &sources {
            let own: Vec<&Split> = splits.iter().filter(|s| s.path == source.file.path).collect();
            let mut at = 0;
            for split in &own {
                prop_assert_eq!(split.start, at);
                prop_assert!(split.end > split.start);
                at = split.end;
            }
            prop_assert_eq!(at, source.file.len);
            if source.form == PACKED {
                prop_assert!(own.len() <= 1 && own.iter().all(|s| s.form == PACKED));
            } else {
                for block in &source.file.blocks {
                    prop_assert!(own.iter().any(|s| s.end == block.end));
                }
            }
        }
        prop_assert!(splits.iter().enumerate().all(|(i, s)| s.index as usize == i));
    }

    #[test]
    fn no_split_is_lost_or_given_twice_whoever_asks_and_whoever_goes(
        sources in sources(),
        asks in prop::collection::vec((1u32..5, 0u8..20), 0..60),
        reproducible in any::<bool>(),
    ) {
        let mut assigner = assigner(&sources, &HOSTS, reproducible);
        let total = assigner.splits().len();
        let mut with: BTreeMap<u32, u32> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (slave, action) in asks {
            // The first slave stays, so that somebody can take what comes back.
            if action == 0 && slave > 1 {
                assigner.give_back(SlaveId(slave));
                with.retain(|_, owner| *owner != slave);
                gone.insert(slave);
            } else if let Some(split) = next(&mut assigner, SlaveId(slave)) {
                prop_assert!(!gone.contains(&slave));
                prop_assert_eq!(with.insert(split.index, slave), None, "split {} given twice", split.index);
            }
        }
        for slave in (1..5).chain(1..5) {
            while let Some(split) = next(&mut assigner, SlaveId(slave)) {
                prop_assert_eq!(with.insert(split.index, slave), None, "split {} given twice", split.index);
            }
        }
        prop_assert_eq!(with.len(), total);
        prop_assert_eq!(assigner.handed().splits as usize, total);
    }

    #[test]
    fn a_reproducible_plan_does_not_depend_on_who_asks_first(
        sources in sources(),
        orders in prop::collection::vec(prop::collection::vec(1u32..5, 200), 2),
    ) {
        let runs: Vec<BTreeMap<u32, Vec<u32>>> = orders.iter().map(|order| {
            let mut assigner = assigner(&sources, &HOSTS, true);
            let mut got: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for slave in order.iter().copied().chain((1..5).flat_map(|s| [s; 100])) {
                got.entry(slave).or_default().extend(next(&mut assigner, SlaveId(slave)).map(|s| s.index));
            }
            got
        }).collect();
        prop_assert_eq!(&runs[0], &runs[1]);
    }
}

/// The most bytes that a reader has at least, if each split goes to one of its holders: by all ways to choose.
fn least_most(holders: &[Vec<usize>]) -> usize {
    let ways: usize = holders.iter().map(Vec::len).product();
    let most = |mut way: usize| {
        let mut loads = [0; 3];
        for holders in holders {
            loads[holders[way % holders.len()]] += 1;
            way /= holders.len();
        }
        loads.into_iter().max().unwrap_or(0)
    };
    (0..ways).map(most).min().unwrap_or(0)
}

proptest! {
    #[test]
    fn no_plan_of_local_splits_of_one_size_has_a_less_full_reader(
        holders in prop::collection::vec(prop::sample::subsequence(vec![0usize, 1, 2], 1..=2), 1..9),
    ) {
        let names: Vec<Vec<&str>> = holders.iter().map(|h| h.iter().map(|at| HOSTS[*at]).collect()).collect();
        let blocks: Vec<(u64, &[&str])> = names.iter().map(|names| (64 * MIB, names.as_slice())).collect();
        let (splits, racks) = cut(InputId(0), &[source("/f", &blocks)], 1);
        prop_assert_eq!(splits.len(), holders.len());
        let assigner = Assigner::new(splits, readers(&HOSTS[..3]), racks, Rules::default());
        let most = (1..4).map(|slave| assigner.planned_bytes(SlaveId(slave))).max();
        prop_assert_eq!(most, Some(least_most(&holders) as u64 * 64 * MIB));
    }
}

#[test]
fn a_slave_reads_its_local_blocks_first_and_all_bytes_are_local_with_two_replicas() {
    let pairs: [&[&str]; 3] = [&["a1", "a2"], &["a2", "b1"], &["b1", "a1"]];
    let blocks: Vec<(u64, &[&str])> = (0..12).map(|i| (8 * MIB, pairs[i % 3])).collect();
    let mut assigner = assigner(&[source("/f", &blocks)], &["a1", "a2", "b1"], false);
    for slave in (0..12).map(|i| SlaveId(1 + i % 3)) {
        assert!(next(&mut assigner, slave).is_some());
    }
    let handed = assigner.handed();
    assert_eq!((handed.bytes, handed.local_bytes), (96 * MIB, 96 * MIB));
}

#[test]
fn a_fast_slave_takes_from_the_slow_one_with_the_most_left_and_nearest_first() {
    // Too small to be cut further.
    const LEN: u64 = 200 << 10;
    let blocks: Vec<(u64, &[&str])> =
        vec![(LEN, &["a1"]), (LEN, &["a2"]), (LEN, &["a2"]), (LEN, &["b1"]), (LEN, &["b1"]), (LEN, &["b1"])];
    let mut assigner = assigner(&[source("/f", &blocks)], &["a1", "a2", "b1"], false);
    let taken: Vec<u32> = std::iter::from_fn(|| next(&mut assigner, SlaveId(1))).map(|s| s.index).collect();
    // Its own; then those of the other host of its rack, from the end; then the far host's.
    assert_eq!(taken, [0, 2, 1, 5, 4, 3]);
}

#[test]
fn a_compressed_file_is_one_split_on_the_hosts_that_hold_most_of_it() {
    let blocks: Vec<(u64, &[&str])> = vec![(128 * MIB, &["a1", "a2"]), (128 * MIB, &["a2", "b1"])];
    let (splits, _) = cut(InputId(0), &[Source { form: PACKED, ..source("/f.gz", &blocks) }], 3);
    assert_eq!(splits.len(), 1);
    assert!(splits[0].form == PACKED && splits[0].hosts == ["a2"] && splits[0].end == 256 * MIB);
}

#[test]
fn a_small_local_file_is_cut_so_that_every_slave_has_rows() {
    let (splits, _) = cut(InputId(0), &[source("/f", &[(3 * MIB, &[])])], 3);
    let assigner = Assigner::new(splits, readers(&["h1", "h2", "h3"]), Racks::new(), Rules::default());
    assert_eq!(assigner.queues.values().map(VecDeque::len).collect::<Vec<_>>(), [4, 4, 4]);
}

#[test]
fn a_dataset_file_is_cut_where_its_own_blocks_end_and_lies_where_they_start() {
    let blocks: Vec<(u64, &[&str])> = vec![(10 * MIB, &["a1"]), (10 * MIB, &["b1"])];
    // Blocks of 3 MiB from byte 16 on: the fourth lies across the edge and starts on a1.
    let edges: Vec<u64> = (0..7).map(|i| 16 + 3 * MIB * i).collect();
    let dataset = Source { form: Form::Dataset, edges: edges.clone(), ..source("/f", &blocks) };
    let cut = |slaves| cut(InputId(0), std::slice::from_ref(&dataset), slaves).0;
    let found: Vec<_> = cut(1).iter().map(|s| (s.start, s.end, s.hosts.clone())).collect();
    assert_eq!(found, [(16, edges[4], vec!["a1".to_owned()]), (edges[4], edges[6], vec!["b1".to_owned()])]);
    assert_eq!(cut(3).iter().map(|s| s.start).collect::<Vec<_>>(), edges[..6]);
    assert!(cut(3).iter().all(|s| s.form == Form::Dataset && edges.contains(&s.end)));
}
