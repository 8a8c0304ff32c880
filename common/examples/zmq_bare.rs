//! The zeromq crate alone between two processes, as a yardstick: a DEALER here, a ROUTER in a child, over a unix socket as
//! between slaves of one machine, each side on a runtime of one thread, which is the fastest way to use them.
//!
//! `zmq_bare trip BYTES` sends and gets back so many bytes, again and again, and prints the median round trip in
//! microseconds. `zmq_bare stream BYTES` sends so many bytes one way, a MiB a message, and prints the median of some
//! streams in milliseconds, from the first message to the answer to the last.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const TRIPS: usize = 5_000;
const STREAMS: usize = 5;
const MESSAGE: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, path] if role == "serve" => runtime.block_on(serve(path)),
        [what, bytes] if what == "trip" || what == "stream" => {
            let folder = std::env::temp_dir().join(format!("zmq-bare-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let path = folder.join("socket").to_string_lossy().into_owned();
            let mut child =
                Command::new(std::env::current_exe()?).args(["serve", &path]).stdout(Stdio::null()).spawn()?;
            let measured = runtime.block_on(measure(&path, what, bytes.parse()?));
            child.kill()?;
            child.wait()?;
            std::fs::remove_dir_all(&folder)?;
            println!("{{\"median_us\": {:.1}}}", measured?);
            Ok(())
        }
        _ => Err("usage: zmq_bare trip|stream BYTES".into()),
    }
}

async fn serve(path: &str) -> Result<(), Box<dyn Error>> {
    let mut socket = RouterSocket::new();
    socket.bind(&format!("ipc://{path}")).await?;
    loop {
        let message = socket.recv().await?;
        // Of a stream only its end is answered.
        if message.iter().next_back().is_none_or(|frame| frame.len() < MESSAGE) {
            socket.send(message).await?;
        }
    }
}

async fn measure(path: &str, what: &str, bytes: usize) -> Result<f64, Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::metadata(path).is_err() {
        if Instant::now() > deadline {
            return Err("the other process did not start within 5 s".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut socket = DealerSocket::new();
    socket.connect(&format!("ipc://{path}")).await?;
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
