//! The zeromq crate alone between two processes, as a yardstick: a DEALER here, a ROUTER in a child, over a unix socket as
//! between slaves of one machine, each side on a runtime of one thread, which is the fastest way to use them.
//!
//! `zmq_bare trip BYTES` sends and gets back so many bytes, again and again, and prints the median round trip in
//! microseconds. `zmq_bare stream BYTES` sends so many bytes one way, a MiB a message, and prints the median of some
//! streams in microseconds, from the first message to the answer to the last. With an endpoint behind the bytes it is that of
//! a `zmq_bare serve ENDPOINT` on another host, say.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const TRIPS: usize = 5_000;
const STREAMS: usize = 5;
const MESSAGE: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let median = match &arguments[..] {
        [role, endpoint] if role == "serve" => return runtime.block_on(serve(endpoint)),
        [what, bytes] if is_measured(what) => {
            let folder = std::env::temp_dir().join(format!("zmq-bare-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let path = folder.join("socket");
            let endpoint = format!("ipc://{}", path.display());
            let mut child =
                Command::new(std::env::current_exe()?).args(["serve", &endpoint]).stdout(Stdio::null()).spawn()?;
            let measured = runtime.block_on(async {
                wait_for(&path).await?;
                measure(&endpoint, what, bytes.parse()?).await
            });
            child.kill()?;
            child.wait()?;
            std::fs::remove_dir_all(&folder)?;
            measured?
        }
        [what, bytes, endpoint] if is_measured(what) => runtime.block_on(measure(endpoint, what, bytes.parse()?))?,
        _ => return Err("usage: zmq_bare trip|stream BYTES [ENDPOINT], or zmq_bare serve ENDPOINT".into()),
    };
    println!("{{\"median_us\": {median:.1}}}");
    Ok(())
}

fn is_measured(what: &str) -> bool {
    what == "trip" || what == "stream"
}

async fn serve(endpoint: &str) -> Result<(), Box<dyn Error>> {
    let mut socket = RouterSocket::new();
    socket.bind(endpoint).await?;
    loop {
        let message = socket.recv().await?;
        // Of a stream only its end is answered.
        if message.iter().next_back().is_none_or(|frame| frame.len() < MESSAGE) {
            socket.send(message).await?;
        }
    }
}

async fn wait_for(path: &Path) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::metadata(path).is_err() {
        if Instant::now() > deadline {
            return Err("the other process did not start within 5 s".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn measure(endpoint: &str, what: &str, bytes: usize) -> Result<f64, Box<dyn Error>> {
    let mut socket = DealerSocket::new();
    socket.connect(endpoint).await?;
    let (rounds, messages, last) =
        if what == "trip" { (TRIPS, 0, bytes) } else { (STREAMS, bytes.div_ceil(MESSAGE), 1) };
    let (message, last) = (bytes::Bytes::from(vec![7; MESSAGE]), bytes::Bytes::from(vec![7; last]));
    let mut took = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..messages {
            socket.send(ZmqMessage::from(message.clone())).await?;
        }
        socket.send(ZmqMessage::from(last.clone())).await?;
        socket.recv().await?;
        took.push(start.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[rounds / 2])
}
