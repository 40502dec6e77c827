//! Inputs and results as objects of a bucket, and below that as tables.

pub(crate) mod table;

use crate::client::Client;
use crate::wire::{Located, Object, ObjectPage};
use batchwright_core::{ByteStream, Error, ErrorKind, Result, ResultFile, RetryClass, SealedBatch};
use batchwright_http::{Asked, Body, hollow};

/// The most pages of a list of results: 1,000 objects each.
const MAX_PAGES: usize = 100;

/// An object's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
}

impl<'a> Address<'a> {
    /// Reads `gs://bucket/name`.
    pub(crate) fn read(uri: &'a str) -> Option<Self> {
        let (bucket, name) = uri.strip_prefix("gs://")?.split_once('/')?;
        (!bucket.is_empty() && !name.is_empty()).then_some(Self { bucket, name })
    }
}

/// Refuses a bucket in another region than the job's, before anything is uploaded.
pub(crate) async fn check_region(client: &Client, bucket: &str, location: &str) -> Result<()> {
    let reply = client.bucket(bucket).await?;
    if !reply.is_success() {
        let error = client.refused(Asked::Object, &reply);
        let error = match reply.status {
            // No row is at fault, and every other batch would fail alike.
            404 => error.with_class(RetryClass::JobStop),
            _ => error,
        };
        return Err(error.context(format!("find where the bucket {bucket} is")));
    }
    let found = client.object::<Located>(&reply)?.location;
    let found = found.ok_or_else(|| hollow("find where the bucket is: the answer does not say"))?;
    if serves(&found, location) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        format!(
            "store the input: the bucket {bucket} is in {found}, and the batch runs in {location}"
        ),
    ))
}

/// Whether a bucket there is fit for a job here: in the same region, or in the continent's multi-region. Only the first
/// is documented; the second is not excluded. A job in `global` has no region to compare.
fn serves(bucket: &str, job: &str) -> bool {
    let bucket = bucket.to_ascii_lowercase();
    let continent = match &*bucket {
        "us" => "us-",
        "eu" => "europe-",
        "asia" => "asia-",
        _ => return job == "global" || job == bucket,
    };
    job == "global" || job == bucket || job.starts_with(continent)
}

/// Stores a chunk and compares what was stored with what was sent (F-118).
pub(crate) async fn upload(client: &Client, at: Address<'_>, batch: &SealedBatch) -> Result<()> {
    let body = Body::sealed(batch, "", "");
    let reply = client.put_object(at.bucket, at.name, body).await?;
    let stored: Object = client.object(&reply)?;
    match stored.size {
        Some(size) if size == batch.bytes => Ok(()),
        Some(size) => {
            // Best effort: a short object that stays behind is never used.
            let _ = client.delete_object(at.bucket, at.name).await;
            Err(Error::new(
                ErrorKind::ProviderFault,
                format!("store the input: {size} of {} bytes arrived", batch.bytes),
            )
            .with_class(RetryClass::Rejected))
        }
        None => Err(hollow("store the input: the answer names no size")),
    }
}

/// Whether an object is there with a chunk's size (F-119).
pub(crate) async fn is_there(client: &Client, at: Address<'_>, bytes: u64) -> Result<bool> {
    let reply = client.get_object(at.bucket, at.name).await?;
    if reply.status == 404 {
        return Ok(false);
    }
    Ok(client.object::<Object>(&reply)?.size == Some(bytes))
}

/// Deletes an object; one that is gone is fine.
pub(crate) async fn delete(client: &Client, at: Address<'_>) -> Result<()> {
    let reply = client.delete_object(at.bucket, at.name).await?;
    if reply.status == 404 || reply.is_success() {
        return Ok(());
    }
    Err(client.refused(Asked::Object, &reply))
}

/// The objects of a folder that hold results, and whether some are announced that are not there yet (F-103).
pub(crate) async fn results(
    client: &Client,
    folder: Address<'_>,
) -> Result<(Vec<ResultFile>, bool)> {
    let prefix = format!("{}/", folder.name.trim_end_matches('/'));
    let names = each_object(
        client,
        folder.bucket,
        &prefix,
        "list the results",
        |object| object.name,
    )
    .await?;
    Ok(sorted(folder.bucket, &prefix, names))
}

/// What is wanted of every object below a prefix.
pub(crate) async fn each_object<T>(
    client: &Client,
    bucket: &str,
    prefix: &str,
    what: &str,
    wanted: impl Fn(Object) -> Option<T>,
) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let reply = client
            .list_objects(bucket, prefix, after.as_deref())
            .await?;
        if !reply.is_success() {
            let error = client.refused(Asked::Object, &reply);
            return Err(error.context(format!("{what} in the bucket {bucket}")));
        }
        let page: ObjectPage = client.object(&reply)?;
        found.extend(page.items.into_iter().filter_map(&wanted));
        let next = page.next_page_token.filter(|token| !token.is_empty());
        if next.is_none() {
            return Ok(found);
        }
        if next == after {
            // A shard on a later page would be lost.
            let message = format!("{what}: the folder's pages do not go on");
            return Err(Error::new(ErrorKind::ProviderFault, message));
        }
        after = next;
    }
    Err(Error::new(
        ErrorKind::ProviderFault,
        format!("{what}: the folder has too many pages"),
    ))
}

fn sorted(bucket: &str, prefix: &str, mut names: Vec<String>) -> (Vec<ResultFile>, bool) {
    names.sort_unstable();
    names.dedup();
    let mut announced = 0;
    let files: Vec<ResultFile> = names
        .iter()
        .filter_map(|name| {
            let label = label(name.strip_prefix(prefix)?)?;
            if let Some((_, of)) = name.rsplit_once("-of-") {
                announced = announced.max(of.parse().unwrap_or(0));
            }
            Some(ResultFile::new(format!("gs://{bucket}/{name}"), label))
        })
        .collect();
    let pending = files.len() < announced;
    (files, pending)
}

/// The local name of a result file: `output` for the one file, `output-00001` for a shard. `None` for what holds no
/// results: dumps of a job that runs, records about it.
fn label(name: &str) -> Option<String> {
    let rest = name.strip_prefix("predictions")?;
    if !rest.contains("jsonl") || rest.contains('/') || rest.ends_with(".metadata") {
        return None;
    }
    // How many shards there are is no part of which one it is.
    let shard = rest.rsplit_once("-of-").map_or(rest, |(shard, _)| shard);
    let shard: Vec<&str> = shard
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .collect();
    Some(match shard.as_slice() {
        [] => "output".to_owned(),
        // All of it, since two files under one label would be one.
        numbers => format!("output-{}", numbers.join("-")),
    })
}

/// An object's bytes from `offset` on.
pub(crate) async fn download(client: &Client, at: Address<'_>, offset: u64) -> Result<ByteStream> {
    let reply = client.content(at.bucket, at.name, offset).await?;
    reply
        .results_from(offset, |reply| client.refused(Asked::Object, reply))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Credentials, VertexConfig};
    use serde_json::json;
    use wiremock::{Mock, MockServer, ResponseTemplate, matchers};

    #[test]
    fn regions_are_compared_as_far_as_anything_is_known() {
        for (bucket, job, fits) in [
            ("US-CENTRAL1", "us-central1", true),
            ("us-central1", "us-central1", true),
            ("EUROPE-WEST4", "us-central1", false),
            ("US-EAST1", "us-central1", false),
            ("US", "us-central1", true),
            ("EU", "europe-west4", true),
            ("EU", "us-central1", false),
            ("ASIA", "asia-east1", true),
            ("US", "us", true),
            ("EUROPE-WEST4", "global", true),
        ] {
            assert_eq!(serves(bucket, job), fits, "{bucket} {job}");
        }
    }

    #[test]
    fn f_103_result_files_are_told_from_what_lies_beside_them() {
        let prefix = "out/prediction-model-2026-11-22T09:03:11Z/";
        let list = |names: &[&str]| {
            let names = names.iter().map(|name| format!("{prefix}{name}")).collect();
            let (files, pending) = sorted("b", prefix, names);
            let labels: Vec<String> = files.into_iter().map(|file| file.label).collect();
            (labels, pending)
        };
        let beside = [
            "incremental_predictions.jsonl",
            "predictions.jsonl.metadata",
            "row_count.json",
            "sub/predictions.jsonl",
        ];
        assert_eq!(list(&beside), (vec![], false));
        assert_eq!(
            list(&[&beside[..], &["predictions.jsonl"]].concat()),
            (vec!["output".to_owned()], false)
        );
        let shards = [
            "predictions.jsonl-00001-of-00002",
            "predictions.jsonl-00000-of-00002",
        ];
        let (labels, pending) = list(&shards);
        assert_eq!(
            (labels, pending),
            (
                vec!["output-00000".to_owned(), "output-00001".to_owned()],
                false
            )
        );
        assert!(list(&shards[..1]).1, "one is missing");
        assert_eq!(list(&["predictions_0001.jsonl"]).0, ["output-0001"]);
        let both = [
            "predictions_0001.jsonl-00000-of-00002",
            "predictions_0001.jsonl-00001-of-00002",
        ];
        assert_eq!(list(&both).0, ["output-0001-00000", "output-0001-00001"]);
    }

    /// A list that shows the same page again would lose the shards behind it.
    #[tokio::test]
    async fn f_103_a_folder_whose_pages_do_not_go_on_is_not_taken_for_whole() {
        let server = MockServer::start().await;
        let page = json!({"items": [{"name": "out/predictions.jsonl"}], "nextPageToken": "again"});
        Mock::given(matchers::any())
            .respond_with(ResponseTemplate::new(200).set_body_json(page))
            .mount(&server)
            .await;
        let mut config = VertexConfig::new("p", "us-central1", Credentials::token("t"));
        config.storage_url = server.uri();
        let client = Client::new(&config).unwrap();
        let folder = Address::read("gs://b/out").unwrap();
        assert!(results(&client, folder).await.unwrap_err().is_ambiguous());
    }

    #[test]
    fn f_198_addresses_are_read_or_refused() {
        let read = Address::read("gs://b/a/c.jsonl").unwrap();
        assert_eq!((read.bucket, read.name), ("b", "a/c.jsonl"));
        for uri in ["https://b/a", "gs://b", "gs:///a", "gs://b/", ""] {
            assert_eq!(Address::read(uri), None, "{uri}");
        }
    }
}
