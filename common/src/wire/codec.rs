//! Control messages to bytes and back. The one file that uses bincode, which is no longer maintained.
//!
//! Invariant: decoding reads all bytes and answers garbage with an error; whatever lengths are claimed inside a frame, it
//! makes room for no more than 64 KiB (8 KiB frames), 4 MiB (512 KiB) or 128 MiB (the largest), and 1 MiB a list.

use crate::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};

/// Most bytes of an encoded control message; larger things (tables, files) travel as bulk bodies.
pub const MAX_CONTROL: usize = 16 << 20;

/// The message as bytes.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>> {
    let bytes = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|e| Error::bug(format!("a control message can't be encoded: {e}")))?;
    if bytes.len() > MAX_CONTROL {
        return Err(Error::bug(format!(
            "a control message of {} bytes, at most {MAX_CONTROL} are allowed",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The message that `bytes` hold, all of them.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M> {
    // The decoder counts up to 8 bytes for one that it reads, and takes a text's claimed length against the same limit
    // before it makes room. The limit is a constant, hence the steps.
    match bytes.len() {
        ..=SMALL => decode_within::<M, { 8 * SMALL }>(bytes),
        len if len <= MIDDLE => decode_within::<M, { 8 * MIDDLE }>(bytes),
        len if len <= MAX_CONTROL => decode_within::<M, { 8 * MAX_CONTROL }>(bytes),
        len => Err(Error::cluster(format!("a control message of {len} bytes, at most {MAX_CONTROL} are allowed"))),
    }
}

const SMALL: usize = 8 << 10;
const MIDDLE: usize = 512 << 10;

fn decode_within<M: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<M> {
    match bincode::serde::decode_from_slice(bytes, bincode::config::standard().with_limit::<LIMIT>()) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        Ok((_, used)) => {
            Err(Error::cluster(format!("a control message of {used} bytes in a frame of {}", bytes.len())))
        }
        Err(e) => Err(Error::cluster(format!("a control message can't be decoded: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_numbers_fit_up_to_the_largest_message() {
        for len in [0, 100, 10_000, 1_000_000, MAX_CONTROL - 100] {
            let numbers = vec![7u64; len];
            assert_eq!(decode::<Vec<u64>>(&encode(&numbers).unwrap()).unwrap(), numbers);
        }
        assert!(encode(&vec![7u64; MAX_CONTROL]).is_err());
        assert!(decode::<Vec<u64>>(&vec![0; MAX_CONTROL + 1]).is_err());
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = encode(&5u8).unwrap();
        bytes.push(0);
        assert!(decode::<u8>(&bytes).unwrap_err().message.contains("in a frame of 2"));
    }
}
