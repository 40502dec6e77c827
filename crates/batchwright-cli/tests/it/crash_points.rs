//! A process that dies after its n-th effect, for every n: what it did on the disk and at the provider is what the next
//! one finds. The emulator's invoice says whether a row was bought twice.
//!
//! Effects are calls of the provider, before and after each, pieces of downloads, and steps of the ledger on the disk. A
//! process of its own counts them and aborts; then the job is run to its end in this one.

use crate::{
    faces::{self, ANTHROPIC, Case, GEMINI, GROQ, KLUSTER, OPENAI, VERTEX, Vendor, hasty},
    results,
};
use batchwright::{
    core::{BatchProvider, ErrorKind},
    pipeline::{Job, JobControl, JobProgress, LaneProvider, RemoteKind, ResultsOptions},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};
use tokio::runtime::Runtime;

mod steps;

use steps::{Counted, Steps};

/// How a process that is to die is told so.
const LIFE: &str = "BATCHWRIGHT_TEST_LIFE";
/// SIGABRT.
const ABORTED: i32 = 6;
/// Jobs that are crashed and run to their end at once.
const AT_ONCE: usize = 3;
/// More than any life has effects.
const MOST_EFFECTS: u64 = 400;

/// What happens to the job besides the crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Story {
    /// Three chunks, and everything goes well.
    Plain,
    /// The create is done, its answer lost.
    Lost,
    /// The create is lost on its way.
    Dropped,
    /// The create is done a while after its connection broke.
    Late,
    /// The create is done twice and answered never.
    Doubled,
    /// The job is cancelled at its first poll.
    Cancelled,
    /// Every second row fails in a way that passes, and is sent again in a chunk of its own.
    Rounds,
    /// Everything goes well, and what is left at the provider is taken away.
    Cleaned,
}

const STORIES: [Story; 8] = [
    Story::Plain,
    Story::Lost,
    Story::Dropped,
    Story::Late,
    Story::Doubled,
    Story::Cancelled,
    Story::Rounds,
    Story::Cleaned,
];

impl Story {
    fn rows(self) -> usize {
        if self == Self::Plain { 12 } else { 4 }
    }

    /// What the emulator does to creates.
    fn script(self, vendor: Vendor) -> Value {
        let action = match self {
            Self::Lost => json!("commit_then_drop"),
            Self::Dropped => json!("drop_before_commit"),
            Self::Late => json!({"commit_late": "30s"}),
            Self::Rounds => json!({"fail_rows": {"status": 503, "every": 2}}),
            _ => return json!([]),
        };
        json!([{"match": {"method": "POST", "path": vendor.creates}, "times": 1, "actions": [action]}])
    }
}

/// What a process that is to die needs to know.
struct Life {
    vendor: Vendor,
    story: Story,
    base: String,
    dir: PathBuf,
    /// The effect after which it dies; 0 is never.
    at: u64,
    /// How the name of the effect begins after which it dies; nothing is never.
    named: String,
    /// Whether what it wrote and did not sync is lost too.
    power: bool,
}

impl Life {
    fn to_json(&self) -> String {
        json!({
            "vendor": self.vendor.name, "story": format!("{:?}", self.story), "base": self.base,
            "dir": self.dir, "at": self.at, "named": self.named, "power": self.power,
        })
        .to_string()
    }

    fn from_json(json: &str) -> Self {
        let value: Value = serde_json::from_str(json).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        let vendor = faces::VENDORS.into_iter();
        let mut stories = STORIES.into_iter();
        Self {
            vendor: vendor
                .clone()
                .find(|vendor| vendor.name == text("vendor"))
                .unwrap(),
            story: stories
                .find(|story| format!("{story:?}") == text("story"))
                .unwrap(),
            base: text("base"),
            dir: text("dir").into(),
            at: value["at"].as_u64().unwrap(),
            named: text("named"),
            power: value["power"].as_bool().unwrap(),
        }
    }

    /// Lives it, to its crash or its end.
    fn live(self) {
        let steps = Steps::start(
            self.at,
            self.named.clone(),
            self.power.then(|| self.dir.join("job")),
        );
        let control = JobControl::default();
        let mut provider = Counted::new(self.vendor.connect(&self.base), Arc::clone(&steps));
        match self.story {
            Story::Cancelled => provider.cancel = Some(control.cancel.clone()),
            Story::Doubled => provider.doubles = AtomicBool::new(true),
            _ => {}
        }
        let provider: Arc<dyn BatchProvider> = Arc::new(provider);
        faces::run(
            self.vendor,
            &self.dir,
            Arc::clone(&provider),
            faces::options(4),
            control,
        );
        steps.reach("before results");
        let target = ResultsOptions::new(self.dir.join("out.jsonl"));
        Job::write_results_of(&self.dir.join("job"), &target).unwrap();
        steps.reach("after results");
        if self.story == Story::Cleaned {
            steps.set_phase("clean-up: ");
            clean_up(self.vendor, &self.dir, provider);
        }
        steps.report();
    }
}

/// Takes away what the job left at its provider, and returns how much is left after that.
fn clean_up(vendor: Vendor, dir: &std::path::Path, provider: Arc<dyn BatchProvider>) -> usize {
    let lane = LaneProvider::Batch(provider);
    let job = faces::open(vendor, dir, &lane);
    let free = |objects: Vec<batchwright::pipeline::RemoteObject>| {
        let free = objects.into_iter().filter(|object| object.kept.is_none());
        free.collect::<Vec<_>>()
    };
    Runtime::new().unwrap().block_on(async {
        let listed = job.remote_objects(&lane, true).await;
        if let Err(error) = &listed
            && error.kind() == ErrorKind::Unsupported
        {
            return 0;
        }
        for object in free(listed.unwrap()) {
            // Not every vendor deletes results; each does its inputs.
            match job.remove_remote(&lane, &object).await {
                Err(error) if object.kind != RemoteKind::Results => {
                    panic!("take away {object:?}: {error}")
                }
                _ => {}
            }
        }
        let left = job.remote_objects(&lane, false).await.unwrap();
        free(left).len()
    })
}

/// Which crash point of the protocol this is, by what was done last.
fn crash_point(story: Story, step: &str) -> Option<&'static str> {
    Some(match step {
        "clean-up: before discard" | "clean-up: after discard" => "P18",
        step if step.starts_with("clean-up: ") => return None,
        step if story == Story::Rounds && is_between_rounds(step) => "P20",
        step if step.starts_with("file chunks/") || step.starts_with("name chunks/") => "P0",
        "fact seal" => "P1",
        "fact upload_intent" | "before find_upload" | "after find_upload" | "before upload" => "P2",
        "after upload" => "P3",
        "fact uploaded" => "P4",
        "fact create_intent" | "before submit" => "P5",
        "after submit" => match story {
            Story::Dropped => "P6",
            Story::Late => "P7",
            Story::Lost => "P8",
            Story::Doubled => return None,
            _ => "P9",
        },
        "fact created" => "P10",
        "before status" | "after status" => "P11",
        "fact status" | "before download" => "P12",
        "after download" | "piece" => "P13",
        step if step.starts_with("name raw/") => "P14",
        "fact downloaded" | "fact collected" => "P15",
        "written segment" | "synced segment" => "P16",
        "fact merged" | "before results" | "after results" => "P17",
        "fact cancel_intent" | "before cancel" | "after cancel" => match story {
            Story::Doubled => "P22",
            _ => "P19",
        },
        "fact absent" | "before discard" | "after discard" | "fact fenced" => "P21",
        "fact surplus" => "P22",
        _ => return None,
    })
}

/// Whether a chunk has ended and the one of what it left is not sealed.
fn is_between_rounds(step: &str) -> bool {
    step == "fact merged" || step.starts_with("meta left.") || step.contains("chunks/000002")
}

/// How a life ended.
enum Died {
    /// At its n-th effect, which was this.
    At(String),
    /// Not before its end, after so many effects.
    Not(u64),
}

/// Lives a life in a process of its own.
fn spawn(life: &Life) -> Died {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["crash_points::one_life", "--exact", "--nocapture"])
        .env(LIFE, life.to_json())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    let word = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    if child.status.signal() == Some(ABORTED) {
        return Died::At(word("dies at: ").expect("it says where").to_owned());
    }
    assert!(
        child.status.success(),
        "{:?}: {}\n{said}{}",
        life.story,
        child.status,
        String::from_utf8_lossy(&child.stdout)
    );
    let effects = word("effects: ").expect("it says how many");
    Died::Not(effects.parse().unwrap())
}

/// Crashes one life at effect `at`, or at the first one named so, runs the job to its end, and judges.
fn crash(vendor: Vendor, story: Story, at: u64, named: &str, power: bool) -> Died {
    let case = Case::new(vendor, hasty(), story.rows());
    case.provider.fault(&story.script(vendor));
    let life = Life {
        vendor,
        story,
        base: case.base(),
        dir: case.dir.path().to_owned(),
        at,
        named: named.to_owned(),
        power,
    };
    let died = spawn(&life);
    let place = match &died {
        Died::At(step) => format!("{} {story:?} {at}: {step}", vendor.name),
        Died::Not(_) => format!("{} {story:?}: to the end", vendor.name),
    };
    let mut report = case.run(faces::options(4));
    // Whether a person bought a chunk again: on a machine under load a create of the life that ended may commit after
    // that, which is the risk they took.
    let mut accepted = false;
    // Once for the create nobody sent, and once for the one that was lost.
    for _ in 0..2 {
        if report.held.is_empty() {
            break;
        }
        // The one vendor whose list cannot tell that a create had no effect: nothing is bought, and a person is asked.
        assert!(!vendor.has_uploads, "{place}: {:?}", report.held);
        let unasked = case
            .chunks()
            .iter()
            .any(|chunk| chunk.held.is_some() && chunk.asked_about.is_empty());
        let billed = case.billed();
        assert!(
            !unasked || billed.contains(&0),
            "{place}: bought, and not found: {billed:?}"
        );
        accepted |= unasked;
        case.decide();
        report = case.run(faces::options(4));
    }
    judge(&case, story, &report, &place, accepted);
    if story == Story::Cleaned {
        let left = clean_up(vendor, case.dir.path(), vendor.connect(&case.base()));
        assert_eq!(left, 0, "{place}: left at the provider");
    }
    died
}

fn judge(
    case: &Case,
    story: Story,
    report: &batchwright::pipeline::JobReport,
    place: &str,
    accepted: bool,
) {
    let billed = case.billed();
    assert!(report.stopped.is_none(), "{place}: {:?}", report.stopped);
    let surplus = case.chunks().iter().any(|chunk| !chunk.surplus.is_empty());
    let most = if surplus { 2 } else { 1 };
    assert!(
        billed.iter().all(|times| *times <= most),
        "{place}: rows are billed so often: {billed:?}, and a surplus is told: {surplus}"
    );
    assert!(
        !surplus || story == Story::Doubled || accepted,
        "{place}: a surplus"
    );
    assert!(report.held.is_empty(), "{place}: {:?}", report.held);
    assert!(report.is_complete(), "{place}: {report:?}");
    let statuses = case.statuses();
    if story != Story::Cancelled {
        let all = BTreeMap::from([("succeeded".to_owned(), case.asked.len() as u64)]);
        assert_eq!(statuses, all, "{place}");
        assert!(
            billed.iter().all(|times| *times >= 1),
            "{place}: {billed:?}"
        );
    }
    case.assert_verified();
    // Written once more, the results are the same bytes.
    let target = case.dir.path().join("out.jsonl");
    let first = std::fs::read(&target).unwrap();
    case.statuses();
    assert_eq!(std::fs::read(&target).unwrap(), first, "{place}");
    assert_eq!(results::read(&target).len(), case.asked.len());
}

/// What an enumeration met.
#[derive(Default)]
struct Met {
    crashes: u64,
    points: BTreeMap<&'static str, u64>,
    steps: BTreeSet<String>,
}

/// Crashes the story after its n-th effect, for n from 1 by `stride` until a life is lived to its end.
fn enumerate(vendor: Vendor, story: Story, stride: u64, power: bool, met: &Mutex<Met>) {
    let (next, ended) = (AtomicU64::new(1), AtomicU64::new(0));
    let since = Instant::now();
    let work = || {
        // Lives differ by a poll or two, so that one whole life could be a long one's short sister.
        while ended.load(Ordering::SeqCst) < 2 {
            let at = next.fetch_add(stride, Ordering::SeqCst);
            assert!(at < MOST_EFFECTS, "{} {story:?} never ends", vendor.name);
            match crash(vendor, story, at, "", power) {
                Died::At(step) => {
                    let mut met = met.lock().unwrap();
                    met.crashes += 1;
                    if let Some(point) = crash_point(story, &step) {
                        *met.points.entry(point).or_default() += 1;
                    }
                    met.steps.insert(step);
                }
                Died::Not(_) => drop(ended.fetch_add(1, Ordering::SeqCst)),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    println!(
        "{} {story:?}: crashes up to effect {}, {:?}",
        vendor.name,
        next.load(Ordering::SeqCst) - stride,
        since.elapsed()
    );
}

/// Every story, crashed at every effect; every crash point of the protocol that this vendor can have is among them.
fn enumerate_all(vendor: Vendor) {
    let met = Mutex::default();
    let all = std::env::var_os("BATCHWRIGHT_E2E_FULL").is_some();
    // The machine is the same for all, and so two vendors are enough for every effect of the plain story: one with
    // uploads, and the one without. The strides are odd numbers, so that before and after each effect take turns.
    let closely = [OPENAI.name, ANTHROPIC.name].contains(&vendor.name);
    for story in STORIES {
        let stride = match (story, closely) {
            _ if all => 1,
            (Story::Plain, true) => 1,
            (Story::Plain, false) => 3,
            (_, true) => 7,
            (_, false) => 17,
        };
        enumerate(vendor, story, stride, false, &met);
    }
    let met = met.into_inner().unwrap();
    println!(
        "{}: {} crashes at {:?}",
        vendor.name, met.crashes, met.points
    );
    // No two lives are alike to the effect, so that a number may pass over one: every point is met by its name besides.
    for (number, (story, step)) in POINTS.into_iter().enumerate() {
        let point = format!("P{number}");
        // Those of uploads are not to be had where the create carries the lines.
        if !vendor.has_uploads && ["P2", "P3", "P4", "P18", "P21"].contains(&point.as_str()) {
            continue;
        }
        // A batch may have ended before it could be cancelled.
        let is_met = (0..5).any(|_| match crash(vendor, story, 0, step, false) {
            Died::At(step) => {
                assert_eq!(crash_point(story, &step), Some(point.as_str()), "{step}");
                true
            }
            Died::Not(_) => false,
        });
        assert!(is_met, "{}: {point} is never met", vendor.name);
    }
}

/// P0 to P22, each with a step after which it is. P23 and P24 have tests of their own.
const POINTS: [(Story, &str); 23] = [
    (Story::Plain, "file chunks/"),
    (Story::Plain, "fact seal"),
    (Story::Plain, "fact upload_intent"),
    (Story::Plain, "after upload"),
    (Story::Plain, "fact uploaded"),
    (Story::Plain, "fact create_intent"),
    (Story::Dropped, "after submit"),
    (Story::Late, "after submit"),
    (Story::Lost, "after submit"),
    (Story::Plain, "after submit"),
    (Story::Plain, "fact created"),
    (Story::Plain, "after status"),
    (Story::Plain, "before download"),
    (Story::Plain, "piece"),
    (Story::Plain, "name raw/"),
    (Story::Plain, "fact downloaded"),
    (Story::Plain, "written segment"),
    (Story::Plain, "before results"),
    (Story::Cleaned, "clean-up: before discard"),
    (Story::Cancelled, "before cancel"),
    (Story::Rounds, "fact merged"),
    (Story::Dropped, "fact absent"),
    (Story::Doubled, "fact surplus"),
];

#[test]
fn one_life() {
    if let Ok(life) = std::env::var(LIFE) {
        return Life::from_json(&life).live();
    }
    // Nobody dies, and every kind of effect is counted.
    let Died::Not(effects) = crash(OPENAI, Story::Plain, 0, "", false) else {
        panic!("it was not told to die");
    };
    assert!(effects > 60, "{effects}");
}

#[test]
fn f_148_p0_to_p22_openai_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(OPENAI);
}

#[test]
fn f_148_p0_to_p22_anthropic_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(ANTHROPIC);
}

#[test]
fn f_148_p0_to_p22_gemini_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(GEMINI);
}

#[test]
fn f_148_p0_to_p22_vertex_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(VERTEX);
}

#[test]
fn f_148_p0_to_p22_groq_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(GROQ);
}

#[test]
fn f_148_p0_to_p22_kluster_crashed_at_every_effect_buys_each_row_once() {
    enumerate_all(KLUSTER);
}

/// P23: what was written and not synced is gone too.
#[test]
fn f_149_p23_a_power_failure_at_every_effect_buys_each_row_once() {
    let met = Mutex::default();
    enumerate(OPENAI, Story::Plain, 1, true, &met);
    enumerate(ANTHROPIC, Story::Lost, 1, true, &met);
    let met = met.into_inner().unwrap();
    for step in ["written segment", "synced segment", "piece"] {
        assert!(met.steps.contains(step), "{step}: {:?}", met.steps);
    }
}

/// A job whose future is dropped is one that crashed (also within its process): it can be opened again at once, and goes on.
#[test]
fn f_148_a_dropped_job_lets_go_of_its_folder_and_goes_on() {
    for polls in [1, 3, 6, 12, 24, 48, 96, 200] {
        let case = Case::new(OPENAI, hasty(), 12);
        let provider = OPENAI.connect(&case.base());
        let lane = LaneProvider::Batch(provider);
        let job = faces::open(OPENAI, case.dir.path(), &lane);
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let running = job.run(
                lane,
                faces::options(4),
                JobControl::default(),
                Arc::new(JobProgress::new()),
            );
            let mut running = Box::pin(running);
            let mut left = polls;
            std::future::poll_fn(|cx| {
                left -= 1;
                match running.as_mut().poll(cx) {
                    std::task::Poll::Pending if left > 0 => std::task::Poll::Pending,
                    _ => std::task::Poll::Ready(()),
                }
            })
            .await;
        });
        drop(job);
        // Waits for blocking work that was under way, which must end by itself.
        drop(runtime);
        let report = case.run(faces::options(4));
        judge(
            &case,
            Story::Plain,
            &report,
            &format!("dropped after {polls} polls"),
            false,
        );
    }
}
