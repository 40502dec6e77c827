//! The face of Google's Gemini developer API, `/gemini`: the versions `v1beta` and `v1` below it.

use std::io;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Map, Value};

use self::error::ApiError;
use self::switches::{Errors, Settings, Switches};
use super::wire::{KeyFault, KeyPlace, Query, caller, json};
use super::{Faults, RouteName, Service};
use crate::engine::Engine;
use crate::server::read_body;

mod batches;
mod body;
mod caches;
mod error;
mod files;
mod models;
mod proto;
mod realtime;
mod reply;
mod rows;
mod switches;

const NAME: &str = "gemini";
const BASE: &str = "/gemini";

/// The face in the table of faces.
pub(super) static SERVICE: Gemini = Gemini;

/// The face.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gemini;

impl Service for Gemini {
    fn base(&self) -> &'static str {
        BASE
    }

    fn route(&self, path: &str) -> Option<RouteName> {
        Some(RouteName {
            base: BASE,
            rest: Route::of(path.strip_prefix(BASE)?)?.name(),
        })
    }

    fn handle<'a>(
        &'static self,
        engine: &'a Arc<Engine>,
        request: Request,
        faults: Faults,
    ) -> BoxFuture<'a, Response> {
        handle(engine, request, faults).boxed()
    }

    fn options(&self, engine: &Engine) -> Value {
        serde_json::to_value(&*engine.state::<Settings>().switches()).unwrap_or_default()
    }

    fn set_options(&self, engine: &Engine, options: &Value) -> Result<(), String> {
        let settings = engine.state::<Settings>();
        settings.set(settings.switches().with(options)?);
        Ok(())
    }
}

/// What a model is asked to do, by the verb after its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Generate,
    Stream,
    Count,
    Embed,
    EmbedMany,
    BatchGenerate,
    BatchEmbed,
}

#[derive(Clone, Copy, Debug)]
enum Route<'a> {
    Models,
    Model(&'a str),
    Ask(&'a str, Verb),
    UploadStart,
    Upload(&'a str),
    Files,
    File(&'a str),
    Download(&'a str),
    Batches,
    Batch(&'a str),
    CancelBatch(&'a str),
    Caches,
    Cache(&'a str),
}

impl<'a> Route<'a> {
    fn of(rest: &'a str) -> Option<Self> {
        let mut rest = rest.strip_prefix('/')?;
        let place = ["upload", "download"].into_iter().find(|place| {
            rest.strip_prefix(place)
                .is_some_and(|rest| rest.starts_with('/'))
        });
        if let Some(place) = place {
            rest = &rest[place.len() + 1..];
        }
        let (version, rest) = rest.split_once('/')?;
        if !matches!(version, "v1beta" | "v1") {
            return None;
        }
        let (kind, id) = match rest.split_once('/') {
            Some((kind, id)) => (kind, Some(id)),
            None => (rest, None),
        };
        if id.is_some_and(|id| id.is_empty() || id.contains('/')) {
            return None;
        }
        let verb = id.and_then(|id| id.rsplit_once(':'));
        Some(match (place, kind, id, verb) {
            (Some("upload"), "files", None, _) => Self::UploadStart,
            (Some("upload"), "files", Some(id), None) => Self::Upload(id),
            (Some("download") | None, "files", _, Some((id, "download"))) => Self::Download(id),
            (Some(_), ..) => return None,
            (_, "models", None, _) => Self::Models,
            (_, "models", Some(id), None) => Self::Model(id),
            (_, "models", _, Some((id, verb))) => Self::Ask(
                id,
                match verb {
                    "generateContent" => Verb::Generate,
                    "streamGenerateContent" => Verb::Stream,
                    "countTokens" => Verb::Count,
                    "embedContent" => Verb::Embed,
                    "batchEmbedContents" => Verb::EmbedMany,
                    "batchGenerateContent" => Verb::BatchGenerate,
                    "asyncBatchEmbedContent" => Verb::BatchEmbed,
                    _ => return None,
                },
            ),
            (_, "files", None, _) => Self::Files,
            (_, "files", Some(id), None) => Self::File(id),
            (_, "batches", None, _) => Self::Batches,
            (_, "batches", Some(id), None) => Self::Batch(id),
            (_, "batches", _, Some((id, "cancel"))) => Self::CancelBatch(id),
            (_, "cachedContents", None, _) => Self::Caches,
            (_, "cachedContents", Some(id), None) => Self::Cache(id),
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Models => "/{version}/models",
            Self::Model(_) => "/{version}/models/{model}",
            Self::Ask(_, Verb::Generate) => "/{version}/models/{model}:generateContent",
            Self::Ask(_, Verb::Stream) => "/{version}/models/{model}:streamGenerateContent",
            Self::Ask(_, Verb::Count) => "/{version}/models/{model}:countTokens",
            Self::Ask(_, Verb::Embed) => "/{version}/models/{model}:embedContent",
            Self::Ask(_, Verb::EmbedMany) => "/{version}/models/{model}:batchEmbedContents",
            Self::Ask(_, Verb::BatchGenerate) => "/{version}/models/{model}:batchGenerateContent",
            Self::Ask(_, Verb::BatchEmbed) => "/{version}/models/{model}:asyncBatchEmbedContent",
            Self::UploadStart => "/upload/{version}/files",
            Self::Upload(_) => "/upload/{version}/files/{upload_id}",
            Self::Files => "/{version}/files",
            Self::File(_) => "/{version}/files/{file_id}",
            Self::Download(_) => "/{version}/files/{file_id}:download",
            Self::Batches => "/{version}/batches",
            Self::Batch(_) => "/{version}/batches/{batch_id}",
            Self::CancelBatch(_) => "/{version}/batches/{batch_id}:cancel",
            Self::Caches => "/{version}/cachedContents",
            Self::Cache(_) => "/{version}/cachedContents/{cache_id}",
        }
    }
}

/// One call: the engine, who calls, and its place in the sequence.
struct Call<'a> {
    engine: &'a Arc<Engine>,
    switches: Arc<Switches>,
    /// Fingerprint of the caller's key.
    key: String,
    sequence: u64,
    faults: Faults,
}

impl Call<'_> {
    fn now_ms(&self) -> i64 {
        self.engine.clock.now_ms()
    }

    fn asker(&self) -> body::Asker<'_> {
        body::Asker {
            engine: self.engine,
            key: &self.key,
            now_ms: self.now_ms(),
        }
    }
}

async fn handle(engine: &Arc<Engine>, request: Request, faults: Faults) -> Response {
    let switches = engine.state::<Settings>().switches();
    let sequence = match engine.next_sequence() {
        Ok(sequence) => sequence,
        Err(error) => return error_response(&switches, &disk_error(&error)),
    };
    let (parts, body) = request.into_parts();
    let path = parts.uri.path();
    let query = parts.uri.query().unwrap_or_default();
    let route = path.strip_prefix(BASE).and_then(Route::of);
    let places = [KeyPlace::Header("x-goog-api-key"), KeyPlace::Query("key")];
    let key = match (route, caller(engine, &parts.headers, query, &places)) {
        (_, Ok(key)) => Ok(key),
        // The address of an upload stands for its key.
        (Some(Route::Upload(_)), Err(KeyFault::Missing)) => Ok(String::new()),
        (_, Err(KeyFault::Missing)) => Err(ApiError::no_key()),
        (_, Err(KeyFault::Unknown)) => Err(ApiError::bad_key()),
    };
    let answered = match (route, key) {
        (Some(route), Ok(key)) => {
            let call = Call {
                engine,
                switches: Arc::clone(&switches),
                key,
                sequence,
                faults,
            };
            let query = Query::parse(query);
            dispatch(&call, &parts.method, route, &query, &parts.headers, body).await
        }
        (None, Ok(_)) => Err(ApiError::not_found("Not Found")),
        (_, Err(error)) => Err(error),
    };
    answered.unwrap_or_else(|error| error_response(&switches, &error))
}

async fn dispatch(
    call: &Call<'_>,
    method: &Method,
    route: Route<'_>,
    query: &Query,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    match (method.as_str(), route) {
        ("GET", Route::Models) => realtime::list_models(query),
        ("GET", Route::Model(name)) => realtime::model(name),
        ("POST", Route::Ask(name, verb)) => {
            let model =
                models::find(name).ok_or_else(|| ApiError::no_model(name, "generateContent"))?;
            match verb {
                Verb::Generate => realtime::generate(call, model, body).await,
                Verb::Stream => {
                    let sse = query.get("alt") == Some("sse");
                    realtime::stream(call, model, sse, body).await
                }
                Verb::Count => realtime::count(call, model, body).await,
                Verb::Embed => realtime::embed(call, model, body).await,
                Verb::EmbedMany => realtime::embed_many(call, model, body).await,
                Verb::BatchGenerate => batches::create(call, model, false, body).await,
                Verb::BatchEmbed => batches::create(call, model, true, body).await,
            }
        }
        ("POST", Route::UploadStart) => files::start(call, headers, body).await,
        ("POST" | "PUT", Route::Upload(id)) => files::upload(call, id, headers, body).await,
        ("GET", Route::Files) => files::list(call, query),
        ("GET", Route::File(id)) => files::get(call, id),
        ("DELETE", Route::File(id)) => files::delete(call, id),
        ("GET", Route::Download(id)) => files::download(call, id, headers).await,
        ("GET", Route::Batches) => batches::list(call, query).await,
        ("GET", Route::Batch(id)) => batches::get(call, id).await,
        ("DELETE", Route::Batch(id)) => batches::delete(call, id),
        ("POST", Route::CancelBatch(id)) => batches::cancel(call, id),
        ("POST", Route::Caches) => caches::create(call, body).await,
        ("GET", Route::Caches) => caches::list(call, query),
        ("GET", Route::Cache(id)) => caches::get(call, id),
        ("PATCH", Route::Cache(id)) => caches::update(call, id, query, body).await,
        ("DELETE", Route::Cache(id)) => caches::delete(call, id),
        _ => Err(ApiError::not_found("Not Found")),
    }
}

fn error_response(switches: &Switches, error: &ApiError) -> Response {
    let object = serde_json::json!({"error": error.status_object()});
    let mut response = match switches.errors {
        Errors::Object => json(&object),
        Errors::List => json(&[object]),
    };
    *response.status_mut() =
        StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn disk_error(error: &io::Error) -> ApiError {
    tracing::error!(%error, "the emulator's disk failed");
    ApiError::of_status(500)
}

/// Reads a JSON call's body.
async fn read(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    match read_body(body, limit).await {
        Some(Ok(body)) => Ok(body),
        Some(Err(_)) => Err(ApiError::invalid("The request body broke off.")),
        None => Err(ApiError::too_large(limit)),
    }
}

/// A page of numbered objects, as they are in order; an empty one is `{}`.
fn page(
    name: &str,
    objects: Vec<(u64, Value)>,
    query: &Query,
    most: usize,
) -> Result<Response, ApiError> {
    let named = |camel: &str, snake: &str| {
        let value = query.get(camel).or_else(|| query.get(snake));
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    let size = match named("pageSize", "page_size") {
        None => most.min(50),
        Some(size) => match size.parse::<usize>() {
            Ok(0) => most.min(50),
            Ok(size) => size.min(most),
            Err(_) => return Err(ApiError::invalid("Invalid value at 'page_size'")),
        },
    };
    let from = match named("pageToken", "page_token") {
        None => 0,
        Some(token) => {
            let last = token.strip_prefix("after-").and_then(|n| n.parse().ok());
            let at = objects.iter().position(|(n, _)| Some(*n) == last);
            at.ok_or_else(|| ApiError::invalid("Invalid page token"))? + 1
        }
    };
    let more = objects.len() > from + size;
    let taken: Vec<(u64, Value)> = objects.into_iter().skip(from).take(size).collect();
    let mut page = Map::new();
    if let (true, Some((last, _))) = (more, taken.last()) {
        page.insert("nextPageToken".to_owned(), format!("after-{last}").into());
    }
    if !taken.is_empty() {
        let objects = taken.into_iter().map(|(_, object)| object).collect();
        page.insert(name.to_owned(), Value::Array(objects));
    }
    Ok(json(&page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_names_without_ids() {
        for (path, name) in [
            (
                "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
                Some("/gemini/{version}/models/{model}:generateContent"),
            ),
            ("/gemini/v1/batches", Some("/gemini/{version}/batches")),
            (
                "/gemini/v1/batches/b1:cancel",
                Some("/gemini/{version}/batches/{batch_id}:cancel"),
            ),
            (
                "/gemini/download/v1beta/files/f1:download",
                Some("/gemini/{version}/files/{file_id}:download"),
            ),
            (
                "/gemini/upload/v1beta/files",
                Some("/gemini/upload/{version}/files"),
            ),
            ("/gemini/upload/v1beta/batches", None),
            ("/gemini/v1beta/models/x:fly", None),
            ("/gemini/v2/batches", None),
            ("/gemini", None),
        ] {
            let found = SERVICE.route(path).map(|route| route.to_string());
            assert_eq!(found.as_deref(), name, "{path}");
        }
    }
}
