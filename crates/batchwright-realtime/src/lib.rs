#![doc = include_str!("../README.md")]

mod item;
mod log;
mod options;
mod pool;
mod progress;
mod run;
mod strategy;

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
pub use concurrency::Concurrency;
pub use cooldown::{CooldownOptions, SlowStart};
pub use estimate::{TokenEstimate, TokenEstimator};
pub use item::{Finished, ItemState, WorkItem};
pub use log::{DispatchLog, NoLog};
pub use options::PoolOptions;
pub use pool::ParallelPool;
pub use progress::{Meter, Progress};
pub use rate_limit::RateLimitOptions;
pub use retry_budget::RetryBudgetOptions;
pub use run::{EndReason, Run, RunEnd, Unfinished};
pub use scope::ScopeOptions;
pub use spend::{OnReached, SpendOptions, Spent};
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
