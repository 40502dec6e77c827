//! Bare programs: what somebody writes who needs no more than the calls.

use crate::client::{KEY, MODEL, Rows, prompt};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};
use tokio::{net::TcpStream, task::JoinSet};

/// hyper: a task for each call at once, with a connection it polls itself, and no more read of the answer than its text.
/// There is hardly less one could do.
pub(crate) async fn hyper(base_url: &str, concurrency: usize, rows: Rows) -> Result<()> {
    let address = base_url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .context("the upstream's address")?;
    let (authority, path): (Arc<str>, Arc<str>) = (
        address.0.into(),
        format!("/{}/chat/completions", address.1).into(),
    );
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..concurrency {
        let (authority, path, rows) = (Arc::clone(&authority), Arc::clone(&path), rows.clone());
        workers.spawn(async move {
            let socket = TcpStream::connect(&*authority).await?;
            socket.set_nodelay(true)?;
            let (mut sender, mut connection) = http1::handshake(TokioIo::new(socket)).await?;
            while let Some(row) = rows.next() {
                let request = Request::post(&*path)
                    .header("host", &*authority)
                    .header("authorization", format!("Bearer {KEY}"))
                    .header("content-type", "application/json")
                    .body(Full::new(Bytes::from(body(row).to_string())))?;
                let response = with(&mut connection, sender.send_request(request)).await??;
                ensure!(response.status().is_success(), "no success");
                let answer = with(&mut connection, response.into_body().collect())
                    .await??
                    .to_bytes();
                let answer: Answer<'_> = serde_json::from_slice(&answer)?;
                ensure!(
                    answer
                        .choices
                        .first()
                        .is_some_and(|it| !it.message.content.is_empty()),
                    "no answer"
                );
            }
            Ok(())
        });
    }
    all(workers).await
}

/// The outcome of `work`, which the connection is polled for in the same task.
async fn with<T, E>(
    connection: &mut (impl Future<Output = Result<(), E>> + Unpin),
    work: impl Future<Output = T>,
) -> Result<T> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        let ended = Pin::new(&mut *connection).poll(cx).is_ready();
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Ok(done)),
            Poll::Pending if ended => Poll::Ready(Err(anyhow::anyhow!("the connection ended"))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// reqwest, its calls as one stream.
pub(crate) async fn stream(base_url: &str, concurrency: usize, rows: Rows) -> Result<()> {
    let client = client()?;
    let url = format!("{base_url}/chat/completions");
    let (client, url) = (&client, url.as_str());
    let mut answers = stream::iter(std::iter::from_fn(|| rows.next()))
        .map(|row| call(client, url, row))
        .buffer_unordered(concurrency);
    while let Some(answer) = answers.next().await {
        judge(&answer?)?;
    }
    Ok(())
}

/// reqwest, a task for each call at once.
pub(crate) async fn workers(base_url: &str, concurrency: usize, rows: Rows) -> Result<()> {
    let client = client()?;
    let url: Arc<str> = format!("{base_url}/chat/completions").into();
    let mut workers: JoinSet<Result<()>> = JoinSet::new();
    for _ in 0..concurrency {
        let (client, url, rows) = (client.clone(), Arc::clone(&url), rows.clone());
        workers.spawn(async move {
            while let Some(row) = rows.next() {
                judge(&call(&client, &url, row).await?)?;
            }
            Ok(())
        });
    }
    all(workers).await
}

async fn all(mut workers: JoinSet<Result<()>>) -> Result<()> {
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

fn body(row: u64) -> Value {
    json!({
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt(row)}],
    })
}

/// The client of a bare program: everything by default.
#[expect(
    clippy::disallowed_methods,
    reason = "it is what our own client is compared with; the process's TLS provider is set first"
)]
fn client() -> Result<reqwest::Client> {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("TLS is set up already");
    }
    Ok(reqwest::Client::new())
}

/// One call as a bare program makes it.
async fn call(client: &reqwest::Client, url: &str, row: u64) -> Result<Value> {
    let request = client.post(url).bearer_auth(KEY).json(&body(row));
    let response = request.send().await?;
    Ok(response.error_for_status()?.json::<Value>().await?)
}

/// Even a bare program looks at the answer.
fn judge(answer: &Value) -> Result<()> {
    let text = answer["choices"][0]["message"]["content"].as_str();
    ensure!(text.is_some_and(|text| !text.is_empty()), "no answer");
    Ok(())
}
