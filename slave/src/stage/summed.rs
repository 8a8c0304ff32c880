//! What sums promise, without the slaves around them.

use super::cut::{MESSAGE, Message, Piece, PieceKeys};
use super::sums::{Part, ROOM, Sums};
use crate::kv::Placement;
use flexps_common::home::Home;
use flexps_common::ids::{Key, TableId};
use flexps_common::plan::Consistency;
use flexps_common::report::SumUse;
use flexps_common::value::{OwnedValues, Type, Values};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn sums(workers: usize, add_up: &[bool]) -> Sums {
    let homes = vec![Placement::new(0, &Home::All, 3); add_up.len()];
    Sums::new(Consistency::Bsp, workers, add_up.to_vec(), &homes).unwrap()
}

fn leave(sums: &Sums, worker: usize, (shard, table): (u32, u16), keys: &[Key], values: &[i32]) -> Message {
    let (keys_of, places) = (PieceKeys::List(keys.to_vec()), 0..keys.len());
    let width = values.len() / keys.len().max(1);
    let piece = Piece {
        item: 0,
        table: TableId(table),
        element: Type::I32,
        width,
        keys: keys_of,
        places: vec![places],
        of: None,
    };
    let mut message = Message { shard, pieces: vec![piece], bytes: 4 * values.len() };
    sums.take(worker, &mut message, &[Values::I32(values)]);
    message
}

proptest! {
    #[test]
    fn a_sum_holds_each_update_once_and_its_messages_hold_each_sum_once(
        updates in proptest::collection::vec(
            (0usize..4, 1u32..3, 0u16..2, proptest::collection::btree_map(0u32..60, -9i32..9, 1..40)), 0..12),
        ends in Just([2usize, 0, 3, 1]).prop_shuffle(), gone in 0usize..5
    ) {
        let all = sums(4, &[true, true]);
        let mut plain = BTreeMap::new();
        for (worker, shard, table, update) in updates {
            let (keys, values): (Vec<_>, Vec<_>) = update.into_iter().unzip();
            prop_assert!(leave(&all, worker, (shard, table), &keys, &values).pieces.is_empty());
            for (key, value) in keys.into_iter().zip(values) {
                *plain.entry((shard, table, key)).or_insert(0) += value;
            }
        }
        for worker in &ends[..3] {
            prop_assert!(all.end(*worker, *worker == gone).1.is_empty());
        }
        let (found, messages) = all.end(ends[3], ends[3] == gone);
        let mut sent = BTreeMap::new();
        for message in messages {
            for piece in &message.pieces {
                let (PieceKeys::List(keys), OwnedValues::I32(values)) = (&piece.keys, &found[piece.item].values)
                    else { panic!() };
                let places = piece.places[0].clone();
                prop_assert_eq!(keys.len(), places.len());
                for (key, value) in keys.iter().zip(&values[places]) {
                    prop_assert!(sent.insert((message.shard, piece.table.0, *key), *value).is_none());
                }
            }
        }
        prop_assert_eq!(plain, sent);
    }
}

#[test]
fn what_does_not_add_up_and_what_is_beyond_a_workers_room_is_left_in_the_message() {
    let all = sums(2, &[true, false]);
    assert_eq!(leave(&all, 0, (1, 1), &[3], &[5]).pieces.len(), 1);
    let many: Vec<Key> = (0..(ROOM / 8) as Key).collect();
    let values = vec![1; 2 * many.len()];
    let left = leave(&all, 0, (1, 0), &many, &values);
    assert_eq!((left.pieces.len(), left.bytes), (0, 0));
    let more = leave(&all, 0, (1, 0), &[7], &[1, 1]);
    assert_eq!((more.pieces.len(), more.bytes), (1, 8));
    assert_eq!(all.used(), SumUse { updates: 1, bytes: ROOM as u64, ..SumUse::default() });
}

#[test]
fn sums_of_a_clock_are_taken_by_the_last_who_ends_it_and_of_a_later_one_without_who_has_gone() {
    let all = sums(3, &[true]);
    leave(&all, 0, (1, 0), &[3, 9], &[1, 2]);
    assert!(all.end(0, true).0.is_empty() && all.end(2, false).0.is_empty());
    leave(&all, 1, (1, 0), &[9], &[40]);
    let (keys, values) = (vec![3, 9], OwnedValues::I32(vec![1, 42]));
    assert_eq!(all.end(1, false).0, [Part { shard: 1, table: TableId(0), width: 1, keys, values }]);
    assert!(all.end(1, false).0.is_empty());
    leave(&all, 2, (1, 0), &[4], &[7]);
    assert_eq!(all.end(2, true).0[0].keys, [4]);
    assert!(all.end(1, true).0.is_empty());
    assert_eq!(all.used(), SumUse { updates: 3, bytes: 16, sent: 2, sent_bytes: 12 });
}

#[test]
fn large_sums_are_several_messages() {
    let all = sums(2, &[true]);
    let keys: Vec<Key> = (0..100_000).collect();
    leave(&all, 0, (2, 0), &keys, &vec![1; keys.len()]);
    assert!(all.end(0, false).1.is_empty());
    let (_, made) = all.end(1, false);
    assert_eq!(made.iter().map(|message| message.bytes).sum::<usize>(), 400_000);
    assert!(made.len() == 4 && made.iter().all(|message| message.shard == 2 && message.bytes <= MESSAGE));
}
