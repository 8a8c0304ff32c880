//! The greeting: what both sides must agree on, and the proof that both know the secret.
//!
//! The connecting side says hello with a random challenge; the listener answers with its proof and a challenge of its own;
//! the connecting side checks and proves itself. A proof is the HMAC-SHA256, keyed by the secret, of all that both sides
//! said and the side's name, so none can be used twice or by the other side.
//!
//! Invariant: neither side sends or runs a request before both sides' proofs were checked; no message holds the secret.

use crate::error::{Error, Result};
use crate::transport::options::{Options, Secret};
use crate::wire::codec;
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Version of all that is said over sockets.
pub(super) const VERSION: u32 = 1;

/// A random value that is never used twice.
pub(super) type Nonce = [u8; 32];

/// What tells a session from others.
pub(super) type SessionId = [u8; 16];

/// What a side says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    pub version: u32,
    pub build: u64,
    pub cluster: String,
    pub role: String,
    pub has_secret: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub card: Card,
    /// Always true. Builds that were before take another build unless they are told to refuse it.
    pub same_build: bool,
    pub session: SessionId,
    pub challenge: Nonce,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Challenge {
    pub card: Card,
    pub challenge: Nonce,
    /// The listener's unix socket, for those on the same machine.
    pub path: Option<String>,
    pub proof: [u8; 32],
}

impl Card {
    pub fn of(options: &Options) -> Self {
        Self {
            version: VERSION,
            build: options.build,
            cluster: options.cluster.clone(),
            role: options.role.to_owned(),
            has_secret: options.secret.is_some(),
        }
    }
}

impl Hello {
    pub fn new(options: &Options, session: SessionId) -> Self {
        Self { card: Card::of(options), same_build: true, session, challenge: rand::random() }
    }

    /// Whether a listener with `options` takes this hello; the error says which value differs.
    pub fn check(&self, options: &Options) -> Result<()> {
        agree(&self.card, &Card::of(options))
    }
}

impl Challenge {
    pub fn new(options: &Options, hello: &Hello, path: Option<String>) -> Result<Self> {
        let mut challenge = Self { card: Card::of(options), challenge: rand::random(), path, proof: [0; 32] };
        challenge.proof = challenge.mac(options, b"listener", hello)?.finalize().into_bytes().into();
        Ok(challenge)
    }

    /// Whether the listener knows the secret that `options` hold; then the proof to send back.
    pub fn answer(&self, options: &Options, hello: &Hello) -> Result<[u8; 32]> {
        agree(&hello.card, &self.card)?;
        self.mac(options, b"listener", hello)?.verify_slice(&self.proof).map_err(|_| secrets_differ())?;
        Ok(self.mac(options, b"client", hello)?.finalize().into_bytes().into())
    }

    /// Whether `proof` shows that the one that said `hello` knows the secret.
    pub fn verify(&self, options: &Options, hello: &Hello, proof: &[u8; 32]) -> Result<()> {
        self.mac(options, b"client", hello)?.verify_slice(proof).map_err(|_| secrets_differ())
    }

    fn mac(&self, options: &Options, side: &[u8], hello: &Hello) -> Result<Hmac<Sha256>> {
        let key = options.secret.as_ref().map_or(&[][..], Secret::bytes);
        let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| Error::bug(format!("the secret: {e}")))?;
        let said = codec::encode(&(hello, &self.card, &self.challenge, &self.path))?;
        // With its length the side's name can't be taken for a part of what was said.
        mac.update(&[side.len() as u8]);
        mac.update(side);
        mac.update(&said);
        Ok(mac)
    }
}

fn secrets_differ() -> Error {
    Error::user("the two sides' secrets differ; give all nodes the same secret file or FLEXPS_SECRET")
}

fn agree(client: &Card, listener: &Card) -> Result<()> {
    let role = &client.role;
    if client.version != listener.version {
        return Err(Error::user(format!(
            "a {role} that speaks protocol version {}, the {} speaks {}; start all nodes from one release",
            client.version, listener.role, listener.version
        )));
    }
    if client.cluster != listener.cluster {
        return Err(Error::user(format!(
            "a {role} of cluster '{}', the {} belongs to '{}'",
            client.cluster, listener.role, listener.cluster
        )));
    }
    // Messages have no form that outlives a build, and slaves derive plans from what they are sent.
    if client.build != listener.build {
        return Err(Error::user(format!(
            "a {role} of another build: it has {:016x}, the {} has {:016x}; use the same binary on both sides",
            client.build, listener.role, listener.build
        )));
    }
    match (client.has_secret, listener.has_secret) {
        (true, false) => Err(Error::user(format!(
            "the {role} has a secret, the {} has none; give both the same secret file or FLEXPS_SECRET",
            listener.role
        ))),
        (false, true) => Err(Error::user(format!(
            "the {} has a secret, the {role} has none; give both the same secret file or FLEXPS_SECRET",
            listener.role
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(secret: &str) -> Options {
        Options { secret: Secret::new(secret.as_bytes()).ok(), build: 1, ..Options::new("slave") }
    }

    fn greet(client: &Options, listener: &Options) -> Result<()> {
        let hello = Hello::new(client, [1; 16]);
        hello.check(listener)?;
        let challenge = Challenge::new(listener, &hello, None)?;
        let proof = challenge.answer(client, &hello)?;
        challenge.verify(listener, &hello, &proof)
    }

    #[test]
    fn the_same_secret_or_none_is_welcome() {
        greet(&options("a"), &options("a")).unwrap();
        greet(&options(""), &options("")).unwrap();
    }

    #[test]
    fn what_differs_is_named_with_both_values_but_never_the_secret() {
        let good = options("rosebud");
        let says = |other: Options, texts: &[&str]| {
            let error = greet(&other, &good).unwrap_err().message;
            assert!(texts.iter().all(|text| error.contains(text)), "{error}");
            assert!(!error.contains("rosebud") && !error.contains("sledge"), "{error}");
        };
        says(options("sledge"), &["secrets differ"]);
        says(options(""), &["slave has none"]);
        says(Options { cluster: "other".into(), ..good.clone() }, &["'other'", "'flexps'"]);
        says(
            Options { build: 255, ..good.clone() },
            &["a slave of another build", "00000000000000ff", "0000000000000001"],
        );
    }

    #[test]
    fn a_version_is_refused_with_both_numbers() {
        let mut hello = Hello::new(&options("a"), [1; 16]);
        hello.card.version = 9;
        let error = hello.check(&options("a")).unwrap_err().message;
        assert!(error.contains('9') && error.contains(&VERSION.to_string()), "{error}");
    }

    #[test]
    fn a_proof_serves_neither_twice_nor_the_other_side() {
        let options = options("a");
        let hello = Hello::new(&options, [1; 16]);
        let first = Challenge::new(&options, &hello, None).unwrap();
        let second = Challenge::new(&options, &hello, None).unwrap();
        let proof = first.answer(&options, &hello).unwrap();
        assert!(second.verify(&options, &hello, &proof).is_err());
        assert!(first.verify(&options, &hello, &first.proof).is_err());
    }
}
