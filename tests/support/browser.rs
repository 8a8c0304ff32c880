//! A real Chromium without a window, driven through its own protocol over two pipes.
//!
//! Invariant: it ends with its test, with all processes that it began.

use super::process::{ends_within, send};
use super::wait;
use base64::Engine;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// What a browser is called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// How long it may take for an answer; its begin is the slowest.
const WITHIN: Duration = Duration::from_secs(60);

/// A browser with one page.
pub struct Browser {
    child: Child,
    to: PipeWriter,
    from: Receiver<Value>,
    session: Option<String>,
    said: u64,
    /// What it complained of: errors of scripts, refusals by the page's policy.
    complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

/// Where a browser lies.
#[track_caller]
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    all.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "no browser: none of {} is in PATH; install the package chromium (for example: sudo apt-get install \
             chromium), or run scripts/test, which does",
            NAMES.join(", ")
        )
    })
}

/// A copy of a pipe's end with a high number, so that it can't be one of those that the browser reads and writes.
fn high(fd: &impl AsRawFd) -> OwnedFd {
    // SAFETY: fcntl takes numbers; the descriptor that it gives is new and nobody else's.
    unsafe {
        let copy = libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 100);
        assert!(copy >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(copy)
    }
}

impl Browser {
    /// Starts one and opens `url`.
    #[track_caller]
    pub fn open(url: &str) -> Self {
        let profile = super::folder();
        let (commands, to) = std::io::pipe().expect("a pipe");
        let (answers, theirs) = std::io::pipe().expect("a pipe");
        let (reads, writes) = (high(&commands), high(&theirs));
        let mut command = Command::new(program());
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
        command.args(["--disable-extensions", "--disable-background-networking", "--no-proxy-server", "--mute-audio"]);
        command.args(["--remote-debugging-pipe", "--window-size=1280,1400", "about:blank"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let (reads_fd, writes_fd) = (reads.as_raw_fd(), writes.as_raw_fd());
        // SAFETY: dup2 may be called between fork and exec; both numbers are open until the command has been started.
        unsafe {
            command.pre_exec(move || {
                let both = libc::dup2(reads_fd, 3) >= 0 && libc::dup2(writes_fd, 4) >= 0;
                if both { Ok(()) } else { Err(std::io::Error::last_os_error()) }
            });
        }
        let child = command.spawn().expect("a browser starts");
        drop((commands, theirs, reads, writes));
        let (tell, from) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                if serde_json::from_slice(&message).is_ok_and(|value| tell.send(value).is_err()) {
                    return;
                }
            }
        });
        let complaints = Vec::new();
        let mut browser = Self { child, to, from, session: None, said: 0, complaints, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, json!({}));
        }
        let went = browser.call("Page.navigate", json!({ "url": url }));
        assert!(went.get("errorText").is_none(), "{url}: {went}");
        browser
    }

    /// One command of the protocol, and its result.
    #[track_caller]
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.said += 1;
        let mut message = json!({ "id": self.said, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap_or_else(|e| panic!("the browser takes no commands: {e}"));
        let until = Instant::now() + WITHIN;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let got = self.from.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: the browser is silent: {e}"));
            if got["id"] == json!(self.said) {
                assert!(got.get("error").is_none(), "{method}: {got}");
                return got["result"].clone();
            }
            self.note(&got);
        }
    }

    /// Keeps what is a complaint.
    fn note(&mut self, event: &Value) {
        let entry = &event["params"]["entry"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(event["params"]["exceptionDetails"].to_string()),
            // Every browser asks for an icon.
            Some("Log.entryAdded") if !entry["url"].as_str().unwrap_or_default().ends_with("/favicon.ico") => {
                self.complaints.push(entry.to_string());
            }
            _ => {}
        }
    }

    /// The value of an expression on the page.
    #[track_caller]
    pub fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Presses the mouse's button on the middle of what a selector finds, and lets it go after `held`.
    #[track_caller]
    pub fn press(&mut self, selector: &str, held: Duration) {
        let middle = self.value(&format!(
            "(() => {{ const of = document.querySelector({}); of.scrollIntoView({{ block: 'center' }}); \
             const r = of.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()",
            json!(selector)
        ));
        let (x, y) = (middle[0].clone(), middle[1].clone());
        self.call("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": x, "y": y }));
        let mut button = |kind: &str| {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        };
        button("mousePressed");
        std::thread::sleep(held);
        button("mouseReleased");
    }

    /// Waits until an expression is true of the page; shows the page's text when it never is.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let start = Instant::now();
        // What is not there yet, the page's own script at first, makes an error of the expression.
        let asked = format!("(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()");
        while self.value(&asked) != json!(true) {
            if start.elapsed() > WITHIN {
                let text = self.value("document.body.innerText");
                panic!("waited {WITHIN:?} for {expression}\n{}", text.as_str().unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Keeps a picture of the whole page beside the built program, as `screenshots/NAME.png`.
    #[track_caller]
    pub fn screenshot(&mut self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        std::fs::create_dir_all(&folder).expect("a folder for pictures");
        let shot = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true }));
        let png = base64::prelude::BASE64_STANDARD.decode(shot["data"].as_str().unwrap_or_default());
        let png = png.expect("a picture in base64");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 10_000, "a picture of {} bytes", png.len());
        std::fs::write(folder.join(format!("{name}.png")), png).expect("a picture is written");
    }

    /// What the browser complained of so far.
    #[track_caller]
    pub fn complaints(&mut self) -> &[String] {
        // What it says of what happened before comes before the answer.
        self.value("1");
        &self.complaints
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its own group holds all that it began.
        send(-(self.child.id() as i32), libc::SIGKILL);
        if ends_within(&mut self.child, Duration::from_secs(10)) {
            let _ = self.child.wait();
        }
    }
}

/// Fills in the page's form and submits it; gives the job's id.
#[track_caller]
pub fn submit(browser: &mut Browser, job: &str, user: &str, params: &Value) -> u64 {
    let (job, user, params) = (json!(job), json!(user), json!(params.to_string()));
    browser.until(&format!("[...$('kind').options].some(option => option.value === {job})"));
    browser.value(&format!(
        "$('kind').value = {job}, $('user').value = {user}, $('params').value = {params}, $('submit').requestSubmit(), 1"
    ));
    wait::until("the page's answer to a submission", WITHIN, || {
        let said = browser.value("$('said').textContent");
        let said = said.as_str().filter(|said| !said.is_empty())?;
        Some(said.strip_prefix("submitted as j").unwrap_or_else(|| panic!("the page said {said}")).parse().unwrap())
    })
}
