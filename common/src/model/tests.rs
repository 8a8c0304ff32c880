//! Promises of the model folder.

use super::*;
use crate::data::schema::DataPath;
use crate::error::Fault;
use crate::storage::Storage;
use std::fs;
use std::path::Path;

fn path(folder: &Path, name: &str) -> DataPath {
    DataPath(folder.join(name).to_string_lossy().into_owned())
}

fn description(features: u64) -> Description {
    Description {
        created_by: created_by(),
        job: "lr".to_owned(),
        params: serde_json::json!({"eta": 0.1}),
        labels: Labels::two(0.0, 1.0),
        index_base: 1,
        features,
        facts: Facts { rows: 7, features, ..Facts::default() },
        objective: Some(0.25),
        epochs: 3,
    }
}

fn tensors(len: u64) -> Vec<TensorSpec> {
    vec![TensorSpec { name: WEIGHTS.to_owned(), len }, TensorSpec { name: BIAS.to_owned(), len: 1 }]
}

fn write(path: &DataPath, overwrite: bool, weights: &[f32]) -> Result<()> {
    let mut writer = Writer::create(&Storage::default(), path, overwrite, tensors(weights.len() as u64))?;
    for chunk in weights.chunks(3) {
        writer.write(chunk)?;
    }
    writer.write(&[0.5])?;
    writer.finish(&description(weights.len() as u64))
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_model_suits_rows_of_as_many_classes_whose_features_are_numbered_alike() {
    let rows = |labels, index_base| Schema {
        index_base,
        base_detected: true,
        features: None,
        labels,
        labels_detected: true,
        bad_rows: 0,
    };
    let model = description(5);
    model.check_suits(&rows(Labels::two(-1.0, 1.0), 1)).unwrap();
    let classes = model.check_suits(&rows("1,2,3".parse().unwrap(), 1)).unwrap_err();
    assert!(classes.fault == Fault::User && classes.message.contains("as many classes"), "{classes}");
    let base = model.check_suits(&rows(Labels::two(-1.0, 1.0), 0)).unwrap_err();
    assert!(base.fault == Fault::User && base.message.contains("--index-base 1"), "{base}");
}

#[test]
fn a_model_of_several_classes_suits_rows_of_as_many_features() {
    let rows = |features| Facts { features, ..Facts::default() };
    let three = Description { labels: "1,2,3".parse().unwrap(), ..description(5) };
    three.check_width(15, &rows(5)).unwrap();
    for (features, way) in [(4, "give --features 5"), (6, "learn without it")] {
        let error = three.check_width(15, &rows(features)).unwrap_err();
        let told = format!("5 features for each of 3 classes, while the rows have {features}; ");
        assert!(error.fault == Fault::User && error.message.contains(&told), "{error}");
        assert!(error.message.ends_with(way), "{error}");
        // Of these each key is a feature's.
        three.check_width(5, &rows(features)).unwrap();
        description(5).check_width(5, &rows(features)).unwrap();
    }
}

#[test]
fn what_is_written_in_chunks_is_read_back_whole_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let (at, weights) = (path(dir.path(), "deep/m"), [1.0, -2.0, 3.5, 0.0, f32::MIN_POSITIVE]);
    write(&at, false, &weights).unwrap();
    let model = Model::load(&Storage::default(), &at).unwrap();
    assert_eq!((model.weights.as_slice(), &model.bias[..]), (&weights[..], &[0.5][..]));
    assert_eq!(model.description, description(5));
    let mut part = [0.0; 2];
    Reader::open(&Storage::default(), &at).unwrap().read(WEIGHTS, 1, &mut part).unwrap();
    assert_eq!(part, [-2.0, 3.5]);
    // What the safetensors crate itself makes of the file.
    let bytes = fs::read(dir.path().join("deep/m/model.safetensors")).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor(WEIGHTS).unwrap().data(), bytemuck::cast_slice::<f32, u8>(&weights));
}

#[test]
fn an_existing_model_is_refused_without_overwrite_and_replaced_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    write(&at, false, &[1.0]).unwrap();
    for error in [check(&Storage::default(), &at, false).unwrap_err(), write(&at, false, &[2.0]).unwrap_err()] {
        assert!(error.fault == Fault::User && error.message.contains("--overwrite"), "{error}");
    }
    assert_eq!(Model::load(&Storage::default(), &at).unwrap().weights, [1.0]);
    check(&Storage::default(), &at, true).unwrap();
    write(&at, true, &[2.0, 3.0]).unwrap();
    assert_eq!(Model::load(&Storage::default(), &at).unwrap().weights, [2.0, 3.0]);
    assert_eq!(entries(dir.path()), ["m"], "nothing else is left behind");
}

#[cfg(target_os = "linux")]
#[test]
fn while_a_model_is_replaced_there_is_one_at_its_path_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    write(&at, false, &[0.0]).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    let looks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut looks = 0;
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                assert!(Path::new(&at.0).is_dir(), "there is no model after {looks} looks");
                looks += 1;
            }
            looks
        });
        for value in 1..=50u8 {
            write(&at, true, &[f32::from(value)]).unwrap();
        }
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(looks > 50);
    assert_eq!(Model::load(&Storage::default(), &at).unwrap().weights, [50.0]);
    assert_eq!(entries(dir.path()), ["m"], "what was replaced is gone");
}

#[test]
fn a_folder_that_is_no_model_is_not_replaced_even_with_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("home")).unwrap();
    fs::write(dir.path().join("home/letter"), "dear").unwrap();
    let error = check(&Storage::default(), &path(dir.path(), "home"), true).unwrap_err();
    assert!(error.message.contains("is no model"), "{error}");
    assert!(dir.path().join("home/letter").exists());
}

#[test]
fn what_only_looks_like_a_model_or_is_more_than_one_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join("m").join(name);
    let at = path(dir.path(), "m");
    let refused = |says: &str| {
        for overwrite in [true, false] {
            let error = check(&Storage::default(), &at, overwrite).unwrap_err();
            assert!(error.fault == Fault::User && error.message.contains(says), "{error}");
            assert!(error.message.contains("is not replaced"), "{error}");
        }
    };
    // Others have a file of this name.
    fs::create_dir(dir.path().join("m")).unwrap();
    fs::write(file("model.json"), r#"{"format": "layers-model"}"#).unwrap();
    fs::write(file("weights.bin"), "precious").unwrap();
    refused("is no model, since it lacks model.safetensors");
    fs::write(file("model.safetensors"), "").unwrap();
    refused("is no model of flexps, as its model.json shows");
    fs::remove_dir_all(dir.path().join("m")).unwrap();
    write(&at, false, &[1.0]).unwrap();
    let describe = |text: &str| fs::write(file("model.json"), text).unwrap();
    for text in ["", r#"{"created_by": "somebody"}"#, r#"{"created_by": 1}"#] {
        describe(text);
        refused("is no model of flexps");
    }
    // Of a build that said less, or more.
    describe(r#"{"created_by": "flexps 0.0.1", "more": []}"#);
    check(&Storage::default(), &at, true).unwrap();
    fs::write(file("notes.txt"), "mine").unwrap();
    refused("holds more than a model: notes.txt, so");
    fs::write(file("a.txt"), "mine").unwrap();
    refused("holds more than a model: a.txt and 1 more, so");
    let error = write(&at, true, &[2.0]).unwrap_err();
    assert!(error.message.contains("a.txt"), "{error}");
    assert_eq!(entries(&dir.path().join("m")), ["a.txt", "model.json", "model.safetensors", "notes.txt"]);
}

#[test]
fn a_writer_that_is_dropped_leaves_nothing_and_the_old_model_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    write(&at, false, &[1.0]).unwrap();
    let mut writer = Writer::create(&Storage::default(), &at, true, tensors(10)).unwrap();
    writer.write(&[1.0; 5]).unwrap();
    drop(writer);
    assert_eq!(entries(dir.path()), ["m"]);
    assert_eq!(Model::load(&Storage::default(), &at).unwrap().weights, [1.0]);
}

#[test]
fn a_model_that_diverged_is_never_written() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        let error = write(&path(dir.path(), "m"), false, &[1.0, bad]).unwrap_err();
        assert!(error.message.contains("diverged"), "{error}");
    }
    assert!(entries(dir.path()).is_empty());
}

#[test]
fn a_truncated_or_foreign_file_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    write(&at, false, &[1.0; 100]).unwrap();
    let file = dir.path().join("m/model.safetensors");
    let bytes = fs::read(&file).unwrap();
    for len in [0, 7, 20, bytes.len() - 1] {
        fs::write(&file, &bytes[..len]).unwrap();
        let error = Model::load(&Storage::default(), &at).unwrap_err();
        assert!(error.message.contains("model.safetensors") && error.message.contains("truncated"), "{error}");
    }
    let at_type = bytes.windows(3).position(|w| w == b"F32").unwrap();
    let mut integers = bytes.clone();
    integers[at_type] = b'I';
    fs::write(&file, integers).unwrap();
    let error = Model::load(&Storage::default(), &at).unwrap_err();
    assert!(error.message.contains("I32"), "{error}");
}

#[test]
fn a_model_that_was_changed_to_hold_no_number_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    write(&at, false, &[1.0, 2.0]).unwrap();
    let name = dir.path().join("m/model.safetensors");
    let whole = fs::read(&name).unwrap();
    for behind in [4, 8] {
        let mut bytes = whole.clone();
        let at_value = bytes.len() - behind;
        bytes[at_value..at_value + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs::write(&name, bytes).unwrap();
        let error = Model::load(&Storage::default(), &at).unwrap_err();
        assert!(error.fault == Fault::Data && error.message.contains("holds the value NaN"), "{error}");
    }
}

#[test]
fn a_missing_tensor_or_model_is_an_error_that_says_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let at = path(dir.path(), "m");
    assert!(Model::load(&Storage::default(), &at).unwrap_err().message.contains("model.json: no such file"));
    write(&at, false, &[1.0]).unwrap();
    let error = Reader::open(&Storage::default(), &at).unwrap().whole("factors").unwrap_err();
    assert!(error.message.contains("no tensor factors") && error.message.contains("weights"), "{error}");
}

#[test]
fn a_model_that_can_not_be_made_is_refused_under_the_path_that_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for below in ["m", "deep/m"] {
        let at = path(&file, below);
        let error = check(&Storage::default(), &at, false).unwrap_err();
        let says = format!("{at} can't be a model's folder, since {} is a file; give another path", file.display());
        assert_eq!((error.fault, error.message), (Fault::User, says));
    }
    let error = check(&Storage::default(), &DataPath("/proc/1/x".to_owned()), false).unwrap_err();
    assert!(error.fault == Fault::User && error.message.starts_with("/proc/1/x can't be made: "), "{error}");
}

#[test]
fn a_model_goes_nowhere_but_to_a_disk_or_hdfs() {
    let error = check(&Storage::default(), &DataPath("s3://bucket/m".to_owned()), false).unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("on a local disk or in HDFS"), "{error}");
}

#[test]
fn what_a_killed_process_left_goes_with_the_next_save_and_nothing_else() {
    let here = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    let (dead, alive) = (child.id(), std::os::unix::process::parent_id());
    let left = format!(".other.model.{dead}-3.part");
    let stay = [
        format!(".m.{alive}-9999.part"),
        format!("m.{dead}-0.part"),
        format!(".m.{dead}.part"),
        format!(".m.{dead}-x.part"),
        format!(".m.{dead}-0.old"),
        format!(".m.{dead}-7.part"),
    ];
    for name in stay.iter().chain([&left]) {
        let folder = here.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), "half").unwrap();
    }
    // As if its process ran on another machine that shares the disk.
    let lock = std::fs::File::open(here.path().join(&stay[5])).unwrap();
    lock.try_lock().unwrap();
    check(&Storage::default(), &DataPath(here.path().join("m").to_string_lossy().into_owned()), false).unwrap();
    for name in stay {
        assert!(here.path().join(&name).join("model.safetensors").exists(), "{name} is gone");
    }
    assert!(!here.path().join(&left).exists(), "{left} is still there");
}
