//! What sets the members of the OpenAI family apart, as data.

use std::borrow::Cow;

use serde_json::Value;

use super::body::Endpoint;
use super::quirks::{Preset, Quirks};
use crate::face::wire::KeyPlace;
use crate::model::Model;

/// One member of the family: what does not change while the emulator runs. The rest is in its [`Quirks`].
#[derive(Debug)]
pub(in crate::face) struct Dialect {
    /// The face's name.
    pub(in crate::face) name: &'static str,
    /// The path that clients have in their base URL.
    pub(in crate::face) base: &'static str,
    /// Everything under this path is the face's, whatever of `/openai`, `/api` and `/v1` comes next; for a face that
    /// does not mind how clients join paths.
    pub(in crate::face) root: Option<&'static str>,
    pub(in crate::face) keys: &'static [KeyPlace],
    pub(in crate::face) models: &'static [Model],
    /// Endpoints for direct calls.
    pub(in crate::face) direct: &'static [Endpoint],
    /// Endpoints for batches.
    pub(in crate::face) batched: &'static [Endpoint],
    /// Parameters that bodies may have beside OpenAI's.
    pub(in crate::face) parameters: Parameters,
    /// Whether reasoning models refuse sampling parameters and `max_tokens`.
    pub(in crate::face) strict_reasoning: bool,
    /// Whether an answer can have several choices.
    pub(in crate::face) many_choices: bool,
    /// The tier an answer names when none was asked for; none leaves the key out.
    pub(in crate::face) tier: Option<&'static str>,
    /// Headers on every answer.
    pub(in crate::face) headers: &'static [(&'static str, &'static str)],
    /// What ids of files begin with.
    pub(in crate::face) file_id: &'static str,
    /// What ids of batches begin with.
    pub(in crate::face) batch_id: &'static str,
    pub(in crate::face) purposes: &'static [&'static str],
    /// Most bytes of an upload.
    pub(in crate::face) max_upload: u64,
    /// Most lines of a batch's input.
    pub(in crate::face) max_rows: u64,
    /// Most bytes of a batch's input.
    pub(in crate::face) max_bytes: u64,
    pub(in crate::face) windows: Windows,
    /// Whether the lines of one batch may name different models.
    pub(in crate::face) mixed_models: bool,
    /// Whether a bad line fails only itself, and is shown among the errors of a batch that completes.
    pub(in crate::face) bad_lines_are_rows: bool,
    /// What an output file is called, from its input's id; none makes an id of its own.
    pub(in crate::face) output_suffix: Option<&'static str>,
    /// Whether answers, batches and lists go through `finish`.
    pub(in crate::face) finish: Option<fn(Part<'_>, &mut Value)>,
    /// The switches at the start.
    pub(in crate::face) quirks: fn() -> Quirks,
    /// Named sets of switches for `preset`.
    pub(in crate::face) presets: &'static [Preset],
}

/// What a vendor's `finish` has in hand.
#[derive(Clone, Copy, Debug)]
pub(in crate::face) enum Part<'a> {
    /// A chat answer, or one chunk of a stream; with what its ids are made of.
    Answer { id: &'a str },
    Batch,
    BatchList,
}

/// Parameters beside OpenAI's.
#[derive(Clone, Copy, Debug)]
pub(in crate::face) enum Parameters {
    /// None: unknown ones are refused.
    OpenAi,
    /// These too.
    Also(&'static [&'static str]),
    /// Any: unknown ones are ignored.
    Any,
}

/// Which completion windows a batch may have.
#[derive(Clone, Copy, Debug)]
pub(in crate::face) enum Windows {
    /// These, in hours as in `24h`.
    These(&'static [u32]),
    /// Any number of hours or days from … to …, both in hours.
    Between(u32, u32),
}

impl Windows {
    /// A window in milliseconds, if it is one of these.
    pub(in crate::face) fn ms(self, text: &str) -> Option<i64> {
        let (number, hours_each) = match text.strip_suffix('h') {
            Some(number) => (number, 1),
            None => (text.strip_suffix('d')?, 24),
        };
        let hours = number.parse::<u32>().ok()?.checked_mul(hours_each)?;
        let fits = match self {
            Self::These(known) => hours_each == 1 && known.contains(&hours),
            Self::Between(least, most) => (least..=most).contains(&hours),
        };
        fits.then_some(i64::from(hours) * 3_600_000)
    }

    /// The windows in words, for an error.
    pub(in crate::face) fn words(self) -> String {
        match self {
            Self::These(known) => known
                .iter()
                .map(|hours| format!("'{hours}h'"))
                .collect::<Vec<_>>()
                .join(", "),
            Self::Between(least, most) => format!("from '{least}h' to '{most}h'"),
        }
    }
}

impl Dialect {
    pub(in crate::face) fn model(&self, name: &str) -> Option<&'static Model> {
        Model::find(self.models, name)
    }

    /// The model a request names, or the first one where names do not matter.
    pub(super) fn model_for(&self, quirks: &Quirks, name: &str) -> Option<&'static Model> {
        self.model(name)
            .or_else(|| self.models.first().filter(|_| quirks.any_model))
    }

    /// What of a path comes after the base; `None` when it is not this face's.
    pub(super) fn rest<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        let Some(root) = self.root else {
            return path.strip_prefix(self.base).map(Cow::Borrowed);
        };
        let mut rest = path.strip_prefix(root)?.to_owned();
        while let Some(at) = rest.find("//") {
            rest.remove(at);
        }
        for prefix in ["/openai", "/api", "/v1"] {
            let shorter = rest
                .strip_prefix(prefix)
                .filter(|shorter| shorter.starts_with('/'));
            if let Some(shorter) = shorter {
                rest = shorter.to_owned();
            }
        }
        Some(Cow::Owned(rest))
    }

    /// The endpoint a batch or a line names.
    pub(super) fn endpoint(&self, url: &str) -> Option<Endpoint> {
        let found = match self.root {
            None => Endpoint::of_url(url),
            Some(_) => {
                let path = url.strip_prefix("/v1").unwrap_or(url);
                Endpoint::of_url(&format!("/v1{path}"))
            }
        };
        found.filter(|endpoint| self.batched.contains(endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_with_their_unit() {
        let day = 86_400_000;
        for (windows, text, ms) in [
            (Windows::These(&[24]), "24h", Some(day)),
            (Windows::These(&[24]), "1d", None),
            (Windows::These(&[24, 48, 72]), "72h", Some(3 * day)),
            (Windows::These(&[24, 48, 72]), "36h", None),
            (Windows::Between(24, 168), "7d", Some(7 * day)),
            (Windows::Between(24, 168), "168h", Some(7 * day)),
            (Windows::Between(24, 168), "8d", None),
            (Windows::Between(24, 168), "23h", None),
            (Windows::Between(24, 168), "d", None),
            (Windows::Between(24, 168), "24", None),
        ] {
            assert_eq!(windows.ms(text), ms, "{text}");
        }
    }
}
