//! Google Vertex AI: `/vertex` with generateContent and batch prediction jobs, and what a job needs beside it: Cloud
//! Storage (`/gcs`), BigQuery (`/bigquery`), the token endpoint (`/oauth2`) and the metadata server
//! (`/computeMetadata`).
//!
//! Buckets, datasets and jobs are a project's, not a key's: a service account's token opens the account's project, every
//! other well-formed token opens all.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{Method, request};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;

use self::auth::{Caller, number, owner};
use self::error::ApiError;
use self::options::{Options, Settings};
use self::route::Route;
use super::wire::Query;
use super::{Faults, RouteName, Service, under};
use crate::engine::Engine;
use crate::server::read_body;

mod auth;
mod bigquery;
mod body;
mod encoding;
mod error;
mod filter;
mod import;
mod jobs;
mod models;
mod options;
mod realtime;
mod reply;
mod route;
mod rows;
mod storage;
mod tables;

/// The face in the table of faces.
pub(super) static SERVICE: Vertex = Vertex;

/// The face's name in records and on the invoice.
const NAME: &str = "vertex";

/// Vertex AI and what belongs to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vertex;

impl Service for Vertex {
    fn base(&self) -> &'static str {
        "/vertex"
    }

    fn answers(&self, path: &str) -> bool {
        route::BASES.iter().any(|base| under(base, path))
    }

    fn route(&self, path: &str) -> Option<RouteName> {
        Route::of(path).map(|route| route.name())
    }

    fn handle<'a>(
        &'static self,
        engine: &'a Arc<Engine>,
        request: Request,
        faults: Faults,
    ) -> BoxFuture<'a, Response> {
        async move {
            match answer(engine, request, faults).await {
                Ok(response) => response,
                Err(error) => error.response(),
            }
        }
        .boxed()
    }

    fn options(&self, engine: &Engine) -> Value {
        serde_json::to_value(&*engine.state::<Settings>().get()).unwrap_or_default()
    }

    fn set_options(&self, engine: &Engine, options: &Value) -> Result<(), String> {
        let settings = engine.state::<Settings>();
        settings.set(settings.get().with(options)?);
        Ok(())
    }
}

/// One call: the engine, who calls, and its place in the sequence.
struct Call<'a> {
    engine: &'a Arc<Engine>,
    options: Arc<Options>,
    caller: Caller,
    sequence: u64,
    faults: Faults,
    /// Where the client reached us, for addresses in answers.
    host: String,
}

impl Call<'_> {
    fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }

    /// Refuses a project that the caller's token does not open; gives what its things are kept under.
    fn open(&self, project: &str, permission: &str, resource: &str) -> Result<String, ApiError> {
        let number = number(project);
        match &self.caller.project {
            Some(own) if auth::number(own) != number => Err(ApiError::new(
                403,
                format!("Permission '{permission}' denied on resource '{resource}' (or it may not exist)."),
            )
            .with_info("IAM_PERMISSION_DENIED")),
            _ => Ok(owner(&number)),
        }
    }
}

async fn answer(
    engine: &Arc<Engine>,
    request: Request,
    faults: Faults,
) -> Result<Response, ApiError> {
    let sequence = engine.next_sequence()?;
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Some(route) = Route::of(&path) else {
        return Err(ApiError::new(404, "Requested entity was not found."));
    };
    let host = parts
        .headers
        .get("host")
        .and_then(|host| host.to_str().ok())
        .unwrap_or("127.0.0.1");
    let mut call = Call {
        engine,
        options: engine.state::<Settings>().get(),
        caller: Caller { project: None },
        sequence,
        faults,
        host: host.to_owned(),
    };
    match (&parts.method, route) {
        (&Method::POST, Route::Token) => return auth::token(&call, body).await,
        (&Method::GET, Route::Metadata(path)) => {
            return auth::metadata(&call, path, &parts.headers);
        }
        _ => call.caller = auth::caller(engine, &parts.headers)?,
    }
    dispatch(&call, route, &parts, body).await
}

async fn dispatch(
    call: &Call<'_>,
    route: Route<'_>,
    parts: &request::Parts,
    body: Body,
) -> Result<Response, ApiError> {
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let method = &parts.method;
    let (get, post, delete) = (
        method == Method::GET,
        method == Method::POST,
        method == Method::DELETE,
    );
    match route {
        Route::Model { place, model, verb } if post => match verb {
            "generateContent" => realtime::generate(call, place, model, body).await,
            "streamGenerateContent" => realtime::stream(call, place, model, &query, body).await,
            "countTokens" => realtime::count(call, place, model, body).await,
            _ => Err(ApiError::of_status(404)),
        },
        Route::Models if get => models::list(&query),
        Route::ModelObject(model) if get => models::get(model),
        Route::Jobs(place) if post => jobs::create(call, place, body).await,
        Route::Jobs(place) if get => jobs::list(call, place, &query),
        Route::Job(place, id) if get => jobs::get(call, place, id),
        Route::Job(place, id) if delete => jobs::delete(call, place, id),
        Route::JobCancel(place, id) if post => jobs::cancel(call, place, id),
        Route::Bucket(bucket) if get => storage::bucket(call, bucket),
        Route::Objects(bucket) if get => storage::list(call, bucket, &query).await,
        Route::Object(bucket, name) if get => {
            storage::get(call, bucket, name, &query, &parts.headers).await
        }
        Route::Object(bucket, name) if delete => storage::delete(call, bucket, name),
        Route::Download(bucket, name) if get => {
            storage::content(call, bucket, name, &parts.headers).await
        }
        Route::Upload(bucket) => {
            storage::upload(call, method, bucket, &query, &parts.headers, body).await
        }
        Route::Dataset(project, dataset) if get => bigquery::dataset(call, project, dataset),
        Route::Table(table) if get => bigquery::table(call, table),
        Route::Table(table) if delete => bigquery::drop_table(call, table),
        Route::TableData(table) if get => bigquery::data(call, table, &query).await,
        Route::LoadJobs(project) if post => bigquery::load(call, project, body).await,
        Route::LoadJob(project, id) if get => bigquery::load_job(call, project, id),
        _ => Err(ApiError::new(405, "The method is not allowed here.")),
    }
}

/// Reads a body that is held in memory.
async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match read_body(body, limit).await {
        Some(Ok(body)) => Ok(body),
        Some(Err(_)) => Err(ApiError::invalid("The request broke off.")),
        None => Err(ApiError::new(
            413,
            format!("Request payload size exceeds the limit: {limit} bytes."),
        )),
    }
}

/// Reads a body that is one JSON object.
async fn read_json(body: Body, limit: usize) -> Result<serde_json::Map<String, Value>, ApiError> {
    let body = read(body, limit).await?;
    match serde_json::from_slice(&body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(ApiError::invalid(
            "Invalid JSON payload received. Expected a JSON object.",
        )),
    }
}
