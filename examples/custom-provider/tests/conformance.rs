//! Every behaviour all providers must show, over a server that speaks Quillmere's protocol.

mod server;

use batchwright_core::Result;
use batchwright_example_custom_provider::{Quillmere, QuillmereConfig};
use batchwright_testkit::{Live, Made, Place, Powers, Route, Routes, Subject};
use serde_json::json;
use server::{Server, VOICE};

fn make(place: &Place) -> Result<Made> {
    let config = QuillmereConfig::new(&place.key).with_base_url(&place.base_url);
    Ok(Made::both(Quillmere::new(config)?))
}

fn main() -> std::process::ExitCode {
    let routes = Routes {
        complete: Some(Route::new("POST", "/v3/asks")),
        upload: Some(Route::new("PUT", "/v3/reams/*")),
        create: Some(Route::new("POST", "/v3/presses")),
        status: Some(Route::new("GET", "/v3/presses/*")),
        results: Some(Route::new("GET", "/v3/sheets/*")),
    };
    let start = || Server::start(0);
    let account = Live::new(
        "quillmere",
        "QUILLMERE_KEY",
        "https://api.quillmere.example/v3",
    );
    batchwright_testkit::run(vec![
        Subject::double("quillmere", VOICE, routes, Powers::ALL, start, make)
            .with_refusal(|_, say| json!({"trouble": {"sort": "bad_form", "say": say}})),
        // Ignored unless somebody asks for it; and what costs is for good, since no table has Quillmere's prices.
        Subject::live("live", account, VOICE, make),
    ])
}
