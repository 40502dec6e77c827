//! The results of one ended batch, row by row as its files come in.

use crate::{
    BatchTicket,
    join::{Join, Joined, Origin, refused_row},
    options::RouterOptions,
};
use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, ByteStream, Ending, Error, ErrorKind,
    Lane, Outcome, PriceTable, Result, ResultFile, WirePrefix,
};
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use std::{collections::HashSet, sync::Arc};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tracing::warn;

/// The longest result line that is looked at; of a longer one its row is missing (F-107).
const LINE_CAP: usize = 64 * 1024 * 1024;

/// Failures in a row without a byte between them after which a call that costs nothing is given up.
const MAX_FAILURES: u32 = 20;

/// One ended batch being collected.
pub(crate) struct Gather {
    pub(crate) provider: Arc<dyn BatchProvider>,
    pub(crate) handle: BatchHandle,
    /// Whose requests they are, where that is known.
    pub(crate) ticket: Option<Arc<BatchTicket>>,
    pub(crate) options: RouterOptions,
    pub(crate) prices: Arc<PriceTable>,
    pub(crate) outcomes: mpsc::Sender<Outcome>,
}

impl Gather {
    /// Sends every row's outcome.
    pub(crate) async fn run(self) -> Result<()> {
        let mut snapshot = self.snapshot().await?;
        if !snapshot.status.is_terminal() {
            let (id, status) = (&self.handle.id, &snapshot.status);
            let message = format!("collect {id}: it is {status} and has not ended");
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let until = Instant::now() + self.options.files_grace;
        let mut polls = 0;
        while snapshot.awaits_files() && Instant::now() < until {
            // Announced and not named yet (F-081).
            sleep(self.options.poll_interval(polls)).await;
            polls += 1;
            snapshot = self.snapshot().await?;
        }
        match self.ticket.clone() {
            Some(ticket) => self.rows(&ticket, snapshot).await,
            None => self.lines(&snapshot).await,
        }
    }

    /// The batch's state; asking is free.
    async fn snapshot(&self) -> Result<BatchSnapshot> {
        let mut failures = 0;
        loop {
            match self.provider.status(&self.handle).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(error) => self.pause(error, &mut failures).await?,
            }
        }
    }

    /// Waits before the same is tried again, or gives the error back.
    async fn pause(&self, error: Error, failures: &mut u32) -> Result<()> {
        *failures += 1;
        if !error.is_retryable() || *failures >= MAX_FAILURES {
            return Err(error.context(format_args!("collect {}", self.handle.id)));
        }
        warn!(kind = %error.kind(), status = error.status(), "collecting waits");
        let delay = self
            .options
            .retry
            .delay(*failures, error.retry_after(), 0.5);
        sleep(delay).await;
        Ok(())
    }

    /// Whoever dropped the receiving end wants nothing more.
    async fn give(&self, outcome: Outcome) -> Result<()> {
        let sent = self.outcomes.send(outcome).await;
        sent.map_err(|_| Error::new(ErrorKind::Cancelled, "nobody reads the outcomes"))
    }

    async fn named(&self, ticket: &BatchTicket, row: u64, mut outcome: Outcome) -> Result<()> {
        let row = usize::try_from(row).ok();
        match row.and_then(|row| ticket.custom_ids.get(row)) {
            Some(id) => {
                outcome.custom_id.clone_from(id);
                self.give(outcome).await
            }
            None => Ok(()),
        }
    }

    /// Every request of the ticket ends, by its line or by how the batch did.
    async fn rows(&self, ticket: &BatchTicket, mut snapshot: BatchSnapshot) -> Result<()> {
        let name = self.provider.name();
        let origin = Origin::new(name, &ticket.model, Arc::clone(&self.prices))
            .bought(&self.handle, ticket.tag.attempt());
        let rows: Vec<u64> = (0..ticket.custom_ids.len() as u64).collect();
        if snapshot.status == BatchStatus::Failed && snapshot.files.is_empty() {
            let error = refusal(&snapshot);
            for (row, line) in rows.iter().zip(1u64..) {
                let error = refused_row(&error, &snapshot.faults, line);
                self.named(ticket, *row, origin.outcome(Ending::Failed(error)))
                    .await?;
            }
            return Ok(());
        }
        let prefix = WirePrefix::of(ticket.tag.job(), ticket.tag.chunk(), ticket.tag.attempt());
        let mut join = Join::new(self.provider.as_ref(), prefix, &rows, &origin);
        // Successes go out as they come; of other lines the newest reading counts.
        let mut others = Vec::new();
        for reading in 0..2 {
            others.clear();
            for file in &snapshot.files {
                let mut lines = Lines::new(self, file);
                while let Some(line) = lines.next().await? {
                    match join.line(&line) {
                        Joined::Row(row, outcome) => self.named(ticket, row, *outcome).await?,
                        // An error's, or of a row that has its outcome.
                        Joined::Passed if self.open_row(&join, &line).is_some() => {
                            others.push(line);
                        }
                        Joined::Passed | Joined::Unknown => {}
                    }
                }
            }
            let seen = join.settled() + self.errors(&join, &others);
            if reading == 1 || seen >= rows.len() as u64 || snapshot.files.is_empty() {
                break;
            }
            // A cut download, or a file that was not named yet (F-037, F-081, F-097).
            sleep(self.options.poll_interval(0)).await;
            snapshot = self.snapshot().await?;
        }
        join.second_pass();
        for line in &others {
            if let Joined::Row(row, outcome) = join.line(line) {
                self.named(ticket, row, *outcome).await?;
            }
        }
        let rest = match snapshot.status {
            BatchStatus::Expired => Ending::Expired,
            BatchStatus::Cancelled => Ending::Cancelled,
            _ => Ending::Missing,
        };
        let missing: Vec<u64> = join.missing().collect();
        for row in missing {
            self.named(ticket, row, origin.outcome(rest.clone()))
                .await?;
        }
        Ok(())
    }

    /// The row of a line, where it has no outcome yet; and whether the line can be read.
    fn open_row(&self, join: &Join<'_>, line: &[u8]) -> Option<(u64, bool)> {
        let outcome = self.provider.decode(line)?;
        let row = join.open_row(&outcome.custom_id)?;
        Some((row, !matches!(outcome.ending, Ending::Unreadable(_))))
    }

    /// How many rows without a success have another line that can be read.
    fn errors(&self, join: &Join<'_>, others: &[Bytes]) -> u64 {
        let rows = others.iter().filter_map(|line| self.open_row(join, line));
        let rows: HashSet<u64> = rows
            .filter_map(|(row, readable)| readable.then_some(row))
            .collect();
        rows.len() as u64
    }

    /// What the files hold, under the ids that stand there.
    async fn lines(&self, snapshot: &BatchSnapshot) -> Result<()> {
        let (provider, batch) = (self.provider.name().into(), self.handle.id.as_str().into());
        for file in &snapshot.files {
            let mut lines = Lines::new(self, file);
            while let Some(line) = lines.next().await? {
                let Some(mut outcome) = self.provider.decode(&line) else {
                    continue;
                };
                let model = outcome.response().and_then(|answer| answer.model.clone());
                let name = self.provider.name();
                let provenance = &mut outcome.provenance;
                provenance.provider = Some(Arc::clone(&provider));
                provenance.batch = Some(Arc::clone(&batch));
                provenance.lane = Some(Lane::Batch);
                provenance.attempts = 1;
                if let Some(model) = model {
                    provenance.cost = self.prices.cost(name, &model, &outcome.ending, Lane::Batch);
                    provenance.model = Some(model.into());
                }
                self.give(outcome).await?;
            }
        }
        Ok(())
    }
}

/// The lines of one result file, gone on from where a broken download stopped.
struct Lines<'g> {
    gather: &'g Gather,
    file: &'g ResultFile,
    body: Option<ByteStream>,
    buffer: BytesMut,
    /// How much of `buffer` was searched for a line end.
    searched: usize,
    /// Bytes of the file that were taken in.
    offset: u64,
    /// Whether the line that is being read is too long.
    skips: bool,
    ended: bool,
    failures: u32,
}

impl<'g> Lines<'g> {
    fn new(gather: &'g Gather, file: &'g ResultFile) -> Self {
        Self {
            gather,
            file,
            body: None,
            buffer: BytesMut::new(),
            searched: 0,
            offset: 0,
            skips: false,
            ended: false,
            failures: 0,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(end) = self.buffer[self.searched..]
                .iter()
                .position(|b| *b == b'\n')
            {
                let line = self.buffer.split_to(self.searched + end).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if std::mem::take(&mut self.skips) {
                    continue;
                }
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_CAP {
                self.skips = true;
                self.buffer.clear();
                self.searched = 0;
            }
            if self.ended {
                self.searched = 0;
                let line = self.buffer.split().freeze();
                return Ok(Some(line).filter(|line| !line.is_empty() && !self.skips));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<()> {
        let piece = match &mut self.body {
            Some(body) => body.next().await,
            None => match self.gather.provider.download(self.file, self.offset).await {
                Ok(body) => {
                    self.body = Some(body);
                    return Ok(());
                }
                Err(error) if self.offset > 0 && error.kind() == ErrorKind::Unsupported => {
                    // From the start; a row that has its outcome takes no second one.
                    self.offset = 0;
                    self.buffer.clear();
                    (self.searched, self.skips) = (0, false);
                    return Ok(());
                }
                Err(error) => Some(Err(error)),
            },
        };
        match piece {
            Some(Ok(piece)) => {
                self.failures = 0;
                self.offset += piece.len() as u64;
                self.buffer.extend_from_slice(&piece);
            }
            Some(Err(error)) => {
                self.body = None;
                self.gather.pause(error, &mut self.failures).await?;
            }
            None => self.ended = true,
        }
        Ok(())
    }
}

/// Why no row of the batch ran.
fn refusal(snapshot: &BatchSnapshot) -> Error {
    let kind = match (snapshot.account_fault, snapshot.queue_full) {
        (Some(kind), _) => kind,
        (None, true) => ErrorKind::RateLimited,
        (None, false) => ErrorKind::InvalidRequest,
    };
    let Some(first) = snapshot.faults.first() else {
        return Error::new(kind, "the provider failed the batch without a reason");
    };
    let error = Error::new(
        kind,
        format!("the provider refused the batch: {}", first.message),
    );
    match &first.code {
        Some(code) => error.with_code(code.clone()),
        None => error,
    }
}
