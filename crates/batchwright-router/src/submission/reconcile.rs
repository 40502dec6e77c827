//! After a create of unclear fate: what the provider's list says.

use super::{Live, MAX_LOST, Phase, Submission};
use batchwright_core::{BatchStatus, BatchSummary, Error, ErrorKind, JournalEvent};
use std::time::Duration;

impl Submission {
    pub(super) fn on_listed(&mut self, found: &[BatchSummary], now: Duration, random: f64) {
        self.failures = 0;
        let (tag, input, fenced) = match &self.phase {
            Phase::Creating { tag, input, .. } => (tag, input, false),
            Phase::Absent { tag, input, .. } => (tag, input, true),
            _ => return,
        };
        let can_fence = !self.terms.inline && !input.0.is_empty();
        let by_requests = |summary: &BatchSummary| {
            self.terms.by_requests
                && summary.tag.is_none()
                && summary.handle.input.0.is_empty()
                && summary.requests == Some(self.others.requests)
                && !self.others.known.contains(&summary.handle.id)
        };
        let mut ours: Vec<&BatchSummary> = found
            .iter()
            .filter(|summary| {
                summary.tag.as_ref() == Some(tag)
                    || (!input.0.is_empty() && summary.handle.input == *input)
                    || by_requests(summary)
            })
            // An earlier batch of the same input, which failed for a full queue, is not this create's.
            .filter(|summary| !self.is_spent(summary))
            .collect();
        // Where several match, those that failed bought nothing (F-117).
        if ours.len() > 1 {
            let one_failed = ours
                .iter()
                .position(|one| one.status == BatchStatus::Failed);
            let failed = one_failed.map(|at| ours[at]);
            ours.retain(|summary| summary.status != BatchStatus::Failed);
            if ours.is_empty() {
                ours.extend(failed);
            }
        }
        self.unreadable = 0;
        if self.others.unclear && ours.iter().any(|summary| by_requests(summary)) {
            // It may be the other chunk's, whose create is answered any moment or is of unclear fate too.
            let since = *self.doubtful_since.get_or_insert(now);
            if now.saturating_sub(since) < self.options.settle {
                let step = self.options.settle / self.options.settle_listings.max(1);
                self.wait = Some(now + step.mul_f64(1.0 + 0.1 * random));
            } else {
                let reason = format!(
                    "creates of several chunks are of unclear fate, and the number of requests does not tell \
                     whose is batch {}",
                    ours[0].handle.id
                );
                self.hold(reason);
            }
            return;
        }
        self.doubtful_since = None;
        match ours.as_slice() {
            [only] => {
                self.live = Live::Pending(JournalEvent::Adopted {
                    tag: tag.clone(),
                    handle: only.handle.clone(),
                });
            }
            [] if fenced => {
                self.live = Live::Pending(JournalEvent::Fenced { tag: tag.clone() });
            }
            [] => {
                self.clean += 1;
                let since = *self.clean_since.get_or_insert(now);
                let settled = now.saturating_sub(since) >= self.options.settle;
                let fact = if self.clean >= self.options.settle_listings && settled {
                    if !can_fence {
                        let reason = "no batch of this chunk showed in the provider's list, and nothing can keep \
                                      its create from running late"
                            .to_owned();
                        self.hold(reason);
                        return;
                    }
                    self.lost += 1;
                    if self.lost >= MAX_LOST {
                        let message = format!("create the batch: {MAX_LOST} creates had no effect");
                        self.stop = Some(Error::new(ErrorKind::ProviderFault, message));
                    }
                    JournalEvent::Absent { tag: tag.clone() }
                } else {
                    // The listings are spread over the window (F-114).
                    let step = self.options.settle / self.options.settle_listings.max(1);
                    self.wait = Some(now + step.mul_f64(1.0 + 0.1 * random));
                    JournalEvent::ListedClean { tag: tag.clone() }
                };
                self.live = Live::Pending(fact);
            }
            several => self.hold(several_match(several)),
        }
    }

    pub(super) fn is_spent(&self, summary: &BatchSummary) -> bool {
        self.spent.contains(&summary.handle.id)
    }

    pub(super) fn hold(&mut self, reason: String) {
        if let Some((tag, _)) = self.current() {
            self.live = Live::Pending(JournalEvent::Held {
                tag: tag.clone(),
                reason,
            });
        }
    }
}

pub(super) fn several_match(batches: &[&BatchSummary]) -> String {
    let ids: Vec<&str> = batches
        .iter()
        .map(|summary| summary.handle.id.as_str())
        .collect();
    format!("several batches match this chunk: {}", ids.join(", "))
}
