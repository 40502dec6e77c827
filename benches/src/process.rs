//! What a process cost, as Linux tells it under `/proc`.

use anyhow::{Context as _, Result};

/// Microseconds in a tick of `/proc/PID/stat`; `USER_HZ` is 100 on every architecture we run on.
const TICK_MICROS: u64 = 10_000;

/// CPU time of all threads of process `pid` so far, in microseconds, to 10 ms.
///
/// # Errors
/// Where `/proc` does not tell, as on other systems.
pub fn cpu_micros(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name in parentheses may hold anything; what follows it begins with field 3.
    let (_, fields) = stat.rsplit_once(')').context("find the process's name")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || -> Result<u64> {
        let field = fields.next().context("find the CPU time")?;
        field.parse().context("read the CPU time")
    };
    let (user, system) = (ticks()?, ticks()?);
    Ok((user + system) * TICK_MICROS)
}

/// The most memory process `pid` ever held, in bytes.
///
/// # Errors
/// As [`cpu_micros`], and once the process has ended.
pub fn peak_rss(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib = kib.context("find the peak memory")?.trim().parse::<u64>()?;
    Ok(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_costs_something() {
        let pid = std::process::id();
        let before = cpu_micros(pid).unwrap();
        let mut filled = vec![1u8; 32 * 1024 * 1024];
        while cpu_micros(pid).unwrap() == before {
            filled.rotate_left(1);
        }
        assert!(peak_rss(pid).unwrap() > filled.len() as u64);
    }
}
