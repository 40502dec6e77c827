//! BigQuery's tables: lines of JSON with columns.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::NAME;
use super::jobs::Config;
use crate::engine::Engine;
use crate::store::FileRecord;

/// Under which key tables are kept: whose a table is stands in its name.
const KEY: &str = "tables";

/// A column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
}

impl Column {
    fn new(name: &str, kind: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

/// A table by its `bq://` address.
pub(super) fn find(engine: &Engine, uri: &str, at_ms: i64) -> Option<Arc<FileRecord>> {
    engine.files.get(NAME, KEY, uri, at_ms)
}

/// The record of a new table.
pub(super) fn record(
    uri: String,
    columns: &[Column],
    bytes: u64,
    sequence: u64,
    at_ms: i64,
) -> FileRecord {
    FileRecord {
        filename: uri.clone(),
        id: uri,
        sequence,
        face: NAME.to_owned(),
        key: KEY.to_owned(),
        bytes,
        created_ms: at_ms,
        expires_ms: None,
        purpose: serde_json::to_string(columns).unwrap_or_default(),
        listed_ms: at_ms,
        visible_ms: at_ms,
    }
}

/// A table's columns.
pub(super) fn columns(table: &FileRecord) -> Vec<Column> {
    serde_json::from_str(&table.purpose).unwrap_or_default()
}

/// The columns of a job's output: those of its input, and three more.
pub(super) fn output_columns(engine: &Engine, job: &Config, at_ms: i64) -> Vec<Column> {
    let input = job
        .table
        .as_deref()
        .and_then(|uri| find(engine, uri, at_ms));
    let mut all = match input {
        Some(table) => columns(&table),
        None => vec![
            Column::new("custom_id", "STRING"),
            Column::new("request", "JSON"),
        ],
    };
    all.extend([
        Column::new("status", "STRING"),
        Column::new("processed_time", "TIMESTAMP"),
        Column::new("response", "JSON"),
    ]);
    all
}
