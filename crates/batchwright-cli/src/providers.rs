//! The providers this command knows: a row for each.

use anyhow::bail;
use batchwright::{
    core::{BatchProvider, ChatProvider, Error, Lane},
    emulator::{Emulator, Face},
    openai::{Dialect, OpenAiBuilder, OpenAiConfig},
    pipeline::LaneProvider,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Names and values, as an environment has them.
pub(crate) type Pairs = BTreeMap<String, String>;

/// A provider this command knows.
pub(crate) struct Known {
    /// As in `provider:model`.
    pub(crate) name: &'static str,
    /// What the names of all its variables begin with.
    prefix: &'static str,
    key: &'static str,
    base_url: &'static str,
    face: Face,
    build: fn(&Pairs, &Connection) -> Result<Built, Error>,
}

/// How direct calls are made.
pub(crate) struct Connection {
    /// The most at once.
    pub(crate) concurrency: usize,
    /// The longest one may take; without it the provider's own.
    pub(crate) timeout: Option<Duration>,
}

/// A provider, as either lane wants it.
pub(crate) struct Built {
    realtime: Arc<dyn ChatProvider>,
    batch: Arc<dyn BatchProvider>,
}

/// Every provider this command knows.
const KNOWN: &[Known] = &[Known {
    name: "openai",
    prefix: "OPENAI_",
    key: Dialect::OPENAI.key_var,
    base_url: "OPENAI_BASE_URL",
    face: Face::OpenAi,
    build: |pairs, connection| {
        let mut builder = OpenAiBuilder::from(OpenAiConfig::from_env(pairs.clone())?)
            .max_in_flight(connection.concurrency);
        if let Some(timeout) = connection.timeout {
            builder = builder.attempt_timeout(timeout);
        }
        let provider = builder.build()?;
        Ok(Built {
            realtime: Arc::new(provider.clone()),
            batch: Arc::new(provider),
        })
    },
}];

/// The provider of this name.
pub(crate) fn known(name: &str) -> anyhow::Result<&'static Known> {
    let Some(known) = KNOWN.iter().find(|known| known.name == name) else {
        let names: Vec<&str> = KNOWN.iter().map(|known| known.name).collect();
        bail!(
            "no provider is called {name:?}; there is {}",
            names.join(", ")
        );
    };
    Ok(known)
}

/// Every provider this command knows.
pub(crate) fn all() -> &'static [Known] {
    KNOWN
}

/// The provider of jobs whose rows name their models themselves.
pub(crate) fn default() -> &'static str {
    KNOWN[0].name
}

impl Known {
    /// The provider for this lane, from these names and values.
    pub(crate) fn build(
        &self,
        pairs: &Pairs,
        lane: Lane,
        connection: &Connection,
    ) -> anyhow::Result<LaneProvider> {
        if !pairs.contains_key(self.key) {
            bail!(
                "find the API key: set {}, or use --env-file FILE; --sandbox needs none",
                self.key
            );
        }
        let built = (self.build)(pairs, connection)?;
        Ok(match lane {
            Lane::Batch => LaneProvider::Batch(built.batch),
            _ => LaneProvider::Realtime(built.realtime),
        })
    }

    /// The variable that holds the key.
    pub(crate) fn key_variable(&self) -> &'static str {
        self.key
    }

    /// The variable that holds another base URL.
    pub(crate) fn base_url_variable(&self) -> &'static str {
        self.base_url
    }

    /// Whether it is a server on this machine, such as the emulator.
    pub(crate) fn is_local(&self, pairs: &Pairs) -> bool {
        let hosts = ["http://127.", "http://localhost", "http://[::1]"];
        pairs
            .get(self.base_url)
            .is_some_and(|url| hosts.iter().any(|host| url.starts_with(host)))
    }
}

/// Points every provider at the emulator, or before it runs at nothing, with keys that are worth nothing: no
/// real key is sent to a sandbox.
pub(crate) fn point_at(emulator: Option<&Emulator>, pairs: &mut Pairs) {
    for known in KNOWN {
        pairs.retain(|name, _| !name.starts_with(known.prefix));
        let base_url = match emulator {
            Some(emulator) => emulator.base_url(known.face),
            None => "http://127.0.0.1:1/v1".to_owned(),
        };
        pairs.insert(known.key.to_owned(), "sandbox".to_owned());
        pairs.insert(known.base_url.to_owned(), base_url);
    }
}

/// The lines that point each provider's programs at this emulator.
pub(crate) fn base_urls(emulator: &Emulator) -> impl Iterator<Item = String> {
    KNOWN
        .iter()
        .map(|known| format!("{}={}", known.base_url, emulator.base_url(known.face)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_real_key_is_sent_to_a_sandbox() {
        let mut pairs = Pairs::new();
        for known in KNOWN {
            pairs.insert(known.key.to_owned(), "CANARY".to_owned());
            pairs.insert(format!("{}SOMETHING", known.prefix), "CANARY".to_owned());
        }
        pairs.insert("OTHER".to_owned(), "kept".to_owned());
        point_at(None, &mut pairs);
        assert!(pairs.values().all(|value| value != "CANARY"));
        assert_eq!(pairs["OTHER"], "kept");
        assert!(KNOWN.iter().all(|known| known.is_local(&pairs)));
    }

    #[test]
    fn an_unknown_provider_is_told_the_known_ones() {
        let error = known("acme").err().unwrap().to_string();
        assert!(
            error.contains("\"acme\"") && error.contains("openai"),
            "{error}"
        );
        assert!(known(default()).is_ok());
    }
}
