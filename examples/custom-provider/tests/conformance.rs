//! Every behaviour all providers must show, over a server that speaks Quillmere's protocol.

mod server;

use batchwright_example_custom_provider::{Quillmere, QuillmereConfig};
use batchwright_testkit::{Made, Powers, Route, Routes, Subject};
use serde_json::json;
use server::{Server, VOICE};

fn main() -> std::process::ExitCode {
    let routes = Routes {
        complete: Some(Route::new("POST", "/v3/asks")),
        upload: Some(Route::new("PUT", "/v3/reams/*")),
        create: Some(Route::new("POST", "/v3/presses")),
        status: Some(Route::new("GET", "/v3/presses/*")),
        results: Some(Route::new("GET", "/v3/sheets/*")),
    };
    let start = || Server::start(0);
    let quillmere = Subject::double("quillmere", VOICE, routes, Powers::ALL, start, |place| {
        let config = QuillmereConfig::new(&place.key).with_base_url(&place.base_url);
        Ok(Made::both(Quillmere::new(config)?))
    })
    .with_refusal(|_, say| json!({"trouble": {"sort": "bad_form", "say": say}}));
    batchwright_testkit::run(vec![quillmere])
}
