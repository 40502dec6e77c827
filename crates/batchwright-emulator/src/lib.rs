#![doc = include_str!("../README.md")]

mod answer;
mod batch;
mod chat;
mod clock;
mod config;
mod connection;
mod control;
mod emulator;
mod engine;
mod error;
mod face;
mod faults;
mod gzip;
mod instance;
mod invoice;
mod limits;
mod model;
mod page;
mod results;
mod seed;
mod server;
mod store;

pub use answer::prompt_hash;
pub use clock::Span;
pub use config::{BatchPace, EmulatorConfig, Limits};
pub use emulator::Emulator;
pub use error::{EmulatorError, Result};
pub use face::Face;
pub use faults::{
    BatchFailure, CallMatch, Counts, Cut, FaultAction, FaultRule, Gzip, GzipKind, HeaderMatch,
    Mutation, MutationKind, Nth, Reply, ResultFile, Skew,
};
pub use invoice::{InvoiceLine, Lane};
