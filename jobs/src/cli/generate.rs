//! `flexps data generate`: rows of a known shape, written in order by all cores.
//!
//! Invariant: the bytes depend on the flags alone, not on the number of cores.

use super::args::{GenerateArgs, Shape};
use super::file::Whole;
use super::outputs::{self, Folder};
use super::table::count;
use super::terminal::{say, written};
use flexps_common::data::generate::{Generator, Kind};
use flexps_common::error::io;
use flexps_common::storage::{Storage, is_remote};
use flexps_common::{Error, Result, data::generate, machine};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use tokio::runtime::Handle;

/// Text that a thread makes at a time.
const PIECE_BYTES: u64 = 1 << 20;
/// About what a non-zero takes as text.
const BYTES_PER_NONZERO: u64 = 14;

/// Writes the rows.
pub fn generate(runtime: &Handle, args: &GenerateArgs) -> Result<()> {
    let (shape, storage) = (shape(args), Storage::default());
    let failed = |e: std::io::Error| io(args.output.display(), &e);
    let mut writer = RowWriter::new(shape)?;
    if args.output == Path::new("-") {
        if args.files != 1 {
            return Err(Error::user(format!("--files {} goes with a folder; stdout is one file", args.files)));
        }
        return written(writer.write(0..shape.rows, &mut std::io::stdout().lock()));
    }
    let names: Vec<String> = (0..args.files).map(|file| format!("part-{file:05}.libsvm")).collect();
    let parts = (0..)
        .zip(&names)
        .map(|(file, name)| (name.as_str(), shape.rows * file / args.files..shape.rows * (file + 1) / args.files));
    if args.files == 1 && !outputs::ends_as_folder(&args.output) {
        outputs::file(runtime, &storage, &args.output, |out| writer.write(0..shape.rows, out).map_err(failed))?;
    } else if is_remote(&args.output.to_string_lossy()) {
        let folder = Folder::begin(runtime, &storage, &args.output)?;
        for (name, rows) in parts {
            folder.file(name, |out| writer.write(rows, out).map_err(failed).map(|()| true))?;
        }
        folder.put()?;
    } else {
        folder(&args.output, &names)?;
        for (name, rows) in parts {
            Whole::create(&args.output.join(name))?.fill(|file| writer.write(rows, file))?;
        }
    }
    say(&format!("{} in {}", count(shape.rows, "row"), args.output.display()));
    Ok(())
}

/// Makes a folder for files of these names, or takes one that holds no others: whoever reads it would read these too.
fn folder(path: &Path, names: &[String]) -> Result<()> {
    let failed = |e: std::io::Error| io(path.display(), &e);
    std::fs::create_dir_all(path).map_err(failed)?;
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && !names.contains(&name) {
            return Err(Error::user(format!(
                "--output {}: the folder holds other files, {name} among them; remove them, or give another folder",
                path.display()
            )));
        }
    }
    Ok(())
}

fn shape(args: &GenerateArgs) -> generate::Shape {
    let kind = match args.shape {
        Shape::Webspam => Kind::Webspam,
        Shape::Kdd => Kind::Kdd,
    };
    let usual = generate::Shape::new(kind, args.rows);
    generate::Shape {
        features: args.features.unwrap_or(usual.features),
        nonzeros: args.nonzeros.unwrap_or(usual.nonzeros),
        seed: args.seed,
        ..usual
    }
}

/// Makes rows on all cores and writes them in order.
struct RowWriter {
    generators: Vec<Generator>,
    piece_rows: u64,
}

impl RowWriter {
    fn new(shape: generate::Shape) -> Result<Self> {
        let cores = machine::cores() as usize;
        let row_bytes = u64::from(shape.nonzeros) * BYTES_PER_NONZERO;
        Ok(Self { generators: vec![Generator::new(shape)?; cores], piece_rows: (PIECE_BYTES / row_bytes).max(1) })
    }

    fn write(&mut self, rows: Range<u64>, out: &mut dyn Write) -> std::io::Result<()> {
        let mut pieces = (rows.start..rows.end).step_by(self.piece_rows as usize);
        let piece = |start: u64| start..rows.end.min(start + self.piece_rows);
        loop {
            let starts: Vec<u64> = pieces.by_ref().take(self.generators.len()).collect();
            if starts.is_empty() {
                return Ok(());
            }
            let texts: Vec<std::io::Result<Vec<u8>>> = std::thread::scope(|scope| {
                let makers: Vec<_> = starts
                    .iter()
                    .zip(&mut self.generators)
                    .map(|(start, generator)| {
                        let numbers = piece(*start);
                        scope.spawn(move || {
                            let mut text = Vec::new();
                            generator.write(numbers, &mut text).map(|()| text)
                        })
                    })
                    .collect();
                let failed = || std::io::Error::other("a thread that makes rows ended early");
                makers.into_iter().map(|maker| maker.join().unwrap_or_else(|_| Err(failed()))).collect()
            });
            for text in texts {
                out.write_all(&text?)?;
            }
        }
    }
}
