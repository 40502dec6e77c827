//! What vendors refuse of a request beyond their limits of a batch, as data.

use crate::schema::SchemaRules;

/// What a vendor's own service refuses or warns of, read from its documentation. Servers that only speak its
/// protocol have rules of their own, so these hold where [`VendorRules::hold_at`] says so.
///
/// What is about batches alone is in [`BatchLimits`](batchwright_core::BatchLimits).
#[derive(Debug)]
#[non_exhaustive]
pub struct VendorRules {
    /// The provider's registered name.
    pub provider: &'static str,
    /// Host names of the vendor's own service; those below them count too.
    pub hosts: &'static [&'static str],
    /// Numbers at the top of a body and the range of each.
    pub ranges: &'static [ParameterRange],
    /// Lists at the top of a body and the most entries of each.
    pub lists: &'static [(&'static str, usize)],
    /// Parameters the vendor documents, by endpoint. Others are passed through and listed.
    pub parameters: &'static [(&'static str, &'static [&'static str])],
    /// Where schemas stand in a body.
    pub schema_places: &'static [SchemaPlace],
    /// What a schema that is enforced must obey; without it no rule is known.
    pub schema: Option<SchemaRules>,
    /// Models and how many tokens their context holds, for a warning: a length is estimated.
    pub contexts: &'static [(&'static str, u64)],
    /// The pages these facts come from and the day they were read, for people.
    pub source: &'static str,
}

/// The numbers a parameter may have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ParameterRange {
    /// The parameter, in the vendor's spelling.
    pub name: &'static str,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// Whether only whole numbers are taken.
    pub whole: bool,
}

/// Where a schema stands in a body.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SchemaPlace {
    /// Keys from the top; `[]` stands for each entry of a list.
    pub path: &'static [&'static str],
    /// The key of the schema there.
    pub schema: &'static str,
    /// The key beside it that must be `true` for the schema to be enforced; without one it always is.
    pub strict: Option<&'static str>,
}

/// Every vendor whose rules are known.
const KNOWN: &[VendorRules] = &[OPENAI, ANTHROPIC];

const fn number(name: &'static str, low: f64, high: f64) -> ParameterRange {
    ParameterRange {
        name,
        low,
        high,
        whole: false,
    }
}

const fn whole(name: &'static str, low: f64, high: f64) -> ParameterRange {
    ParameterRange {
        name,
        low,
        high,
        whole: true,
    }
}

const OPENAI: VendorRules = VendorRules {
    provider: "openai",
    hosts: &["api.openai.com"],
    ranges: &[
        number("temperature", 0.0, 2.0),
        number("top_p", 0.0, 1.0),
        number("frequency_penalty", -2.0, 2.0),
        number("presence_penalty", -2.0, 2.0),
        whole("top_logprobs", 0.0, 20.0),
        whole("n", 1.0, 128.0),
        whole("max_tokens", 1.0, 10_000_000.0),
        whole("max_completion_tokens", 1.0, 10_000_000.0),
        whole("max_output_tokens", 1.0, 10_000_000.0),
    ],
    lists: &[("stop", 4)],
    parameters: &[
        (
            "/v1/chat/completions",
            &[
                "audio",
                "frequency_penalty",
                "function_call",
                "functions",
                "logit_bias",
                "logprobs",
                "max_completion_tokens",
                "max_tokens",
                "messages",
                "metadata",
                "modalities",
                "model",
                "n",
                "parallel_tool_calls",
                "prediction",
                "presence_penalty",
                "prompt_cache_key",
                "reasoning_effort",
                "response_format",
                "safety_identifier",
                "seed",
                "service_tier",
                "stop",
                "store",
                "stream",
                "stream_options",
                "temperature",
                "tool_choice",
                "tools",
                "top_logprobs",
                "top_p",
                "user",
                "verbosity",
                "web_search_options",
            ],
        ),
        (
            "/v1/responses",
            &[
                "background",
                "background_options",
                "conversation",
                "include",
                "input",
                "instructions",
                "max_output_tokens",
                "max_tool_calls",
                "metadata",
                "model",
                "parallel_tool_calls",
                "previous_response_id",
                "prompt",
                "prompt_cache_key",
                "reasoning",
                "safety_identifier",
                "service_tier",
                "store",
                "stream",
                "stream_options",
                "temperature",
                "text",
                "tool_choice",
                "tools",
                "top_logprobs",
                "top_p",
                "truncation",
                "user",
            ],
        ),
        (
            "/v1/embeddings",
            &["dimensions", "encoding_format", "input", "model", "user"],
        ),
    ],
    schema_places: &[
        SchemaPlace {
            path: &["response_format", "json_schema"],
            schema: "schema",
            strict: Some("strict"),
        },
        SchemaPlace {
            path: &["text", "format"],
            schema: "schema",
            strict: Some("strict"),
        },
        SchemaPlace {
            path: &["tools", "[]", "function"],
            schema: "parameters",
            strict: Some("strict"),
        },
        SchemaPlace {
            path: &["tools", "[]"],
            schema: "parameters",
            strict: Some("strict"),
        },
    ],
    schema: Some(SchemaRules {
        closed_objects: true,
        all_required: true,
        object_at_root: true,
        refused: &[
            "allOf",
            "not",
            "if",
            "then",
            "else",
            "dependentRequired",
            "dependentSchemas",
        ],
        min_items: None,
        recursion: true,
        scalar_enums: false,
        max_depth: Some(10),
        max_properties: Some(5_000),
        max_enum_values: Some(1_000),
    }),
    // An embedding's bound is that of one text.
    contexts: &[
        ("gpt-4o-mini", 128_000),
        ("gpt-4o", 128_000),
        ("gpt-4.1", 1_000_000),
        ("gpt-4.1-mini", 1_000_000),
        ("gpt-4.1-nano", 1_000_000),
        ("gpt-5", 400_000),
        ("gpt-5-mini", 400_000),
        ("gpt-5-nano", 400_000),
        ("o3", 200_000),
        ("o4-mini", 200_000),
        ("text-embedding-3-small", 8_192),
        ("text-embedding-3-large", 8_192),
    ],
    source: "https://platform.openai.com/docs/api-reference/chat/create, \
             https://platform.openai.com/docs/guides/structured-outputs (as of February 2026 by \
             https://jsonschemaprofiles.unitvectorylabs.com/schemas/openai), 2026-11-22",
};

const ANTHROPIC: VendorRules = VendorRules {
    provider: "anthropic",
    hosts: &["api.anthropic.com"],
    // The range of temperature depends on model and version, and is left to the vendor.
    ranges: &[whole("max_tokens", 1.0, 10_000_000.0)],
    lists: &[("messages", 100_000)],
    parameters: &[],
    schema_places: &[
        SchemaPlace {
            path: &["output_config", "format"],
            schema: "schema",
            strict: None,
        },
        SchemaPlace {
            path: &["tools", "[]"],
            schema: "input_schema",
            strict: Some("strict"),
        },
    ],
    schema: Some(SchemaRules {
        closed_objects: true,
        all_required: false,
        object_at_root: false,
        refused: &["minimum", "maximum", "minLength", "maxLength", "multipleOf"],
        min_items: Some(1),
        recursion: false,
        scalar_enums: true,
        max_depth: None,
        max_properties: None,
        max_enum_values: None,
    }),
    contexts: &[],
    source: "https://docs.claude.com/en/docs/build-with-claude/structured-outputs, 2026-11-22",
};

impl VendorRules {
    /// The rules of the provider with this registered name, where any are known.
    pub fn of(provider: &str) -> Option<&'static Self> {
        KNOWN.iter().find(|rules| rules.provider == provider)
    }

    /// Whether a base URL is the vendor's own service. Of any other server these rules say nothing.
    pub fn hold_at(&self, base_url: &str) -> bool {
        let Some((_, rest)) = base_url.split_once("://") else {
            return false;
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        let host = host.split(':').next().unwrap_or_default();
        let host = host.to_ascii_lowercase();
        self.hosts.iter().any(|own| {
            host.strip_suffix(own)
                .is_some_and(|before| before.is_empty() || before.ends_with('.'))
        })
    }

    /// How many tokens the model's context holds; a dated name counts as the name without its date.
    pub(crate) fn context(&self, model: &str) -> Option<u64> {
        let dated =
            |tail: &str| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        self.contexts
            .iter()
            .find(|(name, _)| {
                model.strip_prefix(name).is_some_and(|tail| {
                    tail.is_empty() || tail.strip_prefix('-').is_some_and(dated)
                })
            })
            .map(|(_, tokens)| *tokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_hold_for_the_vendors_own_service_only() {
        let openai = VendorRules::of("openai").unwrap();
        for (url, own) in [
            ("https://api.openai.com/v1", true),
            ("https://eu.api.openai.com/v1", true),
            ("https://API.openai.com:443/v1", true),
            ("http://127.0.0.1:8089/openai/v1", false),
            ("https://api.openai.com.example.org/v1", false),
            ("https://notapi.openai.com.evil/v1", false),
            ("https://fakeapi.openai.com/v1", false),
            ("https://api.openai.com@example.org/v1", false),
            ("nonsense", false),
        ] {
            assert_eq!(openai.hold_at(url), own, "{url}");
        }
        assert!(VendorRules::of("acme").is_none());
    }

    #[test]
    fn a_dated_model_has_the_context_of_its_name() {
        let openai = VendorRules::of("openai").unwrap();
        assert_eq!(openai.context("gpt-4o-mini-2024-07-18"), Some(128_000));
        assert_eq!(openai.context("gpt-4o-mini"), Some(128_000));
        assert_eq!(openai.context("gpt-4.1"), Some(1_000_000));
        assert_eq!(
            openai.context("gpt-4o-audio-preview"),
            None,
            "another model"
        );
        assert_eq!(openai.context("gpt-99"), None);
    }

    #[test]
    fn every_row_says_where_it_was_read_and_when() {
        for rules in KNOWN {
            assert!(rules.source.starts_with("https://"), "{}", rules.provider);
            assert!(rules.source.contains("2026-"), "{}", rules.provider);
        }
    }
}
