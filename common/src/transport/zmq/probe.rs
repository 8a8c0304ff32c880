//! A first, short connection to an address: is a listener of this cluster there, and does it know the secret?
//!
//! The zeromq socket trusts whatever it is connected to; so it is connected to none but a listener that proved itself here,
//! with bounded reads, and an address where something else listens is called that.

use super::frames::{self, Down, Up};
use super::framing::{self, GREETING};
use super::gate::UNKNOWN;
use super::greeting::Hello;
use super::link::{plain, unreachable};
use crate::error::{Error, Result};
use crate::transport::options::Options;
use crate::wire::codec;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks the listener at `target` for its proof. Returns the path of its unix socket, if it has one to offer.
pub(super) async fn probe(target: SocketAddr, options: &Options) -> Result<Option<String>> {
    let mut stream = TcpStream::connect(target).await.map_err(|e| unreachable(plain(&e)))?;
    stream.set_nodelay(true).map_err(lost)?;
    stream.write_all(&framing::greeting()).await.map_err(lost)?;
    let mut greeting = [0; GREETING];
    // One byte first: others than listeners may say less, and then wait.
    stream.read_exact(&mut greeting[..1]).await.map_err(lost)?;
    if greeting[0] == 0xff {
        stream.read_exact(&mut greeting[1..]).await.map_err(lost)?;
    }
    framing::check_greeting(&greeting).map_err(|reason| stranger(&reason))?;
    let identity: [u8; 16] = rand::random();
    stream.write_all(&framing::ready(&identity)).await.map_err(lost)?;
    read_frame(&mut stream, framing::MAX_READY).await?;

    let hello = Hello::new(options, rand::random());
    let say = |up: &Up| Ok::<_, Error>(framing::frame(&codec::encode(up)?, false));
    stream.write_all(&say(&Up::Hello(hello.clone()))?).await.map_err(lost)?;
    let frame = read_frame(&mut stream, UNKNOWN).await?;
    let (down, _) = frames::parse::<Down>(&[frame.into()]).map_err(|e| stranger(&e.message))?;
    match down {
        Down::Challenge(challenge) => match challenge.answer(options, &hello) {
            Ok(_) => Ok(challenge.path),
            Err(error) => {
                // For the listener's log; the connection ends here in any case.
                let _ = stream.write_all(&say(&Up::Declined(error.message.clone()))?).await;
                Err(error)
            }
        },
        Down::Refused(error) => Err(error.context("refused")),
        other => Err(stranger(&format!("it greeted with {other:?}"))),
    }
}

async fn read_frame(stream: &mut TcpStream, limit: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; 2];
    let mut have = 0;
    loop {
        stream.read_exact(&mut bytes[have..]).await.map_err(lost)?;
        have = bytes.len();
        if let Some((_, len)) = framing::frame_header(&bytes, limit).map_err(|reason| stranger(&reason))? {
            let mut body = vec![0; len];
            stream.read_exact(&mut body).await.map_err(lost)?;
            return Ok(body);
        }
        bytes.resize(9, 0);
    }
}

fn lost(error: std::io::Error) -> Error {
    unreachable(format!("it closed the connection within the greeting ({})", plain(&error)))
}

fn stranger(reason: &str) -> Error {
    Error::user(format!("something else than flexps listens there ({reason}); check the address"))
}
