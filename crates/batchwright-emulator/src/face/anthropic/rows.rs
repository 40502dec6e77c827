//! Batch lines: how results are written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::batches::{RESULTS_LIVE_MS, results_id};
use super::body::{Asking, Way, prepare};
use super::error::ApiError;
use super::options::{RowRequestIds, Settings};
use super::reply::{Stamp, message};
use super::{Anthropic, NAME, Version};
use crate::batch::{
    BadFile, BatchRecord, BatchRows, Row, RowCharge, RowEnd, RowUsage, Scan, Unexecuted,
};
use crate::engine::Engine;
use crate::faults::{BatchFailure, ResultFile};
use crate::results::LineShape;
use crate::store::FileRecord;

/// Most requests of a batch.
pub(super) const MAX_ROWS: u64 = 100_000;
/// Most bytes of a body that creates a batch.
pub(super) const MAX_BYTES: u64 = 256 << 20;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    custom_id: Cow<'a, str>,
    #[serde(borrow)]
    params: &'a RawValue,
}

impl<'a> Line<'a> {
    /// Reads a line that the creation wrote.
    fn again(line: &'a [u8]) -> Self {
        serde_json::from_slice(line).expect("the creation wrote the line in this form")
    }
}

impl LineShape for Anthropic {
    fn id_key(&self) -> &'static str {
        "custom_id"
    }

    fn hollow(&self, line: &mut Value) {
        line["result"] = json!({"type": "succeeded", "message": {}});
    }
}

impl BatchRows for Anthropic {
    fn face(&self) -> &'static str {
        NAME
    }

    fn max_rows(&self) -> u64 {
        MAX_ROWS
    }

    fn max_bytes(&self) -> u64 {
        MAX_BYTES
    }

    // A batch is validated at its creation and starts in progress, so these four are not asked for.

    fn bad_file(&self, _why: BadFile) -> BatchFailure {
        BatchFailure::new("invalid_request_error", "The batch cannot be read.")
    }

    fn too_many_tokens(&self, _model: &str, _limit: u64) -> BatchFailure {
        BatchFailure::new("rate_limit_error", "Too many tokens are waiting.")
    }

    fn check(&self, _scan: &mut Scan<'_>, _number: u64, _line: &[u8]) -> Result<(), BatchFailure> {
        Ok(())
    }

    fn one_file(&self, _engine: &Engine) -> bool {
        true
    }

    fn results_file(
        &self,
        _engine: &Engine,
        batch: &BatchRecord,
        _which: ResultFile,
        mut file: FileRecord,
    ) -> FileRecord {
        file.id = results_id(&batch.id);
        // From the creation of the batch, not of the results.
        file.expires_ms = Some(batch.created_ms.saturating_add(RESULTS_LIVE_MS));
        file
    }

    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd {
        let line = Line::again(line);
        let asking = Asking {
            engine: row.engine,
            key: &row.batch.key,
            version: Version::of_batch(row.batch),
            way: Way::Batch {
                long: row.batch.extra["long"] == true,
            },
            now_ms: row.at.saturating_mul(1000),
        };
        let prepared = match prepare(asking, line.params.get().as_bytes()) {
            Ok(prepared) => prepared,
            Err(error) => {
                errored(row, &line.custom_id, &error, out);
                return RowEnd::Failed;
            }
        };
        let stamp = stamp(row);
        let message = message(&prepared, stamp);
        put(
            &line.custom_id,
            &json!({"type": "succeeded", "message": message}),
            out,
        );
        let usage = &prepared.usage;
        RowEnd::Answered(RowCharge {
            custom_id: line.custom_id.into_owned(),
            request_id: stamp.id("req_011C", 53),
            hash: prepared.hash,
            model: prepared.facts.model.dated,
            usage: RowUsage {
                input: usage.prompt(),
                cached: usage.cache.read,
                output: usage.output,
                reasoning: usage.thinking,
            },
            price_usd: usage.price_usd(prepared.facts, true),
        })
    }

    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>) {
        let line = Line::again(line);
        errored(row, &line.custom_id, &ApiError::of_status(status), out);
    }

    fn unexecuted(&self, _row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>) {
        let kind = match why {
            Unexecuted::Expired => "expired",
            Unexecuted::Cancelled => "canceled",
        };
        put(&Line::again(line).custom_id, &json!({"type": kind}), out);
    }
}

fn stamp(row: &Row<'_>) -> Stamp {
    Stamp {
        seed: row.seed(),
        nonce: row.nonce(),
        batch: true,
    }
}

/// Appends the line of a row that failed: the whole error envelope within the result.
fn errored(row: &Row<'_>, custom_id: &str, error: &ApiError, out: &mut Vec<u8>) {
    let request_id = stamp(row).id("workerreq_", 54);
    let mut envelope = error.body(&request_id);
    envelope["error"]["details"] = json!({"error_visibility": "user_facing"});
    let options = row.engine.state::<Settings>().get();
    match options.row_request_ids {
        RowRequestIds::Worker => {}
        RowRequestIds::Null => envelope["request_id"] = Value::Null,
        RowRequestIds::Absent => {
            if let Some(fields) = envelope.as_object_mut() {
                fields.remove("request_id");
            }
        }
    }
    put(
        custom_id,
        &json!({"type": "errored", "error": envelope}),
        out,
    );
}

fn put(custom_id: &str, result: &Value, out: &mut Vec<u8>) {
    let line = json!({"custom_id": custom_id, "result": result});
    serde_json::to_writer(&mut *out, &line).expect("JSON serializes into memory");
    out.push(b'\n');
}
