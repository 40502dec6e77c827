//! The providers this command knows: a row for each.

use anyhow::bail;
use batchwright::{
    anthropic::{AnthropicBuilder, AnthropicConfig},
    core::{BatchLimits, BatchProvider, ChatProvider, Error, Lane},
    emulator::{Emulator, EmulatorConfig, Face},
    gemini::{GeminiBuilder, GeminiConfig},
    groq::GROQ,
    kluster::KLUSTER,
    openai::{Dialect, OpenAiBuilder, OpenAiConfig, PRESETS},
    pipeline::LaneProvider,
    vertex::{VertexBuilder, VertexConfig},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

/// Names and values, as an environment has them.
pub(crate) type Pairs = BTreeMap<String, String>;

/// A provider this command knows.
pub(crate) struct Known {
    /// As in `provider:model`.
    pub(crate) name: &'static str,
    /// The variables that may hold the key; the first that is set counts. Empty where credentials are found
    /// otherwise.
    keys: &'static [&'static str],
    /// Whether it cannot be used without one of them.
    key_needed: bool,
    base_url: &'static str,
    face: Face,
    /// What a sandbox sets besides key and base URL; `{origin}` and `{host}` are the emulator's.
    more: &'static [(&'static str, &'static str)],
    vendor: Vendor,
}

/// Whose crate makes it.
#[derive(Clone, Copy)]
enum Vendor {
    OpenAi(&'static Dialect),
    Anthropic,
    Gemini,
    Vertex,
}

/// How direct calls are made.
pub(crate) struct Connection {
    /// The most at once.
    pub(crate) concurrency: usize,
    /// The longest one may take; without it the provider's own.
    pub(crate) timeout: Option<Duration>,
}

/// Every provider this command knows, OpenAI first.
static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let (openai, others) = PRESETS.split_first().expect("OpenAI is a preset");
    let mut known = vec![
        dialect(openai, Face::OpenAi),
        Known {
            name: "anthropic",
            keys: &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"],
            key_needed: true,
            base_url: "ANTHROPIC_BASE_URL",
            face: Face::Anthropic,
            more: &[],
            vendor: Vendor::Anthropic,
        },
        Known {
            name: "gemini",
            keys: &["GOOGLE_API_KEY", "GEMINI_API_KEY"],
            key_needed: true,
            base_url: "GOOGLE_GEMINI_BASE_URL",
            face: Face::Gemini,
            more: &[],
            vendor: Vendor::Gemini,
        },
        Known {
            name: "vertex",
            keys: &[],
            key_needed: false,
            base_url: "GOOGLE_VERTEX_BASE_URL",
            face: Face::Vertex,
            more: &[
                ("GOOGLE_CLOUD_PROJECT", "sandbox"),
                ("GOOGLE_CLOUD_LOCATION", "us-central1"),
                ("BATCHWRIGHT_VERTEX_BUCKET", "sandbox"),
                ("STORAGE_EMULATOR_HOST", "{origin}/gcs"),
                ("BIGQUERY_EMULATOR_HOST", "{origin}/bigquery"),
                ("GCE_METADATA_HOST", "{host}"),
            ],
            vendor: Vendor::Vertex,
        },
        dialect(&GROQ, Face::Groq),
        dialect(&KLUSTER, Face::Kluster),
    ];
    known.extend(
        others
            .iter()
            .map(|preset| dialect(preset, Face::Compatible)),
    );
    known
});

/// A service that speaks OpenAI's protocol.
fn dialect(dialect: &'static Dialect, face: Face) -> Known {
    Known {
        name: dialect.name,
        keys: std::slice::from_ref(&dialect.key_var),
        key_needed: dialect.key_needed,
        base_url: dialect.base_url_var.unwrap_or_default(),
        face,
        more: &[],
        vendor: Vendor::OpenAi(dialect),
    }
}

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
    &KNOWN
}

/// The provider of jobs whose rows name their models themselves.
pub(crate) fn default() -> &'static str {
    KNOWN[0].name
}

/// A provider for one of the lanes, if it has that.
fn on<P: ChatProvider + BatchProvider + 'static>(provider: P, lane: Lane) -> Option<LaneProvider> {
    let capability = ChatProvider::capability(&provider);
    match lane {
        Lane::Batch => {
            let has_batch = capability.batch.is_some();
            has_batch.then(|| LaneProvider::Batch(Arc::new(provider)))
        }
        _ => {
            let has_realtime = !capability.realtime_endpoints.is_empty();
            has_realtime.then(|| LaneProvider::Realtime(Arc::new(provider)))
        }
    }
}

impl Known {
    /// The provider for this lane, from these names and values.
    pub(crate) fn build(
        &self,
        pairs: &Pairs,
        lane: Lane,
        connection: &Connection,
    ) -> anyhow::Result<LaneProvider> {
        if self.key_needed && self.key(pairs).is_none() {
            bail!(
                "find the API key: set {}, or use --env-file FILE; --sandbox needs none",
                self.keys.join(" or ")
            );
        }
        if let Some(built) = self.built(pairs, lane, connection)? {
            return Ok(built);
        }
        match lane {
            Lane::Batch => bail!("{} has no batches; use --lane realtime", self.name),
            _ => bail!("{} has no direct calls; use --lane batch", self.name),
        }
    }

    fn built(
        &self,
        pairs: &Pairs,
        lane: Lane,
        connection: &Connection,
    ) -> Result<Option<LaneProvider>, Error> {
        let pairs = pairs.clone();
        let Connection {
            concurrency,
            timeout,
        } = *connection;
        // The builders have no type in common, only their setters.
        macro_rules! built {
            ($builder:ident, $config:expr) => {{
                let mut builder = $builder::from($config).max_in_flight(concurrency);
                if let Some(timeout) = timeout {
                    builder = builder.attempt_timeout(timeout);
                }
                on(builder.build()?, lane)
            }};
        }
        Ok(match self.vendor {
            Vendor::OpenAi(dialect) => {
                built!(OpenAiBuilder, OpenAiConfig::from_env_of(dialect, pairs)?)
            }
            Vendor::Anthropic => built!(AnthropicBuilder, AnthropicConfig::from_env(pairs)?),
            Vendor::Gemini => built!(GeminiBuilder, GeminiConfig::from_env(pairs)?),
            Vendor::Vertex => built!(VertexBuilder, VertexConfig::from_env(pairs)?),
        })
    }

    /// The variables that may hold the key.
    pub(crate) fn key_variables(&self) -> &'static [&'static str] {
        self.keys
    }

    /// Where the key is to be found, in words.
    pub(crate) fn key_place(&self) -> String {
        match self.keys {
            [] => "Google's application default credentials".to_owned(),
            keys if self.key_needed => keys.join(" or "),
            keys => format!("{}, or none", keys.join(" or ")),
        }
    }

    /// The key, where one is set.
    pub(crate) fn key<'p>(&self, pairs: &'p Pairs) -> Option<&'p String> {
        self.keys.iter().find_map(|name| pairs.get(*name))
    }

    /// Whether it cannot be used without a key.
    pub(crate) fn needs_key(&self) -> bool {
        self.key_needed
    }

    /// The variable that holds another base URL.
    pub(crate) fn base_url_variable(&self) -> &'static str {
        self.base_url
    }

    /// The base URL in use without that variable, where it is one.
    pub(crate) fn default_base_url(&self) -> Option<&'static str> {
        match self.vendor {
            Vendor::OpenAi(dialect) => Some(dialect.base_url).filter(|url| !url.is_empty()),
            Vendor::Anthropic => Some("https://api.anthropic.com"),
            Vendor::Gemini => Some("https://generativelanguage.googleapis.com"),
            // It depends on the location.
            Vendor::Vertex => None,
        }
    }

    /// Whether it is a server on this machine, such as the emulator.
    pub(crate) fn is_local(&self, pairs: &Pairs) -> bool {
        let hosts = ["http://127.", "http://localhost", "http://[::1]"];
        let url = pairs.get(self.base_url).map(String::as_str);
        url.or(self.default_base_url())
            .is_some_and(|url| hosts.iter().any(|host| url.starts_with(host)))
    }

    /// Has the emulator be this provider, where its face is shared by several.
    pub(crate) fn sandbox(&self, config: EmulatorConfig) -> EmulatorConfig {
        if self.face != Face::Compatible {
            return config;
        }
        // Whatever has no shape of its own there is a plain server.
        let shapes = [
            "azure",
            "deepseek",
            "doubleword",
            "ollama",
            "openrouter",
            "together",
            "vllm",
        ];
        let preset = if shapes.contains(&self.name) {
            self.name
        } else {
            "plain"
        };
        config
            .with_face_options(self.face, json!({"preset": preset}))
            .with_face_options(self.face, json!({"any_model": true, "key_required": false}))
    }
}

/// Every provider of batches, with no account: they can read lines and reach nobody.
pub(crate) fn offline_batches() -> Vec<Arc<dyn BatchProvider>> {
    let mut pairs = Pairs::new();
    point_at(None, &mut pairs);
    let connection = Connection {
        concurrency: 1,
        timeout: None,
    };
    all()
        .iter()
        .filter_map(
            |known| match known.build(&pairs, Lane::Batch, &connection) {
                Ok(LaneProvider::Batch(provider)) => Some(provider),
                _ => None,
            },
        )
        .collect()
}

/// What is known of a provider's batches, for which no account is needed.
pub(crate) fn batch_limits(name: &str) -> Option<BatchLimits> {
    let mut pairs = Pairs::new();
    point_at(None, &mut pairs);
    let connection = Connection {
        concurrency: 1,
        timeout: None,
    };
    match known(name).ok()?.build(&pairs, Lane::Batch, &connection) {
        Ok(LaneProvider::Batch(provider)) => provider.capability().batch.clone(),
        _ => None,
    }
}

/// Points every provider at the emulator, or before it runs at nothing, with keys that are worth nothing. Nothing else
/// of the environment is left: no real key is sent to a sandbox.
pub(crate) fn point_at(emulator: Option<&Emulator>, pairs: &mut Pairs) {
    pairs.clear();
    let origin = match emulator {
        Some(emulator) => origin_of(emulator),
        None => "http://127.0.0.1:1".to_owned(),
    };
    let host = origin.trim_start_matches("http://");
    for known in KNOWN.iter() {
        if let Some(key) = known.keys.first() {
            pairs.insert((*key).to_owned(), "sandbox".to_owned());
        }
        pairs.insert(known.base_url.to_owned(), known.base_url_at(&origin));
        for (name, value) in known.more {
            let value = value.replace("{origin}", &origin).replace("{host}", host);
            pairs.insert((*name).to_owned(), value);
        }
    }
}

fn origin_of(emulator: &Emulator) -> String {
    let url = emulator.base_url(Face::OpenAi);
    url.trim_end_matches(Face::OpenAi.base_path()).to_owned()
}

impl Known {
    /// The base URL of its face at `origin`.
    fn base_url_at(&self, origin: &str) -> String {
        let path = self.face.base_path();
        let url = format!("{origin}{path}");
        match self.vendor {
            // Azure's variable names the resource, and the rest of the path follows.
            Vendor::OpenAi(dialect) if !url.ends_with(dialect.base_path) => {
                url.trim_end_matches("/v1").to_owned()
            }
            _ => url,
        }
    }
}

/// The lines that point each provider's programs at this emulator.
pub(crate) fn base_urls(emulator: &Emulator) -> impl Iterator<Item = String> {
    let origin = origin_of(emulator);
    KNOWN
        .iter()
        .map(move |known| format!("{}={}", known.base_url, known.base_url_at(&origin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_environment_reaches_a_sandbox() {
        let mut pairs = Pairs::new();
        for known in KNOWN.iter() {
            for key in known.keys {
                pairs.insert((*key).to_owned(), "CANARY".to_owned());
            }
        }
        pairs.insert("HOME".to_owned(), "CANARY".to_owned());
        point_at(None, &mut pairs);
        assert!(pairs.values().all(|value| value != "CANARY"));
        for known in KNOWN.iter() {
            assert!(known.is_local(&pairs), "{}", known.name);
        }
    }

    #[test]
    fn every_provider_can_be_made_in_a_sandbox() {
        let mut pairs = Pairs::new();
        point_at(None, &mut pairs);
        let connection = Connection {
            concurrency: 1,
            timeout: Some(Duration::from_secs(1)),
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _entered = runtime.enter();
        for known in KNOWN.iter() {
            let lanes = [Lane::Realtime, Lane::Batch]
                .map(|lane| known.build(&pairs, lane, &connection).is_ok());
            assert!(lanes[0], "{} has direct calls", known.name);
            let local = ["ollama", "vllm", "llamacpp", "lmstudio"];
            assert!(!(local.contains(&known.name) && lanes[1]), "{}", known.name);
        }
    }

    #[test]
    fn a_missing_key_is_named_and_a_local_server_needs_none() {
        let connection = Connection {
            concurrency: 1,
            timeout: None,
        };
        for known in KNOWN.iter() {
            let error = known
                .build(&Pairs::new(), Lane::Realtime, &connection)
                .err()
                .map(|error| error.to_string());
            if known.needs_key() {
                assert!(error.unwrap().contains(known.keys[0]), "{}", known.name);
            }
        }
        let ollama = super::known("ollama").unwrap();
        assert!(!ollama.needs_key());
        assert!(
            ollama
                .build(&Pairs::new(), Lane::Realtime, &connection)
                .is_ok()
        );
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
