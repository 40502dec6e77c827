//! Every behaviour all providers must show, with batches by file and inline.

use batchwright_emulator::Face;
use batchwright_provider_gemini::Gemini;
use batchwright_testkit::{Made, Route, Routes, Subject};

fn main() -> std::process::ExitCode {
    let subject = |name, inline_up_to| {
        let model = "/gemini/v1beta/models/gemini-2.5-flash";
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
            status: Some(
                Route::new("GET", "/gemini/v1beta/batches/*")
                    .counted_as("/gemini/{version}/batches/{batch_id}"),
            ),
            results: Some(
                Route::new("GET", "/gemini/download/v1beta/files/*")
                    .counted_as("/gemini/{version}/files/{file_id}:download"),
            ),
        };
        let _ = model;
        Subject::new(
            name,
            Face::Gemini,
            "gemini-2.5-flash",
            routes,
            move |place| {
                let gemini = Gemini::builder(&place.key)
                    .base_url(&place.base_url)
                    .inline_up_to(inline_up_to);
                Ok(Made::both(gemini.build()?))
            },
        )
        .without(
            "realtime::rate_limits_are_read_from_answers",
            "the vendor sends no rate-limit headers",
        )
    };
    batchwright_testkit::run(vec![subject("by_file", 0), subject("inline", 19_000_000)])
}
