//! The beginning many prompts share, stored at a provider for a time.

use crate::{Request, Result};
use async_trait::async_trait;
use std::time::Duration;

/// One beginning of prompts that a provider can store, and how it is kept there. A provider's crate implements it; the
/// pool decides when it is made, extended and deleted.
#[async_trait]
pub trait ContextCache: Send + Sync {
    /// The model it is for.
    fn model(&self) -> &str;

    /// Stores it. Sent exactly once: storing costs its input tokens, and money for every hour it is kept.
    ///
    /// # Errors
    /// Every failure, with the class that says what may follow.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is stored; it ends by itself then, after its time.
    async fn create(&self, ttl: Duration) -> Result<CachedContext>;

    /// One that is stored already, by an earlier run or another process, whatever its remaining time.
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn find(&self) -> Result<Option<CachedContext>>;

    /// Lets it live for `ttl` from now on; `false` where it is gone.
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open which time holds; extending again is harmless.
    async fn extend(&self, name: &str, ttl: Duration) -> Result<bool>;

    /// Whether it is still there.
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    async fn exists(&self, name: &str) -> Result<bool>;

    /// Deletes it; one that is gone is fine.
    ///
    /// # Errors
    /// Every failure of the call.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is gone; deleting again is harmless.
    async fn delete(&self, name: &str) -> Result<()>;

    /// Makes `request` begin with it.
    fn begin(&self, name: &str, request: &Request) -> Request;
}

/// A beginning of prompts that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CachedContext {
    /// Its name at the provider.
    pub name: String,
    /// How many tokens it holds, where the provider said.
    pub tokens: Option<u64>,
}

impl CachedContext {
    /// Stored under this name.
    pub fn new(name: impl Into<String>, tokens: Option<u64>) -> Self {
        Self {
            name: name.into(),
            tokens,
        }
    }
}
