#![doc = include_str!("../README.md")]

mod call_pool;
mod classifier;
mod control;
mod event;
mod hooks;
mod item;
mod log;
mod metrics;
mod middleware;
mod observer;
mod options;
mod order;
mod pool;
mod post_process;
mod progress;
mod prompt;
mod run;
mod strategy;
mod summary;
mod warning;

mod advertised;
mod attempt;
mod breaker;
mod bucket;
mod concurrency;
mod cooldown;
mod estimate;
mod pace;
mod rate_limit;
mod retry_budget;
mod schedule;
mod scope;
mod scope_name;
mod spend;
mod telemetry;

pub use breaker::BreakerOptions;
pub use call_pool::{CallPool, CallPoolOptions};
pub use classifier::ErrorClassifier;
pub use concurrency::Concurrency;
pub use control::RunControl;
pub use cooldown::{CooldownOptions, SlowStart};
pub use estimate::{TokenEstimate, TokenEstimator};
pub use event::Event;
pub use hooks::HookOptions;
pub use item::{Finished, ItemState, WorkItem};
pub use log::{DispatchLog, NoLog};
pub use metrics::{Latency, MetricsSnapshot, Retries};
pub use middleware::{Entering, Flow, Middleware, Recovery};
pub use observer::{Events, Observer};
pub use options::PoolOptions;
pub use order::InOrder;
pub use pool::ParallelPool;
pub use post_process::PostProcessor;
pub use progress::{Meter, OnProgress, Progress, ProgressUpdate};
pub use prompt::{Prompt, prompts};
pub use rate_limit::RateLimitOptions;
pub use retry_budget::RetryBudgetOptions;
pub use run::{EndReason, Run, RunEnd, Unfinished};
pub use scope::ScopeOptions;
pub use scope_name::ScopeName;
pub use spend::{OnReached, SpendOptions, Spent};
pub use strategy::balance::{LoadBalancer, LoadPolicy};
pub use strategy::context_cache::{ContextCacheOptions, ContextCacheReport, WithContext};
pub use strategy::credentials::{
    ChangingCredential, Credential, CredentialProvider, RotatingCredentials,
};
pub use strategy::fallback::{BalanceWeights, Fallback, FallbackPolicy};
pub use strategy::health::{Health, HealthOptions, PlaceHealth, Standing};
pub use strategy::place::Place;
pub use strategy::{
    Attempt, Direct, Executed, Next, Scope, Strategy,
    adapted::Adapted,
    answer_cache::{AnswerCache, AnswerKey, MemoryCache},
    cached::Cached,
    closure::{Blocking, Closure, Turn},
    ladder::{Climb, Ladder, Rung},
    timed::{Latencies, Timed},
};
#[cfg(feature = "structured")]
pub use strategy::{
    rejection::{Fault, Rejection},
    structured::Structured,
    validated::Validated,
};
pub use summary::Summary;
pub use warning::{Warning, open_file_limit};
