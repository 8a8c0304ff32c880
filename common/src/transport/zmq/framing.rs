//! ZMTP's framing, followed from outside: what the gate must understand of a connection to bound it.
//!
//! Invariant: a length above the limit is refused before any byte of its header is passed on; the follower itself
//! allocates nothing.

use bytes::Bytes;

/// Bytes of a greeting.
pub(super) const GREETING: usize = 64;
/// Most bytes of the READY command.
pub(super) const MAX_READY: usize = 1024;
/// Most frames of a message.
const MAX_FRAMES: usize = 8;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Why a connection is refused.
pub(super) type Refusal = String;

/// The greeting that this side sends: ZMTP 3.0, mechanism NULL.
pub(super) fn greeting() -> [u8; GREETING] {
    let mut greeting = [0; GREETING];
    greeting[0] = 0xff;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// A frame, of a command or the last of a message.
pub(super) fn frame(body: &[u8], command: bool) -> Vec<u8> {
    let flags = if command { COMMAND } else { 0 };
    let mut frame = match u8::try_from(body.len()) {
        Ok(len) => vec![flags, len],
        Err(_) => [&[flags | LONG][..], &(body.len() as u64).to_be_bytes()].concat(),
    };
    frame.extend_from_slice(body);
    frame
}

/// A DEALER's READY command.
pub(super) fn ready(identity: &[u8]) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity".to_vec();
    body.extend((identity.len() as u32).to_be_bytes());
    body.extend(identity);
    frame(&body, true)
}

/// The lengths of a frame's header and body, from its first 9 bytes or 2; None when more bytes are needed.
pub(super) fn frame_header(bytes: &[u8], limit: usize) -> Result<Option<(usize, usize)>, Refusal> {
    let (header, len) = match *bytes {
        [flags, len, ..] if flags & LONG == 0 => (2, u64::from(len)),
        [_, a, b, c, d, e, f, g, h, ..] => (9, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => return Ok(None),
    };
    match usize::try_from(len) {
        Ok(len) if len <= limit => Ok(Some((header, len))),
        _ => Err(format!("a frame of {len} bytes, at most {limit} are allowed")),
    }
}

/// Checks a peer's greeting.
pub(super) fn check_greeting(greeting: &[u8; GREETING]) -> Result<(), Refusal> {
    if greeting[0] != 0xff || greeting[9] != 0x7f {
        return Err("its first bytes are no ZMTP greeting".to_owned());
    }
    if greeting[10] < 3 {
        return Err(format!("it speaks ZMTP {}, 3 is needed", greeting[10]));
    }
    if &greeting[12..17] != b"NULL\0" {
        return Err("its security mechanism is not NULL".to_owned());
    }
    Ok(())
}

/// The lengths of a READY command's header and body; see [`frame_header`].
pub(super) fn ready_header(bytes: &[u8]) -> Result<Option<(usize, usize)>, Refusal> {
    match bytes.first() {
        Some(flags) if flags & !LONG != COMMAND => Err(format!("a frame with flags {flags:#04x} where READY is due")),
        _ => frame_header(bytes, MAX_READY),
    }
}

/// The identity that a READY command's body gives.
pub(super) fn ready_identity(body: &[u8]) -> Result<Bytes, Refusal> {
    let torn = || "a torn READY command".to_owned();
    let mut rest = body.strip_prefix(b"\x05READY").ok_or("a command other than READY")?;
    let (mut identity, mut dealer) = (None, false);
    while let Some((&name_len, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(name_len as usize).ok_or_else(torn)?;
        let (len, after) = after.split_first_chunk::<4>().ok_or_else(torn)?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or_else(torn)?;
        match name {
            b"Identity" => identity = Some(value),
            b"Socket-Type" => dealer = value == b"DEALER",
            _ => {}
        }
        rest = after;
    }
    match identity {
        _ if !dealer => Err("its socket is no DEALER".to_owned()),
        Some(id) if (1..=255).contains(&id.len()) => Ok(Bytes::copy_from_slice(id)),
        _ => Err("it gives no identity".to_owned()),
    }
}

/// Follows a connection's frames behind the READY command.
#[derive(Debug)]
pub(super) struct Follower {
    state: State,
    /// Bytes of the message so far, as claimed by its frames' headers.
    message: usize,
    frames: usize,
    more: bool,
}

#[derive(Debug)]
enum State {
    Flags,
    Length { left: u8, length: u64 },
    Body { left: usize },
}

impl Default for Follower {
    fn default() -> Self {
        Self { state: State::Flags, message: 0, frames: 0, more: false }
    }
}

impl Follower {
    /// Follows `bytes`; a message may claim at most `limit` bytes. After an error the connection must be closed and
    /// `bytes` thrown away.
    pub fn follow(&mut self, mut bytes: &[u8], limit: usize) -> Result<(), Refusal> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.state {
                State::Flags => {
                    if byte & !(MORE | LONG) != 0 {
                        return Err(format!("a frame with flags {byte:#04x}"));
                    }
                    self.more = byte & MORE != 0;
                    let left = if byte & LONG != 0 { 8 } else { 1 };
                    self.state = State::Length { left, length: 0 };
                    bytes = rest;
                }
                State::Length { left, length } => {
                    let length = length << 8 | u64::from(byte);
                    self.state = match left {
                        1 => State::Body { left: self.admit(length, limit)? },
                        _ => State::Length { left: left - 1, length },
                    };
                    bytes = rest;
                    self.end_if_empty();
                }
                State::Body { left } => {
                    let here = left.min(bytes.len());
                    bytes = &bytes[here..];
                    self.state = State::Body { left: left - here };
                    self.end_if_empty();
                }
            }
        }
        Ok(())
    }

    fn admit(&mut self, length: u64, limit: usize) -> Result<usize, Refusal> {
        self.frames += 1;
        if self.frames > MAX_FRAMES {
            return Err(format!("a message of more than {MAX_FRAMES} frames"));
        }
        let sum = usize::try_from(length).ok().and_then(|length| self.message.checked_add(length));
        match sum {
            Some(sum) if sum <= limit => {
                self.message = sum;
                Ok(length as usize)
            }
            _ => Err(format!(
                "a message of {} bytes or more, at most {limit} are allowed",
                length.max(self.message as u64)
            )),
        }
    }

    fn end_if_empty(&mut self) {
        if matches!(self.state, State::Body { left: 0 }) {
            self.state = State::Flags;
            if !self.more {
                (self.message, self.frames) = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(out: &mut Vec<u8>, len: usize, more: bool) {
        if len > 255 {
            out.push(LONG | u8::from(more));
            out.extend((len as u64).to_be_bytes());
        } else {
            out.extend([u8::from(more), len as u8]);
        }
        out.resize(out.len() + len, 7);
    }

    fn follow(bytes: &[u8], pieces: usize, limit: usize) -> Result<Follower, Refusal> {
        let mut follower = Follower::default();
        for piece in bytes.chunks(pieces.max(1)) {
            follower.follow(piece, limit)?;
        }
        Ok(follower)
    }

    proptest! {
        #[test]
        fn messages_within_the_limit_pass_in_any_pieces(
            messages in prop::collection::vec(prop::collection::vec(0usize..600, 1..4), 0..8), pieces in 1usize..700,
        ) {
            let mut bytes = Vec::new();
            for message in &messages {
                for (i, len) in message.iter().enumerate() {
                    frame(&mut bytes, *len, i + 1 < message.len());
                }
            }
            let limit = messages.iter().map(|m| m.iter().sum()).max().unwrap_or(0);
            let follower = follow(&bytes, pieces, limit).unwrap();
            prop_assert!(matches!(follower.state, State::Flags) && follower.message == 0);
            if limit > 0 {
                prop_assert!(follow(&bytes, pieces, limit - 1).unwrap_err().contains("at most"));
            }
        }
    }

    #[test]
    fn a_huge_length_is_refused_at_its_last_byte() {
        for length in [u64::MAX, 1 << 62, 4097] {
            let mut bytes = vec![LONG];
            bytes.extend(length.to_be_bytes());
            assert!(follow(&bytes, 1, 4096).unwrap_err().contains("4096"));
            assert!(follow(&bytes[..8], 1, 4096).is_ok());
        }
    }

    #[test]
    fn commands_and_endless_messages_are_refused() {
        assert!(follow(&[COMMAND, 0], 2, 4096).unwrap_err().contains("flags"));
        assert!(follow(&[MORE, 0].repeat(9), 2, 4096).unwrap_err().contains("frames"));
    }

    #[test]
    fn an_identity_is_found_and_its_absence_refused() {
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER".to_vec();
        assert!(ready_identity(&ready).unwrap_err().contains("identity"));
        ready.extend(b"\x08Identity\0\0\0\x03abc");
        assert_eq!(ready_identity(&ready).unwrap(), "abc");
        assert!(ready_identity(&ready[..ready.len() - 1]).unwrap_err().contains("torn"));
        assert!(ready_identity(b"\x05READY\x0bSocket-Type\0\0\0\x03SUB").unwrap_err().contains("DEALER"));
        assert!(ready_identity(b"\x04PING").is_err());
        assert_eq!(ready_header(&[COMMAND]), Ok(None));
        assert_eq!(ready_header(&[COMMAND, 9]), Ok(Some((2, 9))));
        assert!(ready_header(&[COMMAND | LONG, 1, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(ready_header(b"GET / HTTP").is_err());
    }
}
