//! Speed of the data path's kernels on made rows: parsing, renumbering. Prints a line each: the best of several runs.
//!
//! Run with `cargo bench -p flexps-common --bench data`.

use flexps_common::data::generate::{Generator, Kind, Shape};
use flexps_common::data::indexer::Indexer;
use flexps_common::data::keys::KeySet;
use flexps_common::data::libsvm::{Parser, Place};
use flexps_common::data::{Labels, Schema};
use flexps_common::random::SplitMix64;

const ROUNDS: usize = 15;

/// Processor seconds of this process so far, all threads: what else runs on the machine hardly counts.
fn processor() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which lives here.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The least of [`ROUNDS`] runs, in processor seconds.
fn least(mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let started = processor();
            run();
            processor() - started
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[0]
}

fn schema(negative: f32) -> Schema {
    Schema {
        index_base: 1,
        base_detected: true,
        features: None,
        labels: Labels::two(negative, 1.0),
        labels_detected: true,
        bad_rows: 0,
    }
}

fn made(shape: Shape) -> Vec<u8> {
    let mut text = Vec::new();
    Generator::new(shape).expect("shape").write(0..shape.rows, &mut text).expect("memory");
    text
}

/// Rows of a hundred features whose values are written by `write`, given a number in (0, 1] and a whole one.
fn written(write: impl Fn(f64, u64) -> String) -> Vec<u8> {
    let (mut text, mut random) = (String::new(), SplitMix64(1));
    for _ in 0..10_000 {
        text.push('1');
        for i in 0..100 {
            let value = write(1.0 - random.unit(), random.draw() >> 40);
            text.push_str(&format!(" {}:{value}", 1 + i * 1000 + random.draw() % 1000));
        }
        text.push('\n');
    }
    text.into_bytes()
}

fn parse_speed(name: &str, text: &[u8], negative: f32) {
    let mut chunks = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let open = rest.len().min(4 << 20);
        let end = memchr::memrchr(b'\n', &rest[..open]).map_or(rest.len(), |n| n + 1);
        chunks.push(&rest[..end]);
        rest = &rest[end..];
    }
    let place = Place { path: "made", offset: 0, line: Some(1) };
    let mut parser = Parser::new(schema(negative));
    let seconds = least(|| {
        let kept: Vec<_> = chunks.iter().map(|chunk| parser.parse(chunk, &place).expect("good rows")).collect();
        std::hint::black_box(kept);
    });
    println!("parse {name}: {:.2} GB per second of one core", text.len() as f64 / seconds / 1e9);
}

fn index_speed(name: &str, text: &[u8], negative: f32) {
    let place = Place { path: "made", offset: 0, line: Some(1) };
    let block = Parser::new(schema(negative)).parse(text, &place).expect("good rows").block;
    let batches = block.rows() / 100;
    let mut indexer = Indexer::default();
    let mut keys = 0;
    let seconds = least(|| {
        keys = 0;
        for batch in 0..batches {
            keys += indexer.index((100 * batch..100 * batch + 100).map(|i| block.row(i).indices)).0.len();
        }
    });
    println!(
        "index {name}, 100 rows: {:.1} us, {:.1} ns a non-zero, {} keys",
        seconds / batches as f64 * 1e6,
        seconds / block.nonzeros() as f64 * 1e9,
        keys / batches
    );
    let seconds = least(|| {
        let mut set = KeySet::default();
        set.insert(&block.indices);
        std::hint::black_box(set.len());
    });
    println!("distinct {name}: {:.2} ns a non-zero", seconds / block.nonzeros() as f64 * 1e9);
    let mut set = KeySet::default();
    set.insert(&block.indices);
    let ranks = set.into_ranks();
    let mut scratch = block.indices.to_vec();
    let seconds = least(|| {
        scratch.copy_from_slice(&block.indices);
        ranks.renumber(&mut scratch);
    });
    println!("renumber {name}: {:.2} ns a non-zero", seconds / block.nonzeros() as f64 * 1e9);
}

fn main() {
    parse_speed("webspam", &made(Shape::new(Kind::Webspam, 3000)), -1.0);
    parse_speed("kdd", &made(Shape::new(Kind::Kdd, 500_000)), 0.0);
    parse_speed("counts", &written(|x, _| format!("{}", (1.0 / x) as u64)), -1.0);
    parse_speed("six decimals with sign", &written(|x, n| format!("{:.6}", if n % 2 == 0 { x } else { -x })), -1.0);
    parse_speed("single precision", &written(|x, _| format!("{}", x as f32)), -1.0);
    parse_speed("double precision", &written(|x, _| format!("{x}")), -1.0);
    parse_speed("scientific", &written(|x, n| format!("{:.6e}", x * 10f64.powi(-((n % 20) as i32)))), -1.0);
    let lr = Shape { features: 1_000_000, nonzeros: 50, ..Shape::new(Kind::Webspam, 20_000) };
    index_speed("1M features", &made(lr), -1.0);
    index_speed("kdd", &made(Shape::new(Kind::Kdd, 100_000)), 0.0);
    index_speed("webspam", &made(Shape::new(Kind::Webspam, 2000)), -1.0);
}
