//! Answers read into a Rust type.

use super::{contract::Contract, portable::portable, rejection::Fault};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Ending, Error, Request, Response, ResponseFormat, Result};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use std::{fmt, sync::Arc};

type Check<T> = dyn Fn(&T) -> Result<(), String> + Send + Sync;
type Sample<T> = dyn Fn(&Request) -> T + Send + Sync;

/// Reads answers into `T`: the schema comes from the type, the value from the answer.
///
/// An answer is read, rejected and asked for again as [`Validated`](crate::Validated) does: held to the type's schema,
/// then read by serde, then shown to the [check](Self::with_check).
///
/// What is sent is a part of the schema that every vendor takes: bounds of numbers and lengths, and formats of numbers,
/// are left out, and objects are closed with all their properties required, so an `Option` comes as `null`. The answer
/// is held to the whole. A type with a map of names the schema does not know cannot be closed; some vendors refuse it.
///
/// ```
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Response, Result};
/// use batchwright_core::{Ending, Message, Request};
/// use batchwright_realtime::{Direct, NoLog, ParallelPool, PoolOptions, Structured, WorkItem};
/// use futures::{StreamExt, stream};
/// use std::sync::Arc;
/// use tokio_util::sync::CancellationToken;
/// # struct Echo(Capability);
/// # #[async_trait::async_trait]
/// # impl ChatProvider for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn capability(&self) -> &Capability { &self.0 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> {
/// #         Ok(Response::from_text("{\"name\": \"oak\", \"age\": 90}"))
/// #     }
/// # }
///
/// #[derive(schemars::JsonSchema, serde::Deserialize)]
/// struct Tree {
///     name: String,
///     age: u32,
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let provider = Arc::new(Echo(Capability::default()));
/// let strategy = Structured::<Tree>::new(Arc::new(Direct::new(provider)))?.with_check(|tree| {
///     if tree.age < 5_000 { Ok(()) } else { Err("no tree is that old".to_owned()) }
/// });
/// let pool = ParallelPool::with_strategy(Arc::new(strategy), PoolOptions::default());
/// let rows = stream::iter((0..3).map(|row| {
///     let question = [Message::user("Which tree is that?")];
///     Ok(WorkItem::new(row, Request::chat(row.to_string(), "small", question)))
/// }));
/// let mut run = pool.run(rows, Arc::new(NoLog), CancellationToken::new());
/// while let Some(finished) = run.next().await {
///     let Ending::Succeeded(tree) = finished.outcome.ending else { unreachable!("the model is never wrong") };
///     assert_eq!((tree.name.as_str(), tree.age), ("oak", 90));
/// }
/// # Ok(())
/// # }
/// ```
pub struct Structured<T> {
    inner: Arc<dyn Strategy<Output = Response>>,
    contract: Contract,
    check: Option<Box<Check<T>>>,
    sample: Option<Box<Sample<T>>>,
}

impl<T: JsonSchema + DeserializeOwned + Send + 'static> Structured<T> {
    /// Reads the answers of `inner`. The schema is compiled here, once.
    ///
    /// # Errors
    /// `ConfigInvalid` where the type's schema is none, which a hand-written one can be.
    pub fn new(inner: Arc<dyn Strategy<Output = Response>>) -> Result<Self> {
        let schema = SchemaGenerator::default()
            .into_root_schema_for::<T>()
            .to_value();
        let contract = Contract::new(&schema, &T::schema_name(), portable(&schema))?;
        Ok(Self {
            inner,
            contract,
            check: None,
            sample: None,
        })
    }

    /// Another check of a value; see [`Validated::with_check`](crate::Validated::with_check).
    #[must_use]
    pub fn with_check(
        mut self,
        check: impl Fn(&T) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    /// What a dry run answers. Without it a dry run reads what the strategy within shows, which is mostly no `T`.
    #[must_use]
    pub fn with_dry_run(mut self, sample: impl Fn(&Request) -> T + Send + Sync + 'static) -> Self {
        self.sample = Some(Box::new(sample));
        self
    }

    /// Asks the vendor to hold the model to the schema; see [`Validated::with_strict`](crate::Validated::with_strict).
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.contract.set_strict(strict);
        self
    }

    /// Asks for this form of answer instead of the schema; see
    /// [`Validated::with_response_format`](crate::Validated::with_response_format).
    #[must_use]
    pub fn with_response_format(mut self, format: ResponseFormat) -> Self {
        self.contract.format = format;
        self
    }

    /// The bytes of a rejected answer that are shown to the model again; see
    /// [`Validated::with_feedback`](crate::Validated::with_feedback).
    #[must_use]
    pub fn with_feedback(mut self, max_answer_bytes: usize) -> Self {
        self.contract.feedback = max_answer_bytes;
        self
    }

    fn judge(&self, executed: Executed, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        self.contract
            .judge(executed, attempt, |_response, json, _value| {
                let output: T = serde_json::from_str(json).map_err(|error| {
                    let place = match (error.line(), error.column()) {
                        (0, _) => String::new(),
                        (line, column) => format!(" at line {line}, column {column}"),
                    };
                    Fault::whole(format!("it does not fit the type{place}"))
                        .with_detail(&error.to_string())
                })?;
                if let Some(check) = &self.check {
                    check(&output).map_err(|why| Fault::refused_by_check(&why))?;
                }
                Ok(output)
            })
    }
}

#[async_trait]
impl<T: JsonSchema + DeserializeOwned + Send + 'static> Strategy for Structured<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.inner.scope(request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let request = self.contract.ask(request, attempt.state)?;
        let executed = self.inner.execute(&request, attempt).await?;
        self.judge(executed, attempt)
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.inner.on_error(request, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        if let Some(sample) = &self.sample {
            let shown = Executed::ended(Ending::Succeeded(sample(request)));
            return Ok(shown.with_usage(batchwright_core::Usage::of(0, 0)));
        }
        let mut state = ItemState::default();
        let mut attempt = Attempt::new(1, std::time::Duration::MAX, &mut state);
        self.judge(self.inner.dry_run(request)?, &mut attempt)
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

impl<T> fmt::Debug for Structured<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Structured")
            .field("type", &std::any::type_name::<T>())
            .field("contract", &self.contract)
            .field("check", &self.check.is_some())
            .finish_non_exhaustive()
    }
}
