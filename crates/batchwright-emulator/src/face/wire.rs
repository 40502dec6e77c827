//! What several faces need of HTTP: keys, queries, JSON answers.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde::Serialize;

use crate::engine::{Engine, fingerprint};

/// Where a vendor's clients put their key.
#[allow(dead_code, reason = "not every place has a face yet")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum KeyPlace {
    /// `Authorization: Bearer …`.
    Bearer,
    /// A header of its own, for example `x-api-key`.
    Header(&'static str),
    /// A query parameter, for example `key`.
    Query(&'static str),
}

/// Why a caller was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFault {
    Missing,
    Unknown,
}

/// The fingerprint of the caller's key: the first place that has one counts.
///
/// A key is known when the config names no keys and it is well formed (not empty, visible ASCII), or when the config
/// names it.
pub(crate) fn caller(
    engine: &Engine,
    headers: &HeaderMap,
    query: &str,
    places: &[KeyPlace],
) -> Result<String, KeyFault> {
    let key = places
        .iter()
        .find_map(|place| match place {
            KeyPlace::Bearer => bearer(headers).map(str::to_owned),
            KeyPlace::Header(name) => headers.get(*name)?.to_str().ok().map(str::to_owned),
            KeyPlace::Query(name) => Query::parse(query).get(name).map(str::to_owned),
        })
        .ok_or(KeyFault::Missing)?;
    let keys = &engine.config.keys;
    let well_formed = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    if well_formed && (keys.is_empty() || keys.contains(&key)) {
        Ok(fingerprint(&key))
    } else {
        Err(KeyFault::Unknown)
    }
}

/// The key of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

/// An answer of JSON that is written already.
pub(crate) fn json_bytes(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// An answer of JSON.
pub(crate) fn json<T: Serialize>(value: &T) -> Response {
    json_bytes(serde_json::to_vec(value).expect("answers serialize into memory"))
}

/// A query of `name=value` pairs, percent-decoded.
#[derive(Debug)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every value of a name, in order.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// A text with its percent escapes undone, and `+` as a space.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let escaped = match (byte, tail) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match (byte, escaped) {
            (_, Some((high, low))) => {
                bytes.push(high * 16 + low);
                rest = &tail[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse("after=file-1&order=asc&purpose=a%20b+c&x&id=1&id=2");
        assert_eq!(query.get("after"), Some("file-1"));
        assert_eq!(query.get("purpose"), Some("a b c"));
        assert_eq!(query.get("x"), Some(""));
        assert_eq!(query.get("limit"), None);
        assert_eq!(query.all("id").collect::<Vec<_>>(), ["1", "2"]);
    }
}
