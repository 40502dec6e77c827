//! Every behaviour all providers must show, with rows in objects and in tables.

use batchwright_emulator::Face;
use batchwright_provider_vertex::{Credentials, Side, Vertex};
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

const MODEL: &str = "gemini-2.5-flash-lite";
const COMPLETE: &str = "/vertex/v1/projects/{project}/locations/{location}/publishers/google/models/{model}:generateContent";
const JOBS: &str = "/vertex/v1/projects/{project}/locations/{location}/batchPredictionJobs";
const JOB: &str = "/vertex/v1/projects/{project}/locations/{location}/batchPredictionJobs/{job}";

fn subject(
    name: &'static str,
    side: Side,
    upload: Option<Route>,
    results: Option<Route>,
) -> Subject {
    let routes = Routes {
        complete: Some(Route::new("POST", "/vertex/*:generateContent").counted_as(COMPLETE)),
        upload,
        create: Some(Route::new("POST", "/vertex/*/batchPredictionJobs").counted_as(JOBS)),
        status: Some(Route::new("GET", "/vertex/*/batchPredictionJobs/*").counted_as(JOB)),
        results,
    };
    Subject::new(name, Face::Vertex, MODEL, routes, move |place| {
        let origin = place.base_url.trim_end_matches("/vertex");
        let vertex = Vertex::builder("proj", "us-central1", Credentials::token(&place.key))
            .bucket("bkt")
            .dataset("ds")
            .input(side)
            .output(side)
            .base_url(&place.base_url)
            .storage_url(format!("{origin}/gcs"))
            .bigquery_url(format!("{origin}/bigquery"));
        Ok(Made::both(vertex.build()?))
    })
    .without(
        "realtime::f_001_f_013_a_full_minute_says_how_long_to_wait",
        "Vertex AI names no delay",
    )
    .without(
        "realtime::rate_limits_are_read_from_answers",
        "Vertex AI tells no limits",
    )
}

fn main() -> std::process::ExitCode {
    let objects = subject(
        "objects",
        Side::Storage,
        Some(
            Route::new("POST", "/gcs/upload/storage/v1/b/bkt/o")
                .counted_as("/gcs/upload/storage/v1/b/{bucket}/o"),
        ),
        Some(
            Route::new("GET", "/gcs/storage/v1/b/bkt/o/*")
                .counted_as("/gcs/storage/v1/b/{bucket}/o/{object}"),
        ),
    );
    let tables = subject("tables", Side::BigQuery, None, None);
    batchwright_testkit::run(vec![objects, tables, live()])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so. The key is an access token,
/// as `gcloud auth print-access-token` gives it; project, location and bucket come from the variables of the README.
fn live() -> Subject {
    let named = |name: &str, otherwise: &str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty());
        value.unwrap_or_else(|| otherwise.to_owned())
    };
    let location = named("GOOGLE_CLOUD_LOCATION", "us-central1");
    let base_url = format!("https://{location}-aiplatform.googleapis.com");
    let account = Live::new("vertex", "GOOGLE_OAUTH_ACCESS_TOKEN", base_url);
    let (project, bucket) = (
        named("GOOGLE_CLOUD_PROJECT", "not-named"),
        named("BATCHWRIGHT_VERTEX_BUCKET", "not-named"),
    );
    Subject::live("live", account, MODEL, move |place: &Place| {
        let token = Credentials::token(&place.key);
        let vertex = Vertex::builder(&project, &location, token)
            .bucket(&bucket)
            .base_url(&place.base_url);
        Ok(Made::both(vertex.build()?))
    })
}
