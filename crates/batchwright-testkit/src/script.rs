//! A provider and a strategy in memory that do as they are told, for tests of programs that use the pool.

use async_trait::async_trait;
use batchwright_core::{
    CallOptions, Capability, ChatProvider, Error, ErrorKind, Request, Response, Result, RetryClass,
    Usage,
};
use batchwright_realtime::{Attempt, Executed, ItemState, Scope, Strategy};
use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::sleep;

/// What calls come to, by their number: each call takes the script's latency, and then fails, hangs or panics where a
/// rule says so, and succeeds otherwise. Calls are counted from 1 over all requests, in the order they begin.
///
/// Latencies are those of tokio's clock, so that with `#[tokio::test(start_paused = true)]` none takes any time.
#[derive(Clone, Debug, Default)]
pub struct Script {
    latency: Duration,
    rules: BTreeMap<u64, Rule>,
    /// One call in so many fails, from a seed.
    failures: Option<(f64, u64)>,
    usage: Option<Usage>,
}

#[derive(Clone, Debug)]
enum Rule {
    Fail(Error),
    Hang,
    Panic,
}

impl Script {
    /// Calls that succeed at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every call takes this long. Default nothing.
    #[must_use]
    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Every success costs this. Default ten tokens in and twenty out.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(usage);
        self
    }

    /// Call number `call` fails with this error.
    #[must_use]
    pub fn fail_on(mut self, call: u64, error: Error) -> Self {
        self.rules.insert(call, Rule::Fail(error));
        self
    }

    /// Call number `call` is refused with status 429, and asks to wait this long where it says so.
    #[must_use]
    pub fn rate_limit_on(self, call: u64, retry_after: Option<Duration>) -> Self {
        let mut error =
            Error::new(ErrorKind::RateLimited, "call: the script limits its rate").with_status(429);
        if let Some(delay) = retry_after {
            error = error.with_retry_after(delay);
        }
        self.fail_on(call, error)
    }

    /// Call number `call` is given up by its client after the latency: it may have been billed.
    #[must_use]
    pub fn timeout_on(self, call: u64) -> Self {
        let error = Error::new(ErrorKind::Timeout, "call: the script says it took too long");
        self.fail_on(call, error)
    }

    /// Call number `call` never returns, so that whoever called must give it up.
    #[must_use]
    pub fn hang_on(mut self, call: u64) -> Self {
        self.rules.insert(call, Rule::Hang);
        self
    }

    /// Call number `call` panics.
    #[must_use]
    pub fn panic_on(mut self, call: u64) -> Self {
        self.rules.insert(call, Rule::Panic);
        self
    }

    /// This share of the calls (0 to 1) fails to connect, chosen by the seed: the same ones each time. Calls with a
    /// rule of their own obey that.
    #[must_use]
    pub fn failure_rate(mut self, share: f64, seed: u64) -> Self {
        self.failures = Some((share, seed));
        self
    }

    fn is_failure(&self, call: u64) -> bool {
        let Some((share, seed)) = self.failures else {
            return false;
        };
        // SplitMix64's finish: neighbours have nothing in common.
        let mut bits = seed ^ call.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        ((bits >> 11) as f64 / (1_u64 << 53) as f64) < share
    }
}

/// What a scripted double was asked so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calls {
    /// Calls that began.
    pub begun: u64,
    /// Calls under way.
    pub open: u64,
    /// The most that were under way at once.
    pub most_open: u64,
    /// Calls that were given up before they returned, or that panicked.
    pub dropped: u64,
    /// How often each request was asked, by its id.
    pub by_id: BTreeMap<String, u32>,
}

/// A script at work.
#[derive(Debug)]
struct Stage {
    script: Script,
    calls: Mutex<Calls>,
}

/// A call under way.
struct Open<'s> {
    stage: &'s Stage,
    has_returned: bool,
}

impl Stage {
    fn new(script: Script) -> Self {
        Self {
            script,
            calls: Mutex::default(),
        }
    }

    fn with<R>(&self, read: impl FnOnce(&mut Calls) -> R) -> R {
        read(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Plays one call, up to its success.
    async fn play(&self, custom_id: &str) -> Result<Usage> {
        let call = self.with(|calls| {
            calls.begun += 1;
            calls.open += 1;
            calls.most_open = calls.most_open.max(calls.open);
            *calls.by_id.entry(custom_id.to_owned()).or_default() += 1;
            calls.begun
        });
        let mut open = Open {
            stage: self,
            has_returned: false,
        };
        sleep(self.script.latency).await;
        let result = match self.script.rules.get(&call) {
            Some(Rule::Fail(error)) => Err(error.clone()),
            Some(Rule::Hang) => pending().await,
            Some(Rule::Panic) => panic!("the script says that call {call} panics"),
            None if self.script.is_failure(call) => Err(Error::new(
                ErrorKind::Connect,
                "call: the script breaks the connection",
            )
            .with_class(RetryClass::NotSent)),
            None => Ok(self.script.usage.unwrap_or(Usage::of(10, 20))),
        };
        open.has_returned = true;
        result
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.stage.with(|calls| {
            calls.open -= 1;
            calls.dropped += u64::from(!self.has_returned);
        });
    }
}

type Answer<T> = Arc<dyn Fn(&Request) -> T + Send + Sync>;

/// A provider that plays a [`Script`].
///
/// ```
/// use batchwright_realtime::{ParallelPool, PoolOptions, prompts};
/// use batchwright_testkit::{Script, ScriptedProvider};
/// use std::{sync::Arc, time::Duration};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let script = Script::new()
///     .latency(Duration::from_secs(1))
///     .rate_limit_on(2, Some(Duration::from_secs(20)))
///     .hang_on(3);
/// let provider = Arc::new(ScriptedProvider::new(script));
/// let options = PoolOptions::default().with_attempt_timeout(Duration::from_secs(60));
/// let pool = ParallelPool::new(provider.clone(), options);
///
/// let summary = pool.run_all(prompts("any", ["one", "two", "three"])).await;
/// assert_eq!(summary.succeeded(), 3);
/// assert_eq!(provider.calls().begun, 5);
/// # }
/// ```
#[derive(Clone)]
pub struct ScriptedProvider {
    stage: Arc<Stage>,
    capability: Capability,
    answer: Answer<Response>,
}

impl ScriptedProvider {
    /// Answers every request with `answer to` and its id, as the script says.
    pub fn new(script: Script) -> Self {
        Self::answering(script, |request| {
            Response::from_text(format!("answer to {}", request.custom_id))
        })
    }

    /// Answers with what `answer` makes of the request, as the script says.
    pub fn answering(
        script: Script,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self {
            stage: Arc::new(Stage::new(script)),
            capability: Capability::default(),
            answer: Arc::new(answer),
        }
    }

    /// What it was asked so far; clones are asked together.
    pub fn calls(&self) -> Calls {
        self.stage.with(|calls| calls.clone())
    }
}

#[async_trait]
impl ChatProvider for ScriptedProvider {
    fn name(&self) -> &str {
        "scripted"
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn complete(&self, request: &Request, _call: &CallOptions) -> Result<Response> {
        let usage = self.stage.play(&request.custom_id).await?;
        let mut response = (self.answer)(request);
        if response.usage.is_unknown() {
            response.usage = usage;
        }
        Ok(response)
    }
}

impl fmt::Debug for ScriptedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedProvider")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// A strategy that plays a [`Script`] and answers with any type.
pub struct ScriptedStrategy<T> {
    stage: Arc<Stage>,
    answer: Answer<T>,
}

impl<T> ScriptedStrategy<T> {
    /// Answers with what `answer` makes of the request, as the script says.
    pub fn new(script: Script, answer: impl Fn(&Request) -> T + Send + Sync + 'static) -> Self {
        Self {
            stage: Arc::new(Stage::new(script)),
            answer: Arc::new(answer),
        }
    }

    /// What it was asked so far; clones are asked together.
    pub fn calls(&self) -> Calls {
        self.stage.with(|calls| calls.clone())
    }
}

#[async_trait]
impl<T: Send + 'static> Strategy for ScriptedStrategy<T> {
    type Output = T;

    fn scope<'a>(&'a self, request: &'a Request, _state: &'a mut ItemState) -> Scope<'a> {
        Scope::new("scripted", &request.model)
    }

    async fn execute(&self, request: &Request, _attempt: &mut Attempt<'_>) -> Result<Executed<T>> {
        let usage = self.stage.play(&request.custom_id).await?;
        Ok(Executed::new((self.answer)(request)).with_usage(usage))
    }

    fn dry_run(&self, request: &Request) -> Result<Executed<T>> {
        Ok(Executed::new((self.answer)(request)))
    }
}

impl<T> Clone for ScriptedStrategy<T> {
    fn clone(&self) -> Self {
        Self {
            stage: Arc::clone(&self.stage),
            answer: Arc::clone(&self.answer),
        }
    }
}

impl<T> fmt::Debug for ScriptedStrategy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedStrategy")
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_realtime::{ParallelPool, PoolOptions, prompts};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_89_each_rule_happens_on_its_call() {
        let bad = Error::new(ErrorKind::InvalidRequest, "say what");
        let script = Script::new()
            .latency(SECOND)
            .rate_limit_on(1, None)
            .timeout_on(2)
            .hang_on(3)
            .panic_on(4)
            .fail_on(5, bad)
            .usage(Usage::of(1, 2));
        let provider = Arc::new(ScriptedProvider::new(script));
        let options = PoolOptions::default()
            .with_max_in_flight(6)
            .with_attempt_timeout(5 * SECOND);
        let pool = ParallelPool::new(provider.clone(), options);
        let summary = pool.run_all(prompts("any", [""; 6])).await;
        let retries = &summary.metrics.retries;
        assert_eq!((retries.rate_limited, retries.ambiguous), (1, 2));
        let kinds: Vec<_> = summary
            .failures()
            .map(|row| row.outcome.error().unwrap().kind())
            .collect();
        assert_eq!(summary.succeeded(), 4, "{kinds:?}");
        assert!(
            kinds.contains(&ErrorKind::Unexpected) && kinds.contains(&ErrorKind::InvalidRequest)
        );
        assert_eq!(summary.usage(), Usage::of(4, 8));
        let calls = provider.calls();
        assert_eq!((calls.begun, calls.open, calls.most_open), (9, 0, 6));
        assert_eq!((calls.dropped, calls.by_id["item_5"]), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn ax_383_a_share_of_calls_fails_and_the_same_ones_each_time() {
        let failed = |seed| async move {
            let script = Script::new().failure_rate(0.3, seed);
            let mut failed = Vec::new();
            let stage = Stage::new(script);
            for call in 0..1000 {
                if stage.play("x").await.is_err() {
                    failed.push(call);
                }
            }
            failed
        };
        let first = failed(7).await;
        assert!((250..350).contains(&first.len()), "{}", first.len());
        assert_eq!(first, failed(7).await);
        assert_ne!(first, failed(8).await);
    }
}
