//! Several keys of one provider, and keys that change while a run goes on.

use super::{
    balance::{Load, LoadPolicy},
    health::{Health, PlaceHealth},
    memory::Memory,
    place::{Place, Places},
    renewed::Renewed,
};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{ChatProvider, Error, ErrorKind, Request, Response, Result, RetryClass};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A client with the credential that is valid now. The credential itself stays within the client, which shows it to
/// nobody.
#[derive(Clone)]
#[non_exhaustive]
pub struct Credential {
    /// Calls with it.
    pub client: Arc<dyn ChatProvider>,
    /// For how long it is valid from now on; a new one is asked for when nine tenths of it have passed. `None` is until
    /// it is refused.
    pub valid_for: Option<Duration>,
}

impl Credential {
    /// A client whose credential is valid until it is refused.
    pub fn new(client: Arc<dyn ChatProvider>) -> Self {
        Self {
            client,
            valid_for: None,
        }
    }

    /// Says for how long it is valid.
    #[must_use]
    pub fn with_valid_for(mut self, valid_for: Duration) -> Self {
        self.valid_for = Some(valid_for);
        self
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("provider", &self.client.name())
            .field("valid_for", &self.valid_for)
            .finish_non_exhaustive()
    }
}

/// Where a key comes from that changes over time: a secret store, a file that is written anew, a broker of short-lived
/// tokens.
///
/// Clients hold their key for life, so a new key is a new client, with connections of its own. Providers whose tokens
/// end of themselves, as Vertex AI's do, renew them within one client and need none of this.
#[async_trait]
pub trait CredentialProvider: Send + Sync {
    /// The credential that is valid now. Asked before the first call, shortly before its time is over, and after the
    /// provider refused the one before; by one attempt for all.
    ///
    /// # Errors
    /// Every failure, without the credential. What may pass (`NotSent`, `Rejected`, `Ambiguous`) is tried again, and
    /// costs nothing; the rest closes its place.
    ///
    /// # Cancel safety
    /// Dropped with the attempt that asks; another asks again.
    async fn credential(&self) -> Result<Credential>;
}

/// Spreads items over several credentials of one provider.
///
/// To the pool each is a scope of its own, named by its label, with its own limits and rest. One that is refused (401,
/// 403) or has no money left is closed for the run, and the others go on; only where all are does the run stop, with
/// the error of the first. A limited one rests, and the others take its share. The label stands in scopes and
/// snapshots; the key stands nowhere.
///
/// Limits often belong to the account and not to the key: several keys of one account share them, and only slow one
/// another down.
///
/// A strategy around this one must pass [`on_error`](Strategy::on_error) on to it.
#[derive(Debug)]
pub struct RotatingCredentials {
    places: Places<Response>,
    health: Health,
    load: Load,
}

impl RotatingCredentials {
    /// Holds no credential yet. A run with none stops before anything is sent.
    pub fn new() -> Self {
        Self {
            places: Places::new([]),
            health: Health::default(),
            load: Load::new(LoadPolicy::default()),
        }
    }

    /// Adds a client with its key. `label` tells it from the others, and is no secret.
    #[must_use]
    pub fn with_client(mut self, label: &str, client: Arc<dyn ChatProvider>) -> Self {
        let place = Place::new(client).with_deployment(label);
        self.places.push(place, &self.health);
        self
    }

    /// Adds a key that changes over time, of this provider. `label` tells it from the others, and is no secret.
    #[must_use]
    pub fn with_changing(
        mut self,
        label: &str,
        provider: &str,
        source: Arc<dyn CredentialProvider>,
    ) -> Self {
        let changing = Arc::new(ChangingCredential::new(provider, source));
        let place = Place::of(provider, changing).with_deployment(label);
        self.places.push(place, &self.health);
        self
    }

    /// Sets how items are spread. Default [`LoadPolicy::LeastLoaded`].
    #[must_use]
    pub fn with_policy(mut self, policy: LoadPolicy) -> Self {
        self.load.policy = policy;
        self
    }

    /// What is known of each credential, by its label, in their order.
    pub fn snapshot(&self) -> Vec<PlaceHealth> {
        self.places.snapshot()
    }
}

impl Default for RotatingCredentials {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Strategy for RotatingCredentials {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.places.scope(&self.load, request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.places.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        self.places.execute(&self.load, request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.places
            .on_error(&self.load, request, error, attempt)
            .await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed> {
        self.places.dry_run(request)
    }

    async fn cleanup(&self) {
        self.places.cleanup().await;
    }
}

/// One key of a provider that changes over time: got before the first call, renewed before its time is over and when
/// it is refused.
///
/// A refused key is asked for anew once; where the new one is refused before it ever worked, the refusal stands.
///
/// A strategy around this one must pass [`on_error`](Strategy::on_error) on to it.
pub struct ChangingCredential {
    provider: Arc<str>,
    source: Arc<dyn CredentialProvider>,
    held: Renewed<Held>,
    memory: Memory,
    /// The number of the last one that worked, plus one.
    worked: AtomicU64,
}

#[derive(Clone)]
struct Held {
    client: Arc<dyn ChatProvider>,
    renew_at: Option<Instant>,
}

/// The number of the credential an item's attempt was made with.
#[derive(Default)]
struct Used(Option<u64>);

impl ChangingCredential {
    /// Keys of this provider from this source.
    pub fn new(provider: impl Into<Arc<str>>, source: Arc<dyn CredentialProvider>) -> Self {
        Self {
            provider: provider.into(),
            source,
            held: Renewed::new(),
            memory: Memory::new(),
            worked: AtomicU64::new(0),
        }
    }

    async fn held(&self) -> Result<(u64, Held)> {
        if let Some((number, held)) = self.held.current()
            && held.renew_at.is_some_and(|renew| renew <= Instant::now())
        {
            self.held.forget(number);
        }
        self.held
            .get(async {
                let asked = Instant::now();
                let got = self.source.credential().await?;
                let renew_at = got
                    .valid_for
                    .and_then(|valid| asked.checked_add(valid.mul_f64(0.9)));
                Ok(Held {
                    client: got.client,
                    renew_at,
                })
            })
            .await
    }
}

#[async_trait]
impl Strategy for ChangingCredential {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new(&self.provider, &request.model)
    }

    async fn prepare(&self) -> Result<()> {
        match self.held().await {
            // What may pass is found out by the attempts.
            Err(error) if !error.is_retryable() => Err(error),
            _ => Ok(()),
        }
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        self.memory.of_mut::<Used>(attempt.state).0 = None;
        // Whatever became of it, the item's own request has not left.
        let held = self.held().await.map_err(|error| match error.class() {
            RetryClass::Ambiguous => error.with_class(RetryClass::NotSent),
            _ => error,
        });
        let (number, held) = held?;
        self.memory.of_mut::<Used>(attempt.state).0 = Some(number);
        let options = attempt.call_options();
        let response = held.client.complete(request, &options).await?;
        self.worked.fetch_max(number + 1, Relaxed);
        Ok(response.into())
    }

    async fn on_error(&self, _request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        let is_refused = matches!(
            error.kind(),
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied
        );
        let Some(number) = self.memory.of_mut::<Used>(attempt.state).0.take() else {
            return Next::Usual;
        };
        if !is_refused {
            return Next::Usual;
        }
        // The first may be an old one; a later one that never worked is what there is.
        let may_renew = number == 0 || self.worked.load(Relaxed) > number;
        let renewed = self.held.current().is_none_or(|(now, _)| now > number);
        if renewed || (may_renew && self.held.forget(number)) {
            return Next::Elsewhere;
        }
        Next::Usual
    }

    fn dry_run(&self, request: &Request) -> Result<Executed> {
        let answer = Response::from_text(format!("dry run: {}", request.custom_id));
        Ok(Executed::from(answer).with_usage(batchwright_core::Usage::of(0, 0)))
    }
}

impl fmt::Debug for ChangingCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangingCredential")
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}
