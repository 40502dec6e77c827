//! Answers held to a JSON schema.

use super::{contract::Contract, rejection::Fault};
use crate::{Attempt, Executed, ItemState, Next, Scope, Strategy};
use async_trait::async_trait;
use batchwright_core::{Error, Part, Request, Response, ResponseFormat, Result};
use serde_json::Value;
use std::{fmt, sync::Arc};

type Check = dyn Fn(&Value) -> Result<(), String> + Send + Sync;

/// Holds answers to a JSON schema; one that does not fit is an error of kind
/// [`InvalidOutput`](batchwright_core::ErrorKind::InvalidOutput) with the usage it cost, which the pool follows with
/// another attempt, at once and up to
/// [`max_invalid_retries`](batchwright_core::RetryPolicy::max_invalid_retries) times. That attempt's conversation ends
/// with the rejected answer and with what was right and wrong in it. What is asked and what is rejected never stands in
/// an error's text, which names fields the schema knows and the reasons; the [`Rejection`](crate::Rejection) behind it
/// has the rest.
///
/// The schema is sent as the form of the answer, unless the request has one of its own; it is sent as it is, so the
/// vendor must take it. The answer's text is read so:
///
/// 1. A refusal is left a refusal. An answer cut off at the token limit is rejected, also where it fits.
/// 2. Where the whole text is a JSON value, that counts.
/// 3. Else the objects and arrays in the text count, wherever they stand: in a fence, between sentences, behind the
///    reasoning (the last `</think>`). A part of a value that cannot be read never counts.
/// 4. Of several the one that fits is the answer; several that fit and differ are none.
/// 5. A key that stands twice, NaN and a value without its end are no JSON.
///
/// A success is the model's response; where there was more than the JSON in its text, its text is the JSON alone. The
/// vendor's bytes beside it ([`Response::raw`]) stay as they came.
///
/// A raw body is sent as it is, and only its answer is judged: whoever wrote it wrote the form of the answer too.
///
/// ```
/// # use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
/// use batchwright_core::{ErrorKind, Message};
/// use batchwright_realtime::{Attempt, Direct, ItemState, Strategy, Validated};
/// use std::{sync::Arc, time::Duration};
/// # struct Echo(Capability);
/// # #[async_trait::async_trait]
/// # impl ChatProvider for Echo {
/// #     fn name(&self) -> &str { "echo" }
/// #     fn capability(&self) -> &Capability { &self.0 }
/// #     async fn complete(&self, _: &Request, _: &CallOptions) -> Result<Response> {
/// #         Ok(Response::from_text("Sure! ```json\n{\"age\": \"old\"}\n```"))
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let provider = Arc::new(Echo(Capability::default()));
/// let schema = serde_json::json!({
///     "type": "object",
///     "properties": {"age": {"type": "integer", "minimum": 0}},
///     "required": ["age"],
///     "additionalProperties": false,
/// });
/// let strategy = Validated::new(Arc::new(Direct::new(provider)), &schema)?;
/// let request = Request::chat("row-1", "small", [Message::user("How old is the tree?")]);
/// let mut state = ItemState::default();
/// let mut attempt = Attempt::new(1, Duration::from_secs(60), &mut state);
/// // The model said: Sure! ```json {"age": "old"} ```
/// let error = strategy.execute(&request, &mut attempt).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidOutput);
/// assert_eq!(error.message(), "use the answer: /age must be of type integer");
/// # Ok(())
/// # }
/// ```
pub struct Validated {
    inner: Arc<dyn Strategy<Output = Response>>,
    contract: Contract,
    check: Option<Box<Check>>,
}

impl Validated {
    /// Holds the answers of `inner` to `schema`, draft 2020-12 unless it names another. It is compiled here, once.
    ///
    /// # Errors
    /// `ConfigInvalid` where it is no JSON schema, or refers to one elsewhere: nothing is fetched.
    pub fn new(inner: Arc<dyn Strategy<Output = Response>>, schema: &Value) -> Result<Self> {
        let name = schema.get("title").and_then(Value::as_str);
        Ok(Self {
            inner,
            contract: Contract::new(schema, name.unwrap_or("answer"), schema.clone())?,
            check: None,
        })
    }

    /// Another check of what fits the schema. It runs where answers are read, so it must be quick. What it says goes
    /// to the model, and to nobody else. Where it panics the row fails, and the answer counts as paid.
    #[must_use]
    pub fn with_check(
        mut self,
        check: impl Fn(&Value) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    /// Asks the vendor to hold the model to the schema, where it takes the schema so. Default false: vendors that do
    /// take a part of the language only, and refuse the request for the rest.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.contract.set_strict(strict);
        self
    }

    /// Asks for this form of answer instead of the schema, where the request has none of its own:
    /// [`ResponseFormat::Json`] for vendors that take no schema, or [`ResponseFormat::Text`] to ask for none. The
    /// prompt must then say what the answer should be.
    #[must_use]
    pub fn with_response_format(mut self, format: ResponseFormat) -> Self {
        self.contract.format = format;
        self
    }

    /// The bytes of a rejected answer that are shown to the model again; 0 tells it nothing, so that each attempt
    /// asks the same. Default 8 KiB, about 2,000 tokens: what is longer is rarely wrong for what stands at its end.
    #[must_use]
    pub fn with_feedback(mut self, max_answer_bytes: usize) -> Self {
        self.contract.feedback = max_answer_bytes;
        self
    }
}

#[async_trait]
impl Strategy for Validated {
    type Output = Response;

    fn scope<'a>(&'a self, request: &'a Request, state: &'a mut ItemState) -> Scope<'a> {
        self.inner.scope(request, state)
    }

    async fn prepare(&self) -> Result<()> {
        self.inner.prepare().await
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        let request = self.contract.ask(request, attempt.state)?;
        let executed = self.inner.execute(&request, attempt).await?;
        self.contract
            .judge(executed, attempt, |response, json, value| {
                if let Some(check) = &self.check {
                    check(value).map_err(|why| Fault::refused_by_check(&why))?;
                }
                Ok(with_text(response, json))
            })
    }

    async fn on_error(&self, request: &Request, error: &Error, attempt: &mut Attempt<'_>) -> Next {
        self.inner.on_error(request, error, attempt).await
    }

    fn dry_run(&self, request: &Request) -> Result<Executed> {
        self.inner.dry_run(request)
    }

    async fn cleanup(&self) {
        self.inner.cleanup().await;
    }
}

/// The response with this as its text.
fn with_text(mut response: Response, json: &str) -> Response {
    if response.text() == json {
        return response;
    }
    let mut json = Some(Part::Text(json.to_owned()));
    let parts = std::mem::take(&mut response.content).into_iter();
    response.content = parts
        .filter_map(|part| match part {
            // In the place of the first.
            Part::Text(_) => json.take(),
            other => Some(other),
        })
        .collect();
    response
}

impl fmt::Debug for Validated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validated")
            .field("contract", &self.contract)
            .field("check", &self.check.is_some())
            .finish_non_exhaustive()
    }
}
