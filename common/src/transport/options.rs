//! What a node says of itself when it greets another, and the limits that it keeps.

use crate::error::{Error, Result};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A shared secret. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// A secret of these bytes; white space around it is taken off, an empty one is refused.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        match bytes.trim_ascii() {
            [] => Err(Error::user("the secret is empty; give some random text, e.g. from `openssl rand -hex 32`")),
            bytes => Ok(Self(bytes.to_vec())),
        }
    }

    /// The secret in the file at `path`, if one is given, else in the environment variable FLEXPS_SECRET, else none.
    pub fn load(path: Option<&Path>) -> Result<Option<Self>> {
        match path {
            Some(path) => {
                let bytes = std::fs::read(path).map_err(|e| crate::error::io(path.display(), &e))?;
                Self::new(&bytes).map(Some).map_err(|e| e.context(path.display()))
            }
            None => match std::env::var_os("FLEXPS_SECRET") {
                Some(value) => Self::new(value.as_encoded_bytes()).map(Some).map_err(|e| e.context("FLEXPS_SECRET")),
                None => Ok(None),
            },
        }
    }

    /// What a browser or a script shows to a master's pages, as 64 hexadecimal digits. Made of the secret by a one-way
    /// function, so that who sees it on the wire can look and submit, but can't join the cluster.
    pub fn token(&self) -> Result<String> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0).map_err(|e| Error::bug(format!("the secret: {e}")))?;
        let bytes = mac.chain_update(b"flexps pages").finalize().into_bytes();
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Identity and limits of one process on a network of sockets.
#[derive(Debug, Clone)]
pub struct Options {
    /// Nodes of another cluster are refused.
    pub cluster: String,
    /// Needed for every address beyond loopback; both sides of a connection must have the same, or none.
    pub secret: Option<Secret>,
    /// What this process is, e.g. `slave`: refusals name it.
    pub role: &'static str,
    /// This process' build; peers of another one are refused.
    pub build: u64,
    /// Bytes of unanswered requests that a channel holds; more wait.
    pub credits: usize,
    /// Bytes of answers that a listener keeps for a connection that does not read them; its further requests wait.
    pub answers: usize,
    /// Most bytes of a message.
    pub max_message: usize,
    /// How long a lost connection may take to come back before the service is told that it is gone.
    pub grace: Duration,
    /// Whether listeners on this machine are reached by their unix sockets, past TCP.
    pub same_host: bool,
}

impl Options {
    /// The usual limits for a process that is a `role`.
    pub fn new(role: &'static str) -> Self {
        Self {
            cluster: "flexps".to_owned(),
            secret: None,
            role,
            build: crate::ids::build_id(),
            credits: 64 << 20,
            answers: 64 << 20,
            max_message: 64 << 20,
            grace: Duration::from_secs(1),
            same_host: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_trimmed_never_empty_and_never_shown() {
        assert_eq!(Secret::new(b"hush\n").unwrap(), Secret::new(b"hush").unwrap());
        assert!(Secret::new(b" \n").is_err());
        assert!(!format!("{:?}", Options { secret: Secret::new(b"hush").ok(), ..Options::new("x") }).contains("hush"));
    }

    #[test]
    fn a_token_is_the_secrets_own_and_does_not_show_it() {
        let token = Secret::new(b"hush").unwrap().token().unwrap();
        assert_eq!((token.len(), token.contains("hush")), (64, false));
        assert_eq!(token, Secret::new(b"hush\n").unwrap().token().unwrap());
        assert_ne!(token, Secret::new(b"hush!").unwrap().token().unwrap());
    }

    #[test]
    fn a_missing_secret_file_is_named() {
        assert!(Secret::load(Some(Path::new("/no/such/file"))).unwrap_err().message.contains("/no/such/file"));
    }
}
