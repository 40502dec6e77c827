//! Every behaviour all providers must show, in every way a conversation can go.

use batchwright_emulator::Face;
use batchwright_provider_openai::{ChatApi, Dialect, OpenAi};
use batchwright_testkit::{Live, Made, Place, Route, Routes, Subject};

fn main() -> std::process::ExitCode {
    let subject = |name, api, complete, stream_above| {
        let routes = Routes {
            complete: Some(Route::new("POST", complete)),
            upload: Some(Route::new("POST", "/openai/v1/files")),
            create: Some(Route::new("POST", "/openai/v1/batches")),
            status: Some(Route::new("GET", "/openai/v1/batches/*")),
            results: Some(Route::new("GET", "/openai/v1/files/*/content")),
        };
        Subject::new(name, Face::OpenAi, "gpt-4o-mini", routes, move |place| {
            let openai = OpenAi::builder(&place.key)
                .base_url(&place.base_url)
                .chat_api(api)
                .stream_above(stream_above);
            Ok(Made::both(openai.build()?))
        })
    };
    batchwright_testkit::run(vec![
        subject(
            "chat_completions",
            ChatApi::ChatCompletions,
            "/openai/v1/chat/completions",
            u32::MAX,
        ),
        // Every conversation in pieces.
        subject(
            "streamed",
            ChatApi::ChatCompletions,
            "/openai/v1/chat/completions",
            0,
        ),
        subject(
            "responses",
            ChatApi::Responses,
            "/openai/v1/responses",
            u32::MAX,
        ),
        live(),
    ])
}

/// A few cases over the vendor itself, where `BATCHWRIGHT_LIVE` and a cap on the cost say so.
fn live() -> Subject {
    let dialect = Dialect::OPENAI;
    let account = Live::new("openai", dialect.key_var, dialect.base_url);
    Subject::live("live", account, "gpt-4o-mini", |place: &Place| {
        let openai = OpenAi::builder(&place.key).base_url(&place.base_url);
        Ok(Made::both(openai.build()?))
    })
}
