//! One reading of the whole input before anything is sent for it.

use super::{JobSpec, LaneProvider, ids, open_source, request_builder};
use batchwright_core::{Error, ErrorKind, Result};
use std::path::Path;

/// Bad rows that are named; more are counted.
const NAMED: usize = 5;

/// What the input came to.
pub(super) struct Checked {
    pub(super) rows: u64,
    /// About how many input tokens.
    pub(super) tokens: u64,
}

/// Checks every row and counts them.
pub(super) fn check(spec: &JobSpec, provider: &LaneProvider, dir: &Path) -> Result<Checked> {
    let source = open_source(spec)?;
    let builder = request_builder(spec)?;
    builder.check(source.header())?;
    // Ids made of row numbers differ by themselves.
    let mut ids = builder
        .takes_ids(source.header())
        .then(|| ids::IdCheck::new(dir));
    let mut scratch = Vec::new();
    let mut rows = 0u64;
    let mut tokens = 0u64;
    let mut bad = 0u64;
    let mut named: Vec<Error> = Vec::new();
    let mut note = |error: Error, bad: &mut u64| {
        *bad += 1;
        if named.len() < NAMED {
            named.push(error);
        }
    };
    for row in source {
        rows += 1;
        let row = match row {
            Ok(row) => row,
            Err(error) => {
                note(error.into(), &mut bad);
                continue;
            }
        };
        let checked = builder.build(&row).and_then(|request| {
            tokens = tokens.saturating_add(request.estimated_input_tokens());
            provider.check(&request, &mut scratch).map_err(|error| {
                error.context(format_args!("{}:{}", spec.input.display(), row.line()))
            })?;
            match &mut ids {
                Some(ids) => ids.add(&request.custom_id, row.line()),
                None => Ok(()),
            }
        });
        match checked {
            Ok(()) => {}
            // What is wrong with the disk or the settings is not the row's fault.
            Err(error) if matches!(error.kind(), ErrorKind::Storage | ErrorKind::ConfigInvalid) => {
                return Err(error);
            }
            Err(error) => note(error, &mut bad),
        }
    }
    if let Some(ids) = ids {
        for repetition in ids.finish()? {
            note(ids::duplicate(&spec.input, repetition), &mut bad);
        }
    }
    if bad == 0 {
        return Ok(Checked { rows, tokens });
    }
    let mut message = format!(
        "use every row of {}; nothing was sent:",
        spec.input.display()
    );
    for error in &named {
        message.push_str("\n  ");
        message.push_str(error.message());
    }
    if bad > named.len() as u64 {
        message.push_str(&format!("\n  and {} more", bad - named.len() as u64));
    }
    Err(Error::new(ErrorKind::InvalidRequest, message))
}
