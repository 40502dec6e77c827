//! From a row to a request.

use crate::{
    row::Row,
    source::{shown, shown_list},
    template::Template,
};
use batchwright_core::{
    Chat, Error, ErrorKind, Message, ModelSpec, Payload, Request, ResponseFormat, Result, Sampling,
};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

/// Makes a request of each row.
///
/// With a prompt, rows are data: the prompt is rendered for each. Without one, every row must already be a
/// request, and is sent as it stands:
///
/// - a line of an OpenAI batch file: `custom_id`, `method` (`POST`), `url` and `body`; the body's bytes are
///   sent untouched;
/// - a chat body: an object with `messages`, sent to `/v1/chat/completions` with everything else it holds,
///   except the column its id is taken from.
///
/// A model set here is added to such a body where it names none. Where both name one they must agree.
#[derive(Clone, Debug, Default)]
pub struct RequestBuilder {
    model: Option<String>,
    system: Option<Template>,
    prompt: Option<Template>,
    schema: Option<(String, Value)>,
    sampling: Sampling,
    extra: Map<String, Value>,
    id_column: Option<String>,
    model_column: Option<String>,
}

/// Where a chat body of a row goes.
const CHAT_ENDPOINT: &str = "/v1/chat/completions";
/// Columns an id is looked for in, in this order, unless one is named.
const ID_COLUMNS: [&str; 2] = ["custom_id", "id"];
/// What a line of a batch file may hold.
const BATCH_LINE_KEYS: [&str; 4] = ["custom_id", "method", "url", "body"];

impl RequestBuilder {
    /// A builder with nothing set, which takes rows that already are requests and name their models.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the model's name as the provider spells it. Required with a prompt.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// Sets the instructions above each conversation. Needs a prompt.
    #[must_use]
    pub fn with_system(mut self, system: Template) -> Self {
        self.system = Some(system);
        self
    }

    /// Sets what is asked of each row.
    #[must_use]
    pub fn with_prompt(mut self, prompt: Template) -> Self {
        self.prompt = Some(prompt);
        self
    }

    /// Has every answer obey a JSON schema, which vendors call by a `name` of 1 to 64 of `A-Z a-z 0-9 _ -`;
    /// they are asked to hold the model to it. Needs a prompt.
    #[must_use]
    pub fn with_schema(mut self, name: impl Into<String>, schema: Value) -> Self {
        self.schema = Some((name.into(), schema));
        self
    }

    /// Sets how the model samples. Needs a prompt.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Adds vendor fields to every body, passed through untouched. Needs a prompt.
    #[must_use]
    pub fn with_extra(mut self, extra: Map<String, Value>) -> Self {
        self.extra = extra;
        self
    }

    /// Takes each request's `custom_id` from this column. Without it that is the column `custom_id`, or else
    /// `id`; where a row has none, or nothing in it, its id is `row-` and its number counted from 1.
    #[must_use]
    pub fn with_id_column(mut self, column: impl Into<String>) -> Self {
        self.id_column = Some(column.into());
        self
    }

    /// Takes each request's provider and model, as `provider:model`, from this column; where a row has nothing in it,
    /// those of the job hold.
    #[must_use]
    pub fn with_model_column(mut self, column: impl Into<String>) -> Self {
        self.model_column = Some(column.into());
        self
    }

    /// Checks the settings against each other, and against the header where the input has one, so that what
    /// is wrong for every row is found before the first.
    ///
    /// # Errors
    /// `ConfigInvalid` where a setting is missing, cannot be honoured, or names a column the header lacks.
    pub fn check(&self, header: Option<&[String]>) -> Result<()> {
        let refuse = |message: String| Err(Error::new(ErrorKind::ConfigInvalid, message));
        if self.prompt.is_some() {
            if self.model.as_deref().unwrap_or("").is_empty() && self.model_column.is_none() {
                return refuse("make requests: a prompt needs a model; name one".into());
            }
        } else {
            if header.is_some() {
                return refuse(
                    "make requests: rows of a CSV file are data, so a prompt is needed; set one, such as \
                     `Classify: {{ text }}`"
                        .into(),
                );
            }
            let settings = [
                ("a system prompt", self.system.is_some()),
                ("a schema", self.schema.is_some()),
                ("sampling parameters", self.sampling != Sampling::default()),
                ("extra fields", !self.extra.is_empty()),
            ];
            if let Some((setting, _)) = settings.iter().find(|(_, is_set)| *is_set) {
                return refuse(format!(
                    "make requests: {setting} cannot be added to rows that already are requests; set a \
                     prompt, or write it into the rows"
                ));
            }
        }
        if let Some((name, schema)) = &self.schema {
            let is_name = (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            if !is_name || !schema.is_object() {
                return refuse(
                    "make requests: a schema must be a JSON object with a name of 1 to 64 of A-Z, a-z, 0-9, \
                     _ and -"
                        .into(),
                );
            }
        }
        if let Some(header) = header {
            for template in [&self.system, &self.prompt].into_iter().flatten() {
                template.check_columns(header)?;
            }
            for (column, what) in [(&self.id_column, "ids"), (&self.model_column, "models")] {
                if let Some(column) = column
                    && !header.contains(column)
                {
                    return refuse(format!(
                        "make requests: the input has no column {} to take {what} from; it has {}",
                        shown(column),
                        shown_list(header.iter().map(String::as_str)),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether rows may bring their own ids, so that two of them may be equal. With a header this is known
    /// beforehand, and where it is false no two rows can have the same one.
    pub fn takes_ids(&self, header: Option<&[String]>) -> bool {
        let Some(header) = header else {
            return true;
        };
        match &self.id_column {
            Some(column) => header.contains(column),
            None => header
                .iter()
                .any(|name| ID_COLUMNS.contains(&name.as_str())),
        }
    }

    /// The request of one row.
    ///
    /// # Errors
    /// `InvalidRequest` naming the row's line where the row cannot be used; `ConfigInvalid` where the settings
    /// are wrong for every row, as [`RequestBuilder::check`] tells beforehand.
    pub fn build(&self, row: &Row) -> Result<Request> {
        let Some(prompt) = &self.prompt else {
            self.check(None)?;
            return self.build_ready(row);
        };
        let mut messages = Vec::with_capacity(2);
        if let Some(system) = &self.system {
            messages.push(Message::system(system.render(row)?));
        }
        messages.push(Message::user(prompt.render(row)?));
        let mut chat = Chat::new(messages);
        if let Some((name, schema)) = &self.schema {
            chat = chat.with_response_format(ResponseFormat::JsonSchema {
                name: name.clone(),
                schema: schema.clone(),
                strict: true,
            });
        }
        let (custom_id, _) = self.custom_id(row)?;
        let model = self.model.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::ConfigInvalid,
                "make requests: a prompt needs a model; name one",
            )
        })?;
        Ok(Request::new(custom_id, model, Payload::Chat(chat))
            .with_sampling(self.sampling.clone())
            .with_extra(self.extra.clone()))
    }

    /// The request of one row, and whom it is for where the row says so.
    ///
    /// # Errors
    /// As [`RequestBuilder::build`].
    pub fn build_routed(&self, row: &Row) -> Result<(Option<String>, Request)> {
        let named = self
            .model_column
            .as_deref()
            .and_then(|column| row.text(column));
        let Some(named) = named.filter(|named| !named.is_empty()) else {
            return Ok((None, self.build(row)?));
        };
        let named: ModelSpec = named
            .parse()
            .map_err(|error: Error| refuse(row, error.message()))?;
        let request = if self.prompt.is_some() {
            let mut builder = self.clone();
            builder.model = Some(named.model().to_owned());
            builder.build(row)?
        } else {
            let mut builder = self.clone();
            builder.model = None;
            with_other_model(builder.build(row)?, named.model())?
        };
        Ok((Some(named.provider().to_owned()), request))
    }

    /// The id the row's request has, where it can have one.
    pub(crate) fn id_of(&self, row: &Row) -> Option<String> {
        self.custom_id(row).ok().map(|(id, _)| id)
    }

    /// The request a row already is.
    fn build_ready(&self, row: &Row) -> Result<Request> {
        let (custom_id, id_column) = self.custom_id(row)?;
        let (endpoint, body) = if row.raw_json("body").is_some()
            && (row.raw_json("url").is_some() || row.raw_json("method").is_some())
        {
            batch_line(row, id_column)?
        } else if row.raw_json("messages").is_some() {
            (CHAT_ENDPOINT.to_owned(), without(row, id_column))
        } else {
            return Err(refuse(
                row,
                "the row is no request: it has neither `messages` nor `url` and `body`; set a prompt to \
                 make a request of its columns",
            ));
        };
        let body = RawValue::from_string(body)
            .map_err(|_| refuse(row, "the request body is not valid JSON"))?;
        let request = Request::raw(&custom_id, &endpoint, body)
            .map_err(|error| refuse(row, error.message()))?;
        match self.model.as_deref() {
            Some(model) if request.model.is_empty() => {
                let Payload::Raw(raw) = &request.payload else {
                    return Ok(request);
                };
                let body = RawValue::from_string(with_model(raw.body.get(), model))
                    .map_err(|_| refuse(row, "the model's name cannot be written into the body"))?;
                Request::raw(custom_id, endpoint, body).map_err(|error| {
                    // The model stood there as an empty text, and now stands twice.
                    refuse(row, &format!("{}; remove the empty model", error.message()))
                })
            }
            Some(model) if request.model != model => Err(refuse(
                row,
                &format!(
                    "the row names the model {} and the job the model {}; leave one of them out",
                    shown(&request.model),
                    shown(model)
                ),
            )),
            None if request.model.is_empty() => Err(refuse(
                row,
                "the request names no model; write one into the row, or name one for the job",
            )),
            _ => Ok(request),
        }
    }

    /// The row's id, untouched, and the column it stands in.
    fn custom_id<'a>(&'a self, row: &Row) -> Result<(String, Option<&'a str>)> {
        let column = match &self.id_column {
            Some(column) => Some(column.as_str()),
            None => {
                let mut known = ID_COLUMNS.into_iter();
                known.find(|name| row.columns().any(|column| column == *name))
            }
        };
        let made = || format!("row-{}", row.number() + 1);
        let Some(name) = column else {
            return Ok((made(), None));
        };
        // A number keeps every digit it was written with (F-172); whatever else it is has no one spelling.
        if row
            .raw_json(name)
            .is_some_and(|json| json.starts_with(['{', '[', 't', 'f']))
        {
            let what = format!("the id in {} must be a text or a number", shown(name));
            return Err(refuse(row, &what));
        }
        let id = match row.text(name) {
            Some(id) if !id.is_empty() => id.into_owned(),
            _ => made(),
        };
        Ok((id, column))
    }
}

/// The request, for another model.
pub(crate) fn with_other_model(mut request: Request, model: &str) -> Result<Request> {
    if let Payload::Raw(raw) = &request.payload {
        let wrong = |error: serde_json::Error| {
            Error::new(ErrorKind::InvalidRequest, "name another model in the body")
                .with_source(error)
        };
        let mut body: Map<String, Value> = serde_json::from_str(raw.body.get()).map_err(wrong)?;
        body.insert("model".to_owned(), model.into());
        let body = to_raw_value(&body).map_err(wrong)?;
        return Request::raw(request.custom_id, &raw.endpoint, body);
    }
    model.clone_into(&mut request.model);
    Ok(request)
}

fn refuse(row: &Row, what: &str) -> Error {
    let message = format!("make the request of line {}: {what}", row.line());
    Error::new(ErrorKind::InvalidRequest, message)
}

/// Endpoint and body of a line of a batch file.
fn batch_line(row: &Row, id_column: Option<&str>) -> Result<(String, String)> {
    let stray = row
        .columns()
        .find(|key| !BATCH_LINE_KEYS.contains(key) && Some(*key) != id_column);
    if let Some(key) = stray {
        return Err(refuse(
            row,
            &format!(
                "the key {} is not part of a line of a batch file, which has custom_id, method, url and body; \
                 move it into the body or remove it",
                shown(key)
            ),
        ));
    }
    if row.raw_json("method") != Some("\"POST\"") {
        return Err(refuse(row, "the method must be \"POST\""));
    }
    let url = row
        .raw_json("url")
        .filter(|json| json.starts_with('"'))
        .and_then(|_| row.text("url"))
        .filter(|url| url.starts_with('/') && !url.contains(char::is_whitespace));
    let Some(url) = url else {
        return Err(refuse(
            row,
            "the url must be the path of an endpoint, such as \"/v1/chat/completions\"",
        ));
    };
    let body = row.raw_json("body").unwrap_or_default();
    Ok((url.into_owned(), body.to_owned()))
}

/// The row's object without one key; its own bytes where it lacks the key.
fn without(row: &Row, column: Option<&str>) -> String {
    let text = row.json_text().unwrap_or_default();
    if column.is_none_or(|column| row.raw_json(column).is_none()) {
        return text.trim_ascii().to_owned();
    }
    let mut body = String::with_capacity(text.len());
    for (key, value) in row.json_fields().filter(|(key, _)| Some(*key) != column) {
        body.push(if body.is_empty() { '{' } else { ',' });
        if key
            .bytes()
            .all(|byte| byte >= b' ' && !matches!(byte, b'"' | b'\\'))
        {
            body.push('"');
            body.push_str(key);
            body.push('"');
        } else {
            body.push_str(&Value::from(key).to_string());
        }
        body.push(':');
        body.push_str(value);
    }
    body.push('}');
    body
}

/// `body`, which is an object, with the model as its first key and every other byte as it was.
fn with_model(body: &str, model: &str) -> String {
    let rest = body.trim_ascii_start().get(1..).unwrap_or_default();
    let separator = if rest.trim_ascii_start().starts_with('}') {
        ""
    } else {
        ","
    };
    format!("{{\"model\":{}{separator}{rest}", Value::from(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, SourceOptions};
    use proptest::prelude::*;
    use std::io::Cursor;

    fn rows(text: impl Into<String>) -> Vec<Row> {
        let text: String = text.into();
        Source::from_reader(Cursor::new(text), "in", &SourceOptions::default())
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn raw(request: &Request) -> (&str, &str) {
        match &request.payload {
            Payload::Raw(raw) => (&raw.endpoint, raw.body.get()),
            _ => panic!("no raw body"),
        }
    }

    fn prompt() -> RequestBuilder {
        RequestBuilder::new()
            .with_model("m")
            .with_prompt(Template::compile("--prompt", "{{ text }}").unwrap())
    }

    #[test]
    fn a_prompt_makes_a_chat_of_each_row() {
        let builder = prompt()
            .with_system(Template::compile("--system", "In {{ lang }}.").unwrap())
            .with_schema("answer", serde_json::json!({"type": "object"}))
            .with_sampling(Sampling::new().with_temperature(0.0).unwrap());
        let rows = rows("id,lang,text\n7,de,\"a, \"\"b\"\"\"\n,fr,é\n");
        builder
            .check(Some(&["id".into(), "lang".into(), "text".into()]))
            .unwrap();
        let requests: Vec<_> = rows.iter().map(|row| builder.build(row).unwrap()).collect();
        assert_eq!(requests[0].custom_id, "7");
        assert_eq!(requests[1].custom_id, "row-2");
        assert_eq!(requests[0].sampling.temperature(), Some(0.0));
        let Payload::Chat(chat) = &requests[0].payload else {
            panic!("no chat")
        };
        let texts: Vec<_> = chat
            .messages
            .iter()
            .map(|m| m.content[0].as_text())
            .collect();
        assert_eq!(texts, [Some("In de."), Some("a, \"b\"")]);
        assert!(
            matches!(&chat.response_format, ResponseFormat::JsonSchema { name, strict: true, .. } if name == "answer")
        );
    }

    #[test]
    fn a_batch_line_is_taken_byte_for_byte() {
        let body = "{ \"model\":\"gpt\", \"messages\":[] ,\"seed\":12345678901234567890123}";
        let line = format!(
            "{{\"custom_id\":\"a\\u00e9\",\"method\":\"POST\",\"url\":\"/v1/responses\",\"body\":{body}}}"
        );
        for builder in [
            RequestBuilder::new(),
            RequestBuilder::new().with_model("gpt"),
        ] {
            let request = builder.build(&rows(&*line)[0]).unwrap();
            assert_eq!(request.custom_id, "aé");
            assert_eq!(request.model, "gpt");
            assert_eq!(raw(&request), ("/v1/responses", body));
        }
    }

    #[test]
    fn a_chat_body_loses_its_id_and_nothing_else() {
        for (row, id, body) in [
            (
                "{\"custom_id\": 12345678901234567890123, \"messages\": [ 1e0 ],\"model\":\"m\"}",
                "12345678901234567890123",
                "{\"messages\":[ 1e0 ],\"model\":\"m\"}",
            ),
            (
                " { \"messages\": [],  \"model\":\"m\"} ",
                "row-1",
                "{ \"messages\": [],  \"model\":\"m\"}",
            ),
            (
                "{\"id\":null,\"messages\":[],\"model\":\"m\"}",
                "row-1",
                "{\"messages\":[],\"model\":\"m\"}",
            ),
            (
                "{\"id\":1.50,\"messages\":[],\"a\\\"b\":1,\"model\":\"m\"}",
                "1.50",
                "{\"messages\":[],\"a\\\"b\":1,\"model\":\"m\"}",
            ),
        ] {
            let request = RequestBuilder::new().build(&rows(row)[0]).unwrap();
            assert_eq!(request.custom_id, id);
            assert_eq!(raw(&request), (CHAT_ENDPOINT, body));
        }
    }

    #[test]
    fn a_model_is_added_where_the_body_has_none() {
        let builder = RequestBuilder::new().with_model("a\"b");
        let request = builder.build(&rows("{ \"messages\" : [] }")[0]).unwrap();
        assert_eq!(
            raw(&request).1,
            "{\"model\":\"a\\\"b\", \"messages\" : [] }"
        );
        assert_eq!(request.model, "a\"b");
        assert_eq!(with_model(" { } ", "m"), "{\"model\":\"m\" } ");
    }

    #[test]
    fn rows_that_are_no_requests_are_told_by_line() {
        for (row, model, part) in [
            ("{\"text\":\"CANARY\"}", None, "is no request"),
            ("{\"messages\":[]}", None, "names no model"),
            (
                "{\"messages\":[],\"model\":\"x\"}",
                Some("y"),
                "leave one of them out",
            ),
            (
                "{\"messages\":[],\"model\":\"\"}",
                Some("y"),
                "remove the empty model",
            ),
            (
                "{\"messages\":[],\"model\":[\"CANARY\"]}",
                Some("y"),
                "model is a text",
            ),
            (
                "{\"method\":\"GET\",\"url\":\"/v1\",\"body\":{\"model\":\"m\"}}",
                None,
                "must be \"POST\"",
            ),
            (
                "{\"method\":\"POST\",\"url\":\"http://x\",\"body\":{\"model\":\"m\"}}",
                None,
                "the path of an endpoint",
            ),
            (
                "{\"method\":\"POST\",\"body\":{\"model\":\"m\"}}",
                None,
                "the path of an endpoint",
            ),
            (
                "{\"method\":\"POST\",\"url\":\"/v1\",\"body\":\"CANARY\"}",
                None,
                "must be a JSON object",
            ),
            (
                "{\"method\":\"POST\",\"url\":\"/v1\",\"body\":{\"model\":\"m\",\"model\":\"m\"}}",
                None,
                "stands twice",
            ),
            (
                "{\"method\":\"POST\",\"url\":\"/v1\",\"body\":{},\"note\":\"CANARY\"}",
                None,
                "\"note\"",
            ),
            (
                "{\"id\":[\"CANARY\"],\"messages\":[],\"model\":\"m\"}",
                None,
                "a text or a number",
            ),
            (
                "{\"custom_id\":true,\"messages\":[],\"model\":\"m\"}",
                None,
                "a text or a number",
            ),
        ] {
            let mut builder = RequestBuilder::new();
            builder.model = model.map(str::to_owned);
            let error = builder.build(&rows(format!("\n\n{row}"))[0]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{row}");
            assert!(
                error.message().starts_with("make the request of line 3: "),
                "{error}"
            );
            assert!(error.message().contains(part), "{row}: {error}");
            assert!(!error.message().contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn settings_that_cannot_be_honoured_are_refused_before_the_first_row() {
        let header = ["text".to_owned(), "note".to_owned()];
        let template = |text: &str| Template::compile("t", text).unwrap();
        let sampling = Sampling::new().with_seed(1);
        let extra = Map::from_iter([("a".to_owned(), Value::Null)]);
        let schema = serde_json::json!({});
        for (builder, header, part) in [
            (
                RequestBuilder::new(),
                Some(&header[..]),
                "a prompt is needed",
            ),
            (
                RequestBuilder::new().with_system(template("x")),
                None,
                "a system prompt cannot",
            ),
            (
                RequestBuilder::new().with_schema("a", schema.clone()),
                None,
                "a schema cannot",
            ),
            (
                RequestBuilder::new().with_sampling(sampling),
                None,
                "sampling parameters cannot",
            ),
            (
                RequestBuilder::new().with_extra(extra),
                None,
                "extra fields cannot",
            ),
            (
                RequestBuilder::new().with_prompt(template("x")),
                None,
                "needs a model",
            ),
            (
                prompt().with_schema("a b", schema),
                None,
                "a schema must be",
            ),
            (
                prompt().with_schema("a", Value::Null),
                None,
                "a schema must be",
            ),
            (
                prompt().with_id_column("key"),
                Some(&header[..]),
                "no column \"key\"",
            ),
            (
                prompt().with_system(template("{{ x }}")),
                Some(&header[..]),
                "no column \"x\"",
            ),
        ] {
            let error = builder.check(header).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.message().contains(part), "{error}");
        }
        prompt().check(Some(&header)).unwrap();
        assert!(!prompt().takes_ids(Some(&header)));
        assert!(prompt().takes_ids(None));
        assert!(prompt().with_id_column("note").takes_ids(Some(&header)));
    }

    proptest! {
        #[test]
        fn f_172_any_id_in_is_the_same_id_out(id in ".+", number in any::<u64>()) {
            for (json, wanted) in [
                (Value::from(id.as_str()).to_string(), id.clone()),
                (format!("{number}{number}"), format!("{number}{number}")),
                (format!("-{number}.50e3"), format!("-{number}.50e3")),
            ] {
                let row = format!("{{\"custom_id\":{json},\"messages\":[],\"model\":\"m\"}}");
                // A number written 0… is no JSON number.
                if serde_json::from_str::<Value>(&row).is_err() {
                    continue;
                }
                let request = RequestBuilder::new().build(&rows(row)[0]).unwrap();
                prop_assert_eq!(request.custom_id, wanted);
            }
            let mut text = csv::Writer::from_writer(Vec::new());
            text.write_record(["key", "text"]).unwrap();
            text.write_record([id.as_str(), "x"]).unwrap();
            let text = String::from_utf8(text.into_inner().unwrap()).unwrap();
            let request = prompt().with_id_column("key").build(&rows(text)[0]).unwrap();
            prop_assert_eq!(request.custom_id, id);
        }
    }
}
