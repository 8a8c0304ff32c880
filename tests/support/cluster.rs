//! A master and some slaves as processes of their own, on free ports, ended by pid; their logs are printed when the test
//! fails.

use super::process::{Invocation, binary, ends_within, program, send, tail};
use super::wait;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Clusters that may run at once: more would only wait for the machine's cores and miss deadlines.
const AT_ONCE: usize = 2;
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// How a master is started.
const MASTER: [&str; 5] = ["master", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0"];

/// The right to run a cluster.
struct Permit;

impl Permit {
    fn take() -> Self {
        let (count, freed) = &RUNNING;
        let free = freed.wait_while(count.lock().expect("no test panics here"), |running| *running >= AT_ONCE);
        *free.expect("no test panics here") += 1;
        Self
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.0.lock().expect("no test panics here") -= 1;
        RUNNING.1.notify_one();
    }
}

/// A process of the cluster.
pub struct Node {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts `flexps` with `args`; both streams go to a log file.
    pub fn start(folder: &Path, name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::of(&binary(), folder, name, args, env)
    }

    /// The same of a program with other jobs.
    pub fn of(program: &Path, folder: &Path, name: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log file");
        let child = Command::new(program)
            .args(args)
            .env_remove("FLEXPS_MASTER")
            .env_remove("FLEXPS_SECRET")
            .env_remove("HADOOP_CONF_DIR")
            .env("FLEXPS_LOG", "info")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("flexps starts");
        Self { name: name.to_owned(), child, log }
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
        if signal == libc::SIGSTOP {
            // On a busy machine its threads go on until one of them has heard of it.
            let stat = format!("/proc/{}/stat", self.pid());
            let stands = || std::fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
            wait::until("a process that stands still", Duration::from_secs(5), || stands().then_some(()));
        }
    }

    /// Waits for its end and gives its exit code.
    #[track_caller]
    pub fn ends(&mut self, deadline: Duration) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        assert!(
            ends_within(&mut self.child, deadline),
            "{} did not end within {deadline:?}\n{}",
            self.name,
            self.log()
        );
        let status = self.child.wait().expect("a child can be waited for");
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Ends it at once, as a power failure would.
    pub fn kill(&mut self) {
        send(self.pid(), libc::SIGKILL);
        let _ = self.child.wait();
    }

    /// Waits for a line that starts with `start`; gives the rest of it.
    #[track_caller]
    pub fn line(&mut self, start: &str) -> String {
        wait::until(&format!("'{start}' from {}", self.name), Duration::from_secs(20), || {
            let log = self.log();
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                panic!("{} ended with {status}\n{}", self.name, tail(&log));
            }
            log.split_inclusive('\n')
                .filter(|line| line.ends_with('\n'))
                .find_map(|line| Some(line.strip_prefix(start)?.trim().to_owned()))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, tail(&self.log()));
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// A master and slaves.
pub struct Cluster {
    pub slaves: Vec<Node>,
    pub master: Node,
    /// The master's address.
    pub address: String,
    /// Where its pages are.
    pub pages: String,
    program: PathBuf,
    env: Vec<(String, String)>,
    folder: tempfile::TempDir,
    _permit: Permit,
}

impl Cluster {
    /// A master and `slaves` slaves named h1, h2, … of `slots` slots each; all are registered.
    #[track_caller]
    pub fn start(slaves: usize, slots: u32) -> Self {
        Self::with(slaves, slots, &[])
    }

    /// The same, with environment variables for every process.
    #[track_caller]
    pub fn with(slaves: usize, slots: u32, env: &[(&str, &str)]) -> Self {
        Self::of(&binary(), slaves, slots, env)
    }

    /// The same of a program with other jobs.
    #[track_caller]
    pub fn of(program: &Path, slaves: usize, slots: u32, env: &[(&str, &str)]) -> Self {
        let permit = Permit::take();
        let folder = super::folder();
        let mut master = Node::of(program, folder.path(), "master", &MASTER, env);
        let address = master.line("listening on ");
        let pages = master.line("pages at http://").trim_end_matches('/').to_owned();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let program = program.to_owned();
        let mut cluster = Self { slaves: Vec::new(), master, address, pages, program, env, folder, _permit: permit };
        for i in 1..=slaves {
            cluster.add_slave(&format!("h{i}"), slots, &[]);
        }
        cluster.await_slaves(slaves);
        cluster
    }

    /// Starts another slave; does not wait for its registration.
    pub fn add_slave(&mut self, host: &str, slots: u32, more: &[&str]) -> usize {
        let slots = slots.to_string();
        // As if on machines of their own, with cores for all slots, whatever this one has.
        let mut args = vec!["slave", "--master", &self.address, "--slots", &slots, "--cores", &slots, "--host", host];
        args.extend(more);
        let env: Vec<_> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let log_name = format!("{host}-{}", self.slaves.len());
        self.slaves.push(Node::of(&self.program, self.folder.path(), &log_name, &args, &env));
        self.slaves.len() - 1
    }

    /// Ends the master at once and starts another one at the same address.
    #[track_caller]
    pub fn restart_master(&mut self, more: &[&str]) {
        self.master.kill();
        let env: Vec<_> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let args = [&["master", "--bind", &self.address], more].concat();
        // Each has a log of its own, which says when it listens.
        let name = format!("{}-again", self.master.name);
        self.master = Node::of(&self.program, self.folder.path(), &name, &args, &env);
        self.master.line("listening on ");
    }

    /// Waits until `count` slaves are registered.
    #[track_caller]
    pub fn await_slaves(&self, count: usize) {
        wait::until(&format!("{count} slaves"), Duration::from_secs(20), || {
            let slaves = self.ask(["slaves"]).json();
            (slaves.as_array().map(Vec::len) == Some(count)).then_some(())
        });
    }

    /// A command that talks to this master.
    pub fn ask<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Invocation {
        let mut invocation = program(&self.program, args).env("FLEXPS_MASTER", &self.address);
        for (name, value) in &self.env {
            invocation = invocation.env(name, value);
        }
        invocation
    }

    /// A folder that lives as long as the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}
