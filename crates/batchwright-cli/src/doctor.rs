//! `doctor`: what this machine and its settings give a job.

use crate::{
    args::DoctorArgs,
    environment,
    exit::Exit,
    machine::{self, Disk},
    probe::{self, Reach},
    providers::{self, Known, Pairs},
    signals,
    terminal::{clean, count, print},
};
use serde_json::{Value, json};

/// Proxy variables, as the HTTP client reads them.
const PROXIES: [&str; 8] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];
/// A clock this far off is told: times in a provider's lists and answers are compared with it.
const CLOCK: f64 = 30.0;
/// Free bytes below which a job is told to be about to stop.
const LITTLE_SPACE: u64 = 1024 * 1024 * 1024;
/// Free bytes below which no job can be started.
const NO_SPACE: u64 = 1024 * 1024;
/// Open files below which no job can run, and below which many direct calls cannot.
const FEW_FILES: (u64, u64) = (32, 256);
/// A sync that takes longer makes direct calls wait for the disk.
const SLOW_SYNC_MS: u128 = 50;

pub(crate) async fn doctor(args: DoctorArgs) -> anyhow::Result<Exit> {
    let pairs = environment::pairs(args.env_file.as_deref())?;
    let state = args.state.clone();
    let looking = tokio::task::spawn_blocking(move || Disk::of(&state));
    let mut found = Findings {
        disk: signals::or_leave(looking).await?,
        open_files: machine::open_files(),
        proxies: proxies(),
        accounts: Vec::new(),
        warnings: Vec::new(),
        impossible: Vec::new(),
    };
    for known in providers::all() {
        let reach = if args.offline {
            Reach::NotAsked("--offline")
        } else {
            signals::or_leave(probe::ask(known, &pairs)).await
        };
        found.accounts.push(Account::of(known, &pairs, reach));
    }
    found.judge();
    if args.json {
        print(found.to_json());
    } else {
        found.show();
    }
    Ok(if found.impossible.is_empty() {
        Exit::Done
    } else {
        Exit::Io
    })
}

/// All that was found.
struct Findings {
    disk: Disk,
    open_files: Option<u64>,
    /// Variables in force, and what of each may be shown.
    proxies: Vec<(&'static str, String)>,
    accounts: Vec<Account>,
    warnings: Vec<String>,
    /// What makes running impossible.
    impossible: Vec<String>,
}

/// What is known of a provider's account.
struct Account {
    known: &'static Known,
    has_key: bool,
    /// The base URL or why it is not shown, and whether the environment names it.
    base_url: Option<(Result<String, String>, bool)>,
    reach: Reach,
}

impl Account {
    fn of(known: &'static Known, pairs: &Pairs, reach: Reach) -> Self {
        let base_url = probe::base_url(known, pairs).map(|(url, is_set)| {
            let shown = probe::shown(&url)
                .map(str::to_owned)
                .map_err(|error| error.to_string());
            (shown, is_set)
        });
        Self {
            known,
            has_key: known.key(pairs).is_some(),
            base_url,
            reach,
        }
    }

    fn reach_words(&self) -> String {
        match &self.reach {
            Reach::NotAsked(why) => format!("not asked: {why}"),
            Reach::Unreachable(why) => format!("unreachable: {why}"),
            Reach::Answered(answer) => {
                let key = match answer.takes_key() {
                    Some(true) => "it takes the key".to_owned(),
                    Some(false) => format!("it refuses the key (status {})", answer.status),
                    None => format!("status {}", answer.status),
                };
                let clock = match answer.clock_ahead {
                    Some(ahead) if ahead.abs() < 1.0 => ", and its clock is this one's".to_owned(),
                    Some(ahead) => format!(", and this clock is {ahead:+.0} s off its own"),
                    None => String::new(),
                };
                format!(
                    "answers after {} ms; {key}{clock}",
                    answer.after.as_millis()
                )
            }
        }
    }

    fn to_json(&self) -> Value {
        let (base_url, fault, is_set) = match &self.base_url {
            Some((Ok(url), is_set)) => (Some(url), None, *is_set),
            Some((Err(fault), is_set)) => (None, Some(fault), *is_set),
            None => (None, None, false),
        };
        let mut json = json!({
            "provider": self.known.name,
            "key_variables": self.known.key_variables(),
            "key_present": self.has_key,
            "base_url": base_url,
            "base_url_fault": fault,
            "base_url_from_environment": is_set,
        });
        json["reach"] = match &self.reach {
            Reach::NotAsked(why) => json!({"asked": false, "why": why}),
            Reach::Unreachable(why) => json!({"asked": true, "answered": false, "why": why}),
            Reach::Answered(answer) => json!({
                "asked": true,
                "answered": true,
                "status": answer.status,
                "milliseconds": answer.after.as_millis() as u64,
                "key_accepted": answer.takes_key(),
                "clock_ahead_seconds": answer.clock_ahead.map(f64::round),
            }),
        };
        json
    }
}

impl Findings {
    fn judge(&mut self) {
        let mut warn = |what: String| self.warnings.push(what);
        if !self.accounts.iter().any(|account| account.has_key) {
            warn("no key is set: only --sandbox and check can be used".to_owned());
        }
        for account in &self.accounts {
            let name = account.known.name;
            if let Some((Err(fault), _)) = &account.base_url {
                warn(format!(
                    "{name}: {}: {fault}",
                    account.known.base_url_variable()
                ));
            }
            match &account.reach {
                Reach::Unreachable(_) => warn(format!("{name} cannot be reached")),
                Reach::Answered(answer) => {
                    if answer.takes_key() == Some(false) {
                        warn(format!(
                            "{name} refuses the key in {}",
                            account.known.key_place()
                        ));
                    }
                    if let Some(ahead) = answer.clock_ahead.filter(|ahead| ahead.abs() > CLOCK) {
                        warn(format!(
                            "this machine's clock is {ahead:+.0} s off that of {name}; set it by a time server"
                        ));
                    }
                }
                Reach::NotAsked(_) => {}
            }
        }
        let folder = self.disk.folder.display();
        if self.disk.is_network() {
            warn(format!(
                "{folder} is on a network file system, whose locks may let two machines run one job; \
                 --network-state allows it"
            ));
        }
        if self.disk.is_memory() {
            warn(format!(
                "{folder} is in memory: jobs there do not survive a restart"
            ));
        }
        if let Ok((middle, _)) = &self.disk.sync
            && middle.as_millis() > SLOW_SYNC_MS
        {
            warn(format!(
                "a sync takes {} ms, which slows direct calls",
                middle.as_millis()
            ));
        }
        match self.disk.free {
            Some(free) if free < NO_SPACE => self.impossible.push(format!("{folder} is full")),
            Some(free) if free < LITTLE_SPACE => {
                warn(format!("{} MiB are free in {folder}", free / 1024 / 1024));
            }
            _ => {}
        }
        match self.open_files {
            Some(files) if files < FEW_FILES.0 => self.impossible.push(format!(
                "{files} open files are too few; raise them with ulimit -n"
            )),
            Some(files) if files < FEW_FILES.1 => {
                warn(format!(
                    "{files} open files may be too few; raise them with ulimit -n"
                ));
            }
            _ => {}
        }
        if let Err(error) = &self.disk.sync {
            self.impossible
                .push(format!("{folder} cannot be written to: {error}"));
        }
    }

    fn show(&self) {
        for account in &self.accounts {
            let key = match (account.has_key, account.known.needs_key()) {
                (true, _) => "present",
                (false, true) => "missing",
                (false, false) => "not needed",
            };
            print(format_args!("{}", account.known.name));
            print(format_args!(
                "  key      {}, in {}",
                key,
                account.known.key_place()
            ));
            let url = match &account.base_url {
                Some((Ok(url), true)) => format!("{url}, by {}", account.known.base_url_variable()),
                Some((Ok(url), false)) => url.clone(),
                Some((Err(fault), _)) => format!("unusable: {fault}"),
                None => "the provider's own".to_owned(),
            };
            print(format_args!("  base URL {}", clean(&url)));
            print(format_args!("  network  {}", clean(&account.reach_words())));
        }
        if self.proxies.is_empty() {
            print("proxies    none");
        }
        for (name, value) in &self.proxies {
            print(format_args!("proxy      {name}={}", clean(value)));
        }
        let disk = &self.disk;
        print(format_args!(
            "state      {}",
            clean(&disk.folder.display().to_string())
        ));
        print(format_args!(
            "  file system {}, {}",
            disk.kind.unwrap_or("of unknown kind"),
            match disk.free {
                Some(free) => format!("{} MiB free", count(free / 1024 / 1024)),
                None => "free space unknown".to_owned(),
            }
        ));
        match &disk.sync {
            Ok((middle, longest)) => print(format_args!(
                "  sync of 4 KiB: {:.1} ms, at most {:.1} ms",
                middle.as_secs_f64() * 1e3,
                longest.as_secs_f64() * 1e3
            )),
            Err(error) => print(format_args!("  sync fails: {error}")),
        }
        print(format_args!(
            "open files {}",
            self.open_files
                .map_or_else(|| "no bound known".to_owned(), count)
        ));
        for warning in &self.warnings {
            print(format_args!("warning    {}", clean(warning)));
        }
        for what in &self.impossible {
            print(format_args!("impossible {}", clean(what)));
        }
        if self.impossible.is_empty() {
            print("ok: jobs can run here");
        }
    }

    fn to_json(&self) -> Value {
        let proxies: serde_json::Map<String, Value> = self
            .proxies
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone().into()))
            .collect();
        let disk = &self.disk;
        let sync = disk.sync.as_ref();
        json!({
            "ok": self.impossible.is_empty(),
            "providers": self.accounts.iter().map(Account::to_json).collect::<Vec<_>>(),
            "proxies": proxies,
            "state": {
                "folder": disk.folder,
                "file_system": disk.kind,
                "network": disk.is_network(),
                "free_bytes": disk.free,
                "sync_milliseconds": sync.ok().map(|(middle, _)| middle.as_secs_f64() * 1e3),
                "longest_sync_milliseconds": sync.ok().map(|(_, longest)| longest.as_secs_f64() * 1e3),
                "sync_error": sync.err().map(ToString::to_string),
            },
            "open_files": self.open_files,
            "warnings": self.warnings,
            "impossible": self.impossible,
        })
    }
}

/// The proxy variables that are set, without the names and passwords in them.
fn proxies() -> Vec<(&'static str, String)> {
    PROXIES
        .into_iter()
        .filter_map(|name| {
            let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
            Some((name, without_password(&value)))
        })
        .collect()
}

/// A proxy's address; who goes through it is left out (F-193).
fn without_password(value: &str) -> String {
    match value.rsplit_once('@') {
        None => value.to_owned(),
        Some((before, host)) => match before.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://…@{host}"),
            None => format!("…@{host}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_193_a_proxys_password_is_not_shown() {
        for (value, shown) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://me:CANARY@proxy:3128", "http://…@proxy:3128"),
            ("me:CANARY@proxy", "…@proxy"),
            ("http://me:CAN@ARY@proxy", "http://…@proxy"),
            ("localhost,.example.com", "localhost,.example.com"),
        ] {
            assert_eq!(without_password(value), shown);
        }
    }
}
