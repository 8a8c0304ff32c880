//! `flexps doctor`: each line passes (`ok`), doesn't apply (`--`), or says what to do (`!!`).

use super::args::{DEFAULT_BIND, DoctorArgs, given};
use super::client::Client;
use super::node::{self, machine_name, read_by_others};
use super::resources::{default_cache, default_memory};
use super::table;
use super::terminal::out;
use bytesize::ByteSize;
use flexps_common::storage::{Storage, StorageOptions};
use flexps_common::transport::Secret;
use flexps_common::wire::api;
use flexps_common::wire::slaves::SlaveLine;
use flexps_common::{Error, Result, machine};
use std::path::{Path, PathBuf};

/// What was found of one thing.
enum Finding {
    /// As it should be.
    Passes(String),
    /// Not needed here.
    Absent(String),
    /// Wrong, and what to do.
    Wrong(String),
}
use Finding::{Absent, Passes, Wrong};

/// Checks everything; an error when a line is wrong.
pub async fn doctor(args: DoctorArgs) -> Result<()> {
    let mut wrong = 0;
    let mut tell = |name: &str, finding: Finding| {
        let (mark, text) = match finding {
            Passes(text) => ("ok", text),
            Absent(text) => ("--", text),
            Wrong(text) => ("!!", text),
        };
        wrong += u32::from(mark == "!!");
        out(&format!("{mark} {name:<20} {text}\n"))
    };
    tell("build", Passes(format!("flexps {}, id {:016x}", env!("CARGO_PKG_VERSION"), flexps_common::ids::build_id())))?;
    tell("slots", slots(args.resources.slots))?;
    tell("memory", memory(args.resources.cache_memory))?;
    tell("stages' memory", offered(args.resources.memory))?;
    tell("spill", folder(args.resources.spill_dir.clone().unwrap_or_else(std::env::temp_dir)))?;
    tell("host", Passes(format!("{}; a slave here reads blocks of that name locally (--host)", machine_name())))?;
    tell("secret", secret(args.access.secret_file.as_deref()))?;
    tell("master", master(&args).await)?;
    match args.hdfs.or_else(configured_hdfs) {
        Some(url) => {
            for check in Storage::new(StorageOptions::from_env()).probe(&url).await {
                tell(&check.name, check.result.map_or_else(Wrong, Passes))?;
            }
        }
        None => tell(
            "HDFS",
            Absent("none configured; set HADOOP_CONF_DIR, or check one with --hdfs hdfs://HOST:PORT".into()),
        )?,
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Error::cluster("1 check failed; the line with !! says what to do")),
        n => Err(Error::cluster(format!("{n} checks failed; the lines with !! say what to do"))),
    }
}

fn slots(wanted: Option<u32>) -> Finding {
    let cores = machine::cores();
    match wanted {
        Some(slots) if slots > cores => {
            Wrong(format!("--slots {slots} on {cores} cores: workers would wait for one another; give at most {cores}"))
        }
        Some(slots) => Passes(format!("{slots} of {cores} cores")),
        None => Passes(format!("{cores}, one for each core")),
    }
}

fn memory(wanted: Option<u64>) -> Finding {
    let usual = default_cache();
    let shown = |bytes| ByteSize(bytes).display().iec().to_string();
    match wanted {
        Some(bytes) if bytes / 2 > usual => Wrong(format!(
            "--cache-memory {}, but only {} are free; give less, further rows go to disk",
            shown(bytes),
            shown(2 * usual)
        )),
        Some(bytes) => Passes(format!("{} for cached rows, {} are free", shown(bytes), shown(2 * usual))),
        None => Passes(format!("{} for cached rows, half of what is free", shown(usual))),
    }
}

fn offered(wanted: Option<u64>) -> Finding {
    let shown = |bytes| table::memory(Some(bytes));
    match (wanted, default_memory()) {
        (Some(bytes), Some(all)) if bytes > all => Wrong(format!(
            "--memory {0}, but there are {1}: stages that keep to it would not fit; give at most {1}",
            shown(bytes),
            shown(all)
        )),
        (Some(bytes), _) | (None, Some(bytes)) => Passes(format!("{} that stages may ask for", shown(bytes))),
        (None, None) => Absent("the system does not say what there is: no limit unless --memory gives one".into()),
    }
}

fn folder(path: PathBuf) -> Finding {
    let probe = path.join(format!(".flexps-doctor-{}", std::process::id()));
    match std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe)) {
        Ok(()) => Passes(format!("{} can be written to", path.display())),
        Err(e) => Wrong(format!("{}: {e}; give another folder with --spill-dir", path.display())),
    }
}

fn secret(file: Option<&Path>) -> Finding {
    match Secret::load(file) {
        Err(e) => Wrong(e.message),
        Ok(None) => Absent(
            "none; any address but loopback needs one: openssl rand -hex 32 > FILE, chmod 600 FILE, --secret-file FILE"
                .into(),
        ),
        Ok(Some(_)) => match file {
            Some(path) if read_by_others(path) => {
                Wrong(format!("{0} can be read by others; chmod 600 {0}", path.display()))
            }
            Some(path) => Passes(format!("in {}, for its owner alone", path.display())),
            None => Passes("in FLEXPS_SECRET".into()),
        },
    }
}

async fn master(args: &DoctorArgs) -> Finding {
    let Some(address) = given(&args.master) else {
        return match std::net::TcpListener::bind(DEFAULT_BIND) {
            Ok(_) => Passes(format!("could listen at {DEFAULT_BIND}")),
            Err(e) => Wrong(format!("can't listen at {DEFAULT_BIND}: {e}; give --master if one runs there, or --bind")),
        };
    };
    let slaves = async {
        let client = Client::new(&node::network(&args.access, "client")?, address);
        api::read::<Vec<SlaveLine>>(&client.document("slaves").await?)
    };
    match slaves.await {
        Err(e) => Wrong(e.message),
        Ok(slaves) if slaves.is_empty() => {
            Wrong(format!("at {address}, without slaves; start some: flexps slave --master {address}"))
        }
        Ok(slaves) => {
            let slots: u32 = slaves.iter().map(|slave| slave.slots).sum();
            Passes(format!("at {address}, with {} slaves of {slots} slots", slaves.len()))
        }
    }
}

/// The root of the HDFS that the Hadoop configuration names, when there is a configuration.
fn configured_hdfs() -> Option<String> {
    let text = std::fs::read_to_string(StorageOptions::from_env().hadoop_conf?.join("core-site.xml")).ok()?;
    let value = text.split("<name>fs.defaultFS</name>").nth(1)?;
    let url = value.split("<value>").nth(1)?.split("</value>").next()?.trim();
    url.starts_with("hdfs://").then(|| url.to_owned())
}
