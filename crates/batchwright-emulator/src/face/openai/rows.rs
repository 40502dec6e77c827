//! Batch lines: what validation refuses, and how results are written.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::{Endpoint, Prepared, Text, Ways, input_tokens, prepare};
use super::error::ApiError;
use super::reply::{Stamp, write};
use super::quirks::{Quirks, RowErrors, Shape};
use super::{Dialect, Family, Parameters, Part, jobs, shape};
use crate::batch::{stage_upload, BadFile, BatchRecord, BatchRows, Row, RowCharge, RowEnd, Scan, Unexecuted};
use crate::engine::Engine;
use crate::faults::{BatchFailure, ResultFile};
use crate::model::Model;
use crate::store::FileRecord;
use crate::results::LineShape;
use crate::seed::{hex_id, id};

/// Bounds of one batch.
const MAX_EMBEDDING_INPUTS: u64 = 50_000;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    custom_id: Text<'a>,
    #[serde(borrow)]
    method: Text<'a>,
    #[serde(borrow)]
    url: Text<'a>,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl<'a> Line<'a> {
    /// Reads a line that validation has read before.
    fn again(line: &'a [u8]) -> Self {
        serde_json::from_slice(line).expect("a line that passed validation reads the same again")
    }
}

/// The keys of a body that validation looks at.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    model: Text<'a>,
    #[serde(default)]
    stream: Option<bool>,
}

impl LineShape for Family {
    fn id_key(&self) -> &'static str {
        "custom_id"
    }

    fn hollow(&self, line: &mut Value) {
        line["response"] = json!({"status_code": 0, "request_id": "", "body": {}});
        line["error"] = Value::Null;
    }
}

impl BatchRows for Family {
    fn face(&self) -> &'static str {
        self.0.name
    }

    fn max_rows(&self) -> u64 {
        self.0.max_rows
    }

    fn max_bytes(&self) -> u64 {
        self.0.max_bytes
    }

    fn bad_file(&self, why: BadFile) -> BatchFailure {
        match why {
            BadFile::Missing => {
                let mut failure = BatchFailure::new(
                    "invalid_request",
                    "The input file does not exist or does not have the purpose 'batch'.",
                );
                failure.param = Some("file_id".to_owned());
                failure
            }
            BadFile::Empty => BatchFailure::new("empty_file", "The input file is empty."),
            BadFile::TooManyRows => BatchFailure::new(
                "too_many_tasks",
                format!(
                    "The batch input file has more than {} requests.",
                    self.0.max_rows
                ),
            ),
            BadFile::TooLarge => BatchFailure::new(
                "file_too_large",
                format!(
                    "The batch input file is larger than the {} bytes allowed for the model.",
                    self.0.max_bytes
                ),
            ),
        }
    }

    fn too_many_tokens(&self, model: &str, limit: u64) -> BatchFailure {
        BatchFailure::new(
            "token_limit_exceeded",
            format!(
                "Enqueued token limit reached for {model} in organization org-emulator. Limit: {} enqueued tokens. \
                 Please try again once some in_progress batches have been completed.",
                with_commas(limit)
            ),
        )
    }

    fn check(&self, scan: &mut Scan<'_>, number: u64, line: &[u8]) -> Result<(), BatchFailure> {
        let quirks = self.quirks(scan.engine);
        let seen = match self.look(&quirks, scan.batch, number, line) {
            Ok(seen) => seen,
            Err(failure) if self.0.bad_lines_are_rows => {
                scan.notes.push(failure);
                return Ok(());
            }
            Err(failure) => return Err(failure),
        };
        let mut hasher = DefaultHasher::new();
        seen.line.custom_id.0.hash(&mut hasher);
        if !scan.custom_ids.insert(hasher.finish()) && !jobs::is_job(scan.batch) {
            return Err(BatchFailure::new(
                "duplicate_custom_id",
                "The custom_id was used in an earlier line of this file.",
            )
            .at(number, Some("custom_id")));
        }
        let first = *scan.model.get_or_insert(seen.model.dated);
        if first != seen.model.dated && !self.0.mixed_models {
            return Err(BatchFailure::new(
                "mismatched_model",
                "All lines of a batch must name the same model.",
            )
            .at(number, Some("body.model")));
        }
        let body = seen.line.body.get().as_bytes();
        if let Some((tokens, inputs)) = input_tokens(seen.endpoint, body) {
            scan.tokens += tokens;
            scan.inputs += inputs;
            if seen.endpoint == Endpoint::Embeddings && scan.inputs > MAX_EMBEDDING_INPUTS {
                return Err(self.bad_file(BadFile::TooManyRows));
            }
        }
        Ok(())
    }

    fn stage(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        at_ms: i64,
        to: &Path,
    ) -> io::Result<Result<(), BatchFailure>> {
        if batch.inline || !jobs::is_job(batch) {
            return stage_upload(self, engine, batch, at_ms, to);
        }
        let found = jobs::stage(engine, batch, at_ms, to)?;
        Ok(if found {
            Ok(())
        } else {
            Err(self.bad_file(BadFile::Missing))
        })
    }

    fn check_end(&self, scan: &Scan<'_>, rows: u64) -> Result<(), BatchFailure> {
        let least = self.quirks(scan.engine).least_rows;
        if rows < least {
            return Err(BatchFailure::new(
                "too_few_tasks",
                format!("A batch has at least {least} requests, this one has {rows}."),
            ));
        }
        Ok(())
    }

    fn one_file(&self, engine: &Engine) -> bool {
        self.quirks(engine).one_results_file
    }

    fn makes_empty_files(&self, engine: &Engine) -> bool {
        self.quirks(engine).empty_results_files
    }

    fn results_file(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        which: ResultFile,
        mut file: FileRecord,
    ) -> FileRecord {
        file.id = match which {
            ResultFile::Error => id(self.0.file_id, engine.config.seed, 12, batch.sequence),
            ResultFile::Output | ResultFile::Both => output_file_id(self.0, engine, batch),
        };
        file
    }

    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd {
        let quirks = self.quirks(row.engine);
        let ways = Ways {
            dialect: self.0,
            quirks: &quirks,
        };
        if self.0.bad_lines_are_rows
            && let Err(failure) = self.look(&quirks, row.batch, row.index + 1, line)
        {
            let custom_id = custom_id(line);
            let error = json!({"code": failure.code, "message": failure.message});
            put(row, &custom_id, &Value::Null, &error, &quirks, out);
            return RowEnd::Failed;
        }
        let line = Line::again(line);
        let endpoint = self
            .0
            .endpoint(&row.batch.endpoint)
            .expect("only batches of endpoints that are served are created");
        let prepared = match prepare(ways, endpoint, line.body.get().as_bytes(), row.seed()) {
            Ok(prepared) => prepared,
            Err(error) => {
                self.failed(row, &line.custom_id.0, &error, out);
                return RowEnd::Failed;
            }
        };
        let stamp = stamp(row);
        let request_id = stamp.request_id();
        head(row, &line.custom_id.0, out);
        response_head(200, &request_id, out);
        write_shaped(ways, endpoint, &prepared, stamp, out);
        out.extend_from_slice(if quirks.row_errors == RowErrors::NoKey {
            TAIL_WITHOUT_ERROR
        } else {
            TAIL
        });
        RowEnd::Answered(RowCharge {
            custom_id: line.custom_id.0.into_owned(),
            request_id,
            hash: prepared.hash,
            model: prepared.model.dated,
            usage: prepared.usage,
            price_usd: prepared.model.price_usd(prepared.usage, true),
        })
    }

    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>) {
        self.failed(row, &custom_id(line), &ApiError::of_status(status), out);
    }

    fn unexecuted(&self, row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>) {
        let (code, message) = match why {
            Unexecuted::Expired => (
                "batch_expired",
                "This request could not be executed before the completion window expired.",
            ),
            Unexecuted::Cancelled => (
                "batch_cancelled",
                "This request was not executed because the batch was cancelled.",
            ),
        };
        let error = json!({"code": code, "message": message});
        let quirks = self.quirks(row.engine);
        put(row, &custom_id(line), &Value::Null, &error, &quirks, out);
    }
}

/// A line that passed validation.
struct Seen<'a> {
    line: Line<'a>,
    endpoint: Endpoint,
    model: &'static Model,
}

impl Family {
    /// Looks at one line by itself.
    fn look<'a>(
        &self,
        quirks: &Quirks,
        batch: &BatchRecord,
        number: u64,
        text: &'a [u8],
    ) -> Result<Seen<'a>, BatchFailure> {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(text) else {
            return Err(bad_line(number, text));
        };
        let fail = |code: &str, message: &str, param: &str| {
            Err(BatchFailure::new(code, message).at(number, Some(param)))
        };
        if line.method.0 != "POST" {
            return fail("invalid_method", "The method must be POST.", "method");
        }
        let wanted = self.0.endpoint(&batch.endpoint);
        let exact = matches!(self.0.parameters, Parameters::OpenAi);
        let named = self
            .0
            .endpoint(&line.url.0)
            .filter(|_| !exact || line.url.0 == batch.endpoint);
        let Some(endpoint) = named.filter(|named| Some(*named) == wanted) else {
            return fail(
                "invalid_url",
                "The url of the line differs from the endpoint of the batch.",
                "url",
            );
        };
        let Ok(head) = serde_json::from_str::<Head<'_>>(line.body.get()) else {
            return Err(bad_head(number, line.body));
        };
        if head.stream == Some(true) {
            return fail(
                "streaming_unsupported",
                "Streaming is not supported in a batch.",
                "body.stream",
            );
        }
        let model = self
            .0
            .model_for(quirks, &head.model.0)
            .filter(|model| endpoint.serves(model));
        let Some(model) = model else {
            return fail(
                "model_not_found",
                &format!(
                    "The provided model '{}' is not supported by the Batch API.",
                    head.model.0
                ),
                "body.model",
            );
        };
        Ok(Seen {
            line,
            endpoint,
            model,
        })
    }

    fn failed(&self, row: &Row<'_>, custom_id: &str, error: &ApiError, out: &mut Vec<u8>) {
        let quirks = self.quirks(row.engine);
        let request_id = stamp(row).request_id();
        if quirks.shape == Shape::Together || quirks.row_errors == RowErrors::Text {
            let code = if error.status < 500 {
                "batch_client_error"
            } else {
                "batch_server_error"
            };
            let error = json!({"code": code, "message": error.message});
            return put(row, custom_id, &Value::Null, &error, &quirks, out);
        }
        let mut body = error.body(quirks.errors);
        if quirks.row_errors == RowErrors::TextBody {
            body = Value::from(body.to_string());
        }
        let response = json!({"status_code": error.status, "request_id": request_id, "body": body});
        put(row, custom_id, &response, &Value::Null, &quirks, out);
    }
}

/// The id of a batch's output file: the same whenever it is asked for.
pub(super) fn output_file_id(dialect: &Dialect, engine: &Engine, batch: &BatchRecord) -> String {
    match dialect.output_suffix {
        Some(suffix) => format!("{}{suffix}", batch.input_file_id),
        None => id(dialect.file_id, engine.config.seed, 11, batch.sequence),
    }
}

/// Appends an answer as this server gives it.
pub(super) fn write_shaped(
    ways: Ways<'_>,
    endpoint: Endpoint,
    prepared: &Prepared,
    stamp: Stamp,
    out: &mut Vec<u8>,
) {
    let Ways { dialect, quirks } = ways;
    if dialect.finish.is_none() && *quirks == Quirks::none() {
        return write(endpoint, prepared, stamp, out);
    }
    let mut plain = Vec::with_capacity(1024);
    write(endpoint, prepared, stamp, &mut plain);
    let mut answer: Value =
        serde_json::from_slice(&plain).expect("an answer just written is valid JSON");
    if endpoint == Endpoint::Chat {
        shape::answer(quirks, prepared.usage.reasoning, &mut answer);
        if let Some(finish) = dialect.finish {
            let id = stamp.request_id();
            finish(Part::Answer { id: &id }, &mut answer);
        }
    }
    serde_json::to_writer(out, &answer).expect("JSON serializes into memory");
}

/// The id of a line, or nothing where it has none.
fn custom_id(line: &[u8]) -> String {
    #[derive(Deserialize)]
    struct OfLine<'a> {
        #[serde(borrow)]
        custom_id: Text<'a>,
    }
    serde_json::from_slice::<OfLine<'_>>(line)
        .map(|line| line.custom_id.0.into_owned())
        .unwrap_or_default()
}

/// Appends the line of a row that was not answered.
fn put(
    row: &Row<'_>,
    custom_id: &str,
    response: &Value,
    error: &Value,
    quirks: &Quirks,
    out: &mut Vec<u8>,
) {
    head(row, custom_id, out);
    let keeps_response = quirks.shape != Shape::Together || !response.is_null();
    if keeps_response {
        write!(out, r#","response":{response}"#).expect("memory takes every write");
    }
    let text = quirks.row_errors == RowErrors::Text;
    match error.get("message").filter(|_| text) {
        Some(message) => write!(out, r#","error":{message}"#).expect("memory takes every write"),
        None if error.is_null() && quirks.row_errors == RowErrors::NoKey => {}
        None => write!(out, r#","error":{error}"#).expect("memory takes every write"),
    }
    out.extend_from_slice(b"}\n");
}

/// What follows the body of an executed row's line.
const TAIL: &[u8] = b"},\"error\":null}\n";
/// The same where good rows have no key for an error.
const TAIL_WITHOUT_ERROR: &[u8] = b"}}\n";

fn stamp(row: &Row<'_>) -> Stamp {
    Stamp {
        seed: row.seed(),
        nonce: row.nonce(),
        lane: 1,
        created: row.at,
    }
}

fn response_head(status: u16, request_id: &str, out: &mut Vec<u8>) {
    write!(
        out,
        r#","response":{{"status_code":{status},"request_id":"{request_id}","body":"#
    )
    .expect("memory takes every write");
}

fn head(row: &Row<'_>, custom_id: &str, out: &mut Vec<u8>) {
    let id = hex_id(row.seed(), 41, row.nonce());
    out.extend_from_slice(br#"{"id":"batch_req_"#);
    out.extend_from_slice(&id);
    out.extend_from_slice(br#"","custom_id":"#);
    serde_json::to_writer(&mut *out, custom_id).expect("a text serializes into memory");
}

/// Why a line is none: no JSON object, or a key missing or of the wrong type.
fn bad_line(number: u64, line: &[u8]) -> BatchFailure {
    let parsed: Option<Map<String, Value>> = serde_json::from_slice(line).ok();
    let Some(parsed) = parsed else {
        return BatchFailure::new(
            "invalid_json_line",
            "This line is not parseable as valid JSON.",
        )
        .at(number, None);
    };
    let fault = ["custom_id", "method", "url", "body"]
        .into_iter()
        .find(|key| match parsed.get(*key) {
            Some(Value::String(_)) => false,
            Some(Value::Object(_)) => *key != "body",
            _ => true,
        })
        .unwrap_or("custom_id");
    BatchFailure::new(
        "missing_required_parameter",
        format!("Missing required parameter: '{fault}'."),
    )
    .at(number, Some(fault))
}

/// Why a body has no readable model.
fn bad_head(number: u64, body: &RawValue) -> BatchFailure {
    let parsed: Option<Map<String, Value>> = serde_json::from_str(body.get()).ok();
    match parsed {
        None => BatchFailure::new(
            "missing_required_parameter",
            "Missing required parameter: 'body'.",
        )
        .at(number, Some("body")),
        Some(body) if body.get("model").is_some_and(Value::is_string) => BatchFailure::new(
            "invalid_request",
            "Invalid type for 'stream': expected a boolean.",
        )
        .at(number, Some("body.stream")),
        Some(_) => BatchFailure::new(
            "invalid_request",
            "You must provide a model parameter in the body.",
        )
        .at(number, Some("body.model")),
    }
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_with_commas() {
        for (number, text) in [(7, "7"), (1_000, "1,000"), (2_000_000, "2,000,000")] {
            assert_eq!(with_commas(number), text);
        }
    }
}
