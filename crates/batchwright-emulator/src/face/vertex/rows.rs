//! The rows of jobs: where they come from, what fails a job, and where results go.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::body::prepare;
use super::error::ApiError;
use super::options::Settings;
use super::reply::{Stamp, whole};
use super::{NAME, Vertex, import, jobs, models, storage, tables};
use crate::batch::{
    BadFile, BatchRecord, BatchRows, BatchState, Row, RowCharge, RowEnd, Scan, Unexecuted,
};
use crate::clock::rfc3339;
use crate::engine::Engine;
use crate::faults::{BatchFailure, ResultFile};
use crate::results::LineShape;
use crate::store::FileRecord;

/// Rows and bytes of one job.
const MAX_ROWS: u64 = 200_000;
const MAX_BYTES: u64 = 1 << 30;

/// gRPC codes of failed jobs.
const INVALID: &str = "3";
const PRECONDITION: &str = "9";

impl LineShape for Vertex {
    fn id_key(&self) -> &'static str {
        "custom_id"
    }

    fn hollow(&self, line: &mut Value) {
        line["response"] = json!({});
        line["status"] = json!("");
    }
}

fn import_failed(message: impl std::fmt::Display) -> BatchFailure {
    BatchFailure::new(INVALID, format!("Failed to import data. {message}"))
}

impl BatchRows for Vertex {
    fn face(&self) -> &'static str {
        NAME
    }

    fn max_rows(&self) -> u64 {
        MAX_ROWS
    }

    fn max_bytes(&self) -> u64 {
        MAX_BYTES
    }

    fn bad_file(&self, why: BadFile) -> BatchFailure {
        match why {
            BadFile::Missing => import_failed("Not found: the input does not exist."),
            BadFile::Empty => import_failed("The input has no rows."),
            BadFile::TooManyRows => import_failed(format!("More than {MAX_ROWS} requests.")),
            BadFile::TooLarge => import_failed(format!("More than {MAX_BYTES} bytes.")),
        }
    }

    fn too_many_tokens(&self, model: &str, _limit: u64) -> BatchFailure {
        BatchFailure::new(
            "8",
            format!("Resource exhausted for {model}, please try again later."),
        )
    }

    fn stage(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        at_ms: i64,
        to: &Path,
    ) -> io::Result<Result<(), BatchFailure>> {
        let options = engine.state::<Settings>().get();
        let job = jobs::Config::of(batch);
        for bucket in job.buckets() {
            let Some(location) = options.bucket(bucket) else {
                let message = format!(
                    "Failed to get GCS bucket location for {bucket}: The specified bucket does not exist."
                );
                return Ok(Err(BatchFailure::new(PRECONDITION, message)));
            };
            let same = location.eq_ignore_ascii_case(&job.location);
            if options.buckets_in_region && !same && job.location != "global" {
                let message = format!(
                    "The bucket {bucket} is in {location}, and the job is in {}.",
                    job.location
                );
                return Ok(Err(BatchFailure::new(PRECONDITION, message)));
            }
        }
        for (project, dataset) in job.datasets() {
            let location = options.dataset(project, dataset);
            if location.is_none_or(|location| !location.eq_ignore_ascii_case(&job.location)) {
                let message = format!(
                    "Not found: Dataset {project}:{dataset} in location {}.",
                    job.location
                );
                return Ok(Err(BatchFailure::new(INVALID, message)));
            }
        }
        let inputs: Vec<_> = match &job.table {
            Some(uri) => tables::find(engine, uri, at_ms).into_iter().collect(),
            None => job
                .uris
                .iter()
                .flat_map(|uri| match uri.strip_suffix('*') {
                    Some(prefix) => storage::all(engine, prefix, at_ms),
                    None => storage::find(engine, uri, at_ms).into_iter().collect(),
                })
                .collect(),
        };
        if inputs.is_empty() {
            return Ok(Err(self.bad_file(BadFile::Missing)));
        }
        if inputs.iter().map(|file| file.bytes).sum::<u64>() > MAX_BYTES {
            return Ok(Err(self.bad_file(BadFile::TooLarge)));
        }
        crate::store::remove_file(to)?;
        if let [one] = &inputs[..]
            && fs::hard_link(engine.files.data_path(&one.id), to).is_ok()
        {
            return Ok(Ok(()));
        }
        let mut whole = BufWriter::new(File::create(to)?);
        for input in &inputs {
            let bytes = fs::read(engine.files.data_path(&input.id))?;
            whole.write_all(&bytes)?;
            if bytes.last().is_some_and(|last| *last != b'\n') {
                whole.write_all(b"\n")?;
            }
        }
        whole.flush()?;
        Ok(Ok(()))
    }

    fn check(&self, scan: &mut Scan<'_>, number: u64, line: &[u8]) -> Result<(), BatchFailure> {
        let job = jobs::Config::of(scan.batch);
        let bad = |what: &str| import_failed(format!("Row {number}: {what}")).at(number, None);
        let parsed: Value = serde_json::from_slice(line).map_err(|_| bad("it is not JSON."))?;
        if job.table.is_none() {
            import::check(scan.engine, &scan.batch.id, number, &parsed)
                .map_err(|what| bad(&what))?;
        }
        let Some(request) = parsed.as_object().and_then(request) else {
            return Err(bad("it has no request."));
        };
        let model = models::find(&job.model).ok_or_else(|| bad("its model does not exist."))?;
        scan.model = Some(model.dated);
        // What else is wrong with a request fails its row alone.
        scan.tokens += super::body::count(&request).unwrap_or(0);
        Ok(())
    }

    fn check_end(&self, scan: &Scan<'_>, _rows: u64) -> Result<(), BatchFailure> {
        import::done(scan.engine, &scan.batch.id);
        Ok(())
    }

    fn answer(&self, row: &Row<'_>, line: &[u8], out: &mut Vec<u8>) -> RowEnd {
        let job = jobs::Config::of(row.batch);
        let fields = fields(line);
        let prepared = models::find(&job.model)
            .ok_or_else(|| models::missing(&job.model))
            .and_then(|model| {
                let request = request(&fields).unwrap_or_default();
                if super::body::field(&request, "cachedContent").is_some() {
                    return Err(ApiError::invalid(
                        "Explicit context caching is not supported in batch prediction.",
                    ));
                }
                prepare(model, &request, row.seed())
            });
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                failed(row, &fields, &error, out);
                return RowEnd::Failed;
            }
        };
        let stamp = Stamp {
            seed: row.seed(),
            nonce: row.nonce(),
            lane: 1,
            at_ms: row.at * 1000,
        };
        put(row, &fields, "", whole(&prepared, stamp), out);
        RowEnd::Answered(RowCharge {
            custom_id: custom_id(&fields),
            request_id: stamp.response_id(),
            hash: prepared.hash,
            model: prepared.model.dated,
            usage: prepared.usage,
            price_usd: models::price_usd(prepared.model, prepared.usage, true),
        })
    }

    fn fail(&self, row: &Row<'_>, line: &[u8], status: u16, out: &mut Vec<u8>) {
        failed(row, &fields(line), &ApiError::of_status(status), out);
    }

    /// Rows that were never executed are not among the results.
    fn unexecuted(&self, _row: &Row<'_>, _line: &[u8], _why: Unexecuted, _out: &mut Vec<u8>) {}

    fn one_file(&self, _engine: &Engine) -> bool {
        true
    }

    fn makes_empty_files(&self, _engine: &Engine) -> bool {
        false
    }

    fn keeps_results(&self, end: BatchState) -> bool {
        end != BatchState::Failed
    }

    fn results_file(
        &self,
        engine: &Engine,
        batch: &BatchRecord,
        which: ResultFile,
        mut file: FileRecord,
    ) -> FileRecord {
        if which == ResultFile::Error {
            return file;
        }
        let job = jobs::Config::of(batch);
        let (sequence, at_ms) = (file.sequence, file.created_ms);
        if let Some(table) = job.output_table(batch) {
            let columns = tables::output_columns(engine, &job, at_ms);
            return tables::record(table, &columns, file.bytes, sequence, at_ms);
        }
        let folder = job.output_folder(batch).unwrap_or_default();
        let scratch = engine.files.scratch_path(sequence);
        let shards = engine.state::<Settings>().get().shards;
        let dealt = decoys(engine, &folder, at_ms)
            .and_then(|()| deal(engine, &folder, &scratch, shards, at_ms));
        match dealt {
            Ok((name, bytes)) => {
                file = storage::record(format!("{folder}/{name}"), JSONL, bytes, sequence, at_ms);
            }
            Err(error) => tracing::error!(%error, "could not write a job's results"),
        }
        file
    }
}

const JSONL: &str = "application/octet-stream";

/// Objects beside the results that are none.
fn decoys(engine: &Engine, folder: &str, at_ms: i64) -> io::Result<()> {
    let half = br#"{"custom_id":"half","status":"","request":{"#;
    for (name, bytes) in [
        ("incremental_predictions.jsonl", &half[..]),
        ("predictions.jsonl.metadata", b"{}"),
        ("row_count.json", b"{\"rows\":0}"),
    ] {
        storage::put(engine, format!("{folder}/{name}"), JSONL, bytes, at_ms)?;
    }
    Ok(())
}

/// Deals the lines out to several objects, the first of which stays at `scratch`; gives its name and length.
fn deal(
    engine: &Engine,
    folder: &str,
    scratch: &Path,
    shards: usize,
    at_ms: i64,
) -> io::Result<(String, u64)> {
    if shards <= 1 {
        return Ok(("predictions.jsonl".to_owned(), fs::metadata(scratch)?.len()));
    }
    let name = |shard: usize| format!("predictions.jsonl-{shard:05}-of-{shards:05}");
    let parts: Vec<_> = (0..shards)
        .map(|_| engine.sequence.next())
        .map(|sequence| (sequence, engine.files.scratch_path(sequence)))
        .collect();
    let mut files = Vec::with_capacity(shards);
    for (_, path) in &parts {
        files.push(BufWriter::new(File::create(path)?));
    }
    let mut lines = BufReader::new(File::open(scratch)?);
    let mut line = Vec::new();
    let mut turn = 0;
    while lines.read_until(b'\n', &mut line)? > 0 {
        files[turn % shards].write_all(&line)?;
        turn += 1;
        line.clear();
    }
    for file in &mut files {
        file.flush()?;
    }
    drop(files);
    for (shard, (sequence, path)) in parts.iter().enumerate().skip(1) {
        let bytes = fs::metadata(path)?.len();
        let uri = format!("{folder}/{}", name(shard));
        let record = storage::record(uri, JSONL, bytes, *sequence, at_ms);
        engine.files.insert(record, path)?;
    }
    let (_, first) = &parts[0];
    fs::rename(first, scratch)?;
    Ok((name(0), fs::metadata(scratch)?.len()))
}

/// The fields of a line; of one that is none, nothing.
fn fields(line: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(line) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The request of a line: an object, or in a table also a text that holds one.
fn request(fields: &Map<String, Value>) -> Option<Map<String, Value>> {
    match fields.get("request")? {
        Value::Object(request) => Some(request.clone()),
        Value::String(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}

fn custom_id(fields: &Map<String, Value>) -> String {
    let id = fields.get("custom_id").or_else(|| fields.get("key"));
    match id {
        Some(Value::String(id)) => id.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn failed(row: &Row<'_>, fields: &Map<String, Value>, error: &ApiError, out: &mut Vec<u8>) {
    let phrase = match error.status {
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        500.. => "Internal Server Error",
        _ => "Error",
    };
    let status = format!("{phrase}: {}", error.body());
    put(row, fields, &status, json!({}), out);
}

/// Appends a result line: the input's further fields, the request with nulls put in, and how it ended.
fn put(
    row: &Row<'_>,
    fields: &Map<String, Value>,
    status: &str,
    response: Value,
    out: &mut Vec<u8>,
) {
    let options = row.engine.state::<Settings>().get();
    let from_table = jobs::Config::of(row.batch).table.is_some();
    let mut line = Map::new();
    for (name, value) in fields {
        let echoed = match name.as_str() {
            "request" => echo(value),
            // A table's columns keep their types.
            _ if from_table => value.clone(),
            _ if !options.echo => continue,
            _ if options.retype => import::retyped(value),
            _ => value.clone(),
        };
        line.insert(name.clone(), echoed);
    }
    line.insert("status".to_owned(), json!(status));
    line.insert("processed_time".to_owned(), json!(rfc3339(row.at * 1000)));
    line.insert("response".to_owned(), response);
    serde_json::to_writer(&mut *out, &line).expect("JSON serializes into memory");
    out.push(b'\n');
}

/// A request as it comes back: written anew, with nulls where parts have nothing.
fn echo(request: &Value) -> Value {
    let mut request = request.clone();
    let contents = request.get_mut("contents").and_then(Value::as_array_mut);
    for content in contents.into_iter().flatten() {
        let parts = content.get_mut("parts").and_then(Value::as_array_mut);
        for part in parts.into_iter().flatten().filter_map(Value::as_object_mut) {
            for name in ["fileData", "inlineData", "text"] {
                part.entry(name).or_insert(Value::Null);
            }
        }
    }
    request
}
