//! The inputs of a job together, while slaves read them and go.

use crate::assigner::{Next, Reader, Rules, Source, cut};
use crate::job::reading::{Listed, Reading};
use crate::job::readings::Readings;
use flexps_common::data::{Form, InputSpec, Labels, Schema, schema::DataPath};
use flexps_common::experiment::Splits;
use flexps_common::ids::{InputId, SlaveId};
use flexps_common::plan::Plan;
use flexps_common::storage::{BlockMeta, FileMeta};
use flexps_common::wire::control::{ReadDone, Split};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// The readings of a plan's inputs, each a file of so many blocks of a MiB, by so many slaves.
fn readings(plan: &Plan, blocks: &[u64], slaves: u32, rules: Rules) -> Readings {
    let readers: Vec<_> = (1..=slaves).map(|id| Reader { slave: SlaveId(id), host: format!("h{id}") }).collect();
    let reading = |(place, count): (u16, &u64)| {
        let block = |i| {
            let hosts = vec![format!("h{}", i % u64::from(slaves) + 1)];
            BlockMeta { start: i * MIB, end: (i + 1) * MIB, hosts, racks: Vec::new() }
        };
        let blocks = (0..*count).map(block).collect();
        let file = FileMeta { path: format!("/f{place}"), len: count * MIB, modified: 0, blocks };
        let schema = Schema {
            index_base: 1,
            base_detected: true,
            features: None,
            labels: Labels::two(0.0, 1.0),
            labels_detected: true,
            bad_rows: 0,
        };
        let listed = Listed { sources: vec![Source { file, form: Form::Text, edges: Vec::new() }], schema };
        let splits = cut(InputId(place), &listed.sources, slaves as usize);
        Reading::new(&plan.inputs[usize::from(place)], &listed, splits, readers.clone(), rules, Duration::ZERO)
    };
    Readings::new((0..).zip(blocks).map(reading).collect(), plan, slaves as usize)
}

/// A plan with so many inputs, the last of which a stage may consume.
fn plan(inputs: usize, consumes: bool) -> Plan {
    let mut plan = Plan::default();
    let spec = |place| InputSpec::new(&format!("input{place}"), vec![DataPath("/f".to_owned())]);
    let all: Vec<_> = (0..inputs).map(|place| plan.input(spec(place)).unwrap()).collect();
    let stage = plan.body.stage("s", |_| Ok(()));
    match all.last() {
        Some(last) if consumes => drop(stage.consumes(*last)),
        _ => {}
    }
    plan
}

/// What a slave has of an input: its splits, and how many of them it has read.
type Has = BTreeMap<(SlaveId, InputId), (Vec<Split>, usize)>;

struct Readers {
    readings: Readings,
    has: Has,
    seconds: u64,
}

impl Readers {
    /// A slave asks once; what it is told.
    fn ask(&mut self, slave: SlaveId, input: InputId) -> Next {
        self.seconds += 10;
        let (splits, read) = self.has.entry((slave, input)).or_default();
        let next = self.readings.next(input, slave, *read as u64, Duration::from_secs(self.seconds)).unwrap();
        match &next {
            Next::Split(split) => splits.push(split.clone()),
            Next::Cut(cut) => self.readings.get_mut(input).unwrap().kept(cut.index, None),
            Next::Wait(_) | Next::End => {}
        }
        next
    }

    /// The bytes that were read to the end of each input, each once.
    fn bytes(&self, input: InputId) -> u64 {
        let of = self.has.iter().filter(|((_, of), _)| *of == input);
        let mut ranges: Vec<(u64, u64)> =
            of.flat_map(|(_, (splits, read))| &splits[..*read]).map(|split| (split.start, split.end)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "read twice: {ranges:?}");
        ranges.iter().map(|(start, end)| end - start).sum()
    }
}

proptest! {
    #[test]
    fn nobody_is_told_the_end_before_all_is_read_whoever_goes_and_each_byte_is_read_once(
        blocks in prop::collection::vec(0u64..6, 1..4),
        slaves in 2u32..5,
        acts in prop::collection::vec((1u32..5, 0u16..3, 0u8..12), 0..80),
        reproducible: bool,
    ) {
        let rules = Rules { splits: Splits::Near, reproducible };
        let plan = plan(blocks.len(), false);
        let inputs: Vec<InputId> = (0..blocks.len() as u16).map(InputId).collect();
        let mut readers = Readers { readings: readings(&plan, &blocks, slaves, rules), has: Has::new(), seconds: 0 };
        let mut live: Vec<SlaveId> = (1..=slaves).map(SlaveId).collect();
        let all_read = |readers: &Readers| inputs.iter().all(|input| readers.bytes(*input) == blocks[input.0 as usize] * MIB);
        for (slave, input, act) in acts {
            let (slave, input) = (SlaveId(slave), InputId(input));
            if !live.contains(&slave) || !inputs.contains(&input) {
                continue;
            }
            if act == 0 && live.len() > 1 {
                let had = inputs.iter().filter_map(|input| readers.has.get(&(slave, *input))).map(|(had, _)| had.len());
                let had = had.sum::<usize>() as u64;
                prop_assert_eq!(readers.readings.give_back(slave).unwrap().splits, had);
                readers.has.retain(|(id, _), _| *id != slave);
                live.retain(|id| *id != slave);
            } else if act < 7 {
                // One that is alone needs nobody to be there for what it leaves.
                if readers.ask(slave, input) == Next::End && live.len() > 1 {
                    prop_assert!(all_read(&readers), "told the end before all was read");
                    prop_assert!(readers.readings.give_back(slave).is_none(), "what was read is lost");
                    return Ok(());
                }
            } else {
                let (splits, read) = readers.has.entry((slave, input)).or_default();
                *read = splits.len().min(*read + 1);
            }
        }
        let mut reading: Vec<_> = live.iter().flat_map(|slave| inputs.iter().map(|input| (*slave, *input))).collect();
        for _ in 0..1000 {
            let mut left = Vec::new();
            for (slave, input) in reading {
                if readers.ask(slave, input) != Next::End {
                    left.push((slave, input));
                }
                let (splits, read) = readers.has.entry((slave, input)).or_default();
                *read = splits.len();
            }
            reading = left;
        }
        prop_assert!(reading.is_empty() && all_read(&readers), "{:?} wait for ever", reading);
    }
}

#[test]
fn rows_of_a_slave_that_goes_are_lost_when_they_are_consumed_or_told_of_or_nobody_else_reads() {
    let first = |readings: &mut Readings, slave| readings.next(InputId(0), SlaveId(slave), 0, Duration::ZERO);
    let mut consumed = readings(&plan(1, true), &[2], 2, Rules::default());
    assert!(matches!(first(&mut consumed, 1), Some(Next::Split(_))));
    assert_eq!(consumed.give_back(SlaveId(1)), None);

    let mut told = readings(&plan(2, false), &[2, 2], 2, Rules::default());
    told.get_mut(InputId(1)).unwrap().done(SlaveId(2), ReadDone::default(), Duration::ZERO).unwrap();
    assert_eq!(told.give_back(SlaveId(1)), None);

    let mut alone = readings(&plan(1, false), &[0], 1, Rules::default());
    assert_eq!(first(&mut alone, 1), Some(Next::End));
    assert_eq!(readings(&plan(1, false), &[2], 1, Rules::default()).give_back(SlaveId(1)), None);
}

#[test]
fn the_end_is_told_when_each_slave_has_asked_after_all_was_read() {
    let mut readings = readings(&plan(1, false), &[2], 2, Rules { reproducible: true, ..Rules::default() });
    let mut read = BTreeMap::new();
    // Reads its part to the end; what it is told then.
    let mut asks = |slave| {
        let read = read.entry(slave).or_default();
        loop {
            match readings.next(InputId(0), SlaveId(slave), *read, Duration::ZERO).unwrap() {
                Next::Split(_) => *read += 1,
                other => return other,
            }
        }
    };
    assert!(matches!(asks(1), Next::Wait(_)), "the second has read nothing");
    for _ in 0..2 {
        assert!(matches!(asks(2), Next::Wait(_)), "the first may have died since");
    }
    assert_eq!((asks(1), asks(2)), (Next::End, Next::End));
}

#[test]
fn where_rows_are_consumed_a_slave_that_has_read_its_part_waits_for_nobody() {
    for (consumes, waits) in [(false, true), (true, false)] {
        let mut readings = readings(&plan(2, consumes), &[0, 3], 2, Rules { reproducible: true, ..Rules::default() });
        let next = readings.next(InputId(0), SlaveId(1), 0, Duration::ZERO).unwrap();
        assert_eq!((matches!(next, Next::Wait(_)), next == Next::End), (waits, consumes), "{next:?}");
    }
}
