//! The faces: one provider's protocol each, over the same engine.
//!
//! # How a face is added
//!
//! 1. A folder `src/face/NAME/` with a `mod.rs` that has a `pub(super) static SERVICE: NameFace` of a type that
//!    implements [`Service`] and [`BatchRows`]; [`openai`] is the one to look at. Then one line in the table
//!    `faces!` in `face/mod.rs`. Nothing else outside the folder changes.
//! 2. [`Service::handle`] gets every call whose path [`Service::answers`]: by default everything under
//!    [`Service::base`]. It never fails: errors are answers in the vendor's shape. Begin with
//!    [`Engine::next_sequence`], the call's own number, from which [`crate::seed::id`] makes ids; then
//!    [`wire::caller`] with the vendor's [`wire::KeyPlace`]s for the key's fingerprint (a face whose credentials
//!    change, such as OAuth tokens, takes the fingerprint of what they stand for, a project say).
//! 3. A direct call: read the body with [`crate::server::read_body`], find the [`crate::model::Model`] in the face's
//!    own table, make a [`PromptHash`](crate::answer::PromptHash) over the texts of all messages in order (system
//!    first), and ask [`Ask::answer`](crate::chat::Ask::answer). It gives a [`Said`](crate::chat::Said) to be written
//!    in the vendor's shape, or the status of an `[[error:…]]`. Let it in with [`Engine::limiter`] before
//!    (`Refusal` has what the rate headers need), and bill it with [`Engine::invoice`] before anything is sent.
//! 4. A batch: [`BatchRecord::new`](crate::batch::BatchRecord::new), then the fields that matter (`endpoint`, the window
//!    as `expires_ms`, `results_live_ms`, `total` if it is known, `extra` for whatever else the face must show again),
//!    `faults.quirks()`, and [`Engine::create_batch`]. Rows that come with the creation are first written as lines to
//!    `engine.files.scratch_path(sequence)`; rows in an uploaded file are named by `input_file_id`; rows in any other
//!    place are brought by [`BatchRows::stage`]. A vendor that validates at
//!    creation looks at the lines with [`batch::scan`](crate::batch::scan) and creates
//!    [`BatchRecord::validated`](crate::batch::BatchRecord::validated).
//!    The engine does the rest: validating, executing, expiring, cancelling ([`BatchCell::cancel`]), results.
//!    [`BatchState`](crate::batch::BatchState) and counts are put into the vendor's words when shown.
//!    [`BatchRows`] says what its lines look like, and by its provided methods whether failed rows have a file of
//!    their own, whether order is kept, which ends have results, and where results files go.
//! 5. Files, results among them, are in [`Engine::files`], per face and key; [`download::send`] sends one with ranges
//!    and with the faults that spoil downloads. Ids may be any text, and are unique over all faces and keys: where
//!    callers choose names, put the key's fingerprint before them.
//! 6. What must be remembered besides (upload sessions, caches): [`Engine::state`], one value per type, in memory; or
//!    records of its own in a folder of [`Engine::dir`].
//! 7. Options: [`Service::options`] and [`Service::set_options`], served at `/emulator/faces/NAME` and set at the start
//!    by [`EmulatorConfig::with_face_options`](crate::EmulatorConfig::with_face_options).
//! 8. [`Service::route`] names routes for the counts, ids left out.
//!
//! Tests are in `tests/it/NAME.rs`.
//!
//! [`BatchCell::cancel`]: crate::batch::BatchCell::cancel

use std::fmt;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use serde_json::Value;

use crate::batch::BatchRows;
use crate::engine::Engine;
use crate::faults::{BatchQuirks, FaultAction, Mutation};

pub(crate) mod download;
pub(crate) mod wire;

/// Makes [`Face`], its modules and the way to their services from one table.
macro_rules! faces {
    ($($(#[$doc:meta])* $variant:ident => $module:ident,)*) => {
        $(mod $module;)*

        /// A provider's protocol, served under a path of its own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Face {
            $($(#[$doc])* $variant,)*
        }

        impl Face {
            /// All faces.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
        }

        /// What answers for a face.
        pub(crate) fn service(face: Face) -> &'static dyn Service {
            match face {
                $(Face::$variant => &$module::SERVICE,)*
            }
        }
    };
}

// One line per face. Where two faces answer the same path, the first one does.
faces! {
    /// OpenAI: chat completions, responses, embeddings, models, files, batches.
    OpenAi => openai,
    /// Groq: chat completions, models, files, batches.
    Groq => groq,
    /// kluster.ai as it was: chat completions, models, files, batches.
    Kluster => kluster,
    /// A server that calls itself compatible with OpenAI, with a switch for every way in which such servers were seen
    /// to differ, and Azure's paths.
    Compatible => compatible,
    /// Anthropic: messages, token counts, models, Message Batches.
    Anthropic => anthropic,
    /// Google's Gemini developer API: generateContent, embeddings, cached contents, files, batches.
    Gemini => gemini,
    /// Google Vertex AI: generateContent and batch prediction jobs, with Cloud Storage, BigQuery, the token endpoint and
    /// the metadata server beside it.
    Vertex => vertex,
}

impl Face {
    /// The path that clients have in their base URL, for example `/openai/v1`.
    #[must_use]
    pub fn base_path(self) -> &'static str {
        service(self).base()
    }

    /// The name in records and on the invoice, for example `openai`.
    #[must_use]
    pub fn name(self) -> &'static str {
        service(self).face()
    }

    /// The face of a name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|face| face.name() == name)
    }

    fn of(path: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|face| service(*face).answers(path))
    }
}

/// What answers for a face: a static of the face's folder.
pub(crate) trait Service: BatchRows + fmt::Debug {
    /// The path that clients have in their base URL, for example `/openai/v1`.
    fn base(&self) -> &'static str;

    /// Whether a path belongs to this face. Default: everything under [`Self::base`].
    fn answers(&self, path: &str) -> bool {
        under(self.base(), path)
    }

    /// The route a path belongs to, with its ids left out; `None` for unknown paths.
    fn route(&self, path: &str) -> Option<RouteName>;

    /// Answers a call.
    fn handle<'a>(
        &'static self,
        engine: &'a Arc<Engine>,
        request: Request,
        faults: Faults,
    ) -> BoxFuture<'a, Response>;

    /// The options in force; null for a face that has none.
    fn options(&self, _engine: &Engine) -> Value {
        Value::Null
    }

    /// Sets the options that are in the object; the others stay as they are.
    fn set_options(&self, _engine: &Engine, _options: &Value) -> Result<(), String> {
        Err("it has no options".to_owned())
    }
}

/// Whether a path is a base path or below it.
pub(crate) fn under(base: &str, path: &str) -> bool {
    path.strip_prefix(base)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A route as the counts name it: a face's base path and the rest, ids left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RouteName {
    pub(crate) base: &'static str,
    /// For example `/batches/{batch_id}`.
    pub(crate) rest: &'static str,
}

impl RouteName {
    /// Whether it is written so.
    pub(crate) fn is(self, text: &str) -> bool {
        text.strip_prefix(self.base) == Some(self.rest)
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base)?;
        f.write_str(self.rest)
    }
}

/// What the fault script wants of the call at hand, for the parts that only a face can do.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) actions: Vec<FaultAction>,
}

impl Faults {
    /// What becomes of a batch that this call creates.
    pub(crate) fn quirks(&self) -> BatchQuirks {
        BatchQuirks::from_actions(&self.actions)
    }

    /// How the file that this call downloads is spoiled.
    pub(crate) fn mutations(&self) -> Vec<&Mutation> {
        self.actions
            .iter()
            .filter_map(|action| match action {
                FaultAction::MutateResults(mutation) => Some(mutation),
                _ => None,
            })
            .collect()
    }
}

/// The route a path belongs to; `None` for unknown paths.
pub(crate) fn route(path: &str) -> Option<RouteName> {
    service(Face::of(path)?).route(path)
}

/// Answers a call.
pub(crate) async fn handle(engine: &Arc<Engine>, request: Request, faults: Faults) -> Response {
    match Face::of(request.uri().path()) {
        Some(face) => service(face).handle(engine, request, faults).await,
        None => (StatusCode::NOT_FOUND, "no such face\n").into_response(),
    }
}

/// The rows of a face's batches.
pub(crate) fn batch_rows(face: &str) -> Option<&'static dyn BatchRows> {
    Face::named(face).map(|face| service(face) as &dyn BatchRows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_have_their_own_names_and_paths() {
        for face in Face::ALL {
            assert_eq!(Face::named(face.name()), Some(*face));
            let path = format!("{}/x", face.base_path());
            assert_eq!(Face::of(&path), Some(*face), "{path}");
        }
        assert_eq!(Face::of("/nowhere/v1"), None);
        assert_eq!(Face::of("/openai/v1x"), None);
    }
}
