//! The store against a slow twin: a map from key to values.

use super::*;
use flexps_common::ids::Key;
use flexps_common::plan::{Storage, TableOp};
use flexps_common::updates::Update;
use flexps_common::value::Element;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn spec(name: &str, width: u32, storage: Storage, update: &str, params: &[f64]) -> TableSpec {
    TableSpec {
        name: name.to_owned(),
        element: Type::F32,
        width,
        storage,
        update: update.to_owned(),
        update_params: params.to_vec(),
    }
}

fn shard(specs: &[TableSpec]) -> Shard {
    Shard::new(specs, 0, 1, &Default::default(), &Room::unlimited()).unwrap()
}

fn norm2(store: &Shard, table: TableId) -> f64 {
    let parts = store.op(&TableOp::Norm2 { table, into: "n".into() }).unwrap();
    parts.into_iter().map(|(_, part)| part).sum()
}

const A: TableId = TableId(0);
const B: TableId = TableId(1);

/// A request of the random tests.
#[derive(Debug, Clone)]
enum Request {
    Add(Vec<Key>),
    AddRange(Key, u32),
    Scale(f64),
    Zero,
    CopyToB,
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let keys = proptest::collection::btree_set(0u32..400_000, 0..60).prop_map(|s| s.into_iter().collect());
    let request = prop_oneof![
        5 => keys.prop_map(Request::Add),
        2 => (0u32..400_000, 0u32..9000).prop_map(|(start, count)| Request::AddRange(start, count)),
        1 => (-2.0..2.0f64).prop_map(Request::Scale),
        1 => Just(Request::Zero),
        1 => Just(Request::CopyToB),
    ];
    proptest::collection::vec(request, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn dense_and_sparse_tables_of_every_width_agree_with_a_map(
        requests in requests(), width in 1u32..5, sparse: bool, sparse_b: bool
    ) {
        let form = |sparse| if sparse { Storage::Sparse } else { Storage::Dense };
        let store = shard(&[
            spec("a", width, form(sparse), "add", &[]), spec("b", width, form(sparse_b), "add", &[])
        ]);
        let w = width as usize;
        let (mut twin, mut twin_b): (BTreeMap<Key, Vec<f32>>, BTreeMap<Key, Vec<f32>>) = Default::default();
        let mut value = 0.5f32;
        for request in &requests {
            match request {
                Request::Scale(by) => {
                    store.op(&TableOp::Scale { table: A, by: *by }).unwrap();
                    twin.values_mut().flatten().for_each(|x| *x = f32::from_f64(x.to_f64() * by));
                }
                Request::Zero => {
                    store.op(&TableOp::Zero { table: A }).unwrap();
                    twin.clear();
                }
                Request::CopyToB => {
                    store.op(&TableOp::Copy { from: A, to: B }).unwrap();
                    twin_b = twin.clone();
                }
                Request::Add(_) | Request::AddRange(..) => {
                    let (list, keys) = match request {
                        Request::Add(list) => (list.clone(), Keys::List(list)),
                        Request::AddRange(start, count) =>
                            ((*start..start + count).collect(), Keys::Range { start: *start, count: *count }),
                        _ => unreachable!(),
                    };
                    let mut values = Vec::new();
                    for key in &list {
                        let row = twin.entry(*key).or_insert_with(|| vec![0.0; w]);
                        for old in row {
                            value = value * 1.25 % 7.0;
                            values.push(value);
                            *old += value;
                        }
                    }
                    store.add(A, keys, Values::F32(&values)).unwrap();
                }
            }
        }
        for (table, twin) in [(A, &twin), (B, &twin_b)] {
            let mut keys: Vec<Key> = twin.keys().copied().chain([0, 65_535, 65_536, 1 << 20, u32::MAX]).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut out = vec![f32::NAN; keys.len() * w];
            store.get(table, Keys::List(&keys), ValuesMut::F32(&mut out)).unwrap();
            for (key, row) in keys.iter().zip(out.chunks_exact(w)) {
                prop_assert_eq!(row, twin.get(key).cloned().unwrap_or(vec![0.0; w]), "key {}", key);
            }
            let (start, count) = (keys[keys.len() / 2], 5000u32);
            if start < 1 << 30 {
                let mut out = vec![f32::NAN; count as usize * w];
                store.get(table, Keys::Range { start, count }, ValuesMut::F32(&mut out)).unwrap();
                for (key, row) in (start..start + count).zip(out.chunks_exact(w)) {
                    prop_assert_eq!(row, twin.get(&key).cloned().unwrap_or(vec![0.0; w]), "key {}", key);
                }
            }
            let norm: f64 = twin.values().flatten().map(|x| x.to_f64().powi(2)).sum();
            let found = norm2(&store, table);
            prop_assert!((norm - found).abs() <= 1e-9 * norm.max(1e-9), "{} {}", norm, found);
        }
    }
}

#[test]
fn update_functions_do_what_their_names_say() {
    let specs = [("assign", &[][..]), ("max", &[]), ("sgd", &[0.5])].map(|(f, p)| spec(f, 1, Storage::Dense, f, p));
    let store = shard(&specs);
    for (table, expected) in [(0, [-4.0, 2.0]), (1, [3.0, 9.0]), (2, [0.5, -5.5])] {
        let table = TableId(table);
        store.add(table, Keys::List(&[5, 70_000]), Values::F32(&[3.0, 9.0])).unwrap();
        store.add(table, Keys::Range { start: 5, count: 1 }, Values::F32(&[-4.0])).unwrap();
        store.add(table, Keys::List(&[70_000]), Values::F32(&[2.0])).unwrap();
        let mut out = [0.0; 2];
        store.get(table, Keys::List(&[5, 70_000]), ValuesMut::F32(&mut out)).unwrap();
        assert_eq!(out, expected);
    }
}

/// Gradients that come one after the other to keys 3 and 70000, two values each.
const GRADIENTS: [[f32; 4]; 4] =
    [[1.0, -0.5, 0.25, 2.0], [0.5, 0.0, -4.0, 1.0], [-3.0, 0.125, 0.5, 0.5], [0.0, 1.5, 1.0, -2.0]];

/// Feeds [`GRADIENTS`] to a table of `parts * 2` elements a key, once by list and once by range; the values of both keys.
fn trained(update: &str, params: &[f64], parts: usize, storage: Storage) -> [Vec<f32>; 2] {
    let width = 2 * parts;
    let store = shard(&[spec("t", width as u32, storage, update, params)]);
    let row = |gradient: &[f32]| [gradient, &vec![99.0; width - 2]].concat();
    for (i, [a, b, c, d]) in GRADIENTS.into_iter().enumerate() {
        let (low, high) = (row(&[a, b]), row(&[c, d]));
        if i % 2 == 0 {
            store.add(A, Keys::List(&[3, 70_000]), Values::F32(&[low, high].concat())).unwrap();
        } else {
            store.add(A, Keys::Range { start: 3, count: 1 }, Values::F32(&low)).unwrap();
            store.add(A, Keys::Range { start: 70_000, count: 1 }, Values::F32(&high)).unwrap();
        }
    }
    [3, 70_000].map(|key| {
        let mut out = vec![f32::NAN; width];
        store.get(A, Keys::List(&[key]), ValuesMut::F32(&mut out)).unwrap();
        out
    })
}

fn near(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{found} {expected}");
    }
}

#[test]
fn adagrad_divides_the_step_by_the_root_of_the_squares_so_far() {
    for storage in [Storage::Dense, Storage::Sparse] {
        for (key, found) in trained("adagrad", &[0.5], 2, storage).into_iter().enumerate() {
            let mut expected = [0.0f64; 4];
            for value in 0..2 {
                let gradients = GRADIENTS.map(|row| f64::from(row[2 * key + value]));
                for upto in (1..=4).filter(|upto| gradients[upto - 1] != 0.0) {
                    let squares: f64 = gradients[..upto].iter().map(|g| g * g).sum();
                    expected[value] -= 0.5 * gradients[upto - 1] / squares.sqrt();
                    expected[2 + value] = squares;
                }
            }
            near(&found, &expected);
        }
    }
}

/// Against the minimum that its update solves for (McMahan et al. 2013, section 3.1): of
/// `g_1..t w + 1/2 sum over s of sigma_s (w - w_s)^2 + l1 |w| + (beta / alpha + l2) / 2 w^2`, found by bisection.
#[test]
fn ftrl_minimises_what_follows_the_regularised_leader() {
    let (alpha, beta, l1, l2) = (0.5, 1.0, 1.25, 0.125);
    for storage in [Storage::Dense, Storage::Sparse] {
        let mut zeros = 0;
        for (key, found) in trained("ftrl", &[alpha, beta, l1, l2], 3, storage).into_iter().enumerate() {
            let mut expected = [0.0f64; 6];
            for value in 0..2 {
                let (mut past, mut w, mut n) = (Vec::new(), 0.0, 0.0f64);
                for g in GRADIENTS.map(|row| f64::from(row[2 * key + value])) {
                    let sigma = ((n + g * g).sqrt() - n.sqrt()) / alpha;
                    n += g * g;
                    past.push((g, sigma, w));
                    // The slope rises with w, with a jump of 2 l1 at 0.
                    let slope = |w: f64| {
                        let losses: f64 = past.iter().map(|(g, sigma, at)| g + sigma * (w - at)).sum();
                        losses + l1 * w.signum() + (beta / alpha + l2) * w
                    };
                    let (mut low, mut high) = (-100.0, 100.0);
                    for _ in 0..100 {
                        let middle = (low + high) / 2.0;
                        if slope(middle) < 0.0 { low = middle } else { high = middle }
                    }
                    w = (low + high) / 2.0;
                }
                expected[value] = w;
                expected[2 + value] = past.iter().map(|(g, sigma, at)| g - sigma * at).sum();
                expected[4 + value] = n;
                zeros += u32::from(found[value] == 0.0);
            }
            near(&found, &expected);
        }
        assert!((1..4).contains(&zeros), "{zeros} of 4 weights are zero");
    }
}

#[test]
fn a_function_that_keeps_state_refuses_a_table_without_room_for_it() {
    let make =
        |spec: TableSpec| Shard::new(&[spec], 0, 1, &Default::default(), &Room::unlimited()).err().unwrap().message;
    let odd = make(spec("w", 3, Storage::Dense, "adagrad", &[0.1]));
    assert!(odd.starts_with("table w: adagrad keeps values, sums of squares side by side"), "{odd}");
    let whole = TableSpec { element: Type::I32, ..spec("w", 3, Storage::Dense, "ftrl", &[0.1, 1.0, 0.0, 0.0]) };
    assert_eq!(make(whole), "table w: ftrl needs elements of f32 or f64, not I32");
}

#[test]
fn integers_wrap_and_doubles_keep_their_bits() {
    let mut specs = [spec("u", 1, Storage::Dense, "add", &[]), spec("d", 1, Storage::Dense, "add", &[])];
    specs[0].element = Type::U32;
    specs[1].element = Type::F64;
    let store = shard(&specs);
    for _ in 0..2 {
        store.add(A, Keys::List(&[9]), Values::U32(&[u32::MAX])).unwrap();
        store.add(B, Keys::List(&[9]), Values::F64(&[0.1])).unwrap();
    }
    let (mut u, mut d) = ([0], [0.0]);
    store.get(A, Keys::List(&[9]), ValuesMut::U32(&mut u)).unwrap();
    store.get(B, Keys::List(&[9]), ValuesMut::F64(&mut d)).unwrap();
    assert_eq!((u, d), ([u32::MAX - 1], [0.1 + 0.1]));
}

#[test]
fn a_users_function_sees_all_values_of_a_key() {
    /// Adds, and counts the updates in the last element.
    #[derive(Clone)]
    struct Counting(f64);
    impl Update for Counting {
        fn apply<T: Element>(&self, current: &mut [T], update: &[T]) {
            let last = current.len() - 1;
            for (current, update) in current[..last].iter_mut().zip(update) {
                *current = current.plus(*update);
            }
            current[last] = current[last].plus(T::from_f64(self.0));
        }
    }
    let updates = Updates::new().with("counting", |params| Ok(Counting(params[0])));
    let spec = spec("t", 3, Storage::Sparse, "counting", &[2.0]);
    let store = Shard::new(&[spec], 0, 1, &updates, &Room::unlimited()).unwrap();
    for _ in 0..3 {
        store.add(A, Keys::List(&[1]), Values::F32(&[1.0, 2.0, 0.0])).unwrap();
    }
    let mut out = [0.0; 3];
    store.get(A, Keys::List(&[1]), ValuesMut::F32(&mut out)).unwrap();
    assert_eq!(out, [3.0, 6.0, 6.0]);
}

#[test]
fn requests_that_do_not_fit_are_refused_and_change_nothing() {
    let spec = spec("w", 1, Storage::Dense, "add", &[]);
    let store = Shard::new(std::slice::from_ref(&spec), 1, 3, &Default::default(), &Room::unlimited()).unwrap();
    let mine = 65_536;
    let message = |r: Result<()>| r.unwrap_err().message;
    assert!(message(store.add(A, Keys::List(&[3]), Values::F32(&[1.0]))).contains("served by shard 0, not by 1"));
    assert!(message(store.add(A, Keys::List(&[mine]), Values::F32(&[1.0, 2.0]))).contains("2 values for 1 keys"));
    assert!(message(store.add(A, Keys::List(&[mine]), Values::F64(&[1.0]))).contains("holds f32, not f64"));
    assert!(message(store.add(B, Keys::List(&[mine]), Values::F32(&[1.0]))).contains("table t1 of a plan with 1"));
    assert!(store.check(A, Keys::Range { start: mine, count: 65_537 }, Type::F32, 65_537).is_err());
    assert!(store.check(A, Keys::Range { start: mine, count: 65_536 }, Type::F32, 65_536).is_ok());
    assert_eq!(norm2(&store, A), 0.0);
    let bad = TableSpec { update: "sum".into(), ..spec };
    let error = Shard::new(&[bad], 1, 3, &Default::default(), &Room::unlimited()).err().unwrap();
    let known = "table w: no update function is called 'sum'; this build knows adagrad, add, assign, ftrl, max, sgd";
    assert_eq!(error.message, known);
}

fn within(specs: &[TableSpec], limit: u64, folder: &std::path::Path) -> Shard {
    Shard::new(specs, 0, 1, &Default::default(), &Room::new(limit, folder)).unwrap()
}

/// The bytes of one chunk of a table of one f32 per key.
const CHUNK: u64 = 1 << 18;

#[test]
fn a_table_of_four_times_the_memory_holds_the_same_bits_as_one_that_fits() {
    let folder = tempfile::tempdir().unwrap();
    let specs = [spec("a", 1, Storage::Dense, "add", &[]), spec("b", 3, Storage::Dense, "add", &[])];
    let (all, little) = (shard(&specs), within(&specs, 6 * CHUNK, folder.path()));
    // 16 chunks of the first table and 12 smaller ones of the second.
    std::thread::scope(|scope| {
        for store in [&all, &little] {
            for worker in 0..2u32 {
                scope.spawn(move || {
                    for round in 0..30u32 {
                        // Each worker's keys are its own, so that the order of the two does not matter.
                        let keys: Vec<Key> = (0..3000).map(|i| ((i * 349 + round * 13) & !1) + worker).collect();
                        let values: Vec<f32> = keys.iter().map(|k| *k as f32 * 1e-3 + round as f32).collect();
                        store.add(A, Keys::List(&keys), f32::wrap(&values)).unwrap();
                        let keys = &keys[..600];
                        let values: Vec<f32> = keys.iter().flat_map(|k| [*k as f32, 1.0, round as f32]).collect();
                        store.add(B, Keys::List(keys), f32::wrap(&values)).unwrap();
                    }
                });
            }
        }
    });
    for store in [&all, &little] {
        store.ops(&[TableOp::Scale { table: A, by: 1.0 / 3.0 }]).unwrap();
    }
    let read = |store: &Shard, table, values: usize, count| {
        let mut out = vec![0.0f32; values];
        store.get(table, Keys::Range { start: 0, count }, f32::wrap_mut(&mut out)).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(read(&little, A, 1 << 20, 1 << 20), read(&all, A, 1 << 20, 1 << 20));
    assert_eq!(read(&little, B, 600_000, 200_000), read(&all, B, 600_000, 200_000));
    let norm = |store: &Shard| norm2(store, A).to_bits();
    assert_eq!(norm(&little), norm(&all));
    let used = little.take_disk_use();
    assert!(used.written_bytes > 10 * CHUNK && used.read_bytes > 10 * CHUNK, "{used:?}");
    assert_eq!(all.take_disk_use(), Default::default());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
}

#[test]
fn what_is_used_stays_in_memory_and_what_did_not_change_is_not_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = within(&[spec("a", 1, Storage::Dense, "add", &[])], 4 * CHUNK, folder.path());
    let touch = |chunk: u32| store.add(A, Keys::List(&[chunk << 16]), f32::wrap(&[1.0])).unwrap();
    let mut out = [0.0f32];
    (0..8).for_each(touch);
    assert_eq!(store.take_disk_use().written_bytes, 4 * CHUNK);
    for round in 0..50u32 {
        store.get(A, Keys::List(&[7 << 16]), f32::wrap_mut(&mut out)).unwrap();
        store.get(A, Keys::List(&[(round % 7) << 16]), f32::wrap_mut(&mut out)).unwrap();
        assert_eq!(out, [1.0]);
    }
    let used = store.take_disk_use();
    // Chunk 7 is read at every other request and never leaves, once the hand has come by the others; of these four
    // were written already, and the other four leave changed once.
    assert!(used.written_bytes <= 4 * CHUNK, "{used:?}");
    assert!((35 * CHUNK..=50 * CHUNK + CHUNK).contains(&used.read_bytes), "{used:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn memory_of_chunks_that_leave_for_larger_ones_is_the_systems() {
    let folder = tempfile::tempdir().unwrap();
    let specs = [spec("a", 1, Storage::Dense, "add", &[]), spec("b", 3, Storage::Dense, "add", &[])];
    let store = within(&specs, 4 * CHUNK, folder.path());
    let ones = vec![1.0f32; 1 << 18];
    let fill = |table, width: u32| {
        let count = (1 << 18) / width;
        let values = &ones[..(count * width) as usize];
        store.add(table, Keys::Range { start: 0, count }, f32::wrap(values)).unwrap();
    };
    fill(A, 1);
    let written = store.take_disk_use().written_bytes;
    fill(B, 3);
    assert!(written == 0 && store.take_disk_use().written_bytes >= 3 * CHUNK);
    // What the system has is zeros; what stayed would stand here as it was.
    let room = [(); 3].map(|()| store.tier.memory.room::<f32>(1 << 16));
    assert!(room.iter().all(|room| room.iter().all(|value| *value == 0.0)));
}

#[test]
fn the_models_of_two_jobs_share_the_memory_and_a_closed_one_gives_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(4 * CHUNK, folder.path());
    let specs = [spec("a", 1, Storage::Dense, "add", &[])];
    let make = || Shard::new(&specs, 0, 1, &Default::default(), &room).unwrap();
    let fill = |store: &Shard| {
        (0..3u32).for_each(|chunk| store.add(A, Keys::List(&[chunk << 16]), f32::wrap(&[1.0])).unwrap());
        store.take_disk_use().written_bytes
    };
    let first = make();
    assert_eq!(fill(&first), 0);
    let second = make();
    let written = fill(&second) + first.take_disk_use().written_bytes;
    assert!(written > 0, "six chunks don't fit where four may be");
    drop(first);
    drop(second);
    assert_eq!(fill(&make()), 0);
}

#[test]
fn a_job_that_holds_all_of_the_memory_leaves_what_another_one_uses_again_and_again() {
    let folder = tempfile::tempdir().unwrap();
    let room = Room::new(8 * CHUNK, folder.path());
    let specs = [spec("a", 1, Storage::Dense, "add", &[])];
    let [large, small] = [(); 2].map(|()| Shard::new(&specs, 0, 1, &Default::default(), &room).unwrap());
    let add = |store: &Shard, chunk: u32| store.add(A, Keys::List(&[chunk << 16]), f32::wrap(&[1.0])).unwrap();
    let read = |store: &Shard, chunk: u32| {
        let mut out = [0.0f32];
        store.get(A, Keys::List(&[chunk << 16]), f32::wrap_mut(&mut out)).unwrap();
        out[0]
    };
    (0..8).for_each(|chunk| add(&large, chunk));
    for round in 0..50u8 {
        for chunk in 0..3 {
            add(&small, chunk);
            assert_eq!(read(&small, chunk), f32::from(round) + 1.0);
        }
    }
    assert_eq!(small.take_disk_use(), Default::default(), "the large one's chunks leave, which nobody uses");
    assert_eq!(large.take_disk_use().written_bytes, 3 * CHUNK);
    // Those come back as they were, beside what the other one has.
    assert!((0..8).all(|chunk| read(&large, chunk) == 1.0));
    assert!((0..3).all(|chunk| read(&small, chunk) == 50.0));
    drop(large);
    small.take_disk_use();
    assert!((0..3).all(|chunk| read(&small, chunk) == 50.0));
    (3..8).for_each(|chunk| add(&small, chunk));
    assert_eq!(small.take_disk_use().written_bytes, 0, "it has all of the memory now");
}

#[test]
fn a_panic_of_a_users_function_is_an_error_that_names_the_table() {
    #[derive(Clone)]
    struct Falling;
    impl Update for Falling {
        fn apply<T: Element>(&self, _current: &mut [T], update: &[T]) {
            assert!(update[0].to_f64() < 2.0, "two is too much");
        }
    }
    let updates = Updates::new().with("falling", |_| Ok(Falling));
    let spec = spec("t", 1, Storage::Dense, "falling", &[]);
    let store = Shard::new(&[spec], 0, 1, &updates, &Room::unlimited()).unwrap();
    let add = |value: f32| store.add(A, Keys::List(&[1]), f32::wrap(&[value]));
    assert_eq!(add(2.0).unwrap_err().message, "the update function of table t panicked: two is too much");
    add(1.0).unwrap();
}

#[test]
fn a_disk_that_cannot_be_written_is_named_with_the_flag() {
    let store = within(&[spec("a", 1, Storage::Dense, "add", &[])], CHUNK, std::path::Path::new("/proc/none"));
    let touch = |chunk: u32| store.add(A, Keys::List(&[chunk << 16]), f32::wrap(&[1.0]));
    touch(0).unwrap();
    let error = (1..4).find_map(|chunk| touch(chunk).err()).unwrap();
    assert!(error.message.contains("/proc/none") && error.message.contains("--model-memory"), "{error}");
}
