//! Rows and result lines of a known size.

use anyhow::{Context as _, Result};
use batchwright_core::{WireId, WirePrefix};
use std::{
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

pub(crate) const INPUT: &str = "rows.jsonl";
/// What tells ids apart: wire id, row and the caller's id, separated by tabs.
pub(crate) const IDS: &str = "ids.tsv";
pub(crate) const MODEL: &str = "gpt-4o-mini";
/// Rows of a chunk, as many as OpenAI takes.
pub(crate) const CHUNK_ROWS: u64 = 50_000;
const TAG: &str = "bench";
/// Bytes of a line, its end included.
const ROW_BYTES: usize = 1024;
const RESULT_BYTES: usize = 1250;

const WORDS: [&str; 16] = [
    "battery", "screen", "the", "garden", "bright", "camera", "hardly", "weeks", "and", "phone",
    "lasts", "days", "used", "better", "cover", "with",
];

/// The ids of a chunk's batch.
pub(crate) fn prefix(chunk: u32) -> WirePrefix {
    WirePrefix::of(TAG, chunk, 1)
}

pub(crate) fn custom_id(row: u64) -> String {
    format!("review-{row}")
}

/// The result file of a chunk.
pub(crate) fn results(folder: &Path, chunk: u32) -> PathBuf {
    folder.join(format!("results-{chunk}.jsonl"))
}

/// Fills `line` with words, up to `bytes`; each eighth one ends its line, by an escape.
fn fill(line: &mut String, seed: u64, bytes: usize) {
    let mut bits = seed;
    while line.len() + 11 < bytes {
        bits = bits
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        line.push_str(WORDS[(bits >> 60) as usize]);
        line.push_str(if (bits >> 57) & 7 == 0 { "\\n" } else { " " });
    }
    while line.len() < bytes {
        line.push('.');
    }
}

/// Chat bodies with an id.
pub(crate) fn write_rows(folder: &Path, rows: u64) -> Result<()> {
    const END: &str = "\"}]}\n";
    let mut file = BufWriter::new(File::create(folder.join(INPUT))?);
    let mut line = String::new();
    for row in 0..rows {
        line.clear();
        write!(
            line,
            "{{\"custom_id\":\"{}\",\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"",
            custom_id(row)
        )?;
        fill(&mut line, row, ROW_BYTES - END.len());
        line.push_str(END);
        file.write_all(line.as_bytes())?;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// Chat completions in an order of their own, a file for each chunk, and the ids of all.
pub(crate) fn write_results(folder: &Path, rows: u64) -> Result<()> {
    let mut ids = BufWriter::new(File::create(folder.join(IDS))?);
    let mut line = String::new();
    for (chunk, first) in (1..).zip((0..rows).step_by(CHUNK_ROWS as usize)) {
        let count = CHUNK_ROWS.min(rows - first);
        let mut file = BufWriter::new(File::create(results(folder, chunk))?);
        for place in 0..count {
            let row = first + place;
            let id = WireId::new(prefix(chunk), row);
            writeln!(ids, "{id}\t{row}\t{}", custom_id(row))?;
            // 48,271 has no factor in common with any number of rows that ends a chunk of 50,000 but its own multiples.
            let row = first + place * 48_271 % count;
            let id = WireId::new(prefix(chunk), row);
            line.clear();
            write!(
                line,
                "{{\"id\":\"batch_req_{row:024}\",\"custom_id\":\"{id}\",\"response\":{{\"status_code\":200,\
                 \"request_id\":\"req_{row:032}\",\"body\":{{\"id\":\"chatcmpl-{row:029}\",\"object\":\"chat.completion\",\
                 \"created\":1760000000,\"model\":\"{MODEL}-2024-07-18\",\"choices\":[{{\"index\":0,\"message\":\
                 {{\"role\":\"assistant\",\"content\":\""
            )?;
            let end = format!(
                "\",\"refusal\":null,\"annotations\":[]}},\"logprobs\":null,\"finish_reason\":\"stop\"}}],\
                 \"usage\":{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},\
                 \"prompt_tokens_details\":{{\"cached_tokens\":0,\"audio_tokens\":0}},\
                 \"completion_tokens_details\":{{\"reasoning_tokens\":0,\"audio_tokens\":0}}}},\
                 \"service_tier\":\"default\",\"system_fingerprint\":\"fp_0123456789\"}}}},\"error\":null}}\n",
                200 + row % 50,
                100 + row % 70,
                300 + row % 50 + row % 70,
            );
            fill(&mut line, row, RESULT_BYTES - end.len());
            line.push_str(&end);
            file.write_all(line.as_bytes())?;
        }
        file.into_inner()?.sync_all()?;
    }
    ids.into_inner()?.sync_all()?;
    Ok(())
}

/// The result files there are.
pub(crate) fn result_files(folder: &Path) -> Vec<(u32, PathBuf)> {
    (1..)
        .map(|chunk| (chunk, results(folder, chunk)))
        .take_while(|(_, path)| path.exists())
        .collect()
}

/// Calls `take` with each line, its end included; returns the bytes.
pub(crate) fn each_line(path: &Path, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<u64> {
    let mut reader = BufReader::with_capacity(256 * 1024, File::open(path)?);
    let mut line = Vec::new();
    let mut bytes = 0;
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes += read as u64;
        take(&line).with_context(|| format!("at byte {bytes} of {}", path.display()))?;
    }
}
