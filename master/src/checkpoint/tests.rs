//! Promises of a checkpoint's folder.

use super::file::{ColumnHead, Part};
use super::store::{NAME, Staged};
use super::*;
use flexps_common::error::Fault;
use flexps_common::ids::TableId;
use flexps_common::value::Type;
use flexps_common::wire::checkpoint::ColumnValues;
use flexps_common::wire::moved::{ChunkHead, ChunkId};
use std::fs;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn of() -> Of {
    Of { job: "svrg".to_owned(), params: serde_json::json!({"epochs": 5, "seed": 1}), plan: 7, inputs: 9 }
}

fn folder(path: &Path, of: Of) -> Result<Folder> {
    Folder::open(&Storage::new(Default::default()), &DataPath(path.to_str().unwrap().to_owned()), of)
}

/// Every other one is of a column.
fn part(number: u32) -> Part {
    let (id, element) = (ChunkId { table: TableId(3), chunk: number }, Type::F32);
    match number % 2 {
        0 => Part::Chunk(ChunkHead { id, version: 1, element, keys: None }),
        _ => Part::Column(ColumnHead {
            column: 1,
            first: 1 << 40,
            rows: number,
            values: ColumnValues { element, width: 2 },
        }),
    }
}

fn write(folder: &Folder, chunks: &[&[u8]]) -> u64 {
    let mut writer = folder.begin(&Place::default()).unwrap();
    for (number, values) in (0..).zip(chunks) {
        writer.part(&part(number), values).unwrap();
    }
    writer.finish().unwrap()
}

/// All that a checkpoint holds.
fn read(folder: &Folder) -> Result<Vec<(Part, Vec<u8>)>, Refusal> {
    let mut reader = Reader::open(&*folder.store)?;
    let description: Description =
        serde_json::from_slice(&reader.description()?).map_err(|e| Error::bug(e.to_string()))?;
    assert_eq!((description.of, description.behind.as_str()), (of(), "nothing"));
    assert_eq!(reader.place()?, Place::default());
    let mut chunks = Vec::new();
    while let Some((part, values)) = reader.part()? {
        chunks.push((part, values.to_vec()));
    }
    Ok(chunks)
}

/// Why what is in a folder is of no use.
#[track_caller]
fn useless(folder: &Folder) -> Error {
    match folder.found() {
        Err(Refusal::Useless(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn entries(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_found_again_and_the_next_one_takes_its_place() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("deep/ck");
    let kept = folder(&path, of()).unwrap();
    assert!(kept.found().unwrap().is_none() && entries(&path).is_empty(), "nothing is there before the first");
    for chunks in [&[&[1u8, 2, 3][..], &[]][..], &[&[4; 100_000][..]][..]] {
        let bytes = write(&kept, chunks);
        assert_eq!(entries(&path), [NAME]);
        assert_eq!(path.join(NAME).metadata().unwrap().len(), bytes);
        assert_eq!(kept.found().unwrap(), Some(Place::default()));
        let expected: Vec<_> = (0..).zip(chunks).map(|(number, values)| (part(number), values.to_vec())).collect();
        assert!(read(&kept).unwrap() == expected);
    }
    // One that is not finished changes nothing.
    let mut writer = kept.begin(&Place::default()).unwrap();
    writer.part(&part(0), &[9; 10]).unwrap();
    drop(writer);
    assert!(read(&kept).unwrap() == [(part(0), vec![4; 100_000])]);
    assert_eq!(entries(&path), [NAME]);
    kept.remove().unwrap();
    assert!(!path.exists());
    // A folder that went is made again.
    write(&kept, &[]);
    assert_eq!(kept.found().unwrap(), Some(Place::default()));
}

#[test]
fn what_a_killed_process_left_that_had_the_same_id_costs_no_checkpoint() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    fs::create_dir(&path).unwrap();
    // In a container each master may be process 1.
    for count in 0..100 {
        fs::write(path.join(format!(".{NAME}.{}-{count}.part", std::process::id())), "half").unwrap();
    }
    let kept = folder(&path, of()).unwrap();
    write(&kept, &[&[1, 2]]);
    assert_eq!(entries(&path), [NAME]);
    kept.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn what_a_killed_writer_left_goes_whatever_process_has_its_id_now() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    fs::create_dir(&path).unwrap();
    let left = path.join(format!(".{NAME}.{}-0.part", std::os::unix::process::parent_id()));
    let kept = folder(&path, of()).unwrap();
    for written in [false, true] {
        fs::write(&left, "half").unwrap();
        assert_eq!(kept.found().unwrap().is_some(), written);
        assert!(!left.exists());
        write(&kept, &[]);
    }
    // What this one writes stays.
    let writer = kept.begin(&Place::default()).unwrap();
    kept.found().unwrap();
    writer.finish().unwrap();
    kept.remove().unwrap();
    assert!(!path.exists());
}

#[test]
fn a_folder_has_one_live_job_whatever_it_is_called() {
    let here = tempfile::tempdir().unwrap();
    let [path, link] = ["ck", "link"].map(|name| here.path().join(name));
    let kept = folder(&path, of()).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for other in [path.clone(), here.path().join("ck/../ck"), link.clone()] {
        let error = folder(&other, of()).unwrap_err();
        assert!(error.fault == Fault::User && error.message.contains("another job keeps its checkpoint"), "{error}");
    }
    let clone = kept.clone();
    drop(kept);
    assert!(folder(&path, of()).is_err(), "somebody still writes there");
    drop(clone);
    // Where a link leads to is where things are written.
    let kept = folder(&link, of()).unwrap();
    write(&kept, &[]);
    assert_eq!(entries(&path), [NAME]);
    kept.remove().unwrap();
    assert!(entries(&path).is_empty() && link.is_symlink());
}

#[test]
fn a_checkpoint_of_something_else_is_refused_with_what_differs_as_it_is_called_on_the_command_line() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    write(&folder(&path, of()).unwrap(), &[]);
    let with = |params| Of { params, ..of() };
    let others = [
        (Of { job: "lr".to_owned(), ..of() }, "another job, svrg"),
        (with(serde_json::json!({"epochs": 6, "seed": 1})), "--epochs is 5 there, and 6 here"),
        (with(serde_json::json!({"epochs": 5, "seed": 1, "bias": true})), "--bias is not given there, and given here"),
        (
            with(serde_json::json!({"epochs": 5, "seed": 1, "time_limit": 3})),
            "--time-limit is not given there, and 3 here",
        ),
        (with(serde_json::json!({"epochs": 5, "seed": 1, "step": "auto"})), "and auto here"),
        (Of { inputs: 10, ..of() }, "before one of them was changed"),
        (Of { plan: 8, ..of() }, "another plan"),
    ];
    for (other, says) in others {
        let error = useless(&folder(&path, other).unwrap());
        assert!(error.fault == Fault::User && error.message.contains(says), "{error}");
        assert!(error.message.contains("remove"), "{error}");
    }
    // Where the model goes has nothing to do with it.
    let model = serde_json::json!({"epochs": 5, "seed": 1, "model": "m", "overwrite": true, "bias": false});
    assert!(folder(&path, with(model)).unwrap().found().unwrap().is_some());
    let Of { job, params, plan, inputs } = of();
    let older = serde_json::json!({
        "created_by": "flexps 0", "build": 5, "job": job, "params": params, "plan": plan, "inputs": inputs, "behind": "", "seconds": 1.0
    });
    let kept = folder(&path, of()).unwrap();
    let staged = kept.store.clone().begin().unwrap();
    Writer::create(staged, older.to_string().as_bytes(), &Place::default()).unwrap().finish().unwrap();
    let error = useless(&kept);
    assert!(error.fault == Fault::User && error.message.contains("another build of flexps (flexps 0)"), "{error}");
}

#[test]
fn what_else_is_in_a_folder_stays_there() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "precious").unwrap();
    let kept = folder(&path, of()).unwrap();
    assert_eq!(kept.found().unwrap(), None);
    write(&kept, &[]);
    write(&kept, &[]);
    assert_eq!(entries(&path), [NAME, "mine"]);
    kept.remove().unwrap();
    kept.remove().unwrap();
    assert_eq!(entries(&path), ["mine"]);
    for taken in [path.join("mine"), path.join("mine/ck")] {
        let error = folder(&taken, of()).unwrap_err();
        assert!(error.fault == Fault::User && error.message.contains("mine"), "{error}");
    }
    let error = folder(Path::new("s3://n/ck"), of()).unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("a local disk or in HDFS"), "{error}");
    assert_eq!(fs::read_to_string(path.join("mine")).unwrap(), "precious");
}

#[test]
fn what_can_not_be_removed_is_told() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    let kept = folder(&path, of()).unwrap();
    fs::create_dir(path.join(NAME)).unwrap();
    let error = kept.remove().unwrap_err();
    assert!(error.message.contains(NAME), "{error}");
    assert_eq!(entries(&path), [NAME]);
}

#[test]
fn a_file_that_is_cut_short_or_changed_is_an_error_that_names_it() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    let kept = folder(&path, of()).unwrap();
    write(&kept, &[&[1, 2, 3], &[4; 40]]);
    let file = path.join(NAME);
    let whole = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        // It is looked through to its end before anything is begun.
        let Err(Refusal::Useless(error)) = kept.found() else { panic!("{what} was read") };
        assert!(error.fault == Fault::Data && error.message.contains(NAME), "{what}: {error}");
    };
    for len in 0..whole.len() {
        refused(&whole[..len], &format!("{len} bytes of {}", whole.len()));
    }
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        refused(&changed, &format!("a changed byte {at}"));
    }
    refused(&[&whole[..], &[0]].concat(), "one byte more");
    fs::write(&file, &whole).unwrap();
    assert_eq!((kept.found().unwrap(), read(&kept).unwrap().len()), (Some(Place::default()), 2));
}

#[test]
fn what_can_not_be_read_is_neither_absent_nor_damaged() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    let kept = folder(&path, of()).unwrap();
    write(&kept, &[&[1, 2, 3]]);
    let [file, aside] = [path.join(NAME), here.path().join("aside")];
    fs::rename(&file, &aside).unwrap();
    let unread = |what: &str| match kept.found() {
        Err(Refusal::Unread(error)) => assert!(error.message.contains(NAME), "{what}: {error}"),
        other => panic!("{what}: {other:?}"),
    };
    // It may be looked at, and not read.
    fs::create_dir(&file).unwrap();
    unread("a folder");
    fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink(NAME, &file).unwrap();
    unread("a link to itself");
    fs::remove_file(&file).unwrap();
    // Nor looked at.
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "").unwrap();
    unread("what is below a file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(kept.found().unwrap(), None);
    fs::rename(&aside, &file).unwrap();
    assert_eq!(kept.found().unwrap(), Some(Place::default()));
}

/// A folder that holds these bytes, or what can't be read behind them.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    readable: bool,
    owned: AtomicBool,
}

/// What fails when it is read.
struct Broken;

impl std::io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other(Error::data("no DataNode answers")))
    }
}

impl Store for Held {
    fn folder(&self) -> String {
        "held".to_owned()
    }

    fn file(&self) -> String {
        format!("held/{NAME}")
    }

    fn look(&self) -> Result<bool> {
        Ok(true)
    }

    fn own(&self) {
        self.owned.store(true, Ordering::Relaxed);
    }

    fn sweep(&self) {}

    fn open(&self) -> Result<Box<dyn BufRead>> {
        let bytes = Cursor::new(self.bytes.clone());
        if self.readable { Ok(Box::new(bytes)) } else { Ok(Box::new(BufReader::new(bytes.chain(Broken)))) }
    }

    fn begin(self: Arc<Self>) -> Result<Box<dyn Staged>> {
        Err(Error::bug("nothing is written there"))
    }

    fn remove(&self) -> Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_not_known_to_be_this_jobs_is_not_to_be_replaced() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    write(&folder(&path, of()).unwrap(), &[&[1, 2, 3]]);
    let whole = fs::read(path.join(NAME)).unwrap();
    let look = |len: usize, readable, of: Of| {
        let held = Arc::new(Held { bytes: whole[..len].to_vec(), readable, owned: AtomicBool::new(false) });
        let found = Folder { store: held.clone(), of }.found();
        (
            found.map(|place| place.is_some()).map_err(|e| matches!(e, Refusal::Useless(_))),
            held.owned.load(Ordering::Relaxed),
        )
    };
    let all = whole.len();
    assert_eq!(look(all, true, of()), (Ok(true), true));
    assert_eq!(look(all, true, Of { job: "lr".to_owned(), ..of() }), (Err(true), false), "another's");
    assert_eq!(look(all, true, Of { inputs: 10, ..of() }), (Err(true), true), "outdated");
    assert_eq!(look(20, true, of()), (Err(true), true), "damaged");
    for len in [0, 5, 20] {
        assert_eq!(look(len, false, of()), (Err(false), false), "{len} bytes are read, of whom nobody knows");
    }
    assert_eq!(look(all - 20, false, of()), (Err(false), true), "whose it is was read");
}
