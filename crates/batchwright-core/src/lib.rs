#![doc = include_str!("../README.md")]

mod error;
mod retry;

mod outcome;
mod request;
mod response;
mod sampling;
mod timestamp;
mod usage;

mod capability;
mod model;
mod price;

mod batch;
mod journal;
mod provider;

pub use batch::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, InputRef, ListMark,
    ResultFile, RowFault, SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
pub use capability::{BatchLimits, Capability, ListMatch};
pub use error::{Error, ErrorKind, RateLimit, Result, RetryClass};
pub use journal::{JournalEntry, JournalEvent, SubmissionLog};
pub use model::ModelSpec;
pub use outcome::{Ending, Lane, Outcome, Provenance, Refusal};
pub use price::{Money, Price, PriceTable};
pub use provider::{BatchProvider, ByteStream, CallOptions, ChatProvider};
pub use request::{
    Chat, EmbeddingInput, Media, Message, Part, Payload, RawBody, Request, ResponseFormat, Role,
    Tool, ToolChoice,
};
pub use response::{FinishReason, Response};
pub use retry::{Jitter, RetryDecision, RetryPolicy, RetryState};
pub use sampling::Sampling;
pub use timestamp::Timestamp;
pub use usage::Usage;
