//! From result lines back to rows: by wire id, never by order or count.

use batchwright_core::{
    BatchHandle, BatchProvider, Ending, Error, InputFault, Lane, Outcome, PriceTable, WireId,
    WirePrefix,
};
use std::{fmt, num::NonZeroU64, sync::Arc};

#[cfg(test)]
mod tests;

/// Joins the result lines of one batch to the rows it was made of.
///
/// All lines of all files are fed twice: the first pass gives the successes, the second what is left. So
/// a success wins over an error wherever it stands (F-082), the first of several successes wins (F-099),
/// and nothing but a hash a row is kept.
pub struct Join<'p> {
    provider: &'p dyn BatchProvider,
    prefix: WirePrefix,
    /// The batch's rows, ascending.
    rows: &'p [u64],
    origin: &'p Origin,
    /// The hash of the line that won, for each row that has its outcome.
    settled: Vec<Option<NonZeroU64>>,
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
    /// Those of them that name a request of another attempt, another job or another program.
    pub foreign: u64,
    /// Further successes of a row that had one, in other words than the first (F-099).
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
            settled: vec![None; rows.len()],
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
            let id = outcome.custom_id.parse::<WireId>();
            if self.pass == Pass::Successes && !id.is_ok_and(|id| id.prefix() == self.prefix) {
                self.report.foreign += 1;
            }
            return self.unknown();
        };
        let success = outcome.ending.is_success() || matches!(outcome.ending, Ending::Refused(_));
        let digest = digest(line);
        match (self.pass, success, self.settled[place]) {
            (Pass::Successes, true, Some(first)) => {
                self.report.duplicates += u64::from(first != digest);
                Joined::Passed
            }
            (Pass::Successes, true, None) | (Pass::Rest, false, None) => {
                self.settled[place] = Some(digest);
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
            .filter(|(_, settled)| settled.is_none())
            .map(|(row, _)| *row)
    }

    /// How many rows have their outcome.
    pub fn settled(&self) -> u64 {
        self.settled_count
    }

    /// The row of a line's id, where it has no outcome yet.
    pub(crate) fn open_row(&self, wire_id: &str) -> Option<u64> {
        let place = self.place(wire_id)?;
        self.settled[place].is_none().then(|| self.rows[place])
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
        // The rows of a chunk are mostly one after another.
        let offset = id.row().checked_sub(*self.rows.first()?)?;
        let guess = usize::try_from(offset).unwrap_or(usize::MAX);
        if self.rows.get(guess) == Some(&id.row()) {
            return Some(guess);
        }
        self.rows.binary_search(&id.row()).ok()
    }
}

/// Tells lines apart; it secures nothing. Words are multiplied in, in two lanes that do not wait for each other.
fn digest(line: &[u8]) -> NonZeroU64 {
    const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];
    fn mix(hash: u64, word: &[u8; 8], factor: u64) -> u64 {
        let product = u128::from(hash ^ u64::from_le_bytes(*word)) * u128::from(factor);
        // Both halves, so that no bit of a word is lost at the top.
        (product as u64).wrapping_add((product >> 64) as u64)
    }
    let [mut first, mut second] = FACTORS;
    let (words, rest) = line.as_chunks::<8>();
    let (pairs, odd) = words.as_chunks::<2>();
    for [one, two] in pairs {
        first = mix(first, one, FACTORS[0]);
        second = mix(second, two, FACTORS[1]);
    }
    for word in odd {
        first = mix(first, word, FACTORS[0]);
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    second = mix(second, &last, FACTORS[1]);
    second = mix(second, &(line.len() as u64).to_le_bytes(), FACTORS[1]);
    NonZeroU64::MIN | mix(first, &second.to_le_bytes(), FACTORS[0])
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
    model: Arc<str>,
    batch: Option<Arc<str>>,
    attempt: u32,
    prices: Arc<PriceTable>,
}

impl Origin {
    /// `provider` and the `model` asked for, with nothing bought yet.
    pub fn new(provider: &str, model: &str, prices: Arc<PriceTable>) -> Self {
        Self {
            provider: provider.into(),
            model: model.into(),
            batch: None,
            attempt: 0,
            prices,
        }
    }

    /// Of the batch that attempt number `attempt` bought.
    #[must_use]
    pub fn bought(mut self, handle: &BatchHandle, attempt: u32) -> Self {
        self.batch = Some(handle.id.as_str().into());
        self.attempt = attempt;
        self
    }

    /// An outcome no line tells of.
    pub fn outcome(&self, ending: Ending) -> Outcome {
        let mut outcome = Outcome::new("", ending);
        self.fill(&mut outcome);
        outcome
    }

    fn fill(&self, outcome: &mut Outcome) {
        let cost = self
            .prices
            .cost(&self.provider, &self.model, &outcome.ending, Lane::Batch);
        let provenance = &mut outcome.provenance;
        provenance.provider = Some(Arc::clone(&self.provider));
        provenance.model = Some(Arc::clone(&self.model));
        provenance.batch.clone_from(&self.batch);
        provenance.lane = Some(Lane::Batch);
        provenance.attempts = self.attempt;
        provenance.cost = cost;
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
