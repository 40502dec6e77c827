//! Result lines back to their rows: as a job does it, by structs that borrow, and by where the lines are.

use crate::{
    JOB, OUT,
    lines::{CHUNK_ROWS, IDS, MODEL, custom_id, each_line, prefix, result_files},
    stub::Stub,
};
use anyhow::{Context as _, Result, ensure};
use batchwright_core::{BatchHandle, InputRef, PriceTable, Timestamp, WireId};
use batchwright_ledger::{Ledger, OutcomeRecord, RowSet};
use batchwright_pipeline::{Sink, SinkOptions};
use batchwright_router::{Join, Joined, Origin};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

/// Chunks whose results are there, with lines as short as they may be.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let ledger = Ledger::open(&folder.join(JOB))?;
    let ids = BufReader::new(File::open(folder.join(IDS))?)
        .lines()
        .count() as u64;
    for (chunk, _) in result_files(folder) {
        let prefix = prefix(chunk);
        let mut writer = ledger.chunk_writer(chunk, prefix)?;
        let first = u64::from(chunk - 1) * CHUNK_ROWS;
        for row in first..(first + CHUNK_ROWS).min(ids) {
            let line = format!("{{\"custom_id\":\"{}\"}}", WireId::new(prefix, row));
            writer.push(row, &custom_id(row), line.as_bytes())?;
        }
        let now = Timestamp::from(SystemTime::now());
        writer.seal("openai", "/v1/chat/completions", MODEL, now)?;
    }
    Ok(())
}

/// What a merge does with the files of each chunk, one after another; `ordered` writes the results file too.
pub(crate) fn ours(folder: &Path, ordered: bool) -> Result<u64> {
    let ledger = Ledger::open(&folder.join(JOB))?;
    let provider = Stub::new()?;
    let log = ledger.outcome_log()?;
    let given = Mutex::new(RowSet::new());
    let prices = Arc::new(PriceTable::builtin());
    let (mut bytes, mut rows) = (0, 0);
    for (chunk, path) in result_files(folder) {
        let ids = ledger.chunk_rows(chunk)?.load()?;
        let handle = BatchHandle::new("openai", format!("batch-{chunk}"), InputRef("file".into()));
        let origin = Origin::new("openai", MODEL, Arc::clone(&prices)).bought(&handle, 1);
        let mut join = Join::new(&provider, prefix(chunk), ids.rows(), &origin);
        let mut bulk = log.bulk();
        let mut record = Vec::new();
        bytes += each_line(&path, |line| {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let Joined::Row(row, outcome) = join.line(line) else {
                anyhow::bail!("the line is no row's");
            };
            if given.lock().expect("nobody panics with it").insert(row) {
                record.clear();
                let id = ids.get(row).unwrap_or_default();
                OutcomeRecord::write(row, id, &outcome, false, &mut record);
                bulk.push(&record)?;
            }
            Ok(())
        })?;
        bulk.finish()?;
        ensure!(join.is_complete(), "a row has no line");
        rows += join.settled();
    }
    if ordered {
        let mut sink = Sink::create(
            &folder.join(OUT).join("results.jsonl"),
            &SinkOptions::default(),
        )?;
        ledger.index()?.for_each_in_order(|_, line| {
            rows -= 1;
            sink.write(None, &OutcomeRecord::parse(line)?)
        })?;
        sink.finish()?;
        ensure!(rows == 0, "{rows} rows have no result");
    }
    Ok(bytes)
}

#[derive(Deserialize)]
struct ResultLine<'a> {
    custom_id: &'a str,
    #[serde(borrow)]
    response: Reply<'a>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    status_code: u16,
    request_id: &'a str,
    #[serde(borrow)]
    body: Body<'a>,
}

#[derive(Deserialize)]
struct Body<'a> {
    model: &'a str,
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    usage: Usage,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Message<'a>,
    finish_reason: &'a str,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
}

#[derive(Deserialize, Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
    total_tokens: u64,
}

#[derive(Serialize)]
struct Out<'a> {
    row: u64,
    custom_id: &'a str,
    status: u16,
    output: &'a RawValue,
    finish_reason: &'a str,
    usage: Usage,
    model: &'a str,
    request_id: &'a str,
}

/// The rows and the callers' ids, by wire id.
fn ids(folder: &Path) -> Result<HashMap<String, (u64, String)>> {
    let mut ids = HashMap::new();
    for line in BufReader::new(File::open(folder.join(IDS))?).lines() {
        let line = line?;
        let mut fields = line.split('\t');
        let mut field = || fields.next().context("find a field");
        let (wire_id, row, custom_id) = (field()?, field()?, field()?);
        ids.insert(wire_id.to_owned(), (row.parse()?, custom_id.to_owned()));
    }
    Ok(ids)
}

/// Writes a line for each result in the order they come.
pub(crate) fn typed(folder: &Path) -> Result<u64> {
    let ids = ids(folder)?;
    let path = folder.join(OUT).join("results.jsonl");
    let mut out = BufWriter::with_capacity(256 * 1024, File::create(path)?);
    let (mut bytes, mut rows) = (0, 0);
    for (_, path) in result_files(folder) {
        bytes += each_line(&path, |line| {
            let line: ResultLine<'_> = serde_json::from_slice(line)?;
            let (row, custom_id) = ids.get(line.custom_id).context("find the row")?;
            let Reply {
                status_code,
                request_id,
                body,
            } = line.response;
            let choice = body.choices.first().context("find the answer")?;
            let line = Out {
                row: *row,
                custom_id,
                status: status_code,
                output: choice.message.content,
                finish_reason: choice.finish_reason,
                usage: body.usage,
                model: body.model,
                request_id,
            };
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
            rows += 1;
            Ok(())
        })?;
    }
    ensure!(rows == ids.len(), "{rows} of {} rows", ids.len());
    out.into_inner()?.sync_all()?;
    Ok(bytes)
}

/// Keeps where each line is, then copies the lines in the order of the rows.
pub(crate) fn offsets(folder: &Path) -> Result<u64> {
    #[derive(Deserialize)]
    struct Id<'a> {
        custom_id: &'a str,
    }
    let mut places: HashMap<String, (usize, u64, usize)> = HashMap::new();
    let files = result_files(folder);
    let mut bytes = 0;
    for (number, (_, path)) in files.iter().enumerate() {
        let mut offset = 0;
        bytes += each_line(path, |line| {
            let id: Id<'_> = serde_json::from_slice(line)?;
            places.insert(id.custom_id.to_owned(), (number, offset, line.len()));
            offset += line.len() as u64;
            Ok(())
        })?;
    }
    let files = files
        .iter()
        .map(|(_, path)| File::open(path))
        .collect::<Result<Vec<_>, _>>()?;
    let path = folder.join(OUT).join("results.jsonl");
    let mut out = BufWriter::with_capacity(256 * 1024, File::create(path)?);
    let mut line = Vec::new();
    for id in BufReader::new(File::open(folder.join(IDS))?).lines() {
        let id = id?;
        let id = id.split('\t').next().unwrap_or_default();
        let &(file, offset, length) = places.get(id).context("find the line")?;
        line.resize(length, 0);
        files[file].read_exact_at(&mut line, offset)?;
        out.write_all(&line)?;
    }
    out.into_inner()?.sync_all()?;
    Ok(bytes)
}
