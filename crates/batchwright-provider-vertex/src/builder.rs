//! Settings one by one, checked once.

use crate::auth::Credentials;
use crate::client::Client;
use crate::config::{Side, VertexConfig};
use crate::provider::Vertex;
use batchwright_core::{Error, ErrorKind, ModelSpec, Result};
use batchwright_http::HttpClientBuilder;
use std::time::Duration;

/// Collects the settings of a [`Vertex`].
#[derive(Clone, Debug)]
#[must_use]
pub struct VertexBuilder {
    config: VertexConfig,
}

impl VertexBuilder {
    /// Starts from the defaults, for this project and location.
    pub fn new(
        project: impl Into<String>,
        location: impl Into<String>,
        credentials: Credentials,
    ) -> Self {
        VertexConfig::new(project, location, credentials).into()
    }

    /// Sets Vertex AI's host, without the version.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.config.base_url = url.into();
        self
    }

    /// Sets Cloud Storage's host.
    pub fn storage_url(mut self, url: impl Into<String>) -> Self {
        self.config.storage_url = url.into();
        self
    }

    /// Sets BigQuery's host.
    pub fn bigquery_url(mut self, url: impl Into<String>) -> Self {
        self.config.bigquery_url = url.into();
        self
    }

    /// Names the project that calls count against.
    pub fn quota_project(mut self, project: impl Into<String>) -> Self {
        self.config.quota_project = Some(project.into());
        self
    }

    /// Sets the provider's name.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.config.name = name.into();
        self
    }

    /// Names the bucket of inputs and results, without `gs://`; with it there are batches.
    pub fn bucket(mut self, bucket: impl Into<String>) -> Self {
        self.config.bucket = Some(bucket.into());
        self
    }

    /// Sets what the names of our objects begin with.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.prefix = prefix.into();
        self
    }

    /// Names the dataset of our tables, as `project.dataset` or `dataset`.
    pub fn dataset(mut self, dataset: impl Into<String>) -> Self {
        self.config.dataset = Some(dataset.into());
        self
    }

    /// Sets where a job reads its rows.
    pub fn input(mut self, side: Side) -> Self {
        self.config.input = side;
        self
    }

    /// Sets where a job writes its results.
    pub fn output(mut self, side: Side) -> Self {
        self.config.output = side;
        self
    }

    /// Sets whether bucket and dataset are compared with the location before anything is uploaded.
    pub fn check_region(mut self, check: bool) -> Self {
        self.config.check_region = check;
        self
    }

    /// Bounds one direct call.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// Bounds the HTTP calls under way at once, at least 1; further ones wait.
    pub fn max_in_flight(mut self, calls: usize) -> Self {
        self.config.http = self.config.http.max_in_flight(calls);
        self
    }

    /// Sets how connections are made: their timeouts, proxies and further certificates. What
    /// [`max_in_flight`](Self::max_in_flight) set before is replaced.
    pub fn http(mut self, http: HttpClientBuilder) -> Self {
        self.config.http = http;
        self
    }

    /// Allows plain http to other machines.
    pub fn allow_plain_http(mut self, allow: bool) -> Self {
        self.config.allow_plain_http = allow;
        self
    }

    /// Checks the settings together and builds the provider. Nothing is sent.
    ///
    /// # Errors
    /// `ConfigInvalid` where a setting is unusable: a URL that is none or is plain http, a token no header can hold,
    /// a project, location, bucket, prefix or dataset of an odd form, a side in BigQuery without a dataset or
    /// without a bucket, BigQuery in the location `global`, a name that is not of `a-z`, `0-9`, `-` and `_`, a timeout of zero, a
    /// certificate that is none.
    pub fn build(self) -> Result<Vertex> {
        let mut config = self.config;
        let fault = |what: &str| {
            Err(Error::new(
                ErrorKind::ConfigInvalid,
                format!("build the provider: {what}"),
            ))
        };
        if config.attempt_timeout.is_zero() {
            return fault("attempt_timeout must be above zero");
        }
        // The same rule as where the name is used, so that it cannot be too wide here.
        ModelSpec::new(&config.name, "model")
            .map_err(|error| error.context("check the provider's name"))?;
        let of = |text: &str, more: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !of(&config.project, "-:.") {
            return fault("the project is no project id");
        }
        if !of(&config.location, "-") {
            return fault("the location is none");
        }
        if let Some(bucket) = config.bucket.as_mut() {
            if let Some(plain) = bucket.strip_prefix("gs://") {
                *bucket = plain.trim_end_matches('/').to_owned();
            }
            if !of(bucket, "-_.") {
                return fault("the bucket is no name of a bucket");
            }
        }
        config.prefix = config.prefix.trim_matches('/').to_owned();
        if !of(&config.prefix, "-_./")
            || config
                .prefix
                .split('/')
                .any(|part| matches!(part, "" | "." | ".."))
        {
            return fault("the prefix is of letters, digits and -_./");
        }
        if let Some(dataset) = config.dataset.as_mut() {
            if !dataset.contains('.') {
                *dataset = format!("{}.{dataset}", config.project);
            }
            let named = dataset.split_once('.');
            if !named.is_some_and(|(project, name)| of(project, "-:") && of(name, "_")) {
                return fault("the dataset is project.dataset");
            }
        }
        if config.input == Side::BigQuery || config.output == Side::BigQuery {
            if config.dataset.is_none() || config.bucket.is_none() {
                return fault("BigQuery needs a dataset, and a bucket that rows pass through");
            }
            if config.location == "global" {
                // Which datasets pair with it is not documented.
                return fault("BigQuery needs a region, not the location global");
            }
        }
        let client = Client::new(&config)?;
        Ok(Vertex::assemble(client, config))
    }
}

impl From<VertexConfig> for VertexBuilder {
    fn from(config: VertexConfig) -> Self {
        Self { config }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batchwright_http::HttpClient;

    #[test]
    fn f_196_unusable_settings_are_refused_before_anything_is_sent() {
        let good = || VertexBuilder::new("proj", "us-central1", Credentials::token("t"));
        assert!(good().build().is_ok());
        assert!(good().bucket("gs://bkt/").build().is_ok());
        assert!(good().base_url("http://127.0.0.1:9").build().is_ok());
        let tables = || good().bucket("bkt").dataset("ds").input(Side::BigQuery);
        assert!(tables().build().is_ok());
        let plain = good().base_url("http://example.com");
        assert!(plain.clone().allow_plain_http(true).build().is_ok());
        let of = |project: &str, location: &str, token: &str| {
            VertexBuilder::new(project, location, Credentials::token(token))
        };
        for (what, builder) in [
            ("plain http", plain),
            ("no url", good().storage_url("storage.googleapis.com")),
            ("a password", good().bigquery_url("https://a:b@example.com")),
            ("no token", of("proj", "us-central1", "")),
            ("no project", of("", "us-central1", "t")),
            ("a path as project", of("../x", "us-central1", "t")),
            ("a path as location", of("proj", "us/../x", "t")),
            ("an odd bucket", good().bucket("a/b")),
            ("an odd prefix", good().prefix("a/../b")),
            ("an odd dataset", good().dataset("a.b.c")),
            ("no dataset", good().bucket("bkt").output(Side::BigQuery)),
            ("no bucket", good().dataset("ds").output(Side::BigQuery)),
            (
                "global tables",
                of("proj", "global", "t")
                    .bucket("bkt")
                    .dataset("ds")
                    .input(Side::BigQuery),
            ),
            ("an odd name", good().name("Vertex AI")),
            ("no time", good().attempt_timeout(Duration::ZERO)),
            (
                "a certificate that is none",
                good().http(HttpClient::builder().extra_ca_pem("no PEM")),
            ),
            ("a split header", good().quota_project("a\r\nb: c")),
        ] {
            let error = builder.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConfigInvalid, "{what}: {error}");
        }
    }
}
