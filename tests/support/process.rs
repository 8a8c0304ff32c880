//! One `flexps` command: started, bounded in time, its streams kept.

use super::wait;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How a command ended.
#[derive(Debug)]
pub struct Run {
    /// Exit code; 128 + the signal when one ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
}

/// A command that is about to run.
pub struct Invocation {
    command: Command,
    shown: String,
    deadline: Duration,
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    shown: String,
    started: Instant,
    deadline: Duration,
    finished: bool,
}

/// The program under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_flexps"))
}

/// An example that cargo built beside the tests.
pub fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a test has a path");
    let release = tests.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    release.join("examples").join(name)
}

/// `flexps` with `args`.
pub fn flexps<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(args: I) -> Invocation {
    program(&binary(), args)
}

/// Any program with `args`, in an environment where no setting of the machine's user counts.
pub fn program<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(program: &Path, args: I) -> Invocation {
    let args: Vec<OsString> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let mut shown = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for arg in &args {
        shown.push(' ');
        shown.push_str(&arg.to_string_lossy());
    }
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).env("XDG_CACHE_HOME", env!("CARGO_TARGET_TMPDIR"));
    for name in ["FLEXPS_MASTER", "FLEXPS_SECRET", "FLEXPS_LOG", "FLEXPS_CLUSTER", "HADOOP_CONF_DIR", "HADOOP_HOME"] {
        command.env_remove(name);
    }
    Invocation { command, shown, deadline: Duration::from_secs(120) }
}

impl Invocation {
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(self, args: I) -> Self {
        args.into_iter().fold(self, |run, arg| run.arg(arg))
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn within(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Lets it keep what it fetches where the machine's user keeps such things, for the next run of the tests.
    pub fn with_users_cache(self) -> Self {
        match std::env::var("HOME") {
            Ok(home) => self.env("XDG_CACHE_HOME", format!("{home}/.cache")),
            Err(_) => self,
        }
    }

    pub fn in_folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Starts it and lets it run.
    pub fn start(mut self) -> Running {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{}: {e}", self.shown));
        let stdout = Stream::collect(child.stdout.take().expect("is piped"));
        let stderr = Stream::collect(child.stderr.take().expect("is piped"));
        let (shown, deadline) = (self.shown, self.deadline);
        Running { child, stdout, stderr, shown, started: Instant::now(), deadline, finished: false }
    }

    /// Runs it to its end, or fails the test when that does not come in time.
    #[track_caller]
    pub fn run(self) -> Run {
        self.start().finish()
    }

    /// Runs it and fails the test unless it exits with `code`.
    #[track_caller]
    pub fn exits(self, code: i32) -> Run {
        let shown = self.shown.clone();
        let run = self.run();
        assert!(run.code == code, "{shown}\nexited with {}, not {code}\n{run}", run.code);
        run
    }

    /// Runs it and fails the test unless it exits with 0.
    #[track_caller]
    pub fn ok(self) -> Run {
        self.exits(0)
    }

    /// Runs it with `--json` behind it and gives the object that it prints.
    #[track_caller]
    pub fn json(mut self) -> serde_json::Value {
        self.command.arg("--json");
        self.ok().json()
    }
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_some()
    }

    pub fn signal(&self, signal: i32) {
        send(self.pid(), signal);
    }

    /// Waits until stderr holds `word`.
    #[track_caller]
    pub fn await_stderr(&mut self, word: &str) {
        wait::until(&format!("'{word}' from {}", self.shown), self.deadline, || {
            let text = self.stderr.so_far();
            if text.contains(word) {
                return Some(());
            }
            assert!(!self.ended(), "{} ended before it said '{word}'\n{}", self.shown, tail(&text));
            None
        });
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Run {
        use std::os::unix::process::ExitStatusExt;
        let left = self.deadline.saturating_sub(self.started.elapsed());
        let in_time = ends_within(&mut self.child, left);
        if !in_time {
            send(self.pid(), libc::SIGKILL);
        }
        let status = self.child.wait().expect("a child can be waited for");
        self.finished = true;
        let elapsed = self.started.elapsed();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        let run = Run { code, stdout: self.stdout.whole(), stderr: self.stderr.whole(), elapsed };
        assert!(in_time, "{} did not end within {:?}\n{run}", self.shown, self.deadline);
        run
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            send(self.pid(), libc::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Run {
    /// The one JSON object on stdout.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("stdout is not one JSON value: {e}\n{self}"))
    }

    /// Fails the test unless this says that it is the user's mistake, in these words.
    #[track_caller]
    pub fn refuses(&self, words: &[&str]) {
        assert_eq!(self.code, 2, "{self}");
        self.says(words);
    }

    /// Fails the test unless stderr has each of `words`.
    #[track_caller]
    pub fn says(&self, words: &[&str]) -> &Self {
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not say '{word}'\n{self}");
        }
        assert!(!self.stderr.contains("panicked"), "a panic reached the user\n{self}");
        self
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "exit {} after {:.2?}", self.code, self.elapsed)?;
        write!(f, "--- stdout\n{}--- stderr\n{}", tail(&self.stdout), tail(&self.stderr))
    }
}

/// The last lines of a log.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].iter().map(|line| format!("{line:.300}\n")).collect()
}

/// Sends a signal to one process.
pub fn send(pid: i32, signal: i32) {
    // SAFETY: kill takes two numbers; the pid is that of a child that was not yet waited for.
    unsafe { libc::kill(pid, signal) };
}

/// Whether a child ends in time; it stays to be waited for.
pub fn ends_within(child: &mut Child, time: Duration) -> bool {
    let (send, ended) = mpsc::channel();
    let pid = child.id();
    std::thread::spawn(move || {
        // SAFETY: waitid writes into the structure that it is given; WNOWAIT leaves the child to its owner.
        unsafe {
            let mut info = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT);
        }
        let _ = send.send(());
    });
    ended.recv_timeout(time).is_ok()
}

/// What a process writes, as it comes.
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Stream {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 1 << 16];
            while let Ok(n @ 1..) = from.read(&mut piece) {
                kept.lock().expect("nobody panics with it").extend_from_slice(&piece[..n]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("nobody panics with it")).into_owned()
    }

    fn whole(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}
