//! Inputs and results as tables of BigQuery.

use crate::client::Client;
use crate::wire::{Field, LoadJob, Located, RowPage, Table};
use ErrorKind::{ProviderFault, QuotaExceeded, RateLimited};
use RetryClass::{JobStop, Rejected};
use batchwright_core::{ByteStream, Error, ErrorKind, InputFault, Result, RetryClass};
use batchwright_http::{Asked, ErrorTable, Reply, hollow, redact, wire::push_text};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{json, value::RawValue};
use std::{sync::Arc, time::Duration};

/// The columns of a result line; the echoed request is left where it is.
const COLUMNS: [&str; 3] = ["custom_id", "status", "response"];
/// When a load job that runs is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A table's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableName<'a> {
    pub(crate) project: &'a str,
    pub(crate) dataset: &'a str,
    pub(crate) table: &'a str,
}

impl<'a> TableName<'a> {
    /// Reads `bq://project.dataset.table`.
    pub(crate) fn read(uri: &'a str) -> Option<Self> {
        let mut parts = uri.strip_prefix("bq://")?.splitn(3, '.');
        let (project, dataset, table) = (parts.next()?, parts.next()?, parts.next()?);
        let word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':'))
        };
        (word(project) && word(dataset) && word(table)).then_some(Self {
            project,
            dataset,
            table,
        })
    }

    fn parts(self) -> [&'a str; 3] {
        [self.project, self.dataset, self.table]
    }
}

/// Refuses a dataset that is not in the job's own region, before anything is uploaded: multi-regions are refused by the
/// vendor.
pub(crate) async fn check_region(client: &Client, dataset: &str, location: &str) -> Result<()> {
    let (project, name) = dataset.split_once('.').unwrap_or(("", dataset));
    let reply = client.dataset(project, name).await?;
    if !reply.is_success() {
        let error = refused(client, &reply);
        let error = match reply.status {
            404 => error.with_class(RetryClass::JobStop),
            _ => error,
        };
        return Err(error.context(format!("find where the dataset {dataset} is")));
    }
    let found = client.object::<Located>(&reply)?.location;
    let found =
        found.ok_or_else(|| hollow("find where the dataset is: the answer does not say"))?;
    if found.eq_ignore_ascii_case(location) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        format!(
            "load the input: the dataset {dataset} is in {found}, and the batch runs in {location}"
        ),
    ))
}

/// Where a load job is.
#[derive(Debug)]
pub(crate) enum Loaded {
    Absent,
    Running,
    Done,
    Failed(InputFault),
}

/// Looks at the load job of an input.
pub(crate) async fn loaded(
    client: &Client,
    to: TableName<'_>,
    job: &str,
    location: &str,
) -> Result<Loaded> {
    let reply = client.load_job(to.project, job, location).await?;
    if reply.status == 404 {
        return Ok(Loaded::Absent);
    }
    if !reply.is_success() {
        return Err(refused(client, &reply));
    }
    Ok(state(client.object(&reply)?))
}

fn state(job: LoadJob) -> Loaded {
    match (job.status.state.as_deref(), job.status.error_result) {
        (Some("DONE"), None) => Loaded::Done,
        (Some("DONE"), Some(error)) => {
            let message = redact(error.message.as_deref().unwrap_or_default());
            Loaded::Failed(InputFault::new(error.reason, message, None, None))
        }
        _ => Loaded::Running,
    }
}

/// Begins to load an object into a new table. The job's name is ours, so that it is loaded once however often this is
/// asked for.
pub(crate) async fn load(
    client: &Client,
    to: TableName<'_>,
    from: &str,
    job: &str,
    location: &str,
) -> Result<()> {
    let body = json!({
        "jobReference": {"projectId": to.project, "jobId": job, "location": location},
        "configuration": {"load": {
            "sourceUris": [from],
            "sourceFormat": "NEWLINE_DELIMITED_JSON",
            "schema": {"fields": [
                {"name": "custom_id", "type": "STRING", "mode": "REQUIRED"},
                {"name": "request", "type": "JSON", "mode": "REQUIRED"},
            ]},
            "destinationTable": {"projectId": to.project, "datasetId": to.dataset, "tableId": to.table},
            "createDisposition": "CREATE_IF_NEEDED",
            "writeDisposition": "WRITE_EMPTY",
        }},
    });
    let reply = client
        .insert_load(to.project, body.to_string().into_bytes())
        .await?;
    // A duplicate is the one that was begun before.
    if reply.is_success() || reply.status == 409 {
        return Ok(());
    }
    Err(refused(client, &reply))
}

/// What stands in the way of a create until a load job is done. It passes like load does: BigQuery ends a job after
/// six hours at the latest.
pub(crate) fn still_loading() -> Error {
    Error::new(
        ErrorKind::Overloaded,
        "load the input: BigQuery still loads it",
    )
    .with_retry_after(LOOK_AGAIN)
}

/// Whether a table is there.
pub(crate) async fn exists(client: &Client, table: TableName<'_>) -> Result<bool> {
    let reply = client.table(table.parts()).await?;
    match reply.status {
        404 => Ok(false),
        _ if reply.is_success() => Ok(true),
        _ => Err(refused(client, &reply)),
    }
}

/// Deletes a table; one that is gone is fine.
pub(crate) async fn drop_table(client: &Client, table: TableName<'_>) -> Result<()> {
    let reply = client.drop_table(table.parts()).await?;
    if reply.status == 404 || reply.is_success() {
        return Ok(());
    }
    Err(refused(client, &reply))
}

/// A table's rows as result lines, page by page. It starts at the beginning alone.
pub(crate) async fn download(
    client: Arc<Client>,
    table: TableName<'_>,
    offset: u64,
) -> Result<ByteStream> {
    if offset > 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("download the results: a table is not read from byte {offset} on"),
        ));
    }
    let reply = client.table(table.parts()).await?;
    if !reply.is_success() {
        return Err(refused(&client, &reply));
    }
    let table_object: Table = client.object(&reply)?;
    let order = order(&table_object.schema.fields)?;
    let names = table.parts().map(str::to_owned);
    let reading = Reading {
        client,
        names,
        order,
        after: None,
        done: false,
    };
    Ok(stream::try_unfold(reading, Reading::next).boxed())
}

/// Where each of [`COLUMNS`] stands in a row: selected columns come in the table's order.
fn order(fields: &[Field]) -> Result<[usize; 3]> {
    let selected: Vec<&str> = fields
        .iter()
        .map(|field| field.name.as_str())
        .filter(|name| COLUMNS.contains(name))
        .collect();
    let place = |name: &str| selected.iter().position(|selected| *selected == name);
    match COLUMNS.map(place) {
        [Some(id), Some(status), Some(response)] => Ok([id, status, response]),
        _ => Err(hollow(
            "download the results: the table lacks a column of results",
        )),
    }
}

struct Reading {
    client: Arc<Client>,
    names: [String; 3],
    order: [usize; 3],
    after: Option<String>,
    done: bool,
}

impl Reading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        if self.done {
            return Ok(None);
        }
        let names = self.names.each_ref().map(String::as_str);
        let reply = self
            .client
            .rows(names, &COLUMNS.join(","), self.after.as_deref())
            .await?;
        if !reply.is_success() {
            return Err(refused(&self.client, &reply));
        }
        let page: RowPage = self.client.object(&reply)?;
        let mut lines = Vec::with_capacity(reply.body.len());
        for row in &page.rows {
            let cell = |at: usize| row.f.get(at).and_then(|cell| cell.v.as_deref());
            push_line(self.order.map(cell), &mut lines);
        }
        let next = page.page_token.filter(|token| !token.is_empty());
        if next.is_some() && next == self.after {
            // The rest of the rows would be lost.
            return Err(hollow(
                "download the results: the table's pages do not go on",
            ));
        }
        self.done = next.is_none();
        self.after = next;
        Ok(Some((lines.into(), self)))
    }
}

/// Appends a row as the line an object would hold.
fn push_line([id, status, response]: [Option<&str>; 3], lines: &mut Vec<u8>) {
    lines.extend_from_slice(b"{\"custom_id\":");
    push_text(id.unwrap_or_default(), lines);
    lines.extend_from_slice(b",\"status\":");
    push_text(status.unwrap_or_default(), lines);
    // What is no JSON is no answer either, and is told by its absence.
    let response = response.filter(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    if let Some(response) = response {
        lines.extend_from_slice(b",\"response\":");
        lines.extend(response.bytes().map(|byte| match byte {
            b'\n' | b'\r' => b' ',
            other => other,
        }));
    }
    lines.extend_from_slice(b"}\n");
}

/// BigQuery's reasons, which say more than its statuses (<https://cloud.google.com/bigquery/docs/error-messages>).
const ERRORS: ErrorTable = crate::error::ERRORS.with_own_codes(&[
    ("rateLimitExceeded", RateLimited, Rejected),
    ("jobRateLimitExceeded", RateLimited, Rejected),
    ("backendError", ProviderFault, Rejected),
    ("internalError", ProviderFault, Rejected),
    ("badGateway", ProviderFault, Rejected),
    ("quotaExceeded", QuotaExceeded, JobStop),
    ("billingNotEnabled", QuotaExceeded, JobStop),
    ("billingTierLimitExceeded", QuotaExceeded, JobStop),
]);

/// The error of a reply of BigQuery's that is no success.
fn refused(client: &Client, reply: &Reply) -> Error {
    client.refused_by(&ERRORS, Asked::Object, reply)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Credentials;
    use crate::{Vertex, VertexConfig};
    use batchwright_http::HeaderMap;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    #[test]
    fn f_198_addresses_are_read_or_refused() {
        let name = TableName::read("bq://p.d.t_1").unwrap();
        assert_eq!(name.parts(), ["p", "d", "t_1"]);
        for uri in [
            "bq://p.d",
            "bq://p.d.t.x",
            "bq://p..t",
            "gs://p.d.t",
            "bq://p.d.a/b",
        ] {
            assert_eq!(TableName::read(uri), None, "{uri}");
        }
    }

    #[test]
    fn rows_become_result_lines_whatever_the_order_of_columns() {
        let fields = ["request", "response", "custom_id", "other", "status"].map(|name| Field {
            name: name.to_owned(),
        });
        assert_eq!(order(&fields).unwrap(), [1, 2, 0]);
        assert!(order(&fields[..3]).is_err());
        let mut lines = Vec::new();
        push_line([Some("a\"b"), Some(""), Some("{\"x\":\n1}")], &mut lines);
        push_line([Some("b"), Some("Bad"), None], &mut lines);
        push_line([None, None, Some("no json")], &mut lines);
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            "{\"custom_id\":\"a\\\"b\",\"status\":\"\",\"response\":{\"x\": 1}}\n\
             {\"custom_id\":\"b\",\"status\":\"Bad\"}\n{\"custom_id\":\"\",\"status\":\"\"}\n"
        );
    }

    #[tokio::test]
    async fn f_106_a_table_whose_pages_do_not_go_on_is_not_taken_for_whole() {
        let server = MockServer::start().await;
        let fields = COLUMNS.map(|name| json!({"name": name}));
        let body = json!({"schema": {"fields": fields}, "pageToken": "again",
            "rows": [{"f": [{"v": "a"}, {"v": ""}, {"v": "{}"}]}]});
        Mock::given(matchers::any())
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .mount(&server)
            .await;
        let mut config = VertexConfig::new("p", "us-central1", Credentials::token("t"));
        config.bigquery_url = server.uri();
        let client = Arc::new(Client::new(&config).unwrap());
        let table = TableName::read("bq://p.d.t").unwrap();
        let pieces: Vec<_> = download(client, table, 0).await.unwrap().collect().await;
        assert!(pieces.last().unwrap().is_err());
    }

    #[test]
    fn f_001_reasons_say_more_than_statuses() {
        let config = VertexConfig::new("p", "us-central1", Credentials::token("t"));
        let client = Client::new(&config).unwrap();
        // The public way builds the same.
        Vertex::new(config).unwrap();
        for (status, reason, kind, class) in [
            (
                403,
                "rateLimitExceeded",
                ErrorKind::RateLimited,
                RetryClass::Rejected,
            ),
            (
                400,
                "jobRateLimitExceeded",
                ErrorKind::RateLimited,
                RetryClass::Rejected,
            ),
            (
                500,
                "backendError",
                ErrorKind::ProviderFault,
                RetryClass::Rejected,
            ),
            (
                403,
                "quotaExceeded",
                ErrorKind::QuotaExceeded,
                RetryClass::JobStop,
            ),
            (
                403,
                "accessDenied",
                ErrorKind::PermissionDenied,
                RetryClass::JobStop,
            ),
            (404, "notFound", ErrorKind::NotFound, RetryClass::RowFatal),
        ] {
            let body = json!({"error": {"code": status, "message": "m",
                "errors": [{"reason": reason, "domain": "global", "message": "m"}]}});
            let reply = Reply::new(status, HeaderMap::new(), body.to_string());
            let error = refused(&client, &reply);
            assert_eq!((error.kind(), error.class()), (kind, class), "{reason}");
            assert_eq!(error.code(), Some(reason));
        }
    }
}
