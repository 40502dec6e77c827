//! Batch prediction jobs: lines in, an object or a table, one create, polls, lists, lines out.
//!
//! What is decided here is pure and tested by table; what waits is one call of the client each.

use crate::client::Client;
use crate::config::{Side, VertexConfig};
use crate::convert::{Purpose, check_line, read_answer, write_body};
use crate::error::{ERRORS, QUEUE_FULL, account_fault};
use crate::storage::{
    self, Address,
    table::{self, Loaded, TableName},
};
use crate::wire::{
    BigQueryDestination, BigQuerySource, CompletionStats, CreateJob, GcsDestination, GcsSource,
    InputConfig, Job, JobError, JobInput, JobLabels, JobPage, JobTable, JobUris, Labels,
    OutputConfig, OutputInfo, ResultLine,
};
use batchwright_core::{
    BatchCounts, BatchHandle, BatchSnapshot, BatchStatus, BatchSummary, ByteStream, Ending, Error,
    ErrorKind, InputFault, InputRef, ListMark, ListPage, ListWalk, Outcome, Request, Result,
    ResultFile, SealedBatch, StoredInput, SubmissionTag, SubmitError,
};
use batchwright_http::{
    Asked, Reply, VendorError, answered, hollow, redact, row_outcome, submitted, unreadable,
    wire::{lenient, line_text, push_text, some_text, text},
};
use serde_json::value::RawValue;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The most jobs of one page of the list.
pub(crate) const LIST_LIMIT: usize = 100;

/// Where inputs and results of this provider's jobs are.
pub(crate) struct Places {
    location: String,
    bucket: String,
    prefix: String,
    dataset: Option<String>,
    input: Side,
    output: Side,
    check_region: bool,
    /// Whether the regions were compared and found equal.
    checked: AtomicBool,
}

impl Places {
    /// `None` where the settings name no bucket.
    pub(crate) fn of(config: &VertexConfig) -> Option<Self> {
        Some(Self {
            location: config.location.clone(),
            bucket: config.bucket.clone()?,
            prefix: config.prefix.clone(),
            dataset: config.dataset.clone(),
            input: config.input,
            output: config.output,
            check_region: config.check_region,
            checked: AtomicBool::new(false),
        })
    }

    /// The object of an input.
    fn object(&self, tag: &str) -> String {
        format!("gs://{}/{}/{tag}.jsonl", self.bucket, self.prefix)
    }

    /// The table of an input, or with a suffix of its results. A tag has no underscore, so it can be had back.
    fn table(&self, tag: &str, suffix: &str) -> String {
        let dataset = self.dataset.as_deref().unwrap_or_default();
        format!("bq://{dataset}.{}{suffix}", tag.replace('-', "_"))
    }

    /// What an input is called.
    fn input(&self, tag: &str) -> InputRef {
        InputRef(match self.input {
            Side::Storage => self.object(tag),
            Side::BigQuery => self.table(tag, ""),
        })
    }

    /// Compares regions once; the vendor would do so after the job was created.
    async fn check(&self, client: &Client) -> Result<()> {
        if !self.check_region || self.checked.load(Ordering::Acquire) {
            return Ok(());
        }
        storage::check_region(client, &self.bucket, &self.location).await?;
        let tables = self.input == Side::BigQuery || self.output == Side::BigQuery;
        if let Some(dataset) = self.dataset.as_deref().filter(|_| tables) {
            table::check_region(client, dataset, &self.location).await?;
        }
        self.checked.store(true, Ordering::Release);
        Ok(())
    }
}

fn no_batches() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "make a batch: no bucket is set for inputs and results",
    )
}

/// The places, or that there are no batches.
pub(crate) fn places(places: Option<&Places>) -> Result<&Places> {
    places.ok_or_else(no_batches)
}

// ---- lines ----

/// Appends a request's line without a line end; on an error `line` is as it was.
pub(crate) fn encode(
    request: &Request,
    places: &Places,
    wire_id: &str,
    line: &mut Vec<u8>,
) -> Result<()> {
    let before = line.len();
    line.extend_from_slice(b"{\"custom_id\":");
    push_text(wire_id, line);
    line.extend_from_slice(b",\"request\":");
    let written = write_body(request, Purpose::Line, line).and_then(|()| {
        line.push(b'}');
        match places.input {
            Side::Storage => check_line(&line[before..]),
            // A column of JSON takes what a table's columns would not.
            Side::BigQuery => Ok(()),
        }
    });
    if written.is_err() {
        line.truncate(before);
    }
    written
}

/// Reads a result line by the vendor's rule: good is an empty status and an answer that is not empty (F-103).
pub(crate) fn decode(line: &[u8], provider: &Arc<str>) -> Option<Outcome> {
    let (line, whole) = line_text(line)?;
    let (line, broken) = match serde_json::from_str::<ResultLine<'_>>(line) {
        Ok(line) => (line, false),
        // A line cut short may still name its request, where the id stands first.
        Err(_) => (id_alone(line)?, true),
    };
    // An id that came back as a number is none of ours, which begin with a letter.
    let custom_id = some_text(line.custom_id)?;
    let ended = if broken || !whole {
        (Ending::Unreadable(unreadable("the line is broken")), None)
    } else {
        row_ending(&line)
    };
    Some(row_outcome(custom_id, ended, provider))
}

/// The id of a line that is no JSON any more, where it stands first.
fn id_alone(line: &str) -> Option<ResultLine<'_>> {
    let rest = line.trim_start().strip_prefix("{\"custom_id\":")?;
    let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&RawValue>();
    Some(ResultLine {
        custom_id: Some(values.next()?.ok()?),
        ..ResultLine::default()
    })
}

fn row_ending(line: &ResultLine<'_>) -> (Ending, Option<Arc<str>>) {
    let status = line.status.and_then(text).unwrap_or_default();
    if !status.trim().is_empty() {
        return (Ending::Failed(row_error(&status)), None);
    }
    let answer = line.response.map_or("", RawValue::get);
    if matches!(answer.trim(), "" | "null" | "{}") {
        let error = unreadable("the line has neither an answer nor an error");
        return (Ending::Unreadable(error), None);
    }
    answered(read_answer(answer, &[]))
}

/// A row's status: a phrase, and after it, as a rule, the error as JSON.
fn row_error(status: &str) -> Error {
    let json = status
        .split_once(": ")
        .map(|(_, json)| json.trim())
        .filter(|json| json.starts_with(['{', '[']));
    let said = json.and_then(|json| VendorError::from_body(json.as_bytes()));
    match (json, said.and_then(|said| said.status)) {
        (Some(json), Some(status)) => ERRORS.of_row(status, json.as_bytes()),
        _ => Error::new(
            ErrorKind::ProviderFault,
            format!("answer the row: {}", redact(status)),
        ),
    }
}

// ---- files ----

/// Stores a chunk; with BigQuery as its side, also loads it into a table, which is confirmed by a later call.
pub(crate) async fn upload(
    client: &Client,
    places: &Places,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<InputRef> {
    places.check(client).await?;
    let tag = tag.to_string();
    let input = places.input(&tag);
    let object = places.object(&tag);
    if places.input == Side::Storage {
        let at = Address::read(&object).ok_or_else(no_batches)?;
        storage::upload(client, at, batch).await?;
        return Ok(input);
    }
    let to = TableName::read(&input.0).ok_or_else(no_batches)?;
    match table::loaded(client, to, &load_id(&tag), &places.location).await? {
        Loaded::Done => Ok(input),
        Loaded::Running => Err(table::still_loading()),
        Loaded::Failed(fault) => {
            let error = Error::new(
                ErrorKind::InvalidRequest,
                format!("load the input: {}", fault.message),
            );
            Err(match fault.code {
                Some(code) => error.with_code(code),
                None => error,
            })
        }
        Loaded::Absent => {
            let at = Address::read(&object).ok_or_else(no_batches)?;
            storage::upload(client, at, batch).await?;
            table::load(client, to, &object, &load_id(&tag), &places.location).await?;
            match table::loaded(client, to, &load_id(&tag), &places.location).await? {
                Loaded::Done => Ok(input),
                _ => Err(table::still_loading()),
            }
        }
    }
}

fn load_id(tag: &str) -> String {
    format!("{tag}-load")
}

/// Looks for the input an upload of this tag left behind (F-119).
pub(crate) async fn find_upload(
    client: &Client,
    places: &Places,
    batch: &SealedBatch,
    tag: &SubmissionTag,
) -> Result<Option<InputRef>> {
    let tag = tag.to_string();
    let input = places.input(&tag);
    let found = match places.input {
        Side::Storage => {
            let at = Address::read(&input.0).ok_or_else(no_batches)?;
            storage::is_there(client, at, batch.bytes).await?
        }
        Side::BigQuery => {
            let to = TableName::read(&input.0).ok_or_else(no_batches)?;
            let loaded = table::loaded(client, to, &load_id(&tag), &places.location).await?;
            // The load job is remembered longer than a table that was dropped.
            matches!(loaded, Loaded::Done) && table::exists(client, to).await?
        }
    };
    Ok(found.then_some(input))
}

/// The stored inputs of a job, by the objects below our prefix; a table's lines were loaded from one.
pub(crate) async fn uploads(
    client: &Client,
    places: &Places,
    job: &str,
) -> Result<Vec<StoredInput>> {
    let folder = format!("{}/", places.prefix);
    let prefix = format!("{folder}bw1-{job}-");
    let what = "list the stored inputs";
    storage::each_object(client, &places.bucket, &prefix, what, |object| {
        let name = object.name?;
        let name = name.strip_prefix(&folder)?.strip_suffix(".jsonl")?;
        let tag: SubmissionTag = name.parse().ok()?;
        (tag.job() == job).then(|| StoredInput::new(places.input(name), tag, object.size))
    })
    .await
}

/// Deletes an input; one that is gone is fine. A table's lines also stay in the object they were loaded from.
pub(crate) async fn discard(client: &Client, places: &Places, input: &InputRef) -> Result<()> {
    let foreign = || {
        Error::new(
            ErrorKind::InvalidRequest,
            "delete the input: it is none of ours",
        )
    };
    if let Some(table) = TableName::read(&input.0) {
        table::drop_table(client, table).await?;
        let object = places.object(&table.table.replace('_', "-"));
        return storage::delete(client, Address::read(&object).ok_or_else(foreign)?).await;
    }
    storage::delete(client, Address::read(&input.0).ok_or_else(foreign)?).await
}

// ---- batches ----

/// Creates the batch, once.
pub(crate) async fn submit(
    client: &Client,
    places: &Places,
    provider: &str,
    batch: &SealedBatch,
    input: &InputRef,
    tag: &SubmissionTag,
) -> Result<BatchHandle, SubmitError> {
    let tag_text = tag.to_string();
    let body = create_body(places, &batch.model, &input.0, tag.job(), &tag_text)
        .map_err(SubmitError::NotSent)?;
    let token = client.token().await.map_err(SubmitError::NotSent)?;
    let (sent, held) = match client.create_batch(body, token).await {
        Ok(sent) => {
            let reply = sent.reply.clone();
            (Ok(reply), Some(sent))
        }
        Err(error) => (Err(error), None),
    };
    submitted(sent, job_id, |reply| match &held {
        Some(sent) => client.refused_once(Asked::Object, sent),
        None => client.refused(Asked::Object, reply),
    })
    .map(|id| BatchHandle::new(provider, id, input.clone()))
}

fn create_body(places: &Places, model: &str, input: &str, job: &str, tag: &str) -> Result<Vec<u8>> {
    let model = if model.contains('/') {
        model.to_owned()
    } else {
        format!("publishers/google/models/{model}")
    };
    let create = CreateJob {
        display_name: tag,
        model: &model,
        input_config: match places.input {
            Side::Storage => InputConfig::Storage {
                instances_format: "jsonl",
                gcs_source: GcsSource { uris: [input] },
            },
            Side::BigQuery => InputConfig::BigQuery {
                instances_format: "bigquery",
                bigquery_source: BigQuerySource { input_uri: input },
            },
        },
        // A place of its own for every attempt, so that no other's results are found there (F-103).
        output_config: match places.output {
            Side::Storage => OutputConfig::Storage {
                predictions_format: "jsonl",
                gcs_destination: GcsDestination {
                    output_uri_prefix: format!(
                        "gs://{}/{}/{tag}-results",
                        places.bucket, places.prefix
                    ),
                },
            },
            Side::BigQuery => OutputConfig::BigQuery {
                predictions_format: "bigquery",
                bigquery_destination: BigQueryDestination {
                    output_uri: places.table(tag, "_results"),
                },
            },
        },
        labels: Labels {
            batchwright_tag: tag,
            batchwright_job: job,
        },
    };
    serde_json::to_vec(&create).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "write the create as JSON").with_source(error)
    })
}

/// The number at the end of a job's name; project and location are ours, and paths are built of those (F-197).
fn job_id(body: &[u8]) -> Option<String> {
    id_of(
        serde_json::from_slice::<Job<'_>>(body)
            .ok()?
            .name
            .as_deref()?,
    )
}

fn id_of(name: &str) -> Option<String> {
    let (_, id) = name.rsplit_once("/batchPredictionJobs/")?;
    let number = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    number.then(|| id.to_owned())
}

/// The batch's state; once it has ended, also which files hold its results.
pub(crate) async fn status(
    client: &Client,
    places: &Places,
    handle: &BatchHandle,
) -> Result<BatchSnapshot> {
    let reply = client.get_batch(&handle.id).await?;
    let (mut snapshot, results) = snapshot(handle, &client.batch(&reply)?)?;
    match results {
        Some(Results::Folder(uri)) => {
            // Only what is in our bucket is read with our credentials (F-197).
            let folder = Address::read(&uri).filter(|folder| folder.bucket == places.bucket);
            let folder = folder
                .ok_or_else(|| hollow("read the batch: its results are in a foreign bucket"))?;
            let (files, pending) = storage::results(client, folder).await?;
            snapshot.files = files;
            snapshot.results_pending |= pending;
        }
        Some(Results::Table(uri)) => {
            snapshot.files.push(ResultFile::new(uri, "output"));
        }
        None => {}
    }
    if snapshot.status == BatchStatus::Failed && !snapshot.files.is_empty() {
        count_as_run(&mut snapshot);
    }
    Ok(snapshot)
}

/// Asks for a cancel; that it has ended already is a conflict (F-079).
pub(crate) async fn cancel(client: &Client, handle: &BatchHandle) -> Result<()> {
    let reply = client.cancel_batch(&handle.id).await?;
    if reply.is_success() {
        return Ok(());
    }
    let error = client.refused(Asked::Cancel, &reply);
    if reply.status == 400 && error.code() == Some("FAILED_PRECONDITION") {
        let message = error.message().to_owned();
        return Err(Error::new(ErrorKind::Conflict, message)
            .with_status(reply.status)
            .with_code("FAILED_PRECONDITION"));
    }
    Err(error)
}

/// A result file from `offset` on.
pub(crate) async fn download(
    client: &Arc<Client>,
    file: &ResultFile,
    offset: u64,
) -> Result<ByteStream> {
    if let Some(table) = TableName::read(&file.id) {
        return table::download(Arc::clone(client), table, offset).await;
    }
    match Address::read(&file.id) {
        Some(at) => storage::download(client, at, offset).await,
        None => Err(Error::new(
            ErrorKind::InvalidRequest,
            "download the results: the file's address is none",
        )),
    }
}

/// The first page of the list.
pub(crate) async fn recent(client: &Client, provider: &str) -> Result<Vec<BatchSummary>> {
    let reply = client.list_batches(None).await?;
    Ok(list_page(client, provider, &reply)?.batches)
}

/// Everything newer than the mark.
pub(crate) async fn list_since(
    client: &Client,
    provider: &str,
    mark: &ListMark,
) -> Result<Vec<BatchSummary>> {
    let mut walk = ListWalk::new(mark);
    let mut after: Option<String> = None;
    loop {
        let reply = client.list_batches(after.as_deref()).await?;
        after = walk.take(list_page(client, provider, &reply)?)?;
        if after.is_none() {
            return Ok(walk.into_found());
        }
    }
}

fn list_page(client: &Client, provider: &str, reply: &Reply) -> Result<ListPage> {
    let page: JobPage<'_> = client.object(reply)?;
    let entries = page.batch_prediction_jobs.len();
    let batches: Vec<BatchSummary> = page
        .batch_prediction_jobs
        .into_iter()
        .filter_map(|entry| summary(provider, &lenient::<Job<'_>>(Some(entry))?))
        .collect();
    let unreadable = entries > batches.len();
    let next = page.next_page_token.filter(|token| !token.is_empty());
    Ok(ListPage::new(batches)
        .with_unreadable(unreadable)
        .with_next(next.is_some(), next))
}

// ---- objects ----

/// Where a job's results are.
#[derive(Debug, PartialEq, Eq)]
enum Results {
    Folder(String),
    Table(String),
}

/// A failed job that answered rows ran: what it answered is paid for and collected, and not bought again because room
/// ran out in its middle (F-076).
fn count_as_run(snapshot: &mut BatchSnapshot) {
    snapshot.status = BatchStatus::Completed;
    snapshot.queue_full = false;
}

fn snapshot(handle: &BatchHandle, job: &Job<'_>) -> Result<(BatchSnapshot, Option<Results>)> {
    let word = job
        .state
        .as_deref()
        .ok_or_else(|| hollow("read the batch: the answer has no state"))?;
    let mut snapshot = BatchSnapshot::new(handle.clone(), batch_status(word));
    if handle.input.0.is_empty() {
        snapshot.handle.input = input(job);
    }
    snapshot.counts =
        lenient::<CompletionStats>(job.completion_stats).and_then(|stats| counts(&stats));
    snapshot.created_at = job.create_time;
    if !snapshot.status.is_terminal() {
        return Ok((snapshot, None));
    }
    snapshot.ended_at = job.end_time;
    if let Some(error) = lenient::<JobError>(job.error)
        && snapshot.status == BatchStatus::Failed
    {
        snapshot.queue_full = error.code == Some(QUEUE_FULL);
        snapshot.account_fault = error.code.and_then(account_fault);
        snapshot.faults.push(InputFault::new(
            error.code.map(|code| code.to_string()),
            redact(error.message.as_deref().unwrap_or_default()),
            None,
            None,
        ));
    }
    let info: OutputInfo = lenient(job.output_info).unwrap_or_default();
    let table = info.bigquery_output_dataset.zip(info.bigquery_output_table);
    let results = match (info.gcs_output_directory, table) {
        (Some(folder), _) => Some(Results::Folder(folder)),
        (None, Some((dataset, table))) => {
            // The table comes alone or with its dataset.
            let table = table.rsplit('.').next().unwrap_or(&table).to_owned();
            Some(Results::Table(format!("{dataset}.{table}")))
        }
        (None, None) => None,
    };
    let finished = snapshot
        .counts
        .is_some_and(|counts| counts.completed + counts.failed > 0);
    let answered = snapshot.counts.is_some_and(|counts| counts.completed > 0);
    if snapshot.status == BatchStatus::Failed && answered {
        count_as_run(&mut snapshot);
    }
    snapshot.results_pending =
        results.is_none() && finished && snapshot.status != BatchStatus::Failed;
    Ok((snapshot, results))
}

fn summary(provider: &str, job: &Job<'_>) -> Option<BatchSummary> {
    let id = id_of(job.name.as_deref()?)?;
    let labels: JobLabels = lenient(job.labels).unwrap_or_default();
    let tag = labels
        .get("batchwright_tag")
        .and_then(|tag| tag.parse().ok())
        .or_else(|| job.display_name.as_deref()?.parse().ok());
    let status = batch_status(job.state.as_deref().unwrap_or_default());
    let handle = BatchHandle::new(provider, id, input(job));
    Some(BatchSummary::new(handle, status, tag, job.create_time))
}

/// The input a job names.
fn input(job: &Job<'_>) -> InputRef {
    let config: JobInput<'_> = lenient(job.input_config).unwrap_or_default();
    let object =
        lenient::<JobUris>(config.gcs_source).and_then(|source| source.uris.into_iter().next());
    let table = || lenient::<JobTable>(config.bigquery_source)?.input_uri;
    InputRef(object.or_else(table).unwrap_or_default())
}

/// What is left out is zero, and a negative number is unknown.
fn counts(stats: &CompletionStats) -> Option<BatchCounts> {
    let count = |text: &Option<String>| {
        text.as_deref()
            .map_or(Some(0), |text| text.parse::<u64>().ok())
    };
    let (completed, failed) = (count(&stats.successful_count)?, count(&stats.failed_count)?);
    let left = count(&stats.incomplete_count)?;
    let total = completed.saturating_add(failed).saturating_add(left);
    Some(BatchCounts::new(total, completed, failed))
}

/// A state by its word, in any case and with any of Google's prefixes (F-085); an unknown one is not an end (F-056).
fn batch_status(word: &str) -> BatchStatus {
    let upper = word.to_ascii_uppercase();
    let plain = upper
        .strip_prefix("JOB_STATE_")
        .or_else(|| upper.strip_prefix("BATCH_STATE_"))
        .unwrap_or(&upper);
    match plain {
        "QUEUED" | "PENDING" | "RUNNING" | "PAUSED" | "UPDATING" => BatchStatus::InProgress,
        // Some rows failed as a whole; who is missing is told by the rows.
        "SUCCEEDED" | "PARTIALLY_SUCCEEDED" => BatchStatus::Completed,
        "FAILED" => BatchStatus::Failed,
        "EXPIRED" => BatchStatus::Expired,
        "CANCELLING" => BatchStatus::Cancelling,
        "CANCELLED" => BatchStatus::Cancelled,
        _ => BatchStatus::Unknown(word.to_owned()),
    }
}

#[cfg(test)]
mod tests;
