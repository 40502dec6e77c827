//! One outcome as one line of JSON.
//!
//! Format version 1, keys in this order: `v`, `row`, `custom_id`, `status`, `output`, `finish_reason`,
//! `usage`, `cost`, `provenance`, `error`, `raw`. Readers take any order and pass over keys they do not
//! know.

use crate::{files, json_line::JsonLine};
use batchwright_core::{
    Ending, Error, ErrorKind, FinishReason, Lane, Money, Outcome, Part, RawJson, Response, Result,
    Usage,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, path::Path};

/// The version this crate writes, and the only one it reads.
const VERSION: u32 = 1;

/// The highest row number, so that a damaged line cannot ask for a file of any size.
pub(crate) const MAX_ROW: u64 = (1 << 36) - 1;

/// One row's outcome, borrowed from its line.
///
/// `output` is text as a JSON string, or the JSON itself where a structured answer was asked for and is
/// valid; an array of `{"tool", "id", "arguments"}` where the answer has only tool calls; an array of
/// numbers for an embedding, of arrays for several; a refusal's text; otherwise absent.
#[derive(Clone, Deserialize)]
#[non_exhaustive]
pub struct OutcomeRecord<'a> {
    v: u32,
    /// The row's number in the input, from 0.
    pub row: u64,
    /// The caller's id, byte for byte.
    #[serde(borrow)]
    pub custom_id: Cow<'a, str>,
    /// How it ended, by [`Ending::as_str`].
    #[serde(borrow)]
    pub status: Cow<'a, str>,
    /// The answer, in the form told above.
    #[serde(borrow, default)]
    pub output: Option<&'a RawValue>,
    /// Why the model stopped, by [`FinishReason::as_str`].
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Token counters; `None` where the provider told none.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What it cost; `None` where that is unknown.
    #[serde(default, deserialize_with = "read_dollars")]
    pub cost: Option<Money>,
    /// How it came about.
    #[serde(borrow, default)]
    pub provenance: RecordProvenance<'a>,
    /// Why it failed or cannot be read.
    #[serde(borrow, default)]
    pub error: Option<RecordError<'a>>,
    /// The vendor's body; direct calls only, since a batch's is in its raw download.
    #[serde(borrow, default)]
    pub raw: Option<&'a RawValue>,
}

/// How an outcome came about, as in its line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordProvenance<'a> {
    /// The provider's name.
    #[serde(borrow)]
    pub provider: Option<Cow<'a, str>>,
    /// The model asked for.
    #[serde(borrow)]
    pub model: Option<Cow<'a, str>>,
    /// The model that answered.
    #[serde(borrow)]
    pub responded_model: Option<Cow<'a, str>>,
    /// `batch` or `realtime`.
    #[serde(borrow)]
    pub lane: Option<Cow<'a, str>>,
    /// The provider's id of the batch.
    #[serde(borrow)]
    pub batch: Option<Cow<'a, str>>,
    /// Attempts made.
    pub attempts: u32,
    /// Attempts besides the last that may have been billed too.
    pub possibly_paid_attempts: u32,
    /// From the first send to the answer, in milliseconds.
    pub latency_ms: Option<u64>,
    /// Whether a cache answered.
    pub cached: bool,
    /// The vendor's id of the HTTP request.
    #[serde(borrow)]
    pub request_id: Option<Cow<'a, str>>,
}

/// Why an outcome failed, as in its line.
#[derive(Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RecordError<'a> {
    /// By [`ErrorKind::as_str`].
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
    /// By [`batchwright_core::RetryClass::as_str`].
    #[serde(borrow)]
    pub class: Cow<'a, str>,
    /// The message, redacted where it was made.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The HTTP status.
    #[serde(default)]
    pub status: Option<u16>,
    /// The vendor's code.
    #[serde(borrow, default)]
    pub code: Option<Cow<'a, str>>,
    /// The parameter the vendor names.
    #[serde(borrow, default)]
    pub param: Option<Cow<'a, str>>,
    /// The vendor's id of the HTTP request.
    #[serde(borrow, default)]
    pub request_id: Option<Cow<'a, str>>,
}

/// What is written to a segment; a result line is the same without the first two keys and the last.
struct Line<'a> {
    row: Option<u64>,
    custom_id: &'a str,
    status: &'a str,
    output: Output<'a>,
    finish_reason: Option<&'a str>,
    usage: Option<&'a Usage>,
    cost: Option<Money>,
    provenance: &'a RecordProvenance<'a>,
    error: Option<&'a RecordError<'a>>,
    raw: Option<&'a RawJson>,
}

impl<'a> OutcomeRecord<'a> {
    /// Appends the line of a row's outcome, without a newline, to `line`. Nothing is copied on the way.
    ///
    /// `json_output` tells that the request asked for JSON: a text that is valid JSON is then written as
    /// it is instead of as a string. `custom_id` is the caller's, whatever the outcome carries.
    pub fn write(
        row: u64,
        custom_id: &str,
        outcome: &Outcome,
        json_output: bool,
        line: &mut Vec<u8>,
    ) {
        let response = outcome.response();
        let error = outcome.error();
        let origin = &outcome.provenance;
        let batch = origin.lane == Some(Lane::Batch);
        let request_id = response
            .and_then(|response| response.request_id.as_deref())
            .or_else(|| error.and_then(Error::request_id));
        let provenance = RecordProvenance {
            provider: origin.provider.as_deref().map(Cow::Borrowed),
            model: origin.model.as_deref().map(Cow::Borrowed),
            responded_model: response
                .and_then(|response| response.model.as_deref())
                .map(Cow::Borrowed),
            lane: origin.lane.map(|lane| Cow::Borrowed(lane.as_str())),
            batch: origin.batch.as_deref().map(Cow::Borrowed),
            attempts: origin.attempts,
            possibly_paid_attempts: origin.possibly_paid_attempts,
            latency_ms: origin
                .latency
                .map(|latency| u64::try_from(latency.as_millis()).unwrap_or(u64::MAX)),
            cached: origin.cached,
            request_id: request_id.map(Cow::Borrowed),
        };
        let failure = match &outcome.ending {
            Ending::Failed(error) | Ending::Unreadable(error) => Some(RecordError::of(error)),
            // Why the model refused is told by the finish reason, and what it said by the output.
            Ending::Succeeded(_)
            | Ending::Refused(_)
            | Ending::Expired
            | Ending::Cancelled
            | Ending::Missing => None,
        };
        let record = Line {
            row: Some(row),
            custom_id,
            status: outcome.ending.as_str(),
            output: Output::of(response, json_output),
            finish_reason: response
                .and_then(|response| response.finish_reason.as_ref())
                .map(FinishReason::as_str),
            usage: response
                .map(|response| &response.usage)
                .or_else(|| error.and_then(Error::usage))
                .filter(|usage| !usage.is_unknown()),
            cost: origin.cost,
            provenance: &provenance,
            error: failure.as_ref(),
            raw: response
                .and_then(|response| response.raw.as_ref())
                .filter(|_| !batch),
        };
        record.append(&mut JsonLine::new(line));
    }

    /// Reads a line.
    ///
    /// # Errors
    /// `Storage` where it is no outcome of this version.
    pub fn parse(line: &'a [u8]) -> Result<Self> {
        let record: Self = serde_json::from_slice(line).map_err(|error| {
            Error::new(
                ErrorKind::Storage,
                "read an outcome: the line is no outcome",
            )
            .with_source(error)
        })?;
        check(record.v, record.row, &record.status)?;
        Ok(record)
    }

    /// Appends the line as result files have it, without a newline: the same without `v`, `row` and `raw`.
    pub fn to_result_line(&self, line: &mut Vec<u8>) {
        let record = Line {
            row: None,
            custom_id: &self.custom_id,
            status: &self.status,
            output: self.output.map_or(Output::Nothing, Output::Json),
            finish_reason: self.finish_reason.as_deref(),
            usage: self.usage.as_ref(),
            cost: self.cost,
            provenance: &self.provenance,
            error: self.error.as_ref(),
            raw: None,
        };
        record.append(&mut JsonLine::new(line));
    }

    /// Whether the model answered.
    pub fn is_success(&self) -> bool {
        self.status == "succeeded"
    }

    /// The answer's text where it is a JSON string; structured answers, vectors and tool calls are `None`.
    pub fn text(&self) -> Option<String> {
        serde_json::from_str(self.output?.get()).ok()
    }
}

impl fmt::Debug for OutcomeRecord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutcomeRecord")
            .field("row", &self.row)
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl<'a> RecordError<'a> {
    fn of(error: &'a Error) -> Self {
        Self {
            kind: Cow::Borrowed(error.kind().as_str()),
            class: Cow::Borrowed(error.class().as_str()),
            message: Cow::Borrowed(error.message()),
            status: error.status(),
            code: error.code().map(Cow::Borrowed),
            param: error.param().map(Cow::Borrowed),
            request_id: error.request_id().map(Cow::Borrowed),
        }
    }
}

impl fmt::Debug for RecordError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordError")
            .field("kind", &self.kind)
            .field("class", &self.class)
            .field("status", &self.status)
            .field("code", &self.code)
            .finish_non_exhaustive()
    }
}

/// Room for what stands around an answer and its body.
const AROUND: usize = 768;

impl Line<'_> {
    fn append(&self, line: &mut JsonLine<'_>) {
        let raw = self.raw.map_or(0, |raw| raw.get().len());
        line.reserve(AROUND + raw);
        line.put("{");
        if let Some(row) = self.row {
            line.put("\"v\":");
            line.number(VERSION.into());
            line.put(",\"row\":");
            line.number(row);
            line.put(",");
        }
        line.put("\"custom_id\":");
        line.text(self.custom_id);
        line.put(",\"status\":");
        line.text(self.status);
        line.put(",\"output\":");
        self.output.append(line);
        line.put(",\"finish_reason\":");
        line.text_or_null(self.finish_reason);
        line.put(",\"usage\":");
        match self.usage {
            Some(usage) => append_usage(usage, line),
            None => line.put("null"),
        }
        line.put(",\"cost\":");
        match self.cost {
            Some(cost) => append_dollars(cost, line),
            None => line.put("null"),
        }
        self.provenance.append(line);
        line.put(",\"error\":");
        match self.error {
            Some(error) => error.append(line),
            None => line.put("null"),
        }
        if let Some(raw) = self.raw {
            line.put(",\"raw\":");
            line.json(raw.get());
        }
        line.put("}");
    }
}

impl RecordProvenance<'_> {
    fn append(&self, line: &mut JsonLine<'_>) {
        line.put(",\"provenance\":{\"provider\":");
        line.text_or_null(self.provider.as_deref());
        line.put(",\"model\":");
        line.text_or_null(self.model.as_deref());
        line.put(",\"responded_model\":");
        line.text_or_null(self.responded_model.as_deref());
        line.put(",\"lane\":");
        line.text_or_null(self.lane.as_deref());
        line.put(",\"batch\":");
        line.text_or_null(self.batch.as_deref());
        line.put(",\"attempts\":");
        line.number(self.attempts.into());
        line.put(",\"possibly_paid_attempts\":");
        line.number(self.possibly_paid_attempts.into());
        line.put(",\"latency_ms\":");
        line.number_or_null(self.latency_ms);
        line.put(",\"cached\":");
        line.bool(self.cached);
        line.put(",\"request_id\":");
        line.text_or_null(self.request_id.as_deref());
        line.put("}");
    }
}

impl RecordError<'_> {
    fn append(&self, line: &mut JsonLine<'_>) {
        line.put("{\"kind\":");
        line.text(&self.kind);
        line.put(",\"class\":");
        line.text(&self.class);
        line.put(",\"message\":");
        line.text(&self.message);
        line.put(",\"status\":");
        line.number_or_null(self.status.map(u64::from));
        line.put(",\"code\":");
        line.text_or_null(self.code.as_deref());
        line.put(",\"param\":");
        line.text_or_null(self.param.as_deref());
        line.put(",\"request_id\":");
        line.text_or_null(self.request_id.as_deref());
        line.put("}");
    }
}

fn append_usage(usage: &Usage, line: &mut JsonLine<'_>) {
    let counters = [
        ("\"input_tokens\":", usage.input_tokens),
        ("\"output_tokens\":", usage.output_tokens),
        (
            "\"cache_read_input_tokens\":",
            usage.cache_read_input_tokens,
        ),
        (
            "\"cache_creation_input_tokens\":",
            usage.cache_creation_input_tokens,
        ),
        ("\"reasoning_tokens\":", usage.reasoning_tokens),
    ];
    let mut before = "{";
    for (key, counter) in counters {
        if let Some(counter) = counter {
            line.put(before);
            line.put(key);
            line.number(counter);
            before = ",";
        }
    }
    // Unknown counters are no usage, so that there is one.
    line.put(if before == "{" { "{}" } else { "}" });
}

/// As an exact decimal number of dollars without an exponent, which every spreadsheet reads.
fn append_dollars(cost: Money, line: &mut JsonLine<'_>) {
    const DOLLAR: u64 = 1_000_000_000_000;
    let picodollars = cost.as_picodollars();
    line.number(picodollars / DOLLAR);
    let mut fraction = picodollars % DOLLAR;
    if fraction == 0 {
        return;
    }
    line.put(".");
    let mut place = DOLLAR / 10;
    while fraction > 0 {
        line.number(fraction / place);
        fraction %= place;
        place /= 10;
    }
}

/// An answer on its way to JSON.
enum Output<'a> {
    Nothing,
    Text(Cow<'a, str>),
    Json(&'a RawValue),
    JsonOwned(RawJson),
    ToolCalls(&'a [Part]),
    Vectors(&'a [Vec<f32>]),
}

impl<'a> Output<'a> {
    fn of(response: Option<&'a Response>, json_output: bool) -> Self {
        let Some(response) = response else {
            return Self::Nothing;
        };
        if !response.embeddings.is_empty() {
            return Self::Vectors(&response.embeddings);
        }
        let mut texts = response.content.iter().filter_map(Part::as_text);
        match (texts.next(), texts.next()) {
            (None, _) => {
                let calls = |part: &Part| matches!(part, Part::ToolCall(_));
                if response.content.iter().any(calls) {
                    Self::ToolCalls(&response.content)
                } else {
                    Self::Nothing
                }
            }
            (Some(text), None) if json_output => match serde_json::from_str(text) {
                Ok(json) => Self::Json(json),
                Err(_) => Self::Text(Cow::Borrowed(text)),
            },
            (Some(text), None) => Self::Text(Cow::Borrowed(text)),
            (Some(_), Some(_)) if json_output => match RawJson::parse(response.text()) {
                Ok(json) => Self::JsonOwned(json),
                Err(_) => Self::Text(Cow::Owned(response.text())),
            },
            (Some(_), Some(_)) => Self::Text(Cow::Owned(response.text())),
        }
    }
}

impl Output<'_> {
    fn append(&self, line: &mut JsonLine<'_>) {
        match self {
            Self::Nothing => line.put("null"),
            Self::Text(text) => line.text(text),
            Self::Json(json) => line.json(json.get()),
            Self::JsonOwned(json) => line.json(json.get()),
            Self::ToolCalls(parts) => {
                let mut before = "[";
                for part in *parts {
                    if let Part::ToolCall(call) = part {
                        line.put(before);
                        line.put("{\"tool\":");
                        line.text(&call.name);
                        line.put(",\"id\":");
                        line.text(&call.id);
                        line.put(",\"arguments\":");
                        line.text(&call.arguments);
                        line.put("}");
                        before = ",";
                    }
                }
                line.put(if before == "[" { "[]" } else { "]" });
            }
            Self::Vectors([vector]) => line.numbers(vector),
            Self::Vectors(vectors) => line.numbers(vectors),
        }
    }
}

pub(crate) fn read_dollars<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Money>, D::Error> {
    Option::<f64>::deserialize(deserializer)?
        .map(|dollars| {
            Money::from_dollars(dollars)
                .ok_or_else(|| serde::de::Error::custom("a cost is no amount of money"))
        })
        .transpose()
}

fn check(version: u32, row: u64, status: &str) -> Result<()> {
    let known = [
        "succeeded",
        "failed",
        "refused",
        "expired",
        "cancelled",
        "missing",
        "unreadable",
    ];
    let problem = if version != VERSION {
        "it is of another version; use the program that wrote it"
    } else if row > MAX_ROW {
        "its row number is too high"
    } else if !known.contains(&status) {
        "its status is unknown"
    } else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Storage,
        format!("read an outcome: {problem}"),
    ))
}

/// Appends the line of an intent, without a newline: row `row` is about to be sent for the `attempt`th time.
pub(crate) fn write_intent(row: u64, attempt: u32, line: &mut Vec<u8>) {
    line.extend_from_slice(
        format!("{{\"v\":{VERSION},\"intent\":{row},\"attempt\":{attempt}}}").as_bytes(),
    );
}

/// Appends the line that takes a row's last intent back, without a newline.
pub(crate) fn write_withdrawn(row: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"v\":{VERSION},\"withdrawn\":{row}}}").as_bytes());
}

/// Appends the line that begins another run of the same process, without a newline: intents before it belong
/// to an earlier one, as those of an older epoch do.
pub(crate) fn write_run(run: u32, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"v\":{VERSION},\"run\":{run}}}").as_bytes());
}

/// Appends the line after which the row has no outcome, without a newline: those before it are superseded.
pub(crate) fn write_reopened(row: u64, line: &mut Vec<u8>) {
    line.extend_from_slice(format!("{{\"v\":{VERSION},\"reopened\":{row}}}").as_bytes());
}

/// Appends the line that says that a chunk may have been billed for a row which goes on without an answer from it,
/// without a newline.
pub(crate) fn write_lost(row: u64, chunk: u32, line: &mut Vec<u8>) {
    line.extend_from_slice(
        format!("{{\"v\":{VERSION},\"lost\":{row},\"chunk\":{chunk}}}").as_bytes(),
    );
}

/// The parts of a segment's line that accounting needs.
#[derive(Deserialize)]
pub(crate) struct Summary<'a> {
    v: u32,
    #[serde(default)]
    row: Option<u64>,
    #[serde(default)]
    intent: Option<u64>,
    #[serde(default)]
    withdrawn: Option<u64>,
    #[serde(default)]
    run: Option<u64>,
    #[serde(default)]
    reopened: Option<u64>,
    #[serde(default)]
    lost: Option<u64>,
    #[serde(default)]
    chunk: u32,
    #[serde(borrow, default)]
    pub(crate) status: &'a str,
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
    #[serde(default, deserialize_with = "read_dollars")]
    pub(crate) cost: Option<Money>,
    #[serde(borrow, default)]
    provenance: SummaryProvenance<'a>,
}

#[derive(Default, Deserialize)]
struct SummaryProvenance<'a> {
    #[serde(default)]
    possibly_paid_attempts: u32,
    #[serde(borrow, default)]
    lane: Option<&'a str>,
}

/// What a segment's line says.
#[expect(
    clippy::large_enum_variant,
    reason = "one is made for each line and none is kept"
)]
pub(crate) enum Entry<'a> {
    Intent {
        row: u64,
    },
    /// The row's last intent was not carried out, or was answered by a refusal that cost nothing.
    Withdrawn {
        row: u64,
    },
    Outcome {
        row: u64,
        summary: Summary<'a>,
    },
    /// Another run of the same process begins.
    Run,
    /// The row is to be sent again, by a person's word: its outcomes so far are superseded.
    Reopened {
        row: u64,
    },
    /// A chunk may have been billed for the row, and the row goes on without an answer from it.
    Lost {
        row: u64,
        chunk: u32,
    },
}

impl Summary<'_> {
    pub(crate) fn is_success(&self) -> bool {
        self.status == "succeeded"
    }

    /// Whether a direct call gave it.
    pub(crate) fn is_direct(&self) -> bool {
        self.provenance.lane == Some("realtime")
    }

    pub(crate) fn possibly_paid(&self) -> u64 {
        u64::from(self.provenance.possibly_paid_attempts)
    }
}

impl<'a> Entry<'a> {
    /// Reads a segment's line; the error is a fragment for a message that names file and line.
    pub(crate) fn parse(line: &'a [u8]) -> Result<Self, String> {
        let summary: Summary<'_> = serde_json::from_slice(line)
            .map_err(|error| format!("it is no outcome ({:?} error)", error.classify()))?;
        let check_row =
            |row| check(summary.v, row, "missing").map_err(|error| error.message().to_owned());
        match (summary.reopened, summary.lost) {
            (None, None) => {}
            (Some(row), None) => return check_row(row).map(|()| Self::Reopened { row }),
            (None, Some(row)) => {
                let chunk = summary.chunk;
                return check_row(row).map(|()| Self::Lost { row, chunk });
            }
            (Some(_), Some(_)) => return Err("it says two things at once".to_owned()),
        }
        let kinds = (summary.row, summary.intent, summary.withdrawn, summary.run);
        let entry = match kinds {
            (Some(row), None, None, None) => {
                check(summary.v, row, summary.status)
                    .map_err(|error| error.message().to_owned())?;
                Self::Outcome { row, summary }
            }
            (None, Some(row), None, None) => {
                check(summary.v, row, "missing").map_err(|error| error.message().to_owned())?;
                Self::Intent { row }
            }
            (None, None, Some(row), None) => {
                check(summary.v, row, "missing").map_err(|error| error.message().to_owned())?;
                Self::Withdrawn { row }
            }
            (None, None, None, Some(_)) => {
                check(summary.v, 0, "missing").map_err(|error| error.message().to_owned())?;
                Self::Run
            }
            _ => return Err("it is neither an outcome nor an intent".to_owned()),
        };
        Ok(entry)
    }
}

/// An error about a line that names it.
pub(crate) fn bad_line(path: &Path, line: u64, what: impl fmt::Display) -> Error {
    files::damaged(path, format!("line {line}: {what}"))
}

#[cfg(test)]
mod tests;
