//! The services known to speak OpenAI's protocol: a constant each, and a row in [`PRESETS`].
//!
//! Facts were read 2026-11-22 in each vendor's documentation, which `source` names.

use crate::convert::{CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES};
use crate::dialect::{Dialect, Paging, Windows};
use batchwright_core::{BatchLimits, Capability, ErrorKind, IdRule, ListMatch, RetryClass};
use std::time::Duration;

/// Every service there is a preset for, OpenAI first. A new one is its constant and a row here; what lists
/// providers is made from this.
///
/// Services with a crate of their own have their dialect there.
pub static PRESETS: &[Dialect] = &[
    Dialect::OPENAI,
    Dialect::AZURE,
    Dialect::TOGETHER,
    Dialect::DOUBLEWORD,
    Dialect::XAI,
    Dialect::DEEPSEEK,
    Dialect::OPENROUTER,
    Dialect::OLLAMA,
    Dialect::VLLM,
    Dialect::LLAMACPP,
    Dialect::LMSTUDIO,
];

impl Dialect {
    /// The preset of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// Azure OpenAI. The model is the name of a deployment; the resource's own URL comes from
    /// `AZURE_OPENAI_ENDPOINT`. With `OPENAI_API_VERSION` the paths are those of the dated APIs.
    ///
    /// Batches go on past their 24 h until they are done or cancelled. Bearer tokens of Entra are not
    /// supported.
    pub const AZURE: Self = {
        let mut azure = Self::new("azure", "", "AZURE_OPENAI_API_KEY", || {
            let mut batch = limits(&[CHAT_COMPLETIONS, RESPONSES], 100_000, 190_000_000);
            batch.discount_percent = Some(50);
            let mut capability = realtime(
                &[CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS],
                "https://learn.microsoft.com/azure/ai-foundry/openai/how-to/batch, 2026-11-22",
            );
            capability.batch = Some(batch);
            capability
        });
        azure.base_url_var = Some("AZURE_OPENAI_ENDPOINT");
        azure.base_path = "/openai/v1";
        azure.api_version_var = Some("OPENAI_API_VERSION");
        azure.auth_header = "api-key";
        azure.auth_prefix = "";
        azure.input_processed = true;
        azure
    };

    /// Together AI. Batches have no metadata and are known by their input alone.
    pub const TOGETHER: Self = {
        let base_url = "https://api.together.ai/v1";
        let mut together = Self::new("together", base_url, "TOGETHER_API_KEY", || {
            // 100 MB; a tenth is left free as with OpenAI.
            let mut batch = limits(&[CHAT_COMPLETIONS], 50_000, 90_000_000);
            batch.custom_id = IdRule::text(64);
            // Half price for some models only, so no number for all.
            batch.list_match = vec![ListMatch::Input];
            let mut capability = realtime(
                &[CHAT_COMPLETIONS, EMBEDDINGS],
                "https://docs.together.ai/docs/batch-inference, 2026-11-22",
            );
            capability.batch = Some(batch);
            capability
        });
        together.base_url_var = Some("TOGETHER_BASE_URL");
        together.max_tokens = "max_tokens";
        together.paging = Paging::Whole;
        together.upload_path = &["files", "upload"];
        together.upload_purpose = "batch-api";
        together.upload_names_file = true;
        together.metadata = false;
        together.errors = Self::OPENAI.errors.with_own_codes(&[(
            "batch_client_error",
            ErrorKind::InvalidRequest,
            RetryClass::RowFatal,
        )]);
        together
    };

    /// Doubleword. A batch whose rows all failed is `failed` there, with its error file.
    pub const DOUBLEWORD: Self = {
        let base_url = "https://api.doubleword.ai/v1";
        let mut doubleword = Self::new("doubleword", base_url, "DOUBLEWORD_API_KEY", || {
            let endpoints = &[CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS];
            // Prices are by model and window, so there is no one discount. 100 MB is the server's own default.
            let mut batch = limits(endpoints, 50_000, 90_000_000);
            batch.windows.push(Duration::from_secs(3600));
            let mut capability = realtime(
                endpoints,
                "https://docs.doubleword.ai/inference-api/batch-inference, 2026-11-22",
            );
            capability.batch = Some(batch);
            capability
        });
        doubleword.base_url_var = Some("DOUBLEWORD_BASE_URL");
        // There is also `background`, without a length and only for some.
        doubleword.windows = Windows::Of(&["24h", "1h"]);
        doubleword
    };

    /// xAI, direct calls. Its batches are containers of another shape.
    pub const XAI: Self = {
        let mut xai = Self::new("xai", "https://api.x.ai/v1", "XAI_API_KEY", || {
            realtime(
                &[CHAT_COMPLETIONS, RESPONSES],
                "https://docs.x.ai/docs/api-reference, 2026-11-22",
            )
        });
        xai.base_url_var = Some("XAI_BASE_URL");
        // A 400 without a code; the second is how its gateway writes the same.
        xai.bad_key = &[
            "Incorrect API key provided",
            "Incorrect%20API%20key%20provided",
        ];
        // A 429 with the code of a limit of the minute.
        xai.spent = &[("Your team ", "used all available credits")];
        xai.reasoning_apart = true;
        xai
    };

    /// DeepSeek, direct calls.
    pub const DEEPSEEK: Self = {
        let base_url = "https://api.deepseek.com";
        let mut deepseek = Self::new("deepseek", base_url, "DEEPSEEK_API_KEY", || {
            let source = "https://api-docs.deepseek.com, 2026-11-22";
            let mut capability = realtime(&[CHAT_COMPLETIONS], source);
            // JSON, but to no schema.
            capability.json_schema = false;
            capability
        });
        deepseek.base_url_var = Some("DEEPSEEK_BASE_URL");
        deepseek.max_tokens = "max_tokens";
        deepseek.failed_finishes = &[(
            "insufficient_system_resource",
            ErrorKind::Overloaded,
            RetryClass::Ambiguous,
        )];
        deepseek
    };

    /// OpenRouter, direct calls. Its batches carry their lines in the create.
    pub const OPENROUTER: Self = {
        let base_url = "https://openrouter.ai/api/v1";
        let mut openrouter = Self::new("openrouter", base_url, "OPENROUTER_API_KEY", || {
            realtime(
                &[CHAT_COMPLETIONS],
                "https://openrouter.ai/docs/api-reference/errors, 2026-11-22",
            )
        });
        openrouter.base_url_var = Some("OPENROUTER_BASE_URL");
        // Moderation of this input, and nobody else's.
        openrouter.errors = Self::OPENAI.errors.with_statuses(&[(
            403,
            ErrorKind::ContentFiltered,
            RetryClass::RowFatal,
        )]);
        // But for a key's own spending limit, which is a 403 as well.
        openrouter.spent = &[("Key limit exceeded", "")];
        openrouter.failed_finishes = &[("error", ErrorKind::ProviderFault, RetryClass::Ambiguous)];
        openrouter
    };

    /// Ollama on this machine. `OLLAMA_API_KEY` is for its cloud, whose base URL is `https://ollama.com/v1`.
    pub const OLLAMA: Self = {
        let mut ollama = Self::local(
            "ollama",
            "http://localhost:11434/v1",
            "OLLAMA_API_KEY",
            || {
                realtime(
                    &[CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES],
                    "https://docs.ollama.com/api/openai-compatibility, 2026-11-22",
                )
            },
        );
        ollama.base_url_var = Some("OLLAMA_BASE_URL");
        ollama.refused = &["n", "logit_bias", "user"];
        ollama
    };

    /// vLLM. Its batches are files on its own disk (`vllm run-batch`), and no calls.
    pub const VLLM: Self = {
        let mut vllm = Self::local("vllm", "http://localhost:8000/v1", "VLLM_API_KEY", || {
            realtime(
                &[CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES],
                "https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html, 2026-11-22",
            )
        });
        vllm.base_url_var = Some("VLLM_BASE_URL");
        vllm
    };

    /// The server of llama.cpp.
    pub const LLAMACPP: Self = {
        let mut llamacpp = Self::local(
            "llamacpp",
            "http://127.0.0.1:8080/v1",
            "LLAMA_API_KEY",
            || {
                realtime(
                    &[CHAT_COMPLETIONS, EMBEDDINGS],
                    "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md, 2026-11-22",
                )
            },
        );
        llamacpp.base_url_var = Some("LLAMACPP_BASE_URL");
        llamacpp
    };

    /// LM Studio.
    pub const LMSTUDIO: Self = {
        let mut lmstudio = Self::local(
            "lmstudio",
            "http://localhost:1234/v1",
            "LM_API_TOKEN",
            || {
                realtime(
                    &[CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES],
                    "https://lmstudio.ai/docs/developer/openai-compat, 2026-11-22",
                )
            },
        );
        lmstudio.base_url_var = Some("LMSTUDIO_BASE_URL");
        lmstudio
    };

    /// A server on one's own machine: no key, few calls at once, the older name of the bound.
    const fn local(
        name: &'static str,
        base_url: &'static str,
        key_var: &'static str,
        capability: fn() -> Capability,
    ) -> Self {
        let mut local = Self::new(name, base_url, key_var, capability);
        local.key_needed = false;
        // Without files and batches only a model can be missing, and nobody is served then.
        local.errors =
            Self::OPENAI
                .errors
                .with_statuses(&[(404, ErrorKind::NotFound, RetryClass::JobStop)]);
        local.base_path = "/v1";
        local.max_tokens = "max_tokens";
        local.max_in_flight = 8;
        local
    }
}

/// Direct calls to these endpoints, with tools and schemas.
fn realtime(endpoints: &[&str], source: &'static str) -> Capability {
    let mut capability = Capability::default();
    capability.realtime_endpoints = owned(endpoints);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = source;
    capability
}

/// Batches as OpenAI's in all but their size.
fn limits(endpoints: &[&str], max_requests: u64, max_bytes: u64) -> BatchLimits {
    let mut batch = BatchLimits::new(owned(endpoints), max_requests, max_bytes);
    batch.unsupported = &["stream", "background"];
    batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
    batch
}

fn owned(endpoints: &[&str]) -> Vec<String> {
    endpoints.iter().map(|&path| path.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpenAi, OpenAiConfig};
    use std::collections::BTreeSet;

    #[test]
    fn every_preset_is_usable_and_told_apart() {
        let names: BTreeSet<_> = PRESETS.iter().map(|preset| preset.name).collect();
        assert_eq!(names.len(), PRESETS.len());
        for preset in PRESETS {
            assert_eq!(
                Dialect::named(preset.name).map(|it| it.name),
                Some(preset.name)
            );
            let key = [(preset.key_var, "CANARY")];
            let url = preset.base_url_var.map(|it| (it, "https://host.example"));
            let config = OpenAiConfig::from_env_of(preset, key.into_iter().chain(url));
            let built = OpenAi::new(config.unwrap());
            assert!(built.is_ok(), "{}: {:?}", preset.name, built.err());
            assert!(preset.has_realtime());
            let capability = (preset.capability)();
            assert!(capability.source.ends_with("2026-11-22"), "{}", preset.name);
            if let Some(batch) = &capability.batch {
                let length = preset.windows.length(preset.window).unwrap();
                assert_eq!(batch.windows[0], length, "{}", preset.name);
                assert_eq!(preset.metadata, batch.list_match.contains(&ListMatch::Tag));
            }
        }
        assert!(Dialect::named("nobody").is_none());
    }

    #[test]
    fn the_readme_names_every_preset_with_its_variables() {
        let readme = include_str!("../../README.md");
        for preset in PRESETS {
            let lanes = if preset.has_batch() { "both" } else { "direct" };
            let url = preset.base_url_var.unwrap();
            let (name, key) = (preset.name, preset.key_var);
            let key = if preset.key_needed {
                format!("`{key}`")
            } else {
                format!("`{key}`, if any")
            };
            let row = format!("| `{name}` | {lanes} | {key} | `{url}` |");
            assert!(readme.contains(&row), "the README lacks the row {row}");
        }
    }

    #[test]
    fn f_221_a_base_url_from_a_variable_gets_what_its_vendor_leaves_out() {
        let url = |preset: &'static Dialect, value: &str| {
            let pairs = [(preset.key_var, "k"), (preset.base_url_var.unwrap(), value)];
            OpenAiConfig::from_env_of(preset, pairs).unwrap().base_url
        };
        let azure = "https://r.openai.azure.com/openai/v1";
        assert_eq!(url(&PRESETS[1], "https://r.openai.azure.com/"), azure);
        assert_eq!(url(&PRESETS[1], azure), azure);
        assert_eq!(url(&PRESETS[1], &format!("{azure}/")), azure);
        let ollama = Dialect::named("ollama").unwrap();
        assert_eq!(
            url(ollama, "http://127.0.0.1:11434"),
            "http://127.0.0.1:11434/v1"
        );
        assert_eq!(
            url(&PRESETS[0], "https://eu.api.openai.com/v1"),
            "https://eu.api.openai.com/v1"
        );
    }

    #[test]
    fn f_196_what_a_service_needs_is_named_where_it_is_missing() {
        let none: [(&str, &str); 0] = [];
        let missing = |preset: &'static Dialect, pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().copied();
            OpenAiConfig::from_env_of(preset, pairs)
                .unwrap_err()
                .to_string()
        };
        assert!(missing(&PRESETS[1], &none).contains("AZURE_OPENAI_API_KEY"));
        let key = [("AZURE_OPENAI_API_KEY", "k")];
        assert!(missing(&PRESETS[1], &key).contains("AZURE_OPENAI_ENDPOINT"));
        for preset in PRESETS.iter().filter(|preset| !preset.key_needed) {
            let config = OpenAiConfig::from_env_of(preset, none).unwrap();
            assert!(OpenAi::new(config).is_ok(), "{}", preset.name);
        }
    }

    #[test]
    fn windows_are_checked_before_anything_is_sent() {
        let week = Windows::Between(
            Duration::from_secs(24 * 3600),
            Duration::from_secs(7 * 24 * 3600),
        );
        for (windows, window, hours) in [
            (week, "24h", Some(24)),
            (week, "48h", Some(48)),
            (week, "2d", Some(48)),
            (week, "7d", Some(168)),
            (week, "168h", Some(168)),
            (week, "23h", None),
            (week, "8d", None),
            (week, "+48h", None),
            (week, "1.5d", None),
            (week, "h", None),
            (week, "99999999999999999999d", None),
            (week, "9999999999999999d", None),
            (week, "é", None),
            (Windows::Of(&["24h", "72h"]), "72h", Some(72)),
            (Windows::Of(&["24h", "72h"]), "3d", None),
            (Windows::Of(&["24h"]), "", None),
        ] {
            let length = windows.length(window).ok();
            let expected = hours.map(|hours: u64| Duration::from_secs(hours * 3600));
            assert_eq!(length, expected, "{window}");
        }
        let error = week.length("1h").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(error.to_string().contains("24h to 168h"), "{error}");
        let mut config = OpenAiConfig::new("k");
        config.completion_window = "7d".to_owned();
        assert!(OpenAi::new(config).is_err());
    }
}
