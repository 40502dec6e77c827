//! Creates answered by every status and by silence, before and after they were done, by every vendor: after the run and
//! at most two more, no row was bought twice in silence, and the job ended, is held with a reason, or stopped with an
//! error that says why (F-110 to F-115).

use crate::faces::{self, ANTHROPIC, Case, GEMINI, GROQ, KLUSTER, OPENAI, VERTEX, Vendor, hasty};
use batchwright::{core::ErrorKind, pipeline::JobReport};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

const STATUSES: [u16; 24] = [
    200, 201, 204, 301, 302, 303, 307, 308, 400, 401, 402, 403, 404, 408, 409, 413, 422, 425, 429,
    500, 502, 503, 504, 529,
];
/// Statuses by which a vendor may say in its own words that it did nothing.
const REFUSALS: [u16; 7] = [400, 401, 402, 403, 404, 413, 422];
const ROWS: usize = 6;
const CHUNK_ROWS: u64 = 2;
/// Runs of one job at most.
const RUNS: usize = 3;
/// Jobs at once.
const AT_ONCE: usize = 3;

/// An error in the vendor's own form.
fn own_words(vendor: Vendor, status: u16) -> Value {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400 | 422 => "invalid_request_error",
        _ => "api_error",
    };
    match vendor.name {
        "anthropic" => json!({"type": "error", "error": {"type": kind, "message": "not today"}}),
        "gemini" | "vertex" => {
            let word = match status {
                400 | 413 | 422 => "INVALID_ARGUMENT",
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                503 => "UNAVAILABLE",
                504 => "DEADLINE_EXCEEDED",
                _ => "INTERNAL",
            };
            json!({"error": {"code": status, "message": "not today", "status": word}})
        }
        _ => json!({"error": {"message": "not today", "type": kind, "code": null, "param": null}}),
    }
}

/// What becomes of the second create, in a word and as an action of the emulator, and whether it is done.
fn fates(vendor: Vendor) -> Vec<(String, Value)> {
    let mut fates = Vec::new();
    for status in STATUSES {
        for (words, body) in [
            ("unreadable", json!("<html>hello</html>")),
            ("own words", own_words(vendor, status)),
        ] {
            for act in ["reply", "commit_then_reply"] {
                let action = json!({act: {"status": status, "body": body}});
                fates.push((format!("{status} {words} {act}"), action));
            }
        }
    }
    for silence in [
        json!("drop_before_commit"),
        json!("reset"),
        json!("commit_then_drop"),
        json!({"commit_late": "30s"}),
    ] {
        fates.push((silence.to_string(), silence));
    }
    fates
}

/// How a job came out, in a word.
fn judge(case: &Case, report: &JobReport, fate: &str) -> String {
    let place = format!("{}: {fate}", case.vendor.name);
    let billed = case.billed();
    let surplus = case.chunks().iter().any(|chunk| !chunk.surplus.is_empty());
    let most = if surplus { 2 } else { 1 };
    assert!(
        billed.iter().all(|times| *times <= most),
        "{place}: billed {billed:?}, surplus told: {surplus}"
    );
    assert!(
        !surplus,
        "{place}: one create was sent, and nothing is surplus"
    );
    if !report.held.is_empty() {
        assert!(
            report.held.iter().all(|(_, why)| !why.is_empty()),
            "{place}"
        );
        assert!(
            billed.contains(&0),
            "{place}: bought, and not found: {billed:?}"
        );
        // Of the others every list tells whether it was done.
        assert!(!case.vendor.has_uploads, "{place}: {:?}", report.held);
        return "held".to_owned();
    }
    if let Some(stopped) = &report.stopped {
        return format!("stopped: {}", stopped.kind());
    }
    assert!(report.is_complete(), "{place}: {report:?}");
    let statuses = case.statuses();
    let succeeded = statuses.get("succeeded").copied().unwrap_or(0);
    let failed = statuses.get("failed").copied().unwrap_or(0);
    assert_eq!(succeeded + failed, ROWS as u64, "{place}: {statuses:?}");
    assert_eq!(
        billed.iter().sum::<u64>(),
        succeeded,
        "{place}: what is billed has its answer, and nothing else: {billed:?}"
    );
    case.assert_verified();
    match failed {
        0 => "answered".to_owned(),
        rows => format!("{rows} rows failed"),
    }
}

/// Runs a job whose second create has this fate until it ends, and tells how the runs came out.
fn run(vendor: Vendor, fate: &str, action: &Value) -> Vec<String> {
    let case = Case::new(vendor, hasty(), ROWS);
    case.provider.fault(&json!([{
        "match": {"method": "POST", "path": vendor.creates, "nth": 2}, "actions": [action],
    }]));
    let mut ends = Vec::new();
    for _ in 0..RUNS {
        let report = case.run(faces::options(CHUNK_ROWS));
        if let Some(stopped) = &report.stopped {
            assert_ne!(stopped.kind(), ErrorKind::Storage, "{fate}: {stopped}");
            assert_ne!(stopped.kind(), ErrorKind::Unexpected, "{fate}: {stopped}");
        }
        ends.push(judge(&case, &report, fate));
        if report.is_complete() || !report.held.is_empty() {
            break;
        }
    }
    ends
}

/// Every fate; what is refused in the vendor's own words may end the rows or the run, all else is found out.
fn every_fate(vendor: Vendor) {
    let mut fates = fates(vendor);
    // What is made of an answer is shared by all; those that share OpenAI's protocol take every third.
    if ["groq", "kluster"].contains(&vendor.name)
        && std::env::var_os("BATCHWRIGHT_E2E_FULL").is_none()
    {
        let mut number = 0;
        fates.retain(|_| {
            number += 1;
            number % 3 == 1
        });
    }
    let next = AtomicUsize::new(0);
    let told = Mutex::new(BTreeMap::<String, Vec<String>>::new());
    let work = || {
        while let Some((fate, action)) = fates.get(next.fetch_add(1, Ordering::SeqCst)) {
            let ends = run(vendor, fate, action);
            let last = ends.last().unwrap().clone();
            let refusal = REFUSALS
                .iter()
                .any(|status| fate.starts_with(&status.to_string()));
            let is_told = fate.contains("own words reply") && refusal;
            assert!(
                last == "answered" || last == "held" || is_told,
                "{}: {fate}: {ends:?}",
                vendor.name
            );
            // It is in the list whatever was said of it.
            assert!(
                last != "held" || !fate.contains("commit_"),
                "{}: {fate}: {ends:?}",
                vendor.name
            );
            told.lock()
                .unwrap()
                .entry(ends.join(", then "))
                .or_default()
                .push(fate.clone());
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let told = told.into_inner().unwrap();
    println!("{}: {} fates: {told:#?}", vendor.name, fates.len());
    assert_eq!(told.values().map(Vec::len).sum::<usize>(), fates.len());
}

#[test]
fn f_110_to_f_115_openai_creates_answered_by_every_status_and_by_silence() {
    every_fate(OPENAI);
}

#[test]
fn f_110_to_f_115_anthropic_creates_answered_by_every_status_and_by_silence() {
    every_fate(ANTHROPIC);
}

#[test]
fn f_110_to_f_115_gemini_creates_answered_by_every_status_and_by_silence() {
    every_fate(GEMINI);
}

#[test]
fn f_110_to_f_115_vertex_creates_answered_by_every_status_and_by_silence() {
    every_fate(VERTEX);
}

#[test]
fn f_110_to_f_115_groq_creates_answered_by_every_status_and_by_silence() {
    every_fate(GROQ);
}

#[test]
fn f_110_to_f_115_kluster_creates_answered_by_every_status_and_by_silence() {
    every_fate(KLUSTER);
}
