//! Every behaviour all providers must show, over the emulator's face of Groq.

use batchwright_emulator::Face;
use batchwright_provider_groq::{GROQ, builder};
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

fn main() -> std::process::ExitCode {
    let routes = Routes {
        complete: Some(Route::new("POST", "/groq/openai/v1/chat/completions")),
        upload: Some(Route::new("POST", "/groq/openai/v1/files")),
        create: Some(Route::new("POST", "/groq/openai/v1/batches")),
        status: Some(Route::new("GET", "/groq/openai/v1/batches/*")),
        results: Some(Route::new("GET", "/groq/openai/v1/files/*/content")),
    };
    let subject = Subject::new(
        "groq",
        Face::Groq,
        "llama-3.1-8b-instant",
        routes,
        |place| {
            Ok(Made::both(
                builder(&place.key).base_url(&place.base_url).build()?,
            ))
        },
    );
    batchwright_testkit::run(vec![
        subject
            .without("life::f_063_a_refusal_is_an_answer", NO_REFUSALS)
            .without("realtime::f_062_f_063_a_refusal_is_told", NO_REFUSALS)
            .without(
                "realtime::f_062_a_filtered_answer_is_told",
                "it has no such finish reason",
            ),
        live(),
    ])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so.
fn live() -> Subject {
    let account = Live::new("groq", GROQ.key_var, GROQ.base_url);
    Subject::live("live", account, "llama-3.1-8b-instant", |place: &Place| {
        let groq = builder(&place.key).base_url(&place.base_url);
        Ok(Made::both(groq.build()?))
    })
}

/// Why two cases are left out.
const NO_REFUSALS: &str = "it sends refusals as plain text, which nothing tells apart";
