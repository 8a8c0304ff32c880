//! How fast a bare hdfs-native stream reads a file, without anything of flexps: what `scripts/bench` holds a job's reading
//! against. Prints `{"bytes": …, "seconds": …}`.
//!
//! `cargo run --release -p flexps-common --features hdfs --example hdfs_stream -- hdfs://HOST:PORT/FILE`

use futures::StreamExt;
use hdfs_native::ClientBuilder;
use std::error::Error;
use std::time::Instant;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("usage: hdfs_stream hdfs://HOST:PORT/FILE")?;
    let at =
        url.strip_prefix("hdfs://").and_then(|rest| rest.find('/')).ok_or("the URL names no file")? + "hdfs://".len();
    let client = ClientBuilder::new().with_url(&url[..at]).build()?;
    let file = client.read(&url[at..]).await?;
    let (start, mut bytes) = (Instant::now(), 0);
    let mut stream = std::pin::pin!(file.read_range_stream(0, file.file_length()));
    while let Some(piece) = stream.next().await {
        bytes += piece?.len();
    }
    println!("{{\"bytes\": {bytes}, \"seconds\": {:.6}}}", start.elapsed().as_secs_f64());
    Ok(())
}
