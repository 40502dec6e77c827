//! Where a provider lives, and how paths are put onto it.

use batchwright_core::{Error, ErrorKind, Result};
use reqwest::Url;
use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The URL a provider's paths are joined to, checked once: https, no credentials, nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl(Url);

impl BaseUrl {
    /// Checks `text`. Plain http is accepted for loopback hosts, elsewhere only with
    /// `allow_plain_http`, since keys and prompts would travel in clear text (F-196). User info and
    /// key-like query parameters are refused, since URLs end up in logs (F-193). Other query
    /// parameters stay on every joined URL.
    ///
    /// # Errors
    /// `ConfigInvalid`, without the text.
    pub fn parse(text: &str, allow_plain_http: bool) -> Result<Self> {
        let url = Url::parse(text.trim())
            .map_err(|_| fault("is not an absolute URL such as https://api.example.com/v1"))?;
        match url.scheme() {
            "https" => {}
            "http" if allow_plain_http || is_loopback(&url) => {}
            "http" => {
                return Err(fault(
                    "is plain http, which would send the key and the prompts in clear text",
                ));
            }
            _ => return Err(fault("is neither https nor http")),
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(fault("has no host"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("contains a user name or password"));
        }
        if url.fragment().is_some() {
            return Err(fault("contains a fragment (#)"));
        }
        if url.query_pairs().any(|(name, _)| is_key_like(&name)) {
            return Err(fault(
                "has a query parameter that looks like a key; keys travel in headers",
            ));
        }
        Ok(Self(url))
    }

    /// The base with `path` behind its own path, whatever slashes either has (F-221). `path` may carry
    /// a query; its segments must be percent-encoded already where they need it. For ids from outside
    /// use [`BaseUrl::join_segments`].
    ///
    /// # Errors
    /// `Unexpected` where the path has `.` or `..` segments or a fragment.
    pub fn join(&self, path: &str) -> Result<Url> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let bad =
            |byte: u8| matches!(byte, b'#' | b'\\') || byte.is_ascii_control() || byte == b' ';
        if path
            .bytes()
            .chain(query.unwrap_or_default().bytes())
            .any(bad)
            || path.split('/').any(is_dot_segment)
        {
            return Err(Error::new(
                ErrorKind::Unexpected,
                "join a path to the base URL: it has segments that would lead elsewhere",
            ));
        }
        let mut joined = self.0.path().trim_matches('/').to_owned();
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            joined.push('/');
            joined.push_str(segment);
        }
        let mut url = self.0.clone();
        url.set_path(&joined);
        if let Some(query) = query.filter(|query| !query.is_empty()) {
            let joined = match self.0.query().filter(|own| !own.is_empty()) {
                Some(own) => format!("{own}&{query}"),
                None => query.to_owned(),
            };
            url.set_query(Some(&joined));
        }
        Ok(url)
    }

    /// The base with `segments` behind its own path, each percent-encoded, so that an id from outside
    /// stays one segment whatever it holds (F-198).
    ///
    /// # Errors
    /// `InvalidRequest` where a segment is empty, `.` or `..`, or holds control characters.
    pub fn join_segments(&self, segments: &[&str]) -> Result<Url> {
        let mut url = self.0.clone();
        {
            let mut path = url
                .path_segments_mut()
                .map_err(|()| fault("cannot carry a path"))?;
            path.pop_if_empty();
            for segment in segments {
                if segment.is_empty()
                    || is_dot_segment(segment)
                    || segment.chars().any(char::is_control)
                {
                    return Err(Error::new(
                        ErrorKind::InvalidRequest,
                        "build the URL: an id is empty or would lead elsewhere",
                    ));
                }
                path.push(segment);
            }
        }
        // `https://host//v1` has empty segments of its own; servers take them literally.
        if url.path().contains("//") {
            let path = url
                .path()
                .split('/')
                .filter(|segment| !segment.is_empty())
                .collect::<Vec<_>>()
                .join("/");
            url.set_path(&path);
        }
        Ok(url)
    }

    /// A URL the server supplied, absolute or relative, accepted only at this base's own origin
    /// (F-197).
    ///
    /// # Errors
    /// `ProviderFault` of class `RowFatal` where it leads to another scheme, host or port or carries
    /// credentials.
    pub fn same_origin(&self, url: &str) -> Result<Url> {
        let refused = || {
            Error::new(
                ErrorKind::ProviderFault,
                "follow a URL from the provider: it leads away from the base URL",
            )
            .with_class(batchwright_core::RetryClass::RowFatal)
        };
        let url = self.0.join(url).map_err(|_| refused())?;
        let same = url.scheme() == self.0.scheme()
            && url.host() == self.0.host()
            && url.port_or_known_default() == self.0.port_or_known_default();
        if !same || !url.username().is_empty() || url.password().is_some() {
            return Err(refused());
        }
        Ok(url)
    }

    /// The URL itself.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// Scheme, host and port.
    pub fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// Whether the host is this machine.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.0)
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin())?;
        f.write_str(self.0.path().trim_end_matches('/'))
    }
}

/// Whether the URL's host is this machine, by its name alone.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
        || host == "localhost"
        || host.ends_with(".localhost")
}

fn is_key_like(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "key",
        "token",
        "secret",
        "password",
        "passwd",
        "auth",
        "credential",
        "signature",
    ]
    .iter()
    .any(|word| name.contains(word))
        || name == "sig"
}

fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

fn fault(what: &str) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        format!("use the base URL: it {what}"),
    )
}
