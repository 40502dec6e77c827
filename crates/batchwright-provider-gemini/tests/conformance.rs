//! Every behaviour all providers must show, with batches by file and inline.

use batchwright_emulator::Face;
use batchwright_provider_gemini::Gemini;
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

const BATCH: Route = Route::new("GET", "/gemini/v1beta/batches/*")
    .counted_as("/gemini/{version}/batches/{batch_id}");
const FILE: Route = Route::new("GET", "/gemini/download/v1beta/files/*")
    .counted_as("/gemini/{version}/files/{file_id}:download");

fn subject(name: &'static str, inline_up_to: u64, results: Route) -> Subject {
    let routes = Routes {
        complete: Some(
            Route::new("POST", "*:generateContent")
                .counted_as("/gemini/{version}/models/{model}:generateContent"),
        ),
        // The step that carries the bytes.
        upload: Some(
            Route::new("POST", "/gemini/upload/v1beta/files/*")
                .counted_as("/gemini/upload/{version}/files/{upload_id}"),
        ),
        create: Some(
            Route::new("POST", "*:batchGenerateContent")
                .counted_as("/gemini/{version}/models/{model}:batchGenerateContent"),
        ),
        status: Some(BATCH),
        results: Some(results),
    };
    let make = move |place: &Place| {
        let gemini = Gemini::builder(&place.key)
            .base_url(&place.base_url)
            .inline_up_to(inline_up_to);
        Ok(Made::both(gemini.build()?))
    };
    Subject::new(name, Face::Gemini, "gemini-2.5-flash", routes, make).without(
        "realtime::rate_limits_are_read_from_answers",
        "the vendor sends no rate-limit headers",
    )
}

fn main() -> std::process::ExitCode {
    let mut inline = subject("inline", 19_000_000, BATCH);
    for case in [
        "files::f_119_an_upload_is_found_again_and_discarded",
        "files::f_113_a_create_without_its_input_buys_nothing",
        "files::an_upload_that_breaks_off_is_found",
        "files::f_118_an_upload_stored_short_is_an_error",
    ] {
        inline = inline.without(case, "a chunk of this size goes inline");
    }
    batchwright_testkit::run(vec![subject("by_file", 0, FILE), inline, live()])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so.
fn live() -> Subject {
    let base_url = "https://generativelanguage.googleapis.com";
    let account = Live::new("gemini", "GEMINI_API_KEY", base_url);
    Subject::live("live", account, "gemini-2.5-flash", |place: &Place| {
        let gemini = Gemini::builder(&place.key).base_url(&place.base_url);
        Ok(Made::both(gemini.build()?))
    })
}
