#![doc = include_str!("../README.md")]

mod row;
mod source;

mod fingerprint;
mod requests;
mod template;

pub use fingerprint::Fingerprint;
pub use requests::{DuplicateIds, RequestBuilder};
pub use row::Row;
pub use source::{RowError, Source, SourceFormat, SourceOptions};
pub use template::Template;
