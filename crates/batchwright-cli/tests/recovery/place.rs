//! Places with an account at each vendor.

use crate::{command::Place, provider::Provider};
use batchwright_emulator::Face;
use std::fs;

/// A model of each vendor that sells batches.
pub(crate) const VENDORS: [&str; 6] = [
    "openai:gpt-4o-mini",
    "anthropic:claude-haiku-4-5",
    "gemini:gemini-2.5-flash",
    "vertex:gemini-2.5-flash",
    "groq:llama-3.1-8b-instant",
    "kluster:klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
];

/// A place with an account at every vendor of this provider.
pub(crate) fn of(provider: &Provider) -> Place {
    let openai = provider.base_url();
    let origin = openai.trim_end_matches(Face::OpenAi.base_path()).to_owned();
    let host = origin.trim_start_matches("http://").to_owned();
    let url = |face: Face| provider.base_url_of(face);
    Place::of(provider)
        .with("ANTHROPIC_API_KEY", "sk-ant-emulated")
        .with("ANTHROPIC_BASE_URL", &url(Face::Anthropic))
        .with("GOOGLE_API_KEY", "emulated")
        .with("GOOGLE_GEMINI_BASE_URL", &url(Face::Gemini))
        .with("GOOGLE_VERTEX_BASE_URL", &url(Face::Vertex))
        .with("GOOGLE_CLOUD_PROJECT", "emulated")
        .with("GOOGLE_CLOUD_LOCATION", "us-central1")
        .with("BATCHWRIGHT_VERTEX_BUCKET", "emulated")
        .with("STORAGE_EMULATOR_HOST", &format!("{origin}/gcs"))
        .with("BIGQUERY_EMULATOR_HOST", &format!("{origin}/bigquery"))
        .with("GCE_METADATA_HOST", &host)
        .with("GROQ_API_KEY", "gsk_emulated")
        .with("GROQ_BASE_URL", &url(Face::Groq))
        .with("KLUSTER_API_KEY", "emulated")
        .with("KLUSTER_BASE_URL", &url(Face::Kluster))
}

/// A batch job `j` over `in.csv`, with something more.
pub(crate) fn run<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut command = vec![
        "run",
        "in.csv",
        "-m",
        model,
        "-p",
        crate::input::PROMPT,
        "--lane",
        "batch",
        "--job",
        "j",
        "--chunk-rows",
        "20",
        "--poll",
        "50ms",
        "--settle",
        "300ms",
        "-o",
        "out.jsonl",
    ];
    command.extend(more);
    command
}

/// How it goes on.
pub(crate) const RESUME: [&str; 8] = [
    "resume",
    "j",
    "--settle",
    "300ms",
    "--poll",
    "50ms",
    "-o",
    "out.jsonl",
];

/// Takes the journal away.
pub(crate) fn lose_journal(place: &Place) {
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(place.job("j").join(format!("ledger.sqlite{end}")));
    }
    assert!(!place.job("j").join("ledger.sqlite").exists());
}
