//! The parameters of a message: what is refused, and what is to be answered.

use serde_json::{Map, Value};

use super::Version;
use super::cache::{Block, Cache, Split};
use super::check::check;
use super::error::ApiError;
use super::models::Facts;
use crate::answer::{PromptHash, base64, tokens, words};
use crate::chat::{Ask, Said, Schema};
use crate::engine::Engine;
use crate::seed::{Rng, mix, sha256};

/// What the parameters are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    /// A row of a batch; `long` with the long-output beta.
    Batch {
        long: bool,
    },
    Count,
}

/// Who asks, when and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking<'a> {
    pub(super) engine: &'a Engine,
    /// Fingerprint of the key.
    pub(super) key: &'a str,
    pub(super) version: Version,
    pub(super) way: Way,
    pub(super) now_ms: i64,
}

/// A message that will be answered, and with what.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) facts: &'static Facts,
    pub(super) hash: PromptHash,
    pub(super) usage: Usage,
    /// `None` for an answer without content.
    pub(super) said: Option<Said>,
    pub(super) thought: Option<Thought>,
    /// The stop text that ended the answer.
    pub(super) stopped_by: Option<String>,
    pub(super) stream: bool,
}

/// A block of thinking.
#[derive(Debug)]
pub(super) struct Thought {
    /// Empty where it is not to be shown.
    pub(super) text: String,
    pub(super) signature: String,
}

/// Token counters as the vendor keeps them: input is what no cache was involved in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) input: u64,
    pub(super) cache: Split,
    pub(super) output: u64,
    pub(super) thinking: u64,
}

impl Usage {
    /// Everything that went in.
    pub(super) fn prompt(&self) -> u64 {
        self.input + self.cache.read + self.cache.write_5m + self.cache.write_1h
    }

    /// Price in US dollars.
    #[expect(
        clippy::cast_precision_loss,
        reason = "token counts of one request are far below 2^53"
    )]
    pub(super) fn price_usd(&self, facts: &Facts, batch: bool) -> f64 {
        let [input, read, output] = facts.model.prices;
        let Split {
            read: cached,
            write_5m,
            write_1h,
        } = self.cache;
        let millionths = self.input as f64 * input
            + cached as f64 * read
            + write_5m as f64 * input * 1.25
            + write_1h as f64 * input * 2.0
            + self.output as f64 * output;
        let full = millionths / 1e6;
        if batch {
            full * facts.model.batch_share
        } else {
            full
        }
    }
}

/// Reads parameters and decides their answer; an error answer when the vendor would refuse them.
pub(super) fn prepare(asking: Asking<'_>, body: &[u8]) -> Result<Prepared, ApiError> {
    check(asking, body)?.answer(asking)
}

impl Checked {
    /// Input tokens, however they are read.
    pub(super) fn tokens(&self) -> u64 {
        self.prompt.tokens()
    }

    /// Decides the answer; an error where the prompt asks for one.
    pub(super) fn answer(self, asking: Asking<'_>) -> Result<Prepared, ApiError> {
        let Asking { engine, now_ms, .. } = asking;
        let seed = engine.config.seed;
        let Self {
            facts,
            params,
            prompt,
            max_tokens,
            thinks,
        } = self;
        let cached = prompt.blocks.iter().any(|block| block.breakpoint.is_some());
        let split = if cached {
            let owner = format!("{}\0{}\0", asking.key, facts.model.name);
            engine
                .state::<Cache>()
                .read(&owner, &prompt.blocks, facts.min_cache, now_ms)
        } else {
            Split::default()
        };
        let hash = PromptHash::of(prompt.texts.iter());
        let mut prepared = Prepared {
            facts,
            hash,
            usage: Usage {
                input: prompt
                    .tokens()
                    .saturating_sub(split.read + split.write_5m + split.write_1h),
                cache: split,
                ..Usage::default()
            },
            said: None,
            thought: None,
            stopped_by: None,
            stream: params.get("stream") == Some(&Value::Bool(true)),
        };
        if max_tokens == 0 {
            return Ok(prepared);
        }
        if thinks {
            let mut rng = Rng::new(mix(seed, hash.0 ^ 0x7468));
            let text = format!("Considering {}.", words(&mut rng, 8 + hash.0 % 24));
            prepared.usage.thinking = tokens(text.len()).min(max_tokens - 1);
            let signature = base64(&sha256(text.as_bytes()));
            let hidden = params
                .get("thinking")
                .is_some_and(|thinking| thinking["display"] == "omitted");
            let text = if hidden { String::new() } else { text };
            prepared.thought = Some(Thought { text, signature });
        }
        let thinking = prepared.usage.thinking;
        let format = params
            .get("output_config")
            .and_then(|config| config.get("format"))
            .and_then(|format| format.get("schema"));
        let ask = Ask {
            model: &facts.model,
            seed,
            hash,
            last_user: &prompt.last_user,
            input: prompt.tokens(),
            limit: Some(max_tokens - thinking),
            schema: format.map(Schema::Given),
            tool: forced_tool(&params),
        };
        let (mut said, spent) = ask.answer().map_err(ApiError::of_status)?;
        prepared.usage.output = spent.output + thinking;
        prepared.stopped_by = stop(&params, &mut said);
        if let (Some(_), Said::Text(text)) = (&prepared.stopped_by, &said) {
            prepared.usage.output = tokens(text.len()) + thinking;
        }
        prepared.said = Some(said);
        Ok(prepared)
    }
}

/// Cuts a text at the first stop text that it holds behind its hash.
fn stop(params: &Map<String, Value>, said: &mut Said) -> Option<String> {
    let Said::Text(text) = said else {
        return None;
    };
    let stops = params.get("stop_sequences").and_then(Value::as_array)?;
    let from = crate::answer::MARK_BYTES.min(text.len());
    let (at, stop) = stops
        .iter()
        .filter_map(Value::as_str)
        .filter_map(|stop| Some((text.get(from..)?.find(stop)? + from, stop)))
        .min_by_key(|(at, _)| *at)?;
    text.truncate(at);
    Some(stop.to_owned())
}

/// The tool that `tool_choice` forces.
fn forced_tool(params: &Map<String, Value>) -> Option<(String, Value)> {
    let choice = params.get("tool_choice")?;
    let tools = params.get("tools")?.as_array()?;
    let own = |tool: &&Value| tool.get("input_schema").is_some();
    let tool = match choice["type"].as_str()? {
        "any" => tools.iter().find(own)?,
        "tool" => tools
            .iter()
            .filter(own)
            .find(|tool| tool["name"] == choice["name"])?,
        _ => return None,
    };
    Some((
        tool["name"].as_str()?.to_owned(),
        tool["input_schema"].clone(),
    ))
}

/// Parameters that passed.
pub(super) struct Checked {
    pub(super) facts: &'static Facts,
    pub(super) params: Map<String, Value>,
    pub(super) prompt: Prompt,
    pub(super) max_tokens: u64,
    pub(super) thinks: bool,
}

/// What a model reads.
#[derive(Default)]
pub(super) struct Prompt {
    /// The texts of system and messages, in order.
    pub(super) texts: Vec<String>,
    /// Bytes of the tools, which are read as well.
    pub(super) tools: usize,
    pub(super) last_user: String,
    /// All blocks in order, for the cache; without contents where nothing is to be cached.
    pub(super) blocks: Vec<Block>,
}

impl Prompt {
    pub(super) fn tokens(&self) -> u64 {
        tokens(self.texts.iter().map(String::len).sum::<usize>() + self.tools)
    }
}
