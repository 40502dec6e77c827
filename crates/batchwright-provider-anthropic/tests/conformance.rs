//! Every behaviour all providers must show.

use batchwright_emulator::Face;
use batchwright_provider_anthropic::{Anthropic, Auth};
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

fn main() -> std::process::ExitCode {
    let batches = "/anthropic/v1/messages/batches";
    let routes = Routes {
        complete: Some(Route::new("POST", "/anthropic/v1/messages")),
        upload: None,
        create: Some(Route::new("POST", batches)),
        status: Some(Route::new("GET", "/anthropic/v1/messages/batches/*")),
        results: Some(Route::new(
            "GET",
            "/anthropic/v1/messages/batches/*/results",
        )),
    };
    let subject = |name, auth, stream_above| {
        Subject::new(
            name,
            Face::Anthropic,
            "claude-haiku-4-5",
            routes,
            move |place| {
                let anthropic = Anthropic::builder(&place.key)
                    .base_url(&place.base_url)
                    .auth(auth)
                    .stream_above(stream_above);
                Ok(Made::both(anthropic.build()?))
            },
        )
        .without(
            "realtime::rate_limits_are_read_from_answers",
            "the vendor rounds what is left to thousands; tests/it has the case",
        )
    };
    batchwright_testkit::run(vec![
        subject("whole", Auth::ApiKey, 21_333),
        // Every direct call streamed, and the key as the newer clients send it.
        subject("streamed", Auth::Bearer, 0),
        live(),
    ])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so.
fn live() -> Subject {
    let account = Live::new(
        "anthropic",
        "ANTHROPIC_API_KEY",
        "https://api.anthropic.com",
    );
    Subject::live("live", account, "claude-haiku-4-5", |place: &Place| {
        let anthropic = Anthropic::builder(&place.key).base_url(&place.base_url);
        Ok(Made::both(anthropic.build()?))
    })
}
