//! A cached content as core's trait: what the pool makes, extends and deletes.

use super::cache::{CachedContent, NewCache};
use crate::convert::{model_name, prefix_fields};
use crate::provider::Gemini;
use async_trait::async_trait;
use batchwright_core::{CachedContext, ContextCache, Error, ErrorKind, Request, Result};
use batchwright_http::Secret;
use serde_json::Value;
use std::{fmt, time::Duration};

/// The most pages of the list that are read to find one: a hundred thousand entries.
const MAX_PAGES: usize = 100;

/// A beginning of prompts to be stored at Gemini, for the pool to keep. It is found again by its display name: the one
/// it was given, or one that tells its contents and model from all others. Whoever gives it a name of its own must give
/// other contents another.
#[derive(Clone)]
pub struct GeminiContext {
    gemini: Gemini,
    cache: NewCache,
    /// The model's name as the API writes it, `models/…`.
    model: String,
    display_name: String,
}

impl GeminiContext {
    pub(crate) fn new(gemini: Gemini, cache: NewCache) -> Result<Self> {
        let model = model_name(&cache.model)?;
        let display_name = match &cache.display_name {
            Some(name) => name.clone(),
            None => {
                let fields = Value::Object(prefix_fields(&cache.chat)?);
                let print = Secret::new(format!("{model}\0{fields}")).fingerprint();
                format!("batchwright-{print}")
            }
        };
        Ok(Self {
            cache: cache.with_display_name(display_name.clone()),
            gemini,
            model,
            display_name,
        })
    }

    fn is_this(&self, cache: &CachedContent) -> bool {
        cache.display_name.as_deref() == Some(&*self.display_name)
            && cache.model.as_deref() == Some(&*self.model)
    }
}

#[async_trait]
impl ContextCache for GeminiContext {
    fn model(&self) -> &str {
        &self.cache.model
    }

    async fn create(&self, ttl: Duration) -> Result<CachedContext> {
        let mut cache = self.cache.clone();
        cache.ttl = ttl;
        self.gemini.create_cache(&cache).await.map(context)
    }

    async fn find(&self) -> Result<Option<CachedContext>> {
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let page = self.gemini.caches(token.as_deref()).await?;
            // The one that ends last, where there is more than one.
            let found = page.caches.into_iter().filter(|cache| self.is_this(cache));
            if let Some(found) = found.max_by_key(|cache| cache.expires_at) {
                return Ok(Some(context(found)));
            }
            token = page.next_page_token;
            if token.is_none() {
                break;
            }
        }
        Ok(None)
    }

    async fn extend(&self, name: &str, ttl: Duration) -> Result<bool> {
        there(self.gemini.extend_cache(name, ttl).await)
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        there(self.gemini.cache(name).await)
    }

    async fn delete(&self, name: &str) -> Result<()> {
        self.gemini.delete_cache(name).await
    }

    fn begin(&self, name: &str, request: &Request) -> Request {
        super::cache::begin(name, request.clone())
    }
}

impl fmt::Debug for GeminiContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GeminiContext")
            .field("model", &self.model)
            .field("display_name", &self.display_name)
            .finish_non_exhaustive()
    }
}

fn context(cache: CachedContent) -> CachedContext {
    CachedContext::new(cache.name, cache.tokens)
}

/// Whether it is there. One that is gone is answered as one the key may not see.
fn there(answer: Result<CachedContent, Error>) -> Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
