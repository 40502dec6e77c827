//! Why an answer was rejected, and how the model is told.

use std::fmt;

/// Faults kept of one answer; more say nothing new.
const MOST_FAULTS: usize = 16;
/// Faults named in an error's text.
const SHOWN_FAULTS: usize = 4;
/// Fields that are right named to the model.
const MOST_PASSED: usize = 32;
/// Bytes of one fault's reason.
const MOST_REASON: usize = 400;

/// An answer that is not what was asked for, and why: the [`source`](std::error::Error::source) of the error with
/// which the attempt failed.
///
/// It holds what the model said; its `Debug` and `Display` show none of that, and the error beside it neither.
#[derive(Clone)]
#[non_exhaustive]
pub struct Rejection {
    answer: String,
    faults: Vec<Fault>,
    passed: Vec<String>,
}

/// One thing that is wrong with an answer.
#[derive(Clone)]
#[non_exhaustive]
pub struct Fault {
    path: String,
    shown_path: String,
    reason: String,
    shown_reason: String,
}

impl Fault {
    /// A fault of the whole answer, whose reason may be shown to anybody.
    pub(crate) fn whole(reason: impl Into<String>) -> Self {
        Self::new(String::new(), String::new(), reason.into(), None)
    }

    /// A check of the caller's says so; its words may hold the answer.
    pub(crate) fn refused_by_check(why: &str) -> Self {
        Self::whole("it is refused by the caller's check").with_detail(why)
    }

    /// With what only the model may read.
    pub(crate) fn with_detail(mut self, detail: &str) -> Self {
        self.reason = cut(detail, MOST_REASON);
        self
    }

    /// `detail` is the reason where it may hold a part of the answer; `shown_path` and `shown` never do.
    pub(crate) fn new(
        path: String,
        shown_path: String,
        shown: String,
        detail: Option<String>,
    ) -> Self {
        let shown_reason = cut(&shown, MOST_REASON);
        let reason =
            detail.map_or_else(|| shown_reason.clone(), |detail| cut(&detail, MOST_REASON));
        Self {
            path: cut(&path, MOST_REASON),
            shown_path: cut(&shown_path, MOST_REASON),
            reason,
            shown_reason,
        }
    }

    /// Where in the answer, as a JSON pointer; empty for the whole. May hold a name the model made up.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is wrong. May hold a part of the answer.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Rejection {
    /// At most so many bytes of the answer are kept.
    pub(crate) fn new(
        answer: &str,
        most: usize,
        mut faults: Vec<Fault>,
        mut passed: Vec<String>,
    ) -> Self {
        faults.truncate(MOST_FAULTS);
        passed.truncate(MOST_PASSED);
        Self {
            answer: cut(answer, most),
            faults,
            passed,
        }
    }

    /// What the model said, cut to its beginning where it is long.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// What is wrong with it; at least one, at most 16.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Fields at its top that are right; at most 32.
    pub fn passed(&self) -> &[String] {
        &self.passed
    }

    /// What the model is told.
    pub(crate) fn feedback(&self) -> String {
        let mut text = String::from("Your answer cannot be used.\n");
        if !self.passed.is_empty() {
            text.push_str("These fields are right: ");
            text.push_str(&self.passed.join(", "));
            text.push_str(".\n");
        }
        text.push_str("This is wrong:\n");
        for fault in &self.faults {
            let path = if fault.path.is_empty() {
                "the whole answer"
            } else {
                &fault.path
            };
            text.push_str(&format!("- {path}: {}\n", fault.reason));
        }
        text.push_str("Answer again in full, with the JSON value alone and nothing around it.");
        text
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().take(SHOWN_FAULTS).enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if !fault.shown_path.is_empty() {
                write!(f, "{} ", fault.shown_path)?;
            }
            f.write_str(&fault.shown_reason)?;
        }
        match self.faults.len().saturating_sub(SHOWN_FAULTS) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("answer_bytes", &self.answer.len())
            .field("faults", &self.faults)
            .field("passed", &self.passed.len())
            .finish()
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fault")
            .field("path", &self.shown_path)
            .field("reason", &self.shown_reason)
            .finish()
    }
}

impl std::error::Error for Rejection {}

/// The beginning of a text, where it is long.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{} … (cut)", &text[..text.floor_char_boundary(most)])
}
