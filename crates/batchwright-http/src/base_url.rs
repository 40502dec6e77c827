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

    /// A setting's text for `Debug`: without what else may be secret, and `unusable` where [`BaseUrl::parse`] would
    /// refuse it, since it may carry a password.
    pub fn shown(text: &str) -> String {
        Self::parse(text, true).map_or_else(|_| "unusable".to_owned(), |url| url.to_string())
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

    /// Path and query of a URL the server supplied, at this base's own origin whatever host it names: as Google's
    /// own clients do with upload URLs, so that a proxy or an emulator stays in between, and no key goes astray
    /// (F-197).
    ///
    /// # Errors
    /// `ProviderFault` of class `RowFatal` where it is no URL.
    pub fn at_origin(&self, url: &str) -> Result<Url> {
        let supplied = self.0.join(url).map_err(|_| {
            Error::new(
                ErrorKind::ProviderFault,
                "follow a URL from the provider: it is none",
            )
            .with_class(batchwright_core::RetryClass::RowFatal)
        })?;
        let mut url = self.0.clone();
        url.set_path(supplied.path());
        url.set_query(supplied.query());
        Ok(url)
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn base(text: &str) -> BaseUrl {
        BaseUrl::parse(text, false).unwrap()
    }

    #[test]
    fn f_193_f_196_what_is_refused_says_why_and_not_what() {
        for (text, why) in [
            ("http://api.example.com/canary", "plain http"),
            ("http://localhost.example.com/canary", "plain http"),
            ("http://127.0.0.1.example.com/canary", "plain http"),
            ("http://10.0.0.1/canary", "plain http"),
            ("ftp://api.example.com/canary", "neither https"),
            ("canary", "not an absolute URL"),
            ("", "not an absolute URL"),
            ("https://canary@api.example.com", "user name"),
            ("https://:canary@api.example.com", "user name"),
            ("https://api.example.com/v1?key=canary", "looks like a key"),
            (
                "https://api.example.com/v1?a=b&api_KEY=canary",
                "looks like a key",
            ),
            (
                "https://api.example.com/v1?access%5Ftoken=canary",
                "looks like a key",
            ),
            ("https://api.example.com/v1?sig=canary", "looks like a key"),
            ("https://api.example.com/v1#canary", "fragment"),
        ] {
            let error = BaseUrl::parse(text, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.message().contains(why), "{text}: {error}");
            assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        }
    }

    #[test]
    fn f_196_this_machine_and_what_is_allowed_may_be_plain() {
        for text in [
            "http://localhost:8000",
            "http://127.8.0.1/v1",
            "http://[::1]:80/",
            "http://emulator.localhost",
        ] {
            assert!(base(text).is_loopback(), "{text}");
        }
        assert!(
            !BaseUrl::parse("http://10.0.0.1/v1", true)
                .unwrap()
                .is_loopback()
        );
    }

    #[test]
    fn f_221_paths_are_joined_whatever_slashes_there_are() {
        for (text, path, expected) in [
            ("https://a.test", "chat", "https://a.test/chat"),
            ("https://a.test/", "/chat", "https://a.test/chat"),
            (
                "https://a.test/v1",
                "/chat/completions",
                "https://a.test/v1/chat/completions",
            ),
            (
                "https://a.test/openai/v1/",
                "batches",
                "https://a.test/openai/v1/batches",
            ),
            (
                "https://a.test/openai/v1//",
                "//batches//b_1",
                "https://a.test/openai/v1/batches/b_1",
            ),
            ("https://a.test//v1", "batches", "https://a.test/v1/batches"),
            (
                "https://a.test/v1",
                "batches?limit=2&after=b_1",
                "https://a.test/v1/batches?limit=2&after=b_1",
            ),
            (
                "https://a.test/v1?api-version=7",
                "batches",
                "https://a.test/v1/batches?api-version=7",
            ),
            (
                "https://a.test/v1?api-version=7",
                "batches?limit=2",
                "https://a.test/v1/batches?api-version=7&limit=2",
            ),
            (
                "https://a.test/v1",
                "files/a%2Fb",
                "https://a.test/v1/files/a%2Fb",
            ),
            (
                "https://a.test/v1",
                "models/m:generate",
                "https://a.test/v1/models/m:generate",
            ),
        ] {
            assert_eq!(base(text).join(path).unwrap().as_str(), expected);
        }
        for path in ["../x", "a/%2e%2E/b", "./a", "a#b", "a\\b", "a b", "a\n"] {
            assert!(base("https://a.test/v1").join(path).is_err(), "{path}");
        }
    }

    #[test]
    fn f_198_an_id_stays_one_segment() {
        let base = base("https://a.test//openai/v1/?api-version=7");
        let join = |id: &str| base.join_segments(&["batches", id, "cancel"]);
        for (id, expected) in [
            ("batch_1", "batch_1"),
            ("a/b", "a%2Fb"),
            ("../x", "..%2Fx"),
            ("a?b#c", "a%3Fb%23c"),
            ("a b", "a%20b"),
            ("a%2Fb", "a%252Fb"),
            ("é", "%C3%A9"),
        ] {
            assert_eq!(
                join(id).unwrap().as_str(),
                format!("https://a.test/openai/v1/batches/{expected}/cancel?api-version=7")
            );
        }
        for id in ["", ".", "..", "%2e%2E", "a\0", "a\n"] {
            assert_eq!(
                join(id).unwrap_err().kind(),
                ErrorKind::InvalidRequest,
                "{id:?}"
            );
        }
    }

    #[test]
    fn f_197_an_upload_url_is_followed_at_home() {
        let base = base("https://api.test/v1");
        for (url, expected) in [
            (
                "https://evil.test:444/upload/v1/files?upload_id=x&upload_protocol=resumable",
                "https://api.test/upload/v1/files?upload_id=x&upload_protocol=resumable",
            ),
            ("https://u:p@evil.test/a", "https://api.test/a"),
            ("/upload/b", "https://api.test/upload/b"),
        ] {
            assert_eq!(base.at_origin(url).unwrap().as_str(), expected);
        }
        assert!(base.at_origin("https://").is_err());
    }

    #[test]
    fn f_197_server_supplied_urls_stay_at_home() {
        let base = base("https://api.test/v1");
        for (url, expected) in [
            (
                "https://api.test/v1/results?x=1",
                "https://api.test/v1/results?x=1",
            ),
            ("https://api.test:443/r", "https://api.test/r"),
            ("/v1/results", "https://api.test/v1/results"),
        ] {
            assert_eq!(base.same_origin(url).unwrap().as_str(), expected);
        }
        for url in [
            "http://api.test/r",
            "https://api.test:444/r",
            "https://evil.test/r",
            "//evil.test/r",
            "\\\\evil.test/r",
            "https://api.test@evil.test/",
            "https://u:p@api.test/r",
            "file:///etc/passwd",
            "http://169.254.169.254/",
            "https://127.0.0.1/",
            "javascript:1",
            "data:x",
            "https://",
        ] {
            let error = base.same_origin(url).unwrap_err();
            assert!(
                !error.is_retryable() && !error.to_string().contains("evil"),
                "{url}"
            );
        }
    }

    #[test]
    fn display_is_origin_and_path() {
        assert_eq!(
            base("https://a.test:8443/v1/?api-version=7").to_string(),
            "https://a.test:8443/v1"
        );
        assert_eq!(base("https://a.test").to_string(), "https://a.test");
    }

    proptest! {
        /// F-198: whatever the id, the URL has exactly one segment more.
        #[test]
        fn f_198_no_id_escapes(id in "\\PC{0,30}|[./%\\\\?#:@2eE]{0,12}") {
            if let Ok(url) = base("https://a.test/v1").join_segments(&[&id]) {
                let segments = url.path_segments().unwrap().collect::<Vec<_>>();
                prop_assert_eq!(segments.len(), 2);
                prop_assert_eq!(segments[0], "v1");
                prop_assert!(url.query().is_none() && url.fragment().is_none());
                prop_assert_eq!(url.host_str(), Some("a.test"));
            }
        }
    }

    #[test]
    fn f_192_a_setting_is_shown_without_what_may_be_secret() {
        assert_eq!(
            BaseUrl::shown("https://user:CANARY@example.com"),
            "unusable"
        );
        assert!(BaseUrl::shown("http://example.com/v1").contains("example.com"));
    }
}
