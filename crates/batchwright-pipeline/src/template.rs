//! A prompt with places for a row's columns.

use crate::{
    row::{Row, WHOLE_ROW},
    source::{shown, shown_list},
};
use batchwright_core::{Error, ErrorKind, Result};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// A prompt with places for a row's columns, such as `Classify: {{ review }}`.
///
/// The language is Jinja's, as `minijinja` speaks it. Every column is a variable of its name; `row` is the
/// whole row, for names that are no identifiers (`{{ row["Full Name"] }}`) and columns that may be absent
/// (`{% if row.note is defined %}`). A name that stands for nothing is an error, never an empty text.
/// Nothing is escaped, the last line end is kept, no file is read, and a rendering ends after
/// [`Template::MAX_STEPS`] steps.
///
/// Cloning is cheap. Its `Debug` shows the name and size, never the text.
#[derive(Clone)]
pub struct Template {
    name: Arc<str>,
    environment: Arc<Environment<'static>>,
    columns: Arc<BTreeSet<String>>,
    bytes: usize,
}

impl Template {
    /// Instructions one rendering may take: enough for a loop over some 100,000 values, and far less than a
    /// second.
    pub const MAX_STEPS: u64 = 1_000_000;

    /// Compiles `text`; `name` is what errors call it, such as `--prompt` or a file's name.
    ///
    /// # Errors
    /// `ConfigInvalid` with line and column where the text is no template.
    pub fn compile(name: impl Into<Arc<str>>, text: impl Into<String>) -> Result<Self> {
        let (name, text) = (name.into(), text.into());
        let bytes = text.len();
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_fuel(Some(Self::MAX_STEPS));
        // Debug information is what gives errors their column.
        environment.set_debug(true);
        environment.set_syntax(
            SyntaxConfig::builder()
                .keep_trailing_newline(true)
                .build()
                .map_err(|_| Error::new(ErrorKind::Unexpected, "set up the template engine"))?,
        );
        environment
            .add_template_owned(MAIN, text.clone())
            .map_err(|error| {
                let place = place_of(&error, &text);
                // What is told of a syntax error is about the template alone.
                let what = error.detail().unwrap_or("this is no template").to_owned();
                Error::new(
                    ErrorKind::ConfigInvalid,
                    format!("compile the template {name}{place}: {what}"),
                )
            })?;
        let globals: BTreeSet<String> = environment
            .globals()
            .map(|(name, _)| name.to_owned())
            .collect();
        let columns = environment
            .get_template(MAIN)
            .map_err(|_| Error::new(ErrorKind::Unexpected, "find the template just compiled"))?
            .undeclared_variables(false)
            .into_iter()
            .filter(|column| column != WHOLE_ROW && !globals.contains(column))
            .collect();
        Ok(Self {
            name,
            environment: Arc::new(environment),
            columns: Arc::new(columns),
            bytes,
        })
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The columns it names as variables, in alphabetical order. Those reached through `row` are not
    /// among them.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(String::as_str)
    }

    /// Checks its columns against a header, so that a misspelt one is found before the first row.
    ///
    /// # Errors
    /// `ConfigInvalid` with the column's line and column in the template and the columns there are.
    pub fn check_columns(&self, header: &[String]) -> Result<()> {
        let Some(unknown) = self
            .columns()
            .find(|column| !header.iter().any(|name| name == column))
        else {
            return Ok(());
        };
        let text = self.text();
        let place = find_name(&text, unknown)
            .map(|at| place_in(&text, at))
            .unwrap_or_default();
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!(
                "use the template {}{place}: the input has no column {}; it has {}",
                self.name,
                shown(unknown),
                shown_list(header.iter().map(String::as_str)),
            ),
        ))
    }

    /// The text for one row.
    ///
    /// # Errors
    /// `InvalidRequest` naming the row's line and the place in the template, where the row lacks a column or
    /// holds what the template cannot use; `ConfigInvalid` where the template is wrong for every row, such as
    /// an unknown filter.
    pub fn render(&self, row: &Row) -> Result<String> {
        self.environment
            .get_template(MAIN)
            .and_then(|template| template.render(row.template_context()))
            .map_err(|error| self.explain(&error, row))
    }

    /// Errors of the engine may quote the row, so only their kind, place and what stands there is told.
    fn explain(&self, error: &minijinja::Error, row: &Row) -> Error {
        use minijinja::ErrorKind as Kind;
        let text = self.text();
        let place = place_of(error, &text);
        let at = error
            .range()
            .and_then(|range| text.get(range))
            .map(|code| format!(" in {}", shown(code)))
            .unwrap_or_default();
        let (kind, what) = match error.kind() {
            Kind::UndefinedError => (
                ErrorKind::InvalidRequest,
                format!(
                    "a name stands for nothing{at}; the row has the columns {}",
                    shown_list(row.columns())
                ),
            ),
            Kind::OutOfFuel => (
                ErrorKind::InvalidRequest,
                format!(
                    "the rendering took more than {} steps; shorten its loops",
                    Self::MAX_STEPS
                ),
            ),
            kind @ (Kind::UnknownFilter
            | Kind::UnknownFunction
            | Kind::UnknownTest
            | Kind::TemplateNotFound
            | Kind::UnknownBlock) => (ErrorKind::ConfigInvalid, format!("{kind}{at}")),
            kind => (ErrorKind::InvalidRequest, format!("{kind}{at}")),
        };
        Error::new(
            kind,
            format!(
                "render the template {}{place} for the row of line {}: {what}",
                self.name,
                row.line()
            ),
        )
    }

    fn text(&self) -> String {
        self.environment
            .get_template(MAIN)
            .map(|template| template.source().to_owned())
            .unwrap_or_default()
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({}, {} bytes)", self.name, self.bytes)
    }
}

/// What the engine calls the template; no ending, so that nothing follows from it.
const MAIN: &str = "template";

/// `, line 2, column 7`, as far as the engine knows it.
fn place_of(error: &minijinja::Error, text: &str) -> String {
    match (error.range(), error.line()) {
        (Some(range), _) if range.start <= text.len() => place_in(text, range.start),
        (_, Some(line)) => format!(", line {line}"),
        _ => String::new(),
    }
}

/// The line and column of a byte, both counted from 1, columns in characters.
fn place_in(text: &str, at: usize) -> String {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
    format!(", line {line}, column {column}")
}

/// Where a variable first stands inside a tag.
fn find_name(text: &str, name: &str) -> Option<usize> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).map(|(at, _)| at).find(|&at| {
        let before = &text[..at];
        let after = &text[at + name.len()..];
        let opened = before.rfind("{{").max(before.rfind("{%"));
        let closed = before.rfind("}}").max(before.rfind("%}"));
        opened.is_some()
            && opened > closed
            && !before.ends_with(|c| is_word(c) || c == '.')
            && !after.starts_with(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, SourceOptions};

    fn rows(text: &'static str) -> Vec<Row> {
        Source::from_reader(text.as_bytes(), "test", &SourceOptions::default())
            .unwrap()
            .map(Result::unwrap)
            .collect()
    }

    fn render(template: &str, input: &'static str) -> Result<String> {
        Template::compile("--prompt", template)?.render(&rows(input)[0])
    }

    #[test]
    fn columns_stand_as_they_are_and_the_last_line_end_is_kept() {
        for (template, input, wanted) in [
            (
                "<{{ a }}>\n",
                "a\n\"x & <b>, \"\"é\"\"\"\n",
                "<x & <b>, \"é\">\n",
            ),
            ("{{ row['Full Name'] }}", "Full Name\nAda\n", "Ada"),
            ("{% if row.note is defined %}!{% endif %}-", "a\n1\n", "-"),
            (
                "{{ a + 1 }}|{{ b[1].c }}",
                "{\"a\":1,\"b\":[0,{\"c\":\"x\"}]}",
                "2|x",
            ),
            (
                "{{ a }}",
                "{\"a\":12345678901234567890123}",
                "12345678901234567890123",
            ),
            (
                "{{ a }}",
                "{\"a\":18446744073709551615}",
                "18446744073709551615",
            ),
            (
                "{% for t in tags %}{{ t }};{% endfor %}",
                "{\"tags\":[\"x\",\"y\"]}",
                "x;y;",
            ),
            (
                "{% for name in row %}{{ name }};{% endfor %}",
                "b,a\n1,2\n",
                "b;a;",
            ),
            ("{{ row }}", "row\nmine\n", "mine"),
            ("{{ a|tojson }}", "{\"a\":{\"b\":1}}", "{\"b\": 1}"),
        ] {
            assert_eq!(render(template, input).unwrap(), wanted, "{template}");
        }
    }

    #[test]
    fn an_unknown_column_is_found_before_the_first_row() {
        let template = Template::compile(
            "p.txt",
            "revew is a word\n{% set x = 1 %}{{ range(x) }}{{ review.revew }} {{ revew }}{{ row.other }}",
        )
        .unwrap();
        assert_eq!(template.columns().collect::<Vec<_>>(), ["revew", "review"]);
        let header = ["id".to_owned(), "review".to_owned()];
        let error = template.check_columns(&header).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert_eq!(
            error.message(),
            "use the template p.txt, line 2, column 52: the input has no column \"revew\"; it has \"id\", \
             \"review\""
        );
    }

    #[test]
    fn errors_name_both_places_and_never_show_the_row() {
        for (template, input, kind, part) in [
            (
                "{{ x }}",
                "a\nCANARY\n",
                ErrorKind::InvalidRequest,
                "columns \"a\"",
            ),
            (
                "\n {{ row['x'] }}",
                "a\n\nCANARY\n",
                ErrorKind::InvalidRequest,
                "line 2, column 5 for the row of line 3",
            ),
            (
                "{{ a|nope }}",
                "a\nCANARY\n",
                ErrorKind::ConfigInvalid,
                "unknown filter",
            ),
            (
                "{{ a|int }}",
                "a\nCANARY\n",
                ErrorKind::InvalidRequest,
                "invalid operation",
            ),
            (
                "{{ a + 1 }}",
                "a\nCANARY\n",
                ErrorKind::InvalidRequest,
                "invalid operation",
            ),
            (
                "{% include a %}",
                "a\nCANARY\n",
                ErrorKind::ConfigInvalid,
                "not found",
            ),
            (
                "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
                "a\nCANARY\n",
                ErrorKind::InvalidRequest,
                "steps",
            ),
            ("{{ a", "a\nCANARY\n", ErrorKind::ConfigInvalid, "line 1"),
            (
                "x\n{% if %}",
                "a\nCANARY\n",
                ErrorKind::ConfigInvalid,
                "line 2, column",
            ),
        ] {
            let error = render(template, input).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.message().contains(part), "{error}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("CANARY"), "{shown}");
        }
    }

    #[test]
    fn nesting_beyond_the_parser_fails_the_row_alone() {
        let deep = format!(
            "{{\"a\":{}1{},\"b\":\"ok\"}}",
            "[".repeat(200),
            "]".repeat(200)
        );
        let options = SourceOptions::default();
        let mut source = Source::from_reader(std::io::Cursor::new(deep), "t", &options).unwrap();
        let row = source.next().unwrap().unwrap();
        assert_eq!(
            Template::compile("p", "{{ b }}")
                .unwrap()
                .render(&row)
                .unwrap(),
            "ok"
        );
        let error = Template::compile("p", "{{ a }}")
            .unwrap()
            .render(&row)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    }
}
