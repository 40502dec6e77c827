//! From a batch to its rows' outcomes.

use super::{Asked, Close, Live, MAX_FULL_ALONE, Phase, Submission};
use batchwright_core::{
    BatchSnapshot, BatchStatus, Ending, Error, ErrorKind, JournalEvent, RetryClass,
};
use std::time::Duration;

impl Submission {
    pub(super) fn on_merged(&mut self, rows: u64, missing: u64, foreign: u64, now: Duration) {
        let just_proven = rows > 0 && !self.proven;
        self.proven |= just_proven;
        match &mut self.phase {
            // Not one line is this attempt's: it was another's all along, or nothing tells. Rows marked missing
            // would be bought again, and whether they were bought once is not known.
            Phase::Running {
                handle,
                unproven: Some(_),
                ..
            } if !self.proven && rows == 0 && (foreign > 0 || self.again) => {
                let handle = handle.clone();
                self.live = Live::Pending(JournalEvent::Disproved { handle });
            }
            // Lines that are missing may be a cut download (F-037, F-097), or stand in a file that was not
            // named yet (F-081): once more as a later poll finds it, then it is so.
            Phase::Running { collected, .. } if missing > 0 && !self.again => {
                *collected = false;
                self.again = true;
                self.fresh = true;
                self.live = Live::Idle;
                self.wait = Some(now + self.options.poll_interval(self.polls));
            }
            // Proven by the second download: once more, for the rows without a line.
            Phase::Running {
                unproven: Some(_), ..
            } if missing > 0 && just_proven => self.live = Live::Idle,
            _ => self.live = Live::Pending(JournalEvent::Merged { rows }),
        }
    }

    pub(super) fn on_polled(&mut self, snapshot: BatchSnapshot, now: Duration) {
        self.unseen_since = None;
        if !snapshot.status.is_terminal() {
            self.failures = 0;
            if self.asked == Asked::InVain {
                self.asked = Asked::No;
            }
        }
        let Phase::Running {
            handle,
            status,
            tag,
            fenced,
            unproven,
            ..
        } = &self.phase
        else {
            return;
        };
        let changed = status.as_ref() != Some(&snapshot.status);
        if changed {
            self.polls = 0;
        }
        let interval = self.options.poll_interval(self.polls);
        self.polls = self.polls.saturating_add(1);
        let nothing_ran = snapshot.status == BatchStatus::Failed && snapshot.files.is_empty();
        if nothing_ran && *fenced {
            // Whatever it says: its input was deleted under it. Its attempt is over, as it was meant to be
            // (F-113).
            self.live = Live::Pending(JournalEvent::Fenced { tag: tag.clone() });
            return;
        }
        if unproven.is_some() && (nothing_ran || snapshot.queue_full) {
            // It bought nothing, and that says nothing about the chunk's own batch, should it be another one.
            let handle = handle.clone();
            self.live = Live::Pending(JournalEvent::Disproved { handle });
            return;
        }
        if let (true, Some(kind)) = (nothing_ran, snapshot.account_fault) {
            // No row's fault, and nothing to poll for: the same input may be submitted in a later run.
            let error = refusal(&snapshot, kind).with_class(RetryClass::JobStop);
            self.live = Live::Pending(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: error.message().to_owned(),
                retryable: true,
            });
            self.stop = Some(error);
            return;
        }
        if snapshot.queue_full {
            // Nothing ran: the same input is submitted again when there may be room (F-010).
            let error = refusal(&snapshot, ErrorKind::RateLimited);
            self.live = Live::Pending(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: error.message().to_owned(),
                retryable: true,
            });
            self.full_alone = if self.alone { self.full_alone + 1 } else { 0 };
            if self.full_alone >= MAX_FULL_ALONE {
                self.stop = Some(error.with_class(RetryClass::JobStop));
            }
            self.queue_pause(now);
            return;
        }
        if changed {
            // A terminal state is read once more, after it is recorded.
            self.wait = (!snapshot.status.is_terminal()).then_some(now + interval);
            self.live = Live::Pending(JournalEvent::Status {
                handle: handle.clone(),
                status: snapshot.status,
            });
            return;
        }
        match snapshot.status {
            BatchStatus::Failed if snapshot.files.is_empty() => {
                let input_gone = !self.terms.inline
                    && snapshot
                        .faults
                        .iter()
                        .any(|fault| fault.param.as_deref() == Some("file_id"));
                let tag = tag.clone();
                let next = input_gone.then(|| self.on_input_gone(&tag, now)).flatten();
                self.live = match next {
                    Some(fact) => Live::Pending(fact),
                    None => {
                        let error = refusal(&snapshot, ErrorKind::InvalidRequest);
                        Live::Closing(Close::Refused(error, snapshot.faults))
                    }
                };
            }
            ref status if status.is_terminal() => {
                let since = *self.awaiting_since.get_or_insert(now);
                if snapshot.awaits_files() && now.saturating_sub(since) < self.options.files_grace {
                    self.wait = Some(now + interval);
                } else {
                    // What is kept is given up only for something else.
                    self.fresh &= !snapshot.files.is_empty();
                    self.live = Live::Ended(snapshot);
                }
            }
            _ => {
                self.awaiting_since = None;
                self.wait = Some(now + interval);
            }
        }
    }
}

/// How rows end of which an ended batch's files hold no line: some providers write none for what they
/// never ran (F-077, F-078).
pub(super) fn rest(status: Option<&BatchStatus>) -> Ending {
    match status {
        Some(BatchStatus::Expired) => Ending::Expired,
        Some(BatchStatus::Cancelled) => Ending::Cancelled,
        _ => Ending::Missing,
    }
}

/// The provider's own words on why it refused a batch's input.
pub(super) fn refusal(snapshot: &BatchSnapshot, kind: ErrorKind) -> Error {
    let Some(first) = snapshot.faults.first() else {
        return Error::new(kind, "the provider failed the batch without a reason");
    };
    let place = first
        .line
        .map_or(String::new(), |line| format!("line {line}: "));
    let error = Error::new(
        kind,
        format!("the provider refused the batch: {place}{}", first.message),
    );
    match &first.code {
        Some(code) => error.with_code(code.clone()),
        None => error,
    }
}
