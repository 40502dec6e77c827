//! The command line.

use batchwright::{
    core::{Lane, ModelSpec, Money},
    pipeline::Remainder,
};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::{net::SocketAddr, path::PathBuf, str::FromStr};

const EXIT_CODES: &str = "\
Exit codes:
  0    done, every row succeeded; with --no-wait: every batch is made
  1    a fault of this program
  2    the command line, the settings or the input are wrong; nothing was sent
  3    done, and some rows did not succeed
  4    a person must decide before anything more is sent
  5    the account, its key or its budget stopped the job; it can be resumed
  6    the disk or a file failed
  7    verify found something wrong
  130  interrupted; the job can be resumed

Environment:
  OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID, OPENAI_PROJECT_ID
                      the account; also from --env-file, never from the command line
  HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY
                      proxies; loopback addresses never go through one
  BATCHWRIGHT_STATE   the folder jobs are kept in
  BATCHWRIGHT_LOG     what is logged to standard error, such as debug or batchwright_router=trace";

/// Runs bulk LLM work as one job that survives crashes and never silently pays twice.
#[derive(Debug, Parser)]
#[command(name = "batchwright", version, after_long_help = EXIT_CODES, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run every row of a file through a model; the same command again goes on where it stopped
    Run(Box<RunArgs>),
    /// Check every row against the provider's rules and say what it comes to; needs no key and sends nothing
    Check(Box<CheckArgs>),
    /// Go on with a job by its name, with the settings it was started with
    Resume(ResumeArgs),
    /// Send rows again that ended without an answer; what they ended with stays in the books
    Retry(Box<RetryArgs>),
    /// Show how far a job is
    Status(JobArgs),
    /// Look at a job until it is done: every batch, its state, counts, age and cost
    Watch(WatchArgs),
    /// Look again for the batch of a chunk that is held for a decision
    Wait(HeldArgs),
    /// Say which batch is that of a chunk that is held for a decision
    Adopt(AdoptArgs),
    /// Buy a chunk again that is held for a decision, although it may be paid twice
    Resubmit(ResubmitArgs),
    /// Rebuild a job's lost or damaged journal from its files and the provider's lists; sends nothing, and resume goes on
    Recover(RecoverArgs),
    /// Cancel a job: its batches at the provider, and every row not yet sent
    Cancel(CancelArgs),
    /// Write the results a job has so far
    Results(ResultsArgs),
    /// Prove from a job's files alone that every row has exactly one outcome
    Verify(JobArgs),
    /// Find what a job left at its provider, and with --yes take away what nobody needs any more
    Gc(Box<GcArgs>),
    /// List the jobs in the state folder
    Jobs(JobsArgs),
    /// List the providers: lanes, endpoints, limits, and the variables they read
    Providers(ProvidersArgs),
    /// List the models whose prices are known, with the day and the page they were read on
    Models(ModelsArgs),
    /// Look at this machine: keys, providers, proxies, clock, disk and limits
    Doctor(DoctorArgs),
    /// Run the local emulator of the providers
    Emulator(EmulatorArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
}

/// What a job asks, of which rows, and which way.
#[derive(Args, Debug)]
pub(crate) struct SettingsArgs {
    /// The input: .csv, .tsv, .jsonl or .json
    pub(crate) input: PathBuf,
    /// The model, as provider:model
    #[arg(short, long, value_name = "PROVIDER:MODEL")]
    pub(crate) model: Option<ModelSpec>,
    /// Column in which rows name a provider and model of their own, as provider:model; on the batch lane they go to
    /// several providers, and come back as one output
    #[arg(long, value_name = "COLUMN")]
    pub(crate) model_column: Option<String>,
    /// Template of the prompt over the input's columns, such as 'Classify: {{ review }}'
    #[arg(short, long, value_name = "TEMPLATE", conflicts_with = "prompt_file")]
    pub(crate) prompt: Option<String>,
    /// File with the template of the prompt
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// Template of the system prompt
    #[arg(long, value_name = "TEMPLATE")]
    pub(crate) system: Option<String>,
    /// JSON schema answers are held to
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Direct calls, or the provider's cheaper batch API
    #[arg(long, default_value = "realtime", value_parser = lane)]
    pub(crate) lane: Lane,
    /// Randomness of the answers, 0 to 2 [default: the provider's]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) temperature: Option<f64>,
    /// The most tokens of an answer [default: the provider's]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_output_tokens: Option<u32>,
    /// Column with the rows' ids [default: custom_id or id, else made from the row's number]
    #[arg(long, value_name = "COLUMN")]
    pub(crate) id_column: Option<String>,
    /// Form of the input [default: told from its ending]
    #[arg(long, value_enum)]
    pub(crate) format: Option<InputFormat>,
    /// The most rows of one batch [default: as many as the provider takes]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) chunk_rows: Option<u64>,
    /// Go on without rows that cannot be sent: they end as failed, with the reason in the results
    #[arg(long)]
    pub(crate) skip_invalid: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// The job's name [default: made of the input's name and the settings]
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// Use the local emulator instead of the provider: no account, no network, no cost
    #[arg(long)]
    pub(crate) sandbox: bool,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// File of NAME=VALUE lines, used where the environment has none; of it only the base URL matters here
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// JSON file with prices of your own, laid over the built-in table
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ModelsArgs {
    /// The provider [default: all]
    pub(crate) provider: Option<String>,
    /// JSON file with prices of your own, laid over the built-in table
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// As JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ProvidersArgs {
    /// As JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DoctorArgs {
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// File of NAME=VALUE lines with keys and base URLs, used where the environment has none
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// Ask no provider anything
    #[arg(long)]
    pub(crate) offline: bool,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a job runs.
#[derive(Args, Debug)]
pub(crate) struct RunningArgs {
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// Keep jobs in a folder on a network file system, whose locks may let two machines run one job
    #[arg(long)]
    pub(crate) network_state: bool,
    /// The most direct calls at once; auto finds out how many the server takes, up to 256
    #[arg(long, value_name = "N|auto", default_value = "16")]
    pub(crate) concurrency: AtOnce,
    /// The provider's limit of direct requests a minute [default: read in its answers, or learned]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rpm: Option<u64>,
    /// The provider's limit of tokens a minute, input and output together [default: read in its answers, or learned]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tpm: Option<u64>,
    /// The most direct calls of the job may cost in dollars, those of earlier runs included
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub(crate) budget: Option<Money>,
    /// The longest one direct call may take, such as 90s or 10m [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// The most attempts at a row that fails without cost [default: until it is served]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_attempts: Option<u32>,
    /// Leave as soon as every batch is made; resume collects what they answer
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// How often a row is sent in batches at most, the first time included: rows whose batch expired, was cancelled by
    /// the provider or refused for others of its rows, and rows that failed in a way that passes, are sent again
    /// [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: Option<u32>,
    /// Which way such rows go [default: batch]
    #[arg(long, value_name = "LANE", value_parser = remainder)]
    pub(crate) remainder: Option<Remainder>,
    /// Also send rows again whose results the provider lost or made unreadable; they may have been billed, and are
    /// counted as such
    #[arg(long)]
    pub(crate) rebuy_missing: bool,
    /// Cancel batches this long after the job's start, such as 6h, and answer what is left by direct calls
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) deadline: Option<std::time::Duration>,
    /// How long such a cancel is waited for; a batch that answers a row later all the same is paid besides, and
    /// counted [default: 10m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) deadline_grace: Option<std::time::Duration>,
    /// Other models, in order, for direct calls the job's own provider cannot answer; of the batch lane, the first is
    /// for rows that go to direct calls
    #[arg(long, value_name = "PROVIDER:MODEL,…", value_delimiter = ',')]
    pub(crate) fallback: Vec<ModelSpec>,
    /// The most a batch may cost in dollars, as estimated; it bounds what one create of unclear fate can cost
    /// [default: no bound but the provider's]
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    pub(crate) chunk_cost: Option<Money>,
    /// The most input tokens of a batch, as estimated, such as what the provider's queue takes
    /// [default: no bound but the provider's]
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) chunk_tokens: Option<u64>,
    /// How long a batch whose creation is unclear is looked for before it counts as not created
    /// [default: 15m, in the sandbox 3s]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) settle: Option<std::time::Duration>,
    /// The key, project or address changed and still reaches the same account: look there for batches whose
    /// creation is unclear
    #[arg(long)]
    pub(crate) same_account: bool,
    /// The longest wait between two looks at a batch, and the first one where the provider's queue is full
    /// [default: 5m and 1m, in the sandbox 500ms]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) poll: Option<std::time::Duration>,
    /// File of NAME=VALUE lines with keys and base URLs, used where the environment has none
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// JSON file with prices of your own, laid over the built-in table
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) quiet: bool,
    /// Progress and summary as JSON lines on standard error
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug, Default)]
pub(crate) struct OutputArgs {
    /// Results file, .jsonl or .csv; - is standard output [default: JOB.results.jsonl, or .csv for CSV]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write results in the order they came in, not in the input's; JSONL only
    #[arg(long)]
    pub(crate) unordered: bool,
    /// Do not put a ' before text in CSV cells that a spreadsheet would take for a formula
    #[arg(long)]
    pub(crate) raw_csv: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ResumeArgs {
    /// The job's name
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RetryArgs {
    /// The job's name
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) which: RetriedArgs,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which rows are sent again.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub(crate) struct RetriedArgs {
    /// Rows that failed or expired, and those whose results were lost or unreadable, which may have been billed
    #[arg(long)]
    pub(crate) failed: bool,
    /// Rows that were cancelled
    #[arg(long)]
    pub(crate) cancelled: bool,
    /// Rows the model or a policy refused to answer
    #[arg(long)]
    pub(crate) refused: bool,
}

#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// The job's name
    pub(crate) job: String,
    /// At the provider: uploaded inputs and batches of this job
    #[arg(long, required = true)]
    pub(crate) remote: bool,
    /// The provider's result files too; the job's folder has them
    #[arg(long)]
    pub(crate) results: bool,
    /// Take away what is not kept, instead of only naming it
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
}

/// Which held chunks of a job.
#[derive(Args, Debug)]
pub(crate) struct HeldArgs {
    /// The job's name
    pub(crate) job: String,
    /// The chunk, by its number in `status` [default: every one that is held]
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<u32>,
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// The job is in a folder on a network file system
    #[arg(long)]
    pub(crate) network_state: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AdoptArgs {
    #[command(flatten)]
    pub(crate) held: HeldArgs,
    /// The provider's id of the batch
    pub(crate) batch: String,
    /// File of NAME=VALUE lines with keys and base URLs, used where the environment has none
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct ResubmitArgs {
    #[command(flatten)]
    pub(crate) held: HeldArgs,
    /// The rows may have been bought already, and be paid twice
    #[arg(long)]
    pub(crate) accept_duplicate_risk: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecoverArgs {
    /// The job's name
    pub(crate) job: String,
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// The job is in a folder on a network file system
    #[arg(long)]
    pub(crate) network_state: bool,
    /// File of NAME=VALUE lines with keys and base URLs, used where the environment has none
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Option<PathBuf>,
    /// The key, project or address changed and still reaches the same account
    #[arg(long)]
    pub(crate) same_account: bool,
    /// As JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// The job's name
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) running: RunningArgs,
}

#[derive(Args, Debug)]
pub(crate) struct JobArgs {
    /// The job's name
    pub(crate) job: String,
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) job: JobArgs,
    /// How often to look
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "2s")]
    pub(crate) interval: std::time::Duration,
}

#[derive(Args, Debug)]
pub(crate) struct ResultsArgs {
    /// The job's name
    pub(crate) job: String,
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// Write those of a job that is not finished, whatever is there by now
    #[arg(long)]
    pub(crate) partial: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct JobsArgs {
    /// Folder jobs are kept in
    #[arg(
        long,
        value_name = "DIR",
        env = "BATCHWRIGHT_STATE",
        default_value = ".batchwright"
    )]
    pub(crate) state: PathBuf,
    /// As JSON lines
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EmulatorArgs {
    /// Address to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8089")]
    pub(crate) listen: SocketAddr,
    /// Folder its files, batches and invoice are kept in [default: one that goes with the process]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Virtual seconds for each real one; 0 stands still until told [default: a small batch takes about 2 s]
    #[arg(long, value_name = "N")]
    pub(crate) time_scale: Option<f64>,
    /// Seed of everything that varies
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Keys that are good, separated by commas [default: every well-formed one]
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub(crate) keys: Vec<String>,
    /// JSON file of fault rules
    #[arg(long, value_name = "FILE")]
    pub(crate) faults: Option<PathBuf>,
    /// Requests a minute
    #[arg(long, value_name = "N")]
    pub(crate) rpm: Option<u64>,
    /// Tokens a minute
    #[arg(long, value_name = "N")]
    pub(crate) tpm: Option<u64>,
    /// Direct calls at once
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrency: Option<u64>,
    /// Tokens enqueued in batches
    #[arg(long, value_name = "N")]
    pub(crate) enqueued_tokens: Option<u64>,
    /// How long a direct call takes, such as 200ms
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) latency: Option<std::time::Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum InputFormat {
    Csv,
    Tsv,
    Jsonl,
    Json,
}

/// Prints completions for `shell`.
pub(crate) fn completions(shell: clap_complete::Shell) {
    clap_complete::generate(
        shell,
        &mut Cli::command(),
        "batchwright",
        &mut std::io::stdout(),
    );
}

fn lane(word: &str) -> Result<Lane, String> {
    Lane::from_str(word).map_err(|error| error.message().to_owned())
}

fn remainder(word: &str) -> Result<Remainder, String> {
    match lane(word)? {
        Lane::Batch => Ok(Remainder::Batch),
        _ => Ok(Remainder::Realtime),
    }
}

fn dollars(text: &str) -> Result<Money, String> {
    let money = text.parse().ok().and_then(Money::from_dollars);
    money
        .filter(|money| *money > Money::ZERO)
        .ok_or_else(|| "must be an amount of dollars, such as 5 or 0.50".to_owned())
}

/// How many direct calls are open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtOnce {
    /// As many as the server takes.
    Auto,
    /// This many.
    Fixed(usize),
}

impl AtOnce {
    /// The most that are tried.
    const MOST: usize = 256;

    /// The most there may ever be.
    pub(crate) fn most(self) -> usize {
        match self {
            Self::Auto => Self::MOST,
            Self::Fixed(calls) => calls,
        }
    }
}

impl FromStr for AtOnce {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(0) | Err(_) => Err("must be a whole number from 1, or auto".to_owned()),
            Ok(number) => Ok(Self::Fixed(number)),
        }
    }
}

/// A number with a unit: `ms`, `s`, `m`, `h` or `d`.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || "write a number and its unit: ms, s, m, h or d".to_owned();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(wrong)?;
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match &text[digits..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return Err(wrong()),
    };
    std::time::Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn calls_at_once_are_a_number_or_found_out() {
        assert_eq!("8".parse(), Ok(AtOnce::Fixed(8)));
        assert_eq!("auto".parse(), Ok(AtOnce::Auto));
        for text in ["", "0", "-1", "Auto", "1.5"] {
            assert!(text.parse::<AtOnce>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in ["", "5", "s", "-1s", "1e3s", "5 s", "1w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
