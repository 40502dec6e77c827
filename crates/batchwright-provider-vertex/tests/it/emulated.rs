//! What is Vertex AI's own, against the emulator: credentials, regions, tables, shards.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchStatus, CallOptions, ChatProvider, ErrorKind,
    Message, Outcome, Request, RetryClass, SealedBatch, SealedBody, SubmissionTag, SubmitError,
};
use batchwright_emulator::{
    Emulator, EmulatorConfig, Face, FaultAction, FaultRule, Reply, prompt_hash,
};
use batchwright_provider_vertex::{Credentials, Side, Vertex, VertexBuilder};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

const MODEL: &str = "gemini-2.5-flash-lite";
const HOUR: Duration = Duration::from_secs(3600);
/// A key made for these tests.
const KEY: &[u8] = include_bytes!("../data/key.der");
const TOKENS: &str = "/oauth2/token";

struct World {
    emulator: Emulator,
    vertex: Vertex,
}

fn origin(emulator: &Emulator) -> String {
    let base = emulator.base_url(Face::Vertex);
    base.trim_end_matches("/vertex").to_owned()
}

fn service_account(origin: &str, project: &str) -> Credentials {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut pem = String::from("-----BEGIN PRIVATE KEY-----\n");
    for chunk in KEY.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = usize::try_from((word >> (18 - 6 * digit)) & 63).unwrap();
            pem.push(char::from(digits[index]));
        }
    }
    pem.push_str("\n-----END PRIVATE KEY-----\n");
    let file = json!({"type": "service_account", "project_id": project, "private_key_id": "k1", "private_key": pem,
        "client_email": format!("sa@{project}.iam.gserviceaccount.com"),
        "token_uri": format!("{origin}{TOKENS}")});
    Credentials::from_json(&file.to_string()).unwrap()
}

impl World {
    async fn new(options: Value, set: impl FnOnce(VertexBuilder) -> VertexBuilder) -> Self {
        Self::with(options, |origin| service_account(origin, "proj"), set).await
    }

    async fn with(
        options: Value,
        credentials: impl FnOnce(&str) -> Credentials,
        set: impl FnOnce(VertexBuilder) -> VertexBuilder,
    ) -> Self {
        let config = EmulatorConfig::default()
            .with_time_scale(0.0)
            .with_face_options(Face::Vertex, options);
        let emulator = Emulator::start(config).await.unwrap();
        let origin = origin(&emulator);
        let builder = Vertex::builder("proj", "us-central1", credentials(&origin))
            .bucket("bkt")
            .base_url(emulator.base_url(Face::Vertex))
            .storage_url(format!("{origin}/gcs"))
            .bigquery_url(format!("{origin}/bigquery"));
        let vertex = set(builder).build().unwrap();
        Self { emulator, vertex }
    }

    async fn ask(&self, text: &str) -> batchwright_core::Result<String> {
        let request = Request::chat("row", MODEL, [Message::user(text)]);
        let answer = self
            .vertex
            .complete(&request, &CallOptions::default())
            .await?;
        Ok(answer.text())
    }

    async fn submit(&self, texts: &[&str], chunk: u32) -> BatchHandle {
        let batch = self.sealed(texts);
        let input = self.vertex.upload(&batch, &tag(chunk)).await.unwrap();
        self.vertex
            .submit(&batch, &input, &tag(chunk))
            .await
            .unwrap()
    }

    fn sealed(&self, texts: &[&str]) -> SealedBatch {
        let mut lines = Vec::new();
        for (row, text) in texts.iter().enumerate() {
            let request = Request::chat("row", MODEL, [Message::user(*text)]);
            self.vertex
                .encode(&request, &format!("k-{row}"), &mut lines)
                .unwrap();
            lines.push(b'\n');
        }
        let bytes = lines.len() as u64;
        let rows = texts.len() as u64;
        SealedBatch::new(
            SealedBody::Memory(lines.into()),
            bytes,
            rows,
            "generateContent",
            MODEL,
        )
    }

    async fn after(&self, time: Duration, handle: &BatchHandle) -> BatchSnapshot {
        self.emulator.advance(time).await.unwrap();
        self.vertex.status(handle).await.unwrap()
    }

    async fn outcomes(&self, snapshot: &BatchSnapshot) -> BTreeMap<String, Outcome> {
        let mut outcomes = BTreeMap::new();
        for file in &snapshot.files {
            let pieces: Vec<_> = self
                .vertex
                .download(file, 0)
                .await
                .unwrap()
                .try_collect()
                .await
                .unwrap();
            for line in pieces
                .concat()
                .split(|&byte| byte == b'\n')
                .filter(|line| !line.is_empty())
            {
                let outcome = self.vertex.decode(line).unwrap();
                assert!(
                    outcomes
                        .insert(outcome.custom_id.clone(), outcome)
                        .is_none()
                );
            }
        }
        outcomes
    }
}

fn tag(chunk: u32) -> SubmissionTag {
    SubmissionTag::new("job1", chunk, 1, "rnd1").unwrap()
}

fn same(builder: VertexBuilder) -> VertexBuilder {
    builder
}

#[tokio::test]
async fn all_three_credentials_open_the_way() {
    let user = |origin: &str| {
        let file = json!({"type": "authorized_user", "client_id": "c", "client_secret": "s",
            "refresh_token": "r", "quota_project_id": "paying", "token_uri": format!("{origin}{TOKENS}")});
        Credentials::from_json(&file.to_string()).unwrap()
    };
    let machine = |origin: &str| {
        let pairs = [
            ("GCE_METADATA_HOST", origin.trim_start_matches("http://")),
            ("HOME", "/nowhere"),
        ];
        Credentials::from_env(pairs).unwrap()
    };
    let account = |origin: &str| service_account(origin, "proj");
    type Kind = fn(&str) -> Credentials;
    let kinds: [(&str, Kind); 3] = [("account", account), ("user", user), ("machine", machine)];
    for (kind, credentials) in kinds {
        let world = World::with(json!({}), credentials, same).await;
        assert!(
            world
                .ask("hi")
                .await
                .unwrap()
                .contains(&prompt_hash(["hi"])),
            "{kind}"
        );
        world.ask("again").await.unwrap();
        let tokens = world.emulator.calls("POST", TOKENS)
            + world.emulator.calls("GET", "/computeMetadata/v1");
        assert_eq!(tokens, 1, "{kind}: one token for both");
    }
}

/// F-135: a project the account may not use stops everything and is named.
#[tokio::test]
async fn f_135_another_projects_account_is_refused() {
    let world = World::with(json!({}), |origin| service_account(origin, "other"), same).await;
    let error = world.ask("hi").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::PermissionDenied, RetryClass::JobStop)
    );
    assert!(error.message().contains("proj"), "{error}");
}

/// F-134: a token that ended is replaced within a free call, and leaves a paid one unsent again.
#[tokio::test]
async fn f_134_an_ended_token_stops_nothing() {
    let world = World::new(json!({}), same).await;
    let handle = world.submit(&["a"], 0).await;
    let batch = world.sealed(&["b"]);
    let input = world.vertex.upload(&batch, &tag(1)).await.unwrap();
    world.emulator.advance(2 * HOUR).await.unwrap();

    // A direct call and a create are sent once; the next attempt has a new token.
    let error = world.ask("hi").await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Unauthenticated, RetryClass::Rejected)
    );
    world.ask("hi").await.unwrap();
    world.emulator.advance(2 * HOUR).await.unwrap();
    let error = world
        .vertex
        .submit(&batch, &input, &tag(1))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SubmitError::Refused(error) if error.is_retryable()),
        "{error}"
    );
    world.vertex.submit(&batch, &input, &tag(1)).await.unwrap();

    // Polls, lists and downloads renew it themselves.
    world.emulator.advance(2 * HOUR).await.unwrap();
    let snapshot = world.vertex.status(&handle).await.unwrap();
    world.emulator.advance(2 * HOUR).await.unwrap();
    assert_eq!(world.outcomes(&snapshot).await.len(), 1);
    world.emulator.advance(2 * HOUR).await.unwrap();
    assert_eq!(world.vertex.recent().await.unwrap().len(), 2);
    assert_eq!(world.emulator.invoice().await.unwrap().len(), 3);
}

/// F-133: a token that is refused though it is new is a stop.
#[tokio::test]
async fn f_133_a_new_token_that_is_refused_stops() {
    let world = World::new(json!({}), same).await;
    let refusal = json!({"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}});
    let refused = Reply::status(401).with_body(refusal);
    world.emulator.add_faults(vec![
        FaultRule::on("*", "/vertex/*").action(FaultAction::Reply(refused.clone())),
        FaultRule::on("POST", "/vertex/*").action(FaultAction::Reply(refused.clone())),
        FaultRule::on("GET", "/vertex/*").action(FaultAction::Reply(refused)),
    ]);
    let error = world.ask("hi").await.unwrap_err();
    assert_eq!(error.class(), RetryClass::JobStop);
    let error = world.vertex.recent().await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::Unauthenticated, RetryClass::JobStop)
    );
    let revoked = Reply::status(400)
        .with_body(json!({"error": "invalid_grant", "error_description": "revoked"}));
    world.emulator.add_faults(vec![
        FaultRule::on("POST", TOKENS).action(FaultAction::Reply(revoked)),
    ]);
    let batch = world.sealed(&["b"]);
    let error = world
        .vertex
        .submit(&batch, &Default::default(), &tag(1))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SubmitError::NotSent(error) if error.is_job_stop()),
        "{error}"
    );
}

#[tokio::test]
async fn a_bucket_or_dataset_elsewhere_is_refused_before_anything_is_uploaded() {
    let far = json!({"buckets": {"bkt": "EUROPE-WEST4"}, "datasets": {"proj.ds": "US-CENTRAL1"}});
    let multi = json!({"buckets": {"bkt": "US-CENTRAL1"}, "datasets": {"proj.ds": "US"}});
    let tables: fn(VertexBuilder) -> VertexBuilder =
        |builder| builder.dataset("ds").output(Side::BigQuery);
    for (options, set) in [
        (far, same as fn(VertexBuilder) -> VertexBuilder),
        (multi, tables),
    ] {
        let world = World::new(options, set).await;
        let batch = world.sealed(&["a"]);
        let error = world.vertex.upload(&batch, &tag(0)).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.class()),
            (ErrorKind::ConfigInvalid, RetryClass::JobStop)
        );
        assert!(error.message().contains("us-central1"), "{error}");
        assert_eq!(
            world
                .emulator
                .calls("POST", "/gcs/upload/storage/v1/b/{bucket}/o"),
            0
        );
    }
    let gone = World::new(json!({"elsewhere": null}), same).await;
    let error = gone
        .vertex
        .upload(&gone.sealed(&["a"]), &tag(0))
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::NotFound, RetryClass::JobStop)
    );
    assert!(error.message().contains("bkt"), "{error}");

    // Without the check the vendor says so, and no row is to blame.
    let far = json!({"buckets": {"bkt": "EUROPE-WEST4"}});
    let world = World::new(far, |builder| builder.check_region(false)).await;
    let handle = world.submit(&["a"], 0).await;
    let snapshot = world.after(HOUR, &handle).await;
    assert_eq!(snapshot.status, BatchStatus::Failed);
    assert_eq!(snapshot.account_fault, Some(ErrorKind::ConfigInvalid));
}

#[tokio::test]
async fn every_mix_of_objects_and_tables_gives_every_row_its_own() {
    let texts = ["eins", "[[error:400]]", "[[refuse]]", "vier"];
    for input in [Side::Storage, Side::BigQuery] {
        for output in [Side::Storage, Side::BigQuery] {
            let set = |builder: VertexBuilder| builder.dataset("ds").input(input).output(output);
            let world = World::new(json!({}), set).await;
            let handle = world.submit(&texts, 3).await;
            let snapshot = world.after(HOUR, &handle).await;
            assert_eq!(
                snapshot.status,
                BatchStatus::Completed,
                "{input:?} {output:?} {snapshot:?}"
            );
            assert_eq!(snapshot.files.len(), 1);
            let outcomes = world.outcomes(&snapshot).await;
            let endings: Vec<_> = outcomes
                .values()
                .map(|outcome| outcome.ending.as_str())
                .collect();
            assert_eq!(
                endings,
                ["succeeded", "failed", "refused", "succeeded"],
                "{input:?} {output:?}"
            );
            let answer = outcomes["k-3"].response().unwrap();
            assert!(answer.text().contains(&prompt_hash(["vier"])));
            let listed = world.vertex.recent().await.unwrap();
            assert_eq!(listed[0].handle, handle);

            // The fence takes the table and the object it was loaded from.
            let batch = world.sealed(&texts);
            assert!(
                world
                    .vertex
                    .find_upload(&batch, &tag(3))
                    .await
                    .unwrap()
                    .is_some()
            );
            world.vertex.discard(&handle.input).await.unwrap();
            assert_eq!(
                world.vertex.find_upload(&batch, &tag(3)).await.unwrap(),
                None
            );
        }
    }
}

/// A load that takes its time is looked at again, and never begun twice.
#[tokio::test]
async fn f_119_a_load_under_way_is_waited_for_by_whoever_asks_again() {
    let set = |builder: VertexBuilder| builder.dataset("ds").input(Side::BigQuery);
    let world = World::new(json!({"load_polls": 3}), set).await;
    let batch = world.sealed(&["a"]);
    for _ in 0..2 {
        let error = world.vertex.upload(&batch, &tag(0)).await.unwrap_err();
        assert!(
            error.is_retryable() && error.retry_after().is_some(),
            "{error}"
        );
    }
    let input = world.vertex.upload(&batch, &tag(0)).await.unwrap();
    assert_eq!(input.0, "bq://proj.ds.bw1_job1_0_1_rnd1");
    assert_eq!(
        world.emulator.calls("POST", "/bigquery/bigquery/v2/jobs"),
        1
    );
    assert_eq!(
        world
            .emulator
            .calls("POST", "/gcs/upload/storage/v1/b/{bucket}/o"),
        1
    );
}

#[tokio::test]
async fn f_103_shards_are_read_together() {
    let world = World::new(json!({"shards": 3}), same).await;
    let texts: Vec<String> = (0..10).map(|n| format!("text {n}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let handle = world.submit(&texts, 0).await;
    let snapshot = world.after(HOUR, &handle).await;
    let labels: Vec<&str> = snapshot.files.iter().map(|file| &*file.label).collect();
    assert_eq!(labels, ["output-00000", "output-00001", "output-00002"]);
    let outcomes = world.outcomes(&snapshot).await;
    for (row, text) in texts.iter().enumerate() {
        let answer = outcomes[&format!("k-{row}")].response().unwrap().text();
        assert!(answer.contains(&prompt_hash([*text])), "I4");
    }
}

/// F-135: a list of results that may not be read names the bucket and stops.
#[tokio::test]
async fn f_135_results_that_may_not_be_read_are_a_stop() {
    let world = World::new(json!({}), same).await;
    let handle = world.submit(&["a"], 0).await;
    let denied =
        json!({"error": {"code": 403, "message": "denied", "errors": [{"reason": "forbidden"}]}});
    let rule = FaultRule::on("GET", "/gcs/storage/v1/b/bkt/o");
    world.emulator.add_faults(vec![
        rule.action(FaultAction::Reply(Reply::status(403).with_body(denied))),
    ]);
    world.emulator.advance(HOUR).await.unwrap();
    let error = world.vertex.status(&handle).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.class()),
        (ErrorKind::PermissionDenied, RetryClass::JobStop)
    );
    assert!(error.message().contains("bkt"), "{error}");
}

/// F-197: results in a bucket that is not ours are not fetched with our token.
#[tokio::test]
async fn f_197_a_foreign_folder_of_results_is_not_read() {
    let world = World::new(json!({}), same).await;
    let handle = world.submit(&["a"], 0).await;
    let job = json!({"name": "x", "state": "JOB_STATE_SUCCEEDED", "outputInfo": {"gcsOutputDirectory": "gs://evil/x"}});
    let rule = FaultRule::on("GET", "/vertex/*/batchPredictionJobs/*");
    world.emulator.add_faults(vec![
        rule.action(FaultAction::Reply(Reply::status(200).with_body(job))),
    ]);
    let error = world.vertex.status(&handle).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ProviderFault, "{error}");
    assert_eq!(
        world.emulator.calls("GET", "/gcs/storage/v1/b/{bucket}/o"),
        0
    );
}

#[tokio::test]
async fn without_a_bucket_there_are_no_batches() {
    let vertex = Vertex::builder("proj", "global", Credentials::token("t"))
        .build()
        .unwrap();
    assert!(BatchProvider::capability(&vertex).batch.is_none());
    let request = Request::chat("row", MODEL, [Message::user("x")]);
    let error = BatchProvider::endpoint(&vertex, &request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let mut shown = String::new();
    write!(shown, "{vertex:?}").unwrap();
    assert!(!shown.contains("\"t\""));
}
