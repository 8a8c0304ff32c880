//! Promises of a checkpoint's folder.

use super::*;
use flexps_common::error::Fault;
use flexps_common::ids::TableId;
use flexps_common::value::Type;
use flexps_common::wire::moved::{ChunkHead, ChunkId};

fn of() -> Of {
    Of { job: "svrg".to_owned(), params: serde_json::json!({"epochs": 5, "seed": 1}), plan: 7, inputs: 9 }
}

fn folder(path: &Path, of: Of) -> Result<Folder> {
    Folder::new(&DataPath(path.to_str().unwrap().to_owned()), of)
}

fn head(chunk: u32) -> ChunkHead {
    let id = ChunkId { table: TableId(3), chunk };
    ChunkHead { id, version: 1, element: Type::F32, keys: None }
}

fn write(folder: &Folder, chunks: &[&[u8]]) -> u64 {
    let place = Place::default();
    let mut writer = folder.begin(&place).unwrap();
    for (number, values) in (0..).zip(chunks) {
        writer.chunk(&head(number), values).unwrap();
    }
    folder.finish(writer, &place).unwrap()
}

/// All that a checkpoint holds.
fn read(path: &Path) -> Result<Vec<(ChunkHead, Vec<u8>)>> {
    let mut reader = Reader::open(path)?;
    assert_eq!(reader.place()?, Place::default());
    let mut chunks = Vec::new();
    while let Some((head, values)) = reader.chunk()? {
        chunks.push((head, values.to_vec()));
    }
    Ok(chunks)
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
    assert_eq!(kept.found().unwrap(), None);
    assert_eq!(entries(&here.path().join("deep")).len(), 0, "nothing is there before the first");
    for chunks in [&[&[1u8, 2, 3][..], &[]][..], &[&[4; 100_000][..]][..]] {
        let bytes = write(&kept, chunks);
        assert_eq!(entries(&path), [NAME, DESCRIPTION].map(str::to_owned));
        assert_eq!(entries(&path).iter().map(|name| path.join(name).metadata().unwrap().len()).sum::<u64>(), bytes);
        assert_eq!(folder(&path, of()).unwrap().found().unwrap(), Some(Place::default()));
        let expected: Vec<_> = (0..).zip(chunks).map(|(number, values)| (head(number), values.to_vec())).collect();
        assert!(read(&path).unwrap() == expected);
    }
    // One that is not finished changes nothing.
    let mut writer = kept.begin(&Place::default()).unwrap();
    writer.chunk(&head(0), &[9; 10]).unwrap();
    drop(writer);
    assert!(read(&path).unwrap() == [(head(0), vec![4; 100_000])]);
    assert_eq!(entries(&here.path().join("deep")), ["ck"]);
    kept.remove();
    assert_eq!(entries(&here.path().join("deep")).len(), 0);
    kept.remove();
}

#[test]
fn a_checkpoint_of_something_else_is_refused_with_what_differs() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    write(&folder(&path, of()).unwrap(), &[]);
    let others = [
        (Of { job: "lr".to_owned(), ..of() }, "another job, svrg"),
        (Of { params: serde_json::json!({"epochs": 6, "seed": 1}), ..of() }, "epochs is 5, and 6 here"),
        (
            Of { params: serde_json::json!({"epochs": 5, "seed": 1, "bias": true}), ..of() },
            "bias is null, and true here",
        ),
        (Of { inputs: 10, ..of() }, "before they were changed"),
        (Of { plan: 8, ..of() }, "another plan"),
    ];
    for (other, says) in others {
        let error = folder(&path, other).unwrap().found().unwrap_err();
        assert!(error.fault == Fault::User && error.message.contains(says), "{error}");
        assert!(error.message.contains("remove"), "{error}");
    }
    let described = path.join(DESCRIPTION);
    let text = fs::read_to_string(&described).unwrap();
    let build = build_id().to_string();
    assert!(text.contains(&build));
    fs::write(&described, text.replace(&build, "5")).unwrap();
    let error = folder(&path, of()).unwrap().found().unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("another build"), "{error}");
}

#[test]
fn what_is_no_checkpoint_is_neither_replaced_nor_removed() {
    let here = tempfile::tempdir().unwrap();
    let [model, file, empty] = ["model", "file", "empty"].map(|name| here.path().join(name));
    fs::create_dir(&model).unwrap();
    fs::write(model.join("model.json"), "{}").unwrap();
    fs::write(&file, "mine").unwrap();
    fs::create_dir(&empty).unwrap();
    for taken in [&model, &file] {
        let error = folder(taken, of()).unwrap_err();
        assert!(error.fault == Fault::User && error.message.contains("is no checkpoint"), "{error}");
    }
    let below = folder(&file.join("ck"), of()).unwrap_err();
    assert_eq!(below.fault, Fault::User, "{below}");
    assert_eq!(folder(Path::new("hdfs://n/ck"), of()).unwrap_err().fault, Fault::User);
    Folder { path: model.clone(), of: of() }.remove();
    assert!(model.join("model.json").is_file());
    let kept = folder(&empty, of()).unwrap();
    assert_eq!(kept.found().unwrap(), None);
    write(&kept, &[]);
    assert_eq!(kept.found().unwrap(), Some(Place::default()));
}

#[test]
fn a_file_that_is_cut_short_or_changed_is_an_error_that_names_it() {
    let here = tempfile::tempdir().unwrap();
    let path = here.path().join("ck");
    write(&folder(&path, of()).unwrap(), &[&[1, 2, 3], &[4; 40]]);
    let file = path.join(NAME);
    let whole = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        let error = read(&path).err().unwrap_or_else(|| panic!("{what} was read"));
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
    fs::write(&file, &whole).unwrap();
    assert_eq!(read(&path).unwrap().len(), 2);
    let described = path.join(DESCRIPTION);
    fs::write(&described, "{\"job\": ").unwrap();
    let error = folder(&path, of()).unwrap().found().unwrap_err();
    assert!(error.fault == Fault::Data && error.message.contains(DESCRIPTION), "{error}");
}
