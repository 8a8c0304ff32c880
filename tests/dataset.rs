//! Dataset files: taken wherever text is, with the same results, and refused when they are not whole.

use crate::support::process::Invocation;
use crate::support::{Cluster, Rows, assert_close, flexps, folder, wait};
use std::path::{Path, PathBuf};

/// Some blocks of rows as text, and as a dataset file.
fn both(folder: &Path) -> (PathBuf, PathBuf) {
    let text = Rows::generate(21, 20_000, 3000, 20).write(folder, "rows.libsvm");
    let dataset = folder.join("rows.data");
    convert(&text, &dataset).ok();
    (text, dataset)
}

fn convert(input: &Path, output: &Path) -> Invocation {
    flexps(["data", "convert", "--output"]).arg(output).arg(input)
}

fn weights(model: &Path) -> Vec<u8> {
    std::fs::read(model.join("model.safetensors")).unwrap()
}

#[test]
fn every_job_gets_the_bits_of_the_text_from_a_dataset_file() {
    let here = folder();
    let (text, dataset) = both(here.path());
    for (i, job) in [
        &["svrg", "--epochs", "3"][..],
        &["lr", "--epochs", "5"],
        &["lr", "--solver", "newton", "--penalty", "l1", "--lambda", "1e-3"],
        &["lr", "--solver", "ftrl", "--threads", "1"],
        &["svm", "--solver", "sdca", "--epochs", "5"],
        &["lasso", "--lambda", "1e-2"],
    ]
    .iter()
    .enumerate()
    {
        let train = |input: &Path, name: &str| {
            let model = here.path().join(format!("{name}-{i}"));
            let run = flexps(["run"]).args(*job).args(["--slots", "2", "--input"]).arg(input);
            let report = run.arg("--reproducible").arg("--model").arg(&model).json();
            (report["objective"].clone(), report["read"]["inputs"]["input"].clone(), weights(&model))
        };
        assert_eq!(train(&text, "text"), train(&dataset, "dataset"), "{job:?}");
    }
}

#[test]
fn what_describes_and_judges_rows_takes_dataset_files_by_content() {
    let here = folder();
    let (text, dataset) = both(here.path());
    let model = here.path().join("model");
    flexps(["run", "lr", "--input"]).arg(&dataset).arg("--model").arg(&model).arg("--validation").arg(&text).ok();
    for command in ["evaluate", "predict"] {
        let out = |input: &Path| flexps([command, "--model"]).arg(&model).arg("--input").arg(input).ok().stdout;
        assert_eq!(out(&text), out(&dataset), "{command}");
    }
    let info = |input: &Path| {
        let mut info = flexps(["data", "info"]).arg(input).json();
        let file = info.as_object_mut().unwrap().remove("files").unwrap();
        (info, file[0]["format"].clone())
    };
    let ((of_text, libsvm), (of_dataset, format)) = (info(&text), info(&dataset));
    assert_eq!(of_text, of_dataset);
    assert_eq!((libsvm, format), ("libsvm".into(), "dataset".into()));
}

#[test]
fn three_slaves_train_from_a_dataset_file_to_the_certified_optimum_of_the_text() {
    let here = folder();
    let (text, dataset) = both(here.path());
    let cluster = Cluster::with(3, 1, &[]);
    let train = |run: Invocation, input: &Path| run.args(["--tolerance", "1e-6", "--input"]).arg(input).json();
    let alone = train(flexps(["run", "lr"]), &text);
    let three = train(cluster.ask(["run", "lr"]), &dataset);
    assert_eq!(three["read"]["rows"], 20_000);
    assert!(three["read"]["splits"].as_u64().unwrap() >= 3, "{}", three["read"]);
    assert_close(alone["objective"].as_f64().unwrap(), three["objective"].as_f64().unwrap(), 2e-6);
}

#[test]
fn packed_text_folders_and_other_labels_convert() {
    let here = folder();
    let rows = "3 2:1 7:1\n-1 0:1\n0.5\n";
    std::fs::create_dir(here.path().join("in")).unwrap();
    for name in ["a", "b"] {
        std::fs::write(here.path().join("in").join(name), rows).unwrap();
    }
    let output = here.path().join("out");
    convert(&here.path().join("in"), &output.join("")).ok().says(&["6 rows, 6 non-zeros"]);
    let parts: Vec<_> = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(parts.len(), 2, "{parts:?}");
    let info = flexps(["data", "info"]).arg(&output).json();
    assert_eq!((&info["rows"], &info["features"], &info["index_base"]), (&6.into(), &8.into(), &0.into()), "{info}");
    assert_eq!(info["empty_rows"], 2);
    convert(&here.path().join("in"), &output).exits(2).says(&["the folder is not empty"]);
    // A dataset file is rows like any other.
    let (once, twice) = (output.join("part-00000.rows"), here.path().join("twice"));
    convert(&once, &twice).ok();
    assert_eq!(std::fs::read(once).unwrap(), std::fs::read(twice).unwrap());
}

#[test]
fn classes_are_found_in_whichever_of_many_dataset_files_they_are() {
    let here = folder();
    let text = here.path().join("text");
    std::fs::create_dir(&text).unwrap();
    for file in 0..20 {
        let labels: &[u8] = if file == 1 { &[1, 2, 3, 4] } else { &[1, 2, 3] };
        let rows: String = labels.iter().map(|label| format!("{label} {label}:1 5:0.5\n").repeat(20)).collect();
        std::fs::write(text.join(format!("p{file:02}")), rows).unwrap();
    }
    let dataset = here.path().join("dataset");
    convert(&text, &dataset.join("")).ok();
    for input in [&text, &dataset] {
        let ended = flexps(["run", "svm", "--input"]).arg(input).ok();
        assert!(ended.stdout.contains("labels 1/2/3/4 detected in --input"), "{ended}");
    }
}

#[test]
fn a_dataset_file_that_is_not_whole_is_the_users_mistake_for_every_command() {
    let here = folder();
    let (_, dataset) = both(here.path());
    let whole = std::fs::read(&dataset).unwrap();
    let damaged = here.path().join("damaged");
    let model = here.path().join("model");
    flexps(["run", "lr", "--epochs", "1", "--input"]).arg(&dataset).arg("--model").arg(&model).ok();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 16;
        bytes
    };
    for (bytes, word) in [
        (whole[..whole.len() / 2].to_vec(), "is cut short"),
        (flipped(12), "of version 17, and this program reads version 1"),
        (flipped(whole.len() / 2), "its checksum is wrong"),
        (flipped(whole.len() - 50), "its checksum is wrong"),
    ] {
        std::fs::write(&damaged, bytes).unwrap();
        let judge = |command| flexps([command, "--model"]).arg(&model).arg("--input");
        for command in [flexps(["run", "lr", "--input"]), flexps(["data", "info"]), judge("evaluate"), judge("predict")]
        {
            command.arg(&damaged).exits(2).says(&["error: ", damaged.to_str().unwrap(), word]);
        }
    }
}

#[test]
fn a_conversion_that_ends_early_leaves_the_old_file_and_nothing_else() {
    let here = folder();
    let (text, dataset) = both(here.path());
    let before = std::fs::read(&dataset).unwrap();
    let bad = here.path().join("bad.libsvm");
    std::fs::write(&bad, std::fs::read_to_string(&text).unwrap() + "+1 5:spam\n").unwrap();
    convert(&bad, &dataset).exits(2).says(&["bad.libsvm", "value in '5:spam' is no number"]);
    assert_eq!(std::fs::read(&dataset).unwrap(), before);
    convert(&bad, &dataset).args(["--bad-rows", "1"]).ok().says(&["1 bad row was skipped", "20000 rows"]);
    // Onto what is to be read, by another name.
    let (link, rows) = (here.path().join("link"), std::fs::read(&text).unwrap());
    std::os::unix::fs::symlink(&text, &link).unwrap();
    convert(&text, &link).exits(2).says(&["which is to be read"]);
    assert_eq!(std::fs::read(&text).unwrap(), rows);
    std::fs::remove_file(&link).unwrap();
    // Killed on its way: what it had written goes with the next one.
    let (before, long) = (std::fs::read(&dataset).unwrap(), here.path().join("long"));
    flexps(["data", "generate", "kdd", "--rows", "400000", "--features", "100000", "--output"]).arg(&long).ok();
    let names = || {
        let entries = std::fs::read_dir(here.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    for wait in [0, 10, 30] {
        let running = convert(&long, &dataset).start();
        let begun = || names().iter().any(|name| name.ends_with(".part")).then_some(());
        wait::until("what is written beside", std::time::Duration::from_secs(20), begun);
        std::thread::sleep(std::time::Duration::from_millis(wait));
        running.signal(libc::SIGKILL);
        if running.finish().code == 0 {
            assert!(wait > 0, "it was done at once");
            break;
        }
        assert!(std::fs::read(&dataset).unwrap() == before, "after {wait} ms");
    }
    convert(&text, &dataset).ok();
    assert_eq!(names(), ["bad.libsvm", "long", "rows.data", "rows.libsvm"]);
}

#[test]
fn a_dataset_file_of_text_of_many_blocks_gives_the_bits_of_the_text() {
    let here = folder();
    let (text, dataset) = (here.path().join("text"), here.path().join("dataset"));
    // Above 16 MiB, where blocks are as long as they get.
    flexps(["data", "generate", "kdd", "--rows", "240000", "--features", "100000", "--output"]).arg(&text).ok();
    assert!(std::fs::metadata(&text).unwrap().len() > 18 << 20);
    convert(&text, &dataset).ok();
    for (i, job) in [&["svrg", "--epochs", "1"][..], &["lr", "--solver", "sgd", "--epochs", "1"]].iter().enumerate() {
        let train = |input: &Path, name: &str| {
            let model = here.path().join(format!("{name}-{i}"));
            let run = flexps(["run"]).args(*job).args(["--slots", "2", "--reproducible", "--input"]).arg(input);
            run.arg("--model").arg(&model).ok();
            weights(&model)
        };
        assert!(train(&text, "of-text") == train(&dataset, "of-dataset"), "{job:?}");
    }
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_with_empty_files_converts_but_one_of_these_alone_does_not() {
    let here = folder();
    let (input, output) = (here.path().join("in"), here.path().join("out"));
    std::fs::create_dir(&input).unwrap();
    for (name, rows) in [("a", "1 1:1\n"), ("b", ""), ("c", "-1 2:1\n"), ("d", "# nothing\n")] {
        std::fs::write(input.join(name), rows).unwrap();
    }
    let run = convert(&input, &output.join("")).ok();
    run.says(&[&format!("{}: no rows", input.join("b").display()), "2 rows, 2 non-zeros"]);
    assert_eq!(names(&output), ["part-00000.rows", "part-00002.rows"]);
    for output in ["none", "none/"] {
        convert(&input.join("b"), &here.path().join(output)).exits(2).says(&["there is nothing to convert"]);
    }
    assert_eq!(names(here.path()), ["in", "out"]);
}

#[test]
fn files_of_others_beside_the_output_stay() {
    let here = folder();
    let rows = here.path().join("rows");
    std::fs::write(&rows, "1 1:1\n-1 2:1\n").unwrap();
    std::fs::write(here.path().join("one.part"), "mine").unwrap();
    std::fs::create_dir(here.path().join("many.part")).unwrap();
    std::fs::write(here.path().join("many.part/file"), "mine").unwrap();
    convert(&rows, &here.path().join("one")).ok();
    convert(&rows, &here.path().join("many/")).ok();
    assert_eq!(names(here.path()), ["many", "many.part", "one", "one.part", "rows"]);
    let refused = convert(&rows, &here.path().join("one/")).exits(2);
    refused.says(&["one/: a file; leave out the slash to replace it"]);
    assert_eq!(names(&here.path().join("many.part")), ["file"]);
    assert_eq!(std::fs::read(here.path().join("one.part")).unwrap(), b"mine");
}

#[test]
fn what_is_no_file_is_written_to_and_a_link_stays_one() {
    let here = folder();
    let (rows, whole, link) = (here.path().join("rows"), here.path().join("whole"), here.path().join("link"));
    std::fs::write(&rows, "1 1:1\n-1 2:1\n").unwrap();
    convert(&rows, &whole).ok();
    let bytes = std::fs::read(&whole).unwrap();
    std::fs::write(&whole, "old").unwrap();
    std::os::unix::fs::symlink("whole", &link).unwrap();
    convert(&rows, &link).ok();
    assert!(link.is_symlink());
    assert_eq!(std::fs::read(&whole).unwrap(), bytes);
    let pipe = here.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let running = convert(&rows, &pipe).start();
    assert_eq!(std::fs::read(&pipe).unwrap(), bytes);
    assert_eq!(running.finish().code, 0);
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let report = flexps(["run", "lr", "--report", "/dev/stdout", "--input"]).arg(&rows).ok();
    assert!(report.stdout.starts_with("{\"job\":\"lr\""), "{report}");
    convert(&rows, here.path()).exits(2);
    flexps(["data", "generate", "kdd", "--output"]).arg(here.path()).exits(2).says(&["a folder; give a file"]);
    assert_eq!(names(here.path()), ["link", "pipe", "rows", "whole"]);
}

#[test]
fn a_command_that_is_told_to_end_leaves_nothing() {
    let here = folder();
    let rows = here.path().join("rows");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let command = flexps(["data", "generate", "kdd", "--rows", "1000000000", "--output"]).arg(&rows);
        let running = command.start();
        crate::support::wait::until("the file is begun", std::time::Duration::from_secs(20), || {
            (!names(here.path()).is_empty()).then_some(())
        });
        running.signal(signal);
        let run = running.finish();
        assert_eq!(run.code, 130, "{run}");
        assert_eq!(names(here.path()), [""; 0]);
    }
}

#[test]
fn conversions_to_one_path_at_a_time_leave_one_of_the_files_whole() {
    let here = folder();
    let (text, dataset) = both(here.path());
    let other = Rows::generate(22, 30_000, 3000, 20).write(here.path(), "other.libsvm");
    let running: Vec<_> = [&text, &other, &text].map(|input| convert(input, &dataset).start()).into_iter().collect();
    for run in running {
        let run = run.finish();
        assert_eq!(run.code, 0, "{run}");
    }
    let info = flexps(["data", "info"]).arg(&dataset).json();
    assert!(info["rows"] == 20_000 || info["rows"] == 30_000, "{info}");
    assert_eq!(names(here.path()), ["other.libsvm", "rows.data", "rows.libsvm"]);
}
