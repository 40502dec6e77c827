//! The models of the face, with the emulator's own prices.

use axum::response::Response;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::batch::RowUsage;
use crate::face::wire::{self, Query};
use crate::model::Model;

/// A row of a batch costs half, but tokens out of a cache cost there what they cost in a direct call: the two discounts
/// do not add up.
pub(super) const MODELS: &[Model] = &[
    gemini(Model::reasoning(
        "gemini-2.5-flash",
        "gemini-2.5-flash@default",
        [0.30, 0.03, 2.50],
    )),
    gemini(Model::reasoning(
        "gemini-2.5-pro",
        "gemini-2.5-pro@default",
        [1.25, 0.125, 10.0],
    )),
    gemini(Model::chat(
        "gemini-2.5-flash-lite",
        "gemini-2.5-flash-lite@default",
        [0.10, 0.01, 0.40],
    )),
];

const fn gemini(mut model: Model) -> Model {
    model.context = 1_048_576;
    model
}

/// Price in US dollars.
#[expect(
    clippy::cast_precision_loss,
    reason = "token counts of one request are far below 2^53"
)]
pub(super) fn price_usd(model: &Model, usage: RowUsage, batch: bool) -> f64 {
    let [_, cached, _] = model.prices;
    let fresh = RowUsage {
        input: usage.input.saturating_sub(usage.cached),
        cached: 0,
        ..usage
    };
    model.price_usd(fresh, batch) + usage.cached as f64 * cached / 1e6
}

/// A model by its plain name or by any of its resource names.
pub(super) fn find(name: &str) -> Option<&'static Model> {
    let plain = name
        .rsplit_once("publishers/google/models/")
        .map_or(name, |(_, plain)| plain);
    Model::find(MODELS, plain)
}

pub(super) fn missing(name: &str) -> ApiError {
    ApiError::new(404, format!("The PublisherModel {name} does not exist."))
}

fn object(model: &Model) -> Value {
    json!({
        "name": format!("publishers/google/models/{}", model.name),
        "versionId": "default",
        "openSourceCategory": "PROPRIETARY",
        "launchStage": "GA",
    })
}

pub(super) fn get(name: &str) -> Result<Response, ApiError> {
    let model = find(name).ok_or_else(|| missing(name))?;
    Ok(wire::json(&object(model)))
}

/// `pageToken` is the number of models to leave out.
pub(super) fn list(query: &Query) -> Result<Response, ApiError> {
    let number = |name: &str| query.get(name).map(str::parse::<usize>).transpose();
    let bad = |_| ApiError::invalid("Request contains an invalid argument.");
    let size = number("pageSize").map_err(bad)?.filter(|size| *size > 0);
    let from = number("pageToken").map_err(bad)?.unwrap_or(0);
    let size = size.unwrap_or(100);
    let page: Vec<Value> = MODELS.iter().skip(from).take(size).map(object).collect();
    let mut answer = json!({ "publisherModels": page });
    if from + size < MODELS.len() {
        answer["nextPageToken"] = json!((from + size).to_string());
    }
    Ok(wire::json(&answer))
}
