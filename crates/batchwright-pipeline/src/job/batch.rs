//! The batch lane of a job: rows into sealed chunks, chunks through the router, results into segments, and what is
//! left of them into chunks again.

mod desk;
mod merging;
mod sealing;
mod store;

use super::{
    Job, JobProgress, JobSpec, LaneEnd, Running, blocking, keep_card,
    policy::{Judge, Policy},
};
use batchwright_core::{BatchCounts, BatchProvider, BatchStatus, Error, ErrorKind, Result};
use batchwright_ledger::{ChunkPhase, Ledger};
use batchwright_router::{BatchRouter, Control, RouterEvent};
use desk::{Closing, Desk};
pub(super) use merging::{LEFT, Left, downloads, each_line};
use sealing::Sealing;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use store::LedgerStore;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// What tells the account apart that batches are bought with.
const ACCOUNT: &str = "account";
const OTHER_ACCOUNT: &str = "key, project or address are others now";
/// Sealed chunks that wait for the router.
const CHUNK_BOUND: usize = 4;
const EVENT_BOUND: usize = 64;
/// How often it is looked whether nothing is left but to wait.
const LOOKS: Duration = Duration::from_millis(200);
/// Merges at the same time: each keeps the ids of a chunk and may meet a long line. One keeps up with the one thread
/// that builds chunks, and so a job of many chunks holds no more than one of two.
const MERGES: usize = 1;

/// Providers by their registered names.
pub(super) type Providers = Arc<BTreeMap<String, Arc<dyn BatchProvider>>>;

/// Has rows that are left of merged chunks begin again, as if they had never been sent.
pub(super) fn forget_left(ledger: &Ledger) -> Result<()> {
    for (chunk, mut left) in Left::all(ledger)? {
        left.rows = 0;
        left.store(ledger, chunk)?;
    }
    Ok(())
}

/// What the batch lane works by, besides what every lane does.
pub(super) struct Buying {
    pub(super) providers: Providers,
    pub(super) policy: Policy,
    pub(super) judge: Judge,
    /// Cancels every batch: the caller's, or the deadline's.
    pub(super) cancel: CancellationToken,
}

pub(super) async fn run(job: &Job, buying: Buying, running: Running) -> Result<LaneEnd> {
    let Running {
        options,
        control,
        progress,
        log,
        live,
        given,
        answered_directly,
    } = running;
    let Buying {
        providers,
        policy,
        judge,
        cancel,
    } = buying;
    let other_account = check_accounts(job, &providers, options.same_account)?;
    let mut router =
        BatchRouter::new(options.router.clone()).with_prices(Arc::clone(&options.prices));
    for provider in providers.values() {
        router.register(Arc::clone(provider))?;
    }
    let store = Arc::new(LedgerStore {
        ledger: job.ledger().clone(),
        log,
        job: job.tag.clone(),
        json_output: job.spec().wants_json(),
        prices: Arc::clone(&options.prices),
        progress: Arc::clone(&progress),
        live,
        given: Arc::clone(&given),
        answered_directly,
        judge: judge.clone(),
        merges: Semaphore::new(MERGES),
    });
    let (chunk_sender, mut chunks) = mpsc::channel(CHUNK_BOUND);
    let desk = Arc::new(Desk::default());
    let _closing = Closing(Arc::clone(&desk));
    let sealing = Sealing {
        ledger: job.ledger().clone(),
        spec: job.spec().clone(),
        job: job.tag.clone(),
        providers,
        policy,
        judge,
        prices: Arc::clone(&options.prices),
        rows: job.rows(),
        given,
        progress: Arc::clone(&progress),
        desk: Arc::clone(&desk),
        chunks: chunk_sender,
        next: Mutex::new(1),
        sizes: Mutex::default(),
    };
    let mut hand = Control::default();
    hand.stop = control.stop.child_token();
    hand.cancel = cancel;
    let stop = hand.stop.clone();
    let sealer = blocking(move || sealing.run());
    let chunks = futures::stream::poll_fn(move |cx| chunks.poll_recv(cx));
    let (event_sender, mut events) = mpsc::channel(EVENT_BOUND);
    let driver = async {
        let end = router.drive(chunks, store, hand, event_sender).await;
        // Whoever waits for a chunk's end waits no more.
        desk.close();
        end
    };
    let mut seen = Seen::default();
    let watcher = listen(
        &mut events,
        &desk,
        &progress,
        &stop,
        options.leave,
        async |event| seen.note(job.ledger(), event).await,
    );
    let sealer = async {
        let sealed = sealer.await;
        if sealed.is_err() {
            stop.cancel();
        }
        sealed
    };
    let (end, sealed, watched) = tokio::join!(driver, sealer, watcher);
    let end = end?;
    sealed?;
    watched?;
    let stopped = end.stopped.map(|error| match error.kind() {
        ErrorKind::NotFound if other_account => error.context(OTHER_ACCOUNT),
        _ => error,
    });
    Ok(LaneEnd {
        stopped,
        held: end.held,
    })
}

/// Takes every event until the router tells no more, whatever fails: both the router and whoever seals wait for that.
async fn listen(
    events: &mut mpsc::Receiver<RouterEvent>,
    desk: &Desk,
    progress: &JobProgress,
    stop: &CancellationToken,
    leave: bool,
    mut note: impl AsyncFnMut(&RouterEvent) -> Result<()>,
) -> Result<()> {
    let mut looks = tokio::time::interval(LOOKS);
    let mut failed = None;
    loop {
        tokio::select! {
            event = events.recv() => {
                let Some(event) = event else {
                    return failed.map_or(Ok(()), Err);
                };
                match &event {
                    RouterEvent::Ended { chunk } => {
                        desk.ended(*chunk);
                        continue;
                    }
                    // One that failed may be made once more.
                    RouterEvent::Status { chunk, status, .. } if *status != BatchStatus::Failed => {
                        desk.made(*chunk);
                    }
                    RouterEvent::Status { chunk, .. } | RouterEvent::Queued { chunk, .. } => {
                        desk.unmade(*chunk);
                    }
                    _ => {}
                }
                if failed.is_none()
                    && let Err(error) = note(&event).await
                {
                    // The folder fails: nothing more is sent.
                    failed = Some(error);
                    stop.cancel();
                }
                watch(progress, event);
            }
            _ = looks.tick(), if leave => {
                if desk.only_waits() {
                    stop.cancel();
                }
            }
        }
    }
}

/// A batch as the job last saw it, kept for whoever looks at the job from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SeenBatch {
    /// Its state.
    pub status: BatchStatus,
    /// Counts, where the provider gives any.
    pub counts: Option<BatchCounts>,
}

impl SeenBatch {
    pub(super) const KEY: &str = "seen.";

    /// Every batch that was seen, by its chunk.
    ///
    /// # Errors
    /// `Storage` where the record cannot be read.
    pub fn all(ledger: &Ledger) -> Result<BTreeMap<u32, Self>> {
        let seen = ledger
            .metas(Self::KEY)?
            .into_iter()
            .filter_map(|(key, json)| {
                let chunk = key.strip_prefix(Self::KEY)?.parse().ok()?;
                Some((chunk, serde_json::from_str(&json).ok()?))
            });
        Ok(seen.collect())
    }
}

/// What was written down of batches seen.
#[derive(Default)]
struct Seen(BTreeMap<u32, SeenBatch>);

impl Seen {
    async fn note(&mut self, ledger: &Ledger, event: &RouterEvent) -> Result<()> {
        let RouterEvent::Status {
            chunk,
            status,
            counts,
            ..
        } = event
        else {
            return Ok(());
        };
        let seen = SeenBatch {
            status: status.clone(),
            counts: *counts,
        };
        if self.0.get(chunk) == Some(&seen) {
            return Ok(());
        }
        let json = serde_json::to_string(&seen).expect("it is plain data");
        self.0.insert(*chunk, seen);
        let (ledger, key) = (ledger.clone(), format!("{}{chunk:010}", SeenBatch::KEY));
        blocking(move || ledger.set_meta(&key, &json)).await
    }
}

/// [`check_account`] for every provider.
fn check_accounts(job: &Job, providers: &Providers, same_account: bool) -> Result<bool> {
    let mut other = false;
    for provider in providers.values() {
        other |= check_account(job, provider.as_ref(), same_account)?;
    }
    Ok(other)
}

/// Whether another account is used than the one the job's batches were bought with. Refuses to look for a
/// create of unclear fate there, since that account's list says nothing about it (F-087).
fn check_account(job: &Job, provider: &dyn BatchProvider, same_account: bool) -> Result<bool> {
    let account = provider.account();
    // The sandbox is at another address each time, and is nobody's account.
    if account.is_empty() || job.spec().sandbox {
        return Ok(false);
    }
    let ledger = job.ledger();
    let key = account_key(job.spec(), provider);
    let is_other = ledger.meta(&key)?.is_some_and(|known| known != account);
    if !is_other || same_account {
        ledger.set_meta(&key, account)?;
        keep_card(ledger)?;
        return Ok(false);
    }
    let unclear = |phase: &ChunkPhase| {
        matches!(
            phase,
            ChunkPhase::Creating | ChunkPhase::Unknown | ChunkPhase::Absent
        )
    };
    match ledger
        .chunks()?
        .into_iter()
        .find(|chunk| chunk.provider == provider.name() && unclear(&chunk.phase))
    {
        None => Ok(true),
        Some(chunk) => Err(Error::new(
            ErrorKind::NeedsDecision,
            format!(
                "go on: whether chunk {} was bought is known only to the account it was sent with, and {OTHER_ACCOUNT}; \
                 use those it was started with, or say that they reach the same account",
                chunk.chunk
            ),
        )),
    }
}

/// Under which key the account of a provider is kept.
pub(super) fn account_key(spec: &JobSpec, provider: &dyn BatchProvider) -> String {
    match provider.name() == spec.provider {
        true => ACCOUNT.to_owned(),
        false => format!("{ACCOUNT}.{}", provider.name()),
    }
}

fn watch(progress: &JobProgress, event: RouterEvent) {
    match &event {
        RouterEvent::Status {
            chunk,
            handle,
            status,
            counts,
            ..
        } => {
            progress.update(|state| state.waiting = None);
            progress.batch(*chunk, handle.id.clone(), status.clone(), *counts);
        }
        RouterEvent::Waiting { error, .. } => {
            progress.update(|state| state.waiting = Some(error.to_string()));
        }
        RouterEvent::Queued { .. } | RouterEvent::Slow { .. } | RouterEvent::Expiring { .. } => {
            progress.update(|state| state.waiting = Some(event.to_string()));
        }
        RouterEvent::Merged { chunk, .. } => {
            progress.update(|state| {
                state.batches.remove(chunk);
            });
        }
        _ => {}
    }
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LaneProvider, RunOptions};
    use batchwright_core::{
        InputRef, JournalEntry, JournalEvent, Lane, ListMark, SubmissionTag, Timestamp,
    };
    use batchwright_provider_openai::OpenAi;

    fn provider(key: &str) -> OpenAi {
        OpenAi::builder(key)
            .base_url("http://127.0.0.1:1/v1")
            .build()
            .unwrap()
    }

    /// A job of one chunk whose create is under way by the account of `key`.
    fn job(dir: &std::path::Path, key: &str) -> Job {
        let input = dir.join("in.jsonl");
        std::fs::write(&input, "{\"q\":\"a\"}\n").unwrap();
        let mut spec = JobSpec::new(input, "openai", Lane::Batch).with_prompt("{{ q }}");
        spec.model = Some("gpt-4o-mini".to_owned());
        let lane = LaneProvider::Batch(Arc::new(provider(key)));
        let job = Job::open(&dir.join("job"), spec, &lane).unwrap();
        check_account(&job, &provider(key), false).unwrap();
        sealing(&job, provider(key)).run().unwrap();
        job
    }

    /// What seals the job's rows for nobody.
    fn sealing(job: &Job, provider: OpenAi) -> Sealing {
        let policy = Policy::default();
        let provider: Arc<dyn BatchProvider> = Arc::new(provider);
        Sealing {
            ledger: job.ledger().clone(),
            spec: job.spec().clone(),
            job: job.tag.clone(),
            providers: Arc::new(BTreeMap::from([("openai".to_owned(), provider)])),
            judge: Judge::new(&policy, CancellationToken::new(), job.ledger()).unwrap(),
            policy,
            prices: Arc::default(),
            rows: job.rows(),
            given: Arc::default(),
            progress: Arc::new(JobProgress::new()),
            desk: Arc::default(),
            chunks: mpsc::channel(1).0,
            next: Mutex::new(1),
            sizes: Mutex::default(),
        }
    }

    fn append(job: &Job, event: JournalEvent) {
        let entry = JournalEntry::new(1, Timestamp::from_unix_seconds(1), event);
        job.ledger().append_blocking(&[entry]).unwrap();
    }

    #[test]
    fn f_087_another_accounts_list_is_not_asked_about_an_unclear_create() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "one");
        let tag = SubmissionTag::new(&job.tag, 1, 1, "r").unwrap();
        let input = InputRef("file-1".to_owned());
        assert!(
            check_account(&job, &provider("two"), false).unwrap(),
            "nothing is unclear yet"
        );

        append(&job, JournalEvent::UploadIntent { tag: tag.clone() });
        append(
            &job,
            JournalEvent::CreateIntent {
                tag,
                input,
                mark: ListMark::default(),
            },
        );
        let error = check_account(&job, &provider("two"), false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NeedsDecision);
        assert!(!check_account(&job, &provider("one"), false).unwrap());
        // Whoever says so goes on with the other key, and it is the job's from then on.
        assert!(!check_account(&job, &provider("two"), true).unwrap());
        assert!(check_account(&job, &provider("one"), false).is_err());
    }

    #[test]
    fn f_204_the_record_of_the_account_leads_back_to_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "sk-CANARY");
        let account = job.ledger().meta(ACCOUNT).unwrap().unwrap();
        assert_eq!(account.len(), 16);
        assert!(!account.contains("CANARY"));
    }

    #[tokio::test]
    async fn f_145_a_folder_that_fails_stops_the_run_and_keeps_nobody_waiting() {
        let desk = Desk::default();
        desk.hand_over(1);
        let (sender, mut events) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let told = async {
            for _ in 0..3 {
                let event = RouterEvent::Queued {
                    chunk: 1,
                    model: String::new(),
                };
                sender.send(event).await.unwrap();
            }
            sender.send(RouterEvent::Ended { chunk: 1 }).await.unwrap();
            drop(sender);
        };
        let mut notes = 0;
        let progress = JobProgress::new();
        let listened = listen(&mut events, &desk, &progress, &stop, false, async |_| {
            notes += 1;
            Err(Error::new(ErrorKind::Storage, "disk full"))
        });
        let ((), listened) = tokio::join!(told, listened);
        assert_eq!(listened.unwrap_err().kind(), ErrorKind::Storage);
        assert!(stop.is_cancelled());
        assert_eq!((notes, desk.take()), (1, vec![1]));
    }

    #[test]
    fn a_resumed_job_keeps_what_was_decided() {
        let dir = tempfile::tempdir().unwrap();
        let job = job(dir.path(), "one");
        let mut options = RunOptions::default();
        let settle = |options: &RunOptions| Policy::settle(job.ledger(), options).unwrap();
        assert_eq!(settle(&options).chunk_rows, None);
        options.chunk_rows = Some(100);
        options.rounds = Some(2);
        let decided = settle(&options);
        assert_eq!(decided.chunk_rows, Some(100));
        assert_eq!(settle(&RunOptions::default()), decided);
        options.chunk_rows = Some(50);
        assert_eq!(settle(&options).chunk_rows, Some(50));
    }
}
