use super::{failure, job, record, statuses, success};
use batchwright_core::{
    Ending, Error, ErrorKind, FinishReason, Lane, Money, Outcome, Part, RawJson, Response,
    ToolCall, Usage,
};
use batchwright_ledger::{Ledger, OutcomeRecord};
use serde_json::{Value, json};
use std::time::Duration;

fn written(outcome: &Outcome, json_output: bool) -> (Value, Vec<u8>) {
    let mut line = Vec::new();
    OutcomeRecord::write(12, "r-12", outcome, json_output, &mut line);
    (serde_json::from_slice(&line).unwrap(), line)
}

fn full() -> Outcome {
    let mut response = Response::from_text("blue\n\"sky\"");
    response.model = Some("gpt-4o-mini-2024-07-18".into());
    response.usage = Usage::of(10, 2);
    response.request_id = Some("req_1".into());
    response.raw = Some(RawJson::parse("{\n  \"a\": 1.50,\r\n  \"b\": \"x\\ny\"\n}").unwrap());
    let mut outcome = Outcome::new("wire", Ending::Succeeded(response));
    outcome.provenance.provider = Some("openai".into());
    outcome.provenance.model = Some("gpt-4o-mini".into());
    outcome.provenance.lane = Some(Lane::Realtime);
    outcome.provenance.attempts = 2;
    outcome.provenance.possibly_paid_attempts = 1;
    outcome.provenance.latency = Some(Duration::from_millis(1500));
    outcome.provenance.cost = Some(Money::from_picodollars(12_300_000));
    outcome
}

#[test]
fn a_line_holds_everything_in_its_order_and_reads_back() {
    let mut outcome = full();
    let (_, line) = written(&outcome, false);
    let text = String::from_utf8(line.clone()).unwrap();
    assert_eq!(
        text,
        r#"{"v":1,"row":12,"custom_id":"r-12","status":"succeeded","output":"blue\n\"sky\"","finish_reason":"stop","usage":{"input_tokens":10,"output_tokens":2},"cost":0.0000123,"provenance":{"provider":"openai","model":"gpt-4o-mini","responded_model":"gpt-4o-mini-2024-07-18","lane":"realtime","batch":null,"attempts":2,"possibly_paid_attempts":1,"latency_ms":1500,"cached":false,"request_id":"req_1"},"error":null,"raw":{   "a": 1.50,    "b": "x\ny" }}"#
    );
    let record = OutcomeRecord::parse(&line).unwrap();
    assert_eq!((record.row, record.custom_id.as_ref()), (12, "r-12"));
    assert_eq!(record.text().as_deref(), Some("blue\n\"sky\""));
    assert_eq!(record.cost, outcome.provenance.cost);
    assert_eq!(record.usage, Some(Usage::of(10, 2)));
    assert_eq!(record.provenance.latency_ms, Some(1500));
    assert!(record.is_success() && record.raw.is_some());
    let mut result = Vec::new();
    record.to_result_line(&mut result);
    let expected = text
        .replace("\"v\":1,\"row\":12,", "")
        .split(",\"raw\"")
        .next()
        .unwrap()
        .to_owned()
        + "}";
    assert_eq!(String::from_utf8(result).unwrap(), expected);

    // A batch's answer is in its raw download already.
    outcome.provenance.lane = Some(Lane::Batch);
    assert_eq!(written(&outcome, false).0.get("raw"), None);
}

#[test]
fn an_output_has_the_form_of_its_answer() {
    let of = |content: Vec<Part>, json_output| {
        let mut response = Response::default();
        response.content = content;
        written(&Outcome::new("x", Ending::Succeeded(response)), json_output).0["output"].clone()
    };
    let text = |text: &str| Part::Text(text.into());
    let call = || Part::ToolCall(ToolCall::new("c1", "look_up", "{\"q\":1}"));
    assert_eq!(of(vec![], false), Value::Null);
    assert_eq!(of(vec![text("a"), call(), text("b")], false), json!("ab"));
    assert_eq!(of(vec![text("{\"a\":\n1}")], true), json!({"a": 1}));
    assert_eq!(of(vec![text("[1,"), text("2]")], true), json!([1, 2]));
    assert_eq!(of(vec![text("{\"a\":1}")], false), json!("{\"a\":1}"));
    assert_eq!(of(vec![text("{\"a\":")], true), json!("{\"a\":"));
    assert_eq!(
        of(vec![call()], false),
        json!([{"tool": "look_up", "id": "c1", "arguments": "{\"q\":1}"}])
    );
    let vectors = |embeddings: Vec<Vec<f32>>| {
        let mut response = Response::default();
        response.embeddings = embeddings;
        written(&Outcome::new("x", Ending::Succeeded(response)), false).0["output"].clone()
    };
    assert_eq!(vectors(vec![vec![0.5, 1.0]]), json!([0.5, 1.0]));
    assert_eq!(vectors(vec![vec![0.5], vec![1.0]]), json!([[0.5], [1.0]]));
}

#[test]
fn f_172_an_answer_that_no_number_type_or_stack_holds_is_kept_as_it_is() {
    let (_folder, ledger) = job();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = format!("{{\"n\":1e400,\"i\":12345678901234567890123,\"deep\":{deep}}}");
    let outcome = Outcome::new("x", Ending::Succeeded(Response::from_text(answer.clone())));
    let mut line = Vec::new();
    OutcomeRecord::write(0, "r-0", &outcome, true, &mut line);
    let log = ledger.outcome_log().unwrap();
    log.append_blocking(&[line]).unwrap();
    assert_eq!(ledger.scan().unwrap().succeeded(), 1);
    let line = ledger.index().unwrap().get(0).unwrap().unwrap();
    let record = OutcomeRecord::parse(&line).unwrap();
    assert_eq!(record.output.unwrap().get(), answer);
    let mut result = Vec::new();
    record.to_result_line(&mut result);
    assert!(String::from_utf8(result).unwrap().contains(&answer));
}

#[test]
fn an_ending_without_an_answer_says_why() {
    let error = Error::new(ErrorKind::InvalidRequest, "bad row")
        .with_status(400)
        .with_code("invalid")
        .with_request_id("req_2")
        .with_usage(Usage::of(1, 0));
    let (line, _) = written(&Outcome::new("x", Ending::Failed(error)), false);
    assert_eq!(line["status"], "failed");
    assert_eq!(
        line["error"],
        json!({"kind": "invalid_request", "class": "row_fatal", "message": "bad row", "status": 400, "code": "invalid", "param": null, "request_id": "req_2"})
    );
    assert_eq!(
        line["usage"],
        json!({"input_tokens": 1, "output_tokens": 0})
    );
    assert_eq!(
        (&line["cost"], &line["output"]),
        (&Value::Null, &Value::Null)
    );
    let mut refused = Response::from_text("I cannot");
    refused.finish_reason = Some(FinishReason::ContentFilter);
    let (line, _) = written(&Outcome::new("x", Ending::Refused(refused)), false);
    assert_eq!(
        (&line["status"], &line["output"]),
        (&json!("refused"), &json!("I cannot"))
    );
    assert_eq!(line["finish_reason"], "content_filter");
    for (ending, status) in [
        (Ending::Expired, "expired"),
        (Ending::Cancelled, "cancelled"),
        (Ending::Missing, "missing"),
        (
            Ending::Unreadable(Error::new(ErrorKind::ProviderFault, "x")),
            "unreadable",
        ),
    ] {
        let line = record(3, ending);
        assert_eq!(OutcomeRecord::parse(&line).unwrap().status, status);
    }
}

#[test]
fn f_191_debug_shows_no_content() {
    let (_, line) = written(&full(), false);
    assert!(!format!("{:?}", OutcomeRecord::parse(&line).unwrap()).contains("sky"));
    let error = OutcomeRecord::parse(b"{\"v\":1,\"row\":0,\"custom_id\":\"CANARY\"").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_are_all_durable_and_whole() {
    let (folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    let appends = (0..500).map(|row| {
        let log = log.clone();
        async move {
            log.intent(row, 1).await.unwrap();
            log.append(success(row)).await.unwrap();
        }
    });
    futures::future::join_all(appends).await;
    // Durable means another reader sees it at once.
    let reader = Ledger::open_read_only(&folder.path().join("job")).unwrap();
    let scan = reader.scan().unwrap();
    assert_eq!(
        (scan.finished.len(), scan.intents, scan.in_flight_rows),
        (500, 500, 0)
    );
    assert_eq!(
        (scan.usage_unknown, scan.cost_unknown, scan.cost),
        (500, 500, Money::ZERO)
    );
    log.append_batch((500..600).map(success).collect())
        .await
        .unwrap();
    assert!(log.append(b"two\nlines".to_vec()).await.is_err());
    let other = ledger.outcome_log().unwrap();
    log.finish().await.unwrap();
    assert!(other.append(success(1)).await.is_err());
    let next = ledger.outcome_log().unwrap();
    next.append(success(600)).await.unwrap();
    next.finish().await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!((scan.finished.len(), scan.torn), (601, 0));
    assert!(ledger.verify(Some(601)).unwrap().is_ok());
}

#[tokio::test]
async fn a_dropped_append_harms_nothing() {
    let (_folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    for row in 0..20 {
        let mut append = Box::pin(log.append(success(row)));
        let _ = futures::poll!(&mut append);
    }
    log.append(success(20)).await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!(scan.finished.len(), 21);
}

#[tokio::test]
async fn rows_that_may_have_been_paid_twice_are_named() {
    let (folder, ledger) = job();
    let job = folder.path().join("job");
    let log = ledger.outcome_log().unwrap();
    for row in 0..4 {
        log.intent(row, 1).await.unwrap();
    }
    log.append(success(0)).await.unwrap();
    // A second attempt within one run is the pool's own to count, in the outcome.
    log.intent(1, 2).await.unwrap();
    drop((log, ledger));
    let ledger = Ledger::open(&job).unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!((scan.in_flight, scan.interrupted_rows), (vec![1, 2, 3], 0));
    let log = ledger.outcome_log().unwrap();
    log.intent(2, 1).await.unwrap();
    log.append(success(2)).await.unwrap();
    log.append(success(1)).await.unwrap();
    log.intent(9, 1).await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!(scan.in_flight, [3, 9]);
    assert_eq!(scan.interrupted, [1, 2]);
    assert_eq!(scan.possibly_paid, 2);
}

#[tokio::test]
async fn rows_sent_again_by_a_later_run_of_the_same_process_are_named() {
    let (folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    for row in 0..5 {
        log.intent(row, 1).await.unwrap();
    }
    log.append(success(0)).await.unwrap();
    log.withdraw(&[4]).await.unwrap();
    // A handle to the same log is the same run.
    let same = ledger.outcome_log().unwrap();
    same.intent(1, 2).await.unwrap();
    assert_eq!(ledger.scan().unwrap().interrupted_rows, 0);
    drop(same);
    log.finish().await.unwrap();
    // A run that writes nothing leaves nothing.
    ledger.outcome_log().unwrap().finish().await.unwrap();
    let log = ledger.outcome_log().unwrap();
    log.intent(2, 1).await.unwrap();
    log.intent(4, 1).await.unwrap();
    log.append_batch(vec![success(1), success(2), success(4)])
        .await
        .unwrap();
    log.finish().await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!((scan.interrupted, scan.possibly_paid), (vec![1, 2], 2));
    assert_eq!((scan.in_flight, scan.intents), (vec![3], 8));
    assert!(ledger.verify(None).unwrap().is_ok());
    drop(ledger);
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    let log = ledger.outcome_log().unwrap();
    log.append(success(3)).await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!((scan.interrupted, scan.possibly_paid), (vec![1, 2, 3], 3));
}

#[tokio::test]
async fn a_row_whose_intent_was_taken_back_is_not_named() {
    let (folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    for row in 0..3 {
        log.intent(row, 1).await.unwrap();
    }
    log.withdraw(&[0, 2]).await.unwrap();
    drop((log, ledger));
    let ledger = Ledger::open(&folder.path().join("job")).unwrap();
    assert_eq!(ledger.scan().unwrap().in_flight, [1]);
    let log = ledger.outcome_log().unwrap();
    log.append_batch(vec![success(0), success(1), success(2)])
        .await
        .unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!((scan.interrupted, scan.possibly_paid), (vec![1], 1));
    assert!(scan.unclear.is_empty());
}

#[tokio::test]
async fn f_099_the_first_success_wins_else_the_first_outcome() {
    let (_folder, ledger) = job();
    let log = ledger.outcome_log().unwrap();
    let mut paid = full();
    paid.provenance.cost = Some(Money::from_picodollars(7));
    let mut records = vec![
        failure(1, "first"),
        failure(2, "first"),
        success(0),
        success(1),
    ];
    records.extend([failure(0, "late"), failure(2, "second"), failure(3, "only")]);
    for row in [0, 1] {
        let mut line = Vec::new();
        OutcomeRecord::write(row, &format!("r-{row}"), &paid, false, &mut line);
        records.push(line);
    }
    log.append_batch(records).await.unwrap();
    let scan = ledger.scan().unwrap();
    assert_eq!(
        (scan.tally.succeeded, scan.tally.failed, scan.tally.total()),
        (2, 2, 4)
    );
    assert_eq!(
        (scan.superseded, scan.superseded_cost),
        (5, Money::from_picodollars(14))
    );
    assert_eq!((scan.usage_unknown, scan.cost_unknown), (4, 4));
    assert!(scan.duplicated.iter().eq([0, 1, 2]));
    let by_row = [
        (0, "succeeded"),
        (1, "succeeded"),
        (2, "failed"),
        (3, "failed"),
    ]
    .map(|(row, status)| (row, status.to_owned()));
    assert_eq!(statuses(ledger.index().unwrap()), by_row);
    let mut unordered = statuses(ledger.unordered().unwrap());
    assert_eq!(unordered[0].0, 2);
    unordered.sort();
    assert_eq!(unordered, by_row);
    let mut index = ledger.index().unwrap();
    let line = index.get(2).unwrap().unwrap();
    assert_eq!(
        OutcomeRecord::parse(&line).unwrap().error.unwrap().message,
        "first"
    );
    let line = index.get(1).unwrap().unwrap();
    assert_eq!(
        OutcomeRecord::parse(&line).unwrap().text().as_deref(),
        Some("é1")
    );
    assert_eq!((index.get(9).unwrap(), index.end()), (None, 4));
}
