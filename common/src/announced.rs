//! The keys that workers announce for their next clocks, so that those whose keys don't meet need not wait for one another.
//!
//! Invariants: what is announced for a clock never changes, and it is announced at the latest when the clock begins; under
//! [`crate::plan::Consistency::SparseSsp`] a worker reads and updates at a clock only what it announced for it.

use crate::error::{Error, Result};
use crate::ids::{Key, TableId};
use crate::worker::Touch;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// All keys that a clock touches.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Touches(Vec<Group>);

/// Keys that a clock touches in each of some tables.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The tables, rising.
    pub tables: Vec<TableId>,
    /// Strictly rising keys.
    pub keys: Vec<Key>,
}

impl Touches {
    /// What a worker announces. An error when keys don't rise strictly or a table comes twice.
    pub fn new(touches: &[Touch<'_>]) -> Result<Self> {
        let group = |touch: &Touch<'_>| {
            let mut tables = touch.tables.to_vec();
            tables.sort_unstable();
            Group { tables, keys: touch.keys.to_vec() }
        };
        let groups: Vec<Group> = touches.iter().map(group).collect();
        let mut tables: Vec<_> = groups.iter().flat_map(|group| &group.tables).collect();
        tables.sort_unstable();
        if let Some(twice) = tables.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::bug(format!("table {} comes twice in what is announced for a clock", twice[0])));
        }
        if let Some(pair) = groups.iter().find_map(|group| group.keys.windows(2).find(|pair| pair[0] >= pair[1])) {
            return Err(Error::bug(format!("announced keys must rise: {} is followed by {}", pair[0], pair[1])));
        }
        Ok(Self(groups))
    }

    /// Of groups that were checked before; a table may be in several of them.
    pub fn of(groups: Vec<Group>) -> Self {
        Self(groups)
    }

    /// Its groups.
    pub fn groups(&self) -> &[Group] {
        &self.0
    }

    /// Number of keys; those of several tables count once.
    pub fn keys(&self) -> usize {
        self.0.iter().map(|group| group.keys.len()).sum()
    }

    /// Whether both touch some key of the same table.
    pub fn meets(&self, other: &Self) -> bool {
        let share = |a: &Group, b: &Group| a.tables.iter().any(|table| b.tables.contains(table));
        self.0.iter().any(|a| other.0.iter().any(|b| share(a, b) && meet(&a.keys, &b.keys)))
    }

    /// All that any of `parts` touches.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut merged: BTreeMap<&[TableId], Vec<Key>> = BTreeMap::new();
        for group in parts.into_iter().flat_map(|part| &part.0) {
            merged.entry(&group.tables).or_default().extend_from_slice(&group.keys);
        }
        let group = |(tables, mut keys): (&[TableId], Vec<Key>)| {
            keys.sort_unstable();
            keys.dedup();
            Group { tables: tables.to_vec(), keys }
        };
        Self(merged.into_iter().map(group).collect())
    }

    /// The keys of a table; none when it is not touched.
    fn of_table(&self, table: TableId) -> &[Key] {
        self.0.iter().find(|group| group.tables.contains(&table)).map_or(&[], |group| &group.keys)
    }
}

/// Whether two strictly rising lists have a key in common. Jumps ahead in the longer one, since lists may differ much in
/// length.
fn meet(a: &[Key], b: &[Key]) -> bool {
    let (short, mut long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    for key in short {
        let mut step = 1;
        while step < long.len() && long[step] < *key {
            step *= 2;
        }
        let (from, to) = (step / 2, long.len().min(step + 1));
        long = &long[from + long[from..to].partition_point(|other| other < key)..];
        match long.first() {
            Some(other) if other == key => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// What one worker announced, and where it stands.
#[derive(Debug, Default)]
pub struct Announcements {
    clock: u64,
    /// By clock, from the present one on.
    ahead: BTreeMap<u64, Arc<Touches>>,
}

impl Announcements {
    /// Takes what the worker will touch at `clock`. An error when that has passed or was announced before.
    pub fn announce(&mut self, clock: u64, touches: &[Touch<'_>]) -> Result<Arc<Touches>> {
        if clock < self.clock {
            let now = self.clock;
            return Err(Error::bug(format!("clock {clock} is announced at clock {now}; announce clocks ahead")));
        }
        if self.ahead.contains_key(&clock) {
            return Err(Error::bug(format!("clock {clock} is announced twice; announce all of its keys at once")));
        }
        let touches = Arc::new(Touches::new(touches)?);
        self.ahead.insert(clock, touches.clone());
        Ok(touches)
    }

    /// An error unless all of `keys` were announced for the present clock.
    pub fn check(&self, table: TableId, name: &str, keys: &[Key]) -> Result<()> {
        let announced = self.now(table);
        if announced == keys {
            return Ok(());
        }
        let mut rest = announced;
        for key in keys {
            rest = &rest[rest.partition_point(|other| other < key)..];
            if rest.first() != Some(key) {
                return Err(self.missing(name, *key));
            }
        }
        Ok(())
    }

    /// An error unless all of `keys` were announced for the present clock.
    pub fn check_range(&self, table: TableId, name: &str, keys: Range<u64>) -> Result<()> {
        let announced = self.now(table);
        let known = &announced[announced.partition_point(|key| u64::from(*key) < keys.start)..];
        let mut known = known.iter().map(|key| u64::from(*key));
        match keys.clone().find(|key| known.next() != Some(*key)) {
            Some(key) => Err(self.missing(name, key as Key)),
            None => Ok(()),
        }
    }

    /// The present clock has ended.
    pub fn tick(&mut self) {
        self.ahead.remove(&self.clock);
        self.clock += 1;
    }

    fn now(&self, table: TableId) -> &[Key] {
        self.ahead.get(&self.clock).map_or(&[], |touches| touches.of_table(table))
    }

    fn missing(&self, name: &str, key: Key) -> Error {
        let clock = self.clock;
        Error::bug(format!(
            "key {key} of table {name} was not announced for clock {clock}; under sparse-ssp a worker announces all \
             keys of a clock before it reads or updates them"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const T: TableId = TableId(3);

    fn touches(tables: &[TableId], keys: &[Key]) -> Touches {
        Touches::new(&[Touch { tables, keys }]).unwrap()
    }

    proptest! {
        #[test]
        fn lists_meet_exactly_when_they_have_a_key_in_common(
            a in prop::collection::btree_set(0u32..400, 0..60),
            b in prop::collection::btree_set(0u32..400, 0..12),
        ) {
            let [one, other] = [&a, &b].map(|keys| touches(&[T], &keys.iter().copied().collect::<Vec<_>>()));
            prop_assert_eq!(one.meets(&other), !a.is_disjoint(&b));
            prop_assert_eq!(other.meets(&one), !a.is_disjoint(&b));
            prop_assert!(!one.meets(&touches(&[TableId(4)], &other.0[0].keys)), "other tables never meet");
            let union: Vec<_> = a.union(&b).copied().collect();
            prop_assert_eq!(Touches::merged([&one, &other]), touches(&[T], &union));
        }

        #[test]
        fn the_first_key_that_was_not_announced_is_named(
            announced in prop::collection::btree_set(0u32..100, 0..60),
            keys in prop::collection::btree_set(0u32..100, 0..20),
            range in (0u64..90, 0u64..10),
        ) {
            let mut worker = Announcements::default();
            let list: Vec<_> = announced.iter().copied().collect();
            worker.announce(0, &[Touch { tables: &[T], keys: &list }]).unwrap();
            let first = |keys: &BTreeSet<Key>| keys.difference(&announced).next().copied();
            let named = |error: Option<Error>, key: Option<Key>| match (error, key) {
                (None, None) => true,
                (Some(e), Some(key)) => e.message.starts_with(&format!("key {key} of table w was not announced")),
                _ => false,
            };
            let list: Vec<_> = keys.iter().copied().collect();
            prop_assert!(named(worker.check(T, "w", &list).err(), first(&keys)));
            let range = range.0..range.0 + range.1;
            let in_range = range.clone().map(|key| key as Key).collect();
            prop_assert!(named(worker.check_range(T, "w", range).err(), first(&in_range)));
        }
    }

    #[test]
    fn a_clock_is_announced_once_and_not_behind_its_end() {
        let mut worker = Announcements::default();
        let touch = |keys| [Touch { tables: &[T], keys }];
        worker.announce(1, &touch(&[5])).unwrap();
        worker.announce(0, &touch(&[])).unwrap();
        assert!(worker.announce(1, &touch(&[6])).unwrap_err().message.contains("announced twice"));
        assert!(worker.check(T, "w", &[5]).is_err(), "key 5 is the next clock's");
        worker.tick();
        worker.check(T, "w", &[5]).unwrap();
        assert!(worker.announce(0, &touch(&[])).unwrap_err().message.contains("announced at clock 1"));
        worker.tick();
        assert!(worker.check(T, "w", &[5]).unwrap_err().message.contains("for clock 2"));
    }

    #[test]
    fn a_table_is_announced_once_per_clock_and_its_keys_rise() {
        let twice = [Touch { tables: &[T, TableId(4)], keys: &[1] }, Touch { tables: &[T], keys: &[2] }];
        assert!(Touches::new(&twice).unwrap_err().message.contains("comes twice"));
        assert!(Touches::new(&[Touch { tables: &[T], keys: &[2, 2] }]).unwrap_err().message.contains("must rise"));
    }
}
