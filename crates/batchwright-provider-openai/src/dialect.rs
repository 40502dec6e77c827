//! What services that speak OpenAI's protocol differ in, as data: a preset is one constant.

mod preset;

pub use preset::PRESETS;

use crate::convert::{CHAT_COMPLETIONS, EMBEDDINGS, RESPONSES};
use crate::error::ERRORS;
use batchwright_core::{
    BatchLimits, BatchStatus, Capability, Error, ErrorKind, IdRule, ListMatch, Result,
};
use batchwright_http::{CodeRow, ErrorTable};
use std::{fmt, time::Duration};

/// A service that speaks OpenAI's protocol. [`Dialect::OPENAI`] is the vendor itself; a preset starts from
/// [`Dialect::new`] and sets what differs:
///
/// ```
/// use batchwright_core::{Capability, ErrorKind, RetryClass};
/// use batchwright_http::ErrorTable;
/// use batchwright_provider_openai::{Dialect, OpenAi, OpenAiConfig, Paging, Windows};
///
/// fn capability() -> Capability {
///     let mut capability = Capability::default();
///     capability.realtime_endpoints = vec!["/v1/chat/completions".to_owned()];
///     capability
/// }
/// const ERRORS: ErrorTable = Dialect::OPENAI
///     .errors
///     .with_own_codes(&[("no_room", ErrorKind::Overloaded, RetryClass::Rejected)]);
/// static ACME: Dialect = {
///     let mut acme = Dialect::new("acme", "https://api.acme.example/v1", "ACME_API_KEY", capability);
///     acme.errors = ERRORS;
///     acme.window = "7d";
///     acme.windows = Windows::Of(&["24h", "7d"]);
///     acme.paging = Paging::Cursor;
///     acme
/// };
/// let acme = OpenAi::new(OpenAiConfig::of(&ACME, "key"))?;
/// # Ok::<(), batchwright_core::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Dialect {
    /// The provider's name in results, prices, handles and errors: of `a-z`, `0-9`, `-` and `_`.
    pub name: &'static str,
    /// The URL that ends in the version; empty where each customer has their own.
    pub base_url: &'static str,
    /// The environment variable that holds the key.
    pub key_var: &'static str,
    /// Whether there is no service without a key. Default yes. Where a key may be left out and is, no key's
    /// header is sent.
    pub key_needed: bool,
    /// The environment variable that holds another base URL, if any.
    pub base_url_var: Option<&'static str>,
    /// What the vendor leaves out of that variable: added to its value where the value does not end in it.
    /// Default nothing.
    pub base_path: &'static str,
    /// The environment variable that holds an API version, if any. One that is set makes the paths those of
    /// Azure's dated APIs: the model in the path of direct calls, and no `/v1` anywhere.
    pub api_version_var: Option<&'static str>,
    /// The environment variable that names the organization, if any.
    pub organization_var: Option<&'static str>,
    /// The environment variable that names the project, if any.
    pub project_var: Option<&'static str>,
    /// The header that carries the key, in lower case. Default `authorization`.
    pub auth_header: &'static str,
    /// What stands before the key in it. Default `Bearer `.
    pub auth_prefix: &'static str,
    /// What the service supports, and where that was read.
    pub capability: fn() -> Capability,
    /// How its errors are read. Default: as OpenAI's.
    pub errors: ErrorTable,
    /// The window a batch is created with where the settings name none. Default `24h`.
    pub window: &'static str,
    /// The windows there are. Default `24h` alone.
    pub windows: Windows,
    /// Words for a batch's state beside OpenAI's eight, in lower case; others are no end (F-056).
    pub statuses: &'static [(&'static str, BatchStatus)],
    /// How its list of batches goes on. Default [`Paging::After`].
    pub paging: Paging,
    /// The field that bounds a chat completion. Default `max_completion_tokens`; older servers know only
    /// `max_tokens`.
    pub max_tokens: &'static str,
    /// Fields of a request the service refuses or ignores; one that asks for such a field is refused before
    /// anything is sent. Known are `seed`, `stop`, `frequency_penalty`, `presence_penalty`, `reasoning_effort`
    /// and whatever comes as an extra field.
    pub refused: &'static [&'static str],
    /// Ends of a choice that are faults of the service and no answers, in its spelling.
    pub failed_finishes: &'static [CodeRow],
    /// Beginnings of a 400's message that mean the key is wrong, where no code says so.
    pub bad_key: &'static [&'static str],
    /// Beginnings of a refusal's message, each with words behind it, that mean money is at its end, where no
    /// code says so.
    pub spent: &'static [(&'static str, &'static str)],
    /// Whether reasoning tokens are counted beside the output instead of within it. Default no.
    pub reasoning_apart: bool,
    /// The path of uploads. Default `files`.
    pub upload_path: &'static [&'static str],
    /// The purpose of a batch's input. Default `batch`.
    pub upload_purpose: &'static str,
    /// Whether the form of an upload has the file's name as a field of its own. Default no.
    pub upload_names_file: bool,
    /// Whether a batch can be created only once its input is `processed`, which its file object says. Default no.
    pub input_processed: bool,
    /// Whether a batch keeps metadata, and with it our tag. Default yes; where not, none is sent.
    pub metadata: bool,
    /// The most tokens of an answer that is waited for in one piece; longer ones are streamed. Default 16,384: some
    /// minutes of writing, about as long as the boxes between here and there keep a connection that looks idle.
    pub stream_above: u32,
    /// HTTP calls under way at once. Default 256; a server on one's own machine does few at a time.
    pub max_in_flight: usize,
}

/// The windows a batch may be created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Windows {
    /// These words: a whole number of hours (`24h`) or days (`7d`).
    Of(&'static [&'static str]),
    /// Any whole number of hours or days from the first to the second.
    Between(Duration, Duration),
}

impl Windows {
    /// How long a window is.
    ///
    /// # Errors
    /// `ConfigInvalid` where it is none of these.
    pub fn length(&self, window: &str) -> Result<Duration> {
        let length = hours(window);
        let known = match self {
            Self::Of(words) => words.contains(&window),
            Self::Between(least, most) => length.is_some_and(|it| (*least..=*most).contains(&it)),
        };
        length.filter(|_| known).ok_or_else(|| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("use the completion window {window:?}: only {self} can be had"),
            )
        })
    }
}

impl fmt::Display for Windows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Of(words) => f.write_str(&words.join(", ")),
            Self::Between(least, most) => {
                let hours = |it: &Duration| it.as_secs() / 3600;
                write!(f, "{}h to {}h", hours(least), hours(most))
            }
        }
    }
}

/// `24h` or `7d`.
fn hours(window: &str) -> Option<Duration> {
    let (number, hours) = match window.strip_suffix('h') {
        Some(number) => (number, 1),
        None => (window.strip_suffix('d')?, 24),
    };
    // `parse` would take a sign.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let hours = number.parse::<u64>().ok()?.checked_mul(hours)?;
    Some(Duration::from_secs(hours.checked_mul(3600)?))
}

/// How a list of batches goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Paging {
    /// `after=<last id>`, while `has_more` says so or a page is full.
    #[default]
    After,
    /// `cursor=<paging.next_cursor>`, while there is one.
    Cursor,
    /// No pages: everything at once, as a list alone or within an object.
    Whole,
}

impl Dialect {
    /// OpenAI itself.
    pub const OPENAI: Self = {
        let mut openai = Self::new(
            "openai",
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            capability,
        );
        openai.base_url_var = Some("OPENAI_BASE_URL");
        openai.organization_var = Some("OPENAI_ORG_ID");
        openai.project_var = Some("OPENAI_PROJECT_ID");
        openai
    };

    /// A service that is as OpenAI but for these.
    pub const fn new(
        name: &'static str,
        base_url: &'static str,
        key_var: &'static str,
        capability: fn() -> Capability,
    ) -> Self {
        Self {
            name,
            base_url,
            key_var,
            key_needed: true,
            base_url_var: None,
            base_path: "",
            api_version_var: None,
            organization_var: None,
            project_var: None,
            auth_header: "authorization",
            auth_prefix: "Bearer ",
            capability,
            errors: ERRORS,
            window: "24h",
            windows: Windows::Of(&["24h"]),
            statuses: &[],
            paging: Paging::After,
            max_tokens: "max_completion_tokens",
            refused: &[],
            failed_finishes: &[],
            bad_key: &[],
            spent: &[],
            reasoning_apart: false,
            upload_path: &["files"],
            upload_purpose: "batch",
            upload_names_file: false,
            input_processed: false,
            metadata: true,
            stream_above: 16_384,
            max_in_flight: 256,
        }
    }

    /// Whether it answers direct calls.
    pub fn has_realtime(&self) -> bool {
        !(self.capability)().realtime_endpoints.is_empty()
    }

    /// Whether it takes batches.
    pub fn has_batch(&self) -> bool {
        (self.capability)().batch.is_some()
    }
}

/// The endpoints a batch can be for (API reference, `batches/create`, `endpoint`).
const BATCH_ENDPOINTS: &[&str] = &[
    RESPONSES,
    CHAT_COMPLETIONS,
    EMBEDDINGS,
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
];

/// What OpenAI can do, read 2026-11-22 in the guide <https://platform.openai.com/docs/guides/batch>.
fn capability() -> Capability {
    let owned = |endpoints: &[&str]| endpoints.iter().map(|&path| path.to_owned()).collect();
    // 50,000 lines and 200 MB; a tenth is left free, since how a fuller file fails is not documented.
    let mut batch = BatchLimits::new(owned(BATCH_ENDPOINTS), 50_000, 190_000_000);
    batch.one_model = true;
    // Any text; no length is documented.
    batch.custom_id = IdRule::ANY;
    batch.unsupported = &["stream", "background"];
    // Half the price of a direct call for every model.
    batch.discount_percent = Some(50);
    // Output files stay 30 days from their own creation, which is never before the batch's.
    batch.retention = Duration::from_secs(30 * 24 * 3600);
    batch.cancel = true;
    batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
    let mut capability = Capability::default();
    capability.realtime_endpoints = owned(&[CHAT_COMPLETIONS, RESPONSES, EMBEDDINGS]);
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://platform.openai.com/docs/guides/batch, 2026-11-22";
    capability
}
