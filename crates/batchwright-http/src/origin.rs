//! A place connections lead to, and those that are idle.

use crate::{base_url::is_loopback, direct::Live};
use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Url, header::HeaderValue};
use rustls::pki_types::ServerName;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::time::Instant;

/// How many origins are remembered though no connection to them is idle. A provider has one, and a few more where it
/// hands out addresses for uploads and downloads.
const REMEMBERED: usize = 64;

/// Scheme, host and port, and what follows from them.
#[derive(Debug)]
pub(crate) struct Origin {
    host: String,
    port: u16,
    https: bool,
    /// What the connector is asked for.
    pub(crate) uri: Uri,
    /// The `host` header.
    pub(crate) authority: HeaderValue,
    /// The name the certificate must be of, for https.
    pub(crate) name: Option<ServerName<'static>>,
    /// Whether a proxy of environment or system stands between.
    pub(crate) proxied: bool,
    /// The one that was idle longest is in front.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    live: Box<Live>,
    since: Instant,
}

impl Origin {
    /// None where the URL is none a request can be sent to.
    fn of(url: &Url, proxies: Option<&Matcher>) -> Option<Self> {
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let host = url.host_str().filter(|host| !host.is_empty())?;
        let port = url.port_or_known_default()?;
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let uri: Uri = format!("{}://{authority}/", url.scheme()).parse().ok()?;
        let name = if https {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            Some(ServerName::try_from(bare.to_owned()).ok()?)
        } else {
            None
        };
        let proxied =
            !is_loopback(url) && proxies.is_some_and(|proxies| proxies.intercept(&uri).is_some());
        Some(Self {
            host: host.to_owned(),
            port,
            https,
            authority: HeaderValue::try_from(authority).ok()?,
            uri,
            name,
            proxied,
            idle: Mutex::default(),
        })
    }

    fn is_of(&self, url: &Url) -> bool {
        // The scheme is one of two, by the check in `of` and this.
        self.https == (url.scheme() == "https")
            && (self.https || url.scheme() == "http")
            && url.port_or_known_default() == Some(self.port)
            && url.host_str() == Some(self.host.as_str())
    }

    /// The connection that was used last, unless it is idle for longer than `limit`; those are closed.
    pub(crate) fn take(&self, limit: Duration, now: Instant) -> Option<Box<Live>> {
        let mut idle = self.idle();
        let newest = idle.pop_back()?;
        if now.saturating_duration_since(newest.since) < limit {
            return Some(newest.live);
        }
        // All others are idle for longer still.
        let closed = std::mem::take(&mut *idle);
        drop(idle);
        drop(closed);
        None
    }

    /// Keeps a connection, `most` at once; closes those idle for longer than `limit`.
    pub(crate) fn put(&self, live: Box<Live>, limit: Duration, most: usize) {
        let since = Instant::now();
        let mut idle = self.idle();
        let closed = match idle.front() {
            Some(oldest) if idle.len() >= most || since - oldest.since >= limit => idle.pop_front(),
            _ => None,
        };
        idle.push_back(Idle { live, since });
        drop(idle);
        drop(closed);
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        // A panic elsewhere leaves the queue whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The origins that were called.
#[derive(Debug)]
pub(crate) struct Origins {
    known: RwLock<Vec<Arc<Origin>>>,
    /// What stands between; none where proxies are ignored.
    proxies: Option<Matcher>,
}

impl Origins {
    pub(crate) fn new(proxies: Option<Matcher>) -> Self {
        Self {
            known: RwLock::default(),
            proxies,
        }
    }

    /// Where `url` leads; none where no request can be sent there.
    pub(crate) fn of(&self, url: &Url) -> Option<Arc<Origin>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = known.iter().find(|origin| origin.is_of(url)) {
            return Some(Arc::clone(origin));
        }
        drop(known);
        let origin = Arc::new(Origin::of(url, self.proxies.as_ref())?);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = known.iter().find(|origin| origin.is_of(url)) {
            return Some(Arc::clone(origin));
        }
        if known.len() >= REMEMBERED {
            known.retain(|origin| Arc::strong_count(origin) > 1 || !origin.idle().is_empty());
        }
        known.push(Arc::clone(&origin));
        Some(origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(url: &str) -> Option<Origin> {
        Origin::of(&url.parse().unwrap(), None)
    }

    #[test]
    fn the_host_header_has_the_port_where_the_url_has() {
        for (url, authority, uri) in [
            ("https://a.example/v1", "a.example", "https://a.example/"),
            ("https://a.example:443/", "a.example", "https://a.example/"),
            (
                "https://a.example:8443/",
                "a.example:8443",
                "https://a.example:8443/",
            ),
            ("http://127.0.0.1:80/", "127.0.0.1", "http://127.0.0.1/"),
            ("http://[::1]:8080/", "[::1]:8080", "http://[::1]:8080/"),
            (
                "http://bücher.example/",
                "xn--bcher-kva.example",
                "http://xn--bcher-kva.example/",
            ),
        ] {
            let origin = of(url).unwrap();
            assert_eq!(origin.authority, authority, "{url}");
            assert_eq!(origin.uri, uri, "{url}");
            assert_eq!(origin.name.is_some(), url.starts_with("https"), "{url}");
        }
        assert!(of("https://[::1]/").unwrap().name.is_some());
        for url in ["ftp://a.example/", "data:text,x", "file:///etc/hosts"] {
            assert!(of(url).is_none(), "{url}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origins = Origins::new(None);
        let of = |url: &str| origins.of(&url.parse().unwrap()).unwrap();
        let one = of("https://a.example/v1");
        assert!(Arc::ptr_eq(&one, &of("https://A.example:443/v2?x=1")));
        for other in [
            "http://a.example:443/",
            "https://a.example:444/",
            "https://b.example/",
        ] {
            assert!(!Arc::ptr_eq(&one, &of(other)), "{other}");
        }
    }

    #[test]
    fn f_047_a_proxy_is_never_between_us_and_this_machine() {
        let proxies = || {
            Some(
                Matcher::builder()
                    .all("http://proxy.example:8080")
                    .no("c.example")
                    .build(),
            )
        };
        let origins = Origins::new(proxies());
        for (url, proxied) in [
            ("https://a.example/", true),
            ("http://a.example/", true),
            ("https://c.example/", false),
            ("http://localhost:8000/", false),
            ("http://127.0.0.1:8000/", false),
            ("https://[::1]/", false),
        ] {
            assert_eq!(
                origins.of(&url.parse().unwrap()).unwrap().proxied,
                proxied,
                "{url}"
            );
        }
    }

    #[test]
    fn origins_nobody_uses_are_forgotten() {
        let origins = Origins::new(None);
        let kept = origins
            .of(&"https://kept.example/".parse().unwrap())
            .unwrap();
        for n in 0..1000 {
            origins
                .of(&format!("https://h{n}.example/").parse().unwrap())
                .unwrap();
        }
        assert!(origins.known.read().unwrap().len() <= REMEMBERED);
        assert!(Arc::ptr_eq(
            &kept,
            &origins
                .of(&"https://kept.example/".parse().unwrap())
                .unwrap()
        ));
    }
}
