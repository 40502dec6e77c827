//! Every setting of the provider, its default and its unit.

use crate::auth::Credentials;
use batchwright_core::{Error, ErrorKind, Result};
use batchwright_http::{BaseUrl, HttpClient, HttpClientBuilder};
use std::{collections::HashMap, fmt, time::Duration};

/// The environment variable that holds the project.
const PROJECT_VAR: &str = "GOOGLE_CLOUD_PROJECT";
/// The environment variable that holds the location.
const LOCATION_VAR: &str = "GOOGLE_CLOUD_LOCATION";
/// The environment variable that holds the project calls count against.
const QUOTA_PROJECT_VAR: &str = "GOOGLE_CLOUD_QUOTA_PROJECT";
/// The environment variable that holds the bucket.
const BUCKET_VAR: &str = "BATCHWRIGHT_VERTEX_BUCKET";
/// The environment variable that holds the dataset.
const DATASET_VAR: &str = "BATCHWRIGHT_VERTEX_DATASET";
/// The environment variable that holds another base URL.
const BASE_URL_VAR: &str = "GOOGLE_VERTEX_BASE_URL";
/// The environment variable that holds another URL of Cloud Storage, as Google's own libraries read it.
const STORAGE_URL_VAR: &str = "STORAGE_EMULATOR_HOST";
/// The environment variable that holds another URL of BigQuery.
const BIGQUERY_URL_VAR: &str = "BIGQUERY_EMULATOR_HOST";

/// Where a job's rows are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Side {
    /// Lines in objects of the bucket. The default.
    #[default]
    Storage,
    /// A table of the dataset. Input is stored in the bucket first and loaded from there.
    BigQuery,
}

/// Every setting of [`Vertex`](crate::Vertex).
///
/// Its `Debug` shows nothing secret.
#[derive(Clone)]
#[non_exhaustive]
pub struct VertexConfig {
    /// The project's id. Jobs belong to it and to the location: whoever looks for one later must name the same
    /// (F-087).
    pub project: String,
    /// The location, such as `us-central1` or `global`.
    pub location: String,
    /// Where access tokens come from.
    pub credentials: Credentials,
    /// Vertex AI's host. Default: the location's.
    pub base_url: String,
    /// Cloud Storage's host. Default `https://storage.googleapis.com`.
    pub storage_url: String,
    /// BigQuery's host. Default `https://bigquery.googleapis.com`.
    pub bigquery_url: String,
    /// The project that calls count against. Default: the one a user's file names, else none is sent.
    pub quota_project: Option<String>,
    /// The provider's name in results, prices and batch handles. Default `vertex`.
    pub name: String,
    /// The bucket of inputs and results, without `gs://`. Without one there are no batches.
    pub bucket: Option<String>,
    /// What the names of our objects begin with. Default `batchwright`.
    pub prefix: String,
    /// The dataset of our tables, as `project.dataset`, or `dataset` in the same project. Needed where a side is
    /// [`Side::BigQuery`].
    pub dataset: Option<String>,
    /// Where a job reads its rows. Default [`Side::Storage`].
    pub input: Side,
    /// Where a job writes its results. Default [`Side::Storage`].
    pub output: Side,
    /// Whether bucket and dataset are compared with the location before anything is uploaded, since the vendor says so
    /// only after the job was created. It needs the permissions `storage.buckets.get` and `bigquery.datasets.get`.
    /// Default yes.
    pub check_region: bool,
    /// The longest one direct call may take, from the first byte sent to the last one read. Default 600 s, as the
    /// vendor bounds a call.
    pub attempt_timeout: Duration,
    /// How connections are made and how many calls are under way at once. Default: that of `batchwright-http`, with
    /// 256 calls.
    pub http: HttpClientBuilder,
    /// Whether plain http is allowed to hosts other than this machine, where tokens and prompts travel in clear text
    /// (F-196). Default no. The metadata server is plain http by design.
    pub allow_plain_http: bool,
}

impl VertexConfig {
    /// The defaults, for this project and location.
    pub fn new(
        project: impl Into<String>,
        location: impl Into<String>,
        credentials: Credentials,
    ) -> Self {
        let location = location.into();
        Self {
            project: project.into(),
            base_url: host(&location),
            location,
            credentials,
            storage_url: "https://storage.googleapis.com".to_owned(),
            bigquery_url: "https://bigquery.googleapis.com".to_owned(),
            quota_project: None,
            name: "vertex".to_owned(),
            bucket: None,
            prefix: "batchwright".to_owned(),
            dataset: None,
            input: Side::default(),
            output: Side::default(),
            check_region: true,
            attempt_timeout: Duration::from_secs(600),
            http: HttpClient::builder(),
            allow_plain_http: false,
        }
    }

    /// The settings that stand in `pairs`, such as `std::env::vars()`; an empty value counts as unset. The README
    /// lists the names. Blocks while it reads a credentials file.
    ///
    /// # Errors
    /// `ConfigInvalid` where project or location is missing, or as [`Credentials::from_env`].
    pub fn from_env<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self>
    where
        K: AsRef<str>,
        V: Into<String>,
    {
        let mut pairs: Vec<(String, String)> = pairs
            .into_iter()
            .map(|(name, value)| (name.as_ref().to_owned(), value.into()))
            .collect();
        pairs.retain(|(_, value)| !value.trim().is_empty());
        let credentials = Credentials::from_env(pairs.iter().map(|(name, value)| (name, value)))?;
        let mut known: HashMap<String, String> = pairs.into_iter().collect();
        let mut take = |name: &str| known.remove(name);
        let missing = |what: &str, name: &str| {
            Error::new(
                ErrorKind::ConfigInvalid,
                format!("find the {what}: set {name}"),
            )
        };
        let project = take(PROJECT_VAR)
            .or_else(|| credentials.project().map(str::to_owned))
            .ok_or_else(|| missing("project", PROJECT_VAR))?;
        let location = take(LOCATION_VAR).ok_or_else(|| missing("location", LOCATION_VAR))?;
        let mut config = Self::new(project, location, credentials);
        config.quota_project = take(QUOTA_PROJECT_VAR);
        config.bucket = take(BUCKET_VAR);
        config.dataset = take(DATASET_VAR);
        if let Some(url) = take(BASE_URL_VAR) {
            config.base_url = url;
        }
        if let Some(url) = take(STORAGE_URL_VAR) {
            config.storage_url = url;
        }
        if let Some(url) = take(BIGQUERY_URL_VAR) {
            config.bigquery_url = url;
        }
        Ok(config)
    }
}

/// The host of a location (<https://cloud.google.com/vertex-ai/docs/reference/rest>).
fn host(location: &str) -> String {
    match location {
        "global" => "https://aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("https://aiplatform.{location}.rep.googleapis.com"),
        region => format!("https://{region}-aiplatform.googleapis.com"),
    }
}

impl fmt::Debug for VertexConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VertexConfig")
            .field("name", &self.name)
            .field("project", &self.project)
            .field("location", &self.location)
            .field("credentials", &self.credentials)
            .field("base_url", &BaseUrl::shown(&self.base_url))
            .field("storage_url", &BaseUrl::shown(&self.storage_url))
            .field("bigquery_url", &BaseUrl::shown(&self.bigquery_url))
            .field("quota_project", &self.quota_project)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("dataset", &self.dataset)
            .field("input", &self.input)
            .field("output", &self.output)
            .field("check_region", &self.check_region)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("http", &self.http)
            .field("allow_plain_http", &self.allow_plain_http)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [(&str, &str); 2] = [("GCE_METADATA_HOST", "127.0.0.1:1"), ("HOME", "/nowhere")];

    fn from(pairs: &[(&str, &str)]) -> Result<VertexConfig> {
        VertexConfig::from_env(pairs.iter().chain(&NONE).copied())
    }

    #[test]
    fn settings_come_from_pairs_and_empty_ones_are_unset() {
        let config = from(&[
            ("GOOGLE_CLOUD_PROJECT", "p"),
            ("GOOGLE_CLOUD_LOCATION", "europe-west4"),
            ("BATCHWRIGHT_VERTEX_BUCKET", "bkt"),
            ("BATCHWRIGHT_VERTEX_DATASET", " "),
            ("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!(
            config.base_url,
            "https://europe-west4-aiplatform.googleapis.com"
        );
        assert_eq!(config.bucket.as_deref(), Some("bkt"));
        assert_eq!(config.dataset, None);
        assert_eq!(config.storage_url, "http://127.0.0.1:1");
    }

    #[test]
    fn what_is_missing_names_its_variable_and_stops() {
        for (pairs, name) in [
            (&[("GOOGLE_CLOUD_LOCATION", "l")], "GOOGLE_CLOUD_PROJECT"),
            (&[("GOOGLE_CLOUD_PROJECT", "p")], "GOOGLE_CLOUD_LOCATION"),
        ] {
            let error = from(pairs).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
            assert!(
                error.is_job_stop() && error.to_string().contains(name),
                "{error}"
            );
        }
    }

    #[test]
    fn each_location_has_its_host() {
        for (location, url) in [
            (
                "us-central1",
                "https://us-central1-aiplatform.googleapis.com",
            ),
            ("global", "https://aiplatform.googleapis.com"),
            ("eu", "https://aiplatform.eu.rep.googleapis.com"),
        ] {
            assert_eq!(host(location), url);
        }
    }

    #[test]
    fn f_192_debug_shows_no_secret() {
        let mut config = VertexConfig::new("p", "l", Credentials::token("CANARY-TOKEN"));
        config.storage_url = "https://user:CANARY-PASSWORD@example.com".to_owned();
        assert!(!format!("{config:?}").contains("CANARY"), "{config:?}");
    }
}
