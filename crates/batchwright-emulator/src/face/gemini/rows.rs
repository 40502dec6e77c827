//! Batch lines: what the creation refuses, and how results are written.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::body::{self, Asker, Prepared};
use super::error::ApiError;
use super::files::MAX_BYTES;
use super::{Gemini, NAME, models, proto, reply};
use crate::answer::tokens;
use crate::batch::{
    BadFile, BatchRecord, BatchRows, BatchState, Row, RowCharge, RowEnd, Scan, Unexecuted,
};
use crate::engine::Engine;
use crate::faults::{BatchFailure, ResultFile};
use crate::model::Model;
use crate::results::LineShape;
use crate::seed::id as seeded;
use crate::store::{FileRecord, remove_file};

impl LineShape for Gemini {
    fn id_key(&self) -> &'static str {
        "key"
    }

    fn hollow(&self, line: &mut Value) {
        if let Some(line) = line.as_object_mut() {
            line.remove("error");
            line.insert("response".to_owned(), json!({}));
        }
    }
}

impl BatchRows for Gemini {
    fn face(&self) -> &'static str {
        NAME
    }

    fn max_rows(&self) -> u64 {
        // No bound is documented.
        u64::MAX
    }

    fn max_bytes(&self) -> u64 {
        MAX_BYTES
    }

    fn bad_file(&self, why: BadFile) -> BatchFailure {
        let message = match why {
            BadFile::Missing => "The input file does not exist.",
            BadFile::Empty => "The input file is empty.",
            BadFile::TooManyRows | BadFile::TooLarge => "The input file is too large.",
        };
        BatchFailure::new("3", message)
    }

    fn too_many_tokens(&self, _model: &str, _limit: u64) -> BatchFailure {
        BatchFailure::new("8", "Too many tokens are enqueued for the model.")
    }

    fn check(&self, scan: &mut Scan<'_>, number: u64, line: &[u8]) -> Result<(), BatchFailure> {
        let line_len = line.len();
        let embeds = scan.batch.endpoint == "embed";
        if let Err(error) = read(line, embeds) {
            return Err(BatchFailure::new("3", error.message).at(number, None));
        }
        scan.model = model_of(scan.batch).map(|model| model.name);
        // Near enough for the limit of waiting tokens.
        scan.tokens += tokens(line_len);
        Ok(())
    }

    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd {
        let embeds = row.batch.endpoint == "embed";
        let read =
            read(line, embeds).expect("a line that passed the creation reads the same again");
        match prepare(row, embeds, &read.request) {
            Ok(prepared) => {
                let id = reply::response_id(row.seed(), row.nonce());
                let answer = reply::whole(&prepared, &id);
                write(read.head(), "response", answer, out);
                RowEnd::Answered(RowCharge {
                    custom_id: read.key.unwrap_or_default(),
                    request_id: id,
                    hash: prepared.hash,
                    model: prepared.model.dated,
                    usage: prepared.usage,
                    price_usd: prepared.price_usd(true),
                })
            }
            Err(error) => {
                write(read.head(), "error", error.row_object(), out);
                RowEnd::Failed
            }
        }
    }

    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>) {
        let head = head_of(row, line);
        write(head, "error", ApiError::of_status(status).row_object(), out);
    }

    fn unexecuted(&self, row: &Row<'_>, line: &[u8], why: Unexecuted, out: &mut Vec<u8>) {
        // Never shown: a batch that was cancelled or expired has no results.
        let error = match why {
            Unexecuted::Expired => ApiError::of_status(504),
            Unexecuted::Cancelled => ApiError::of_status(499),
        };
        write(head_of(row, line), "error", error.row_object(), out);
    }

    fn stage(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        at_ms: i64,
        to: &Path,
    ) -> io::Result<Result<(), BatchFailure>> {
        if batch.inline {
            return Ok(Ok(()));
        }
        let input = engine
            .files
            .get(&batch.face, &batch.key, &batch.input_file_id, at_ms);
        let Some(input) = input else {
            return Ok(Err(self.bad_file(BadFile::Missing)));
        };
        let from = engine.files.data_path(&input.id);
        // A copy onto a link would empty both.
        remove_file(to)?;
        if fs::hard_link(&from, to).is_err() {
            fs::copy(&from, to)?;
        }
        Ok(Ok(()))
    }

    fn one_file(&self, _engine: &Engine) -> bool {
        true
    }

    fn keeps_results(&self, end: BatchState) -> bool {
        end == BatchState::Completed
    }

    fn results_file(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        _which: ResultFile,
        mut file: FileRecord,
    ) -> FileRecord {
        let id = seeded("", engine.config.seed, 46, batch.sequence);
        // Longer than the endpoint of files takes (F-090).
        file.id = format!("batch-{id}{}", &id[..4]);
        file
    }
}

/// A line that is well formed.
struct Line {
    key: Option<String>,
    metadata: Value,
    request: Value,
}

impl Line {
    /// What the result's line begins with.
    fn head(&self) -> Map<String, Value> {
        let mut head = Map::new();
        if let Some(key) = &self.key {
            head.insert("key".to_owned(), Value::from(key.as_str()));
        }
        if !self.metadata.is_null() {
            head.insert("metadata".to_owned(), self.metadata.clone());
        }
        head
    }
}

fn read(line: &[u8], embeds: bool) -> Result<Line, ApiError> {
    let mut line = proto::read(line, &proto::LINE)?;
    let message = if embeds {
        &proto::EMBED
    } else {
        &proto::GENERATE
    };
    let request = line["request"].take();
    if request.is_null() {
        return Err(ApiError::invalid("A line has no request."));
    }
    Ok(Line {
        key: line["key"].as_str().map(str::to_owned),
        metadata: line["metadata"].take(),
        request: proto::check(request, message)?,
    })
}

fn head_of(row: &Row<'_>, line: &[u8]) -> Map<String, Value> {
    let embeds = row.batch.endpoint == "embed";
    read(line, embeds).map_or_else(|_| Map::new(), |line| line.head())
}

fn prepare(row: &Row<'_>, embeds: bool, request: &Value) -> Result<Prepared, ApiError> {
    let model = model_of(row.batch).ok_or_else(|| ApiError::of_status(404))?;
    if embeds {
        return body::embed(model, request);
    }
    let asker = Asker {
        engine: row.engine,
        key: &row.batch.key,
        now_ms: row.at.saturating_mul(1000),
    };
    body::generate(asker, model, request)
}

fn model_of(batch: &BatchRecord) -> Option<&'static Model> {
    models::find(batch.model.as_deref()?)
}

fn write(mut line: Map<String, Value>, name: &str, value: Value, out: &mut Vec<u8>) {
    line.insert(name.to_owned(), value);
    serde_json::to_writer(&mut *out, &line).expect("JSON serializes into memory");
    out.push(b'\n');
}
