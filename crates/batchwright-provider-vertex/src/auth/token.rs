//! Access tokens: got once for all who wait, kept until shortly before their end.

use super::credentials::{AuthorizedUser, Credentials, ServiceAccount};
use super::encoding::{base64url, escaped};
use batchwright_core::{Error, ErrorKind, Result, RetryClass};
use batchwright_http::{
    Asked, BaseUrl, Body, Call, HttpClient, HttpClientBuilder, Limits, Reply, Secret,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
    hollow,
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use ring::{rand::SystemRandom, signature::RSA_PKCS1_SHA256};
use serde::Deserialize;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Covers Vertex AI, Cloud Storage and BigQuery.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long before its end a token is renewed, as Google's own libraries do (google-auth, `REFRESH_THRESHOLD`).
const MARGIN: Duration = Duration::from_secs(225);
/// What a token lives whose answer does not say.
const LIVES: u64 = 3600;
/// The longest the metadata server is waited for; it stands beside the machine.
const METADATA_WAIT: Duration = Duration::from_secs(3);

/// A token ready to be sent.
#[derive(Clone)]
pub(crate) struct Token {
    /// The whole header, marked sensitive.
    pub(crate) header: HeaderValue,
    secret: Secret,
    /// When it is to be renewed; never, for one that cannot be.
    renew: Option<Instant>,
    got: Instant,
}

type Fetch = Shared<BoxFuture<'static, Result<Token>>>;

/// Gives tokens out.
pub(crate) struct Tokens {
    source: Arc<Source>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Token>,
    /// A fetch under way and its number.
    fetch: Option<(u64, Fetch)>,
    fetches: u64,
}

struct Source {
    credentials: Credentials,
    http: HttpClient,
    /// The token endpoint; none for a fixed token.
    url: Option<BaseUrl>,
}

impl Tokens {
    pub(crate) fn new(
        credentials: Credentials,
        http: &HttpClient,
        builder: &HttpClientBuilder,
        allow_plain_http: bool,
    ) -> Result<Self> {
        let (url, http) = match &credentials {
            Credentials::Token(secret) => {
                // An unusable token is found here and not with the first call.
                secret.header_value("Bearer ")?;
                (None, http.clone())
            }
            Credentials::ServiceAccount(account) => (
                Some(BaseUrl::parse(&account.token_uri, allow_plain_http)?),
                http.clone(),
            ),
            Credentials::AuthorizedUser(user) => (
                Some(BaseUrl::parse(&user.token_uri, allow_plain_http)?),
                http.clone(),
            ),
            Credentials::Metadata { host } => {
                // Plain by design: it is a link-local address, and no proxy can reach it.
                let url = BaseUrl::parse(&format!("http://{host}/computeMetadata/v1"), true)?;
                (Some(url), builder.clone().no_proxy().build()?)
            }
        };
        let source = Arc::new(Source {
            credentials,
            http,
            url,
        });
        Ok(Self {
            source,
            state: Mutex::default(),
        })
    }

    /// A token, and whether it was held before this call, so that a refusal of it may mean that it ended.
    ///
    /// # Errors
    /// Of class `NotSent` where trying again may help, since the call it is for has not been sent.
    pub(crate) async fn get(&self) -> Result<(Token, bool)> {
        let (number, fetch) = match self.held_or_fetch() {
            Ok(token) => {
                let held = token.renew.is_some();
                return Ok((token, held));
            }
            Err(fetch) => fetch,
        };
        let got = fetch.await;
        self.settle(number, &got);
        got.map(|token| (token, false))
    }

    /// Forgets a token that was refused, unless another has taken its place.
    pub(crate) fn forget(&self, token: &Token) {
        let mut state = self.lock();
        state.held.take_if(|held| held.got == token.got);
    }

    /// What must never show.
    pub(crate) fn secrets(&self) -> Vec<Secret> {
        let held = self.lock().held.clone().map(|token| token.secret);
        let own = match &self.source.credentials {
            Credentials::Token(secret) => vec![secret.clone()],
            Credentials::AuthorizedUser(user) => {
                vec![user.client_secret.clone(), user.refresh_token.clone()]
            }
            _ => Vec::new(),
        };
        held.into_iter().chain(own).collect()
    }

    fn held_or_fetch(&self) -> Result<Token, (u64, Fetch)> {
        let now = Instant::now();
        let mut state = self.lock();
        if let Some(held) = &state.held
            && held.renew.is_none_or(|renew| now < renew)
        {
            return Ok(held.clone());
        }
        if let Some(fetch) = &state.fetch {
            return Err(fetch.clone());
        }
        state.fetches += 1;
        let source = Arc::clone(&self.source);
        let fetch = async move { source.fetch().await }.boxed().shared();
        let fetch = (state.fetches, fetch);
        state.fetch = Some(fetch.clone());
        Err(fetch)
    }

    fn settle(&self, number: u64, got: &Result<Token>) {
        let mut state = self.lock();
        // The first of those who waited does it.
        if state.fetch.take_if(|(own, _)| *own == number).is_some()
            && let Ok(token) = got
        {
            state.held = Some(token.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

#[derive(Deserialize)]
struct Denied {
    #[serde(default)]
    error: String,
}

impl Source {
    async fn fetch(&self) -> Result<Token> {
        let got = Instant::now();
        let (url, reply) = match (&self.credentials, &self.url) {
            (Credentials::Token(secret), _) => {
                return Ok(Token {
                    header: secret.header_value("Bearer ")?,
                    secret: secret.clone(),
                    renew: None,
                    got,
                });
            }
            (Credentials::ServiceAccount(account), Some(url)) => {
                let assertion = assertion(account, now())?;
                let form = [
                    "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=",
                    &assertion,
                ];
                (url, self.post(url, form.concat()).await)
            }
            (Credentials::AuthorizedUser(user), Some(url)) => {
                (url, self.post(url, refresh_form(user)).await)
            }
            (Credentials::Metadata { .. }, Some(url)) => (url, self.ask_metadata(url).await),
            _ => {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    "get an access token: no endpoint",
                ));
            }
        };
        let reply = reply.map_err(|error| unsent(error, url))?;
        if !reply.is_success() {
            return Err(self.denied(&reply));
        }
        let granted: Granted = serde_json::from_slice(&reply.body).map_err(|_| {
            hollow("get an access token: the answer holds none").with_class(RetryClass::NotSent)
        })?;
        let lives = Duration::from_secs(granted.expires_in.unwrap_or(LIVES).min(86_400));
        let secret = Secret::new(granted.access_token);
        Ok(Token {
            header: secret.header_value("Bearer ")?,
            secret,
            renew: Some(got + lives.saturating_sub(MARGIN)),
            got,
        })
    }

    async fn post(&self, url: &BaseUrl, form: String) -> Result<Reply> {
        let call = Call::post("get an access token", url.join("")?)
            .header(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            )
            .body(Body::Bytes(form.into()));
        self.http.send(call).await
    }

    async fn ask_metadata(&self, url: &BaseUrl) -> Result<Reply> {
        let url = url.join("instance/service-accounts/default/token")?;
        let call = Call::get("ask the metadata server for an access token", url)
            .header(
                HeaderName::from_static("metadata-flavor"),
                HeaderValue::from_static("Google"),
            )
            .limits(Limits::poll().within(METADATA_WAIT));
        let reply = self.http.send(call).await?;
        // Whatever else answers at that name is not asked again (F-197). A fault may come from what stands before the
        // metadata server, and passes.
        let fault = reply.status == 429 || reply.status >= 500;
        if !fault && reply.header("metadata-flavor") != Some("Google") {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "ask the metadata server for an access token: what answers is none; set GOOGLE_APPLICATION_CREDENTIALS \
                 or run gcloud auth application-default login",
            ));
        }
        Ok(reply)
    }

    /// The error of a refusal. Google's list of what may pass:
    /// <https://github.com/googleapis/google-auth-library-python>, `oauth2/_client.py`, `_can_retry`.
    fn denied(&self, reply: &Reply) -> Error {
        let word = serde_json::from_slice::<Denied>(&reply.body)
            .map_or(String::new(), |denied| denied.error);
        let passes = matches!(reply.status, 408 | 429 | 500..)
            || matches!(
                &*word,
                "internal_failure" | "server_error" | "temporarily_unavailable"
            );
        let secrets = match &self.credentials {
            Credentials::AuthorizedUser(user) => vec![&user.client_secret, &user.refresh_token],
            _ => Vec::new(),
        };
        let error = crate::error::ERRORS
            .of_reply(Asked::Object, reply, &secrets)
            .context("get an access token");
        if passes {
            return error.with_class(RetryClass::NotSent);
        }
        let message = error.message().to_owned();
        let said = Error::new(ErrorKind::Unauthenticated, message).with_status(reply.status);
        if word.is_empty() {
            said
        } else {
            said.with_code(word)
        }
    }
}

/// A failure to get a token leaves the call it is for unsent.
fn unsent(error: Error, url: &BaseUrl) -> Error {
    match error.class() {
        RetryClass::JobStop => error,
        _ => error
            .with_class(RetryClass::NotSent)
            .context(format!("reach {}", url.origin())),
    }
}

fn refresh_form(user: &AuthorizedUser) -> String {
    format!(
        "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={}",
        escaped(&user.client_id),
        escaped(user.client_secret.expose()),
        escaped(user.refresh_token.expose()),
    )
}

/// Seconds since the epoch by this machine's clock, which Google compares with its own.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs())
}

/// The signed request of a service account (RFC 7523), good for an hour.
fn assertion(account: &ServiceAccount, now: u64) -> Result<String> {
    let head = serde_json::json!({"alg": "RS256", "typ": "JWT", "kid": account.key_id});
    let claims = serde_json::json!({
        "iss": account.email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": now,
        "exp": now + 3600,
    });
    let mut text = [
        base64url(head.to_string().as_bytes()),
        base64url(claims.to_string().as_bytes()),
    ]
    .join(".");
    let mut signature = vec![0; account.key.public().modulus_len()];
    account
        .key
        .sign(
            &RSA_PKCS1_SHA256,
            &SystemRandom::new(),
            text.as_bytes(),
            &mut signature,
        )
        .map_err(|_| Error::new(ErrorKind::Unexpected, "sign the request of an access token"))?;
    text.push('.');
    text.push_str(&base64url(&signature));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{credentials::tests::account_file, encoding::base64_decode};
    use ring::signature::{KeyPair, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use serde_json::{Value, json};
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    fn account(token_uri: &str) -> Credentials {
        let mut file = account_file();
        file["token_uri"] = json!(token_uri);
        Credentials::from_json(&file.to_string()).unwrap()
    }

    fn user(token_uri: &str) -> Credentials {
        let file = json!({"type": "authorized_user", "client_id": "c", "client_secret": "s/+",
            "refresh_token": "CANARY-REFRESH-TOKEN", "token_uri": token_uri});
        Credentials::from_json(&file.to_string()).unwrap()
    }

    fn tokens(credentials: Credentials) -> Tokens {
        let builder = HttpClient::builder();
        let http = builder.clone().build().unwrap();
        Tokens::new(credentials, &http, &builder, false).unwrap()
    }

    async fn server(answer: ResponseTemplate) -> MockServer {
        let server = MockServer::start().await;
        Mock::given(matchers::any())
            .respond_with(answer)
            .mount(&server)
            .await;
        server
    }

    fn granted(seconds: u64) -> ResponseTemplate {
        let body = json!({"access_token": "ya29.x", "expires_in": seconds, "token_type": "Bearer"});
        ResponseTemplate::new(200).set_body_json(body)
    }

    #[test]
    fn an_assertion_is_signed_and_says_who_for_what_and_how_long() {
        let Credentials::ServiceAccount(account) = account("https://oauth2.googleapis.com/token")
        else {
            panic!("an account")
        };
        let text = assertion(&account, 1_795_338_000).unwrap();
        let parts: Vec<&str> = text.split('.').collect();
        let decode = |part: &str| base64_decode(&part.replace('-', "+").replace('_', "/")).unwrap();
        let head: Value = serde_json::from_slice(&decode(parts[0])).unwrap();
        assert_eq!(head, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(
            claims,
            json!({"iss": "sa@proj.iam.gserviceaccount.com", "scope": SCOPE,
                "aud": "https://oauth2.googleapis.com/token", "iat": 1_795_338_000_u64, "exp": 1_795_341_600_u64})
        );
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.key.public_key());
        let signed = [parts[0], parts[1]].join(".");
        key.verify(signed.as_bytes(), &decode(parts[2])).unwrap();
        assert!(key.verify(b"other", &decode(parts[2])).is_err());
    }

    /// F-134: one fetch for all who wait, and another only when it is due or the token was refused.
    #[tokio::test]
    async fn f_134_a_token_is_got_once_for_all_and_renewed_before_its_end() {
        let long = server(granted(3599)).await;
        let tokens = tokens(account(&format!("{}/token", long.uri())));
        let all = futures::future::join_all((0..20).map(|_| tokens.get())).await;
        assert!(
            all.iter().all(|got| !got.as_ref().unwrap().1),
            "none was held before"
        );
        let (token, held) = tokens.get().await.unwrap();
        assert!(held);
        assert_eq!(long.received_requests().await.unwrap().len(), 1);
        tokens.forget(&token);
        assert!(!tokens.get().await.unwrap().1);
        // The old one is forgotten already, and the new one stays.
        tokens.forget(&token);
        assert!(tokens.get().await.unwrap().1);
        assert_eq!(long.received_requests().await.unwrap().len(), 2);

        let short = server(granted(MARGIN.as_secs())).await;
        let tokens = self::tokens(user(&format!("{}/token", short.uri())));
        assert!(!tokens.get().await.unwrap().1);
        assert!(!tokens.get().await.unwrap().1, "due at once");
        let sent = short.received_requests().await.unwrap();
        assert_eq!(sent.len(), 2);
        assert_eq!(
            String::from_utf8_lossy(&sent[0].body),
            "grant_type=refresh_token&client_id=c&client_secret=s%2F%2B&refresh_token=CANARY-REFRESH-TOKEN"
        );
    }

    #[tokio::test]
    async fn a_refusal_stops_and_a_fault_leaves_the_call_unsent() {
        let refusal =
            json!({"error": "invalid_grant", "error_description": "revoked CANARY-REFRESH-TOKEN"});
        for (status, body, class) in [
            (400, refusal.clone(), RetryClass::JobStop),
            (401, refusal, RetryClass::JobStop),
            (400, json!({"error": "server_error"}), RetryClass::NotSent),
            (429, json!({}), RetryClass::NotSent),
            (503, json!({"error": "x"}), RetryClass::NotSent),
            (200, json!({}), RetryClass::NotSent),
        ] {
            let server = server(ResponseTemplate::new(status).set_body_json(&body)).await;
            let tokens = tokens(user(&format!("{}/token", server.uri())));
            let error = tokens.get().await.err().unwrap();
            assert_eq!(error.class(), class, "{status} {body}: {error}");
            assert!(!format!("{error:?}").contains("CANARY"), "F-203: {error:?}");
            assert_eq!(server.received_requests().await.unwrap().len(), 1);
        }
        let nowhere = tokens(user("http://127.0.0.1:1/token"));
        let error = nowhere.get().await.err().unwrap();
        assert_eq!(
            (error.kind(), error.class()),
            (ErrorKind::Connect, RetryClass::NotSent)
        );
    }

    /// F-197: only a metadata server that says so is believed.
    #[tokio::test]
    async fn f_197_the_metadata_server_is_asked_in_its_own_way() {
        let real = server(granted(600).insert_header("metadata-flavor", "Google")).await;
        let host = real.address().to_string();
        let tokens = tokens(Credentials::Metadata { host });
        tokens.get().await.unwrap();
        let asked = &real.received_requests().await.unwrap()[0];
        assert_eq!(
            asked.url.path(),
            "/computeMetadata/v1/instance/service-accounts/default/token"
        );
        assert_eq!(asked.headers["metadata-flavor"], "Google");
        for status in [429, 502, 503] {
            let busy =
                server(ResponseTemplate::new(status).set_body_string("<html>bad</html>")).await;
            let host = busy.address().to_string();
            let error = self::tokens(Credentials::Metadata { host }).get().await;
            let class = error.err().unwrap().class();
            assert_eq!(class, RetryClass::NotSent, "{status}");
        }
        let other = server(granted(600)).await;
        let host = other.address().to_string();
        let error = self::tokens(Credentials::Metadata { host })
            .get()
            .await
            .err()
            .unwrap();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{error}");
    }

    #[test]
    fn f_196_a_token_endpoint_in_clear_text_is_refused() {
        let builder = HttpClient::builder();
        let http = builder.clone().build().unwrap();
        let plain = user("http://example.com/token");
        let error = Tokens::new(plain, &http, &builder, false).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        assert!(Tokens::new(Credentials::token("a b"), &http, &builder, false).is_err());
    }
}
