//! Cached contents: the beginning many prompts share, stored at the provider for a time.

use crate::client::Client;
use crate::convert::{model_name, prefix_fields, usage};
use crate::error::DENIED;
use crate::wire::{CacheObject, CachePage as WirePage, UsageMetadata};
use batchwright_core::{Chat, Error, ErrorKind, Request, Result, Timestamp};
use batchwright_http::{Asked, Reply, hollow, wire::lenient};
use serde_json::Value;
use std::time::Duration;

/// Entries of one page (API reference, `cachedContents.list`, `pageSize`, at most 1000).
const PAGE: usize = 1000;

/// The most characters of a display name (API reference, `CachedContent`, `displayName`).
const MAX_DISPLAY_NAME: usize = 128;

/// The extra field of a request that names a cached content.
const FIELD: &str = "cachedContent";

/// What is to be cached. Nothing of it but its time can be changed later.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NewCache {
    /// The model it is for: a request that uses it must ask the same one.
    pub model: String,
    /// What prompts begin with: a system message, turns, tools. The answer's form belongs into the request.
    pub chat: Chat,
    /// A name to find it by in the list, at most 128 characters.
    pub display_name: Option<String>,
    /// How long it lives from its creation, above zero. For a batch more than 48 h, since the batch may wait so long.
    pub ttl: Duration,
}

/// A cached content, without what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedContent {
    /// Its name, `cachedContents/…`.
    pub name: String,
    /// The model it is for, `models/…`.
    pub model: Option<String>,
    /// The name it was given.
    pub display_name: Option<String>,
    /// When it was created, by the provider's clock.
    pub created_at: Option<Timestamp>,
    /// When it ends, by the provider's clock.
    pub expires_at: Option<Timestamp>,
    /// How many tokens it holds.
    pub tokens: Option<u64>,
}

/// A page of the list of cached contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachePage {
    /// Its entries.
    pub caches: Vec<CachedContent>,
    /// Where the next page starts; `None` on the last one.
    pub next_page_token: Option<String>,
}

impl NewCache {
    /// This beginning for this model and time, without a name of its own.
    pub fn new(model: impl Into<String>, chat: Chat, ttl: Duration) -> Self {
        Self {
            model: model.into(),
            chat,
            display_name: None,
            ttl,
        }
    }

    /// Names it.
    #[must_use]
    pub fn with_display_name(mut self, name: impl Into<String>) -> Self {
        self.display_name = Some(name.into());
        self
    }
}

impl CachedContent {
    /// Makes `request` begin with it. The request must not have a system message or tools of its own: they are in the
    /// cache, and the API takes them in one place only.
    #[must_use]
    pub fn begin(&self, request: Request) -> Request {
        begin(&self.name, request)
    }
}

pub(crate) fn begin(name: &str, mut request: Request) -> Request {
    request.extra.insert(FIELD.to_owned(), Value::from(name));
    request
}

pub(crate) async fn create(client: &Client, cache: &NewCache) -> Result<CachedContent> {
    let mut fields = prefix_fields(&cache.chat)?;
    if fields.is_empty() {
        return Err(invalid("there is nothing to be cached"));
    }
    fields.insert("model".to_owned(), model_name(&cache.model)?.into());
    fields.insert("ttl".to_owned(), duration(cache.ttl)?.into());
    if let Some(name) = &cache.display_name {
        if name.chars().count() > MAX_DISPLAY_NAME {
            return Err(invalid("a display name has at most 128 characters"));
        }
        fields.insert("displayName".to_owned(), name.as_str().into());
    }
    let body = Value::Object(fields).to_string().into_bytes();
    let reply = client.create_cache(body).await?;
    if !reply.is_success() {
        return Err(client.refused(Asked::Inference, &reply));
    }
    one(client, &reply)
}

pub(crate) async fn get(client: &Client, name: &str) -> Result<CachedContent> {
    one(client, &client.get_cache(name).await?)
}

pub(crate) async fn list(client: &Client, token: Option<&str>) -> Result<CachePage> {
    let reply = client.list_caches(PAGE, token).await?;
    let page: WirePage<'_> = client.object(&reply)?;
    let caches = page
        .cached_contents
        .into_iter()
        .filter_map(|raw| read(lenient(Some(raw))?));
    Ok(CachePage {
        caches: caches.collect(),
        next_page_token: page.next_page_token.filter(|token| !token.is_empty()),
    })
}

pub(crate) async fn extend(client: &Client, name: &str, ttl: Duration) -> Result<CachedContent> {
    let body = serde_json::json!({"ttl": duration(ttl)?}).to_string();
    one(client, &client.update_cache(name, body.into_bytes()).await?)
}

pub(crate) async fn delete(client: &Client, name: &str) -> Result<()> {
    let reply = client.delete_cache(name).await?;
    if reply.is_success() || reply.status == 404 {
        return Ok(());
    }
    let error = client.refused(Asked::Object, &reply);
    // What an unknown one gets.
    if reply.status == 403 && error.code() == Some(DENIED) {
        return Ok(());
    }
    Err(error)
}

fn one(client: &Client, reply: &Reply) -> Result<CachedContent> {
    read(client.object(reply)?)
        .ok_or_else(|| hollow("read the cached content: the answer has no name"))
}

fn read(object: CacheObject<'_>) -> Option<CachedContent> {
    let used: UsageMetadata = lenient(object.usage_metadata).unwrap_or_default();
    let tokens = used
        .total_token_count
        .or(usage(object.usage_metadata).input_tokens);
    Some(CachedContent {
        name: object.name.filter(|name| !name.is_empty())?,
        model: object.model,
        display_name: object.display_name,
        created_at: object.create_time,
        expires_at: object.expire_time,
        tokens,
    })
}

/// A duration as ProtoJSON writes it.
fn duration(ttl: Duration) -> Result<String> {
    if ttl < Duration::from_millis(1) {
        return Err(invalid("its time must be at least a millisecond"));
    }
    let (seconds, millis) = (ttl.as_secs(), ttl.subsec_millis());
    Ok(match millis {
        0 => format!("{seconds}s"),
        millis => format!("{seconds}.{millis:03}s"),
    })
}

fn invalid(message: &str) -> Error {
    Error::new(
        ErrorKind::InvalidRequest,
        format!("cache the content: {message}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_protojson_does() {
        for (millis, text) in [(600_000, "600s"), (1_500, "1.500s"), (1, "0.001s")] {
            assert_eq!(duration(Duration::from_millis(millis)).unwrap(), text);
        }
        assert!(duration(Duration::ZERO).is_err());
    }
}
