//! SIGKILL at random moments: no row is lost, and what is paid twice is known and named.

use crate::{
    command::Place,
    input::{self, Asked, PROMPT},
    lanes::invoice_of,
    provider::{BATCHES, Provider, quick},
    results,
};
use serde_json::json;
use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

/// Kills of one job at most; more kills are spread over several jobs.
const KILLS_A_JOB: u32 = 8;

/// How often each test kills.
fn kills_wanted() -> u32 {
    setting("BATCHWRIGHT_E2E_KILLS").map_or(6, |kills| u32::try_from(kills).unwrap())
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Moments from a seed that is printed, so that a failure can be had again (as far as the machine's own timing
/// allows).
struct Moments(u64);

impl Moments {
    fn new(test: &str) -> Self {
        let seed = setting("BATCHWRIGHT_E2E_SEED")
            .unwrap_or_else(|| RandomState::new().hash_one(test) % 1_000_000);
        println!("{test}: BATCHWRIGHT_E2E_SEED={seed}");
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// A wait up to `longest`.
    fn next(&mut self, longest: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        longest.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }
}

/// Runs the command and kills it, again and again, then runs it to its end. Returns how often it was killed, and the
/// summary of the end.
fn harass(
    place: &Place,
    command: &[&str],
    kills: u32,
    moments: &mut Moments,
    longest: Duration,
) -> (u32, serde_json::Value) {
    let mut killed = 0;
    // A run that ends before its moment is a finished job: nothing is left to kill.
    while killed < kills {
        let moment = moments.next(longest);
        let mut running = place.start(command);
        let since = Instant::now();
        while since.elapsed() < moment && running.is_running() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !running.kill() {
            break;
        }
        killed += 1;
    }
    let ended = place.run(command).assert_code(0);
    (killed, ended.summary())
}

#[test]
fn f_148_killed_batch_jobs_buy_each_row_once() {
    let mut moments = Moments::new("batch");
    let mut kills = 0;
    let mut jobs = 0;
    while kills < kills_wanted() {
        let provider = Provider::start(quick().with_seed(jobs));
        // What is sent is done at once and answered late: a kill in between is an effect of unknown fate.
        provider.fault(&json!([
            // Every third create is lost on its way, so that some are looked for in vain.
            {"match": {"method": "POST", "path": BATCHES, "nth": {"every": 3}},
             "actions": ["drop_before_commit"]},
            {"match": {"method": "POST"}, "actions": [{"delay_headers": "60ms"}]},
            {"match": {"path": "*/content"}, "actions": [{"delay_headers": "40ms"}]},
        ]));
        let place = Place::of(&provider);
        let (csv, asked) = input::words(60);
        place.write("in.csv", csv);
        let command = [
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--lane",
            "batch",
            "--job",
            "j",
            "--chunk-rows",
            "15",
            "--poll",
            "50ms",
            "--settle",
            "300ms",
            "-o",
            "out.jsonl",
            "--json",
        ];
        let wanted = (kills_wanted() - kills).min(KILLS_A_JOB);
        let (killed, summary) = harass(
            &place,
            &command,
            wanted,
            &mut moments,
            Duration::from_millis(450),
        );
        results::assert_answered(&place.path("out.jsonl"), &asked);
        results::assert_billed_once(&provider.invoice(), &asked);
        place.assert_verified("j");
        assert_eq!(summary["sent_again_after_interruption"], json!([]));
        assert_eq!(summary["possibly_billed_attempts"], 0);
        let creates = provider.calls("POST", BATCHES);
        println!("job {jobs}: {killed} kills, 4 chunks, {creates} creates");
        kills += killed;
        jobs += 1;
    }
}

#[test]
fn f_148_f_122_killed_realtime_jobs_name_every_row_paid_twice() {
    const CONCURRENCY: usize = 6;
    let mut moments = Moments::new("realtime");
    let (mut kills, mut jobs, mut extra) = (0, 0, 0);
    while kills < kills_wanted() {
        let provider = Provider::start(
            quick()
                .with_seed(jobs)
                .with_latency(Duration::from_millis(40)),
        );
        let place = Place::of(&provider);
        let (csv, asked) = input::words(150);
        place.write("in.csv", csv);
        let concurrency = CONCURRENCY.to_string();
        let command = [
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--job",
            "j",
            "--concurrency",
            &concurrency,
            "-o",
            "out.jsonl",
            "--json",
        ];
        let wanted = (kills_wanted() - kills).min(KILLS_A_JOB);
        let (killed, summary) = harass(
            &place,
            &command,
            wanted,
            &mut moments,
            Duration::from_millis(300),
        );
        results::assert_answered(&place.path("out.jsonl"), &asked);
        place.assert_verified("j");
        let twice = assert_named(&provider.invoice(), &asked, &summary);
        assert!(
            twice <= CONCURRENCY * killed as usize,
            "{twice} after {killed} kills"
        );
        assert!(provider.peak_in_flight() <= 2 * CONCURRENCY as u64);
        println!("job {jobs}: {killed} kills, {twice} rows billed again");
        extra += twice;
        kills += killed;
        jobs += 1;
    }
    println!("{kills} kills: {extra} rows billed again, all named");
}

/// Every unit that was billed more than the one its row needs is of a row the summary names. Returns their number.
fn assert_named(
    invoice: &[batchwright_emulator::InvoiceLine],
    asked: &[Asked],
    summary: &serde_json::Value,
) -> usize {
    let named: Vec<u64> =
        serde_json::from_value(summary["sent_again_after_interruption"].clone()).unwrap();
    let mut extra = 0;
    // Rows are named as people count, from 1.
    for (row, times) in (1..).zip(results::billed(invoice, asked)) {
        assert!(times >= 1, "row {row} was never billed, and has an answer");
        if times > 1 {
            assert!(
                named.contains(&row),
                "row {row} billed {times} times: {summary}"
            );
            extra += usize::try_from(times).unwrap() - 1;
        }
    }
    let possibly = summary["possibly_billed_attempts"].as_u64().unwrap();
    assert!(possibly >= extra as u64, "{extra} units more: {summary}");
    extra
}

#[test]
fn f_148_a_killed_sandbox_goes_on_with_its_own_batches() {
    let mut moments = Moments::new("sandbox");
    for lane in ["realtime", "batch"] {
        let place = Place::bare();
        let (csv, asked) = input::words(400);
        place.write("in.csv", csv);
        let command = [
            "run",
            "in.csv",
            "-m",
            "openai:gpt-4o-mini",
            "-p",
            PROMPT,
            "--sandbox",
            "--lane",
            lane,
            "--job",
            "j",
            "--settle",
            "300ms",
            "--concurrency",
            "4",
            "-o",
            "out.jsonl",
            "--json",
        ];
        let kills = kills_wanted().div_ceil(2).min(KILLS_A_JOB);
        let longest = Duration::from_millis(if lane == "batch" { 900 } else { 250 });
        let (killed, summary) = harass(&place, &command, kills, &mut moments, longest);
        println!("{lane}: {killed} kills");
        results::assert_answered(&place.path("out.jsonl"), &asked);
        let invoice = invoice_of(&place.job("j").join("sandbox"));
        if lane == "batch" {
            results::assert_billed_once(&invoice, &asked);
        } else {
            let extra = assert_named(&invoice, &asked, &summary);
            assert!(extra <= 4 * killed as usize);
        }
        place.assert_verified("j");
    }
}
