#![doc = include_str!("../README.md")]

mod error;
mod retry;

mod outcome;
mod raw_json;
mod request;
mod response;
mod sampling;
mod timestamp;
mod usage;
mod wire_id;

mod capability;
mod model;
mod price;

mod batch;
mod context_cache;
mod journal;
mod list_walk;
mod provider;

pub use batch::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, InputFault, InputRef,
    ListMark, ResultFile, SealedBatch, SealedBody, StoredInput, SubmissionTag, SubmitError,
};
pub use capability::{BatchInput, BatchLimits, Capability, IdRule, ListMatch};
pub use context_cache::{CachedContext, ContextCache};
pub use error::{Error, ErrorKind, RateLimit, Result, RetryClass};
pub use journal::{Decision, JournalEntry, JournalEvent, Purchases, SubmissionLog};
pub use list_walk::{ListPage, ListWalk};
pub use model::ModelSpec;
pub use outcome::{Ending, Lane, Outcome, Provenance};
pub use price::{Money, Price, PriceTable, Rates};
pub use provider::{BatchProvider, ByteStream, CallOptions, ChatProvider};
pub use raw_json::RawJson;
pub use request::{
    Chat, EmbeddingInput, Media, Message, Part, Payload, RawBody, Request, ResponseFormat, Role,
    Thinking, Tool, ToolCall, ToolChoice, ToolResult,
};
pub use response::{FinishReason, Response};
pub use retry::{Jitter, RetryDecision, RetryPolicy, RetryState};
pub use sampling::Sampling;
pub use timestamp::Timestamp;
pub use usage::Usage;
pub use wire_id::{WireId, WirePrefix};
