//! The switches of this face.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;

/// What the vendor's documents leave open, or what went wrong there; the defaults are the vendor's usual ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    pub(super) counts: CountsMove,
    pub(super) row_request_ids: RowRequestIds,
    pub(super) times: Times,
    pub(super) spend_limit: SpendLimit,
    /// An `error.type` that ends every stream half way.
    pub(super) stream_error: Option<String>,
    /// Shown as `results_url` in place of the true one.
    pub(super) results_url: Option<String>,
    pub(super) cancel_ended: CancelEnded,
    /// Most requests of all unfinished batches of a key.
    pub(super) queued_requests: Option<u64>,
    /// Whether a 429 says when to come back.
    pub(super) retry_after: bool,
}

/// When the counts of a batch leave `processing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CountsMove {
    AtEnd,
    Live,
}

/// The `request_id` of an errored row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RowRequestIds {
    Null,
    Absent,
    Worker,
}

/// How instants are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Times {
    /// With microseconds and `+00:00`.
    Offset,
    /// Whole seconds and `Z`.
    Zulu,
}

/// Which spend limit is reached, if any: everything that costs is then refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SpendLimit {
    None,
    /// 429 `enforced_spend_limit_reached` without `retry-after`.
    Enforced,
    /// 429 `contract_spend_limit_reached` without `retry-after`.
    Contract,
    /// 400, of the organization's own making.
    Own,
    /// 400, of the workspace's own making.
    Workspace,
    /// 402 `linked_organization_spend_limit_reached`.
    Linked,
}

/// What a cancel of an ended batch gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CancelEnded {
    /// The batch as it is, 200.
    Unchanged,
    /// 400.
    Refused,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            counts: CountsMove::AtEnd,
            row_request_ids: RowRequestIds::Null,
            times: Times::Offset,
            spend_limit: SpendLimit::None,
            stream_error: None,
            results_url: None,
            cancel_ended: CancelEnded::Unchanged,
            queued_requests: None,
            retry_after: true,
        }
    }
}

impl Options {
    /// These options with those of the object in their place.
    pub(super) fn with(&self, changes: &Value) -> Result<Self, String> {
        let Value::Object(changes) = changes else {
            return Err("options are an object".to_owned());
        };
        let mut all = serde_json::to_value(self).map_err(|error| error.to_string())?;
        for (name, value) in changes {
            all[name] = value.clone();
        }
        let changed: Self = serde_json::from_value(all).map_err(|error| error.to_string())?;
        if let Some(kind) = &changed.stream_error
            && ApiError::of_kind(kind).is_none()
        {
            return Err(format!("{kind} is no error type"));
        }
        Ok(changed)
    }
}

impl SpendLimit {
    /// What everything that costs is answered.
    pub(super) fn refusal(self) -> Option<ApiError> {
        let of = |status, kind, message, code| {
            let mut error = ApiError::new(status, kind, message);
            error.code = code;
            Some(error)
        };
        match self {
            Self::None => None,
            Self::Enforced => of(
                429,
                "rate_limit_error",
                "You have reached your API usage limits: your organization has crossed its monthly API usage \
                 threshold. You will regain access on 2026-12-01 at 00:00 UTC.",
                Some("enforced_spend_limit_reached"),
            ),
            Self::Contract => of(
                429,
                "rate_limit_error",
                "You have reached your API usage limits: your organization has used up its contract.",
                Some("contract_spend_limit_reached"),
            ),
            Self::Own => of(
                400,
                "invalid_request_error",
                "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
                None,
            ),
            Self::Workspace => of(
                400,
                "invalid_request_error",
                "You have reached your specified workspace API usage limits. You will regain access on 2026-12-01 at \
                 00:00 UTC.",
                None,
            ),
            Self::Linked => of(
                402,
                "billing_error",
                "The linked organization has reached its spend limit.",
                Some("linked_organization_spend_limit_reached"),
            ),
        }
    }
}

/// The options in force.
#[derive(Debug, Default)]
pub(super) struct Settings(Mutex<Arc<Options>>);

impl Settings {
    pub(super) fn get(&self) -> Arc<Options> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set(&self, options: Options) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }
}
