//! What vendors refuse of a request beyond their limits of a batch, as data.

use crate::schema::SchemaRules;
use serde_json::Value;

/// What a vendor's own service refuses or warns of, read from its documentation. Servers that only speak its
/// protocol have rules of their own, so these hold where [`VendorRules::hold_at`] says so.
///
/// What is about batches alone is in [`BatchLimits`](batchwright_core::BatchLimits).
#[derive(Debug)]
#[non_exhaustive]
pub struct VendorRules {
    /// The provider's registered name.
    pub provider: &'static str,
    /// Host names of the vendor's own service; those below them count too. One that begins with `-` is the end of
    /// the names of its regions.
    pub hosts: &'static [&'static str],
    /// Numbers in a body and the range of each.
    pub ranges: &'static [ParameterRange],
    /// Ranges a line of a batch has to keep besides.
    pub batch_ranges: &'static [ParameterRange],
    /// Lists in a body and the most entries of each. Dots in a name lead into objects.
    pub lists: &'static [(&'static str, usize)],
    /// What a body must have, by endpoint.
    pub required: &'static [(&'static str, &'static [&'static str])],
    /// Parameters that must not be asked for on any lane, each with the reason in words.
    pub refused: &'static [(&'static str, &'static str)],
    /// Parameters the vendor documents, by endpoint. Others are passed through and listed.
    pub parameters: &'static [(&'static str, &'static [&'static str])],
    /// Where schemas stand in a body.
    pub schema_places: &'static [SchemaPlace],
    /// What a schema that is enforced must obey; without it no rule is known.
    pub schema: Option<SchemaRules>,
    /// Models and how many tokens their context holds, for a warning: a length is estimated.
    pub contexts: &'static [(&'static str, u64)],
    /// Models and the most tokens an answer of theirs may be allowed; more is refused.
    pub outputs: &'static [(&'static str, u64)],
    /// Where that bound stands in a body.
    pub output_bounds: &'static [&'static str],
    /// The pages these facts come from and the day they were read, for people.
    pub source: &'static str,
}

/// The numbers a parameter may have.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ParameterRange {
    /// The parameter, in the vendor's spelling. Dots lead into objects.
    pub name: &'static str,
    /// The least.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// Whether only whole numbers are taken.
    pub whole: bool,
    /// Whether the most is itself too much.
    pub below: bool,
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
const KNOWN: &[VendorRules] = &[OPENAI, ANTHROPIC, GEMINI, VERTEX, GROQ, KLUSTER];

const fn number(name: &'static str, low: f64, high: f64) -> ParameterRange {
    ParameterRange {
        name,
        low,
        high,
        whole: false,
        below: false,
    }
}

const fn number_below(name: &'static str, low: f64, high: f64) -> ParameterRange {
    ParameterRange {
        below: true,
        ..number(name, low, high)
    }
}

const fn whole(name: &'static str, low: f64, high: f64) -> ParameterRange {
    ParameterRange {
        whole: true,
        ..number(name, low, high)
    }
}

/// No vendor's answers are longer; where a model's own bound is known, it is a rule of its own.
const MANY: f64 = 10_000_000.0;

/// What nothing is known of.
const UNKNOWN: VendorRules = VendorRules {
    provider: "",
    hosts: &[],
    ranges: &[],
    batch_ranges: &[],
    lists: &[],
    required: &[],
    refused: &[],
    parameters: &[],
    schema_places: &[],
    schema: None,
    contexts: &[],
    outputs: &[],
    output_bounds: &[],
    source: "",
};

const CHAT: &str = "/v1/chat/completions";
const MESSAGES: &str = "/v1/messages";
const GENERATE: &str = "generateContent";

/// The bounds of an answer in OpenAI's protocol.
const CHAT_BOUNDS: &[&str] = &["max_completion_tokens", "max_tokens", "max_output_tokens"];

/// Where schemas stand in a conversation of OpenAI's protocol.
const CHAT_SCHEMAS: &[SchemaPlace] = &[
    SchemaPlace {
        path: &["response_format", "json_schema"],
        schema: "schema",
        strict: Some("strict"),
    },
    SchemaPlace {
        path: &["tools", "[]", "function"],
        schema: "parameters",
        strict: Some("strict"),
    },
];

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
        whole("max_tokens", 1.0, MANY),
        whole("max_completion_tokens", 1.0, MANY),
        whole("max_output_tokens", 1.0, MANY),
    ],
    lists: &[("stop", 4)],
    required: &[(CHAT, &["messages"]), ("/v1/embeddings", &["input"])],
    output_bounds: CHAT_BOUNDS,
    parameters: &[
        (
            CHAT,
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
    ..UNKNOWN
};

const ANTHROPIC: VendorRules = VendorRules {
    provider: "anthropic",
    hosts: &["api.anthropic.com"],
    // None in a direct call writes the cache and answers nothing. Which sampling a model takes depends on it and on
    // the version, and is left to the vendor; more than this none takes.
    ranges: &[
        number("temperature", 0.0, 1.0),
        whole("max_tokens", 0.0, MANY),
    ],
    batch_ranges: &[whole("max_tokens", 1.0, MANY)],
    lists: &[("messages", 100_000)],
    required: &[(MESSAGES, &["max_tokens", "messages"])],
    output_bounds: &["max_tokens"],
    // The types of the vendor's package, and the sampling that only the older version takes.
    parameters: &[(
        MESSAGES,
        &[
            "cache_control",
            "container",
            "diagnostics",
            "inference_geo",
            "max_tokens",
            "messages",
            "metadata",
            "model",
            "output_config",
            "service_tier",
            "speed",
            "stop_sequences",
            "stream",
            "system",
            "temperature",
            "thinking",
            "tool_choice",
            "tools",
            "top_k",
            "top_p",
        ],
    )],
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
    // Left out are those whose length depends on a header.
    contexts: &[
        ("claude-fable-5", 1_000_000),
        ("claude-haiku-4-5", 200_000),
        ("claude-opus-4-5", 200_000),
        ("claude-opus-4-7", 1_000_000),
        ("claude-opus-4-8", 1_000_000),
        ("claude-opus-5", 1_000_000),
        ("claude-sonnet-4-6", 1_000_000),
        ("claude-sonnet-5", 1_000_000),
    ],
    source: "https://docs.claude.com/en/docs/build-with-claude/structured-outputs, \
             https://docs.claude.com/en/api/messages (and the types of the package anthropic 2.12.0), \
             2026-11-22; contexts, by a third party: \
             https://github.com/pydantic/genai-prices/blob/47df840a5ab10bbcffb8e5ac01b9899032245d1b/prices/providers/anthropic.yml, \
             2026-08-21",
    ..UNKNOWN
};

/// Parameters of `generateContent`, which both of Google's services take in two spellings.
const GENERATE_PARAMETERS: &[&str] = &[
    "cachedContent",
    "cached_content",
    "contents",
    "generationConfig",
    "generation_config",
    "model",
    "safetySettings",
    "safety_settings",
    "systemInstruction",
    "system_instruction",
    "toolConfig",
    "tool_config",
    "tools",
    // Of one of the services only, and refused by the other.
    "labels",
    "serviceTier",
    "service_tier",
    "store",
];

/// What the API ignores of a schema it does not refuse, and no keyword is documented as refused: `schema` stays
/// unknown.
const GEMINI: VendorRules = VendorRules {
    provider: "gemini",
    hosts: &["generativelanguage.googleapis.com"],
    // The reference gives penalties no range. Of topP it says only that it is a probability, and of the shortest
    // answer nothing: these two are as Vertex AI has them for the same models.
    ranges: &[
        number("generationConfig.temperature", 0.0, 2.0),
        number("generationConfig.topP", 0.0, 1.0),
        whole("generationConfig.maxOutputTokens", 1.0, MANY),
        whole("generationConfig.seed", -2_147_483_648.0, 2_147_483_647.0),
    ],
    lists: &[("generationConfig.stopSequences", 5)],
    required: &[(GENERATE, &["contents"])],
    output_bounds: &["generationConfig.maxOutputTokens"],
    parameters: &[(GENERATE, GENERATE_PARAMETERS)],
    contexts: &[
        ("gemini-2.5-flash-lite", 1_000_000),
        ("gemini-3.1-flash-lite", 1_000_000),
        ("gemini-3.5-flash", 1_000_000),
        ("gemini-3.5-flash-lite", 1_000_000),
        ("gemini-3.6-flash", 1_000_000),
        ("gemini-3.7-flash", 1_000_000),
    ],
    source: "https://ai.google.dev/api/generate-content (a copy of 2025-03-06), 2026-11-22; contexts, by a third party: \
             https://github.com/pydantic/genai-prices/blob/47df840a5ab10bbcffb8e5ac01b9899032245d1b/prices/providers/google.yml, \
             2026-08-21",
    ..UNKNOWN
};

/// What a job's import refuses of a schema is found by the provider when it encodes the line.
const VERTEX: VendorRules = VendorRules {
    provider: "vertex",
    hosts: &[
        "aiplatform.googleapis.com",
        "-aiplatform.googleapis.com",
        "aiplatform.us.rep.googleapis.com",
        "aiplatform.eu.rep.googleapis.com",
    ],
    ranges: &[
        number("generationConfig.temperature", 0.0, 2.0),
        number("generationConfig.topP", 0.0, 1.0),
        number_below("generationConfig.presencePenalty", -2.0, 2.0),
        number_below("generationConfig.frequencyPenalty", -2.0, 2.0),
        whole("generationConfig.candidateCount", 1.0, 8.0),
        whole("generationConfig.logprobs", 1.0, 20.0),
        whole("generationConfig.maxOutputTokens", 1.0, MANY),
    ],
    lists: &[("generationConfig.stopSequences", 5)],
    required: &[(GENERATE, &["contents"])],
    output_bounds: &["generationConfig.maxOutputTokens"],
    parameters: &[(GENERATE, GENERATE_PARAMETERS)],
    contexts: &[
        ("gemini-2.5-flash", 1_048_576),
        ("gemini-3.6-flash", 1_048_576),
    ],
    // More is answered with 400 and the range, as seen for flash-lite; the others are what the models' pages name.
    outputs: &[
        ("gemini-2.5-flash", 65_535),
        ("gemini-2.5-flash-lite", 65_535),
        ("gemini-3.6-flash", 65_536),
    ],
    source: "https://docs.cloud.google.com/gemini-enterprise-agent-platform/reference/models/inference, \
             https://docs.cloud.google.com/gemini-enterprise-agent-platform/models/gemini/2-5-flash and 3-6-flash (copies of the docs mirror), \
             https://github.com/aaif-goose/goose/issues/11364 (the longest answers), 2026-11-22",
    ..UNKNOWN
};

const GROQ: VendorRules = VendorRules {
    provider: "groq",
    hosts: &["api.groq.com"],
    ranges: &[
        number("temperature", 0.0, 2.0),
        // Documented as a share of all probability, without a range.
        number("top_p", 0.0, 1.0),
        number("frequency_penalty", -2.0, 2.0),
        number("presence_penalty", -2.0, 2.0),
        whole("top_logprobs", 0.0, 20.0),
        // Any other is answered with 400.
        whole("n", 1.0, 1.0),
        whole("max_tokens", 1.0, MANY),
        whole("max_completion_tokens", 1.0, MANY),
    ],
    lists: &[("stop", 4), ("tools", 128)],
    required: &[(CHAT, &["messages"])],
    output_bounds: CHAT_BOUNDS,
    // Without what is documented as not supported by any model, of which is unknown whether it is refused or
    // ignored: frequency_penalty, presence_penalty, logit_bias, logprobs, top_logprobs, metadata and store.
    parameters: &[(
        CHAT,
        &[
            "citation_options",
            "compound_custom",
            "disable_tool_validation",
            "documents",
            "exclude_domains",
            "function_call",
            "functions",
            "include_domains",
            "include_reasoning",
            "max_completion_tokens",
            "max_tokens",
            "messages",
            "model",
            "n",
            "parallel_tool_calls",
            "reasoning_effort",
            "reasoning_format",
            "response_format",
            "search_settings",
            "seed",
            "service_tier",
            "stop",
            "stream",
            "temperature",
            "tool_choice",
            "tools",
            "top_p",
            "user",
        ],
    )],
    schema_places: CHAT_SCHEMAS,
    schema: Some(SchemaRules {
        closed_objects: true,
        all_required: true,
        object_at_root: false,
        refused: &[],
        min_items: None,
        recursion: true,
        scalar_enums: false,
        max_depth: None,
        max_properties: None,
        max_enum_values: None,
    }),
    contexts: &[
        ("openai/gpt-oss-120b", 131_072),
        ("openai/gpt-oss-20b", 131_072),
    ],
    source: "https://console.groq.com/docs/api-reference (by the types of the package groq 1.7.0), \
             https://console.groq.com/docs/structured-outputs, 2026-11-22; contexts, by a third party: \
             https://github.com/pydantic/genai-prices/blob/47df840a5ab10bbcffb8e5ac01b9899032245d1b/prices/providers/groq.yml, \
             2026-08-21",
    ..UNKNOWN
};

const KLUSTER: VendorRules = VendorRules {
    provider: "kluster",
    hosts: &["api.kluster.ai"],
    ranges: &[
        number("temperature", 0.0, 2.0),
        // Documented as a share of all probability, without a range.
        number("top_p", 0.0, 1.0),
        number("frequency_penalty", -2.0, 2.0),
        number("presence_penalty", -2.0, 2.0),
        whole("top_logprobs", 0.0, 20.0),
        whole("max_tokens", 1.0, MANY),
        whole("max_completion_tokens", 1.0, MANY),
    ],
    lists: &[("stop", 4)],
    required: &[(CHAT, &["messages"])],
    refused: &[(
        "metadata",
        "it could queue the call, and what comes back would not be the answer",
    )],
    output_bounds: CHAT_BOUNDS,
    // The rest was documented as to come; whether it was taken already is unknown.
    parameters: &[(
        CHAT,
        &[
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "max_completion_tokens",
            "max_tokens",
            "messages",
            "model",
            "presence_penalty",
            "seed",
            "stop",
            "stream",
            "temperature",
            "top_logprobs",
            "top_p",
        ],
    )],
    source: "https://github.com/kluster-ai/docs/blob/0c680e32f41e258f704b7f5b561e61752b92c4bf/api-reference/chat.md \
             (an early 2025 state of a service that is probably withdrawn), 2026-11-22",
    ..UNKNOWN
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
            host.strip_suffix(own).is_some_and(|before| {
                let is_region = own.starts_with('-') && !before.is_empty() && !before.contains('.');
                before.is_empty() || before.ends_with('.') || is_region
            })
        })
    }

    /// How many tokens the model's context holds.
    pub(crate) fn context(&self, model: &str) -> Option<u64> {
        of_model(self.contexts, model)
    }

    /// The most tokens an answer of the model may be allowed.
    pub(crate) fn output(&self, model: &str) -> Option<u64> {
        of_model(self.outputs, model)
    }
}

impl ParameterRange {
    /// What is wrong with a value, if anything. One that is `null` is not given.
    pub(crate) fn fault(&self, value: &Value) -> Option<String> {
        let Self {
            name, low, high, ..
        } = self;
        let is_good = |v: f64| {
            (*low..=*high).contains(&v)
                && !(self.below && v.total_cmp(high).is_eq())
                && (!self.whole || v.fract() == 0.0)
        };
        if value.is_null() || value.as_f64().is_some_and(is_good) {
            return None;
        }
        let kind = if self.whole {
            "a whole number"
        } else {
            "a number"
        };
        let end = if self.below { "below" } else { "to" };
        Some(match self.high.total_cmp(&MANY).is_ge() {
            true => format!("{name} must be {kind} from {low}"),
            false if low.total_cmp(high).is_eq() => format!("{name} must be {low}"),
            false => format!("{name} must be {kind} from {low} {end} {high}"),
        })
    }
}

/// What a table says of a model; a dated name counts as the name without its date.
fn of_model(table: &[(&str, u64)], model: &str) -> Option<u64> {
    let dated =
        |tail: &str| !tail.is_empty() && tail.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    table
        .iter()
        .find(|(name, _)| {
            model
                .strip_prefix(name)
                .is_some_and(|tail| tail.is_empty() || tail.strip_prefix('-').is_some_and(dated))
        })
        .map(|(_, tokens)| *tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        for (provider, url, own) in [
            ("anthropic", "https://api.anthropic.com", true),
            (
                "gemini",
                "https://generativelanguage.googleapis.com/v1beta",
                true,
            ),
            ("gemini", "https://aiplatform.googleapis.com", false),
            ("vertex", "https://aiplatform.googleapis.com", true),
            (
                "vertex",
                "https://europe-west4-aiplatform.googleapis.com/v1",
                true,
            ),
            ("vertex", "https://aiplatform.eu.rep.googleapis.com", true),
            (
                "vertex",
                "https://-aiplatform.googleapis.com.example.org",
                false,
            ),
            (
                "vertex",
                "https://example.org/-aiplatform.googleapis.com",
                false,
            ),
            ("groq", "https://api.groq.com/openai/v1", true),
            ("groq", "https://api.openai.com/v1", false),
            ("kluster", "https://api.kluster.ai/v1", true),
        ] {
            let rules = VendorRules::of(provider).unwrap();
            assert_eq!(rules.hold_at(url), own, "{provider} {url}");
        }
    }

    #[test]
    fn f_173_each_vendor_has_its_own_ranges() {
        let config = |name| format!("generationConfig.{name}");
        for (provider, name, good, bad) in [
            (
                "openai",
                "temperature".to_owned(),
                json!([0, 2, null]),
                json!([-0.1, 2.1, "1", false]),
            ),
            (
                "anthropic",
                "temperature".to_owned(),
                json!([0, 1]),
                json!([1.1, -1]),
            ),
            (
                "anthropic",
                "max_tokens".to_owned(),
                json!([0, 1, 64_000]),
                json!([-1, 1.5, "9"]),
            ),
            ("gemini", config("temperature"), json!([0, 2]), json!([2.5])),
            ("gemini", config("topP"), json!([0, 1]), json!([1.5])),
            (
                "gemini",
                config("maxOutputTokens"),
                json!([1]),
                json!([0, 0.5]),
            ),
            (
                "gemini",
                config("seed"),
                json!([-5, 2_147_483_647]),
                json!([2_147_483_648_u64]),
            ),
            ("vertex", config("temperature"), json!([2]), json!([2.5])),
            (
                "vertex",
                config("presencePenalty"),
                json!([-2, 1.99]),
                json!([2, -2.1]),
            ),
            (
                "vertex",
                config("frequencyPenalty"),
                json!([-2, 1.99]),
                json!([2]),
            ),
            (
                "vertex",
                config("candidateCount"),
                json!([1, 8]),
                json!([0, 9]),
            ),
            ("vertex", config("logprobs"), json!([1, 20]), json!([0, 21])),
            ("groq", "temperature".to_owned(), json!([0, 2]), json!([3])),
            ("groq", "n".to_owned(), json!([1]), json!([0, 2])),
            (
                "groq",
                "max_completion_tokens".to_owned(),
                json!([1]),
                json!([0]),
            ),
            (
                "kluster",
                "temperature".to_owned(),
                json!([0, 2]),
                json!([3]),
            ),
            (
                "kluster",
                "top_logprobs".to_owned(),
                json!([0, 20]),
                json!([21]),
            ),
            (
                "kluster",
                "presence_penalty".to_owned(),
                json!([-2, 2]),
                json!([2.1]),
            ),
        ] {
            let rules = VendorRules::of(provider).unwrap();
            let range = rules.ranges.iter().find(|range| range.name == name);
            let range = range.unwrap_or_else(|| panic!("{provider} {name}"));
            for value in good.as_array().unwrap() {
                assert_eq!(range.fault(value), None, "{provider} {name} {value}");
            }
            for value in bad.as_array().unwrap() {
                let fault = range.fault(value).unwrap_or_default();
                assert!(fault.starts_with(&name), "{provider} {value}: {fault}");
            }
        }
        let batch = VendorRules::of("anthropic").unwrap().batch_ranges;
        assert!(
            batch[0].fault(&json!(0)).is_some(),
            "only a direct call may ask for nothing"
        );
    }

    #[test]
    fn what_a_model_takes_is_known_by_its_own_name() {
        for (provider, model, context, output) in [
            (
                "anthropic",
                "claude-haiku-4-5-20251001",
                Some(200_000),
                None,
            ),
            ("anthropic", "claude-opus-4-7", Some(1_000_000), None),
            ("gemini", "gemini-3.6-flash", Some(1_000_000), None),
            ("vertex", "gemini-2.5-flash", Some(1_048_576), Some(65_535)),
            ("vertex", "gemini-2.5-flash-lite", None, Some(65_535)),
            ("vertex", "gemini-2.5-flash-image", None, None),
            ("groq", "openai/gpt-oss-20b", Some(131_072), None),
            ("groq", "llama-3.1-8b-instant", None, None),
            (
                "kluster",
                "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
                None,
                None,
            ),
        ] {
            let rules = VendorRules::of(provider).unwrap();
            assert_eq!(rules.context(model), context, "{provider} {model}");
            assert_eq!(rules.output(model), output, "{provider} {model}");
        }
    }

    #[test]
    fn tables_name_what_they_are_about_consistently() {
        for rules in KNOWN {
            let name = rules.provider;
            assert!(
                !rules.hosts.is_empty() && !rules.ranges.is_empty(),
                "{name}"
            );
            assert!(!rules.output_bounds.is_empty(), "{name}");
            assert_eq!(
                rules.schema.is_some(),
                !rules.schema_places.is_empty(),
                "{name}"
            );
            for range in rules.ranges.iter().chain(rules.batch_ranges) {
                assert!(range.low <= range.high, "{name} {}", range.name);
            }
            for range in rules.batch_ranges {
                let general = rules.ranges.iter().find(|other| other.name == range.name);
                assert!(
                    general.is_none_or(
                        |general| general.low <= range.low && general.high >= range.high
                    ),
                    "{name} {}: it takes the place of the general one",
                    range.name
                );
            }
            for (endpoint, required) in rules.required {
                let known = rules.parameters.iter().find(|(path, _)| path == endpoint);
                let (_, known) = known.unwrap_or_else(|| panic!("{name} {endpoint}"));
                assert!(required.iter().all(|field| known.contains(field)), "{name}");
            }
        }
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
