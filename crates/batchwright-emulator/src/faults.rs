//! The fault script: ordered rules that say which call goes wrong and how.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, Method};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Span;
use crate::error::{EmulatorError, Result};

/// One rule of the fault script: which calls, and what happens to them.
///
/// The README of this crate has the grammar with examples.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FaultRule {
    /// A name to find the rule by in `GET /emulator/faults`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which calls the rule looks at. Default: all.
    #[serde(default, rename = "match")]
    pub matches: CallMatch,
    /// How often the rule fires at most. Default: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// What happens, all of it, to a call the rule fires on.
    pub actions: Vec<FaultAction>,
}

impl FaultRule {
    /// A rule for one method and path (`*` stands for any run of characters).
    #[must_use]
    pub fn on(method: &str, path: &str) -> Self {
        Self {
            matches: CallMatch {
                method: Some(method.to_owned()),
                path: Some(path.to_owned()),
                ..CallMatch::default()
            },
            ..Self::default()
        }
    }

    /// Reads a list of rules, or an object with the list under `rules`.
    ///
    /// # Errors
    ///
    /// [`EmulatorError::Faults`] when the text is not a fault script.
    pub fn list_from_json(text: &str) -> Result<Vec<Self>> {
        FaultScript::parse(text.as_bytes())
            .map(|script| script.rules)
            .map_err(EmulatorError::Faults)
    }

    /// Fires on these of the matching calls only.
    #[must_use]
    pub fn nth(mut self, nth: Nth) -> Self {
        self.matches.nth = Some(nth);
        self
    }

    /// Fires this often at most.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// Adds an action.
    #[must_use]
    pub fn action(mut self, action: FaultAction) -> Self {
        self.actions.push(action);
        self
    }
}

/// Which calls a rule looks at; what is left out matches everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct CallMatch {
    /// HTTP method, upper case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Whole path without query; `*` stands for any run of characters, `/` among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Which of the calls that match everything else, counted from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nth: Option<Nth>,
    /// Header that must be there, and what it must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderMatch>,
    /// Text that the first MiB of the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
}

/// A header that must be there.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct HeaderMatch {
    /// The header's name, in any case.
    pub name: String,
    /// What its value must contain. Default: anything.
    #[serde(default)]
    pub contains: String,
}

/// Which of the matching calls, counted from 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Nth {
    /// The n-th call.
    One(u64),
    /// These calls.
    Each(Vec<u64>),
    /// The k-th, 2k-th, 3k-th … call.
    Every {
        /// k, at least 1.
        every: u64,
    },
    /// The calls from … to …, both included; no end means forever.
    Range {
        /// First call.
        from: u64,
        /// Last call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
}

impl Nth {
    fn takes(&self, call: u64) -> bool {
        match self {
            Self::One(n) => *n == call,
            Self::Each(calls) => calls.contains(&call),
            Self::Every { every } => *every != 0 && call.is_multiple_of(*every),
            Self::Range { from, to } => *from <= call && to.is_none_or(|to| call <= to),
        }
    }
}

/// One thing that happens to a call. Times are real unless said to be virtual.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultAction {
    /// Answers this and does nothing else.
    Reply(Reply),
    /// Answers this without reading the request to its end, so that a long upload breaks off.
    ReplyEarly(Reply),
    /// Does the work, then answers this instead of the true answer.
    CommitThenReply(Reply),
    /// Does the work, then closes the connection without an answer.
    CommitThenDrop,
    /// Reads the request, does nothing, closes the connection without an answer.
    DropBeforeCommit,
    /// Does nothing and resets the connection at once, even while the request is still being sent.
    Reset,
    /// Closes the connection without an answer and does the work this much virtual time later.
    CommitLate(Span),
    /// Does the work, then waits before the headers.
    DelayHeaders(Span),
    /// Sends the headers, then waits before the body.
    DelayBody(Span),
    /// Sends the body in small pieces.
    Trickle {
        /// Bytes of a piece.
        bytes: usize,
        /// Time between pieces.
        every: Span,
    },
    /// Cuts the connection after this many body bytes.
    CutAfter {
        /// Body bytes that are still sent.
        bytes: u64,
        /// How the connection ends. Default `fin`.
        #[serde(default)]
        how: Cut,
    },
    /// Declares this many bytes more (or less) than the body has.
    LieContentLength(i64),
    /// Sends the body without a length, ended by the end of the connection (HTTP/1 only).
    NoLength,
    /// The connection stays open after the answer, and is closed unannounced once it was idle for so long.
    CloseIdle {
        /// Real time; at least 20 ms, so that the answer is out.
        after: Span,
        /// How the connection ends. Default `fin`.
        #[serde(default)]
        how: Cut,
    },
    /// The connection stays open after the answer; the first bytes of the next request on it are taken, and it is closed
    /// without an answer.
    CloseNext(Cut),
    /// Compresses the body, in order or not.
    Gzip(Gzip),
    /// Puts so many spaces before the body, compressed to about a thousandth; `encoding` says gzip.
    GzipBomb {
        /// Decompressed bytes.
        bytes: u64,
    },
    /// Sends spaces without end after the body.
    Endless,
    /// Answers a redirect and does nothing else.
    Redirect {
        /// HTTP status, for example 307.
        status: u16,
        /// The `Location`. Default: none is sent.
        #[serde(default)]
        to: Option<String>,
    },
    /// The `Date` of this answer is wrong.
    SkewDate(Skew),
    /// Sets headers of the true answer, or takes them away (null).
    SetHeaders(BTreeMap<String, Option<String>>),
    /// A created file or batch is not listed for this virtual time.
    ListLag(Span),
    /// A created file or batch is not found at all for this virtual time.
    VisibleLag(Span),
    /// A created batch stays in a state for this virtual time at least. A state that the protocol does not know is
    /// shown in place of `in_progress`.
    Stick {
        /// `validating`, `in_progress`, `finalizing`, `cancelling`, or an invented name.
        state: String,
        /// Virtual time.
        #[serde(rename = "for")]
        span: Span,
    },
    /// An uploaded file is stored without its last bytes, and says its true size.
    StoreShort(u64),
    /// A download that asks for a range gets the whole file and status 200.
    IgnoreRange,
    /// Result files go wrong: for a batch creation, in the files themselves; for a file download, in this answer.
    MutateResults(Mutation),
    /// A created batch does this many rows and then waits to expire.
    ExpireAfterRows(u64),
    /// Rows of a created batch fail with this status.
    FailRows {
        /// HTTP status of the row, 400 to 599.
        status: u16,
        /// Every k-th row from the k-th on, at least 1. Default 1: all rows.
        #[serde(default = "one")]
        every: u64,
    },
    /// A created batch is not found any more after this virtual time.
    ForgetAfter(Span),
    /// A created batch fails at validation.
    FailBatch(BatchFailure),
    /// A created batch shows these counts, whatever is true, from `finalizing` on.
    LieCounts(Counts),
    /// A completed batch shows no file ids for this virtual time.
    LateFileIds(Span),
    /// A cancelled batch forgets the rows it had finished (they stay billed).
    CancelLosesRows,
    /// A cancelled batch runs to its end and completes.
    CancelCompletes,
}

/// An answer given in place of the true one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A string is sent as it is; anything else as JSON; null or nothing as an empty body.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub body: Value,
}

impl Reply {
    /// An answer with an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the body: a string as it is, anything else as JSON.
    #[must_use]
    pub fn with_body(mut self, body: Value) -> Self {
        self.body = body;
        self
    }
}

/// How a connection is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cut {
    /// Closed in order.
    #[default]
    Fin,
    /// Reset.
    Rst,
}

/// A compressed body, right or wrong.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Gzip {
    /// What is done. Default: one member, as it should be.
    #[serde(default)]
    pub kind: GzipKind,
    /// Bytes missing at the end of the compressed body (the length that is declared is that of the rest). Default 0.
    #[serde(default)]
    pub cut: u64,
}

/// What a compressed body looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GzipKind {
    /// One member, as it should be.
    #[default]
    Plain,
    /// A member for each 256 bytes.
    Members,
    /// Compressed twice, and said so.
    Twice,
    /// Compressed twice, and said to be once.
    TwiceUnsaid,
    /// Not compressed, and said to be.
    OnlySaid,
    /// Compressed, and not said to be.
    Unsaid,
    /// As it should be, under the old name `x-gzip`.
    XGzip,
    /// A member and 32 bytes that are none.
    Garbage,
}

/// By how much a clock is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Skew {
    /// How much.
    pub by: Span,
    /// Whether it is slow, not fast. Default false.
    #[serde(default)]
    pub back: bool,
}

impl Skew {
    pub(crate) fn ms(self) -> i64 {
        if self.back {
            -self.by.ms()
        } else {
            self.by.ms()
        }
    }
}

/// How a results file goes wrong; the same seed and file go wrong in the same way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Mutation {
    /// What is done.
    pub kind: MutationKind,
    /// Lines (or, for `truncate`, bytes) it is done to. Default 1.
    #[serde(default = "one")]
    pub count: u64,
    /// Which files of a batch. Default both. Of no meaning for a download.
    #[serde(default)]
    pub file: ResultFile,
}

impl Mutation {
    /// Does this to `count` lines of both files.
    #[must_use]
    pub fn new(kind: MutationKind, count: u64) -> Self {
        Self {
            kind,
            count,
            file: ResultFile::Both,
        }
    }
}

fn one() -> u64 {
    1
}

/// What is done to a results file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MutationKind {
    /// Lines are left out.
    Drop,
    /// Lines are there twice, byte for byte.
    Duplicate,
    /// Lines are in another order (they are shuffled anyhow).
    Shuffle,
    /// Lines are added whose ids were never sent.
    Add,
    /// Pairs of lines swap their ids.
    Swap,
    /// Bytes are missing at the end.
    Truncate,
    /// The whole file is an HTML page.
    Html,
    /// Lines keep their id and get `status_code` 0 and an empty body.
    Hollow,
    /// Lines are broken JSON.
    Garble,
    /// Empty lines are put between lines.
    Blank,
    /// All lines end with CR LF.
    Crlf,
    /// The file begins with a byte order mark.
    Bom,
}

/// Which results files of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResultFile {
    /// Both.
    #[default]
    Both,
    /// The file of answers.
    Output,
    /// The file of errors.
    Error,
}

/// An error of a batch that failed at validation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct BatchFailure {
    /// Vendor code, for example `token_limit_exceeded`.
    pub code: String,
    /// Text for people. Default empty.
    #[serde(default)]
    pub message: String,
    /// Which key of the line. Default none.
    #[serde(default)]
    pub param: Option<String>,
    /// Which line, from 1. Default none.
    #[serde(default)]
    pub line: Option<u64>,
}

impl BatchFailure {
    /// A failure with a code, a text, and no place.
    #[must_use]
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            param: None,
            line: None,
        }
    }

    pub(crate) fn at(mut self, line: u64, param: Option<&str>) -> Self {
        self.line = Some(line);
        self.param = param.map(str::to_owned);
        self
    }
}

/// Row counts of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Counts {
    /// Rows of the input.
    pub total: u64,
    /// Rows answered well.
    pub completed: u64,
    /// Rows that failed.
    pub failed: u64,
}

/// What faults do to a batch over its life; kept in its record.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct BatchQuirks {
    pub(crate) list_lag_ms: i64,
    pub(crate) visible_lag_ms: i64,
    pub(crate) stick: Vec<(String, i64)>,
    pub(crate) mutations: Vec<Mutation>,
    pub(crate) expire_after_rows: Option<u64>,
    /// Status, and every how many rows.
    pub(crate) fail_rows: Option<(u16, u64)>,
    pub(crate) forget_after_ms: Option<i64>,
    pub(crate) failure: Option<BatchFailure>,
    pub(crate) counts: Option<Counts>,
    pub(crate) late_file_ids_ms: i64,
    pub(crate) cancel_loses_rows: bool,
    pub(crate) cancel_completes: bool,
}

impl BatchQuirks {
    pub(crate) fn from_actions(actions: &[FaultAction]) -> Self {
        let mut quirks = Self::default();
        for action in actions {
            match action {
                FaultAction::ListLag(span) => quirks.list_lag_ms = span.ms(),
                FaultAction::VisibleLag(span) => quirks.visible_lag_ms = span.ms(),
                FaultAction::Stick { state, span } => {
                    quirks.stick.push((state.clone(), span.ms()));
                }
                FaultAction::MutateResults(mutation) => quirks.mutations.push(mutation.clone()),
                FaultAction::ExpireAfterRows(rows) => quirks.expire_after_rows = Some(*rows),
                FaultAction::FailRows { status, every } => {
                    quirks.fail_rows = Some((*status, (*every).max(1)));
                }
                FaultAction::ForgetAfter(span) => quirks.forget_after_ms = Some(span.ms()),
                FaultAction::FailBatch(failure) => quirks.failure = Some(failure.clone()),
                FaultAction::LieCounts(counts) => quirks.counts = Some(*counts),
                FaultAction::LateFileIds(span) => quirks.late_file_ids_ms = span.ms(),
                FaultAction::CancelLosesRows => quirks.cancel_loses_rows = true,
                FaultAction::CancelCompletes => quirks.cancel_completes = true,
                _ => {}
            }
        }
        quirks
    }

    /// Virtual time a state lasts at least.
    pub(crate) fn stuck_ms(&self, state: &str) -> i64 {
        self.stick
            .iter()
            .filter(|(name, _)| name == state)
            .map(|(_, ms)| *ms)
            .max()
            .unwrap_or(0)
    }

    /// An invented state shown in place of `in_progress`, and for how long.
    pub(crate) fn invented_state(&self) -> Option<(&str, i64)> {
        const KNOWN: [&str; 4] = ["validating", "in_progress", "finalizing", "cancelling"];
        self.stick
            .iter()
            .find(|(name, _)| !KNOWN.contains(&name.as_str()))
            .map(|(name, ms)| (name.as_str(), *ms))
    }
}

/// A body of `POST /emulator/faults` or a script file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultScript {
    /// Whether the rules take the place of those in force.
    #[serde(default)]
    pub(crate) replace: bool,
    pub(crate) rules: Vec<FaultRule>,
}

impl FaultScript {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        if text.trim_ascii_start().starts_with(b"[") {
            let rules = serde_json::from_slice(text)?;
            return Ok(Self {
                replace: false,
                rules,
            });
        }
        serde_json::from_slice(text)
    }
}

/// The rules in force and how often each was met.
#[derive(Debug, Default)]
pub(crate) struct FaultBook {
    rules: Mutex<Vec<RuleState>>,
    /// Spares the lock on every call when there is no rule.
    any: AtomicBool,
}

#[derive(Debug, Serialize)]
struct RuleState {
    #[serde(flatten)]
    rule: FaultRule,
    /// Calls that matched everything but `nth`.
    seen: u64,
    /// Calls the rule fired on.
    fired: u64,
}

impl FaultBook {
    pub(crate) fn new(rules: Vec<FaultRule>) -> Self {
        let book = Self::default();
        book.add(rules, false);
        book
    }

    pub(crate) fn add(&self, rules: Vec<FaultRule>, replace: bool) {
        let mut states = self.states();
        if replace {
            states.clear();
        }
        states.extend(rules.into_iter().map(|rule| RuleState {
            rule,
            seen: 0,
            fired: 0,
        }));
        self.any.store(!states.is_empty(), Ordering::Release);
    }

    pub(crate) fn clear(&self) {
        self.add(Vec::new(), true);
    }

    /// The rules with their counts, as JSON.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(&*self.states()).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// Whether the body must be looked at to decide about this call.
    pub(crate) fn needs_body(&self, method: &Method, path: &str) -> bool {
        self.states().iter().any(|state| {
            let matches = &state.rule.matches;
            matches.body_contains.is_some() && matches.takes_line(method, path)
        })
    }

    /// The actions of the first rule that fires on this call. Every rule counts the call.
    pub(crate) fn fire(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Vec<FaultAction> {
        let mut actions = Vec::new();
        for state in self.states().iter_mut() {
            let RuleState { rule, seen, fired } = state;
            if !rule.matches.takes(method, path, headers, body) {
                continue;
            }
            *seen += 1;
            let due = rule.matches.nth.as_ref().is_none_or(|nth| nth.takes(*seen));
            let left = rule.times.is_none_or(|times| *fired < times);
            if due && left && actions.is_empty() {
                *fired += 1;
                actions.clone_from(&rule.actions);
            }
        }
        actions
    }

    fn states(&self) -> MutexGuard<'_, Vec<RuleState>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallMatch {
    fn takes(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> bool {
        self.takes_line(method, path)
            && self
                .header
                .as_ref()
                .is_none_or(|header| header.takes(headers))
            && self
                .body_contains
                .as_ref()
                .is_none_or(|text| memmem::find(body, text.as_bytes()).is_some())
    }

    fn takes_line(&self, method: &Method, path: &str) -> bool {
        self.method
            .as_ref()
            .is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()))
            && self.path.as_ref().is_none_or(|wanted| glob(wanted, path))
    }
}

impl HeaderMatch {
    fn takes(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(self.name.as_str())
            .iter()
            .any(|value| memmem::find(value.as_bytes(), self.contains.as_bytes()).is_some())
    }
}

/// Whether `text` is `pattern`, where each `*` stands for any run of characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_paths() {
        for (pattern, text, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/b/c", false),
            ("/a/*", "/a/b/c", true),
            ("*/batches", "/openai/v1/batches", true),
            ("*/batches", "/openai/v1/batches/x", false),
            ("/v1/files/*/content", "/v1/files/file-1/content", true),
            ("/v1/files/*/content", "/v1/files/content", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_first_rule_that_is_due_fires_and_all_rules_count() {
        let rules = FaultRule::list_from_json(
            r#"[{"name":"second","match":{"method":"POST","nth":2},"actions":["commit_then_drop"]},
                {"name":"all","match":{"path":"/x*"},"times":2,"actions":[{"reply":{"status":500}}]}]"#,
        )
        .expect("a valid script");
        let book = FaultBook::new(rules);
        let headers = HeaderMap::new();
        let fire = || book.fire(&Method::POST, "/x", &headers, b"");
        assert!(matches!(fire()[..], [FaultAction::Reply(_)]));
        assert!(matches!(fire()[..], [FaultAction::CommitThenDrop]));
        assert!(matches!(fire()[..], [FaultAction::Reply(_)]));
        assert!(fire().is_empty());
        let json = book.to_json();
        assert_eq!(json[0]["seen"], 4);
        assert_eq!(json[0]["fired"], 1);
        assert_eq!(json[1]["fired"], 2);
    }

    #[test]
    fn nth_has_four_forms() {
        for (json, calls) in [
            ("2", vec![2]),
            ("[1,4]", vec![1, 4]),
            (r#"{"every":2}"#, vec![2, 4]),
            (r#"{"from":2,"to":3}"#, vec![2, 3]),
            (r#"{"from":4}"#, vec![4, 5]),
        ] {
            let nth: Nth = serde_json::from_str(json).expect("a valid nth");
            let taken: Vec<u64> = (1..=5).filter(|call| nth.takes(*call)).collect();
            assert_eq!(taken, calls, "{json}");
        }
    }

    #[test]
    fn unknown_actions_are_refused() {
        assert!(FaultRule::list_from_json(r#"[{"actions":["explode"]}]"#).is_err());
        assert!(FaultRule::list_from_json(r#"[{"when":{},"actions":[]}]"#).is_err());
    }
}
