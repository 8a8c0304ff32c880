//! What is written into a real HDFS, models and rows: the same as on a disk, and never half of it.

use crate::support::hdfs::Hdfs;
use crate::support::process::Invocation;
use crate::support::{Cluster, flexps, folder, model};
use std::path::{Path, PathBuf};

/// Rows whose weights take more than one piece of what is sent at a time.
fn rows(here: &Path) -> PathBuf {
    let rows = here.join("rows");
    let lines = (1..=400).map(|i| format!("{} {}:1 {}:0.5\n", i % 2, 1 + i % 7, 2_000_000 - i * 997));
    std::fs::write(&rows, lines.collect::<String>()).unwrap();
    rows
}

/// A command that finds the cluster's NameNode.
fn ask(hdfs: &Hdfs, args: &[&str]) -> Invocation {
    flexps(args).env("HADOOP_CONF_DIR", &hdfs.conf).within(90)
}

fn train(hdfs: &Hdfs, rows: &Path, model: &str) -> Invocation {
    ask(hdfs, &["run", "lr", "--tolerance", "1e-6", "--model", model, "--input"]).arg(rows)
}

#[test]
fn a_model_is_kept_in_hdfs_and_is_the_one_that_a_disk_would_have() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let (rows, local) = (rows(here.path()), here.path().join("local"));
    let url = format!("{}/models/whole/m", hdfs.url);
    train(hdfs, &rows, &local.to_string_lossy()).ok();
    let report = train(hdfs, &rows, &url).json();
    assert_eq!(report["model"], url.as_str());
    assert_eq!(hdfs.below("/models/whole"), ["/m", "/m/model.json", "/m/model.safetensors"]);
    let copy = here.path().join("copy");
    hdfs.script(&["fs", "-get", "/models/whole/m", &copy.to_string_lossy()]);
    assert!(model::read(&copy).bytes.len() > 7 << 20, "more than a piece");
    assert!(model::read(&copy).bytes == model::read(&local).bytes, "other bits than on the disk");
    // Whatever takes a model takes this one.
    let both = [local.to_string_lossy().into_owned(), url];
    let [here_scored, there_scored] = both.each_ref().map(|m| {
        let of = |command: &[&str]| ask(hdfs, &[command, &["--model", m, "--input"]].concat()).arg(&rows).ok().stdout;
        let shown = ask(hdfs, &["model", "show", m]).json();
        let from =
            ["run", "lr", "--solver", "newton", "--epochs", "1", "--tolerance", "1e-9", "--init-model", m, "--input"];
        let went_on = ask(hdfs, &from).arg(&rows).json();
        (
            of(&["evaluate"]),
            of(&["predict", "--output", "probability"]),
            shown["norm"].clone(),
            went_on["objective"].clone(),
        )
    });
    assert_eq!(here_scored, there_scored);
}

#[test]
fn a_model_in_hdfs_is_replaced_when_that_is_asked_for_and_nothing_else_ever() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let rows = rows(here.path());
    let url = |name: &str| format!("{}/models/replaced/{name}", hdfs.url);
    train(hdfs, &rows, &url("m")).ok();
    train(hdfs, &rows, &url("m")).exits(2).says(&[&url("m"), "exists", "--overwrite"]);
    let weak = |model: &str| ask(hdfs, &["model", "show", model]).json()["norm"].as_f64().unwrap();
    let before = weak(&url("m"));
    train(hdfs, &rows, &url("m")).args(["--lambda", "1", "--overwrite"]).ok();
    assert!(weak(&url("m")) < before / 2.0, "{} and {before} before", weak(&url("m")));
    hdfs.put("/models/replaced/other/file", b"of somebody else");
    hdfs.put("/models/replaced/alike/model.json", b"{}");
    hdfs.put("/models/replaced/alike/model.safetensors", b"of somebody else");
    for (name, why) in [
        ("other", "no model"),
        ("other/file", "no model"),
        ("other/file/m", "a file stands where a folder is needed"),
        ("alike", "is no model of flexps, as its model.json shows"),
    ] {
        train(hdfs, &rows, &url(name)).arg("--overwrite").exits(2).says(&[&url(name), why]);
    }
    ask(hdfs, &["model", "show", &url("none")]).exits(2).says(&["no model there", &url("none")]);
    ask(hdfs, &["model", "show", &url("other/file")]).exits(2).says(&["is a file", "model.json"]);
    let alike = ["/alike", "/alike/model.json", "/alike/model.safetensors"];
    let left = [&alike[..], &["/m", "/m/model.json", "/m/model.safetensors", "/other", "/other/file"]].concat();
    assert_eq!(hdfs.below("/models/replaced"), left);
}

#[test]
fn a_folder_in_hdfs_that_may_not_be_written_to_is_said_before_anything_is_read() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let rows = rows(here.path());
    hdfs.put("/models/locked/file", b"");
    hdfs.script(&["fs", "-chmod", "755", "/models/locked"]);
    let url = format!("{}/models/locked/m", hdfs.url);
    let run = train(hdfs, &rows, &url).env("HADOOP_USER_NAME", "somebody").exits(2);
    run.says(&["permission denied in HDFS", "somebody", &url]);
    assert!(!format!("{run}").contains("epoch"), "{run}");
}

#[test]
fn a_cluster_keeps_models_and_snapshots_in_hdfs() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let rows = rows(here.path());
    let cluster = Cluster::with(2, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let url = |name: &str| format!("{}/models/cluster/{name}", hdfs.url);
    let run = ["run", "svrg", "--epochs", "1000000", "--tolerance", "0", "--detach", "--model"];
    let id = cluster.ask(run).arg(url("end")).arg("--input").arg(&rows).ok().stdout.trim().to_owned();
    crate::support::wait::until("an epoch", std::time::Duration::from_secs(30), || {
        let known = cluster.ask(["status", &id]).json()["epochs"].as_array().map_or(0, Vec::len);
        (known > 0).then_some(())
    });
    cluster.ask(["snapshot", &id, "--model", &url("now")]).ok();
    cluster.ask(["cancel", &id]).ok();
    let judged = ask(hdfs, &["evaluate", "--model", &url("now"), "--input"]).arg(&rows).json();
    assert!(judged["log_loss"].as_f64() < Some(0.69), "{judged}");
    cluster.ask(["run", "svrg", "--epochs", "1", "--model"]).arg(url("end")).arg("--input").arg(&rows).ok();
    let two =
        ["/end", "/end/model.json", "/end/model.safetensors", "/now", "/now/model.json", "/now/model.safetensors"];
    assert_eq!(hdfs.below("/models/cluster"), two);
}

#[test]
fn rows_are_made_and_converted_into_hdfs_as_onto_a_disk() {
    let ((hdfs, _quiet), here) = (Hdfs::quiet(), folder());
    let url = |name: &str| format!("{}/rows/{name}", hdfs.url);
    let local = |name: &str| here.path().join(name).to_string_lossy().into_owned();
    let run = |args: &[&str]| ask(hdfs, args).run();
    // More than a piece; a file, and several.
    let kdd = ["data", "generate", "kdd", "--rows", "60000", "--features", "20000"];
    for to in [local("text"), url("text")] {
        run(&[&kdd[..], &["--output", &to]].concat());
    }
    for to in [local("parts"), url("parts")] {
        run(&[&kdd[..], &["--files", "3", "--output", &to]].concat());
    }
    assert!(std::fs::metadata(local("text")).unwrap().len() > 4 << 20);
    for (from, to) in [("text", "one"), ("parts", "one-of-parts"), ("parts", "several/")] {
        run(&["data", "convert", &local(from), "--output", &local(to)]);
        // Blocks are cut as the text is, and that of HDFS in its blocks.
        assert_eq!(run(&["data", "convert", &local(from), "--output", &url(to)]).code, 0);
    }
    let copy = here.path().join("copy");
    hdfs.script(&["fs", "-get", "/rows", &copy.to_string_lossy()]);
    let one = |names: &str| names.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let files = one("text parts/part-00000.libsvm parts/part-00001.libsvm parts/part-00002.libsvm one one-of-parts \
                     several/part-00000.rows several/part-00001.rows several/part-00002.rows");
    for name in &files {
        let [here, there] = [here.path(), &copy].map(|folder| std::fs::read(folder.join(name)).unwrap());
        assert!(here == there, "{name}: {} and {} bytes", here.len(), there.len());
    }
    assert_eq!(hdfs.below("/rows").len(), files.len() + 2, "{:?}", hdfs.below("/rows"));
    // What is there is replaced if it is a file, and not if it is a folder with something in it.
    run(&["data", "convert", &local("parts"), "--output", &url("one")]);
    hdfs.script(&["fs", "-get", "/rows/one", &local("again")]);
    assert!(std::fs::read(local("again")).unwrap() == std::fs::read(local("one-of-parts")).unwrap());
    run(&["data", "convert", &url("text"), "--output", &url("several")]).refuses(&["the folder is not empty"]);
    run(&["data", "convert", &url("text"), "--output", &url("one/")]).refuses(&["a file; leave out the slash"]);
    run(&["data", "convert", &url("text"), "--output", &url("text")]).refuses(&["which is to be read"]);
    run(&[&kdd[..], &["--output", &url("several")]].concat()).refuses(&["several: a folder; give a file"]);
    let bad = here.path().join("bad");
    std::fs::write(&bad, "+1 1:1\n-1 2:x\n").unwrap();
    run(&["data", "convert", &local("bad"), "--output", &url("never")]).refuses(&["value in '2:x' is no number"]);
    // Nothing else goes there.
    run(&["run", "lr", "--input", &local("text"), "--report", &url("report")]).refuses(&["give a local path"]);
    assert_eq!(hdfs.below("/rows").len(), files.len() + 2, "{:?}", hdfs.below("/rows"));
}
