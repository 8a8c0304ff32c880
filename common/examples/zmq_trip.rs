//! The zeromq crate's own round trip between two processes, as a yardstick: a DEALER here, a ROUTER in a child, over a unix
//! socket as between slaves of one machine, each side on a runtime of one thread, which is the fastest way to use them.
//!
//! `zmq_trip BYTES` sends and gets back so many bytes, again and again, and prints the median round trip in microseconds.

use std::error::Error;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeromq::{DealerSocket, RouterSocket, Socket, SocketRecv, SocketSend, ZmqMessage};

const TRIPS: usize = 5_000;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, path] if role == "serve" => runtime.block_on(serve(path)),
        [bytes] => {
            let folder = std::env::temp_dir().join(format!("zmq-trip-{}", std::process::id()));
            std::fs::create_dir(&folder)?;
            let path = folder.join("socket").to_string_lossy().into_owned();
            let mut child =
                Command::new(std::env::current_exe()?).args(["serve", &path]).stdout(Stdio::null()).spawn()?;
            let measured = runtime.block_on(measure(&path, bytes.parse()?));
            child.kill()?;
            child.wait()?;
            std::fs::remove_dir_all(&folder)?;
            println!("{{\"median_us\": {:.1}}}", measured?);
            Ok(())
        }
        _ => Err("usage: zmq_trip BYTES".into()),
    }
}

async fn serve(path: &str) -> Result<(), Box<dyn Error>> {
    let mut socket = RouterSocket::new();
    socket.bind(&format!("ipc://{path}")).await?;
    loop {
        let message = socket.recv().await?;
        socket.send(message).await?;
    }
}

async fn measure(path: &str, bytes: usize) -> Result<f64, Box<dyn Error>> {
    let deadline = Instant::now() + Duration::from_secs(5);
    while std::fs::metadata(path).is_err() {
        if Instant::now() > deadline {
            return Err("the other process did not start within 5 s".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut socket = DealerSocket::new();
    socket.connect(&format!("ipc://{path}")).await?;
    let payload = bytes::Bytes::from(vec![7; bytes]);
    let mut trips = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let start = Instant::now();
        socket.send(ZmqMessage::from(payload.clone())).await?;
        socket.recv().await?;
        trips.push(start.elapsed().as_secs_f64() * 1e6);
    }
    trips.sort_by(f64::total_cmp);
    Ok(trips[TRIPS / 2])
}
