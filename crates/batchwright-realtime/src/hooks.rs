//! The caller's code a pool calls besides its strategy.

use crate::{ErrorClassifier, Middleware, Observer, OnProgress, PostProcessor};
use std::{fmt, sync::Arc, time::Duration};

/// Bounds for the caller's code that a pool calls besides its strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookOptions {
    /// The longest one call of a [`Middleware`] may take. Default 90 s, as for a post-processor.
    pub middleware_timeout: Duration,
    /// The longest one call of a [`PostProcessor`] may take. Default 90 s: long enough for a slow database, and a hang
    /// costs one place for no longer.
    pub post_process_timeout: Duration,
    /// After how many ended rows the progress is logged (at level debug) and told to the callback; 0 is never, but for
    /// the callback's last call. Default 10.
    pub progress_interval: u64,
    /// The longest one progress callback may take. Default 5 s.
    pub progress_timeout: Duration,
    /// Events kept for an observer that is behind; what does not fit is counted as missed. At least 1. Default 1,024.
    pub event_queue: usize,
    /// How long the end of a run waits for observers and the progress callback to see what is left for them. Default
    /// 5 s.
    pub patience: Duration,
}

impl Default for HookOptions {
    fn default() -> Self {
        Self {
            middleware_timeout: Duration::from_secs(90),
            post_process_timeout: Duration::from_secs(90),
            progress_interval: 10,
            progress_timeout: Duration::from_secs(5),
            event_queue: 1024,
            patience: Duration::from_secs(5),
        }
    }
}

impl HookOptions {
    /// Bounds one call of a middleware.
    #[must_use]
    pub fn with_middleware_timeout(mut self, timeout: Duration) -> Self {
        self.middleware_timeout = timeout;
        self
    }

    /// Bounds one call of a post-processor.
    #[must_use]
    pub fn with_post_process_timeout(mut self, timeout: Duration) -> Self {
        self.post_process_timeout = timeout;
        self
    }

    /// Sets after how many ended rows progress is told; 0 is never.
    #[must_use]
    pub fn with_progress_interval(mut self, rows: u64) -> Self {
        self.progress_interval = rows;
        self
    }

    /// Bounds one progress callback.
    #[must_use]
    pub fn with_progress_timeout(mut self, timeout: Duration) -> Self {
        self.progress_timeout = timeout;
        self
    }

    /// Bounds the events kept for an observer; 0 counts as 1.
    #[must_use]
    pub fn with_event_queue(mut self, events: usize) -> Self {
        self.event_queue = events;
        self
    }

    /// Bounds how long the end of a run waits for observers.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}

/// All of it, in the order it was added.
pub(crate) struct Hooks<T> {
    pub(crate) middlewares: Vec<Arc<dyn Middleware<T>>>,
    pub(crate) post_processors: Vec<Arc<dyn PostProcessor<T>>>,
    pub(crate) observers: Vec<Arc<dyn Observer>>,
    pub(crate) classifier: Option<Arc<dyn ErrorClassifier>>,
    pub(crate) progress: Option<OnProgress>,
    pub(crate) options: HookOptions,
}

impl<T> Default for Hooks<T> {
    fn default() -> Self {
        Self {
            middlewares: Vec::new(),
            post_processors: Vec::new(),
            observers: Vec::new(),
            classifier: None,
            progress: None,
            options: HookOptions::default(),
        }
    }
}

impl<T> Clone for Hooks<T> {
    fn clone(&self) -> Self {
        Self {
            middlewares: self.middlewares.clone(),
            post_processors: self.post_processors.clone(),
            observers: self.observers.clone(),
            classifier: self.classifier.clone(),
            progress: self.progress.clone(),
            options: self.options.clone(),
        }
    }
}

impl<T> fmt::Debug for Hooks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks")
            .field("middlewares", &self.middlewares.len())
            .field("post_processors", &self.post_processors.len())
            .field("observers", &self.observers.len())
            .field("classifier", &self.classifier.is_some())
            .field("progress", &self.progress.is_some())
            .field("options", &self.options)
            .finish()
    }
}
