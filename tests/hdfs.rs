//! What the storage promises of HDFS, kept against real NameNodes and DataNodes that die, hang and come back.

use crate::support::hdfs::{BLOCK, Hdfs, runtime};
use crate::support::{Cluster, Rows, flexps, folder, wait};
use flexps_common::data::schema::DataPath;
use flexps_common::error::{Error, Fault};
use flexps_common::storage::{FileMeta, Storage, StorageOptions};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// Bytes that show where they belong.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

fn read(storage: &Storage, file: &FileMeta, range: Range<u64>) -> Result<Vec<u8>, Error> {
    runtime().block_on(storage.read_range(file.listed(), range))
}

fn list_error(storage: &Storage, url: &str) -> Error {
    runtime().block_on(storage.list(&[DataPath(url.to_owned())])).expect_err("this can't be listed")
}

/// Runs `work` and fails the test when that takes longer.
#[track_caller]
fn within<T>(seconds: u64, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    assert!(start.elapsed() < Duration::from_secs(seconds), "took {:?}, not {seconds} s", start.elapsed());
    result
}

#[test]
fn a_directory_in_hdfs_gives_its_files_with_hosts_and_racks() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let local = folder();
    for (name, len) in [("part-0", 3 * BLOCK as usize + 7), ("part-1", 5), ("_SUCCESS", 0), ("sub/part-9", 1)] {
        let path = local.path().join("rows").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, pattern(len)).unwrap();
    }
    hdfs.script(&["put", &local.path().join("rows").to_string_lossy(), "/listing/"]);

    let listing = hdfs.replicated("/listing/rows");
    let rows = format!("{}/listing/rows", hdfs.url);
    assert_eq!(listing.notes, [format!("{rows}: 1 subdirectory passed over; '{rows}/*/*' names what is in them")]);
    let paths: Vec<_> = listing.files.iter().map(|f| f.path.clone()).collect();
    assert_eq!(paths, ["part-0", "part-1"].map(|name| format!("{}/listing/rows/{name}", hdfs.url)));
    let blocks = &listing.files[0].blocks;
    let edges: Vec<_> = blocks.iter().map(|b| (b.start, b.end)).collect();
    assert_eq!(edges, [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK), (3 * BLOCK, 3 * BLOCK + 7)]);
    for block in blocks {
        assert_eq!((block.hosts.len(), block.racks.len()), (2, 2), "{block:?}");
        for (host, rack) in block.hosts.iter().zip(&block.racks) {
            assert_eq!(rack, if host == "h3" { "/rack2" } else { "/rack1" }, "{host}");
        }
    }
    assert!(listing.files[0].modified > 1_600_000_000_000);

    assert_eq!(hdfs.list("/listing/rows/part-{0,1}").files, listing.files);
    assert_eq!(hdfs.list("/listing/*/part-?").files, listing.files);
    for (path, says) in [
        ("/listing/none", "no such file"),
        ("/listing/rows/x*", "no file matches"),
        ("/listing/*", "a directory among the files"),
        ("/listing", "no files in this directory"),
    ] {
        let error = list_error(&hdfs.storage(), &format!("{}{path}", hdfs.url));
        assert!(error.fault == Fault::User && error.message.contains(says) && error.message.contains(path), "{error}");
    }
}

#[test]
fn ranges_across_blocks_equal_the_file() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let bytes = pattern(5 * BLOCK as usize + 12_345);
    let file = hdfs.put("/ranges/a b%20c", &bytes);
    let (storage, len) = (hdfs.storage(), bytes.len() as u64);
    for range in [0..len, 0..1, len - 1..len, 7..7, BLOCK - 1..BLOCK + 1, BLOCK..2 * BLOCK, 100..3 * BLOCK + 511] {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert!(read(&storage, &file, range.clone()).unwrap() == expected, "{range:?}");
    }
    runtime().block_on(async {
        let mut reader = hdfs.storage().open(file.listed(), BLOCK - 10..BLOCK + 10).await.unwrap();
        let mut buf = b"carry".to_vec();
        while reader.append(&mut buf, 7).await.unwrap() > 0 {}
        reader.extend(2 * BLOCK + 3);
        while reader.append(&mut buf, 100_000).await.unwrap() > 0 {}
        assert!(buf[5..] == bytes[BLOCK as usize - 10..2 * BLOCK as usize + 3]);
    });
    let error = read(&storage, &file, 0..len + 1).unwrap_err();
    assert_eq!(error.fault, Fault::Bug, "{error}");
}

#[test]
fn a_hundred_files_are_listed_in_seconds() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let local = folder();
    for i in 0..100 {
        std::fs::write(local.path().join(format!("part-{i:03}")), pattern(100 + i)).unwrap();
    }
    hdfs.script(&["put", &local.path().to_string_lossy(), "/many"]);
    hdfs.replicated("/many");
    let listing = within(10, || hdfs.list("/many"));
    assert_eq!(listing.files.len(), 100);
    assert!(listing.files.iter().all(|f| f.blocks.len() == 1 && f.blocks[0].hosts.len() == 2));
}

#[test]
fn a_file_that_grows_or_vanishes_after_listing_is_named() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let file = hdfs.put("/changing/file", &pattern(1000));
    let more = folder();
    std::fs::write(more.path().join("more"), pattern(10)).unwrap();
    hdfs.script(&["fs", "-appendToFile", &more.path().join("more").to_string_lossy(), "/changing/file"]);
    let error = read(&hdfs.storage(), &file, 0..1000).unwrap_err();
    assert!(error.message.contains("/changing/file: the file changed: it had 1000 bytes"), "{error}");
    hdfs.script(&["fs", "-rm", "/changing/file"]);
    let error = read(&hdfs.storage(), &file, 0..1000).unwrap_err();
    assert!(error.fault == Fault::User && error.message.contains("vanished"), "{error}");
}

#[test]
fn a_file_that_another_one_replaces_is_read_as_it_is_listed() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let storage = hdfs.storage();
    let (old, longer) = (pattern(1000), pattern(1001));
    let mut other = old.clone();
    other.reverse();
    let first = hdfs.put("/replaced/file", &old);
    assert!(read(&storage, &first, 0..1000).unwrap() == old);

    let second = hdfs.put("/replaced/file", &longer);
    assert!(read(&storage, &second, 0..1001).unwrap() == longer);
    let error = read(&storage, &first, 0..1000).unwrap_err();
    assert!(error.message.contains("had 1000 bytes when it was listed and has 1001 now"), "{error}");

    // The blocks of the old one are still there.
    let first = hdfs.put("/replaced/file", &old);
    assert!(read(&storage, &first, 0..1000).unwrap() == old);
    hdfs.script(&["fs", "-mv", "/replaced/file", "/replaced/away"]);
    let third = hdfs.put("/replaced/file", &other);
    assert!(read(&storage, &third, 0..1000).unwrap() == other);
    let error = read(&storage, &first, 0..1000).unwrap_err();
    let says = format!("last modified at {} when it was listed and at {} now", first.modified, third.modified);
    assert!(error.fault == Fault::User && error.message.contains(&says), "{error}");
}

/// `rows` rows, of which `positives` have the label +1; as long whatever the labels are.
fn labelled(rows: usize, positives: usize) -> String {
    (0..rows).map(|row| format!("{}1 {}:1\n", if row < positives { '+' } else { '-' }, row % 9 + 1)).collect()
}

#[test]
fn jobs_of_one_cluster_read_what_a_file_holds_by_then() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let cluster = Cluster::with(1, 1, &[("HADOOP_CONF_DIR", &hdfs.conf.to_string_lossy())]);
    let read = |path: &str| {
        let run = cluster.ask(["run", "svrg", "--epochs", "1", "--input", path]).json();
        let facts = &run["read"]["inputs"]["input"];
        (facts["rows"].as_u64().unwrap(), facts["positives"].as_u64().unwrap())
    };
    let file = hdfs.put("/replaced/rows", labelled(300, 100).as_bytes());
    assert_eq!(read(&file.path), (300, 100));

    hdfs.script(&["fs", "-rm", "/replaced/rows"]);
    let longer = hdfs.put("/replaced/rows", labelled(301, 100).as_bytes());
    assert_ne!(longer.len, file.len);
    assert_eq!(read(&file.path), (301, 100));

    hdfs.script(&["fs", "-mv", "/replaced/rows", "/replaced/old-rows"]);
    let other = hdfs.put("/replaced/rows", labelled(301, 200).as_bytes());
    assert_eq!(other.len, longer.len);
    assert_eq!(read(&file.path), (301, 200));
}

#[test]
fn a_file_that_is_still_being_put_is_refused() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let local = folder();
    let path = local.path().join("rows");
    std::fs::write(&path, pattern(100)).unwrap();
    hdfs.script(&["put", &path.to_string_lossy(), "/putting/rows._COPYING_"]);
    for path in ["/putting", "/putting/r*", "/putting/rows._COPYING_"] {
        let error = list_error(&hdfs.storage(), &format!("{}{path}", hdfs.url));
        assert!(error.fault == Fault::User && error.message.contains("still being copied"), "{error}");
    }
}

#[test]
fn without_webhdfs_locality_is_off_and_said_once() {
    let (hdfs, _quiet) = Hdfs::quiet();
    hdfs.put("/nowhere/a", &pattern(10));
    hdfs.put("/nowhere/b", &pattern(2 * BLOCK as usize));
    let options = StorageOptions { hadoop_conf: None, webhdfs: Some("127.0.0.1:1".to_owned()) };
    let paths = ["/nowhere/a", "/nowhere/b"].map(|p| DataPath(format!("{}{p}", hdfs.url)));
    let listing = runtime().block_on(Storage::new(options).list(&paths)).unwrap();
    assert_eq!(listing.notes.len(), 1, "{:?}", listing.notes);
    let note = &listing.notes[0];
    assert!(note.contains("locality is off") && note.contains("127.0.0.1:1 cannot be reached"), "{note}");
    assert_eq!(listing.files[1].blocks.len(), 2);
    assert!(listing.files.iter().flat_map(|f| &f.blocks).all(|b| b.hosts.is_empty()));
}

#[test]
fn hdfs_down_or_a_wrong_port_is_named_soon() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let storage = Storage::new(StorageOptions::default());
    let error = within(15, || list_error(&storage, "hdfs://127.0.0.1:1/x"));
    assert!(error.message.contains("the NameNode at 127.0.0.1:1 refused the connection"), "{error}");
    assert_eq!(error.fault, Fault::Cluster);
    // The NameNode's own web page.
    let site = std::fs::read_to_string(hdfs.conf.join("hdfs-site.xml")).unwrap();
    let web = site.split("dfs.namenode.http-address</name><value>").nth(1).unwrap().split('<').next().unwrap();
    let error = within(30, || list_error(&storage, &format!("hdfs://{web}/x")));
    assert!(error.message.contains(web) && error.message.contains("RPC port"), "{error}");
    let error = within(30, || list_error(&storage, "hdfs://no-such-host.invalid/x"));
    assert!(error.message.contains("no-such-host.invalid:8020 is no known host"), "{error}");
}

#[test]
fn the_doctor_sees_what_is_there_and_what_is_not() {
    let (hdfs, _quiet) = Hdfs::quiet();
    let checks = runtime().block_on(hdfs.storage().probe(&hdfs.url));
    assert!(checks.len() >= 4 && checks.iter().all(|c| c.result.is_ok()), "{checks:?}");
    let checks = runtime().block_on(Storage::new(StorageOptions::default()).probe("hdfs://127.0.0.1:1/"));
    let failed: Vec<_> = checks.iter().filter(|c| c.result.is_err()).map(|c| c.name.as_str()).collect();
    assert_eq!(failed, ["NameNode", "HDFS", "WebHDFS"], "{checks:?}");
}

/// Readings of a file while one of its DataNodes is disturbed. The NameNode gives the replicas in random order, so each
/// one meets the disturbed DataNode half of the time.
const READINGS: usize = 12;

/// Reads the file while its first block's hosts are disturbed in turn, until the HDFS client said that a DataNode failed it.
/// Gives the longest time without a byte.
#[track_caller]
fn longest_stall(hdfs: &Hdfs, path: &str, disturb: &str, mend: &str) -> Duration {
    let warnings = Warnings::collected();
    let bytes = pattern(96 * BLOCK as usize);
    let local = folder();
    std::fs::write(local.path().join("f"), &bytes).expect("a file is written");
    // One block, and more than all buffers on the way hold, so that reading is under way when the disturbance comes.
    let source = local.path().join("f").to_string_lossy().into_owned();
    hdfs.script(&["fs", "-mkdir", "-p", path]);
    hdfs.script(&["fs", "-Ddfs.blocksize=134217728", "-put", &source, path]);
    let file = hdfs.replicated(&format!("{path}/f")).files.remove(0);
    assert_eq!((file.blocks.len(), file.blocks[0].hosts.len()), (1, 2), "{file:?}");
    let mut longest = Duration::ZERO;
    for host in file.blocks[0].hosts.iter().cycle().take(READINGS) {
        warnings.0.lock().expect("nobody panicked with it").clear();
        let read = runtime().block_on(async {
            let mut reader = hdfs.storage().open(file.listed(), 0..file.len).await.expect("it opens");
            let mut read = Vec::new();
            reader.append(&mut read, 1 << 16).await.expect("the first bytes come");
            hdfs.script(&[disturb, host]);
            loop {
                let start = Instant::now();
                let got = reader.append(&mut read, 1 << 20).await;
                longest = longest.max(start.elapsed());
                match got {
                    Ok(0) => return Ok(read),
                    Ok(_) => {}
                    Err(e) => return Err(e),
                }
            }
        });
        hdfs.script(&[mend, host]);
        assert!(read.expect("reading goes on") == bytes, "the bytes are the file's");
        if String::from_utf8_lossy(&warnings.0.lock().expect("nobody panicked with it")).contains("DataNode") {
            return longest;
        }
    }
    panic!("{READINGS} readings met no disturbed DataNode; the longest stall was {longest:?}");
}

/// What the HDFS client logs in this process.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Collects them from now on.
    fn collected() -> &'static Self {
        static WARNINGS: OnceLock<Warnings> = OnceLock::new();
        WARNINGS.get_or_init(|| {
            let warnings = Self::default();
            let sink = warnings.clone();
            tracing_subscriber::fmt().with_env_filter("hdfs_native=warn").with_writer(move || sink.clone()).init();
            warnings
        })
    }
}

impl std::io::Write for Warnings {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked with it").extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_killed_data_node_costs_no_byte() {
    let (hdfs, _alone) = Hdfs::alone();
    let stall = longest_stall(hdfs, "/killed", "kill", "start");
    assert!(stall < Duration::from_secs(5), "stalled for {stall:?}");
}

#[test]
fn a_hung_data_node_is_left_within_15_seconds() {
    let (hdfs, _alone) = Hdfs::alone();
    let stall = longest_stall(hdfs, "/paused", "pause", "resume");
    assert!(stall < Duration::from_secs(15), "stalled for {stall:?}");
}

#[test]
fn without_a_live_replica_the_data_nodes_are_named() {
    let (hdfs, _alone) = Hdfs::alone();
    let file = hdfs.put("/replicas/file", &pattern(10));
    hdfs.script(&["kill", "h1", "h2", "h3"]);
    let error = within(30, || read(&hdfs.storage(), &file, 0..10)).unwrap_err();
    hdfs.script(&["start", "h1", "h2", "h3"]);
    let hosts = &file.blocks[0].hosts;
    assert!(error.fault == Fault::Cluster && hosts.iter().all(|h| error.message.contains(h.as_str())), "{error}");
    wait::until("the file to be readable again", Duration::from_secs(30), || read(&hdfs.storage(), &file, 0..10).ok());
}

#[test]
fn a_name_node_in_safe_mode_is_told_from_one_that_is_down() {
    let (hdfs, _alone) = Hdfs::alone();
    let file = hdfs.put("/safe/file", &pattern(10));
    // Reading what it knows is allowed there.
    hdfs.script(&["safemode", "on"]);
    let allowed = read(&hdfs.storage(), &file, 0..10);
    hdfs.script(&["safemode", "off"]);
    assert_eq!(allowed.unwrap(), pattern(10));
    // After a restart, without DataNodes, it knows no blocks.
    hdfs.script(&["kill", "h1", "h2", "h3", "nn1"]);
    hdfs.script(&["start", "nn1"]);
    let run = within(30, || flexps(["run", "svrg", "--input"]).arg(&file.path).run());
    hdfs.script(&["start", "h1", "h2", "h3"]);
    assert_eq!(run.code, 1, "{run}");
    run.says(&["error: ", "/safe/file", "is in safe mode"]);
    wait::until("the end of safe mode", Duration::from_secs(30), || read(&hdfs.storage(), &file, 0..10).ok());
}

#[test]
fn a_name_node_that_hangs_is_named_within_30_seconds() {
    let (hdfs, _alone) = Hdfs::alone();
    hdfs.script(&["pause", "nn1"]);
    let run = within(30, || flexps(["run", "svrg", "--input"]).arg(format!("{}/x", hdfs.url)).run());
    hdfs.script(&["resume", "nn1"]);
    assert_eq!(run.code, 1, "{run}");
    run.says(&["error: ", hdfs.url.trim_start_matches("hdfs://"), "no answer within 25 s"]);
}

#[test]
fn reading_goes_on_after_a_failover_and_names_both_name_nodes_when_none_is_active() {
    let (hdfs, _alone) = Hdfs::two_name_nodes();
    let bytes = pattern(3 * BLOCK as usize);
    let file = hdfs.put("/ha/file", &bytes);
    assert_eq!(file.blocks[0].hosts.len(), 2, "WebHDFS of the active NameNode is found");
    let storage = hdfs.storage();
    assert!(read(&storage, &file, 0..10).is_ok());

    // It hangs, as if its host had lost power, and the other one takes over while we ask.
    hdfs.script(&["pause", "nn1"]);
    let listed = std::thread::scope(|scope| {
        let listing = scope.spawn(|| within(30, || hdfs.list("/ha")));
        hdfs.script(&["active", "nn2"]);
        listing.join().expect("the failover is followed")
    });
    assert_eq!(listed.files.len(), 1);
    hdfs.script(&["kill", "nn1"]);
    assert!(within(30, || read(&storage, &file, 0..file.len)).unwrap() == bytes);
    assert_eq!(hdfs.list("/ha/file").files[0].blocks[0].hosts.len(), 2);
    let rows = hdfs.put("/ha-rows", Rows::generate(70, 500, 50, 5).text().as_bytes());
    let run = flexps(["run", "svrg", "--epochs", "2", "--input"]).arg(&rows.path);
    within(30, || run.env("HADOOP_CONF_DIR", &hdfs.conf).ok());

    // nn1 comes back as a standby, and then nn2 dies.
    hdfs.script(&["start", "nn1"]);
    hdfs.script(&["kill", "nn2"]);
    let run = flexps(["run", "svrg", "--input"]).arg(format!("{}/ha", hdfs.url)).env("HADOOP_CONF_DIR", &hdfs.conf);
    let run = within(30, || run.exits(1));
    let site = std::fs::read_to_string(hdfs.conf.join("hdfs-site.xml")).unwrap();
    for name in ["nn1", "nn2"] {
        let key = format!("dfs.namenode.rpc-address.ns1.{name}</name><value>");
        run.says(&[site.split(&key).nth(1).unwrap().split('<').next().unwrap()]);
    }
}
