//! Other programs: Python's orjson, `cp` and `cat`.

use crate::{
    OUT, TICK_MICROS, Variant,
    lines::{INPUT, result_files},
    ticks,
};
use anyhow::Result;
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Reads rows, writes lines, and tells what it took as our own variants do.
const SCRIPT: &str = r#"
import json, os, resource, sys, time, orjson
source, target = sys.argv[1:]
used = lambda: sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
begun, cpu = time.monotonic(), used()
with open(source, "rb", 256 * 1024) as rows, open(target, "wb", 256 * 1024) as out:
    for row in rows:
        body = orjson.loads(row)
        line = {"custom_id": body.pop("custom_id"), "method": "POST", "url": "/v1/chat/completions", "body": body}
        out.write(orjson.dumps(line))
        out.write(b"\n")
    out.flush()
    os.fsync(out.fileno())
print(json.dumps({
    "bytes": os.path.getsize(source),
    "seconds": time.monotonic() - begun,
    "cpu_micros": int((used() - cpu) * 1e6),
    "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}))
"#;

pub(crate) fn has_orjson(python: &Path) -> bool {
    let status = Command::new(python)
        .args(["-c", "import orjson"])
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

pub(crate) fn orjson(command: &mut Command, python: &Path, folder: &Path) {
    command.arg(python).args(["-c", SCRIPT]);
    command.arg(folder.join(INPUT));
    command.arg(folder.join(OUT).join("chunk"));
}

/// `cp` into the folder, or `cat` into a file.
pub(crate) fn copy(command: &mut Command, variant: Variant, folder: &Path) -> Result<()> {
    let out = folder.join(OUT);
    if matches!(variant, Variant::CpInput | Variant::CpResults) {
        // A copy that shares its blocks copies nothing.
        command
            .args(["cp", "--reflink=never"])
            .args(sources(variant, folder))
            .arg(out);
    } else {
        command.arg("cat").args(sources(variant, folder));
        command.stdout(File::create(out.join("all"))?);
    }
    Ok(())
}

fn sources(variant: Variant, folder: &Path) -> Vec<PathBuf> {
    if variant.is_build() {
        return vec![folder.join(INPUT)];
    }
    result_files(folder)
        .into_iter()
        .map(|(_, path)| path)
        .collect()
}

pub(crate) fn copied_bytes(variant: Variant, folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in sources(variant, folder) {
        bytes += path.metadata()?.len();
    }
    Ok(bytes)
}

/// CPU time of this process's ended children so far, to 10 ms.
pub(crate) fn children_cpu_micros() -> Result<u64> {
    Ok(ticks(&std::fs::read_to_string("/proc/self/stat")?, 13)? * TICK_MICROS)
}
