//! What the storage promises of local files.

use super::*;
use crate::error::Fault;
use futures::StreamExt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use tempfile::TempDir;

/// A directory with a few files and things that are no data.
fn tree() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["part-1", "part-0", "part-2.gz", ".hidden", "_SUCCESS", "sub/part-9", "a[1].txt"] {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    dir
}

/// A file of which nothing is known but how long it was.
fn listed(path: &str, len: u64) -> Listed<'_> {
    Listed { path, len, modified: 0 }
}

fn at(dir: &TempDir, name: &str) -> DataPath {
    DataPath(dir.path().join(name).to_str().unwrap().to_owned())
}

async fn names(paths: &[DataPath]) -> Vec<String> {
    let listing = Storage::default().list(paths).await.unwrap();
    listing.files.iter().map(|f| f.path.rsplit('/').next().unwrap().to_owned()).collect()
}

async fn list_error(path: DataPath) -> Error {
    Storage::default().list(&[path]).await.unwrap_err()
}

#[tokio::test]
async fn a_directory_gives_its_files_sorted_without_hidden_ones_and_subdirectories() {
    let dir = tree();
    let expected = ["a[1].txt", "part-0", "part-1", "part-2.gz"];
    assert_eq!(names(&[at(&dir, "")]).await, expected);
    let url = DataPath(format!("file://{}", dir.path().display()));
    assert_eq!(names(&[url]).await, expected);
    let notes = Storage::default().list(&[at(&dir, "")]).await.unwrap().notes;
    let below = dir.path().display();
    assert_eq!(notes, [format!("{below}: 1 subdirectory passed over; '{below}/*/*' names what is in them")]);
    assert!(Storage::default().list(&[at(&dir, "part-*")]).await.unwrap().notes.is_empty());
}

#[tokio::test]
async fn several_paths_give_each_file_once() {
    let dir = tree();
    assert_eq!(names(&[at(&dir, "part-1"), at(&dir, "part-*"), at(&dir, "part-0")]).await.len(), 3);
    assert_eq!(names(&[at(&dir, "part-{0,2.*}")]).await, ["part-0", "part-2.gz"]);
    assert_eq!(names(&[at(&dir, "*/part-?")]).await, ["part-9"]);
}

#[tokio::test]
async fn a_file_whose_name_looks_like_a_glob_is_found() {
    let dir = tree();
    assert_eq!(names(&[at(&dir, "a[1].txt")]).await, ["a[1].txt"]);
}

#[tokio::test]
async fn special_characters_of_directories_are_none_of_a_glob_below_them() {
    let dir = tree();
    for folder in ["run[1]", "run1", "run{2,3}", "run2", "what?", "whatx"] {
        fs::create_dir_all(dir.path().join(folder).join("x")).unwrap();
        fs::write(dir.path().join(folder).join(format!("of-{folder}")), "").unwrap();
    }
    for folder in ["run[1]", "run{2,3}", "what?"] {
        assert_eq!(names(&[at(&dir, &format!("{folder}/*f-*"))]).await, [format!("of-{folder}")]);
        // What another folder has is not taken for it.
        let error = list_error(at(&dir, &format!("{folder}/of-run1"))).await;
        assert!(error.message.contains("no such file"), "{error}");
    }
    assert_eq!(names(&[at(&dir, "run[2]/of-*"), at(&dir, "run{1,4}/of-*")]).await, ["of-run1", "of-run2"]);
}

#[tokio::test]
async fn what_gives_no_file_is_the_users_mistake() {
    let dir = tree();
    fs::create_dir(dir.path().join("empty")).unwrap();
    for (name, says) in [
        ("nothing", "no such file"),
        ("empty", "no files in this directory"),
        ("x*", "no file matches"),
        ("s*", "a directory among the files"),
        ("part-[", "no valid pattern"),
    ] {
        let error = list_error(at(&dir, name)).await;
        assert_eq!(error.fault, Fault::User, "{error}");
        assert!(error.message.contains(says) && error.message.contains(name.trim_end_matches('*')), "{error}");
    }
    let error = list_error(DataPath("/dev/null".to_owned())).await;
    assert!(error.message.contains("neither a regular file"), "{error}");
}

#[tokio::test]
async fn permission_denied_names_the_path() {
    let dir = tree();
    let locked = dir.path().join("sub");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(&locked).is_ok() {
        return; // root may read everything
    }
    let error = list_error(at(&dir, "sub")).await;
    assert!(error.message.contains("permission denied") && error.message.contains("sub"), "{error}");
}

#[tokio::test]
async fn pseudo_blocks_cover_a_file_without_holes() {
    let dir = tempfile::tempdir().unwrap();
    let len = 2 * LOCAL_BLOCK + 5;
    fs::File::create(dir.path().join("f")).unwrap().set_len(len).unwrap();
    let file = &Storage::default().list(&[at(&dir, "f")]).await.unwrap().files[0];
    let edges: Vec<_> = file.blocks.iter().map(|b| (b.start, b.end)).collect();
    assert_eq!(edges, [(0, LOCAL_BLOCK), (LOCAL_BLOCK, 2 * LOCAL_BLOCK), (2 * LOCAL_BLOCK, len)]);
    assert!(file.modified > 0);
}

#[tokio::test]
async fn ranges_equal_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| ((i * i) >> 7) as u8).collect();
    fs::write(dir.path().join("f"), &bytes).unwrap();
    let (storage, DataPath(path), len) = (Storage::default(), at(&dir, "f"), bytes.len() as u64);

    let mut reader = storage.open(listed(&path, len), 10..1_500_000).await.unwrap();
    let mut buf = b"carried".to_vec();
    assert_eq!(reader.append(&mut buf, 1_000_000).await.unwrap(), 1_000_000);
    assert_eq!(&buf[7..], &bytes[10..1_000_010]);
    assert_eq!(reader.position(), 1_000_010);
    buf.clear();
    assert_eq!(reader.append(&mut buf, 1_000_000).await.unwrap(), 499_990);
    assert_eq!(buf, &bytes[1_000_010..1_500_000]);
    assert_eq!(reader.append(&mut buf, 1).await.unwrap(), 0);
    reader.extend(1_500_007);
    buf.clear();
    assert_eq!(reader.append(&mut buf, 100).await.unwrap(), 7);
    assert_eq!(buf, &bytes[1_500_000..1_500_007]);
    reader.extend(u64::MAX);
    assert_eq!(reader.end(), len);

    let pieces: Vec<_> = storage.open(listed(&path, len), 1..len).await.unwrap().into_stream().collect().await;
    let streamed: Vec<u8> = pieces.into_iter().flat_map(|p| p.unwrap()).collect();
    assert_eq!(streamed, &bytes[1..]);
    assert_eq!(storage.read_range(listed(&path, len), 5..9).await.unwrap(), &bytes[5..9]);
}

#[tokio::test]
async fn a_file_that_changed_since_it_was_listed_is_named() {
    let dir = tree();
    let DataPath(path) = at(&dir, "part-0");
    let storage = Storage::default();
    let error = storage.open(listed(&path, 5), 0..5).await.err().unwrap();
    assert!(error.message.contains("had 5 bytes when it was listed and has 6 now"), "{error}");

    let mut reader = storage.open(listed(&path, 6), 0..6).await.unwrap();
    fs::write(&path, "par").unwrap();
    let error = reader.append(&mut Vec::new(), 6).await.unwrap_err();
    assert!(error.message.contains("has 3 now"), "{error}");

    fs::remove_file(&path).unwrap();
    let error = storage.open(listed(&path, 6), 0..6).await.err().unwrap();
    assert!(error.message.contains("vanished"), "{error}");
}

#[tokio::test]
async fn a_range_outside_the_file_is_an_error_and_no_panic() {
    assert_eq!(Storage::default().open(listed("/x", 5), 0..6).await.err().unwrap().fault, Fault::Bug);
}
