//! Up to the create: upload, the look before, and what its answer says.

use super::{Live, MAX_REUPLOADS, Phase, Submission, reconcile::progress};
use batchwright_core::{
    BatchHandle, BatchStatus, BatchSummary, Error, ErrorKind, InputRef, JournalEvent, ListMark,
    Result, RetryClass, SubmissionTag, SubmitError,
};
use std::{cmp::Reverse, time::Duration};

impl Submission {
    pub(super) fn uploaded(&mut self, input: InputRef) {
        self.failures = 0;
        self.free = 0;
        if let Phase::Uploading { tag } = &self.phase {
            self.live = Live::Pending(JournalEvent::Uploaded {
                tag: tag.clone(),
                input,
            });
        }
    }

    /// An upload costs nothing, so it is sent again after a look whether it arrived.
    pub(super) fn on_upload_failed(&mut self, error: Error, now: Duration, random: f64) {
        match (&self.phase, error.class()) {
            // Its size is the one thing of an upload that is the chunk's own.
            (Phase::Uploading { tag }, RetryClass::RowFatal) if error.status() == Some(413) => {
                let message = error.message().to_owned();
                self.live = Live::Pending(JournalEvent::CreateRefused {
                    tag: tag.clone(),
                    message,
                    retryable: false,
                });
            }
            // The address, the account's storage or its rights: every other upload would end alike (F-092).
            (_, RetryClass::RowFatal) => self.stop = Some(error.with_class(RetryClass::JobStop)),
            _ => {
                self.live = Live::Idle;
                self.free_try(error, now, random);
            }
        }
    }

    /// The page read just before a create. A batch of this chunk may already be there.
    pub(super) fn on_recent(&mut self, recent: &[BatchSummary]) {
        let (tag, input) = match (&self.phase, &self.live) {
            (Phase::Uploaded { tag, input, .. }, _) => (tag.clone(), input.clone()),
            (Phase::Sealed { .. }, Live::Minted(tag)) => (tag.clone(), InputRef::default()),
            _ => return,
        };
        let is_ours = |summary: &&BatchSummary| {
            summary
                .tag
                .as_ref()
                .is_some_and(|t| t.job() == tag.job() && t.chunk() == tag.chunk())
        };
        // A fenced attempt that committed late fails for want of its input; that bought nothing.
        let mut bought: Vec<&BatchSummary> = recent
            .iter()
            .filter(is_ours)
            .filter(|summary| summary.status != BatchStatus::Failed && !self.is_spent(summary))
            .filter(|summary| {
                let id = &summary.handle.id;
                !self.excused.contains(id) && !self.surplus.iter().any(|e| e.handle.id == *id)
            })
            .collect();
        let is_strange = |summary: &&&BatchSummary| {
            !summary
                .tag
                .as_ref()
                .is_some_and(|theirs| self.tags.contains(theirs))
        };
        let strange: Vec<String> = bought
            .iter()
            .filter(is_strange)
            .map(|summary| summary.handle.id.clone())
            .collect();
        let strangers = &self.others.strangers;
        if let Some(first) = strange.first().or(strangers.first()) {
            let whose = if strange.is_empty() {
                "this job"
            } else {
                "this chunk"
            };
            let reason = format!(
                "batch {first} was bought for {whose} by another process or a copy of this job folder"
            );
            let batches = strange.iter().chain(strangers).cloned().collect();
            self.second_buyer = true;
            self.live = Live::Pending(JournalEvent::Held {
                tag,
                reason,
                batches,
            });
            return;
        }
        bought.sort_by_key(|summary| Reverse(progress(&summary.status)));
        if let Some((best, rest)) = bought.split_first() {
            let tag_of = |summary: &BatchSummary| {
                let tag = summary.tag.clone();
                tag.expect("only tagged batches are ours")
            };
            let surplus: Vec<JournalEvent> = rest
                .iter()
                .map(|summary| JournalEvent::Surplus {
                    tag: tag_of(summary),
                    handle: summary.handle.clone(),
                    certain: true,
                })
                .collect();
            let adopted = JournalEvent::Adopted {
                tag: tag_of(best),
                handle: best.handle.clone(),
            };
            self.also.extend(surplus);
            self.live = Live::Pending(adopted);
            return;
        }
        let seen = recent
            .iter()
            .map(|summary| summary.handle.id.clone())
            .collect();
        let mark = ListMark::new(seen, None);
        self.live = Live::Pending(JournalEvent::CreateIntent { tag, input, mark });
    }

    pub(super) fn on_submitted(
        &mut self,
        result: Result<BatchHandle, SubmitError>,
        now: Duration,
        random: f64,
    ) {
        let Phase::Creating { tag, .. } = &self.phase else {
            return;
        };
        let tag = tag.clone();
        self.live = Live::Pending(match result {
            Ok(handle) => {
                self.failures = 0;
                self.free = 0;
                JournalEvent::Created { tag, handle }
            }
            Err(SubmitError::Unknown(error)) => {
                let message = error.message().to_owned();
                self.answer = Some(error.clone());
                if error.is_job_stop() {
                    // An account without money buys nothing on the next try either (F-005). The next run looks
                    // in the list first, as after a crash.
                    self.stop = Some(error);
                }
                JournalEvent::CreateUnknown { tag, message }
            }
            Err(SubmitError::Refused(error))
                if !self.terms.inline
                    && error.kind() == ErrorKind::NotFound
                    && error.class() == RetryClass::RowFatal =>
            {
                let message = error.message().to_owned();
                self.on_input_gone(&tag, now)
                    .unwrap_or(JournalEvent::CreateRefused {
                        tag,
                        message,
                        retryable: false,
                    })
            }
            Err(SubmitError::NotSent(error) | SubmitError::Refused(error)) => {
                let retryable = error.class() != RetryClass::RowFatal;
                let message = error.message().to_owned();
                if retryable {
                    // Where the account is at fault the refusal is recorded first and the run stops then, so
                    // that a rerun has nothing to reconcile.
                    self.free_try(error, now, random);
                }
                JournalEvent::CreateRefused {
                    tag,
                    message,
                    retryable,
                }
            }
        });
    }

    /// Nothing ran, because the provider does not see the input. It may not have arrived everywhere yet
    /// (F-086); later on it is gone and is uploaded again (F-132). `None` where that did not help either.
    pub(super) fn on_input_gone(
        &mut self,
        tag: &SubmissionTag,
        now: Duration,
    ) -> Option<JournalEvent> {
        let since = *self.input_gone_since.get_or_insert(now);
        if now.saturating_sub(since) < self.options.settle / 3 {
            self.queue_pause(now);
            return Some(JournalEvent::CreateRefused {
                tag: tag.clone(),
                message: "the provider does not see the input yet".to_owned(),
                retryable: true,
            });
        }
        self.input_gone_since = None;
        (tag.attempt() < MAX_REUPLOADS).then(|| JournalEvent::Fenced { tag: tag.clone() })
    }

    /// Waits before the same input is submitted again, longer each time.
    pub(super) fn queue_pause(&mut self, now: Duration) {
        let growth = 1u32 << self.queue_waits.min(6);
        self.queue_waits = self.queue_waits.saturating_add(1);
        let wait = self.options.queue_wait.saturating_mul(growth);
        self.wait = Some(now + wait.min(Duration::from_secs(3600)));
    }
}
