//! The face of Vertex AI: direct calls, jobs, objects, tables, tokens.

use std::time::Duration;

use batchwright_emulator::{
    BatchPace, Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Limits, prompt_hash,
};
use serde_json::{Value, json};

use super::client::{Client, quick_pace, start, still};

const PLACE: &str = "/vertex/v1/projects/proj/locations/us-central1";
const MODEL: &str = "gemini-2.5-flash-lite";
const HOUR: Duration = Duration::from_secs(3600);

async fn world(config: EmulatorConfig) -> (Emulator, Client) {
    let (emulator, client) = start(config).await;
    (emulator, client.at(Face::Vertex))
}

fn contents(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
}

fn row(id: &str, text: &str) -> String {
    json!({"custom_id": id, "request": contents(text)}).to_string()
}

async fn ask(client: &Client, body: &Value) -> (u16, Value) {
    let path = format!("{PLACE}/publishers/google/models/{MODEL}:generateContent");
    let answer = client.post(&path, body).await;
    (answer.status, answer.json())
}

async fn put_object(client: &Client, name: &str, content: &[u8]) {
    let name = name.replace('/', "%2F");
    let path = format!("/gcs/upload/storage/v1/b/bkt/o?uploadType=media&name={name}");
    let answer = client.call("POST", &path, &[], content).await;
    assert_eq!(answer.status, 200, "{:?}", answer.json());
    assert_eq!(answer.json()["size"], content.len().to_string());
}

async fn object(client: &Client, uri: &str) -> Vec<Value> {
    let (bucket, name) = uri.strip_prefix("gs://").unwrap().split_once('/').unwrap();
    let name = name.replace('/', "%2F").replace(':', "%3A");
    let path = format!("/gcs/storage/v1/b/{bucket}/o/{name}?alt=media");
    let answer = client.get(&path).await;
    assert_eq!(answer.status, 200, "{uri}");
    answer
        .body
        .split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn job(input: &str, output: &str) -> Value {
    json!({
        "displayName": "job", "model": format!("publishers/google/models/{MODEL}"),
        "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [input]}},
        "outputConfig": {"predictionsFormat": "jsonl", "gcsDestination": {"outputUriPrefix": output}},
        "labels": {"tool": "test"},
    })
}

async fn create(client: &Client, body: &Value) -> String {
    let made = client
        .post(&format!("{PLACE}/batchPredictionJobs"), body)
        .await;
    assert_eq!(made.status, 200, "{:?}", made.json());
    let made = made.json();
    assert_eq!(made["state"], "JOB_STATE_PENDING");
    format!("/vertex/v1/{}", made["name"].as_str().unwrap())
}

/// A job over these lines, and its end.
async fn run(emulator: &Emulator, client: &Client, lines: &[String]) -> Value {
    put_object(client, "in.jsonl", lines.join("\n").as_bytes()).await;
    let job = create(client, &job("gs://bkt/in.jsonl", "gs://bkt/out")).await;
    emulator.advance(HOUR).await.unwrap();
    client.get(&job).await.json()
}

#[tokio::test]
async fn a_direct_call_answers_its_prompt_and_is_billed_once() {
    let (emulator, client) = world(still()).await;
    let mut body = contents("Wie heißt du?");
    body["system_instruction"] = json!({"parts": [{"text": "Kurz."}]});
    let (status, answer) = ask(&client, &body).await;
    assert_eq!(status, 200, "{answer}");
    let text = answer["candidates"][0]["content"]["parts"][0]["text"]
        .as_str()
        .unwrap();
    assert!(text.contains(&prompt_hash(["Kurz.", "Wie heißt du?"])));
    let bill = emulator.invoice().await.unwrap();
    assert_eq!(bill.len(), 1);
    assert_eq!(bill[0].face, "vertex");
    assert_eq!(
        answer["usageMetadata"]["promptTokenCount"],
        bill[0].input_tokens
    );
    let named = "/vertex/v1/projects/{project}/locations/{location}/publishers/google/models/{model}:generateContent";
    assert_eq!(emulator.calls("POST", named), 1);
}

#[tokio::test]
async fn bodies_are_read_strictly() {
    let (_emulator, client) = world(still()).await;
    let mut unknown = contents("x");
    unknown["generationConfig"] = json!({"max_tokens": 3});
    let mut hot = contents("x");
    hot["generationConfig"] = json!({"temperature": 3});
    let mut label = contents("x");
    label["labels"] = json!({"tool": "1", "Big": "x"});
    for body in [
        json!({}),
        json!({"contents": []}),
        json!({"contents": [{"role": "user", "parts": [{}]}]}),
        json!({"contents": [{"role": "robot", "parts": [{"text": "x"}]}]}),
        json!({"contents": [{"role": "user", "parts": [{"text": "x", "inlineData": {}}]}]}),
        json!({"prompt": "x"}),
        unknown,
        hot,
        label,
    ] {
        let (status, answer) = ask(&client, &body).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(answer["error"]["status"], "INVALID_ARGUMENT", "{body}");
    }
}

#[tokio::test]
async fn f_001_a_full_minute_is_429_without_a_hint() {
    let limits = Limits::default().with_requests_per_minute(1);
    let (_emulator, client) = world(still().with_limits(limits)).await;
    assert_eq!(ask(&client, &contents("x")).await.0, 200);
    let path = format!("{PLACE}/publishers/google/models/{MODEL}:generateContent");
    let full = client.post(&path, &contents("x")).await;
    assert_eq!(full.status, 429);
    assert_eq!(full.header("retry-after"), None);
    let error = full.json()["error"].clone();
    assert_eq!(error["status"], "RESOURCE_EXHAUSTED");
    assert!(error.get("details").is_none());
}

#[tokio::test]
async fn f_102_f_103_results_are_found_by_their_own_field_in_shards_among_decoys() {
    let (emulator, client) = world(still().with_pace(quick_pace())).await;
    let set = json!({"shards": 3});
    assert_eq!(
        client.post("/emulator/faces/vertex", &set).await.status,
        200
    );
    let mut lines: Vec<String> = (0..20)
        .map(|n| row(&format!("k-{n}"), &format!("q {n}")))
        .collect();
    lines.push(row("000000", "zero"));
    lines.push(row("k-bad", "[[error:429]]"));
    let done = run(&emulator, &client, &lines).await;
    assert_eq!(done["state"], "JOB_STATE_SUCCEEDED");
    assert_eq!(
        done["completionStats"],
        json!({"successfulCount": "21", "failedCount": "1"})
    );
    assert!(
        !done["name"].as_str().unwrap().contains("/proj/"),
        "the number stands for the project"
    );
    let folder = done["outputInfo"]["gcsOutputDirectory"].as_str().unwrap();
    assert_ne!(folder.rsplit_once("model-").unwrap().1, done["createTime"]);
    let prefix = folder
        .strip_prefix("gs://bkt/")
        .unwrap()
        .replace(':', "%3A");
    let listed = client
        .get(&format!("/gcs/storage/v1/b/bkt/o?prefix={prefix}/"))
        .await
        .json();
    let names: Vec<&str> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap().rsplit_once('/').unwrap().1)
        .collect();
    assert_eq!(
        names,
        [
            "incremental_predictions.jsonl",
            "predictions.jsonl-00000-of-00003",
            "predictions.jsonl-00001-of-00003",
            "predictions.jsonl-00002-of-00003",
            "predictions.jsonl.metadata",
            "row_count.json",
        ]
    );
    let mut rows = Vec::new();
    for shard in &names[1..4] {
        rows.extend(object(&client, &format!("{folder}/{shard}")).await);
    }
    assert_eq!(rows.len(), 22);
    assert_eq!(
        rows.iter().filter(|row| row["custom_id"] == 0).count(),
        1,
        "retyped"
    );
    let bad = rows.iter().find(|row| row["custom_id"] == "k-bad").unwrap();
    assert!(
        bad["status"]
            .as_str()
            .unwrap()
            .starts_with("Too Many Requests: {")
    );
    assert_eq!(bad["response"], json!({}));
    assert_eq!(
        emulator.invoice().await.unwrap().len(),
        21,
        "failed rows are free"
    );
}

#[tokio::test]
async fn what_the_import_refuses_fails_the_whole_job() {
    let (emulator, client) = world(still().with_pace(quick_pace())).await;
    let tool = json!({"custom_id": "k", "request": {"contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "tools": [{"googleSearch": {}}]}});
    let schema = json!({"custom_id": "k", "request": {"contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "generationConfig": {"responseJsonSchema": {"$ref": "x"}}}});
    for lines in [
        vec![row("k-1", "x"), tool.to_string()],
        vec![row("k-1", "x"), schema.to_string()],
        vec![row("k-1", "x"), "no json".to_owned()],
        vec![row("k-1", "x"), json!({"custom_id": "k-2"}).to_string()],
        vec![],
    ] {
        let done = run(&emulator, &client, &lines).await;
        assert_eq!(done["state"], "JOB_STATE_FAILED", "{lines:?}");
        assert_eq!(done["error"]["code"], 3);
        let message = done["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("Failed to import data."), "{message}");
    }
    assert!(emulator.invoice().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_is_looked_at_only_after_the_creation() {
    let (emulator, client) = world(still().with_pace(quick_pace())).await;
    let set = json!({"buckets": {"bkt": "US-CENTRAL1", "far": "EUROPE-WEST4"}, "elsewhere": null});
    assert_eq!(
        client.post("/emulator/faces/vertex", &set).await.status,
        200
    );
    put_object(&client, "in.jsonl", row("k-1", "x").as_bytes()).await;
    for (input, output, code) in [
        ("gs://bkt/in.jsonl", "gs://none/out", 9),
        ("gs://bkt/in.jsonl", "gs://far/out", 9),
        ("gs://bkt/other.jsonl", "gs://bkt/out", 3),
    ] {
        let made = create(&client, &job(input, output)).await;
        emulator.advance(HOUR).await.unwrap();
        let done = client.get(&made).await.json();
        assert_eq!(done["error"]["code"], code, "{input} {output}");
    }
    let missing = client.get("/gcs/storage/v1/b/none").await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["error"]["errors"][0]["reason"], "notFound");
    let mut bad = job("gs://bkt/in.jsonl", "gs://bkt/out");
    bad["model"] = json!("publishers/google/models/gemini-0");
    let refused = client
        .post(&format!("{PLACE}/batchPredictionJobs"), &bad)
        .await;
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn f_078_f_079_a_cancelled_job_has_what_was_done() {
    let pace = BatchPace::default().with_per_row(Duration::from_secs(60));
    let (emulator, client) = world(still().with_pace(pace)).await;
    let lines: Vec<String> = (0..10).map(|n| row(&format!("k-{n}"), "x")).collect();
    put_object(&client, "in.jsonl", lines.join("\n").as_bytes()).await;
    let job = create(&client, &job("gs://bkt/in.jsonl", "gs://bkt/out")).await;
    emulator.advance(Duration::from_secs(300)).await.unwrap();
    assert_eq!(client.get(&job).await.json()["state"], "JOB_STATE_RUNNING");
    let path = format!("{job}:cancel");
    assert_eq!(client.post(&path, &json!({})).await.json(), json!({}));
    assert_eq!(
        client.get(&job).await.json()["state"],
        "JOB_STATE_CANCELLING"
    );
    emulator.advance(HOUR).await.unwrap();
    let done = client.get(&job).await.json();
    assert_eq!(done["state"], "JOB_STATE_CANCELLED");
    assert_eq!(done["error"]["code"], 1);
    let folder = done["outputInfo"]["gcsOutputDirectory"].as_str().unwrap();
    let rows = object(&client, &format!("{folder}/predictions.jsonl")).await;
    let bill = emulator.invoice().await.unwrap();
    assert!(!rows.is_empty() && rows.len() < 10 && rows.len() == bill.len());
    let again = client.post(&path, &json!({})).await;
    assert_eq!(again.status, 400);
    assert_eq!(again.json()["error"]["status"], "FAILED_PRECONDITION");
    assert_eq!(
        client.call("DELETE", &job, &[], b"").await.json()["done"],
        true
    );
    assert_eq!(client.get(&job).await.status, 404);
}

#[tokio::test]
async fn f_116_lists_are_paged_and_filtered() {
    let (_emulator, client) = world(still()).await;
    put_object(&client, "in.jsonl", row("k-1", "x").as_bytes()).await;
    for n in 0..5 {
        let mut body = job("gs://bkt/in.jsonl", "gs://bkt/out");
        body["displayName"] = json!(format!("job {n}"));
        body["labels"] = json!({"number": n.to_string()});
        create(&client, &body).await;
    }
    let list = format!("{PLACE}/batchPredictionJobs");
    let names = |page: &Value| -> Vec<String> {
        let jobs = page["batchPredictionJobs"].as_array().unwrap().iter();
        jobs.map(|job| job["displayName"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = client.get(&format!("{list}?pageSize=3")).await.json();
    assert_eq!(names(&first), ["job 4", "job 3", "job 2"]);
    let token = first["nextPageToken"].as_str().unwrap();
    let second = client
        .get(&format!("{list}?pageSize=3&pageToken={token}"))
        .await
        .json();
    assert_eq!(names(&second), ["job 1", "job 0"]);
    assert!(second.get("nextPageToken").is_none());
    let found = client
        .get(&format!("{list}?filter=labels.number%3D3"))
        .await
        .json();
    assert_eq!(names(&found), ["job 3"]);
    assert_eq!(client.get(&format!("{list}?filter=x")).await.status, 400);
    let elsewhere = list.replace("us-central1", "europe-west4");
    assert_eq!(client.get(&elsewhere).await.json(), json!({}));
}

#[tokio::test]
async fn f_118_a_resumable_upload_tells_how_much_it_has() {
    let (emulator, client) = world(still()).await;
    let meta = json!({"name": "big.bin", "contentType": "application/jsonl"});
    let path = "/gcs/upload/storage/v1/b/bkt/o?uploadType=resumable";
    let session = client.post(path, &meta).await;
    let location = session.header("location").unwrap();
    let at = location[location.find("/gcs").unwrap()..].to_owned();
    let content: Vec<u8> = (0..700_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    emulator.add_faults(vec![
        FaultRule::on("PUT", "/gcs/*")
            .times(1)
            .action(FaultAction::StoreShort(1)),
    ]);
    let put = async |range: &str, bytes: &[u8]| {
        client
            .call("PUT", &at, &[("content-range", range)], bytes)
            .await
    };
    let lost = put("bytes 0-524287/700000", &content[..524_288]).await;
    assert_eq!(lost.status, 308);
    assert_eq!(
        lost.header("range"),
        Some("bytes=0-262143"),
        "a chunk was lost"
    );
    let asked = put("bytes */700000", b"").await;
    assert_eq!(
        (asked.status, asked.header("range")),
        (308, Some("bytes=0-262143"))
    );
    let done = put("bytes 262144-699999/700000", &content[262_144..]).await;
    assert_eq!(done.status, 200);
    assert_eq!(done.json()["size"], "700000");
    let stored = client
        .get("/gcs/download/storage/v1/b/bkt/o/big.bin?alt=media")
        .await;
    assert_eq!(stored.body, content);
    assert!(stored.header("x-goog-hash").unwrap().starts_with("crc32c="));
    assert_eq!(
        put("bytes */700000", b"").await.status,
        404,
        "the session has ended"
    );
}

#[tokio::test]
async fn f_134_tokens_end_and_open_their_own_project_alone() {
    let (emulator, client) = world(still()).await;
    let form = "grant_type=refresh_token&client_id=c&client_secret=s&refresh_token=r";
    let got = client
        .call("POST", "/oauth2/token", &[], form.as_bytes())
        .await
        .json();
    let user = client.with_key(got["access_token"].as_str().unwrap());
    assert_eq!(got["expires_in"], 3599);
    assert_eq!(ask(&user, &contents("x")).await.0, 200);
    emulator.advance(HOUR).await.unwrap();
    let (status, late) = ask(&user, &contents("x")).await;
    assert_eq!(status, 401);
    assert_eq!(
        late["error"]["details"][0]["reason"],
        "ACCESS_TOKEN_EXPIRED"
    );

    let no = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b.c";
    let refused = client
        .call("POST", "/oauth2/token", &[], no.as_bytes())
        .await;
    assert_eq!(
        (refused.status, refused.json()["error"].clone()),
        (400, json!("invalid_grant"))
    );
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    assert_eq!(client.get(path).await.status, 403, "the header is missing");
    let flavor = [("metadata-flavor", "Google")];
    assert_eq!(client.call("GET", path, &flavor, b"").await.status, 200);
}

#[tokio::test]
async fn a_job_reads_a_table_and_writes_another() {
    let (emulator, client) = world(still().with_pace(quick_pace())).await;
    let set = json!({"datasets": {"proj.ds": "US-CENTRAL1", "proj.far": "EU"}, "elsewhere": null,
        "buckets": {"bkt": "US-CENTRAL1"}});
    assert_eq!(
        client.post("/emulator/faces/vertex", &set).await.status,
        200
    );
    let content = [row("k-0", "zero"), row("k-1", "[[error:400]]")].join("\n");
    put_object(&client, "in.jsonl", content.as_bytes()).await;
    let load = json!({
        "jobReference": {"projectId": "proj", "jobId": "load_1", "location": "us-central1"},
        "configuration": {"load": {
            "sourceUris": ["gs://bkt/in.jsonl"], "sourceFormat": "NEWLINE_DELIMITED_JSON",
            "schema": {"fields": [{"name": "custom_id", "type": "STRING"}, {"name": "request", "type": "JSON"}]},
            "destinationTable": {"projectId": "proj", "datasetId": "ds", "tableId": "in"},
            "writeDisposition": "WRITE_EMPTY"}},
    });
    let jobs = "/bigquery/bigquery/v2/projects/proj/jobs";
    assert_eq!(
        client.post(jobs, &load).await.json()["status"]["state"],
        "RUNNING"
    );
    let again = client.post(jobs, &load).await;
    assert_eq!(
        (
            again.status,
            again.json()["error"]["errors"][0]["reason"].clone()
        ),
        (409, json!("duplicate"))
    );
    let done = client.get(&format!("{jobs}/load_1")).await.json();
    assert_eq!(done["status"], json!({"state": "DONE"}));

    let mut body = job("", "");
    body["inputConfig"] =
        json!({"instancesFormat": "bigquery", "bigquerySource": {"inputUri": "bq://proj.ds.in"}});
    body["outputConfig"] = json!({"predictionsFormat": "bigquery", "bigqueryDestination": {"outputUri": "bq://proj.ds.out"}});
    let made = create(&client, &body).await;
    emulator.advance(HOUR).await.unwrap();
    let ended = client.get(&made).await.json();
    assert_eq!(
        ended["outputInfo"],
        json!({"bigqueryOutputDataset": "bq://proj.ds", "bigqueryOutputTable": "out"}),
        "{ended}"
    );
    let table = "/bigquery/bigquery/v2/projects/proj/datasets/ds/tables/out";
    let columns = client.get(table).await.json()["schema"]["fields"].clone();
    let columns: Vec<&str> = columns
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        [
            "custom_id",
            "request",
            "status",
            "processed_time",
            "response"
        ]
    );
    let first = client
        .get(&format!("{table}/data?maxResults=1"))
        .await
        .json();
    let next = first["pageToken"].as_str().unwrap();
    let second = client
        .get(&format!("{table}/data?maxResults=1&pageToken={next}"))
        .await
        .json();
    assert!(second.get("pageToken").is_none());
    let mut statuses: Vec<(Value, bool)> = [&first, &second]
        .map(|page| page["rows"][0]["f"].clone())
        .map(|cells| (cells[0]["v"].clone(), cells[2]["v"] == ""))
        .into();
    statuses.sort_by_key(|(id, _)| id.to_string());
    assert_eq!(statuses, [(json!("k-0"), true), (json!("k-1"), false)]);
    assert_eq!(client.call("DELETE", table, &[], b"").await.status, 204);
    assert_eq!(client.get(table).await.status, 404);

    // The region of datasets is no choice.
    body["outputConfig"]["bigqueryDestination"]["outputUri"] = json!("bq://proj.far.out");
    let made = create(&client, &body).await;
    emulator.advance(HOUR).await.unwrap();
    assert_eq!(client.get(&made).await.json()["state"], "JOB_STATE_FAILED");
}
