//! Who may ask: what is checked of a request before anything is done for it.
//!
//! Invariant: a page of somebody else that runs in a user's browser can neither read an answer nor change anything: it can't
//! make a request under a name of this machine (`Host`), nor one that changes something (`Origin`, content type).

use super::answer::{self, Answer};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flexps_common::Result;
use flexps_common::transport::Secret;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use std::net::IpAddr;

/// See the module.
pub struct Guard {
    names: Vec<String>,
    token: Option<String>,
}

impl Guard {
    /// A guard of what listens at `address`, also known by these names.
    pub fn new(address: &str, mut names: Vec<String>, secret: Option<&Secret>) -> Result<Self> {
        names.extend([host(address).to_owned(), "localhost".to_owned()]);
        names.iter_mut().for_each(|name| name.make_ascii_lowercase());
        Ok(Self { names, token: secret.map(Secret::token).transpose()? })
    }

    /// The answer to a request that must not be carried out.
    pub fn refuses(&self, method: &Method, headers: &HeaderMap) -> Option<Answer> {
        let Some(host) = one(headers, header::HOST).filter(|host| self.is_ours(host)) else {
            let why = "the Host header names no address or name of this machine";
            return Some(answer::refusal(StatusCode::MISDIRECTED_REQUEST, why));
        };
        if let Some(token) = &self.token
            && !shown(headers).is_some_and(|given| same(&given, token))
        {
            let why = "show the cluster's token, which `flexps token` prints, as a bearer token or as the password";
            let mut refusal = answer::refusal(StatusCode::UNAUTHORIZED, why);
            let how = HeaderValue::from_static("Basic realm=\"flexps\", charset=\"UTF-8\"");
            refusal.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            return Some(refusal);
        }
        if method == Method::GET || method == Method::HEAD {
            return None;
        }
        let foreign = |origin: &str| origin.split_once("://").is_none_or(|(_, from)| from != host);
        if headers.contains_key(header::ORIGIN) && one(headers, header::ORIGIN).is_none_or(foreign) {
            return Some(answer::refusal(StatusCode::FORBIDDEN, "the request comes from another site's page"));
        }
        // A form of another site can't say this without asking first, and nobody answers that question.
        let kind = one(headers, header::CONTENT_TYPE).unwrap_or_default();
        // What is no POST does nothing, and is told so.
        if method == Method::POST && kind.split(';').next().map(str::trim) != Some("application/json") {
            let why = "the content type must be application/json";
            return Some(answer::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
        }
        None
    }

    /// Whether a `Host` header names this machine. An address can't be rebound to another one, a name can.
    fn is_ours(&self, given: &str) -> bool {
        let name = host(given);
        let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        bare.parse::<IpAddr>().is_ok() || self.names.contains(&name.to_ascii_lowercase())
    }
}

/// `host:port` without the port.
fn host(address: &str) -> &str {
    match address.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|b| b.is_ascii_digit()) && (!host.contains(':') || host.ends_with(']')) =>
        {
            host
        }
        _ => address,
    }
}

/// A header that is there once and readable.
fn one(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { None } else { first.to_str().ok() }
}

/// The token that a request shows: `Bearer TOKEN`, or the password of `Basic`, whoever the user is.
fn shown(headers: &HeaderMap) -> Option<String> {
    let (scheme, value) = one(headers, header::AUTHORIZATION)?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(value.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(value.trim()).ok()?;
    let pair = String::from_utf8(decoded).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

/// Compares without telling, by the time it takes, how much was right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice::from_ref;

    fn refused(guard: &Guard, method: Method, headers: &[(HeaderName, &str)]) -> Option<u16> {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect();
        guard.refuses(&method, &headers).map(|answer| answer.status().as_u16())
    }

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let guard = Guard::new("node-7:7071", vec!["Node-7.example".to_owned()], None).unwrap();
        for good in
            ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:9", "[::1]", "10.0.0.1", "node-7:7", "node-7.example"]
        {
            assert_eq!(refused(&guard, Method::GET, &[(header::HOST, good)]), None, "{good}");
        }
        for bad in
            ["evil.example", "evil.example:7071", "", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost"]
        {
            assert_eq!(refused(&guard, Method::GET, &[(header::HOST, bad)]), Some(421), "{bad}");
        }
        assert_eq!(refused(&guard, Method::GET, &[]), Some(421));
    }

    #[test]
    fn another_sites_page_changes_nothing() {
        let guard = Guard::new("127.0.0.1:0", Vec::new(), None).unwrap();
        let json = (header::CONTENT_TYPE, "application/json");
        let host = (header::HOST, "localhost:7071");
        let post = |more: &[(HeaderName, &str)]| refused(&guard, Method::POST, &[from_ref(&host), more].concat());
        assert_eq!(post(from_ref(&json)), None);
        assert_eq!(post(&[json.clone(), (header::ORIGIN, "http://localhost:7071")]), None);
        assert_eq!(post(&[json.clone(), (header::ORIGIN, "http://evil.example")]), Some(403));
        assert_eq!(post(&[json.clone(), (header::ORIGIN, "null")]), Some(403));
        assert_eq!(post(&[json, (header::ORIGIN, "http://localhost:8080")]), Some(403));
        assert_eq!(post(&[(header::CONTENT_TYPE, "text/plain")]), Some(415));
        assert_eq!(post(&[]), Some(415));
    }

    #[test]
    fn with_a_secret_its_token_opens_and_nothing_else_does() {
        let secret = Secret::new(b"hush").unwrap();
        let token = secret.token().unwrap();
        let guard = Guard::new("127.0.0.1:0", Vec::new(), Some(&secret)).unwrap();
        let get =
            |value: &str| refused(&guard, Method::GET, &[(header::HOST, "127.0.0.1"), (header::AUTHORIZATION, value)]);
        assert_eq!(get(&format!("Bearer {token}")), None);
        for bad in ["Bearer hush", "Bearer", "Basic hush", "Basic !!!", &format!("Bearer {token}0"), "Digest x", ""] {
            assert_eq!(get(bad), Some(401), "{bad}");
        }
        assert_eq!(get(&format!("Basic {}", BASE64_STANDARD.encode(format!("ann:{token}")))), None);
        assert_eq!(refused(&guard, Method::GET, &[(header::HOST, "127.0.0.1")]), Some(401));
    }
}
