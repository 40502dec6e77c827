//! `run` and `resume`.

use crate::{
    args::{AtOnce, InputFormat, ResumeArgs, RunArgs, RunningArgs, SettingsArgs},
    check, decide, environment,
    exit::Exit,
    folder, named_file,
    output::{self, Output},
    progress::{self, Style},
    providers::{self, Connection, Known, Pairs},
    sandbox, signals,
    terminal::{count, rows as rows_of, say},
};
use anyhow::{Context, bail};
use batchwright::{
    core::{BatchProvider, Lane, ModelSpec, Money, PriceTable, Sampling},
    ledger::{ChunkState, Ledger, LedgerOptions, Scan},
    pipeline::{
        Direct, Job, JobControl, JobProgress, JobReport, JobSpec, LaneProvider, OpenOptions,
        ResultsOptions, RunOptions, SourceFormat, VendorRules,
    },
    realtime::Concurrency,
    router::RouterOptions,
};
use serde_json::json;
use std::{path::Path, sync::Arc, time::Duration};

/// The shortest time a create of unclear fate is looked for at a real provider.
const SHORTEST_SETTLE: Duration = Duration::from_secs(60);
/// Rows named in the summary; more are counted.
const NAMED: usize = 20;

pub(crate) async fn run(args: Box<RunArgs>) -> anyhow::Result<Exit> {
    let mut spec = spec(&args.settings)?;
    spec.sandbox = args.sandbox;
    let name = args.job.clone().unwrap_or_else(|| folder::name(&spec));
    let dir = folder::of(&args.running.state, &name)?;
    let output = Output::of(&args.output, || {
        output::default_target(&name, &args.settings.input)
    });
    let results = output.clone().options()?;
    results.check(&spec.input)?;
    let mut pairs = environment::pairs(args.running.env_file.as_deref())?;
    let known = providers::known(&spec.provider)?;
    let mut opening_options = OpenOptions::from(ledger_options(&args.running));
    opening_options.skip_invalid = args.settings.skip_invalid;
    opening_options.vendor_rules = spec.sandbox || is_own_server(known, &pairs);
    if spec.sandbox {
        // What requests look like does not depend on where they go; the emulator starts once the job is
        // known to be ours.
        providers::point_at(None, &mut pairs);
    }
    let lane = known.build(&pairs, spec.lane, &connection(&args.running))?;
    opening_options.others = others(&spec, &pairs, &connection(&args.running));
    say_unless(
        &args.running,
        format_args!("checking {}", args.settings.input.display()),
    );
    let opening = dir.clone();
    let job =
        tokio::task::spawn_blocking(move || Job::open_with(&opening, spec, &lane, opening_options))
            .await??;
    output.store(job.ledger())?;
    go(
        &name,
        &dir,
        job,
        &args.running,
        args.settings.chunk_rows,
        results,
        false,
    )
    .await
}

pub(crate) async fn resume(args: ResumeArgs) -> anyhow::Result<Exit> {
    let dir = folder::existing(&args.running.state, &args.job)?;
    let opening = dir.clone();
    let folder = ledger_options(&args.running);
    let job = tokio::task::spawn_blocking(move || Job::resume_with(&opening, folder)).await??;
    let results = Output::stored(&args.job, job.ledger(), job.spec())?
        .with(&args.output)
        .options()?;
    results.check(&job.spec().input)?;
    go(&args.job, &dir, job, &args.running, None, results, false).await
}

/// Whether requests go to the vendor's own server, whose rules are known; a server that only speaks its protocol has
/// others.
pub(crate) fn is_own_server(known: &Known, pairs: &Pairs) -> bool {
    match pairs.get(known.base_url_variable()) {
        None => true,
        Some(url) => VendorRules::of(known.name).is_some_and(|rules| rules.hold_at(url)),
    }
}

/// Runs an open job and says how it ended.
pub(crate) async fn go(
    name: &str,
    dir: &Path,
    job: Job,
    args: &RunningArgs,
    chunk_rows: Option<u64>,
    results: ResultsOptions,
    cancel: bool,
) -> anyhow::Result<Exit> {
    let spec = job.spec();
    let mut pairs = environment::pairs(args.env_file.as_deref())?;
    let known = providers::known(&spec.provider)?;
    let emulator = match spec.sandbox {
        true => Some(sandbox::start(known, dir, &mut pairs).await?),
        false => None,
    };
    if args.settle.is_some_and(|settle| settle < SHORTEST_SETTLE) && !known.is_local(&pairs) {
        bail!(
            "--settle is at least 1m with a provider that bills: a batch may show up late in its list"
        );
    }
    let lane = known.build(&pairs, spec.lane, &connection(args))?;
    let mut options = run_options(args, spec.sandbox, chunk_rows)?;
    if results.unordered {
        options.live = Some(results.clone());
    }
    if args.no_wait && spec.lane != Lane::Batch {
        bail!("--no-wait is for --lane batch: direct calls are made by this process");
    }
    options.others = others(spec, &pairs, &connection(args));
    options.budget = settle_budget(job.ledger(), args.budget)?;
    set_direct(&mut options, args, &job, &pairs)?;
    announce(name, &job, args, &options.prices);
    let control = JobControl::default();
    if cancel {
        control.cancel.cancel();
    }
    let progress = Arc::new(JobProgress::new());
    let running = job.run(lane, options, control.clone(), Arc::clone(&progress));
    let at_provider = job.spec().lane == Lane::Batch;
    let style = Style::of(args.quiet, args.json);
    let shown = progress::show(style, &progress, running);
    let report = signals::watch(&control.stop, args.quiet || args.json, at_provider, shown).await?;
    if let Some(emulator) = emulator {
        emulator.shutdown().await;
    }
    let written = if report.written.is_some() {
        report.written
    } else if report.is_complete() {
        let writing = results.clone();
        let writing = tokio::task::spawn_blocking(move || {
            job.write_results(&writing).map(|written| (written, job))
        });
        Some(signals::or_leave(writing).await??.0)
    } else {
        None
    };
    let exit = exit_of(&report, control.stop.is_cancelled(), args.no_wait);
    let chunks = Ledger::open_read_only(dir)?.chunks()?;
    if args.json {
        summary_json(
            name,
            &report,
            &chunks,
            written.as_ref().map(|_| results.target.as_path()),
            exit,
        );
    } else if !args.quiet || exit != Exit::Done {
        summary(
            name,
            args,
            &report,
            &chunks,
            written.as_ref().map(|_| results.target.as_path()),
        );
    }
    Ok(exit)
}

/// What the settings make of a job.
pub(crate) fn spec(args: &SettingsArgs) -> anyhow::Result<JobSpec> {
    let input = std::fs::canonicalize(&args.input)
        .map_err(|error| named_file::unusable(&args.input, error))?;
    if input.is_dir() {
        bail!("{} is a folder; give a file", args.input.display());
    }
    let provider = args
        .model
        .as_ref()
        .map_or(providers::default(), |model| model.provider());
    let mut spec = JobSpec::new(input, provider, args.lane);
    spec.model = args.model.as_ref().map(|model| model.model().to_owned());
    spec.prompt = match (&args.prompt, &args.prompt_file) {
        (Some(prompt), _) => Some(prompt.clone()),
        (None, Some(path)) => Some(named_file::read(path)?),
        (None, None) => None,
    };
    spec.system.clone_from(&args.system);
    if let Some(path) = &args.schema {
        let text = named_file::read(path)?;
        let schema: serde_json::Value = serde_json::from_str(&text)
            .with_context(|| format!("read the JSON schema {}", path.display()))?;
        if !schema.is_object() {
            bail!("{} is no JSON schema: it must be an object", path.display());
        }
        spec.schema = Some(schema);
    }
    let mut sampling = Sampling::new();
    if let Some(temperature) = args.temperature {
        sampling = sampling.with_temperature(temperature)?;
    }
    if let Some(tokens) = args.max_output_tokens {
        sampling = sampling.with_max_output_tokens(tokens)?;
    }
    spec.sampling = sampling;
    spec.id_column.clone_from(&args.id_column);
    spec.model_column.clone_from(&args.model_column);
    spec.source.format = args.format.map(|format| match format {
        InputFormat::Csv => SourceFormat::Csv,
        InputFormat::Tsv => SourceFormat::Tsv,
        InputFormat::Jsonl => SourceFormat::Jsonl,
        InputFormat::Json => SourceFormat::Json,
    });
    Ok(spec)
}

pub(crate) fn ledger_options(args: &RunningArgs) -> LedgerOptions {
    LedgerOptions::default().with_network_fs(args.network_state)
}

pub(crate) fn connection(args: &RunningArgs) -> Connection {
    Connection {
        concurrency: args.concurrency.most(),
        timeout: args.timeout,
    }
}

fn run_options(
    args: &RunningArgs,
    sandbox: bool,
    chunk_rows: Option<u64>,
) -> anyhow::Result<RunOptions> {
    let mut options = RunOptions::default();
    options.prices = Arc::new(prices(args.prices.as_deref())?);
    options.pool.max_in_flight = args.concurrency.most();
    if args.concurrency == AtOnce::Auto {
        options.pool.scope.concurrency = Concurrency::auto();
    }
    let limits = &mut options.pool.scope.rate_limit;
    limits.requests_per_minute = args.rpm.map(|limit| limit as f64);
    limits.tokens_per_minute = args.tpm.map(|limit| limit as f64);
    if let Some(timeout) = args.timeout {
        options.pool.attempt_timeout = timeout;
    }
    if let Some(attempts) = args.max_attempts {
        options.pool.retry.max_attempts = Some(attempts);
    }
    if sandbox {
        options.router = RouterOptions::for_sandbox();
    }
    if let Some(settle) = args.settle {
        options.router.settle = settle;
    }
    options.same_account = args.same_account;
    if let Some(poll) = args.poll {
        options.router.poll_cap = poll;
        options.router.poll_initial = options
            .router
            .poll_initial
            .min(poll)
            .max(Duration::from_millis(10));
        options.router.queue_wait = options.router.queue_wait.min(poll);
    }
    options.chunk_rows = chunk_rows;
    options.chunk_cost = args.chunk_cost;
    options.chunk_tokens = args.chunk_tokens;
    options.rounds = args.rounds;
    options.leave = args.no_wait;
    options.remainder = args.remainder;
    options.rebuy_missing = args.rebuy_missing.then_some(true);
    options.deadline = args.deadline;
    if let Some(grace) = args.deadline_grace {
        options.deadline_grace = grace;
    }
    Ok(options)
}

/// Every other provider that rows may name: those that can be used with what the environment has.
pub(crate) fn others(
    spec: &JobSpec,
    pairs: &Pairs,
    connection: &Connection,
) -> Vec<Arc<dyn BatchProvider>> {
    if spec.model_column.is_none() || spec.lane != Lane::Batch {
        return Vec::new();
    }
    let others = providers::all()
        .iter()
        .filter(|known| known.name != spec.provider);
    others
        .filter_map(|known| match known.build(pairs, Lane::Batch, connection) {
            Ok(LaneProvider::Batch(provider)) => Some(provider),
            // Rows that name it are told.
            _ => None,
        })
        .collect()
}

/// Who answers direct calls besides the provider of the realtime lane: `direct` rows of the batch lane that are not to
/// wait for a batch, which is the first fallback, else the job's own provider where it has direct calls; and the
/// fallbacks after that.
fn set_direct(
    options: &mut RunOptions,
    args: &RunningArgs,
    job: &Job,
    pairs: &Pairs,
) -> anyhow::Result<()> {
    let spec = job.spec();
    let mut fallbacks = settle_fallbacks(job.ledger(), &args.fallback)?
        .into_iter()
        .map(|model| {
            let known = providers::known(model.provider())?;
            match known.build(pairs, Lane::Realtime, &connection(args))? {
                LaneProvider::Realtime(provider) => {
                    Ok(Direct::new(provider).with_model(model.model()))
                }
                LaneProvider::Batch(_) => bail!("{} has no direct calls", model.provider()),
            }
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    if spec.lane == Lane::Batch {
        options.direct = if fallbacks.is_empty() {
            let own = providers::known(&spec.provider)?;
            match own.build(pairs, Lane::Realtime, &connection(args)) {
                Ok(LaneProvider::Realtime(provider)) => Some(Direct::new(provider)),
                // It is asked for where it is needed, and only there.
                _ => None,
            }
        } else {
            Some(fallbacks.remove(0))
        };
    }
    options.fallbacks = fallbacks;
    Ok(())
}

/// The fallbacks asked for now, else when the job was last told any.
fn settle_fallbacks(ledger: &Ledger, asked: &[ModelSpec]) -> anyhow::Result<Vec<ModelSpec>> {
    const KEY: &str = "command.fallback";
    if asked.is_empty() {
        let known = ledger.meta(KEY)?.unwrap_or_default();
        let models = known.split(',').filter(|model| !model.is_empty());
        return Ok(models.map(str::parse).collect::<Result<_, _>>()?);
    }
    let names: Vec<String> = asked.iter().map(ToString::to_string).collect();
    ledger.set_meta(KEY, &names.join(","))?;
    Ok(asked.to_vec())
}

/// The budget asked for now, else when the job was last told one: a resumed job must not forget it.
fn settle_budget(ledger: &Ledger, asked: Option<Money>) -> anyhow::Result<Option<Money>> {
    const KEY: &str = "command.budget";
    if let Some(budget) = asked {
        ledger.set_meta(KEY, &budget.as_picodollars().to_string())?;
        return Ok(asked);
    }
    let known = ledger.meta(KEY)?.and_then(|known| known.parse().ok());
    Ok(known.map(Money::from_picodollars))
}

/// The built-in prices, with those of a file laid over them.
pub(crate) fn prices(file: Option<&Path>) -> anyhow::Result<PriceTable> {
    let mut prices = PriceTable::builtin();
    if let Some(path) = file {
        prices
            .overlay(&named_file::read(path)?)
            .with_context(|| format!("read {}", path.display()))?;
    }
    Ok(prices)
}

pub(crate) fn say_unless(args: &RunningArgs, line: std::fmt::Arguments<'_>) {
    if !args.quiet && !args.json {
        say(line);
    }
}

/// What is about to happen, and about what it costs.
fn announce(name: &str, job: &Job, args: &RunningArgs, prices: &PriceTable) {
    let spec = job.spec();
    let model = spec.model.as_deref().unwrap_or("the models the rows name");
    let place = if spec.sandbox { ", sandbox" } else { "" };
    let mut line = format!(
        "job {name}: {}, {}:{model}, {} lane{place}",
        rows_of(job.rows()),
        spec.provider,
        spec.lane
    );
    if !job.is_new() {
        line.push_str("; going on where it stopped");
    } else if let Some(tokens) = job.estimated_input_tokens() {
        line.push_str(&format!("; about {} input tokens", count(tokens)));
        let price = spec
            .model
            .as_deref()
            .and_then(|model| prices.price(&spec.provider, model));
        let usage = batchwright::core::Usage::of(tokens, 0);
        match price.and_then(|price| Some((price.cost(&usage, spec.lane)?, price))) {
            Some((cost, price)) => line.push_str(&format!(
                " for about {cost} (prices of {}); answers come on top",
                price.as_of
            )),
            None => line.push_str(", price unknown"),
        }
    }
    say_unless(args, format_args!("{line}"));
    for warning in job.preflight().map(check::warnings).unwrap_or_default() {
        say_unless(args, format_args!("warning: {warning}"));
    }
    if let Some(report) = job.preflight().filter(|report| !report.is_ok()) {
        say_unless(
            args,
            format_args!(
                "{} cannot be sent and end as failed; the results say why:",
                rows_of(report.bad_rows)
            ),
        );
        for line in check::problem_lines(report, NAMED) {
            say_unless(args, format_args!("{line}"));
        }
    }
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .into_iter()
        .find(|name| std::env::var_os(name).is_some());
    if let (Some(proxy), false) = (proxy, spec.sandbox) {
        say_unless(args, format_args!("a proxy is in use, by {proxy}"));
    }
}

fn exit_of(report: &JobReport, interrupted: bool, left: bool) -> Exit {
    if let Some(error) = &report.stopped {
        return match Exit::of_kind(error.kind()) {
            // The job had begun, so this is no wrong command line.
            Exit::Usage => Exit::Stopped,
            exit => exit,
        };
    }
    if !report.held.is_empty() {
        return Exit::NeedsDecision;
    }
    if !report.is_complete() {
        return match (interrupted, left) {
            (true, _) => Exit::Interrupted,
            (_, true) => Exit::Done,
            _ => Exit::Stopped,
        };
    }
    if report.scan.succeeded() == report.rows {
        Exit::Done
    } else {
        Exit::Partial
    }
}

fn summary(
    name: &str,
    args: &RunningArgs,
    report: &JobReport,
    chunks: &[ChunkState],
    written: Option<&Path>,
) {
    let scan = &report.scan;
    let mut endings: Vec<String> = tally(scan)
        .map(|(ending, rows)| format!("{} {ending}", count(rows)))
        .collect();
    let left = report.rows.saturating_sub(scan.finished.len());
    if left > 0 {
        endings.push(format!("{} to go", count(left)));
    }
    if endings.is_empty() {
        endings.push("no rows".to_owned());
    }
    say(format_args!(
        "{}: {}",
        rows_of(report.rows),
        endings.join(", ")
    ));
    let tokens = match scan.usage.total_tokens() {
        Some(tokens) => count(tokens),
        None if scan.usage_unknown == 0 => "0".to_owned(),
        None => "unknown".to_owned(),
    };
    let cost = match scan.cost_unknown {
        0 => scan.cost.to_string(),
        rows => format!("{} and {} of unknown cost", scan.cost, rows_of(rows)),
    };
    say(format_args!("tokens: {tokens}; cost: {cost}"));
    named(
        "were in flight when an earlier run ended and were sent again",
        &scan.interrupted,
    );
    named(
        "were answered after an attempt whose fate is unclear",
        &scan.unclear,
    );
    if scan.possibly_paid > 0 {
        say(format_args!(
            "attempts that may have been billed besides: {}",
            count(scan.possibly_paid)
        ));
    }
    if scan.superseded > 0 {
        say(format_args!(
            "answers besides those that count, which may be paid too: {} for {}",
            count(scan.superseded),
            scan.superseded_cost
        ));
    }
    for (chunk, reason) in &report.held {
        say(format_args!(
            "chunk {chunk} is held, since a second purchase cannot be ruled out: {reason}"
        ));
        for state in chunks.iter().filter(|state| state.chunk == *chunk) {
            for line in decide::choices(name, &args.state, state) {
                say(format_args!("  {line}"));
            }
        }
    }
    for note in decide::notes(chunks) {
        say(format_args!("{note}"));
    }
    if let Some(error) = &report.stopped {
        say(format_args!("stopped: {error}"));
    }
    match written {
        Some(path) if path == Path::new("-") => {}
        Some(path) => say(format_args!("results: {}", path.display())),
        None => {
            let state = state_option(&args.state);
            let first = if report.stopped.is_some() {
                "once that is mended, go on"
            } else if args.no_wait {
                "every batch is made; collect what they answer"
            } else {
                "go on"
            };
            say(format_args!(
                "{first}: batchwright resume {name}{state}    (or the same command again)"
            ));
        }
    }
}

/// The option that finds the job again, where one is needed.
pub(crate) fn state_option(state: &Path) -> String {
    match state.to_str() {
        Some(".batchwright") | None => String::new(),
        Some(state) => format!(" --state {state}"),
    }
}

/// Names rows by their place in the input, counted from 1.
fn named(what: &str, rows: &[u64]) {
    if rows.is_empty() {
        return;
    }
    let shown: Vec<String> = from_one(rows)
        .iter()
        .take(NAMED)
        .map(u64::to_string)
        .collect();
    let more = match rows.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    say(format_args!(
        "{} {what}: {}{more} (counted from 1)",
        rows_of(rows.len() as u64),
        shown.join(", ")
    ));
}

/// Row numbers as people count, from 1, as everywhere outside of the job's folder.
fn from_one(rows: &[u64]) -> Vec<u64> {
    rows.iter().map(|row| row + 1).collect()
}

fn summary_json(
    name: &str,
    report: &JobReport,
    chunks: &[ChunkState],
    written: Option<&Path>,
    exit: Exit,
) {
    let scan = &report.scan;
    let endings: serde_json::Map<String, serde_json::Value> = tally(scan)
        .map(|(ending, rows)| (ending.to_owned(), rows.into()))
        .collect();
    let held: Vec<_> = report
        .held
        .iter()
        .map(|(chunk, reason)| json!({"chunk": chunk, "reason": reason}))
        .collect();
    let line = json!({
        "event": "summary",
        "job": name,
        "rows": report.rows,
        "finished": scan.finished.len(),
        "endings": endings,
        "usage": scan.usage,
        "cost": scan.cost.as_dollars(),
        "cost_unknown_rows": scan.cost_unknown,
        "sent_again_after_interruption": from_one(&scan.interrupted),
        "answered_after_unclear_attempts": from_one(&scan.unclear),
        "possibly_billed_attempts": scan.possibly_paid,
        "superseded": scan.superseded,
        "superseded_cost": scan.superseded_cost.as_dollars(),
        "held": held,
        "twice": decide::notes_json(chunks),
        "stopped": report.stopped.as_ref().map(ToString::to_string),
        "results": written,
        "exit_code": exit.code(),
    });
    say(line);
}

/// Endings and how many rows had them, those of no row left out.
pub(crate) fn tally(scan: &Scan) -> impl Iterator<Item = (&'static str, u64)> {
    let tally = &scan.tally;
    [
        ("succeeded", tally.succeeded),
        ("failed", tally.failed),
        ("refused", tally.refused),
        ("expired", tally.expired),
        ("cancelled", tally.cancelled),
        ("missing", tally.missing),
        ("unreadable", tally.unreadable),
    ]
    .into_iter()
    .filter(|(_, rows)| *rows > 0)
}
