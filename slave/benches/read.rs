//! Speed and memory of the whole reader: a file of made rows to cached blocks. Prints a line each: the median of several runs.
//!
//! Run with `cargo bench -p flexps-slave --bench read -- [ROWS] [PARSERS]`.

use flexps_common::data::generate::{Generator, Kind, Shape};
use flexps_common::data::schema::DataPath;
use flexps_common::data::{Form, Labels, Schema};
use flexps_common::ids::InputId;
use flexps_common::storage::Storage;
use flexps_common::wire::control::{LEAST_PART, Split};
use flexps_slave::reader::held::Held;
use flexps_slave::reader::{NextSplit, Options, Reader};
use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 9;

/// The peak and the current resident memory in MiB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0) / 1024
    };
    (field("VmHWM:"), field("VmRSS:"))
}

/// Processor seconds of this process so far, all threads.
fn processor() -> f64 {
    let mut usage = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one timespec, which lives here.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut usage) };
    usage.tv_sec as f64 + usage.tv_nsec as f64 / 1e9
}

fn make(shape: Shape, path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let mut out = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    Generator::new(shape)?.write(0..shape.rows, &mut out)?;
    Ok(out.flush()?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<u64> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let rows = numbers.first().copied().unwrap_or(20_000);
    let parsers = numbers.get(1).copied().unwrap_or(2) as usize;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("rows.libsvm");
    make(Shape::new(Kind::Webspam, rows), &path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let storage = Storage::default();
    let listed = runtime.block_on(storage.list(&[path.to_string_lossy().parse::<DataPath>()?]))?;
    let file = &listed.files[0];
    let schema = Schema {
        index_base: 1,
        base_detected: true,
        features: None,
        labels: Labels::two(-1.0, 1.0),
        labels_detected: true,
        bad_rows: 0,
    };
    let (_, before) = memory();
    let (mut reading, mut mapping, mut working) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let split = |(index, block): (usize, &flexps_common::storage::BlockMeta)| Split {
            input: InputId(0),
            index: index as u32,
            path: file.path.clone(),
            start: block.start,
            end: block.end,
            file_len: file.len,
            modified: file.modified,
            form: Form::Text,
            hosts: vec![],
        };
        let mut splits: VecDeque<Split> = file.blocks.iter().enumerate().map(split).collect();
        let next: NextSplit = Box::new(move || {
            let split = splits.pop_front();
            Box::pin(async move { Ok(split) })
        });
        let (started, busy) = (Instant::now(), processor());
        let options = Options { parsers, ..Options::new("here") };
        let reader = Reader::start(options, schema.clone(), storage.clone(), Arc::new(Held::new(LEAST_PART)), next)?;
        let done = runtime.block_on(reader.done())?;
        let read = started.elapsed().as_secs_f64();
        working.push(processor() - busy);
        let (peak, _) = memory();
        let map = runtime.block_on(reader.key_map())?;
        mapping.push(started.elapsed().as_secs_f64() - read);
        if reading.is_empty() {
            println!(
                "{} rows, {} non-zeros, {:.0} MB, cached {} MiB, peak {peak} MiB ({} at start), {} local features",
                done.facts.rows,
                done.facts.nonzeros,
                file.len as f64 / 1e6,
                done.cached_bytes >> 20,
                before,
                map.len(),
            );
        }
        reading.push(read);
    }
    reading.sort_by(f64::total_cmp);
    mapping.sort_by(f64::total_cmp);
    working.sort_by(f64::total_cmp);
    let median = reading[ROUNDS / 2];
    println!("read, {parsers} parsers: {median:.3} s, {:.2} GB/s", file.len as f64 / median / 1e9);
    println!("processor time: {:.3} s", working[ROUNDS / 2]);
    println!("best: {:.2} GB/s; key map: {:.3} s", file.len as f64 / reading[0] / 1e9, mapping[ROUNDS / 2]);
    Ok(())
}
