//! The provider to be proven, and how it is made.

use crate::{
    double::{Double, Powers, Start},
    live::Live,
};
use batchwright_core::{BatchLimits, BatchProvider, Capability, ChatProvider, Result};
use batchwright_emulator::Face;
use serde_json::{Value, json};
use std::{fmt, future::Future, sync::Arc};

/// Where a provider is to send its calls, and with which key.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Place {
    /// The base URL: a face's, as [`Emulator::base_url`](batchwright_emulator::Emulator::base_url) gives it, one before
    /// the [`Double`], or the vendor's own.
    pub base_url: String,
    /// The emulator's control URL, for providers that reach it at a second address; else empty.
    pub control_url: String,
    /// The key.
    pub key: String,
}

impl Place {
    pub(crate) fn new(base_url: String, control_url: String, key: &str) -> Self {
        Self {
            base_url,
            control_url,
            key: key.to_owned(),
        }
    }
}

/// A provider, as far as it has either trait.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Made {
    /// Its direct calls.
    pub realtime: Option<Arc<dyn ChatProvider>>,
    /// Its batches.
    pub batch: Option<Arc<dyn BatchProvider>>,
}

impl Made {
    /// A provider with both.
    pub fn both(provider: impl ChatProvider + BatchProvider + Clone + 'static) -> Self {
        Self {
            realtime: Some(Arc::new(provider.clone())),
            batch: Some(Arc::new(provider)),
        }
    }

    /// A provider of direct calls only.
    pub fn realtime(provider: impl ChatProvider + 'static) -> Self {
        Self {
            realtime: Some(Arc::new(provider)),
            batch: None,
        }
    }

    /// A provider of batches only.
    pub fn batch(provider: impl BatchProvider + 'static) -> Self {
        Self {
            realtime: None,
            batch: Some(Arc::new(provider)),
        }
    }

    pub(crate) fn name(&self) -> String {
        let batch = self.batch.as_ref().map(|batch| batch.name());
        let name = batch.or_else(|| Some(self.realtime.as_ref()?.name()));
        name.unwrap_or_default().to_owned()
    }

    pub(crate) fn capability(&self) -> Capability {
        match (&self.batch, &self.realtime) {
            (Some(batch), _) => batch.capability().clone(),
            (None, Some(realtime)) => realtime.capability().clone(),
            (None, None) => Capability::default(),
        }
    }
}

impl fmt::Debug for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Made")
            .field("realtime", &self.realtime.is_some())
            .field("batch", &self.batch.is_some())
            .finish()
    }
}

/// A call of the provider, as fault rules and counts name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The whole path with the base URL's own part; `*` stands for any run of characters.
    pub path: &'static str,
    /// The name the emulator counts it under; a double's calls are counted by `path`.
    pub counted: &'static str,
}

impl Route {
    /// A route that is counted under its path.
    pub const fn new(method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            counted: path,
        }
    }

    /// Sets the name the emulator counts it under, where the path holds an id or a model.
    #[must_use]
    pub const fn counted_as(mut self, name: &'static str) -> Self {
        self.counted = name;
        self
    }
}

/// The provider's calls that cases let go wrong. A case that needs one that is not there is ignored.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made with `..Routes::default()`, so further routes break nobody"
)]
pub struct Routes {
    /// A direct chat call.
    pub complete: Option<Route>,
    /// The upload of an input.
    pub upload: Option<Route>,
    /// The creation of a batch.
    pub create: Option<Route>,
    /// A batch's state.
    pub status: Option<Route>,
    /// The download of results.
    pub results: Option<Route>,
}

type Make = dyn Fn(&Place) -> Result<Made> + Send + Sync;

/// What stands where the vendor does.
#[derive(Clone)]
pub(crate) enum Stage {
    Emulator(Face),
    Double(Powers, Start),
    Live(Live),
}

/// An error in a shape most vendors' readers take.
fn usual_refusal(status: u16, message: &str) -> Value {
    json!({"type": "error", "error": {
        "message": message, "type": "invalid_request_error", "status": "INVALID_ARGUMENT", "code": status
    }})
}

/// A provider to be proven.
#[derive(Clone)]
pub struct Subject {
    pub(crate) name: &'static str,
    pub(crate) stage: Stage,
    pub(crate) model: &'static str,
    pub(crate) routes: Routes,
    pub(crate) refusal: fn(u16, &str) -> Value,
    make: Arc<Make>,
    without: Vec<(&'static str, &'static str)>,
}

impl Subject {
    /// A provider under `name`, which stands before its cases, that speaks `face`'s protocol and asks `model`.
    pub fn new(
        name: &'static str,
        face: Face,
        model: &'static str,
        routes: Routes,
        make: impl Fn(&Place) -> Result<Made> + Send + Sync + 'static,
    ) -> Self {
        Self::at(Stage::Emulator(face), name, model, routes, make)
    }

    /// A provider whose protocol the emulator does not speak, over a server of its own: `start` is called for each
    /// case, and `powers` says what that server can do besides.
    pub fn double<D, F>(
        name: &'static str,
        model: &'static str,
        routes: Routes,
        powers: Powers,
        start: impl Fn() -> F + Send + Sync + 'static,
        make: impl Fn(&Place) -> Result<Made> + Send + Sync + 'static,
    ) -> Self
    where
        D: Double + 'static,
        F: Future<Output = D> + Send + 'static,
    {
        let start: Start = Arc::new(move || {
            let started = start();
            Box::pin(async move { Box::new(started.await) as Box<dyn Double> })
        });
        Self::at(Stage::Double(powers, start), name, model, routes, make)
    }

    /// A provider over the vendor itself, which costs money: only a few cases apply, and each is ignored unless
    /// [`Live`] says that it may run.
    pub fn live(
        name: &'static str,
        live: Live,
        model: &'static str,
        make: impl Fn(&Place) -> Result<Made> + Send + Sync + 'static,
    ) -> Self {
        Self::at(Stage::Live(live), name, model, Routes::default(), make)
    }

    fn at(
        stage: Stage,
        name: &'static str,
        model: &'static str,
        routes: Routes,
        make: impl Fn(&Place) -> Result<Made> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name,
            stage,
            model,
            routes,
            refusal: usual_refusal,
            make: Arc::new(make),
            without: Vec::new(),
        }
    }

    /// Sets the body in which the vendor refuses a call with this status and in these words. Default: one that most
    /// vendors' readers take.
    #[must_use]
    pub fn with_refusal(mut self, refusal: fn(u16, &str) -> Value) -> Self {
        self.refusal = refusal;
        self
    }

    /// Leaves out a case, by its name, for this reason.
    #[must_use]
    pub fn without(mut self, case: &'static str, reason: &'static str) -> Self {
        self.without.push((case, reason));
        self
    }

    pub(crate) fn make(&self, place: &Place) -> Made {
        (self.make)(place).expect("the provider is made")
    }

    /// The provider at an address nobody listens at: for what needs no network.
    pub(crate) fn offline(&self) -> Made {
        let nowhere = || "http://127.0.0.1:1".to_owned();
        self.make(&Place::new(nowhere(), nowhere(), "offline"))
    }

    pub(crate) fn limits(&self) -> Option<BatchLimits> {
        self.offline().capability().batch
    }

    pub(crate) fn left_out(&self, case: &str) -> Option<&'static str> {
        let found = self.without.iter().find(|(name, _)| *name == case);
        found.map(|(_, reason)| *reason)
    }

    pub(crate) fn left_out_names(&self) -> impl Iterator<Item = &'static str> {
        self.without.iter().map(|(name, _)| *name)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("name", &self.name)
            .field("model", &self.model)
            .field("routes", &self.routes)
            .field("without", &self.without)
            .finish_non_exhaustive()
    }
}
