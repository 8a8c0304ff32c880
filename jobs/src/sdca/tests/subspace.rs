//! Searches in the plane of the last ways: against the same bound, and by how many epochs they take.

use super::*;

/// Long rows of ones: of worse condition than texts.
fn hard() -> Vec<Block> {
    Rows { rows: 400, features: 1200, nonzeros: 150, one_hot: true, ..Rows::sparse(41) }.blocks(4)
}

/// Demands that no more epochs are taken to 1e-5 of the optimum.
fn assert_few(host: Host, flags: Flags, kind: Kind, most: usize) {
    let taken = assert_certified(host, kind, flags, &hard(), None, 1e-5).epochs.len();
    assert!(taken <= most, "{kind:?}: {taken} epochs");
}

#[test]
fn hard_rows_take_few_epochs() {
    // Without searches 13, 28 and 33.
    for (kind, most) in [(Kind::Logistic, 12), (Kind::SquaredHinge, 20), (Kind::Squared, 23)] {
        assert_few(Host::new(), Flags::default(), kind, most);
    }
}

#[test]
fn workers_that_join_search_together() {
    // Without searches 17, 43 and 52.
    for (kind, most) in [(Kind::Logistic, 14), (Kind::SquaredHinge, 23), (Kind::Squared, 27)] {
        for slots in [2, 3] {
            assert_few(Host::cluster(1, slots), ALL_JOIN, kind, most);
        }
    }
}

#[test]
fn searches_that_find_but_rounding_rest() {
    // The penalty is so weak that the rows' labels are learnt by heart: without a rest, 115 and 154 epochs.
    for slots in [2, 3] {
        let outcome =
            assert_certified(Host::cluster(1, slots), Kind::SquaredHinge, ALL_JOIN, &hard(), Some(1e-4), 1e-5);
        assert!(outcome.epochs.len() <= 80, "{} epochs of {slots}", outcome.epochs.len());
    }
}
