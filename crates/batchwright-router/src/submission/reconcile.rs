//! After a create of unclear fate: what the provider's list says.

use super::{Live, MAX_LOST, Phase, Submission};
use batchwright_core::{
    BatchStatus, BatchSummary, Error, ErrorKind, JournalEvent, RetryClass, SubmissionTag,
};
use std::{cmp::Reverse, time::Duration};

/// Why the list is read.
enum Search {
    /// A create is of unclear fate.
    Unclear,
    /// It was given up, and its input is gone: once more.
    Fenced {
        /// By a person, who knows of what was found before.
        forced: bool,
    },
    /// It was refused in the provider's own words: once is enough.
    Refused,
}

impl Submission {
    pub(super) fn on_listed(&mut self, found: &[BatchSummary], now: Duration, random: f64) {
        self.unreadable = 0;
        let search = match &self.phase {
            Phase::Creating { .. } => Search::Unclear,
            Phase::Absent { forced, .. } => Search::Fenced { forced: *forced },
            Phase::Uploaded { .. } | Phase::Refused { .. } => Search::Refused,
            _ => return,
        };
        if !matches!(search, Search::Refused) {
            // There the failures are the create's own.
            self.failures = 0;
        }
        let Some((tag, input)) = self.current() else {
            return;
        };
        let tag = tag.clone();
        // Only what a create of this attempt alone can have made.
        let certain = |summary: &BatchSummary| {
            summary.tag.as_ref() == Some(&tag)
                || (!input.0.is_empty() && summary.handle.input == *input)
        };
        let is_open = |summary: &&BatchSummary| {
            let id = &summary.handle.id;
            // An earlier batch of the same input, which failed for a full queue, is not this create's.
            let is_known = self.is_spent(summary)
                || self.disproved.contains(id)
                || self.is_certain_surplus(id);
            let is_excused =
                matches!(search, Search::Fenced { forced: true }) && self.excused.contains(id);
            !is_known && !is_excused
        };
        let mut ours: Vec<&BatchSummary> = found
            .iter()
            .filter(is_open)
            .filter(|summary| certain(summary))
            .collect();
        let mut others_of_our_size: Vec<&BatchSummary> = Vec::new();
        if ours.is_empty() {
            others_of_our_size = found
                .iter()
                .filter(is_open)
                .filter(|summary| self.is_of_our_size(summary))
                .collect();
        }
        // Where several match, those that failed bought nothing (F-117).
        if ours.len() > 1 && ours.iter().any(|one| one.status != BatchStatus::Failed) {
            ours.retain(|summary| summary.status != BatchStatus::Failed);
        }
        if !others_of_our_size.is_empty() {
            let candidates = others_of_our_size.into_iter().cloned().collect();
            self.on_candidates(tag, candidates, now, random);
            return;
        }
        self.doubtful_since = None;
        ours.sort_by_key(|summary| Reverse(progress(&summary.status)));
        let Some((best, rest)) = ours.split_first() else {
            self.on_nothing_found(tag, &search, now, random);
            return;
        };
        // The rest is recorded first, so that a crash in between leaves one that matches.
        let surplus: Vec<JournalEvent> = rest
            .iter()
            .filter(|summary| summary.status != BatchStatus::Failed)
            .map(|summary| JournalEvent::Surplus {
                tag: tag.clone(),
                handle: summary.handle.clone(),
                certain: true,
            })
            .collect();
        let adopted = JournalEvent::Adopted {
            tag,
            handle: best.handle.clone(),
        };
        let ghosts = self.ghosts_in(found);
        self.also.extend(surplus);
        self.also.extend(ghosts);
        self.live = Live::Pending(adopted);
    }

    /// Batches of this chunk's size, of which nothing else tells whose they are. One is taken for ours, and its results
    /// must prove it; nothing is bought meanwhile, so that a mistake costs time and no money.
    fn on_candidates(
        &mut self,
        tag: SubmissionTag,
        mut candidates: Vec<BatchSummary>,
        now: Duration,
        random: f64,
    ) {
        if self.others.unclear {
            // It may be that of another chunk of this size, whose create is answered any moment.
            let since = *self.doubtful_since.get_or_insert(now);
            if now.saturating_sub(since) < self.options.settle {
                self.wait = Some(now + self.listing_step(random));
                return;
            }
        }
        self.doubtful_since = None;
        candidates.sort_by_key(|summary| {
            let is_taken = self.others.taken.contains(&summary.handle.id);
            (is_taken, Reverse(progress(&summary.status)))
        });
        let best = candidates.swap_remove(0);
        // Should that one be ours, the others may be too.
        let others: Vec<JournalEvent> = candidates
            .into_iter()
            .filter(|summary| {
                !self.others.unclear && !self.others.taken.contains(&summary.handle.id)
            })
            .filter(|summary| {
                let mut known = self.surplus.iter();
                !known.any(|extra| extra.handle.id == summary.handle.id)
            })
            .map(|summary| JournalEvent::Surplus {
                tag: tag.clone(),
                handle: summary.handle,
                certain: false,
            })
            .collect();
        self.also.extend(others);
        self.live = Live::Pending(JournalEvent::Adopted {
            tag,
            handle: best.handle,
        });
    }

    fn on_nothing_found(
        &mut self,
        tag: SubmissionTag,
        search: &Search,
        now: Duration,
        random: f64,
    ) {
        match search {
            Search::Refused => self.live = Live::Confirmed,
            Search::Fenced { .. } => self.live = Live::Pending(JournalEvent::Fenced { tag }),
            Search::Unclear => {
                self.clean += 1;
                let since = *self.clean_since.get_or_insert(now);
                let settled = now.saturating_sub(since) >= self.options.settle;
                if self.clean < self.options.settle_listings || !settled {
                    // The listings are spread over the window (F-114).
                    self.wait = Some(now + self.listing_step(random));
                    self.live = Live::Pending(JournalEvent::ListedClean { tag });
                    return;
                }
                let can_fence = !self.terms.inline
                    && self.current().is_some_and(|(_, input)| !input.0.is_empty());
                if !can_fence {
                    let mut reason =
                        "no batch of this chunk showed in the provider's list, and nothing can \
                                      keep its create from running late"
                            .to_owned();
                    if !self.disproved.is_empty() {
                        let ids = self.disproved.join(", ");
                        reason += &format!("; {ids}, taken for its batch, holds none of its rows");
                    }
                    self.hold(reason, Vec::new());
                    return;
                }
                self.lost += 1;
                if self.lost >= MAX_LOST {
                    self.stop = Some(self.swallowed());
                }
                self.live = Live::Pending(JournalEvent::Absent { tag });
            }
        }
    }

    /// Why no more creates are sent after so many without effect, with what the last one was answered. A limit that
    /// refuses each of them in the same words holds for every other chunk too (F-012).
    fn swallowed(&self) -> Error {
        let what = format!("create the batch: {MAX_LOST} creates had no effect");
        match &self.answer {
            Some(answer) if answer.kind() == ErrorKind::RateLimited => answer
                .clone()
                .with_class(RetryClass::JobStop)
                .context(format_args!("{what}, the last was refused")),
            Some(answer) => {
                let message = format!("{what}; of the last: {}", answer.message());
                Error::new(ErrorKind::ProviderFault, message)
            }
            None => Error::new(ErrorKind::ProviderFault, what),
        }
    }

    /// The list was given and cannot be read to its end, or the provider has none: absence from it means nothing.
    pub(super) fn on_unreadable(&mut self, error: &Error, now: Duration, random: f64) {
        self.unreadable += 1;
        if self.unreadable < super::MAX_UNREADABLE {
            self.wait_to_retry(error, now, random);
            return;
        }
        match &self.phase {
            // A refusal stands by itself.
            Phase::Uploaded { .. } | Phase::Refused { .. } => self.live = Live::Confirmed,
            Phase::Absent {
                tag, forced: true, ..
            } => {
                self.live = Live::Pending(JournalEvent::Fenced { tag: tag.clone() });
            }
            _ => self.hold(
                format!("the provider's list cannot be read: {}", error.message()),
                Vec::new(),
            ),
        }
    }

    /// How far listings are apart.
    fn listing_step(&self, random: f64) -> Duration {
        let step = self.options.settle / self.options.settle_listings.max(1);
        step.mul_f64(1.0 + 0.1 * random)
    }

    /// Whether nothing but the number of its requests speaks for it, and nothing against it.
    pub(super) fn is_of_our_size(&self, summary: &BatchSummary) -> bool {
        self.terms.by_requests
            && summary.tag.is_none()
            && summary.handle.input.0.is_empty()
            && summary.requests == Some(self.others.requests)
            && !self.others.known.contains(&summary.handle.id)
    }

    fn is_certain_surplus(&self, id: &str) -> bool {
        self.surplus
            .iter()
            .any(|extra| extra.handle.id == id && extra.is_certain())
    }

    pub(super) fn is_spent(&self, summary: &BatchSummary) -> bool {
        self.spent.contains(&summary.handle.id)
    }

    pub(super) fn hold(&mut self, reason: String, batches: Vec<String>) {
        if let Some((tag, _)) = self.current() {
            self.live = Live::Pending(JournalEvent::Held {
                tag: tag.clone(),
                reason,
                batches,
            });
        }
    }
}

/// How far a batch is, to tell which of several is the most advanced.
pub(super) fn progress(status: &BatchStatus) -> u8 {
    match status {
        BatchStatus::Completed => 6,
        BatchStatus::Finalizing => 5,
        BatchStatus::InProgress => 4,
        BatchStatus::Expired => 2,
        BatchStatus::Cancelling | BatchStatus::Cancelled => 1,
        BatchStatus::Failed => 0,
        // Validating, and words this version does not know.
        _ => 3,
    }
}
