use super::*;
use batchwright_core::{Message, RetryClass};
use serde_json::{Value, json};

fn places() -> Places {
    let mut config = VertexConfig::new("proj", "us-central1", crate::Credentials::token("t"));
    config.bucket = Some("bkt".into());
    config.dataset = Some("proj.ds".into());
    Places::of(&config).unwrap()
}

fn handle() -> BatchHandle {
    BatchHandle::new("vertex", "7", InputRef("gs://bkt/in".into()))
}

fn seen(job: &Value) -> (BatchSnapshot, Option<Results>) {
    let text = job.to_string();
    snapshot(&handle(), &serde_json::from_str(&text).unwrap()).unwrap()
}

#[test]
fn a_line_is_an_id_and_a_request_and_obeys_the_import() {
    let request = |text: &str| Request::chat("row", "gemini-2.5-flash", [Message::user(text)]);
    let mut line = b"kept".to_vec();
    encode(&request("hi"), &places(), "k-1", &mut line).unwrap();
    assert_eq!(
        String::from_utf8(line).unwrap(),
        r#"kept{"custom_id":"k-1","request":{"contents":[{"parts":[{"text":"hi"}],"role":"user"}]}}"#
    );
    let mut odd = request("hi");
    odd.extra
        .insert("tools".into(), json!([{"googleSearch": {}}]));
    let mut line = b"kept".to_vec();
    let error = encode(&odd, &places(), "k-1", &mut line).unwrap_err();
    assert_eq!(error.class(), RetryClass::RowFatal);
    assert_eq!(line, b"kept");
    let mut tables = places();
    tables.input = Side::BigQuery;
    encode(&odd, &tables, "k-1", &mut line).unwrap();
}

#[test]
fn f_103_f_104_f_105_rows_end_as_their_line_says() {
    let provider: Arc<str> = "vertex".into();
    let good = json!({"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}],
        "modelVersion": "m@default"});
    let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}});
    let bad = |phrase: &str, code: u16, word: &str| {
        format!(
            "{phrase}: {}",
            json!({"error": {"code": code, "message": "m", "status": word}})
        )
    };
    for (line, ending, class) in [
        (
            json!({"custom_id": "k", "status": "", "response": good}),
            "succeeded",
            None,
        ),
        (
            json!({"custom_id": "k", "response": good}),
            "succeeded",
            None,
        ),
        (
            json!({"custom_id": "k", "status": null, "response": good}),
            "succeeded",
            None,
        ),
        (
            json!({"custom_id": "k", "status": "", "response": blocked}),
            "refused",
            None,
        ),
        (
            json!({"custom_id": "k", "status": bad("Bad Request", 400, "INVALID_ARGUMENT"), "response": {}}),
            "failed",
            Some(RetryClass::RowFatal),
        ),
        (
            json!({"custom_id": "k", "status": bad("Too Many Requests", 429, "RESOURCE_EXHAUSTED")}),
            "failed",
            Some(RetryClass::Rejected),
        ),
        (
            json!({"custom_id": "k", "status": bad("Internal", 500, "INTERNAL"), "response": good}),
            "failed",
            Some(RetryClass::Ambiguous),
        ),
        (
            json!({"custom_id": "k", "status": "odd words"}),
            "failed",
            Some(RetryClass::Ambiguous),
        ),
        (
            json!({"custom_id": "k", "status": "", "response": {}}),
            "unreadable",
            None,
        ),
        (json!({"custom_id": "k", "status": ""}), "unreadable", None),
        (json!({"custom_id": "k", "response": 7}), "unreadable", None),
        (
            json!({"custom_id": "k", "response": {"candidates": []}}),
            "unreadable",
            None,
        ),
    ] {
        let outcome = decode(line.to_string().as_bytes(), &provider).unwrap();
        assert_eq!(outcome.custom_id, "k");
        assert_eq!(outcome.ending.as_str(), ending, "{line}");
        if let Some(class) = class {
            assert_eq!(outcome.error().unwrap().class(), class, "{line}");
            assert_eq!(outcome.error().unwrap().provider(), Some("vertex"));
        }
    }
}

#[test]
fn f_102_f_104_lines_without_an_id_name_nobody_and_broken_ones_their_own_row() {
    let provider: Arc<str> = "vertex".into();
    for line in [
        &b"{}"[..],
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{\"request\":{}}",
        b"{\"custom_id\":\"\"}",
        b"{\"custom_id\":{}}",
        b"{\"custom_id\":7}",
    ] {
        assert!(decode(line, &provider).is_none());
    }
    for line in [
        &b"{\"custom_id\":\"k-1\",\"status\":\"\",\"resp"[..],
        b"\xef\xbb\xbf{\"custom_id\":\"k-1\",\"x\":\"\xff\"}",
    ] {
        let outcome = decode(line, &provider).unwrap();
        assert_eq!(
            (&*outcome.custom_id, outcome.ending.as_str()),
            ("k-1", "unreadable")
        );
    }
}

#[test]
fn f_056_f_085_every_state_has_its_status() {
    for (word, status) in [
        ("JOB_STATE_QUEUED", BatchStatus::InProgress),
        ("JOB_STATE_PENDING", BatchStatus::InProgress),
        ("JOB_STATE_RUNNING", BatchStatus::InProgress),
        ("JOB_STATE_PAUSED", BatchStatus::InProgress),
        ("JOB_STATE_UPDATING", BatchStatus::InProgress),
        ("JOB_STATE_SUCCEEDED", BatchStatus::Completed),
        ("JOB_STATE_PARTIALLY_SUCCEEDED", BatchStatus::Completed),
        ("JOB_STATE_FAILED", BatchStatus::Failed),
        ("JOB_STATE_EXPIRED", BatchStatus::Expired),
        ("JOB_STATE_CANCELLING", BatchStatus::Cancelling),
        ("JOB_STATE_CANCELLED", BatchStatus::Cancelled),
        ("BATCH_STATE_RUNNING", BatchStatus::InProgress),
        ("job_state_running", BatchStatus::InProgress),
        (
            "JOB_STATE_UNSPECIFIED",
            BatchStatus::Unknown("JOB_STATE_UNSPECIFIED".into()),
        ),
        (
            "JOB_STATE_DREAMING",
            BatchStatus::Unknown("JOB_STATE_DREAMING".into()),
        ),
    ] {
        assert_eq!(batch_status(word), status, "{word}");
    }
}

#[test]
fn every_code_of_a_failed_job_says_who_must_act() {
    for (code, kind, full) in [
        (3, None, false),
        (7, Some(ErrorKind::PermissionDenied), false),
        (8, None, true),
        (9, Some(ErrorKind::ConfigInvalid), false),
        (13, None, false),
        (16, Some(ErrorKind::Unauthenticated), false),
    ] {
        let job = json!({"state": "JOB_STATE_FAILED", "error": {"code": code, "message": "why"}});
        let (snapshot, results) = seen(&job);
        assert_eq!(
            (snapshot.account_fault, snapshot.queue_full),
            (kind, full),
            "{code}"
        );
        assert_eq!(snapshot.faults[0].message, "why");
        assert_eq!(results, None);
    }
    // A cancelled job has an error too, which is none.
    let (cancelled, _) = seen(&json!({"state": "JOB_STATE_CANCELLED", "error": {"code": 1}}));
    assert!(cancelled.faults.is_empty() && cancelled.account_fault.is_none());
}

#[test]
fn f_081_f_084_counts_come_late_and_results_may_too() {
    let stats = |stats: Value, state: &str| json!({"state": state, "completionStats": stats});
    for (given, counts) in [
        (
            json!({"successfulCount": "2", "failedCount": "1"}),
            Some((3, 2, 1)),
        ),
        (
            json!({"successfulCount": "2", "incompleteCount": "4"}),
            Some((6, 2, 0)),
        ),
        (json!({"successfulCount": "-1"}), None),
        (json!({}), Some((0, 0, 0))),
        (Value::Null, None),
    ] {
        let (snapshot, _) = seen(&stats(given.clone(), "JOB_STATE_RUNNING"));
        let found = snapshot.counts.map(|c| (c.total, c.completed, c.failed));
        assert_eq!(found, counts, "{given}");
        assert!(!snapshot.results_pending);
    }
    let some = json!({"successfulCount": "2"});
    assert!(
        seen(&stats(some.clone(), "JOB_STATE_SUCCEEDED"))
            .0
            .awaits_files()
    );
    assert!(
        seen(&stats(some.clone(), "JOB_STATE_CANCELLED"))
            .0
            .awaits_files()
    );
    assert!(
        !seen(&stats(json!({}), "JOB_STATE_CANCELLED"))
            .0
            .awaits_files()
    );
    assert!(
        !seen(&stats(json!({"failedCount": "2"}), "JOB_STATE_FAILED"))
            .0
            .awaits_files()
    );
    // F-076: it answered rows, which are paid, before room ran out.
    let mut ran = stats(some, "JOB_STATE_FAILED");
    ran["error"] = json!({"code": 8, "message": "why"});
    let (ran, _) = seen(&ran);
    assert!(ran.awaits_files() && !ran.queue_full);
    assert_eq!(ran.status, BatchStatus::Completed);
}

#[test]
fn results_are_a_folder_or_a_table() {
    let with = |info: Value| seen(&json!({"state": "JOB_STATE_SUCCEEDED", "outputInfo": info})).1;
    assert_eq!(
        with(json!({"gcsOutputDirectory": "gs://bkt/x"})),
        Some(Results::Folder("gs://bkt/x".into()))
    );
    for table in ["t", "ds.t", "proj.ds.t"] {
        let info = json!({"bigqueryOutputDataset": "bq://proj.ds", "bigqueryOutputTable": table});
        assert_eq!(with(info), Some(Results::Table("bq://proj.ds.t".into())));
    }
    assert_eq!(with(json!({})), None);
    let early =
        json!({"state": "JOB_STATE_RUNNING", "outputInfo": {"gcsOutputDirectory": "gs://bkt/x"}});
    assert_eq!(
        seen(&early).1,
        None,
        "a job that runs has dumps there, and no results"
    );
}

#[test]
fn a_create_names_input_output_and_tag() {
    let tag = SubmissionTag::new("job1", 2, 1, "r").unwrap().to_string();
    let mut places = places();
    let read = |places: &Places, model: &str| -> Value {
        let body = create_body(places, model, "gs://bkt/in", "job1", &tag).unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    assert_eq!(
        read(&places, "gemini-2.5-flash"),
        json!({"displayName": "bw1-job1-2-1-r", "model": "publishers/google/models/gemini-2.5-flash",
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": ["gs://bkt/in"]}},
            "outputConfig": {"predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": "gs://bkt/batchwright/bw1-job1-2-1-r-results"}},
            "labels": {"batchwright_tag": "bw1-job1-2-1-r", "batchwright_job": "job1"}})
    );
    places.input = Side::BigQuery;
    places.output = Side::BigQuery;
    let tuned = "projects/1/locations/us-central1/models/5";
    let body = read(&places, tuned);
    assert_eq!(body["model"], tuned);
    assert_eq!(body["inputConfig"]["instancesFormat"], "bigquery");
    assert_eq!(
        body["outputConfig"]["bigqueryDestination"]["outputUri"],
        "bq://proj.ds.bw1_job1_2_1_r_results"
    );
    assert_eq!(places.input(&tag).0, "bq://proj.ds.bw1_job1_2_1_r");
}

#[test]
fn f_197_f_198_only_the_number_of_a_name_is_used() {
    for (name, id) in [
        ("projects/1/locations/l/batchPredictionJobs/55", Some("55")),
        ("https://evil.example/batchPredictionJobs/55", Some("55")),
        ("projects/1/locations/l/batchPredictionJobs/../5", None),
        ("projects/1/locations/l/batchPredictionJobs/", None),
        ("5", None),
    ] {
        assert_eq!(id_of(name).as_deref(), id, "{name}");
    }
}

#[test]
fn a_list_entry_is_known_by_its_input_and_its_tag() {
    let entry = |labels: Value, name: &str| {
        let job =
            json!({"name": "projects/1/locations/l/batchPredictionJobs/5", "displayName": name,
            "state": "JOB_STATE_RUNNING", "createTime": "2026-11-22T09:00:00Z", "labels": labels,
            "inputConfig": {"gcsSource": {"uris": ["gs://bkt/in"]}}})
            .to_string();
        summary("vertex", &serde_json::from_str(&job).unwrap()).unwrap()
    };
    let ours = entry(json!({"batchwright_tag": "bw1-j-1-1-r"}), "renamed");
    assert_eq!(ours.tag.unwrap().to_string(), "bw1-j-1-1-r");
    assert_eq!(ours.handle.input.0, "gs://bkt/in");
    assert!(entry(json!(null), "bw1-j-1-1-r").tag.is_some());
    assert!(entry(json!({"x": "y"}), "theirs").tag.is_none());
}
