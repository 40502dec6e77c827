use super::*;
use crate::{Source, SourceFormat, SourceOptions};
use batchwright_core::{Ending, Lane, Money, Outcome, Response, Usage};
use proptest::prelude::*;
use std::{
    fs,
    io::Cursor,
    path::PathBuf,
    sync::{Arc, Mutex},
};

/// A writer whose bytes can be read while it is written to.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer that fails.
struct Failing(io::ErrorKind);

impl Write for Failing {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn succeeded(text: &str) -> Outcome {
    let mut response = Response::from_text(text);
    response.usage = Usage::of(3, 4);
    let mut outcome = Outcome::new("ours", Ending::Succeeded(response));
    outcome.provenance.provider = Some("openai".into());
    outcome.provenance.model = Some("gpt".into());
    outcome.provenance.lane = Some(Lane::Batch);
    outcome.provenance.batch = Some("batch_1".into());
    outcome.provenance.attempts = 1;
    outcome.provenance.cost = Some(Money::from_picodollars(1_500_000));
    outcome
}

fn line(row: u64, custom_id: &str, outcome: &Outcome, json: bool) -> Vec<u8> {
    let mut line = Vec::new();
    OutcomeRecord::write(row, custom_id, outcome, json, &mut line);
    line
}

fn rows(text: impl Into<Vec<u8>>) -> (Option<Vec<String>>, Vec<Row>) {
    let options = SourceOptions::default()
        .with_format(SourceFormat::Csv)
        .with_delimiter(b',');
    let source = Source::from_reader(Cursor::new(text.into()), "in", &options).unwrap();
    let header = source.header().map(<[String]>::to_vec);
    (header, source.map(Result::unwrap).collect())
}

fn records(text: &str) -> Vec<Vec<String>> {
    ::csv::ReaderBuilder::new()
        .has_headers(false)
        .from_reader(text.as_bytes())
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

fn in_folder(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn jsonl_has_a_line_for_each_row_and_is_never_guarded() {
    let shared = Shared::default();
    let mut sink = Sink::to_writer(shared.clone(), "out", &SinkOptions::default()).unwrap();
    for (row, text) in ["=1+1", "{\n \"a\": 1}"].iter().enumerate() {
        let line = line(row as u64, "a\u{301}", &succeeded(text), row == 1);
        sink.write(None, &OutcomeRecord::parse(&line).unwrap())
            .unwrap();
        // A stream shows every row at once.
        assert_eq!(shared.text().lines().count(), row + 1);
    }
    assert_eq!(sink.finish().unwrap(), 2);
    let values: Vec<serde_json::Value> = shared
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for key in [
        "custom_id",
        "status",
        "output",
        "usage",
        "cost",
        "provenance",
        "error",
    ] {
        assert!(values[0].get(key).is_some(), "{key}");
    }
    assert_eq!(values[0]["custom_id"], "a\u{301}");
    assert_eq!(values[0]["output"], "=1+1");
    assert_eq!(values[1]["output"], serde_json::json!({"a": 1}));
}

#[test]
fn csv_repeats_the_input_and_adds_the_outcome() {
    let input = "id,status,\"a \"\"b\"\"\"\n-1,=new,\"x,\ny é\"\n";
    let (header, rows) = rows(input);
    let shared = Shared::default();
    let options = SinkOptions::default()
        .with_format(SinkFormat::Csv)
        .with_columns(header.unwrap());
    let mut sink = Sink::to_writer(shared.clone(), "out", &options).unwrap();
    let answer = line(0, "-1", &succeeded("=HYPERLINK(\"x\")"), false);
    sink.write(Some(&rows[0]), &OutcomeRecord::parse(&answer).unwrap())
        .unwrap();
    let error = Error::new(ErrorKind::RateLimited, "slow down").with_code("429x");
    let failed = line(0, "-1", &Outcome::new("x", Ending::Failed(error)), false);
    sink.write(Some(&rows[0]), &OutcomeRecord::parse(&failed).unwrap())
        .unwrap();
    assert_eq!(sink.columns().unwrap()[3], "result_status");
    sink.finish().unwrap();
    let found = records(&shared.text());
    assert_eq!(
        found[0].join("|"),
        "id|status|a \"b\"|result_status|output|finish_reason|input_tokens|output_tokens|cost_usd|provider|\
         model|lane|batch|attempts|error"
    );
    assert_eq!(
        found[1].join("|"),
        "-1|=new|x,\ny é|succeeded|'=HYPERLINK(\"x\")|stop|3|4|0.0000015|openai|gpt|batch|batch_1|1|"
    );
    assert_eq!(
        found[2].join("|"),
        "-1|=new|x,\ny é|failed||||||||||0|rate_limited: slow down (code 429x)"
    );
}

#[test]
fn csv_of_json_input_has_the_custom_id_and_json_stays_json() {
    let shared = Shared::default();
    let options = SinkOptions::default()
        .with_format(SinkFormat::Tsv)
        .with_guard_formulas(false);
    let mut sink = Sink::to_writer(shared.clone(), "out", &options).unwrap();
    for (text, json) in [
        ("{\n  \"n\": 1.50,  \"t\": \"a b\"\n}", true),
        ("=1", false),
    ] {
        let line = line(0, "@7", &succeeded(text), json);
        sink.write(None, &OutcomeRecord::parse(&line).unwrap())
            .unwrap();
    }
    sink.finish().unwrap();
    let text = shared.text();
    let mut lines = text.lines();
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("custom_id\tstatus\toutput\t")
    );
    assert!(
        lines
            .next()
            .unwrap()
            .starts_with("@7\tsucceeded\t\"{\"\"n\"\":1.50,\"\"t\"\":\"\"a b\"\"}\"\tstop\t")
    );
    assert!(lines.next().unwrap().starts_with("@7\tsucceeded\t=1\t"));
}

#[test]
fn a_csv_of_no_rows_still_has_its_header() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let sink = Sink::create(&path, &SinkOptions::default()).unwrap();
    assert_eq!(sink.finish().unwrap(), 0);
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("custom_id,status,")
    );
}

#[test]
fn f_149_a_file_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.jsonl");
    fs::write(&path, "before").unwrap();
    let line = line(0, "a", &succeeded("x"), false);
    let record = OutcomeRecord::parse(&line).unwrap();

    let mut sink = Sink::create(&path, &SinkOptions::default()).unwrap();
    sink.write(None, &record).unwrap();
    assert_eq!(in_folder(folder.path()).len(), 2);
    drop(sink);
    assert_eq!(in_folder(folder.path()), [path.as_path()]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");

    let mut sink = Sink::create(&path, &SinkOptions::default()).unwrap();
    sink.write(None, &record).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    assert_eq!(sink.finish().unwrap(), 1);
    assert_eq!(in_folder(folder.path()), [path.as_path()]);
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("{\"custom_id\":\"a\"")
    );
}

#[cfg(unix)]
#[test]
fn f_199_new_files_are_private_and_links_and_devices_stay() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let target = folder.path().join("target.jsonl");
    let link = folder.path().join("link.jsonl");
    Sink::create(&target, &SinkOptions::default())
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(mode(&target), 0o600);
    fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    Sink::create(&link, &SinkOptions::default())
        .unwrap()
        .finish()
        .unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(mode(&target), 0o640);
    let options = SinkOptions::default().with_format(SinkFormat::Jsonl);
    Sink::create(Path::new("/dev/null"), &options)
        .unwrap()
        .finish()
        .unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn where_nothing_can_be_written_is_told_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    for (path, kind, part) in [
        (
            folder.path().join("out.txt"),
            ErrorKind::ConfigInvalid,
            "tells no form",
        ),
        (
            folder.path().join("none/out.csv"),
            ErrorKind::Storage,
            "out.csv",
        ),
    ] {
        let error = Sink::create(&path, &SinkOptions::default()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(part), "{error}");
    }
    let options = SinkOptions::default().with_format(SinkFormat::Csv);
    let error = Sink::create(folder.path(), &options).unwrap_err();
    assert!(error.message().contains("it is a folder"), "{error}");
    assert!(in_folder(folder.path()).is_empty());
}

#[test]
fn f_157_a_closed_pipe_is_a_cancellation_and_a_full_disk_is_not() {
    let line = line(0, "a", &succeeded("x"), false);
    let record = OutcomeRecord::parse(&line).unwrap();
    for (fault, kind) in [
        (io::ErrorKind::BrokenPipe, ErrorKind::Cancelled),
        (io::ErrorKind::StorageFull, ErrorKind::Storage),
    ] {
        let mut sink = Sink::to_writer(Failing(fault), "out", &SinkOptions::default()).unwrap();
        assert_eq!(sink.write(None, &record).unwrap_err().kind(), kind);
        assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::Storage);
        let options = SinkOptions::default().with_format(SinkFormat::Csv);
        let error = Sink::to_writer(Failing(fault), "out", &options).unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[test]
fn a_row_that_does_not_belong_is_refused() {
    let (_, rows) = rows("x,y\n1,2\n");
    let options = SinkOptions::default()
        .with_format(SinkFormat::Csv)
        .with_columns(["a".to_owned(), "b".to_owned()]);
    let line = line(0, "a", &succeeded("x"), false);
    let record = OutcomeRecord::parse(&line).unwrap();
    let json = SourceOptions::default();
    let json = Source::from_reader(&b"{\"a\":1,\"b\":2}"[..], "in", &json)
        .unwrap()
        .next();
    let json = json.unwrap().unwrap();
    for row in [None, Some(&rows[0]), Some(&json)] {
        let shared = Shared::default();
        let mut sink = Sink::to_writer(shared.clone(), "out", &options).unwrap();
        assert_eq!(
            sink.write(row, &record).unwrap_err().kind(),
            ErrorKind::Unexpected
        );
        assert!(sink.finish().is_err());
        assert_eq!(shared.text().lines().count(), 1);
    }
}

proptest! {
    #[test]
    fn f_177_csv_in_is_csv_out(
        cells in prop::collection::vec(prop::collection::vec("[\"',;=\\-\\t\\r\\n é\u{1f600}a-c]{0,6}", 3), 0..6),
        answer in ".*",
    ) {
        let mut input = ::csv::Writer::from_writer(Vec::new());
        input.write_record(["a", "b", "status"]).unwrap();
        for record in &cells {
            input.write_record(record).unwrap();
        }
        let (header, rows) = rows(input.into_inner().unwrap());
        let options = SinkOptions::default()
            .with_format(SinkFormat::Csv)
            .with_columns(header.unwrap())
            .with_guard_formulas(false);
        let shared = Shared::default();
        let mut sink = Sink::to_writer(shared.clone(), "out", &options).unwrap();
        let line = line(0, "id", &succeeded(&answer), false);
        for row in &rows {
            sink.write(Some(row), &OutcomeRecord::parse(&line).unwrap()).unwrap();
        }
        prop_assert_eq!(sink.finish().unwrap(), cells.len() as u64);
        let found = records(&shared.text());
        prop_assert_eq!(found.len(), cells.len() + 1);
        for (found, cells) in found[1..].iter().zip(&cells) {
            prop_assert_eq!(&found[..3], &cells[..]);
            prop_assert_eq!(&found[4], &answer);
        }
    }
}
