//! What is to be bought, checked before anything is sent, and cut into batches that their providers take.

use batchwright_core::{
    BatchLimits, BatchProvider, Error, ErrorKind, Lane, Money, PriceTable, Request, Result, Usage,
    WireId, WirePrefix,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

#[cfg(test)]
mod tests;

/// Requests for one provider: one batch, or with [`RouterOptions::split`](crate::RouterOptions) as many as it takes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchRequest {
    /// The registered name of the provider.
    pub provider: String,
    /// The requests, each under a `custom_id` of its own.
    pub requests: Vec<Request>,
    /// The caller's own words about it, given back with its batches and sent nowhere.
    pub metadata: BTreeMap<String, String>,
}

impl BatchRequest {
    /// These requests to this provider.
    ///
    /// ```
    /// # use batchwright_core::{Message, Request};
    /// # use batchwright_router::BatchRequest;
    /// let requests = vec![Request::chat("row-1", "gpt-4o-mini", [Message::user("Name a colour.")])];
    /// let batch = BatchRequest::new("openai", requests).with_metadata("project", "colours");
    /// assert_eq!(batch.metadata["project"], "colours");
    /// ```
    pub fn new(provider: impl Into<String>, requests: Vec<Request>) -> Self {
        Self {
            provider: provider.into(),
            requests,
            metadata: BTreeMap::new(),
        }
    }

    /// Adds a word of the caller's own.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }
}

/// Among which requests a `custom_id` must be the only one of its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum UniqueIds {
    /// Among all batches that are handed in together, so that an outcome is known by its id alone.
    #[default]
    Global,
    /// Within each batch.
    PerBatch,
}

/// How requests that make more than one batch are cut. Each bound holds beside the provider's own, and one model and
/// one endpoint a batch where the provider wants that.
///
/// ```
/// # use batchwright_core::Money;
/// # use batchwright_router::{RouterOptions, Split};
/// // At most 10,000 rows and ten dollars in any one create.
/// let split = Split::default().with_requests(10_000).with_cost(Money::from_dollars(10.0).unwrap());
/// let options = RouterOptions::default().with_split(split);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Split {
    /// The most requests of a batch, 1 or more. Default `None`.
    pub max_requests: Option<u64>,
    /// The most bytes of a batch's input. Default `None`.
    pub max_bytes: Option<u64>,
    /// About how many input tokens a batch holds at most. Default `None`; where a queue's limit is told
    /// ([`QueueLimit::max_enqueued_tokens`](crate::QueueLimit)) that is a bound too. A request over it makes a batch
    /// alone, since this is an estimate.
    pub max_tokens: Option<u64>,
    /// What a batch may cost at most, if every answer is as long as its request allows. It is what one create of unclear
    /// fate can cost twice at the very worst. Default `None`. Needs a price for the model and a longest answer on each
    /// request.
    pub max_cost: Option<Money>,
}

impl Split {
    /// Sets the most requests of a batch.
    #[must_use]
    pub fn with_requests(mut self, requests: u64) -> Self {
        self.max_requests = Some(requests);
        self
    }

    /// Sets the most bytes of a batch's input.
    #[must_use]
    pub fn with_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Sets about how many input tokens a batch holds at most.
    #[must_use]
    pub fn with_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Sets what a batch may cost at most.
    #[must_use]
    pub fn with_cost(mut self, cost: Money) -> Self {
        self.max_cost = Some(cost);
        self
    }
}

/// One batch to be: rows of one [`BatchRequest`].
pub(crate) struct Part {
    /// Which of the requests' list, from 0.
    pub(crate) batch: usize,
    pub(crate) provider: Arc<dyn BatchProvider>,
    pub(crate) endpoint: String,
    /// The first row's; every row's where the provider wants one.
    pub(crate) model: String,
    /// Which rows, ascending.
    pub(crate) rows: Vec<usize>,
    pub(crate) tokens: u64,
    bytes: u64,
    cost: u64,
}

/// What batches are checked by.
pub(crate) struct Rules<'r> {
    pub(crate) providers: &'r BTreeMap<String, Arc<dyn BatchProvider>>,
    pub(crate) unique: UniqueIds,
    /// `None` is one batch for each request, or an error.
    pub(crate) split: Option<Split>,
    /// The most input tokens of a batch for the provider of this name, where a queue's limit is told.
    pub(crate) queue_tokens: &'r dyn Fn(&str) -> Option<u64>,
    pub(crate) prices: &'r PriceTable,
}

impl Rules<'_> {
    /// Everything checked, and cut: the batches to be, in the order of their first rows.
    pub(crate) fn plan(&self, batches: &[BatchRequest]) -> Result<Vec<Part>> {
        let mut missing: Vec<&str> = batches
            .iter()
            .map(|batch| batch.provider.as_str())
            .filter(|name| !self.providers.contains_key(*name))
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Err(unknown_providers(&missing));
        }
        let mut ids = HashSet::new();
        let mut parts = Vec::new();
        for (number, batch) in batches.iter().enumerate() {
            if self.unique == UniqueIds::PerBatch {
                ids.clear();
            }
            let mut cut = Cut::new(self, number, batch)?;
            for (row, request) in batch.requests.iter().enumerate() {
                if request.custom_id.is_empty() {
                    return Err(cut.refuse(format!("request {} has no custom_id", row + 1)));
                }
                if !ids.insert(request.custom_id.as_str()) {
                    return Err(cut.refuse(format!(
                        "custom_id {:?} stands twice; give each request one of its own",
                        request.custom_id
                    )));
                }
                cut.add(row, request)?;
            }
            parts.extend(cut.end());
        }
        Ok(parts)
    }
}

/// One [`BatchRequest`] being cut.
struct Cut<'c> {
    rules: &'c Rules<'c>,
    number: usize,
    batch: &'c BatchRequest,
    provider: &'c Arc<dyn BatchProvider>,
    limits: &'c BatchLimits,
    max_requests: u64,
    max_bytes: u64,
    max_tokens: u64,
    parts: Vec<Part>,
    /// The part that takes more rows, by endpoint and model.
    open: BTreeMap<(String, String), usize>,
    line: Vec<u8>,
}

impl<'c> Cut<'c> {
    fn new(rules: &'c Rules<'c>, number: usize, batch: &'c BatchRequest) -> Result<Self> {
        let provider = &rules.providers[&batch.provider];
        let Some(limits) = provider.capability().batch.as_ref() else {
            let text = format!("{} has no batch API", batch.provider);
            return Err(refusal(number, ErrorKind::InvalidRequest, text));
        };
        if batch.requests.is_empty() {
            let text = "it has no requests";
            return Err(refusal(number, ErrorKind::InvalidRequest, text));
        }
        let split = rules.split.unwrap_or_default();
        let tokens = (rules.queue_tokens)(&batch.provider);
        let bound = |own: Option<u64>, theirs: u64| own.unwrap_or(u64::MAX).max(1).min(theirs);
        Ok(Self {
            rules,
            number,
            batch,
            provider,
            limits,
            max_requests: bound(split.max_requests, limits.max_requests),
            max_bytes: bound(split.max_bytes, limits.max_bytes),
            max_tokens: bound(split.max_tokens, tokens.unwrap_or(u64::MAX)),
            parts: Vec::new(),
            open: BTreeMap::new(),
            line: Vec::new(),
        })
    }

    fn refuse(&self, text: impl AsRef<str>) -> Error {
        refusal(self.number, ErrorKind::InvalidRequest, text)
    }

    fn add(&mut self, row: usize, request: &Request) -> Result<()> {
        let id = &request.custom_id;
        let named = |error: Error| error.context(format_args!("batch {}: {id:?}", self.number + 1));
        let endpoint = self.provider.endpoint(request).map_err(named)?.to_owned();
        self.limits.check_endpoint(&endpoint).map_err(named)?;
        let prefix = WirePrefix::of("check", self.number as u32, 1);
        let wire_id = WireId::new(prefix, row as u64).to_string();
        self.line.clear();
        self.provider
            .encode(request, &wire_id, &mut self.line)
            .map_err(named)?;
        let bytes = self.line.len() as u64 + 1;
        let tokens = request.estimated_input_tokens();
        let cost = self.cost(request, tokens)?;
        let split = self.rules.split.is_some();
        let model = match self.limits.one_model {
            true => request.model.clone(),
            false => String::new(),
        };
        if let (false, Some(first)) = (split, self.parts.first()) {
            let several = match () {
                () if first.endpoint != endpoint => Some("endpoints"),
                () if self.limits.one_model && first.model != request.model => Some("models"),
                () => None,
            };
            if let Some(several) = several {
                return Err(self.refuse(format!(
                    "requests for several {several} share a batch, {id:?} for one"
                )));
            }
        }
        let group = (endpoint, model);
        let open = self.open.get(&group).copied();
        let fits = open.is_some_and(|at| {
            let part = &self.parts[at];
            let max_cost = self.rules.split.and_then(|split| split.max_cost);
            (part.rows.len() as u64) < self.max_requests
                && part.bytes + bytes <= self.max_bytes
                && part.tokens.saturating_add(tokens) <= self.max_tokens
                && max_cost.is_none_or(|max| part.cost.saturating_add(cost) <= max.as_picodollars())
        });
        let at = match open {
            // Without cutting all goes into one part, which is measured at its end.
            Some(at) if fits || !split => at,
            _ => {
                if split && bytes > self.max_bytes {
                    let most = self.max_bytes;
                    return Err(self.refuse(format!(
                        "{id:?} alone is {bytes} bytes, and a batch takes {most}"
                    )));
                }
                self.parts.push(Part {
                    batch: self.number,
                    provider: Arc::clone(self.provider),
                    endpoint: group.0.clone(),
                    model: request.model.clone(),
                    rows: Vec::new(),
                    tokens: 0,
                    bytes: 0,
                    cost: 0,
                });
                self.open.insert(group, self.parts.len() - 1);
                self.parts.len() - 1
            }
        };
        let part = &mut self.parts[at];
        part.rows.push(row);
        part.bytes += bytes;
        part.tokens = part.tokens.saturating_add(tokens);
        part.cost = part.cost.saturating_add(cost);
        if !split {
            return self.measure(at, row);
        }
        Ok(())
    }

    /// Refuses what one batch cannot hold, once all of it is known.
    fn measure(&self, at: usize, row: usize) -> Result<()> {
        if row + 1 < self.batch.requests.len() {
            return Ok(());
        }
        let (part, name) = (&self.parts[at], &self.batch.provider);
        let count = part.rows.len() as u64;
        for (is, most, what) in [
            (count, self.max_requests, "requests"),
            (part.bytes, self.max_bytes, "bytes"),
        ] {
            if is > most {
                return Err(self.refuse(format!("{is} {what}, and {name} takes {most}; split it")));
            }
        }
        Ok(())
    }

    /// The most a request can cost, where that bounds a batch.
    fn cost(&self, request: &Request, tokens: u64) -> Result<u64> {
        let Some(max) = self.rules.split.and_then(|split| split.max_cost) else {
            return Ok(0);
        };
        let id = &request.custom_id;
        let answer = match &request.payload {
            batchwright_core::Payload::Embedding(_) => Some(0),
            _ => request.sampling.max_output_tokens().map(u64::from),
        };
        let Some(answer) = answer else {
            return Err(self.refuse(format!(
                "what {id:?} may cost has no bound: set its longest answer"
            )));
        };
        let usage = Usage::of(tokens, answer);
        let name = &self.batch.provider;
        let cost = self
            .rules
            .prices
            .usage_cost(name, &request.model, &usage, Lane::Batch);
        let Some(cost) = cost else {
            return Err(self.refuse(format!(
                "what {id:?} may cost is not known: no price of {:?} at {name}",
                request.model
            )));
        };
        if cost > max {
            return Err(self.refuse(format!(
                "{id:?} alone may cost {cost}, and a batch may cost {max}"
            )));
        }
        Ok(cost.as_picodollars())
    }

    fn end(mut self) -> Vec<Part> {
        self.parts.sort_by_key(|part| part.rows.first().copied());
        self.parts
    }
}

fn refusal(number: usize, kind: ErrorKind, text: impl AsRef<str>) -> Error {
    Error::new(kind, format!("batch {}: {}", number + 1, text.as_ref()))
}

pub(crate) fn unknown_providers(names: &[&str]) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        format!("no such provider is registered: {}", names.join(", ")),
    )
}
