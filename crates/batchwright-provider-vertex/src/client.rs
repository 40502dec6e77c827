//! One function per endpoint: build the call, send it, hand back status and body.
//!
//! What is free is sent once more with a new token where the old one was refused. What costs money is sent exactly
//! once: a refusal of a token that was held before is an error of class `Rejected`, and the next attempt gets a new
//! one.

use crate::auth::{Token, Tokens, escaped};
use crate::batch::LIST_LIMIT;
use crate::config::VertexConfig;
use crate::error::ERRORS;
use crate::wire::Job;
use batchwright_core::{Error, ErrorKind, Result, RetryClass, RetryPolicy};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, ErrorTable, HttpClient, Limits, Method, Reply, Secret, StreamReply,
    Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue},
};
use serde::Deserialize;
use std::time::Duration;

/// Where the project is named that calls count against.
const QUOTA_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");

pub(crate) struct Client {
    http: HttpClient,
    tokens: Tokens,
    base: BaseUrl,
    storage: BaseUrl,
    bigquery: BaseUrl,
    /// `v1/projects/…/locations/…`.
    place: String,
    quota_project: Option<HeaderValue>,
    answer: Limits,
    reads: RetryPolicy,
}

/// The answer of a call that was sent once, and whether its token was held before.
pub(crate) struct Sent {
    pub(crate) reply: Reply,
    token_was_held: bool,
}

impl Client {
    pub(crate) fn new(config: &VertexConfig) -> Result<Self> {
        let plain = config.allow_plain_http;
        let http = config.http.clone().build()?;
        let quota_project = config
            .quota_project
            .as_deref()
            .or_else(|| config.credentials.quota_project());
        let quota_project = quota_project.map(HeaderValue::from_str).transpose();
        Ok(Self {
            tokens: Tokens::new(config.credentials.clone(), &http, &config.http, plain)?,
            http,
            base: BaseUrl::parse(&config.base_url, plain)?,
            storage: BaseUrl::parse(&config.storage_url, plain)?,
            bigquery: BaseUrl::parse(&config.bigquery_url, plain)?,
            place: format!(
                "v1/projects/{}/locations/{}",
                escaped(&config.project),
                escaped(&config.location)
            ),
            quota_project: quota_project.map_err(|_| {
                Error::new(
                    ErrorKind::ConfigInvalid,
                    "use the quota project: no header can hold it",
                )
            })?,
            answer: Limits::answer().within(config.attempt_timeout),
            reads: RetryPolicy::for_reads(),
        })
    }

    // ---- Vertex AI ----

    /// A direct call; `timeout` bounds it further.
    pub(crate) async fn infer(
        &self,
        model: &str,
        body: Vec<u8>,
        timeout: Option<Duration>,
    ) -> Result<Sent> {
        let model = escaped(model);
        let path = format!(
            "{}/publishers/google/models/{model}:generateContent",
            self.place
        );
        let limits = timeout.map_or(self.answer, |timeout| self.answer.within(timeout));
        let call = Call::post("send the request", self.base.join(&path)?);
        let (token, held) = self.tokens.get().await?;
        self.once(call.json(body).limits(limits), &token, held)
            .await
    }

    /// Creates a batch: once, on a connection of its own (F-033, F-111). `token` was got before, so that a failure to
    /// get one is none of the create.
    pub(crate) async fn create_batch(
        &self,
        body: Vec<u8>,
        (token, held): (Token, bool),
    ) -> Result<Sent> {
        let url = self
            .base
            .join(&format!("{}/batchPredictionJobs", self.place))?;
        let call = Call::post("create the batch", url)
            .json(body)
            .fresh_connection();
        self.once(call, &token, held).await
    }

    pub(crate) async fn token(&self) -> Result<(Token, bool)> {
        self.tokens.get().await
    }

    pub(crate) async fn get_batch(&self, id: &str) -> Result<Reply> {
        let url = self.job_url(id, "")?;
        self.free(Call::get("read the batch", url)).await
    }

    pub(crate) async fn cancel_batch(&self, id: &str) -> Result<Reply> {
        let url = self.job_url(id, ":cancel")?;
        self.free(Call::post("cancel the batch", url).json("{}"))
            .await
    }

    pub(crate) async fn list_batches(&self, after: Option<&str>) -> Result<Reply> {
        let mut url = self
            .base
            .join(&format!("{}/batchPredictionJobs", self.place))?;
        url.query_pairs_mut()
            .append_pair("pageSize", &LIST_LIMIT.to_string())
            .extend_pairs(after.map(|after| ("pageToken", after)));
        self.free(Call::get("list the batches", url)).await
    }

    fn job_url(&self, id: &str, verb: &str) -> Result<Url> {
        // Ids are numbers (F-198).
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::new(
                ErrorKind::InvalidRequest,
                "name the batch: the id of a job is a number",
            ));
        }
        self.base
            .join(&format!("{}/batchPredictionJobs/{id}{verb}", self.place))
    }

    // ---- Cloud Storage ----

    pub(crate) async fn bucket(&self, bucket: &str) -> Result<Reply> {
        let url = self
            .storage
            .join(&format!("storage/v1/b/{}", escaped(bucket)))?;
        self.free(Call::get("find where the bucket is", url)).await
    }

    pub(crate) async fn put_object(&self, bucket: &str, name: &str, body: Body) -> Result<Reply> {
        let mut url = self
            .storage
            .join(&format!("upload/storage/v1/b/{}/o", escaped(bucket)))?;
        url.query_pairs_mut()
            .append_pair("uploadType", "media")
            .append_pair("name", name);
        let call = Call::post("store the input", url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"))
            .limits(Limits::upload());
        self.free(call.body(body)).await
    }

    pub(crate) async fn get_object(&self, bucket: &str, name: &str) -> Result<Reply> {
        let url = self.object_url(bucket, name)?;
        self.free(Call::get("look for the input", url)).await
    }

    pub(crate) async fn delete_object(&self, bucket: &str, name: &str) -> Result<Reply> {
        let url = self.object_url(bucket, name)?;
        self.free(Call::delete("delete the input", url)).await
    }

    pub(crate) async fn list_objects(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Reply> {
        let mut url = self
            .storage
            .join(&format!("storage/v1/b/{}/o", escaped(bucket)))?;
        url.query_pairs_mut()
            .append_pair("prefix", prefix)
            .extend_pairs(after.map(|after| ("pageToken", after)));
        self.free(Call::get("list the results", url)).await
    }

    /// An object's bytes, from `offset` on if the server can.
    pub(crate) async fn content(
        &self,
        bucket: &str,
        name: &str,
        offset: u64,
    ) -> Result<StreamReply> {
        let mut url = self.object_url(bucket, name)?;
        url.query_pairs_mut().append_pair("alt", "media");
        let call = Call::get("download the results", url)
            .limits(Limits::download())
            .range_from(offset);
        let (token, held) = self.tokens.get().await?;
        let reply = self.http.stream(self.signed(call.clone(), &token)).await?;
        if reply.status != 401 {
            return Ok(reply);
        }
        self.tokens.forget(&token);
        if !held {
            return Ok(reply);
        }
        let (token, _) = self.tokens.get().await?;
        self.http.stream(self.signed(call, &token)).await
    }

    fn object_url(&self, bucket: &str, name: &str) -> Result<Url> {
        let path = format!("storage/v1/b/{}/o/{}", escaped(bucket), escaped(name));
        self.storage.join(&path)
    }

    // ---- BigQuery ----

    pub(crate) async fn dataset(&self, project: &str, dataset: &str) -> Result<Reply> {
        let url = self.bigquery_url(project, &format!("datasets/{}", escaped(dataset)))?;
        self.free(Call::get("find where the dataset is", url)).await
    }

    pub(crate) async fn insert_load(&self, project: &str, body: Vec<u8>) -> Result<Reply> {
        let url = self.bigquery_url(project, "jobs")?;
        self.free(Call::post("load the input", url).json(body))
            .await
    }

    pub(crate) async fn load_job(&self, project: &str, id: &str, location: &str) -> Result<Reply> {
        let mut url = self.bigquery_url(project, &format!("jobs/{}", escaped(id)))?;
        url.query_pairs_mut().append_pair("location", location);
        self.free(Call::get("look for the loaded input", url)).await
    }

    pub(crate) async fn table(&self, [project, dataset, table]: [&str; 3]) -> Result<Reply> {
        let path = format!("datasets/{}/tables/{}", escaped(dataset), escaped(table));
        let url = self.bigquery_url(project, &path)?;
        self.free(Call::get("read the table of results", url)).await
    }

    pub(crate) async fn drop_table(&self, [project, dataset, table]: [&str; 3]) -> Result<Reply> {
        let path = format!("datasets/{}/tables/{}", escaped(dataset), escaped(table));
        let url = self.bigquery_url(project, &path)?;
        self.free(Call::delete("delete the input", url)).await
    }

    pub(crate) async fn rows(
        &self,
        [project, dataset, table]: [&str; 3],
        columns: &str,
        after: Option<&str>,
    ) -> Result<Reply> {
        let path = format!(
            "datasets/{}/tables/{}/data",
            escaped(dataset),
            escaped(table)
        );
        let mut url = self.bigquery_url(project, &path)?;
        url.query_pairs_mut()
            .append_pair("maxResults", "1000")
            .append_pair("selectedFields", columns)
            .extend_pairs(after.map(|after| ("pageToken", after)));
        let call = Call::get("download the results", url).limits(Limits::answer());
        self.free(call).await
    }

    fn bigquery_url(&self, project: &str, rest: &str) -> Result<Url> {
        self.bigquery
            .join(&format!("bigquery/v2/projects/{}/{rest}", escaped(project)))
    }

    // ---- sending ----

    /// What costs nothing: a read is repeated as `batchwright-http` repeats reads; a refused token is replaced once
    /// (F-134).
    async fn free(&self, call: Call) -> Result<Reply> {
        let (token, held) = self.tokens.get().await?;
        let reply = self.attempt(self.signed(call.clone(), &token)).await?;
        if reply.status != 401 {
            return Ok(reply);
        }
        self.tokens.forget(&token);
        if !held {
            return Ok(reply);
        }
        let (token, _) = self.tokens.get().await?;
        let reply = self.attempt(self.signed(call, &token)).await?;
        if reply.status == 401 {
            self.tokens.forget(&token);
        }
        Ok(reply)
    }

    async fn attempt(&self, call: Call) -> Result<Reply> {
        if call.method == Method::GET {
            self.http.read(call, &self.reads).await
        } else {
            self.http.send(call).await
        }
    }

    /// What costs money.
    async fn once(&self, call: Call, token: &Token, held: bool) -> Result<Sent> {
        let reply = self.http.send(self.signed(call, token)).await?;
        if reply.status == 401 {
            self.tokens.forget(token);
        }
        Ok(Sent {
            reply,
            token_was_held: held,
        })
    }

    fn signed(&self, call: Call, token: &Token) -> Call {
        let call = call.header(AUTHORIZATION, token.header.clone());
        match &self.quota_project {
            Some(project) => call.header(QUOTA_PROJECT, project.clone()),
            None => call,
        }
    }

    /// What must never show.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        self.tokens.secrets()
    }

    /// The error of a reply that is no success.
    pub(crate) fn refused(&self, asked: Asked, reply: &Reply) -> Error {
        self.refused_by(&ERRORS, asked, reply)
    }

    /// The same under a table with words of its own.
    pub(crate) fn refused_by(&self, errors: &ErrorTable, asked: Asked, reply: &Reply) -> Error {
        let secrets = self.tokens.secrets();
        let secrets: Vec<&Secret> = secrets.iter().collect();
        errors.of_reply(asked, reply, &secrets)
    }

    /// The same of a call that was sent once: a token that ended is no reason to stop, and a model that is not there
    /// is one.
    pub(crate) fn refused_once(&self, asked: Asked, sent: &Sent) -> Error {
        let error = self.refused(asked, &sent.reply);
        match sent.reply.status {
            401 if sent.token_was_held => error.with_class(RetryClass::Rejected),
            404 => error.with_class(RetryClass::JobStop),
            _ => error,
        }
    }

    /// The batch a successful answer holds. Its `error` is its own and none of the call.
    pub(crate) fn batch<'a>(&self, reply: &'a Reply) -> Result<Job<'a>> {
        let secrets = self.tokens.secrets();
        let secrets: Vec<&Secret> = secrets.iter().collect();
        ERRORS.polled(reply, &secrets, |job: &Job<'_>| job.state.is_some())
    }

    /// The object a successful answer holds.
    pub(crate) fn object<'a, T: Deserialize<'a>>(&self, reply: &'a Reply) -> Result<T> {
        let secrets = self.tokens.secrets();
        let secrets: Vec<&Secret> = secrets.iter().collect();
        ERRORS.object(reply, &secrets)
    }
}
