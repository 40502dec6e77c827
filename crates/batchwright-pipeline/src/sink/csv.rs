//! Results as CSV.

use super::SinkOptions;
use crate::row::Row;
use batchwright_core::Money;
use batchwright_ledger::OutcomeRecord;
use std::{
    borrow::Cow,
    io::{self, Write},
};

/// Writes the input's columns as they were, and the outcome's beside them.
pub(super) struct CsvEncoder<W: Write> {
    writer: csv::Writer<W>,
    columns: Vec<String>,
    /// How many columns come from the input; `None` where `custom_id` stands in their place.
    input_columns: Option<usize>,
    guard_formulas: bool,
}

/// The outcome's columns, in this order.
const OUTCOME_COLUMNS: [&str; 12] = [
    "status",
    "output",
    "finish_reason",
    "input_tokens",
    "output_tokens",
    "cost_usd",
    "provider",
    "model",
    "lane",
    "batch",
    "attempts",
    "error",
];

impl<W: Write> CsvEncoder<W> {
    pub(super) fn new(writer: W, delimiter: u8, options: &SinkOptions) -> io::Result<Self> {
        let mut columns = match &options.columns {
            Some(columns) => columns.clone(),
            None => vec!["custom_id".to_owned()],
        };
        for column in OUTCOME_COLUMNS {
            let mut name = column.to_owned();
            while columns.contains(&name) {
                name.insert_str(0, "result_");
            }
            columns.push(name);
        }
        let mut writer = csv::WriterBuilder::new()
            .delimiter(delimiter)
            .buffer_capacity(super::BUFFER_BYTES)
            .from_writer(writer);
        writer.write_record(&columns).map_err(into_io)?;
        Ok(Self {
            writer,
            columns,
            input_columns: options.columns.as_ref().map(Vec::len),
            guard_formulas: options.guard_formulas,
        })
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn write(
        &mut self,
        row: Option<&Row>,
        record: &OutcomeRecord<'_>,
    ) -> io::Result<()> {
        match self.input_columns {
            None => self.field(&record.custom_id)?,
            Some(wanted) => {
                let odd = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
                let row = row.ok_or_else(|| odd("the row of the outcome was not given"))?;
                let names = &self.columns[..wanted];
                if !row.columns().eq(names.iter().map(String::as_str)) {
                    return Err(odd("the row has other columns than the file"));
                }
                let fields = row
                    .fields()
                    .ok_or_else(|| odd("the row is not of a CSV file"))?;
                for field in fields {
                    self.writer.write_field(field).map_err(into_io)?;
                }
            }
        }
        let usage = record.usage.unwrap_or_default();
        let provenance = &record.provenance;
        let output = record.output.map(|json| match record.text() {
            Some(text) => text,
            None => compact(json.get()),
        });
        self.field(&record.status)?;
        self.guarded(output.as_deref())?;
        self.guarded(record.finish_reason.as_deref())?;
        self.field(&number(usage.input_tokens))?;
        self.field(&number(usage.output_tokens))?;
        self.field(&record.cost.map(dollars).unwrap_or_default())?;
        self.guarded(provenance.provider.as_deref())?;
        self.guarded(provenance.model.as_deref())?;
        self.guarded(provenance.lane.as_deref())?;
        self.guarded(provenance.batch.as_deref())?;
        self.field(&provenance.attempts.to_string())?;
        let error = record.error.as_ref().map(|error| {
            let code = error.code.as_ref().map(|code| format!(" (code {code})"));
            format!(
                "{}: {}{}",
                error.kind,
                error.message,
                code.unwrap_or_default()
            )
        });
        self.guarded(error.as_deref())?;
        self.writer.write_record(None::<&[u8]>).map_err(into_io)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    pub(super) fn finish(self) -> io::Result<W> {
        self.writer
            .into_inner()
            .map_err(|error| io::Error::new(error.error().kind(), error.error().to_string()))
    }

    fn field(&mut self, text: &str) -> io::Result<()> {
        self.writer.write_field(text).map_err(into_io)
    }

    /// A text from outside; nothing where there is none.
    fn guarded(&mut self, text: Option<&str>) -> io::Result<()> {
        let text = text.unwrap_or_default();
        let text = if self.guard_formulas {
            guard(text)
        } else {
            Cow::Borrowed(text)
        };
        self.field(&text)
    }
}

/// The text with a `'` before it where a spreadsheet would take it for a formula (OWASP, "CSV Injection": the
/// first character counts, and the wide forms of it too). A plain number is none.
fn guard(text: &str) -> Cow<'_, str> {
    let is_formula = text
        .starts_with(['=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠'])
        && !is_number(text);
    if is_formula {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether it is a number as programs write it: a sign, digits, and perhaps a fraction and an exponent.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.ends_with(|c: char| c.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
        && text.parse::<f64>().is_ok()
}

/// JSON without white space between its values; strings and numbers stay as they are written.
fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        text.push(character);
    }
    text
}

fn number(number: Option<u64>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// Dollars without an exponent, every digit of them.
fn dollars(money: Money) -> String {
    const DOLLAR: u64 = 1_000_000_000_000;
    let picodollars = money.as_picodollars();
    let text = format!("{}.{:012}", picodollars / DOLLAR, picodollars % DOLLAR);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn into_io(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        _ => io::Error::new(
            io::ErrorKind::InvalidInput,
            "the row has other columns than the file",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_190_formulas_are_guarded_and_numbers_are_not() {
        for text in [
            "=1+1",
            "+cmd|' /C calc'!A0",
            "-2+3",
            "@SUM(1)",
            "\t=1",
            "\r=1",
            "\n=1",
            "＝1",
            "-",
            "- a list",
            "-5e",
            "--5",
            "-5-5",
            "-inf",
            "-.5",
            "+1 555 0100",
        ] {
            assert_eq!(guard(text), format!("'{text}"));
        }
        for text in [
            "-5",
            "+5",
            "-0.25",
            "-1e-9",
            "5",
            "",
            "a=b",
            "'=1",
            "{\"a\":\"=1\"}",
            "é",
        ] {
            assert_eq!(guard(text), text);
        }
    }

    #[test]
    fn json_is_compacted_outside_strings_alone() {
        assert_eq!(
            compact("{ \"a b\" : [ 1.50 ,\n 1e400 ], \"c\\\" \\\\\" : \" \" }"),
            "{\"a b\":[1.50,1e400],\"c\\\" \\\\\":\" \"}"
        );
    }

    #[test]
    fn money_keeps_every_digit() {
        for (picodollars, text) in [
            (0, "0"),
            (1, "0.000000000001"),
            (135_000_000, "0.000135"),
            (10_000_000_000_000, "10"),
        ] {
            assert_eq!(dollars(Money::from_picodollars(picodollars)), text);
        }
    }
}
