//! What our batches take of a provider's queue, and when the next create may go (F-010).
//!
//! [`Queue`] is the account, without a clock or a task of its own; [`Seat`] is one chunk's place in it.

use crate::options::{QueueLimit, RouterOptions};
use batchwright_core::{BatchProvider, BatchSnapshot};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

#[cfg(test)]
mod tests;

/// The longest wait after a refusal.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Refusals in a row after which a chunk that should fit counts as one that does not: with waits that double to an
/// hour, about a day.
const PATIENT_REFUSALS: u32 = 28;

/// The provider's name and account: what open batches are counted for.
type Account = (String, String);

/// Whose tokens are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct QueueKey {
    pub(crate) provider: String,
    pub(crate) account: String,
    pub(crate) model: String,
}

/// What a chunk wants of the queue.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) key: QueueKey,
    pub(crate) tokens: u64,
    /// What the caller told of this provider.
    pub(crate) limit: QueueLimit,
}

/// Whether a create may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// Its place is taken from now on.
    Go,
    /// When something changes.
    Later,
    /// When something changes, or at this instant.
    NotBefore(Duration),
}

/// The account of every queue this router buys into.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lines: BTreeMap<QueueKey, Line>,
    open: HashMap<Account, u64>,
}

/// One model's queue in one account.
#[derive(Debug, Default)]
struct Line {
    taken: BTreeMap<u64, Taken>,
    /// Who asked and has no place yet, oldest first.
    waiting: Vec<u64>,
    /// The limit the provider named when it refused.
    learned: Option<u64>,
    /// When it last refused. From then on one create at a time shows whether there is room: a limit that was named is
    /// in tokens as the provider counts them, and may be shared with others.
    refused_at: Option<Duration>,
    /// Refusals in a row of creates sent since the one before was known.
    refusals: u32,
    shut_until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    tokens: u64,
    since: Duration,
    /// Whether the provider let it in: it was seen past its validation.
    let_in: bool,
}

impl Queue {
    /// Asks for a place. Whoever asked first goes first, so that a large chunk is not passed for ever.
    pub(crate) fn ask(&mut self, seat: u64, want: &Want, now: Duration) -> Room {
        let open = self.open.get(&account(&want.key)).copied().unwrap_or(0);
        let line = self.lines.entry(want.key.clone()).or_default();
        if line.taken.contains_key(&seat) {
            return Room::Go;
        }
        if !line.waiting.contains(&seat) {
            line.waiting.push(seat);
        }
        if line.waiting.first() != Some(&seat) {
            return Room::Later;
        }
        if line.refused_at.is_some() && line.taken.values().any(|taken| !taken.let_in) {
            return Room::Later;
        }
        if line.shut_until > now {
            return Room::NotBefore(line.shut_until);
        }
        if want.limit.max_open.is_some_and(|most| open >= most.max(1)) {
            return Room::Later;
        }
        let limit = [want.limit.max_enqueued_tokens, line.learned];
        let limit = limit.into_iter().flatten().min();
        let tokens: u64 = line.taken.values().map(|taken| taken.tokens).sum();
        // What does not fit alone either is the provider's to refuse: this is an estimate.
        if !line.taken.is_empty() && limit.is_some_and(|limit| tokens + want.tokens > limit) {
            return Room::Later;
        }
        self.occupy(seat, want, false, now);
        Room::Go
    }

    /// Takes a place for what was bought earlier.
    pub(crate) fn occupy(&mut self, seat: u64, want: &Want, let_in: bool, now: Duration) {
        let line = self.lines.entry(want.key.clone()).or_default();
        line.waiting.retain(|other| *other != seat);
        let taken = Taken {
            tokens: want.tokens,
            since: now,
            let_in,
        };
        if line.taken.insert(seat, taken).is_none() {
            *self.open.entry(account(&want.key)).or_default() += 1;
        }
    }

    /// The provider let the batch in. Whether that is news.
    pub(crate) fn let_in(&mut self, seat: u64, key: &QueueKey) -> bool {
        if let Some(line) = self.lines.get_mut(key)
            && let Some(taken) = line.taken.get_mut(&seat)
            && !taken.let_in
        {
            taken.let_in = true;
            line.refusals = 0;
            return true;
        }
        false
    }

    /// The provider had no room for the batch; it may have named its limit. Nothing more goes until a batch of ours
    /// ends, or a wait has passed that doubles each time.
    pub(crate) fn refused(
        &mut self,
        seat: u64,
        key: &QueueKey,
        limit: Option<u64>,
        first_wait: Duration,
        now: Duration,
    ) {
        let taken = self.vacate(seat, key);
        let Some(line) = self.lines.get_mut(key) else {
            return;
        };
        line.learned = limit.or(line.learned);
        // Of several that were on their way together all tell the same.
        let news = line
            .refused_at
            .is_none_or(|before| taken.is_some_and(|taken| taken.since >= before));
        if news {
            let wait = first_wait.saturating_mul(1 << line.refusals.min(16));
            line.refusals = line.refusals.saturating_add(1);
            line.shut_until = now + wait.min(LONGEST_WAIT);
            line.refused_at = Some(now);
        }
        // Whoever was refused asks again first.
        line.waiting.retain(|other| *other != seat);
        line.waiting.insert(0, seat);
    }

    /// Gives the place up: the batch ended, or there is none. Room that one had is free at once.
    pub(crate) fn release(&mut self, seat: u64, key: &QueueKey) {
        let had_room = self.vacate(seat, key).is_some_and(|taken| taken.let_in);
        if let Some(line) = self.lines.get_mut(key) {
            line.waiting.retain(|other| *other != seat);
            if had_room {
                line.shut_until = Duration::ZERO;
            }
        }
    }

    /// Whether a refusal of this chunk tells that it may never fit: no other batch of ours is in the queue, and no
    /// limit is known that it fits, or it waited a day for what somebody else put there.
    pub(crate) fn may_never_fit(&self, seat: u64, want: &Want) -> bool {
        let Some(line) = self.lines.get(&want.key) else {
            return true;
        };
        let mut others = line.taken.iter().filter(|(other, _)| **other != seat);
        let fits = line.learned.is_some_and(|limit| want.tokens <= limit);
        others.all(|(_, taken)| !taken.let_in) && (!fits || line.refusals >= PATIENT_REFUSALS)
    }

    /// The limit that is known of a queue.
    #[cfg(test)]
    pub(crate) fn learned(&self, key: &QueueKey) -> Option<u64> {
        self.lines.get(key)?.learned
    }

    fn vacate(&mut self, seat: u64, key: &QueueKey) -> Option<Taken> {
        let taken = self.lines.get_mut(key)?.taken.remove(&seat)?;
        if let Some(open) = self.open.get_mut(&account(key)) {
            *open = open.saturating_sub(1);
        }
        Some(taken)
    }
}

fn account(key: &QueueKey) -> Account {
    (key.provider.clone(), key.account.clone())
}

/// The limit the provider's own words name: `Limit: 2,000,000 enqueued tokens`.
pub(crate) fn named_limit(snapshot: &BatchSnapshot) -> Option<u64> {
    snapshot.faults.iter().find_map(|fault| {
        let text = fault.message.to_ascii_lowercase();
        let (_, rest) = text.split_once("limit:")?;
        let (number, _) = rest.split_once("enqueued token")?;
        let digits: String = number
            .trim()
            .chars()
            .filter(|c| !matches!(c, ',' | '_' | ' '))
            .collect();
        digits.parse().ok().filter(|limit| *limit > 0)
    })
}

/// The account, shared by all that a router does.
#[derive(Debug)]
pub(crate) struct SharedQueue {
    state: Mutex<(Queue, u64)>,
    changed: watch::Sender<()>,
    started: Instant,
}

impl Default for SharedQueue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changed: watch::Sender::default(),
            started: Instant::now(),
        }
    }
}

impl SharedQueue {
    fn lock(&self) -> MutexGuard<'_, (Queue, u64)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let changed = change(&mut self.lock().0);
        self.changed.send_replace(());
        changed
    }
}

/// One chunk's place in its provider's queue; dropping it gives the place up.
#[derive(Debug)]
pub(crate) struct Seat {
    queue: Arc<SharedQueue>,
    number: u64,
    want: Want,
    taken: bool,
    refused: bool,
}

impl Seat {
    /// A chunk of `tokens` for `model`; it has no place yet.
    pub(crate) fn new(
        queue: &Arc<SharedQueue>,
        provider: &dyn BatchProvider,
        model: &str,
        tokens: u64,
        options: &RouterOptions,
    ) -> Self {
        let number = {
            let mut state = queue.lock();
            state.1 += 1;
            state.1
        };
        let told = options.queue_limits.get(provider.name());
        let mut limit = told.copied().unwrap_or_default();
        let known = provider.capability().batch.as_ref();
        limit.max_open = limit.max_open.or(known.and_then(|known| known.max_open));
        Self {
            queue: Arc::clone(queue),
            number,
            want: Want {
                key: QueueKey {
                    provider: provider.name().to_owned(),
                    account: provider.account().to_owned(),
                    model: model.to_owned(),
                },
                tokens,
                limit,
            },
            taken: false,
            refused: false,
        }
    }

    /// Whether it has its place.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Whether the provider had no room for it and it has had no place since.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused
    }

    /// Takes the place where the create may go at once.
    pub(crate) fn try_take(&mut self) -> bool {
        let now = self.queue.now();
        let room = self.queue.lock().0.ask(self.number, &self.want, now);
        if room == Room::Go {
            self.taken = true;
            self.refused = false;
            // The next one in line may fit too.
            self.queue.changed.send_replace(());
        }
        self.taken
    }

    /// Waits until the create may go, and takes the place.
    ///
    /// # Cancel safety
    /// Dropping the future keeps the chunk's turn and takes no place.
    pub(crate) async fn take(&mut self) {
        let mut changed = self.queue.changed.subscribe();
        loop {
            let now = self.queue.now();
            let room = self.queue.lock().0.ask(self.number, &self.want, now);
            match room {
                Room::Go => {
                    self.try_take();
                    return;
                }
                Room::Later => {
                    let _ = changed.changed().await;
                }
                Room::NotBefore(instant) => {
                    let _ =
                        tokio::time::timeout(instant.saturating_sub(now), changed.changed()).await;
                }
            }
        }
    }

    /// Takes the place of what was bought earlier.
    pub(crate) fn occupy(&mut self, let_in: bool) {
        self.taken = true;
        let now = self.queue.now();
        self.queue
            .change(|queue| queue.occupy(self.number, &self.want, let_in, now));
    }

    /// The provider let the batch in.
    pub(crate) fn let_in(&self) {
        let is_news = self.queue.lock().0.let_in(self.number, &self.want.key);
        if is_news {
            self.queue.changed.send_replace(());
        }
    }

    /// The provider had no room.
    pub(crate) fn refused(&mut self, limit: Option<u64>, first_wait: Duration) {
        self.taken = false;
        self.refused = true;
        let now = self.queue.now();
        self.queue
            .change(|queue| queue.refused(self.number, &self.want.key, limit, first_wait, now));
    }

    /// Gives the place up.
    pub(crate) fn release(&mut self) {
        if std::mem::take(&mut self.taken) {
            self.queue
                .change(|queue| queue.release(self.number, &self.want.key));
        }
    }

    /// Whether a refusal now tells that the chunk may never fit.
    pub(crate) fn may_never_fit(&self) -> bool {
        self.queue.lock().0.may_never_fit(self.number, &self.want)
    }

    /// The model whose queue it is.
    pub(crate) fn model(&self) -> &str {
        &self.want.key.model
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.queue
            .change(|queue| queue.release(self.number, &self.want.key));
    }
}
