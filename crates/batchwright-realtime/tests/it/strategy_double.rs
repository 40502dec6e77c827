//! Doubles for strategies: a provider that keeps what it was asked, and the ways to run what stands around it.

use async_trait::async_trait;
use batchwright_core::{
    CallOptions, Capability, ChatProvider, Error, ErrorKind, Message, Payload, PriceTable, Request,
    Response, Result, Usage,
};
use batchwright_realtime::{
    Attempt, Direct, Executed, Finished, ItemState, NoLog, ParallelPool, PoolOptions, RunEnd,
    Strategy, WorkItem,
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

type Script = dyn Fn(&Request, usize) -> (Duration, Result<Response>) + Send + Sync;

/// Answers request number `n` (from 1) of a row by a function of what was asked.
pub(crate) struct Asked {
    script: Box<Script>,
    capability: Capability,
    seen: Mutex<BTreeMap<String, Vec<Request>>>,
}

impl Asked {
    pub(crate) fn new(
        script: impl Fn(&Request, usize) -> (Duration, Result<Response>) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            script: Box::new(script),
            capability: Capability::default(),
            seen: Mutex::default(),
        })
    }

    /// Says these in turn, and the last one for ever.
    pub(crate) fn saying(answers: &'static [&'static str]) -> Arc<Self> {
        Self::new(|_, nth| {
            let answer = answers[nth.min(answers.len()) - 1];
            (Duration::from_millis(10), Ok(said(answer)))
        })
    }

    pub(crate) fn seen(&self, custom_id: &str) -> Vec<Request> {
        self.seen
            .lock()
            .unwrap()
            .get(custom_id)
            .cloned()
            .unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().values().map(Vec::len).sum()
    }

    pub(crate) fn direct(self: &Arc<Self>) -> Arc<dyn Strategy<Output = Response>> {
        Arc::new(Direct::new(self.clone()))
    }
}

#[async_trait]
impl ChatProvider for Asked {
    fn name(&self) -> &str {
        "asked"
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn complete(&self, request: &Request, _call: &CallOptions) -> Result<Response> {
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            let asked = seen.entry(request.custom_id.clone()).or_default();
            asked.push(request.clone());
            asked.len()
        };
        let (takes, answer) = (self.script)(request, nth);
        sleep(takes).await;
        answer
    }
}

/// 100 tokens in, 10 out.
pub(crate) fn said(text: &str) -> Response {
    let mut response = Response::from_text(text);
    response.usage = Usage::of(100, 10);
    response
}

/// A dollar for a million tokens in, ten for a million out: 200 µ$ for what [`said`] costs.
pub(crate) fn prices(models: &[&str]) -> Arc<PriceTable> {
    let mut prices = PriceTable::default();
    for model in models {
        let price = format!(
            r#"{{"asked:{model}":{{"realtime":{{"input":1,"output":10}},"as_of":"2026-11-22","source":"test"}}}}"#
        );
        prices.overlay(&price).unwrap();
    }
    Arc::new(prices)
}

pub(crate) fn request(custom_id: &str) -> Request {
    Request::chat(custom_id, "small", [Message::user("CANARY-question")])
}

/// The conversation as roles and texts.
pub(crate) fn turns(request: &Request) -> Vec<(String, String)> {
    let Payload::Chat(chat) = &request.payload else {
        panic!("a chat")
    };
    let turn = |message: &Message| {
        let texts: Vec<&str> = message
            .content
            .iter()
            .filter_map(|part| part.as_text())
            .collect();
        (format!("{:?}", message.role), texts.concat())
    };
    chat.messages.iter().map(turn).collect()
}

/// One attempt outside of a pool.
pub(crate) async fn once<T: Send + 'static>(
    strategy: &dyn Strategy<Output = T>,
    request: &Request,
    state: &mut ItemState,
) -> Result<Executed<T>> {
    let mut attempt = Attempt::new(1, Duration::from_secs(60), state);
    strategy.execute(request, &mut attempt).await
}

/// Runs rows `0..count` to the end; sorted by row.
pub(crate) async fn run_rows<T: Send + Sync + 'static>(
    strategy: Arc<dyn Strategy<Output = T>>,
    options: PoolOptions,
    count: u64,
) -> (Vec<Finished<T>>, RunEnd) {
    let rows =
        stream::iter((0..count).map(|row| Ok(WorkItem::new(row, request(&row.to_string())))));
    let pool = ParallelPool::with_strategy(strategy, options);
    let mut run = pool.run(rows, Arc::new(NoLog), CancellationToken::new());
    let mut finished = Vec::new();
    while let Some(row) = run.next().await {
        finished.push(row);
    }
    finished.sort_by_key(|row| row.row);
    (finished, run.ended().unwrap().clone())
}

/// Runs one row; its outcome.
pub(crate) async fn run_one<T: Send + Sync + 'static>(
    strategy: Arc<dyn Strategy<Output = T>>,
    options: PoolOptions,
) -> batchwright_core::Outcome<T> {
    let (mut finished, _) = run_rows(strategy, options, 1).await;
    finished.remove(0).outcome
}

pub(crate) fn error_of<T>(result: Result<Executed<T>>) -> Error {
    result.err().expect("it fails")
}

/// A strategy that rejects answers that are not `fine`, without a schema.
pub(crate) struct Picky(pub(crate) Arc<dyn Strategy<Output = Response>>);

#[async_trait]
impl Strategy for Picky {
    type Output = Response;

    fn scope<'a>(
        &'a self,
        request: &'a Request,
        state: &'a mut ItemState,
    ) -> batchwright_realtime::Scope<'a> {
        self.0.scope(request, state)
    }

    async fn execute(&self, request: &Request, attempt: &mut Attempt<'_>) -> Result<Executed> {
        let executed = self.0.execute(request, attempt).await?;
        match &executed.ending {
            batchwright_core::Ending::Succeeded(response) if response.text() == "fine" => {
                Ok(executed)
            }
            _ => {
                Err(Error::new(ErrorKind::InvalidOutput, "like the answer")
                    .with_usage(executed.usage))
            }
        }
    }

    async fn on_error(
        &self,
        request: &Request,
        error: &Error,
        attempt: &mut Attempt<'_>,
    ) -> batchwright_realtime::Next {
        self.0.on_error(request, error, attempt).await
    }
}
