//! Another request after an attempt that failed.

use super::memory::{Memory, OwnedScope};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, Request, Response, Result};
use std::{fmt, sync::Arc};

type Adapt = dyn Fn(&Request, &Error, u32) -> Option<Request> + Send + Sync;

/// Asks otherwise after a failed attempt: a function of the request, the error and the attempt's number makes the
/// request of the next attempt.
///
/// It is given the row's own request each time, not the changed one, so that changes do not pile up. `None` leaves
/// the next attempt as the last one was. The `custom_id` stays, whatever the function does. It is asked after every
/// failure, so one that only minds some looks at [`Error::kind`]; whether there is a next attempt is the pool's to say.
/// A function that panics changes nothing.
///
/// Around a [`Ladder`](crate::Ladder) and `Validated` rather than within: what it makes is then
/// what they begin with.
///
/// ```
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
/// use batchwright_core::{ErrorKind, Message, Payload};
/// use batchwright_realtime::{Adapted, Direct};
/// # use std::sync::Arc;
/// # struct Echo(Capability);
/// # #[async_trait::async_trait]
/// # impl ChatProvider for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn capability(&self) -> &Capability { &self.0 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> { Ok(Response::from_text("")) }
/// # }
/// # let provider = Arc::new(Echo(Capability::default()));
///
/// let adapted = Adapted::new(Arc::new(Direct::new(provider)), |request, error, _attempt| {
///     if error.kind() != ErrorKind::InvalidOutput {
///         return None;
///     }
///     let mut changed = request.clone();
///     if let Payload::Chat(chat) = &mut changed.payload {
///         let hint = format!("An earlier answer could not be used: {}. Be brief.", error.message());
///         chat.messages.push(Message::user(hint));
///     }
///     Some(changed)
/// });
/// # let _ = adapted;
/// ```
pub struct Adapted<T = Response> {
    inner: Arc<dyn Strategy<Output = T>>,
    adapt: Box<Adapt>,
    memory: Memory,
}

/// What the next attempt asks, where it was changed, and where that goes.
#[derive(Default)]
struct Changed {
    request: Option<Arc<Request>>,
    place: OwnedScope,
}

impl<T> Adapted<T> {
    /// `adapt` is given the row's request, the error and the number of the attempt that failed, from 1.
    pub fn new(
        inner: Arc<dyn Strategy<Output = T>>,
        adapt: impl Fn(&Request, &Error, u32) -> Option<Request> + Send + Sync + 'static,
    ) -> Self {
        Self {
            inner,
            adapt: Box::new(adapt),
            memory: Memory::new(),
        }
    }

    fn changed(&self, state: &ItemState) -> Option<Arc<Request>> {
        self.memory.of::<Changed>(state)?.request.clone()
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for Adapted<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        let Some(changed) = self.changed(state) else {
            return self.inner.scope(request, state);
        };
        let place = OwnedScope::of(self.inner.scope(&changed, &mut *state));
        let noted = self.memory.of_mut::<Changed>(state);
        noted.place = place;
        noted.place.scope()
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let changed = self.changed(attempt.state);
        let request = changed.as_deref().unwrap_or(request);
        self.inner.execute(request, attempt).await
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        let sent = self.changed(attempt.state);
        let sent = sent.as_deref().unwrap_or(request);
        let next = self.inner.on_error(sent, error, attempt).await;
        if let Some(mut changed) = (self.adapt)(request, error, attempt.number) {
            changed.custom_id.clone_from(&request.custom_id);
            let noted = self.memory.of_mut::<Changed>(attempt.state);
            noted.request = Some(Arc::new(changed));
        }
        next
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        self.inner.dry_run(request)
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for Adapted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Adapted").finish_non_exhaustive()
    }
}
