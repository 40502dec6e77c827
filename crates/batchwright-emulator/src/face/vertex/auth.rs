//! Access tokens: the token endpoint, the metadata server, and who a token stands for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use serde_json::{Value, json};

use super::encoding::base64url;
use super::error::ApiError;
use super::{Call, read};
use crate::engine::{Engine, fingerprint};
use crate::face::wire::{self, KeyFault, KeyPlace, Query};
use crate::seed::id;

/// What the token endpoint's tokens begin with.
const TOKEN: &str = "ya29.emulated-";
/// The longest a signed assertion may be good for, in seconds.
const LONGEST_GRANT: i64 = 3600;

/// Tokens given out; a state of the engine.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Token>>);

#[derive(Clone, Debug)]
struct Token {
    /// The service account's project; none for tokens that open every project.
    project: Option<String>,
    expires_ms: i64,
}

/// Who calls.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The one project that the token opens; none: every project.
    pub(super) project: Option<String>,
}

/// Who the call's token stands for.
pub(super) fn caller(engine: &Engine, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(token) = bearer.filter(|token| token.starts_with(TOKEN)) {
        let tokens = engine.state::<Tokens>();
        let tokens = tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = engine.clock.now_ms();
        return match tokens.get(token) {
            Some(known) if now_ms < known.expires_ms => Ok(Caller {
                project: known.project.clone(),
            }),
            _ => Err(unauthenticated("ACCESS_TOKEN_EXPIRED")),
        };
    }
    match wire::caller(engine, headers, "", &[KeyPlace::Bearer]) {
        Ok(_) => Ok(Caller { project: None }),
        Err(KeyFault::Missing) => Err(unauthenticated("CREDENTIALS_MISSING")),
        Err(KeyFault::Unknown) => Err(unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED")),
    }
}

fn unauthenticated(reason: &'static str) -> ApiError {
    ApiError::new(
        401,
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
         authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    )
    .with_info(reason)
}

/// `POST /oauth2/token`: a signed assertion of a service account, or a user's refresh token.
///
/// Signatures are not checked, since keys are made by whoever tests; the form and the claims are.
pub(super) async fn token(call: &Call<'_>, body: Body) -> Result<Response, ApiError> {
    let body = read(body, 64 << 10).await?;
    let form = Query::parse(&String::from_utf8_lossy(&body));
    let keys = &call.engine.config.keys;
    let known = |name: &str| keys.is_empty() || keys.iter().any(|key| key == name);
    let project = match form.get("grant_type") {
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => {
            let account = account(form.get("assertion").unwrap_or_default())?;
            if !known(&account) {
                return Err(grant("Invalid grant: account not found"));
            }
            let project = account
                .split_once('@')
                .and_then(|(_, host)| host.strip_suffix(".iam.gserviceaccount.com"));
            project.map(str::to_owned)
        }
        Some("refresh_token") => {
            let all = ["client_id", "client_secret", "refresh_token"]
                .iter()
                .all(|name| form.get(name).is_some_and(|value| !value.is_empty()));
            if !all {
                return Err(ApiError::oauth(
                    400,
                    "invalid_request",
                    "Missing required parameter",
                ));
            }
            if !known(form.get("refresh_token").unwrap_or_default()) {
                return Err(grant("Token has been expired or revoked."));
            }
            None
        }
        _ => {
            return Err(ApiError::oauth(
                400,
                "unsupported_grant_type",
                "Invalid grant_type",
            ));
        }
    };
    Ok(wire::json(&issue(call, project)))
}

/// `/computeMetadata/v1/…`: a token of the machine's own account, and its project.
pub(super) fn metadata(
    call: &Call<'_>,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if headers
        .get("metadata-flavor")
        .is_none_or(|value| value != "Google")
    {
        return Err(ApiError::new(403, "Missing Metadata-Flavor:Google header."));
    }
    let mut response = match path.trim_end_matches('/') {
        "instance/service-accounts/default/token" => wire::json(&issue(call, None)),
        "instance/service-accounts/default" => wire::json(&json!({
            "aliases": ["default"],
            "email": "default@emulated.iam.gserviceaccount.com",
            "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
        })),
        "project/project-id" => plain(call.options.project.clone()),
        "universe/universe-domain" => plain("googleapis.com".to_owned()),
        _ => return Err(ApiError::of_status(404)),
    };
    response
        .headers_mut()
        .insert("metadata-flavor", HeaderValue::from_static("Google"));
    Ok(response)
}

fn plain(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/text"),
    );
    response
}

fn issue(call: &Call<'_>, project: Option<String>) -> Value {
    let engine = call.engine;
    let lives = call.options.token_seconds;
    let now_ms = engine.clock.now_ms();
    let token = id(TOKEN, engine.config.seed, 31, call.sequence);
    let tokens = engine.state::<Tokens>();
    let mut tokens = tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
    tokens.retain(|_, known| now_ms < known.expires_ms);
    tokens.insert(
        token.clone(),
        Token {
            project,
            expires_ms: now_ms + lives * 1000,
        },
    );
    json!({"access_token": token, "expires_in": lives, "token_type": "Bearer"})
}

/// The account that an assertion is of.
fn account(assertion: &str) -> Result<String, ApiError> {
    let parts: Vec<&str> = assertion.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        return Err(grant("Invalid JWT: must have three parts."));
    };
    let json = |part| {
        base64url(part)
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .ok_or_else(|| grant("Invalid JWT: not base64url JSON."))
    };
    let (head, claims) = (json(head)?, json(claims)?);
    if head["alg"] != "RS256" || base64url(signature).is_none_or(|bytes| bytes.len() < 128) {
        return Err(grant("Invalid JWT Signature."));
    }
    let (Some(from), Some(until)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
        return Err(grant("Invalid JWT: iat and exp are required."));
    };
    if until <= from || until - from > LONGEST_GRANT {
        return Err(grant(
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe.",
        ));
    }
    if claims["aud"].as_str().is_none_or(str::is_empty) {
        return Err(grant("Invalid JWT: Failed audience check."));
    }
    if claims["scope"].as_str().is_none_or(str::is_empty) {
        return Err(ApiError::oauth(
            400,
            "invalid_scope",
            "Invalid OAuth scope or ID token audience provided.",
        ));
    }
    match claims["iss"].as_str() {
        Some(account) if account.contains('@') => Ok(account.to_owned()),
        _ => Err(grant("Invalid JWT: iss must be the account.")),
    }
}

fn grant(description: &str) -> ApiError {
    ApiError::oauth(400, "invalid_grant", description)
}

/// What records and the invoice call a project by.
pub(super) fn owner(project: &str) -> String {
    fingerprint(project)
}

/// A project's number, made from its id; a number is its own.
pub(super) fn number(project: &str) -> String {
    if !project.is_empty() && project.bytes().all(|byte| byte.is_ascii_digit()) {
        return project.to_owned();
    }
    let digest = crate::seed::sha256(project.as_bytes());
    let head = [digest[0], digest[1], digest[2], digest[3]];
    (100_000_000_000 + u64::from(u32::from_be_bytes(head))).to_string()
}
