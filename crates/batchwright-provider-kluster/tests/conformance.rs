//! Every behaviour all providers must show, over the emulator's face of kluster.ai.

use batchwright_emulator::Face;
use batchwright_provider_kluster::{KLUSTER, builder};
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

fn main() -> std::process::ExitCode {
    let routes = Routes {
        complete: Some(Route::new("POST", "/kluster/v1/chat/completions")),
        upload: Some(Route::new("POST", "/kluster/v1/files")),
        create: Some(Route::new("POST", "/kluster/v1/batches")),
        status: Some(Route::new("GET", "/kluster/v1/batches/*")),
        results: Some(Route::new("GET", "/kluster/v1/files/*/content")),
    };
    let subject = Subject::new(
        "kluster",
        Face::Kluster,
        "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo",
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
                "realtime::rate_limits_are_read_from_answers",
                "it documents no such headers",
            ),
        live(),
    ])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so; only free ones, since no
/// price is known.
fn live() -> Subject {
    let account = Live::new("kluster", KLUSTER.key_var, KLUSTER.base_url);
    let model = "klusterai/Meta-Llama-3.1-8B-Instruct-Turbo";
    Subject::live("live", account, model, |place: &Place| {
        let kluster = builder(&place.key).base_url(&place.base_url);
        Ok(Made::both(kluster.build()?))
    })
}

/// Why two cases are left out.
const NO_REFUSALS: &str = "it sends refusals as plain text, which nothing tells apart";
