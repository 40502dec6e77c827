//! The faces: one provider's protocol each, over the same engine.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use crate::batch::BatchRows;
use crate::engine::Engine;
use crate::faults::{BatchQuirks, FaultAction, Mutation};

mod openai;

/// A provider's protocol, served under a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Face {
    /// OpenAI: chat completions, responses, embeddings, models, files, batches.
    OpenAi,
}

impl Face {
    /// All faces.
    pub const ALL: [Self; 1] = [Self::OpenAi];

    /// The path that clients have in their base URL, for example `/openai/v1`.
    #[must_use]
    pub fn base_path(self) -> &'static str {
        match self {
            Self::OpenAi => openai::BASE,
        }
    }

    /// The name in records and on the invoice, for example `openai`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => openai::NAME,
        }
    }

    fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|face| {
            path.strip_prefix(face.base_path())
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }
}

/// What the fault script wants of the call at hand, for the parts that only a face can do.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) actions: Vec<FaultAction>,
}

impl Faults {
    fn quirks(&self) -> BatchQuirks {
        BatchQuirks::from_actions(&self.actions)
    }

    fn mutations(&self) -> Vec<&Mutation> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                FaultAction::MutateResults(mutation) => Some(mutation),
                _ => None,
            })
            .collect()
    }
}

/// The route a path belongs to, with its ids left out; `None` for unknown paths.
pub(crate) fn route_name(path: &str) -> Option<&'static str> {
    match Face::of(path)? {
        Face::OpenAi => openai::route_name(path),
    }
}

/// Answers a call.
pub(crate) async fn handle(engine: &Arc<Engine>, request: Request, faults: Faults) -> Response {
    match Face::of(request.uri().path()) {
        Some(Face::OpenAi) => openai::handle(engine, request, faults).await,
        None => (StatusCode::NOT_FOUND, "no such face\n").into_response(),
    }
}

/// The rows of a face's batches.
pub(crate) fn batch_rows(face: &str) -> Option<&'static dyn BatchRows> {
    match face {
        openai::NAME => Some(&openai::Rows),
        _ => None,
    }
}
