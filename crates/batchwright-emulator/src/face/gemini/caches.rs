//! Cached contents: create, get, list, extend, delete. They are kept in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::response::Response;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::body::{check_contents, list as fields, part_texts};
use super::error::ApiError;
use super::{Call, disk_error, models, page, proto, read};
use crate::answer::{PromptHash, tokens};
use crate::batch::RowUsage;
use crate::clock::{rfc3339, seconds};
use crate::face::wire::{Query, json as json_answer};
use crate::invoice::{Charge, Lane};
use crate::seed::id;

const HOUR_MS: i64 = 3_600_000;
const MAX_BODY: usize = 64 << 20;

/// A cached content.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    name: String,
    key: String,
    pub(super) model: &'static str,
    /// What was created, its names in camelCase.
    pub(super) body: Value,
    /// The texts of the prompt's beginning.
    pub(super) texts: Vec<String>,
    pub(super) tokens: u64,
    created_ms: i64,
    updated_ms: i64,
    expires_ms: i64,
}

impl Cache {
    fn object(&self) -> Value {
        let mut object = json!({
            "name": self.name,
            "model": format!("models/{}", self.model),
            "createTime": rfc3339(self.created_ms),
            "updateTime": rfc3339(self.updated_ms),
            "expireTime": rfc3339(self.expires_ms),
            "usageMetadata": {"totalTokenCount": self.tokens},
        });
        if let Some(name) = self.body["displayName"].as_str() {
            object["displayName"] = Value::from(name);
        }
        object
    }
}

/// All cached contents, by their number.
#[derive(Debug, Default)]
pub(super) struct Caches(Mutex<BTreeMap<u64, Cache>>);

impl Caches {
    pub(super) fn get(&self, key: &str, name: &str, now_ms: i64) -> Option<Cache> {
        let caches = self.lock();
        let found = caches
            .values()
            .find(|cache| cache.name == name && cache.key == key && now_ms < cache.expires_ms);
        found.cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Cache>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found() -> ApiError {
    ApiError::new(
        "PERMISSION_DENIED",
        "CachedContent not found (or permission denied)",
    )
}

pub(super) async fn create(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::CACHE)?;
    let name = body["model"].as_str().unwrap_or_default();
    let model = models::find(name)
        .filter(|model| !model.is_embedding())
        .ok_or_else(|| ApiError::no_model(name, "createCachedContent"))?;
    let contents = fields(&body, "contents");
    check_contents(contents)?;
    let texts: Vec<String> = part_texts(&body["systemInstruction"])
        .chain(contents.iter().flat_map(part_texts))
        .map(str::to_owned)
        .collect();
    let tokens = tokens(texts.iter().map(String::len).sum());
    let least = models::least_cached(model);
    if tokens < least {
        return Err(ApiError::invalid(format!(
            "Cached content is too small. total_token_count={tokens}, min_total_token_count={least}"
        )));
    }
    let now_ms = call.now_ms();
    let cache = Cache {
        name: format!(
            "cachedContents/{}",
            id("", call.engine.config.seed, 42, call.sequence)
        ),
        key: call.key.clone(),
        model: model.name,
        expires_ms: expiry(&body, now_ms)?.unwrap_or(now_ms + HOUR_MS),
        texts,
        tokens,
        created_ms: now_ms,
        updated_ms: now_ms,
        body,
    };
    let usage = RowUsage {
        input: tokens,
        ..RowUsage::default()
    };
    let hash = PromptHash::of(&cache.texts).to_string();
    call.engine
        .invoice
        .charge(&Charge {
            face: super::NAME,
            key: &call.key,
            lane: Lane::Realtime,
            custom_id: None,
            request_id: &cache.name,
            prompt_hash: &hash,
            model: model.dated,
            batch_id: None,
            input_tokens: tokens,
            cached_input_tokens: 0,
            output_tokens: 0,
            price_usd: model.price_usd(usage, false),
            at: seconds(now_ms),
        })
        .map_err(|error| disk_error(&error))?;
    let object = cache.object();
    call.engine
        .state::<Caches>()
        .lock()
        .insert(call.sequence, cache);
    Ok(json_answer(&object))
}

pub(super) fn get(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let caches = call.engine.state::<Caches>();
    let cache = caches.get(&call.key, &format!("cachedContents/{id}"), call.now_ms());
    Ok(json_answer(&cache.ok_or_else(not_found)?.object()))
}

pub(super) fn list(call: &Call<'_>, query: &Query) -> Result<Response, ApiError> {
    let caches = call.engine.state::<Caches>();
    let now_ms = call.now_ms();
    let objects = caches
        .lock()
        .iter()
        .filter(|(_, cache)| cache.key == call.key && now_ms < cache.expires_ms)
        .map(|(sequence, cache)| (*sequence, cache.object()))
        .collect();
    page("cachedContents", objects, query, 1_000)
}

/// Changes the expiry, the one thing that can be changed.
pub(super) async fn update(
    call: &Call<'_>,
    id: &str,
    query: &Query,
    body: Body,
) -> Result<Response, ApiError> {
    let body = proto::read(&read(body, MAX_BODY).await?, &proto::CACHE)?;
    let now_ms = call.now_ms();
    let mask = query
        .get("updateMask")
        .or_else(|| query.get("update_mask"))
        .unwrap_or_default();
    let fine = mask
        .split(',')
        .all(|field| matches!(field, "" | "ttl" | "expireTime" | "expire_time"));
    let expires_ms = expiry(&body, now_ms)?.filter(|_| fine).ok_or_else(|| {
        ApiError::invalid("Only ttl or expire_time of a CachedContent can be updated.")
    })?;
    let name = format!("cachedContents/{id}");
    let caches = call.engine.state::<Caches>();
    let mut caches = caches.lock();
    let cache = caches
        .values_mut()
        .find(|cache| cache.name == name && cache.key == call.key && now_ms < cache.expires_ms)
        .ok_or_else(not_found)?;
    cache.expires_ms = expires_ms;
    cache.updated_ms = now_ms;
    Ok(json_answer(&cache.object()))
}

pub(super) fn delete(call: &Call<'_>, id: &str) -> Result<Response, ApiError> {
    let name = format!("cachedContents/{id}");
    let now_ms = call.now_ms();
    let caches = call.engine.state::<Caches>();
    let mut caches = caches.lock();
    let found = caches.iter().find(|(_, cache)| {
        cache.name == name && cache.key == call.key && now_ms < cache.expires_ms
    });
    let sequence = *found.ok_or_else(not_found)?.0;
    caches.remove(&sequence);
    Ok(json_answer(&json!({})))
}

/// When `ttl` or `expireTime` of a body says that it ends.
fn expiry(body: &Value, now_ms: i64) -> Result<Option<i64>, ApiError> {
    match (body["ttl"].as_str(), body["expireTime"].as_str()) {
        (Some(ttl), None) => {
            let seconds: Option<f64> = ttl.strip_suffix('s').and_then(|ttl| ttl.parse().ok());
            let ttl = seconds
                .filter(|seconds| *seconds > 0.0)
                .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
                .and_then(|ttl| i64::try_from(ttl.as_millis()).ok())
                .ok_or_else(|| ApiError::invalid(format!("Invalid value at 'ttl': {ttl}")))?;
            Ok(Some(now_ms.saturating_add(ttl)))
        }
        (None, Some(at)) => {
            let at: Timestamp = at
                .parse()
                .map_err(|_| ApiError::invalid("Invalid value at 'expire_time'"))?;
            if at.as_millisecond() <= now_ms {
                return Err(ApiError::invalid("expire_time must be in the future."));
            }
            Ok(Some(at.as_millisecond()))
        }
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "ttl and expire_time cannot be set together.",
        )),
    }
}
