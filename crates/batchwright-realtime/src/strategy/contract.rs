//! What an answer must be: the schema, what is sent of it, and the judgement.

use super::{
    json_text::{self, Found},
    memory::Memory,
    rejection::{Fault, Rejection, cut},
};
use crate::{Attempt, Executed, ItemState};
use batchwright_core::{
    Chat, Ending, Error, ErrorKind, FinishReason, Message, Part, Payload, Request, Response,
    ResponseFormat, Result,
};
use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::HashSet,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// A schema, compiled once, and how answers are held to it.
pub(crate) struct Contract {
    validator: Validator,
    /// Names the schema knows, which may be shown; other names are the model's.
    names: HashSet<String>,
    /// Set where the request wants text.
    pub(crate) format: ResponseFormat,
    /// Bytes of a rejected answer shown to the model; 0 is no feedback.
    pub(crate) feedback: usize,
    memory: Memory,
}

/// What the model is told with the next attempt.
#[derive(Default)]
struct Told(Option<(String, String)>);

/// Shown of a schema's own words in an error.
const MOST_SHOWN: usize = 120;

impl Contract {
    /// `sent` is the form of the schema the vendor is given.
    pub(crate) fn new(schema: &Value, name: &str, sent: Value) -> Result<Self> {
        let validator = jsonschema::options().build(schema).map_err(|error| {
            let what = cut(&error.to_string(), MOST_SHOWN);
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("compile the JSON schema: {what}"),
            )
        })?;
        let mut names = HashSet::new();
        collect_names(schema, &mut names);
        let name: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
            .take(64)
            .collect();
        Ok(Self {
            validator,
            names,
            format: ResponseFormat::JsonSchema {
                name: if name.is_empty() {
                    "answer".to_owned()
                } else {
                    name
                },
                schema: sent,
                strict: false,
            },
            feedback: 8 * 1024,
            memory: Memory::new(),
        })
    }

    pub(crate) fn set_strict(&mut self, is_strict: bool) {
        if let ResponseFormat::JsonSchema { strict, .. } = &mut self.format {
            *strict = is_strict;
        }
    }

    /// The request as it goes out: with the form of the answer, and with what was wrong the last time.
    pub(crate) fn ask<'r>(
        &self,
        request: &'r Request,
        state: &ItemState,
    ) -> Result<Cow<'r, Request>> {
        let chat = match &request.payload {
            Payload::Chat(chat) => chat,
            // Whoever wrote the body wrote the form of its answer, and nothing can be added to it.
            Payload::Raw(_) => return Ok(Cow::Borrowed(request)),
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "ask for JSON: only conversations have such answers",
                ));
            }
        };
        let format = (chat.response_format == ResponseFormat::Text
            && self.format != ResponseFormat::Text)
            .then_some(&self.format);
        let told = self
            .memory
            .of::<Told>(state)
            .and_then(|told| told.0.as_ref());
        if format.is_none() && told.is_none() {
            return Ok(Cow::Borrowed(request));
        }
        let mut request = request.clone();
        if let Payload::Chat(chat) = &mut request.payload {
            if let Some(format) = format {
                chat.response_format = format.clone();
            }
            if let Some((answer, feedback)) = told {
                tell(chat, answer, feedback);
            }
        }
        Ok(Cow::Owned(request))
    }

    /// What the attempt comes to. `accept` is given the answer's JSON, as text and as a value that fits the schema.
    pub(crate) fn judge<U>(
        &self,
        executed: Executed,
        attempt: &mut Attempt<'_>,
        accept: impl FnOnce(Response, &str, &Value) -> Result<U, Fault>,
    ) -> Result<Executed<U>> {
        let ending = match executed.ending {
            Ending::Succeeded(response) => {
                let text = response.text();
                let verdict = self.read(&response, &text).and_then(|(json, value)| {
                    let accepted =
                        catch_unwind(AssertUnwindSafe(|| accept(response, &json, &value)));
                    match accepted {
                        Ok(Ok(output)) => Ok(output),
                        Ok(Err(fault)) => Err(Refused::from(vec![fault])),
                        // Its message may hold the answer, and it would panic again.
                        Err(_panic) => Err(Refused {
                            is_final: true,
                            ..Refused::from(vec![Fault::whole("the check of it panicked")])
                        }),
                    }
                });
                match verdict {
                    Ok(output) => Ending::Succeeded(output),
                    Err(refused) => {
                        let rejection =
                            Rejection::new(&text, self.feedback, refused.faults, refused.passed);
                        if self.feedback > 0 {
                            let told = (rejection.answer().to_owned(), rejection.feedback());
                            *self.memory.of_mut(attempt.state) = Told(Some(told));
                        }
                        let mut error = Error::new(
                            ErrorKind::InvalidOutput,
                            format!("use the answer: {rejection}"),
                        )
                        .with_usage(executed.usage)
                        .with_source(rejection);
                        if let Some(rate_limit) = executed.rate_limit {
                            error = error.with_rate_limit(rate_limit);
                        }
                        if let Some(model) = executed.model {
                            error = error.with_model(model);
                        }
                        if refused.is_final {
                            error = error.with_should_retry(false);
                        }
                        return Err(error);
                    }
                }
            }
            Ending::Refused(response) => Ending::Refused(response),
            Ending::Failed(error) => Ending::Failed(error),
            Ending::Unreadable(error) => Ending::Unreadable(error),
            Ending::Expired => Ending::Expired,
            Ending::Cancelled => Ending::Cancelled,
            Ending::Missing => Ending::Missing,
        };
        let mut judged = Executed::ended(ending).with_usage(executed.usage);
        judged.model = executed.model;
        judged.rate_limit = executed.rate_limit;
        judged.cached = executed.cached;
        Ok(judged)
    }

    fn read(&self, response: &Response, text: &str) -> Result<(String, Value), Refused> {
        let whole = |why: &str| Refused::from(vec![Fault::whole(why)]);
        if response.is_truncated() {
            return Err(whole(
                "it was cut off at the token limit; it must be shorter",
            ));
        }
        let is_call = response.finish_reason == Some(FinishReason::ToolCalls)
            || response
                .content
                .iter()
                .any(|part| matches!(part, Part::ToolCall(_)));
        if is_call && text.trim().is_empty() {
            return Err(whole("it asks for a tool and says nothing"));
        }
        let values = match json_text::find(text) {
            Found::Values(values) => values,
            Found::Nothing(why) => return Err(whole(&why)),
        };
        let (mut fitting, others): (Vec<_>, Vec<_>) = values
            .into_iter()
            .partition(|(_, value)| self.validator.is_valid(value));
        // The same value twice is no contradiction.
        fitting.dedup_by(|one, other| one.1 == other.1);
        match fitting.len() {
            1 => {
                let (place, value) = fitting.remove(0);
                Ok((text[place].to_owned(), value))
            }
            0 => Err(others
                .iter()
                .map(|(_, value)| self.refused(value))
                .min_by_key(|refused| refused.faults.len())
                .unwrap_or_else(|| whole("it holds no whole JSON value"))),
            several => Err(whole(&format!(
                "it holds {several} values that fit, and one was asked for"
            ))),
        }
    }

    fn refused(&self, value: &Value) -> Refused {
        let faults: Vec<Fault> = self
            .validator
            .iter_errors(value)
            .take(64)
            .map(|error| self.fault(value, &error))
            .collect();
        let mut passed = Vec::new();
        if let Value::Object(fields) = value {
            let is_wrong = |name: &str| {
                faults.iter().any(|fault| {
                    let top = fault.path().split('/').nth(1);
                    top.is_some_and(|step| unescape(step) == name)
                })
            };
            let known = fields
                .keys()
                .filter(|name| self.names.contains(*name) && !is_wrong(name));
            passed.extend(known.cloned());
        }
        Refused {
            faults,
            passed,
            is_final: false,
        }
    }

    fn fault(&self, value: &Value, error: &ValidationError<'_>) -> Fault {
        let path = error.instance_path().as_str().to_owned();
        let mut shown_path = self.shown_path(value, &path);
        let (shown, detail) = reason(error);
        let mut path = path;
        if let ValidationErrorKind::Required { property } = error.kind()
            && let Some(name) = property.as_str()
        {
            path = format!("{path}/{name}");
            shown_path = format!("{shown_path}/{name}");
        }
        Fault::new(path, shown_path, shown, detail)
    }

    /// The path, with names the schema does not know as `*`.
    fn shown_path(&self, value: &Value, path: &str) -> String {
        let mut at = Some(value);
        let mut shown = String::new();
        for step in path.split('/').skip(1) {
            let name = unescape(step);
            let is_index = at.is_some_and(Value::is_array);
            shown.push('/');
            shown.push_str(if is_index || self.names.contains(&*name) {
                step
            } else {
                "*"
            });
            at = match at {
                Some(Value::Array(items)) => name.parse().ok().and_then(|i: usize| items.get(i)),
                Some(Value::Object(fields)) => fields.get(&*name),
                _ => None,
            };
        }
        shown
    }
}

/// Why an answer is not used.
struct Refused {
    faults: Vec<Fault>,
    passed: Vec<String>,
    /// Another answer would end the same way.
    is_final: bool,
}

impl From<Vec<Fault>> for Refused {
    fn from(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            passed: Vec::new(),
            is_final: false,
        }
    }
}

/// Adds the rejected answer and what is wrong with it to the conversation.
fn tell(chat: &mut Chat, answer: &str, feedback: &str) {
    // Vendors refuse a turn without content.
    if !answer.trim().is_empty() {
        chat.messages.push(Message::assistant(answer));
    }
    chat.messages.push(Message::user(feedback));
}

/// What is wrong, in words of the schema alone; and, where it says more, with words of the answer.
fn reason(error: &ValidationError<'_>) -> (String, Option<String>) {
    use ValidationErrorKind as Kind;
    let shown = match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let count = unexpected.len();
            let shown = format!("has {count} more properties than the schema knows");
            let detail = format!(
                "has properties the schema does not know: {}",
                unexpected.join(", ")
            );
            return (shown, Some(detail));
        }
        Kind::PropertyNames { error } => {
            let shown = "has a property whose name is not allowed".to_owned();
            return (shown, Some(error.to_string()));
        }
        Kind::Required { .. } => "is required and missing".to_owned(),
        Kind::Type {
            kind: TypeKind::Single(kind),
        } => format!("must be of type {kind}"),
        Kind::Type {
            kind: TypeKind::Multiple(kinds),
        } => {
            let kinds: Vec<String> = kinds.iter().map(|kind| kind.to_string()).collect();
            format!("must be of type {}", kinds.join(" or "))
        }
        Kind::Enum { options } => format!("must be one of {options}"),
        Kind::Constant { expected_value } => format!("must be {expected_value}"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be above {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("must be below {limit}"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::AdditionalItems { limit } => format!("must have at most {limit} items"),
        Kind::MinProperties { limit } => format!("must have at least {limit} properties"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} properties"),
        Kind::UniqueItems => "must not hold an item twice".to_owned(),
        Kind::Pattern { pattern } => format!("must match {pattern}"),
        Kind::Format { format } => format!("must be of the format {format}"),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => {
            "fits none of the forms the schema allows".to_owned()
        }
        Kind::OneOfMultipleValid { .. } => "fits more than one of the schema's forms".to_owned(),
        Kind::FalseSchema => "is not allowed".to_owned(),
        other => format!("breaks the schema's rule {}", other.keyword()),
    };
    let short = cut(&shown, MOST_SHOWN);
    let detail = (short != shown).then_some(shown);
    (short, detail)
}

/// A step of a JSON pointer as the name it stands for.
fn unescape(step: &str) -> Cow<'_, str> {
    if step.contains('~') {
        Cow::Owned(step.replace("~1", "/").replace("~0", "~"))
    } else {
        Cow::Borrowed(step)
    }
}

/// The names of properties in a schema.
fn collect_names(schema: &Value, names: &mut HashSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (keyword, value) in fields {
                match (keyword.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        names.extend(properties.keys().cloned());
                    }
                    ("required", Value::Array(required)) => {
                        let required = required.iter().filter_map(Value::as_str);
                        names.extend(required.map(str::to_owned));
                    }
                    _ => {}
                }
                collect_names(value, names);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_names(item, names)),
        _ => {}
    }
}

impl fmt::Debug for Contract {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contract")
            .field("names", &self.names.len())
            .field("feedback", &self.feedback)
            .finish_non_exhaustive()
    }
}
