#![doc = include_str!("../README.md")]

mod job;

mod row;
mod source;

mod fingerprint;
mod requests;
mod template;

mod ids;
mod preflight;
mod rules;
mod schema;

mod sink;

pub use fingerprint::Fingerprint;
pub use job::{
    BatchLine, Direct, Job, JobControl, JobProgress, JobReport, JobSpec, LaneProvider, OpenOptions,
    Progress, RecoverOptions, Recovered, RecoveredChunk, Remainder, RemoteKind, RemoteObject,
    ResultsOptions, RunOptions, SeenBatch, WrittenResults,
};
pub use preflight::{ModelLoad, Preflight, PreflightReport, Problem};
pub use requests::RequestBuilder;
pub use row::Row;
pub use rules::{ParameterRange, SchemaPlace, VendorRules};
pub use schema::SchemaRules;
pub use sink::{Sink, SinkFormat, SinkOptions};
pub use source::{RowError, Source, SourceFormat, SourceOptions};
pub use template::Template;
