//! From result lines back to rows: by wire id, never by order or count.

use batchwright_core::{
    BatchHandle, BatchProvider, Ending, Error, InputFault, Lane, Outcome, PriceTable, Provenance,
    WireId, WirePrefix,
};
use std::{fmt, sync::Arc};

/// Joins the result lines of one batch to the rows it was made of.
///
/// All lines of all files are fed twice: the first pass gives the successes, the second what is left. So
/// a success wins over an error wherever it stands (F-082), the first of several successes wins (F-099),
/// and nothing but a byte a row is kept.
pub struct Join<'p> {
    provider: &'p dyn BatchProvider,
    prefix: WirePrefix,
    /// The batch's rows, ascending.
    rows: &'p [u64],
    origin: &'p Origin,
    settled: Vec<bool>,
    settled_count: u64,
    pass: Pass,
    report: JoinReport,
}

/// What was odd about a batch's results.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct JoinReport {
    /// Lines under an id that was never sent, or that could not be attributed at all; set aside (F-098).
    pub unknown: u64,
    /// Further successes of a row that had one (F-099).
    pub duplicates: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Successes,
    Rest,
}

/// What one line turned out to be.
#[derive(Debug)]
#[expect(
    clippy::exhaustive_enums,
    reason = "whoever merges must handle every kind of line"
)]
pub enum Joined {
    /// This row's outcome, which is final.
    Row(u64, Box<Outcome>),
    /// Nothing new: another pass takes it, or the row is settled.
    Passed,
    /// No row of this batch; its bytes are to be set aside.
    Unknown,
}

impl<'p> Join<'p> {
    /// For a batch whose wire ids begin with `prefix` and that holds `rows`, ascending; outcomes are said to
    /// come from `origin`.
    pub fn new(
        provider: &'p dyn BatchProvider,
        prefix: WirePrefix,
        rows: &'p [u64],
        origin: &'p Origin,
    ) -> Self {
        Self {
            provider,
            prefix,
            rows,
            origin,
            settled: vec![false; rows.len()],
            settled_count: 0,
            pass: Pass::Successes,
            report: JoinReport::default(),
        }
    }

    /// Takes one line, without its line end.
    pub fn line(&mut self, line: &[u8]) -> Joined {
        if line.trim_ascii().is_empty() {
            return Joined::Passed;
        }
        let Some(mut outcome) = self.provider.decode(line) else {
            return self.unknown();
        };
        let Some(place) = self.place(&outcome.custom_id) else {
            return self.unknown();
        };
        let wanted = outcome.ending.is_success() || matches!(outcome.ending, Ending::Refused(_));
        match (self.pass, wanted) {
            (Pass::Successes, true) if self.settled[place] => {
                self.report.duplicates += 1;
                Joined::Passed
            }
            (Pass::Successes, true) | (Pass::Rest, false) if !self.settled[place] => {
                self.settled[place] = true;
                self.settled_count += 1;
                self.origin.fill(&mut outcome);
                Joined::Row(self.rows[place], Box::new(outcome))
            }
            _ => Joined::Passed,
        }
    }

    /// Ends the first pass: from now on what is not a success is given out too.
    pub fn second_pass(&mut self) {
        self.pass = Pass::Rest;
    }

    /// Whether every row has its outcome, so that no further pass is needed.
    pub fn is_complete(&self) -> bool {
        self.settled_count == self.rows.len() as u64
    }

    /// The rows of which no line was found (F-097).
    pub fn missing(&self) -> impl Iterator<Item = u64> + '_ {
        self.rows
            .iter()
            .zip(&self.settled)
            .filter(|(_, settled)| !**settled)
            .map(|(row, _)| *row)
    }

    /// How many rows have their outcome.
    pub fn settled(&self) -> u64 {
        self.settled_count
    }

    /// What was odd.
    pub fn report(&self) -> &JoinReport {
        &self.report
    }

    fn unknown(&mut self) -> Joined {
        // Counted and set aside once, in the first pass.
        if self.pass == Pass::Rest {
            return Joined::Passed;
        }
        self.report.unknown += 1;
        Joined::Unknown
    }

    fn place(&self, wire_id: &str) -> Option<usize> {
        let id: WireId = wire_id.parse().ok()?;
        if id.prefix() != self.prefix {
            return None;
        }
        self.rows.binary_search(&id.row()).ok()
    }
}

impl fmt::Debug for Join<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Join")
            .field("rows", &self.rows.len())
            .field("settled", &self.settled_count)
            .finish_non_exhaustive()
    }
}

/// Where the outcomes of one batch come from.
#[derive(Clone, Debug)]
pub struct Origin {
    provider: Arc<str>,
    batch: Arc<str>,
    attempt: u32,
    prices: Arc<PriceTable>,
}

impl Origin {
    /// The batch `handle`, bought by attempt number `attempt`, at these prices.
    pub fn new(handle: &BatchHandle, attempt: u32, prices: Arc<PriceTable>) -> Self {
        Self {
            provider: handle.provider.as_str().into(),
            batch: handle.id.as_str().into(),
            attempt,
            prices,
        }
    }

    /// An outcome no line tells of.
    pub fn outcome(&self, ending: Ending) -> Outcome {
        let mut outcome = Outcome::new("", ending);
        self.fill(&mut outcome);
        outcome
    }

    fn fill(&self, outcome: &mut Outcome) {
        let answered = outcome.response().and_then(|response| {
            let model = response.model.as_deref()?;
            Some((
                model.into(),
                self.prices
                    .price(&self.provider, model)?
                    .cost(&response.usage, Lane::Batch),
            ))
        });
        let provenance: &mut Provenance = &mut outcome.provenance;
        provenance.provider = Some(Arc::clone(&self.provider));
        provenance.batch = Some(Arc::clone(&self.batch));
        provenance.lane = Some(Lane::Batch);
        provenance.attempts = self.attempt;
        if let Some((model, cost)) = answered {
            provenance.model.get_or_insert(model);
            provenance.cost = cost;
        }
    }
}

/// The error of line number `line` of a batch whose input was refused: its own fault where the provider
/// named one, else that of the batch (F-073).
pub fn refused_row(error: &Error, faults: &[InputFault], line: u64) -> Error {
    let Some(fault) = faults.iter().find(|fault| fault.line == Some(line)) else {
        return error.clone();
    };
    let mut own = Error::new(error.kind(), fault.message.clone());
    if let Some(code) = &fault.code {
        own = own.with_code(code.clone());
    }
    if let Some(param) = &fault.param {
        own = own.with_param(param.clone());
    }
    own
}
