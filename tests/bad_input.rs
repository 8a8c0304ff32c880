//! What a user gets wrong, and what a machine does: each ends with what happened, where, and what to do.

use crate::support::process::{Invocation, Run, program};
use crate::support::{Held, Rows, flexps, folder, process};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A short training run over `path`.
fn train(path: impl AsRef<Path>) -> Invocation {
    flexps(["run", "svrg", "--epochs", "2", "--tolerance", "0", "--input"]).arg(path.as_ref()).within(60)
}

/// A short training run over a file that holds `text`.
fn train_on(text: impl AsRef<[u8]>) -> (Run, PathBuf, tempfile::TempDir) {
    let here = folder();
    let path = here.path().join("rows.libsvm");
    std::fs::write(&path, text).unwrap();
    let run = train(&path).arg("--json").run();
    (run, path, here)
}

/// `text` is refused as the user's mistake, with the file's name and `words`.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, words: &[&str]) {
    let (run, path, _here) = train_on(text);
    assert_eq!(run.code, 2, "{run}");
    run.says(&["error: ", path.to_str().unwrap()]).says(words);
}

/// `text` is fine and holds `rows` rows.
#[track_caller]
fn accepted(text: &str, rows: u64) -> serde_json::Value {
    let (run, ..) = train_on(text);
    assert_eq!(run.code, 0, "{run}");
    let report = run.json();
    assert_eq!(report["read"]["rows"], rows, "{run}");
    report["read"]["inputs"]["input"].clone()
}

/// The error line names the line of the file.
const GOOD: &str = "+1 1:0.5 3:1\n-1 2:1\n";

#[test]
fn no_such_file() {
    train("/no/such/rows").exits(2).says(&["/no/such/rows", "no such file"]);
    train("/no/such/*.libsvm").exits(2).says(&["/no/such/*.libsvm"]);
}

#[test]
fn an_empty_file() {
    refused("", &["no row"]);
    refused("\n\n# nothing\n", &["no row"]);
}

#[test]
fn a_directory_without_files() {
    let here = folder();
    train(here.path()).exits(2).says(&[here.path().to_str().unwrap(), "no files"]);
}

#[test]
fn permission_denied() {
    use std::os::unix::fs::PermissionsExt;
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, GOOD).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // Without its capabilities even root is refused.
    let words = ["--bounding-set=-all", "--inh-caps=-all", "--"];
    let run = program(Path::new("setpriv"), words).arg(process::binary()).args(["run", "svrg", "--input"]).arg(&path);
    run.exits(2).says(&[path.to_str().unwrap(), "permission denied"]);
}

/// What `tool` makes of `text`.
fn packed(tool: &str, text: &str) -> Vec<u8> {
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, text).unwrap();
    let output = Command::new(tool).arg("-c").arg(&path).stdin(Stdio::null()).output().expect("the tool is installed");
    output.stdout
}

#[test]
fn a_truncated_gzip_or_another_truncated_archive() {
    let text = Rows::generate(1, 2000, 50, 5).text();
    for tool in ["gzip", "bzip2", "zstd"] {
        let whole = packed(tool, &text);
        refused(&whole[..whole.len() / 2], &["truncated"]);
    }
    let mut snappy = snap::write::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut snappy, text.as_bytes()).unwrap();
    let whole = snappy.into_inner().unwrap();
    refused(&whole[..whole.len() / 2], &["truncated"]);
}

#[test]
fn an_archive_of_another_kind() {
    refused(packed("xz", GOOD), &["xz"]);
    refused(b"PK\x03\x04\x14\0\0\0\x08\0 a zip archive begins like this", &["zip"]);
}

#[test]
fn a_blank_line() {
    accepted("+1 1:1\n\n   \n-1 2:1\n\n", 2);
}

#[test]
fn windows_line_ends() {
    let facts = accepted("+1 1:1\r\n-1 2:1\r\n", 2);
    assert_eq!(facts["nonzeros"], 2);
}

#[test]
fn a_last_line_without_its_end() {
    accepted("+1 1:1\n-1 2:1", 2);
}

#[test]
fn a_row_without_features() {
    let facts = accepted("+1 1:1\n-1\n-1 2:1\n", 3);
    assert_eq!(facts["empty_rows"], 1);
}

#[test]
fn index_0_under_base_1() {
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, "+1 1:1\n-1 0:1 2:1\n").unwrap();
    let run = train(&path).args(["--index-base", "1"]).exits(2);
    run.says(&[path.to_str().unwrap(), "line 2", "index 0", "--index-base 0"]);
}

#[test]
fn falling_indices() {
    refused("+1 1:1\n-1 3:1 2:1\n", &["line 2", "2 follows 3"]);
}

#[test]
fn repeated_indices() {
    refused("+1 1:1\n-1 3:1 3:1\n", &["line 2", "3 comes twice"]);
}

#[test]
fn an_index_beyond_32_bits() {
    refused("+1 1:1\n-1 4294967297:1\n", &["line 2", "4294967297"]);
    refused("+1 1:1\n-1 99999999999999999999999:1\n", &["line 2", "9999999"]);
}

#[test]
fn an_index_beyond_the_given_feature_count() {
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, GOOD).unwrap();
    let run = train(&path).args(["--features", "2"]).exits(2);
    run.says(&[path.to_str().unwrap(), "line 1", "index 3", "2 features"]);
    train(&path).args(["--features", "3"]).ok();
}

#[test]
fn nan_or_infinite_values() {
    refused("+1 1:1\n-1 2:nan\n", &["line 2", "2:nan"]);
    refused("+1 1:1\n-1 2:-inf\n", &["line 2", "2:-inf"]);
    refused("+1 1:1\n-1 2:1e99\n", &["line 2", "2:1e99"]);
}

#[test]
fn a_label_that_is_no_number() {
    refused(format!("{GOOD}spam 1:1\n"), &["line 3", "spam"]);
}

#[test]
fn a_third_class() {
    refused("1 1:1\n2 1:1\n3 1:1\n", &["1, 2, 3", "--labels"]);
}

#[test]
fn one_class_only() {
    let (run, ..) = train_on("+1 1:1\n+1 2:1\n");
    assert_eq!(run.code, 2, "{run}");
    run.says(&["all 2 rows", "label 1", "two classes"]);
}

#[test]
fn rows_that_are_longer_than_a_look_at_a_file() {
    // As gene expressions are: few rows of many features.
    let row = |label: &str| (0..9000).fold(label.to_owned(), |row, i| row + &format!(" {i}:0.{i:05}1")) + "\n";
    let facts = accepted(&(row("0") + &row("1") + &row("0")), 3);
    assert_eq!((&facts["features"], &facts["nonzeros"]), (&9000.into(), &27_000.into()), "{facts}");
}

#[test]
fn a_million_character_token() {
    let long = "9".repeat(1_000_000);
    for text in [format!("+1 1:1\n-1 {long}:1\n"), format!("{GOOD}{long}x 1:1\n"), format!("{GOOD}+1 1:{long}x\n")] {
        let (run, ..) = train_on(text);
        assert_eq!(run.code, 2, "{run}");
        assert!(run.stderr.len() < 1000, "the message repeats the token\n{run}");
        run.says(&["error: ", "line "]);
    }
}

#[test]
fn bad_rows_up_to_the_given_limit_are_skipped_and_counted() {
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, format!("{GOOD}+1 x\n{GOOD}-1 2:1 1:1\n")).unwrap();
    let read = train(&path).args(["--bad-rows", "2"]).json()["read"].clone();
    assert_eq!((&read["rows"], &read["inputs"]["input"]["bad_rows"]), (&4.into(), &2.into()));
    train(&path).args(["--bad-rows", "1"]).exits(2).says(&["--bad-rows", path.to_str().unwrap()]);
}

#[test]
fn hdfs_is_down() {
    let run = train("hdfs://127.0.0.1:1/rows").exits(1);
    run.says(&["error: ", "127.0.0.1:1"]);
    assert!(run.elapsed < Duration::from_secs(40), "{run}");
}

#[test]
fn a_scheme_that_nobody_knows() {
    train("s3://bucket/rows").exits(2).says(&["s3://", "hdfs://"]);
}

/// Trains on a file that is changed by `change` between listing and reading.
#[track_caller]
fn changed_before_reading(change: impl FnOnce(&Path)) -> Run {
    let held = Held::start(&[]);
    let path = Rows::generate(30, 2000, 50, 5).write(held.cluster.folder(), "rows");
    held.train(&path.to_string_lossy(), || change(&path))
}

#[test]
fn a_file_that_vanishes_between_listing_and_reading() {
    let run = changed_before_reading(|path| std::fs::remove_file(path).unwrap());
    assert_eq!(run.code, 2, "{run}");
    run.says(&["rows"]);
}

#[test]
fn a_file_that_grows_between_listing_and_reading() {
    let run = changed_before_reading(|path| {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(b"+1 1:1\n").unwrap();
    });
    assert_ne!(run.code, 0, "{run}");
    run.says(&["rows", "listed", "run again"]);
}

#[test]
fn no_threads() {
    flexps(["run", "lr", "--threads", "0"]).exits(2).says(&["--threads", "at least 1 thread"]);
    flexps(["run", "svrg", "--slots", "0"]).exits(2).says(&["--slots"]);
}

#[test]
fn more_threads_than_slots() {
    let here = folder();
    let path = here.path().join("rows");
    std::fs::write(&path, GOOD).unwrap();
    let run = flexps(["run", "lr", "--slots", "2", "--threads", "3", "--input"]).arg(&path).exits(2);
    run.says(&["3", "2", "slots"]);
}

#[test]
fn a_model_folder_that_is_in_the_way() {
    let here = folder();
    let model = here.path().join("model");
    let rows = here.path().join("rows");
    std::fs::write(&rows, GOOD).unwrap();
    train(&rows).arg("--model").arg(&model).ok();
    train(&rows).arg("--model").arg(&model).exits(2).says(&[model.to_str().unwrap(), "--overwrite"]);
    train(&rows).arg("--model").arg(&model).arg("--overwrite").ok();
}

/// `flexps` with `args`, where the folder `/mnt` is a disk of `size` that nobody else sees.
fn on_a_small_disk(size: &str, args: &[&str]) -> Invocation {
    beside_a_small_disk(size, &process::binary(), args)
}

fn beside_a_small_disk(size: &str, binary: &Path, args: &[&str]) -> Invocation {
    let script = format!("mount -t tmpfs -o size={size} small /mnt && exec \"$0\" \"$@\"");
    program(Path::new("unshare"), ["-m", "-r", "sh", "-c", &script]).arg(binary).args(args).within(60)
}

#[test]
fn an_hdfs_on_a_disk_without_room_for_blocks_is_refused_before_anything_starts() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/hdfs");
    let run = beside_a_small_disk("100m", &script, &["--dir", "/mnt/hdfs", "up"]).exits(1);
    run.says(&["only 100 MiB are free for /mnt/hdfs", "1024", "--dir"]);
}

#[test]
fn a_full_disk_while_the_model_is_written() {
    let here = folder();
    let rows = Rows::generate(31, 500, 100_000, 30).write(here.path(), "rows");
    let args = ["run", "svrg", "--epochs", "1", "--model", "/mnt/model", "--input", rows.to_str().unwrap()];
    on_a_small_disk("64k", &args).exits(1).says(&["/mnt/model", "disk is full"]);
}

#[test]
fn a_full_disk_while_rows_are_spilled() {
    let here = folder();
    let rows = Rows::generate(32, 20_000, 2000, 40).write(here.path(), "rows");
    let args = [
        "run",
        "svrg",
        "--epochs",
        "1",
        "--cache-memory",
        "1MiB",
        "--spill-dir",
        "/mnt",
        "--input",
        rows.to_str().unwrap(),
    ];
    on_a_small_disk("256k", &args).exits(1).says(&["/mnt", "disk is full"]);
}

#[test]
fn a_flag_of_another_solver() {
    let here = folder();
    let rows = Rows::generate(5, 60, 20, 4).write(here.path(), "rows");
    let cases: [(&[&str], &str); 13] = [
        (&["lr", "--solver", "newton", "--batch", "7"], "--batch goes with --solver sgd"),
        (&["lr", "--solver", "newton", "--optimizer", "sgd"], "--optimizer goes with --solver sgd"),
        (&["lr", "--solver", "sdca", "--optimizer", "saga"], "--optimizer goes with --solver sgd"),
        (&["lr", "--solver", "ftrl", "--joins", "3"], "--joins goes with --solver sdca"),
        (&["lr", "--solver", "ftrl", "--epochs", "5"], "ftrl makes one pass whatever --epochs says"),
        (&["lr", "--solver", "ftrl", "--tolerance", "1e-3"], "ftrl makes one pass whatever --tolerance says"),
        (&["lr", "--solver", "ftrl", "--cv", "3"], "--solver ftrl has no --cv"),
        (&["lr", "--solver", "ftrl", "--penalty", "l1"], "--penalty needs --lambda"),
        (&["lr", "--solver", "ftrl", "--penalty", "elastic-net", "--l1-ratio", "0.1"], "--penalty needs --lambda"),
        (&["lr", "--solver", "sgd", "--cv", "3"], "--solver sgd has no --cv"),
        (&["lr", "--penalty", "l1", "--overlap", "1.5"], "--overlap goes with --solver sdca"),
        (&["svm", "--solver", "newton", "--joins", "3"], "--joins goes with --solver sdca"),
        (&["svm", "--penalty", "l1", "--cv", "3", "--joins", "3"], "--joins goes with --solver sdca"),
    ];
    for (flags, words) in cases {
        flexps(["run"]).args(flags).arg("--input").arg(&rows).exits(2).says(&[words, "leave"]);
    }
    flexps(["run", "lr", "--solver", "ftrl", "--step", "0.5", "--input"]).arg(&rows).ok();
}

#[test]
fn a_model_of_other_classes_or_other_numbers_of_features_to_start_from() {
    let here = folder();
    let (file, saved) = (|name: &str| here.path().join(name), here.path().join("three"));
    std::fs::write(file("three.libsvm"), "1 1:0.5 3:1\n2 2:1\n3 1:2 2:0.5\n".repeat(9)).unwrap();
    std::fs::write(file("two.libsvm"), GOOD.repeat(9)).unwrap();
    std::fs::write(file("from-0.libsvm"), "1 0:0.5 3:1\n2 2:1\n3 1:2 2:0.5\n".repeat(9)).unwrap();
    let newton = || flexps(["run", "lr", "--solver", "newton", "--input"]);
    newton().arg(file("three.libsvm")).arg("--model").arg(&saved).ok();
    let start = |rows: &str| newton().arg(file(rows)).arg("--init-model").arg(&saved);
    start("three.libsvm").ok();
    start("two.libsvm").exits(2).says(&[saved.to_str().unwrap(), "1, 2 and 3", "as many classes"]);
    start("from-0.libsvm").exits(2).says(&[saved.to_str().unwrap(), "numbered from 1", "--index-base 1"]);
    // Read by the width of the rows, the weights of the second class would be those of other features.
    std::fs::write(file("wide.libsvm"), "1 1:0.5 3:1\n2 2:1 4:1\n3 1:2 2:0.5\n".repeat(9)).unwrap();
    std::fs::write(file("narrow.libsvm"), "1 1:0.5\n2 2:1\n3 1:2 2:0.5\n".repeat(9)).unwrap();
    let told = |rows: u32| format!("a model of 3 features for each of 3 classes, while the rows have {rows}; ");
    start("wide.libsvm").exits(2).says(&[saved.to_str().unwrap(), &told(4)]);
    start("narrow.libsvm").exits(2).says(&[saved.to_str().unwrap(), &told(2), "give --features 3"]);
    start("narrow.libsvm").args(["--features", "3"]).ok();
}

#[test]
fn a_row_that_does_not_fit_a_model_is_refused_without_flags_that_are_not_there() {
    let here = folder();
    let (rows, model) = (here.path().join("rows"), here.path().join("model"));
    std::fs::write(&rows, GOOD).unwrap();
    train(&rows).arg("--model").arg(&model).ok();
    for (text, says) in
        [("3 1:1\n", "label '3' is neither of the two classes -1 and 1\n"), ("1 x\n", "'x' does not start")]
    {
        std::fs::write(&rows, text).unwrap();
        let run = flexps(["evaluate", "--model"]).arg(&model).arg("--input").arg(&rows).exits(2);
        run.says(&["line 1", says]);
        assert!(!run.stderr.contains("--"), "{run}");
    }
}

#[test]
fn a_file_in_the_way_of_a_folder_or_a_folder_in_the_way_of_a_file() {
    let here = folder();
    let rows = here.path().join("rows");
    std::fs::write(&rows, GOOD).unwrap();
    train(rows.join("below")).exits(2).says(&["a file stands where a folder is needed"]);
    train(&rows).arg("--report").arg(here.path()).exits(2).says(&["--report", "a folder; give a file"]);
    train(&rows).args(["--cache-memory", "1"]).arg("--spill-dir").arg(&rows).exits(2);
}

#[test]
fn a_model_that_is_no_model() {
    let here = folder();
    let rows = here.path().join("rows");
    std::fs::write(&rows, GOOD).unwrap();
    for command in ["predict", "evaluate"] {
        let run = flexps([command, "--model", "/no/such/model", "--input"]).arg(&rows).exits(2);
        run.says(&["/no/such/model", "no such file"]);
    }
    flexps(["model", "show"]).arg(here.path()).exits(2).says(&[here.path().to_str().unwrap()]);
}
