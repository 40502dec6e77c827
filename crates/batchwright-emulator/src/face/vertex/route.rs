//! Which call a path is.

use super::super::RouteName;

/// What the face's paths begin with.
pub(super) const BASES: [&str; 5] = [
    "/vertex",
    "/gcs",
    "/bigquery",
    "/oauth2",
    "/computeMetadata",
];

/// A project and a location.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) project: &'a str,
    pub(super) location: &'a str,
}

/// A table of BigQuery.
#[derive(Clone, Copy, Debug)]
pub(super) struct TableName<'a> {
    pub(super) project: &'a str,
    pub(super) dataset: &'a str,
    pub(super) table: &'a str,
}

/// A call by its path; parts of it are still percent-encoded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Route<'a> {
    Model {
        place: Place<'a>,
        model: &'a str,
        verb: &'a str,
    },
    Models,
    ModelObject(&'a str),
    Jobs(Place<'a>),
    Job(Place<'a>, &'a str),
    JobCancel(Place<'a>, &'a str),
    Token,
    Metadata(&'a str),
    Bucket(&'a str),
    Objects(&'a str),
    Object(&'a str, &'a str),
    Download(&'a str, &'a str),
    Upload(&'a str),
    Dataset(&'a str, &'a str),
    Table(TableName<'a>),
    TableData(TableName<'a>),
    LoadJobs(&'a str),
    LoadJob(&'a str, &'a str),
}

impl<'a> Route<'a> {
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let (base, rest) = path.strip_prefix('/')?.split_once('/')?;
        match base {
            "vertex" => {
                let (version, rest) = rest.split_once('/')?;
                if !matches!(version, "v1" | "v1beta1") {
                    return None;
                }
                Self::vertex(rest)
            }
            "oauth2" => matches!(rest, "token" | "v4/token").then_some(Self::Token),
            "computeMetadata" => rest.strip_prefix("v1/").map(Self::Metadata),
            "gcs" => Self::gcs(rest),
            "bigquery" => Self::bigquery(rest),
            _ => None,
        }
    }

    fn vertex(rest: &'a str) -> Option<Self> {
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts[..] {
            ["publishers", "google", "models"] => Self::Models,
            ["publishers", "google", "models", model] => Self::ModelObject(model),
            [
                "projects",
                project,
                "locations",
                location,
                "publishers",
                "google",
                "models",
                model,
            ] => {
                let (model, verb) = model.split_once(':')?;
                let place = Place { project, location };
                Self::Model { place, model, verb }
            }
            [
                "projects",
                project,
                "locations",
                location,
                "batchPredictionJobs",
            ] => Self::Jobs(Place { project, location }),
            [
                "projects",
                project,
                "locations",
                location,
                "batchPredictionJobs",
                id,
            ] => {
                let place = Place { project, location };
                match id.split_once(':') {
                    None => Self::Job(place, id),
                    Some((id, "cancel")) => Self::JobCancel(place, id),
                    Some(_) => return None,
                }
            }
            _ => return None,
        })
    }

    fn gcs(rest: &'a str) -> Option<Self> {
        if let Some(rest) = rest.strip_prefix("upload/storage/v1/b/") {
            return rest.strip_suffix("/o").map(Self::Upload);
        }
        let (download, rest) = match rest.strip_prefix("download/") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let mut parts = rest.strip_prefix("storage/v1/b/")?.splitn(3, '/');
        Some(match (parts.next()?, parts.next(), parts.next()) {
            (bucket, None, None) if !download => Self::Bucket(bucket),
            (bucket, Some("o"), None) if !download => Self::Objects(bucket),
            (bucket, Some("o"), Some(name)) if download => Self::Download(bucket, name),
            (bucket, Some("o"), Some(name)) => Self::Object(bucket, name),
            _ => return None,
        })
    }

    fn bigquery(rest: &'a str) -> Option<Self> {
        let rest = rest.strip_prefix("bigquery/v2/projects/")?;
        let parts: Vec<&str> = rest.split('/').collect();
        Some(match parts[..] {
            [project, "jobs"] => Self::LoadJobs(project),
            [project, "jobs", id] => Self::LoadJob(project, id),
            [project, "datasets", dataset] => Self::Dataset(project, dataset),
            [project, "datasets", dataset, "tables", table] => Self::Table(TableName {
                project,
                dataset,
                table,
            }),
            [project, "datasets", dataset, "tables", table, "data"] => Self::TableData(TableName {
                project,
                dataset,
                table,
            }),
            _ => return None,
        })
    }

    /// The route's name, with its ids and its version left out.
    pub(super) fn name(self) -> RouteName {
        const JOBS: &str = "/v1/projects/{project}/locations/{location}/batchPredictionJobs";
        const JOB: &str = "/v1/projects/{project}/locations/{location}/batchPredictionJobs/{job}";
        const CANCEL: &str =
            "/v1/projects/{project}/locations/{location}/batchPredictionJobs/{job}:cancel";
        macro_rules! model {
            ($verb:literal) => {
                concat!(
                    "/v1/projects/{project}/locations/{location}/publishers/google/models/{model}:",
                    $verb
                )
            };
        }
        let (base, rest) = match self {
            Self::Model { verb, .. } => (
                "/vertex",
                match verb {
                    "generateContent" => model!("generateContent"),
                    "streamGenerateContent" => model!("streamGenerateContent"),
                    "countTokens" => model!("countTokens"),
                    _ => model!("other"),
                },
            ),
            Self::Models => ("/vertex", "/v1/publishers/google/models"),
            Self::ModelObject(_) => ("/vertex", "/v1/publishers/google/models/{model}"),
            Self::Jobs(_) => ("/vertex", JOBS),
            Self::Job(..) => ("/vertex", JOB),
            Self::JobCancel(..) => ("/vertex", CANCEL),
            Self::Token => ("/oauth2", "/token"),
            Self::Metadata(_) => ("/computeMetadata", "/v1"),
            Self::Bucket(_) => ("/gcs", "/storage/v1/b/{bucket}"),
            Self::Objects(_) => ("/gcs", "/storage/v1/b/{bucket}/o"),
            Self::Object(..) => ("/gcs", "/storage/v1/b/{bucket}/o/{object}"),
            Self::Download(..) => ("/gcs", "/download/storage/v1/b/{bucket}/o/{object}"),
            Self::Upload(_) => ("/gcs", "/upload/storage/v1/b/{bucket}/o"),
            Self::Dataset(..) => ("/bigquery", "/bigquery/v2/datasets/{dataset}"),
            Self::Table(_) => (
                "/bigquery",
                "/bigquery/v2/datasets/{dataset}/tables/{table}",
            ),
            Self::TableData(_) => (
                "/bigquery",
                "/bigquery/v2/datasets/{dataset}/tables/{table}/data",
            ),
            Self::LoadJobs(_) => ("/bigquery", "/bigquery/v2/jobs"),
            Self::LoadJob(..) => ("/bigquery", "/bigquery/v2/jobs/{job}"),
        };
        RouteName { base, rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_names_without_ids() {
        const JOB: &str = "/vertex/v1beta1/projects/p/locations/us-central1/batchPredictionJobs/7";
        for (path, name) in [
            (
                "/vertex/v1/projects/p/locations/l/publishers/google/models/gemini-x:generateContent",
                Some(
                    "/vertex/v1/projects/{project}/locations/{location}/publishers/google/models/{model}:generateContent",
                ),
            ),
            (
                JOB,
                Some(
                    "/vertex/v1/projects/{project}/locations/{location}/batchPredictionJobs/{job}",
                ),
            ),
            ("/oauth2/token", Some("/oauth2/token")),
            (
                "/gcs/storage/v1/b/bkt/o/a%2Fb",
                Some("/gcs/storage/v1/b/{bucket}/o/{object}"),
            ),
            (
                "/gcs/upload/storage/v1/b/bkt/o",
                Some("/gcs/upload/storage/v1/b/{bucket}/o"),
            ),
            ("/vertex/v2/publishers/google/models", None),
            ("/gcs", None),
            ("/vertex/v1/projects/p", None),
        ] {
            let found = Route::of(path).map(|route| route.name().to_string());
            assert_eq!(found.as_deref(), name, "{path}");
        }
    }
}
