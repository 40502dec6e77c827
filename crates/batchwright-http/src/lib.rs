#![doc = include_str!("../README.md")]

mod call;
mod client;

mod base_url;
mod secret;

mod hints;
mod lines;
pub mod sse;

mod error_table;
mod redact;
mod row;
mod submission;
mod vendor_error;
pub mod wire;

mod bell;
mod connection;
mod deadline;
mod direct;
mod failure;
mod incoming;
mod origin;
mod socket;
mod through_reqwest;
mod tls;
mod upload;

pub use base_url::BaseUrl;
pub use call::{Body, Call, Limits, Reply, StreamReply};
pub use client::{HttpClient, HttpClientBuilder};
pub use error_table::{Asked, CodeRow, ErrorTable, StatusRow, hollow};
pub use hints::{HintNames, NO_HINTS, OPENAI_HINTS, RetryHints, retry_hints};
pub use lines::{Line, LineSplitter, lines, lines_within};
pub use redact::{error_text, redact, redact_with};
pub use row::{Unanswered, answered, direct_answer, row_outcome, unreadable};
pub use secret::Secret;
pub use submission::{account, submitted};
pub use vendor_error::VendorError;

pub use reqwest::{
    Method, StatusCode, Url, header,
    header::{HeaderMap, HeaderName, HeaderValue},
};
