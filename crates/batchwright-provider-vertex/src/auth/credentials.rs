//! Who pays: a service account's file, gcloud's user file, the metadata server, or a token of the caller's.

use super::encoding::base64_decode;
use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::Secret;
use ring::signature::RsaKeyPair;
use serde::Deserialize;
use std::{collections::HashMap, fmt, path::Path, sync::Arc};

/// The token endpoint of files that name none.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
/// The metadata server's name inside Google Cloud.
const METADATA_HOST: &str = "metadata.google.internal";
/// gcloud's file, below its folder.
const ADC_FILE: &str = "application_default_credentials.json";

/// Where access tokens come from
/// (<https://cloud.google.com/docs/authentication/application-default-credentials>).
///
/// Its `Debug` names the kind and shows nothing secret.
#[derive(Clone)]
#[non_exhaustive]
pub enum Credentials {
    /// A token the caller got, such as by `gcloud auth print-access-token`. It is never renewed, and ends after an
    /// hour as a rule.
    Token(Secret),
    /// A service account's key.
    ServiceAccount(ServiceAccount),
    /// A person's, as `gcloud auth application-default login` leaves them.
    AuthorizedUser(AuthorizedUser),
    /// The account of the machine, by Google Cloud's metadata server at this host.
    Metadata {
        /// Host and port. Default `metadata.google.internal`.
        host: String,
    },
}

/// A service account's key file.
#[derive(Clone)]
pub struct ServiceAccount {
    pub(crate) email: String,
    pub(crate) key_id: String,
    pub(crate) key: Arc<RsaKeyPair>,
    pub(crate) token_uri: String,
    project: Option<String>,
}

/// gcloud's file of a person.
#[derive(Clone)]
pub struct AuthorizedUser {
    pub(crate) client_id: String,
    pub(crate) client_secret: Secret,
    pub(crate) refresh_token: Secret,
    pub(crate) token_uri: String,
    pub(crate) quota_project: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    r#type: String,
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<String>,
    client_email: Option<String>,
    token_uri: Option<String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    refresh_token: Option<String>,
    quota_project_id: Option<String>,
}

impl Credentials {
    /// A token the caller got.
    pub fn token(token: impl Into<String>) -> Self {
        Self::Token(Secret::new(token.into()))
    }

    /// The account of the machine this runs on.
    pub fn metadata() -> Self {
        Self::Metadata {
            host: METADATA_HOST.to_owned(),
        }
    }

    /// The content of a key file of a service account, or of gcloud's user file.
    ///
    /// # Errors
    /// `ConfigInvalid` where it is neither, lacks a field, or its key is no RSA key. External and impersonated
    /// accounts are not supported.
    pub fn from_json(text: &str) -> Result<Self> {
        let file: File = serde_json::from_str(text)
            .map_err(|_| fault("the file is no JSON object of Google's form"))?;
        let need = |field: Option<String>, name: &str| {
            field
                .filter(|text| !text.trim().is_empty())
                .ok_or_else(|| fault(&format!("the file has no {name}")))
        };
        let token_uri = file.token_uri.unwrap_or_else(|| TOKEN_URI.to_owned());
        match &*file.r#type {
            "service_account" => Ok(Self::ServiceAccount(ServiceAccount {
                email: need(file.client_email, "client_email")?,
                key_id: need(file.private_key_id, "private_key_id")?,
                key: Arc::new(rsa_key(&need(file.private_key, "private_key")?)?),
                token_uri,
                project: file.project_id,
            })),
            "authorized_user" => Ok(Self::AuthorizedUser(AuthorizedUser {
                client_id: need(file.client_id, "client_id")?,
                client_secret: Secret::new(need(file.client_secret, "client_secret")?),
                refresh_token: Secret::new(need(file.refresh_token, "refresh_token")?),
                token_uri,
                quota_project: file.quota_project_id,
            })),
            "external_account" | "impersonated_service_account" => Err(fault(
                "external and impersonated accounts are not supported; use a service account's key, a user's file \
                 or the metadata server",
            )),
            _ => Err(fault(
                "the file's type is neither service_account nor authorized_user",
            )),
        }
    }

    /// Reads a key file of a service account, or gcloud's user file. Blocks while it reads.
    ///
    /// # Errors
    /// As [`Credentials::from_json`]; `ConfigInvalid` also where the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| fault("the file cannot be read").with_source(error))?;
        // Zeroed when it goes.
        let text = Secret::new(text);
        Self::from_json(text.expose())
    }

    /// Google's own order: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, gcloud's user file
    /// (`CLOUDSDK_CONFIG`, else `%APPDATA%\gcloud` or `~/.config/gcloud`), the metadata server (`GCE_METADATA_HOST`)
    /// unless `NO_GCE_CHECK` is `true`. Whether that answers is told by the first call. Blocks while it reads files.
    ///
    /// # Errors
    /// As [`Credentials::from_file`]; `ConfigInvalid` also where there is no file and no metadata server may be asked.
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        const NAMES: [&str; 6] = [
            "GOOGLE_APPLICATION_CREDENTIALS",
            "CLOUDSDK_CONFIG",
            "APPDATA",
            "HOME",
            "GCE_METADATA_HOST",
            "NO_GCE_CHECK",
        ];
        let mut known: HashMap<&str, String> = HashMap::new();
        for (name, value) in pairs {
            if let Some(known_name) = NAMES.iter().find(|known| **known == name.as_ref()) {
                let value: String = value.into();
                if !value.trim().is_empty() {
                    known.insert(known_name, value);
                }
            }
        }
        let get = |name: &str| known.get(name).map(String::as_str);
        if let Some(path) = get("GOOGLE_APPLICATION_CREDENTIALS") {
            return Self::from_file(path);
        }
        let folder = get("CLOUDSDK_CONFIG")
            .map(|folder| Path::new(folder).to_owned())
            .or_else(|| get("APPDATA").map(|folder| Path::new(folder).join("gcloud")))
            .or_else(|| get("HOME").map(|home| Path::new(home).join(".config/gcloud")));
        if let Some(file) = folder
            .map(|folder| folder.join(ADC_FILE))
            .filter(|file| file.is_file())
        {
            return Self::from_file(file);
        }
        if get("NO_GCE_CHECK").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Err(fault(
                "there is no file; set GOOGLE_APPLICATION_CREDENTIALS or run gcloud auth application-default login",
            ));
        }
        Ok(match get("GCE_METADATA_HOST") {
            Some(host) => Self::Metadata {
                host: host.to_owned(),
            },
            None => Self::metadata(),
        })
    }

    /// The project the file names, if it does.
    pub fn project(&self) -> Option<&str> {
        match self {
            Self::ServiceAccount(account) => account.project.as_deref(),
            Self::AuthorizedUser(user) => user.quota_project.as_deref(),
            _ => None,
        }
    }

    /// The project that calls count against, where it is not the one they name.
    pub(crate) fn quota_project(&self) -> Option<&str> {
        match self {
            Self::AuthorizedUser(user) => user.quota_project.as_deref(),
            _ => None,
        }
    }
}

/// The key of a PEM text: PKCS#8, or the older PKCS#1.
fn rsa_key(pem: &str) -> Result<RsaKeyPair> {
    let unusable = || fault("the file's private_key is no RSA key in PEM form");
    let inside = pem
        .split_once("-----BEGIN ")
        .and_then(|(_, rest)| rest.split_once("-----"))
        .and_then(|(label, rest)| Some((label, rest.split_once("-----END")?.0)));
    let (label, body) = inside.ok_or_else(unusable)?;
    let der = base64_decode(body).ok_or_else(unusable)?;
    let key = match label {
        "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der),
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
        _ => return Err(unusable()),
    };
    key.map_err(|_| unusable())
}

fn fault(what: &str) -> Error {
    Error::new(
        ErrorKind::ConfigInvalid,
        format!("find Google credentials: {what}"),
    )
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(_) => f.write_str("Token"),
            Self::ServiceAccount(account) => account.fmt(f),
            Self::AuthorizedUser(user) => user.fmt(f),
            Self::Metadata { host } => f.debug_struct("Metadata").field("host", host).finish(),
        }
    }
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount")
            .field("email", &self.email)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthorizedUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedUser")
            .field("quota_project", &self.quota_project)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::auth::encoding::base64url;
    use serde_json::{Value, json};

    /// A key made for these tests.
    pub(crate) const KEY: &[u8] = include_bytes!("../../tests/data/key.der");

    pub(crate) fn account_file() -> Value {
        let body = base64url(KEY).replace('-', "+").replace('_', "/");
        json!({
            "type": "service_account", "project_id": "proj", "private_key_id": "k1",
            "private_key": format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"),
            "client_email": "sa@proj.iam.gserviceaccount.com",
        })
    }

    fn user_file() -> Value {
        json!({"type": "authorized_user", "client_id": "c", "client_secret": "CANARY-SECRET",
            "refresh_token": "CANARY-REFRESH", "quota_project_id": "quota"})
    }

    #[test]
    fn both_files_are_read_and_name_their_project() {
        let account = Credentials::from_json(&account_file().to_string()).unwrap();
        assert_eq!(account.project(), Some("proj"));
        assert_eq!(account.quota_project(), None);
        let user = Credentials::from_json(&user_file().to_string()).unwrap();
        assert_eq!(user.quota_project(), Some("quota"));
        let Credentials::AuthorizedUser(user) = user else {
            panic!("a user's file")
        };
        assert_eq!(user.token_uri, TOKEN_URI);
    }

    #[test]
    fn files_of_other_kinds_and_halves_are_refused_with_a_reason() {
        let without = |name: &str, mut file: Value| {
            file.as_object_mut().unwrap().remove(name);
            file.to_string()
        };
        let mut bad_key = account_file();
        bad_key["private_key"] =
            json!("-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----");
        for (text, word) in [
            ("CANARY".to_owned(), "JSON"),
            (json!({"type": "external_account"}).to_string(), "external"),
            (
                json!({"type": "impersonated_service_account"}).to_string(),
                "impersonated",
            ),
            (json!({"type": "CANARY"}).to_string(), "neither"),
            (without("client_email", account_file()), "client_email"),
            (without("private_key", account_file()), "private_key"),
            (without("refresh_token", user_file()), "refresh_token"),
            (bad_key.to_string(), "RSA"),
        ] {
            let error = Credentials::from_json(&text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(error.message().contains(word), "{error}");
            assert!(!format!("{error:?}").contains("CANARY"));
        }
    }

    #[test]
    fn the_environment_is_searched_in_googles_order() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.json");
        std::fs::write(&key, account_file().to_string()).unwrap();
        let gcloud = dir.path().join(".config/gcloud");
        std::fs::create_dir_all(&gcloud).unwrap();
        let home = dir.path().to_str().unwrap().to_owned();
        let kind = |pairs: &[(&str, &str)]| {
            Credentials::from_env(pairs.iter().map(|&(name, value)| (name, value))).map(|found| {
                format!("{found:?}")
                    .split([' ', '{'])
                    .next()
                    .unwrap()
                    .to_owned()
            })
        };
        assert_eq!(kind(&[("HOME", &home)]).unwrap(), "Metadata");
        assert!(kind(&[("HOME", &home), ("NO_GCE_CHECK", "true")]).is_err());
        std::fs::write(gcloud.join(ADC_FILE), user_file().to_string()).unwrap();
        assert_eq!(kind(&[("HOME", &home)]).unwrap(), "AuthorizedUser");
        let named = ("GOOGLE_APPLICATION_CREDENTIALS", key.to_str().unwrap());
        assert_eq!(kind(&[("HOME", &home), named]).unwrap(), "ServiceAccount");
        let gone = ("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/CANARY.json");
        let error = kind(&[("HOME", &home), gone]).unwrap_err();
        assert!(!error.to_string().contains("CANARY"), "{error}");
        let other = ("CLOUDSDK_CONFIG", home.as_str());
        assert_eq!(kind(&[("HOME", &home), other]).unwrap(), "Metadata");
    }

    #[test]
    fn f_192_debug_shows_no_secret() {
        for file in [account_file(), user_file()] {
            let shown = format!("{:?}", Credentials::from_json(&file.to_string()).unwrap());
            assert!(
                !shown.contains("CANARY") && !shown.contains("PRIVATE"),
                "{shown}"
            );
        }
        assert_eq!(format!("{:?}", Credentials::token("CANARY")), "Token");
    }
}
