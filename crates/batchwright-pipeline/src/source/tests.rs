use super::*;
use proptest::prelude::*;

/// A row's number, line and values.
type Good = (u64, u64, Vec<String>);

/// What a source yields; of an error its line and message.
fn read(text: &[u8], options: &SourceOptions) -> Vec<Result<Good, (u64, String)>> {
    let bytes = Cursor::new(text.to_vec());
    match Source::from_reader(bytes, "in", options) {
        Ok(source) => source
            .map(|row| match row {
                Ok(row) => {
                    let values = row
                        .columns()
                        .map(|name| row.text(name).unwrap_or_default().into_owned())
                        .collect();
                    Ok((row.number(), row.line(), values))
                }
                Err(error) => Err((error.line(), error.to_string())),
            })
            .collect(),
        Err(error) => vec![Err((0, error.to_string()))],
    }
}

fn format(format: SourceFormat) -> SourceOptions {
    SourceOptions::default().with_format(format)
}

/// Reads rows that must all be good.
fn rows(text: &str, form: SourceFormat) -> Vec<Good> {
    read(text.as_bytes(), &format(form))
        .into_iter()
        .map(|row| row.expect("a good row"))
        .collect()
}

/// Reads rows of which exactly one is bad, and that one's line and message have these parts.
#[track_caller]
fn refused(text: &[u8], form: SourceFormat, line: u64, part: &str) -> usize {
    let rows = read(text, &format(form));
    let bad: Vec<_> = rows.iter().filter_map(|row| row.as_ref().err()).collect();
    assert_eq!(bad.len(), 1, "{rows:?}");
    assert_eq!(bad[0].0, line, "{bad:?}");
    assert!(bad[0].1.contains(part), "{bad:?}");
    assert!(!bad[0].1.contains("CANARY"), "{bad:?}");
    rows.len() - 1
}

#[test]
fn f_177_csv_is_read_by_records_with_their_lines() {
    let text =
        "id,text\r\n1,\"a \"\"quoted\"\" line\r\nbreak, ü\"\r\n\r\n2,5\" pipe\r\n3,\r\n\"4\",\"\"";
    assert_eq!(
        rows(text, SourceFormat::Csv),
        [
            (
                0,
                2,
                vec!["1".into(), "a \"quoted\" line\r\nbreak, ü".into()]
            ),
            (1, 5, vec!["2".into(), "5\" pipe".into()]),
            (2, 6, vec!["3".into(), String::new()]),
            (3, 7, vec!["4".into(), String::new()]),
        ]
    );
}

#[test]
fn f_177_the_delimiter_is_the_one_the_header_shows() {
    for (text, form) in [
        ("a,b\n1;1,2", SourceFormat::Csv),
        ("\"x,,,,\";b\n1;2", SourceFormat::Csv),
        ("a\tb\n1\t2", SourceFormat::Csv),
        ("a,,\tb\n1\t2", SourceFormat::Tsv),
    ] {
        assert_eq!(rows(text, form)[0].2.len(), 2, "{text:?}");
    }
    let options = format(SourceFormat::Csv).with_delimiter(b'|');
    assert!(read(b"a,,,|b\n1|2\n", &options)[0].is_ok());
    let options = format(SourceFormat::Csv).with_delimiter(b'"');
    assert!(read(b"a\n1\n", &options)[0].is_err());
}

#[test]
fn f_177_ragged_rows_are_refused_and_reading_goes_on() {
    let good = refused(
        b"a,b\n1,2\nCANARY\n3,4\n",
        SourceFormat::Csv,
        3,
        "1 fields and the header has 2",
    );
    assert_eq!(good, 2);
    refused(
        b"a,b\n\"x\ny\",CANARY,3\n",
        SourceFormat::Csv,
        2,
        "3 fields and the header has 2",
    );
}

#[test]
fn f_177_an_unbalanced_quote_is_found() {
    // At the next quoted field, at the end of the file, and at the cap.
    let next = b"a,b\n1,\"CANARY\n2,\"x\"\n3,y\n";
    refused(
        next,
        SourceFormat::Csv,
        3,
        "text stands after the closing quote",
    );
    refused(
        b"a,b\n0,0\n1,\"CANARY\n2,x\n",
        SourceFormat::Csv,
        3,
        "never closed",
    );
    let mut long = b"a,b\n1,\"".to_vec();
    long.resize(300_000, b'x');
    let options = format(SourceFormat::Csv).with_max_row_bytes(100_000);
    let rows = read(&long, &options);
    let [Err((2, message))] = &rows[..] else {
        panic!("{rows:?}");
    };
    assert!(message.contains("more than 100000 bytes"), "{message}");
}

#[test]
fn csv_headers_that_cannot_be_used_are_refused() {
    for (text, part) in [
        ("a,b,a\n", "\"a\" twice"),
        ("a,,b\n", "column 2 of the header has no name"),
        ("a,b\r1,2\r3,4\r", "old Macs"),
        ("\"a", "never closed"),
    ] {
        let rows = read(text.as_bytes(), &format(SourceFormat::Csv));
        let [Err((_, message))] = &rows[..] else {
            panic!("{rows:?}");
        };
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn f_165_a_utf_8_mark_is_stripped_once_and_utf_16_is_refused() {
    assert_eq!(rows("\u{feff}id\n1\n", SourceFormat::Csv).len(), 1);
    let source = Source::from_reader(
        Cursor::new("\u{feff}id,\u{feff}b\n"),
        "in",
        &SourceOptions::default(),
    )
    .unwrap();
    assert_eq!(source.header().unwrap(), ["id", "\u{feff}b"]);
    assert_eq!(rows("\u{feff}{\"a\":1}\n", SourceFormat::Jsonl).len(), 1);
    assert_eq!(rows("\u{feff}[{\"a\":1}]\n", SourceFormat::Json).len(), 1);
    for bytes in [
        &b"\xFF\xFEi\0d\0"[..],
        b"\xFE\xFF\0i\0d",
        b"i\0d\0\n\0",
        b"\0{\0}",
    ] {
        let rows = read(bytes, &SourceOptions::default());
        assert!(
            rows[0].as_ref().unwrap_err().1.contains("UTF-16"),
            "{rows:?}"
        );
    }
    assert!(read(b"PK\x03\x04xxxx", &format(SourceFormat::Csv))[0].is_err());
}

#[test]
fn f_166_invalid_utf_8_is_refused_with_its_byte_and_reading_goes_on() {
    let good = refused(
        b"{\"a\":1}\n{\"a\":\"\xE9CANARY\"}\n{\"a\":2}\n",
        SourceFormat::Jsonl,
        2,
        "byte 14 ",
    );
    assert_eq!(good, 2);
    let text = b"\xEF\xBB\xBFa,b\n1,\"x\"\"\xE9CANARY\"\n2,3\n";
    let at = text.iter().position(|byte| *byte == 0xE9).unwrap();
    refused(text, SourceFormat::Csv, 2, &format!("byte {at} "));
    refused(b"a,b\n\xC3,\xA9\n", SourceFormat::Csv, 2, "byte 4 ");
    refused(
        b"[{\"a\":\"\xFF\"},{\"a\":1}]",
        SourceFormat::Json,
        1,
        "byte 7 ",
    );
}

#[test]
fn f_167_only_line_feeds_end_lines() {
    let text = "{\"a\":\"x\u{2028}y\u{2029}z\u{85}\"}\r\n\r\n  \n{\"a\":\"2\"}";
    assert_eq!(
        rows(text, SourceFormat::Jsonl),
        [
            (0, 1, vec!["x\u{2028}y\u{2029}z\u{85}".into()]),
            (1, 4, vec!["2".into()])
        ]
    );
    assert_eq!(rows("a,b\n1,x\ry\r\n", SourceFormat::Csv)[0].2[1], "x\ry");
}

#[test]
fn f_168_a_long_line_is_passed_over_and_an_array_is_read_as_one() {
    let text = format!(
        "{{\"a\":1}}\n{{\"a\":\"{}\"}}\n{{\"a\":3}}\n",
        "x".repeat(200_000)
    );
    let options = format(SourceFormat::Jsonl).with_max_row_bytes(100_000);
    let rows = read(text.as_bytes(), &options);
    assert!(rows[0].is_ok() && rows[2].is_ok(), "{}", rows.len());
    assert!(
        rows[1]
            .as_ref()
            .unwrap_err()
            .1
            .contains("the line has 200008 bytes")
    );
    let source = Source::from_reader(
        Cursor::new(" \n[{\"a\":1},\n {\"a\":2}]"),
        "in.jsonl",
        &format(SourceFormat::Jsonl),
    )
    .unwrap();
    assert_eq!(source.format(), SourceFormat::Json);
    assert_eq!(
        source.map(|row| row.unwrap().line()).collect::<Vec<_>>(),
        [2, 3]
    );
}

#[test]
fn f_169_control_characters_pass_through() {
    let rows = rows("{\"a\":\"\\u0000\\u001b\"}", SourceFormat::Jsonl);
    assert_eq!(rows[0].2, ["\0\u{1b}"]);
}

#[test]
fn f_170_f_175_f_178_bad_lines_are_told_by_line() {
    for (line, part) in [
        ("{\"a\":\"CANARY\\ud83d\"}", "surrogate"),
        ("// CANARY", "not valid JSON at column 1"),
        ("{\"a\":\"CANARY\"},", "not valid JSON"),
        ("{\"a\":1,\"a\":\"CANARY\"}", "the key \"a\" stands twice"),
        ("\"CANARY\"", "not a JSON object"),
        ("{\"a\":\"CANARY", "not valid JSON"),
        ("{\"a\":NaN}", "not valid JSON"),
    ] {
        let text = format!("{{\"a\":1}}\n\n{line}\n{{\"a\":2}}\n");
        assert_eq!(
            refused(text.as_bytes(), SourceFormat::Jsonl, 3, part),
            2,
            "{line}"
        );
    }
}

#[test]
fn f_175_no_rows_is_no_error() {
    for (text, form) in [
        ("", SourceFormat::Csv),
        ("\u{feff}", SourceFormat::Csv),
        ("\n\n", SourceFormat::Csv),
        ("a,b", SourceFormat::Csv),
        ("", SourceFormat::Jsonl),
        ("\r\n \n", SourceFormat::Jsonl),
        ("", SourceFormat::Json),
        (" [ ] \n", SourceFormat::Json),
    ] {
        assert_eq!(rows(text, form), [], "{text:?}");
    }
}

#[test]
fn json_is_read_by_elements() {
    let text = "[\n {\"a\": \"]},{\\\"\", \"b\": [1, {\"c\": 2}]},\n{\"a\":\n1} , {}\n]\n";
    let found = rows(text, SourceFormat::Json);
    let lines: Vec<u64> = found.iter().map(|row| row.1).collect();
    assert_eq!(lines, [2, 3, 4]);
    assert_eq!(found[0].2, ["]},{\"", "[1, {\"c\": 2}]"]);
    assert_eq!(
        rows("{\"a\":1}{\"a\":2}\n{\"a\":\n3}", SourceFormat::Json).len(),
        3
    );
}

#[test]
fn json_that_is_no_array_of_objects_is_told_by_line() {
    for (text, line, part, good) in [
        ("[{\"a\":1},\n]", 1, "a comma stands after", 1),
        ("[{\"a\":1}\n{\"a\":2}]", 2, "a comma or the end", 1),
        ("[{\"a\":1},\n\"CANARY\",3]", 2, "not a JSON object", 1),
        ("[{\"a\":1},\n", 2, "ends inside the array", 1),
        ("[{\"a\":1}", 1, "ends inside the array", 1),
        ("[{\"a\":1}]\nCANARY", 2, "after the end", 1),
        ("CANARY", 1, "must be an array", 0),
        ("[\n{\"a\":\n\nCANARY}]", 4, "not valid JSON", 0),
    ] {
        let rows = read(text.as_bytes(), &format(SourceFormat::Json));
        assert_eq!(
            rows.iter().filter(|row| row.is_ok()).count(),
            good,
            "{text}"
        );
        let (at, message) = rows
            .iter()
            .find_map(|row| row.as_ref().err())
            .expect("an error");
        assert!(
            message.contains(part) && *at == line,
            "{text}: {at} {message}"
        );
        assert!(!message.contains("CANARY"), "{message}");
    }
}

#[test]
fn the_form_is_told_from_ending_or_first_bytes() {
    for (text, form) in [
        ("a,b\n", SourceFormat::Csv),
        ("  [", SourceFormat::Json),
        ("{\"a\":1}\r\n{", SourceFormat::Jsonl),
        ("{\n\"a\":1}", SourceFormat::Json),
        ("{\"a\":1}", SourceFormat::Jsonl),
    ] {
        assert_eq!(sniff(text.as_bytes()), form, "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.NDJSON");
    std::fs::write(&path, "{\n").unwrap();
    assert_eq!(
        Source::open(&path, None).unwrap().format(),
        SourceFormat::Jsonl
    );
    let forced = Source::open(&path, Some(SourceFormat::Csv)).unwrap();
    assert_eq!(forced.format(), SourceFormat::Csv);
    let error = Source::open(&folder.path().join("none.csv"), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
}

#[test]
fn f_202_names_in_errors_hold_no_control_characters() {
    let rows = read(b"\x1b[2J,\x1b[2J\n", &format(SourceFormat::Csv));
    let message = &rows[0].as_ref().unwrap_err().1;
    assert!(!message.contains('\u{1b}'), "{message:?}");
    assert!(shown(&"x".repeat(100)).chars().count() < 70);
}

#[test]
fn the_parts_cross_threads() {
    fn moves<T: Send + 'static>() {}
    fn is_shared<T: Send + Sync + 'static>() {}
    moves::<Source>();
    moves::<crate::Sink>();
    is_shared::<Row>();
    is_shared::<RowError>();
    is_shared::<crate::RequestBuilder>();
}

/// Yields one byte at a time, so that every state crosses a chunk.
struct Trickle(Cursor<Vec<u8>>);

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}

#[test]
fn rows_do_not_depend_on_how_the_bytes_arrive() {
    // Longer than what is read ahead, so that the rest comes byte by byte.
    for (form, head, row, tail) in [
        (SourceFormat::Csv, "a,b\r\n", "\"x\"\"\r\n,\",é\r\n", ""),
        (
            SourceFormat::Jsonl,
            "",
            "{\"a\":\"\\\"é\",\"b\":\"\"}\r\n",
            "",
        ),
        (
            SourceFormat::Json,
            "[{\"a\":0}",
            ",\n{\"a\":\"\\\"]é\",\"b\":[{}]}",
            "]",
        ),
    ] {
        let text = format!("{head}{}{tail}", row.repeat(8000));
        let whole = read(text.as_bytes(), &format(form));
        let trickle = Trickle(Cursor::new(text.into_bytes()));
        let source = Source::from_reader(trickle, "in", &format(form)).unwrap();
        let lines: Vec<u64> = source.map(|row| row.unwrap().line()).collect();
        let wanted: Vec<u64> = whole.iter().map(|row| row.as_ref().unwrap().1).collect();
        assert_eq!(lines, wanted);
        assert!(lines.len() >= 8000);
    }
}

fn cell() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![
            Just('"'),
            Just(','),
            Just('\n'),
            Just('\r'),
            Just(';'),
            Just('é'),
            any::<char>()
        ],
        0..8,
    )
    .prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn f_177_what_the_csv_crate_writes_is_read_back(records in prop::collection::vec(
        prop::collection::vec(cell(), 3), 0..8), crlf: bool)
    {
        let mut writer = ::csv::WriterBuilder::new();
        if crlf {
            writer.terminator(::csv::Terminator::CRLF);
        }
        let mut writer = writer.from_writer(Vec::new());
        writer.write_record(["a", "b", "c"]).unwrap();
        for record in &records {
            writer.write_record(record).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let found = read(&text, &format(SourceFormat::Csv).with_delimiter(b','));
        let values: Vec<Vec<String>> = found.into_iter().map(|row| row.unwrap().2).collect();
        prop_assert_eq!(values, records);
    }

    #[test]
    fn any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), form in 0..4) {
        let form = [SourceFormat::Csv, SourceFormat::Tsv, SourceFormat::Jsonl, SourceFormat::Json][form as usize];
        prop_assert!(read(&bytes, &format(form)).len() <= bytes.len() + 1);
    }

    #[test]
    fn json_elements_are_the_parser_s(values in prop::collection::vec((".*", any::<i64>()), 0..6), pretty: bool) {
        let rows: Vec<_> = values
            .iter()
            .map(|(text, number)| serde_json::json!({"t": text, "n": {"x": [number]}}))
            .collect();
        let text = if pretty { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) }.unwrap();
        let found: Vec<String> = read(text.as_bytes(), &format(SourceFormat::Json))
            .into_iter()
            .map(|row| row.unwrap().2[1].clone())
            .collect();
        let wanted: Vec<String> = values.iter().map(|(text, _)| text.clone()).collect();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn rows_that_are_skipped_count_as_rows_that_are_read() {
    let text = "{\"a\":1}\n\n  \r\n{\"a\":2}\nno json\n{\"a\":3}\r\n{\"a\":\"012345678901234567890123456789\"}\n{\"a\":4}";
    let options = SourceOptions::default()
        .with_format(SourceFormat::Jsonl)
        .with_max_row_bytes(20);
    let open = || Source::from_reader(std::io::Cursor::new(text), "in", &options).unwrap();
    let all: Vec<u64> = open()
        .map(|row| row.map_or_else(|error| error.number(), |row| row.number()))
        .collect();
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    for only in 0..6 {
        let mut source = open();
        let row = source.next_unless(|row| row != only).unwrap();
        match row {
            Ok(row) => assert_eq!(row.number(), only),
            Err(error) => assert_eq!(error.number(), only),
        }
        assert!(source.next_unless(|row| row != only).is_none());
    }
}
