//! Batch lines: what validation refuses, and how results are written.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::Write as _;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::body::{Endpoint, Text, input_tokens, prepare};
use super::error::ApiError;
use super::reply::{Stamp, write};
use super::Family;
use crate::batch::{BadFile, BatchRows, Row, RowCharge, RowEnd, Scan, Unexecuted};
use crate::faults::BatchFailure;
use crate::results::LineShape;
use crate::seed::hex_id;

/// Bounds of one batch.
const MAX_ROWS: u64 = 50_000;
const MAX_BYTES: u64 = 209_715_200;
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
        MAX_ROWS
    }

    fn max_bytes(&self) -> u64 {
        MAX_BYTES
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
                format!("The batch input file has more than {MAX_ROWS} requests."),
            ),
            BadFile::TooLarge => BatchFailure::new(
                "file_too_large",
                format!(
                    "The batch input file is larger than the {MAX_BYTES} bytes allowed for the model."
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
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else {
            return Err(bad_line(number, line));
        };
        let fail = |code: &str, message: &str, param: &str| {
            Err(BatchFailure::new(code, message).at(number, Some(param)))
        };
        let mut hasher = DefaultHasher::new();
        line.custom_id.0.hash(&mut hasher);
        if !scan.custom_ids.insert(hasher.finish()) {
            return fail(
                "duplicate_custom_id",
                "The custom_id was used in an earlier line of this file.",
                "custom_id",
            );
        }
        if line.method.0 != "POST" {
            return fail("invalid_method", "The method must be POST.", "method");
        }
        if line.url.0 != scan.batch.endpoint {
            return fail(
                "invalid_url",
                "The url of the line differs from the endpoint of the batch.",
                "url",
            );
        }
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
        let endpoint = Endpoint::of_url(&scan.batch.endpoint);
        let model = self
            .0
            .model(&head.model.0)
            .filter(|model| endpoint.is_some_and(|endpoint| endpoint.serves(model)));
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
        if *scan.model.get_or_insert(model.dated) != model.dated {
            return fail(
                "mismatched_model",
                "All lines of a batch must name the same model.",
                "body.model",
            );
        }
        if let Some(endpoint) = endpoint
            && let Some((tokens, inputs)) = input_tokens(endpoint, line.body.get().as_bytes())
        {
            scan.tokens += tokens;
            scan.inputs += inputs;
            if endpoint == Endpoint::Embeddings && scan.inputs > MAX_EMBEDDING_INPUTS {
                return Err(self.bad_file(BadFile::TooManyRows));
            }
        }
        Ok(())
    }

    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd {
        let line = Line::again(line);
        let endpoint = Endpoint::of_url(&row.batch.endpoint)
            .expect("only batches of endpoints that are served are created");
        let prepared = match prepare(self.0, endpoint, line.body.get().as_bytes(), row.seed()) {
            Ok(prepared) => prepared,
            Err(error) => {
                failed(row, &line, &error, out);
                return RowEnd::Failed;
            }
        };
        let stamp = stamp(row);
        let request_id = stamp.request_id();
        head(row, &line.custom_id.0, out);
        response_head(200, &request_id, out);
        write(endpoint, &prepared, stamp, out);
        out.extend_from_slice(TAIL);
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
        failed(row, &Line::again(line), &ApiError::of_status(status), out);
    }

    fn unexecuted(&self, row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>) {
        let custom_id = Line::again(line).custom_id.0;
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
        head(row, &custom_id, out);
        writeln!(
            out,
            r#","response":null,"error":{{"code":"{code}","message":"{message}"}}}}"#
        )
        .expect("memory takes every write");
    }
}

/// What follows the body of an executed row's line.
const TAIL: &[u8] = b"},\"error\":null}\n";

fn stamp(row: &Row<'_>) -> Stamp {
    Stamp {
        seed: row.seed(),
        nonce: row.nonce(),
        lane: 1,
        created: row.at,
    }
}

fn failed(row: &Row<'_>, line: &Line<'_>, error: &ApiError, out: &mut Vec<u8>) {
    head(row, &line.custom_id.0, out);
    response_head(error.status, &stamp(row).request_id(), out);
    error.write(out);
    out.extend_from_slice(TAIL);
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
