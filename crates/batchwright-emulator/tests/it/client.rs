//! A plain HTTP/1.1 client that shows what really came over the wire.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use batchwright_emulator::{BatchPace, Emulator, EmulatorConfig, Face};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// 22 Nov 2025, so that no test depends on today.
pub(crate) const START: i64 = 1_763_800_000;

/// A config whose clock stands still.
pub(crate) fn still() -> EmulatorConfig {
    EmulatorConfig::default()
        .with_time_scale(0.0)
        .with_start_at(START)
}

pub(crate) async fn start(config: EmulatorConfig) -> (Emulator, Client) {
    let emulator = Emulator::start(config).await.unwrap();
    let client = Client::new(emulator.addr());
    (emulator, client)
}

/// Everything at once: one virtual minute ends a batch.
pub(crate) fn quick_pace() -> BatchPace {
    BatchPace::default()
        .with_validating(Duration::from_secs(1))
        .with_warm_up(Duration::ZERO)
        .with_per_row(Duration::from_secs(1))
        .with_finalizing(Duration::from_secs(1))
        .with_cancelling(Duration::from_secs(1))
}

#[derive(Clone)]
pub(crate) struct Client {
    addr: SocketAddr,
    key: String,
    base: &'static str,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
    /// Whether the body is as long as declared.
    pub(crate) whole: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    /// Status, param and code of an error.
    pub(crate) fn error(&self) -> (u16, Value, Value) {
        let error = self.json()["error"].clone();
        (self.status, error["param"].clone(), error["code"].clone())
    }
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            key: "sk-test".to_owned(),
            base: "/openai/v1",
        }
    }

    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self {
            addr: self.addr,
            key: key.to_owned(),
            base: self.base,
        }
    }

    /// The same client at another face.
    pub(crate) fn at(&self, face: Face) -> Self {
        Self {
            base: face.base_path(),
            ..self.clone()
        }
    }

    pub(crate) fn path(&self, rest: &str) -> String {
        format!("{}{rest}", self.base)
    }

    /// Sends one request on a connection of its own and reads to the end; what came before an error is kept.
    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (Vec<u8>, io::Result<()>) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-length: {}\r\n",
            self.addr,
            self.key,
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut received = Vec::new();
        let result = async {
            stream.write_all(request.as_bytes()).await?;
            stream.write_all(body).await?;
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    read => received.extend_from_slice(&buffer[..read]),
                }
            }
        }
        .await;
        (received, result)
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let (received, result) = self.raw(method, path, headers, body).await;
        parse(&received).unwrap_or_else(|| panic!("no answer to {method} {path}: {result:?}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], b"").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.call("POST", path, &headers, body.to_string().as_bytes())
            .await
    }

    pub(crate) async fn upload(&self, name: &str, purpose: &str, content: &[u8]) -> Answer {
        let (kind, body) = form(name, purpose, content);
        let headers = [("content-type", kind.as_str())];
        self.call("POST", &self.path("/files"), &headers, &body)
            .await
    }

    /// Uploads a batch file and gives its id.
    pub(crate) async fn input(&self, lines: &[String]) -> String {
        let content = lines.join("\n");
        let answer = self.upload("in.jsonl", "batch", content.as_bytes()).await;
        assert_eq!(answer.status, 200);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn batch_body(file: &str) -> Value {
        json!({
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "metadata": {"run": "1"},
        })
    }

    /// Creates a batch and gives its id.
    pub(crate) async fn batch(&self, file: &str) -> String {
        let answer = self
            .post(&self.path("/batches"), &Self::batch_body(file))
            .await;
        assert_eq!(answer.status, 200, "{:?}", answer.json());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn see(&self, batch: &str) -> Value {
        self.get(&self.path(&format!("/batches/{batch}")))
            .await
            .json()
    }

    /// The lines of a results file.
    pub(crate) async fn lines(&self, file: &Value) -> Vec<Value> {
        let Some(file) = file.as_str() else {
            return Vec::new();
        };
        let answer = self
            .get(&self.path(&format!("/files/{file}/content")))
            .await;
        assert_eq!(answer.status, 200);
        answer
            .body
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }
}

pub(crate) fn form(name: &str, purpose: &str, content: &[u8]) -> (String, Vec<u8>) {
    let mut body = format!(
        "--XX\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n--XX\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--XX--\r\n");
    ("multipart/form-data; boundary=XX".to_owned(), body)
}

/// A chat line of a batch.
pub(crate) fn line(custom_id: &str, text: &str) -> String {
    line_for("gpt-4o-mini", custom_id, text)
}

/// A chat line of a batch that asks a model.
pub(crate) fn line_for(model: &str, custom_id: &str, text: &str) -> String {
    json!({
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": chat(model, text),
    })
    .to_string()
}

pub(crate) fn lines(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| line(&format!("r-{n}"), &format!("question {n}")))
        .collect()
}

pub(crate) fn chat(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": text}]})
}

pub(crate) fn ids(lines: &[Value]) -> BTreeSet<String> {
    lines
        .iter()
        .map(|line| line["custom_id"].as_str().unwrap().to_owned())
        .collect()
}

fn parse(received: &[u8]) -> Option<Answer> {
    let end = received
        .windows(4)
        .position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(received[..end].to_vec()).unwrap();
    let rest = &received[end + 4..];
    let mut answer = Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head,
        body: rest.to_vec(),
        whole: true,
    };
    if let Some(length) = answer.header("content-length") {
        answer.whole = length.parse() == Ok(rest.len());
    } else if answer.header("transfer-encoding") == Some("chunked") {
        (answer.body, answer.whole) = unchunk(rest);
    }
    Some(answer)
}

fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = rest.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (body, true);
        }
        let here = size.min(rest.len());
        body.extend_from_slice(&rest[..here]);
        if rest.len() < size + 2 {
            return (body, false);
        }
        rest = &rest[size + 2..];
    }
}
