//! Stands between a provider and a double of its vendor: counts calls and lets them go wrong on the wire.
//!
//! Of HTTP it knows what it needs: one request for each connection, with a length; answers end with the connection.

use batchwright_emulator::{FaultAction, MutationKind, Reply};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The most bytes of a head, and of a piece read at once.
const HEAD_BYTES: usize = 64 * 1024;

pub(crate) struct Between {
    base_url: String,
    shared: Arc<Shared>,
    /// Dropped with it, and with them every connection.
    _tasks: JoinSet<()>,
}

struct Shared {
    /// The double's host and port.
    upstream: String,
    rules: Mutex<Vec<Rule>>,
    /// Method and path of every call, whatever came of it.
    calls: Mutex<Vec<(String, String)>>,
}

struct Rule {
    method: &'static str,
    path: &'static str,
    left: u64,
    action: FaultAction,
}

impl Between {
    /// Listens before the server at `base_url`.
    pub(crate) async fn start(base_url: &str) -> Self {
        let rest = base_url
            .strip_prefix("http://")
            .expect("a double's base URL begins with http://");
        let path = rest.find('/').unwrap_or(rest.len());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream: rest[..path].to_owned(),
            rules: Mutex::default(),
            calls: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&shared)));
        Self {
            base_url: format!("http://{address}{}", &rest[path..]),
            shared,
            _tasks: tasks,
        }
    }

    pub(crate) fn base_url(&self) -> String {
        self.base_url.clone()
    }

    /// The next `times` calls of this method and path go wrong so.
    ///
    /// # Panics
    /// Where that cannot be done on the wire.
    pub(crate) fn add(
        &self,
        method: &'static str,
        path: &'static str,
        times: u64,
        action: FaultAction,
    ) {
        let can = matches!(
            action,
            FaultAction::Reply(_)
                | FaultAction::CommitThenReply(_)
                | FaultAction::CommitThenDrop
                | FaultAction::CutAfter { .. }
                | FaultAction::MutateResults(_)
        );
        assert!(can, "only the emulator can do {action:?}");
        lock(&self.shared.rules).push(Rule {
            method,
            path,
            left: times,
            action,
        });
    }

    pub(crate) fn calls(&self, method: &str, path: &str) -> u64 {
        let calls = lock(&self.shared.calls);
        let ours = calls
            .iter()
            .filter(|call| call.0 == method && fits(path, &call.1));
        ours.count() as u64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `path` is of this form, in which `*` stands for any run of characters.
fn fits(form: &str, path: &str) -> bool {
    match form.split_once('*') {
        None => form == path,
        Some((head, tail)) => path.strip_prefix(head).is_some_and(|rest| {
            let mut ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.any(|at| fits(tail, &rest[at..]))
        }),
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                let shared = Arc::clone(&shared);
                // A connection that breaks is the provider's to notice.
                connections.spawn(async move { let _ = exchange(stream, &shared).await; });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn exchange(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let Some(request) = Message::read(&mut client).await? else {
        return Ok(());
    };
    let mut line = request.head.split(' ');
    let (method, target) = (line.next().unwrap_or(""), line.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    lock(&shared.calls).push((method.to_owned(), path.to_owned()));
    let action = shared.due(method, path);
    if let Some(FaultAction::Reply(reply)) = &action {
        client.write_all(&spoken(reply)).await?;
        return client.shutdown().await;
    }
    let answer = request.ask(&shared.upstream).await?;
    let bytes = match action {
        Some(FaultAction::CommitThenDrop) => return Ok(()),
        Some(FaultAction::CommitThenReply(reply)) => spoken(&reply),
        Some(FaultAction::CutAfter { bytes, .. }) => {
            let whole = body_start(&answer);
            let most = answer.len().saturating_sub(1);
            let end = usize::try_from(bytes).map_or(most, |bytes| most.min(whole + bytes));
            answer[..end].to_vec()
        }
        Some(FaultAction::MutateResults(mutation)) => mutated(&answer, mutation.kind),
        _ => answer,
    };
    client.write_all(&bytes).await?;
    client.shutdown().await
}

impl Shared {
    fn due(&self, method: &str, path: &str) -> Option<FaultAction> {
        let mut rules = lock(&self.rules);
        let rule = rules
            .iter_mut()
            .find(|rule| rule.left > 0 && rule.method == method && fits(rule.path, path))?;
        rule.left -= 1;
        Some(rule.action.clone())
    }
}

/// A request as it came.
struct Message {
    /// Up to the empty line.
    head: String,
    body: Vec<u8>,
}

impl Message {
    async fn read(stream: &mut TcpStream) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let start = loop {
            if let Some(start) = find(&bytes, b"\r\n\r\n") {
                break start + 4;
            }
            if bytes.len() > HEAD_BYTES || stream.read_buf(&mut bytes).await? == 0 {
                return Ok(None);
            }
        };
        let body = bytes.split_off(start);
        let head = String::from_utf8_lossy(&bytes[..start - 4]).into_owned();
        let mut message = Self { head, body };
        if message.header("transfer-encoding").is_some() {
            let reply = Reply::status(411).with_body("the suite wants a content-length".into());
            stream.write_all(&spoken(&reply)).await?;
            return Ok(None);
        }
        let length = message.header("content-length");
        let length: usize = length.and_then(|text| text.parse().ok()).unwrap_or(0);
        while message.body.len() < length {
            if stream.read_buf(&mut message.body).await? == 0 {
                return Ok(None);
            }
        }
        Ok(Some(message))
    }

    fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// Asks the double, and reads all it says.
    async fn ask(&self, upstream: &str) -> io::Result<Vec<u8>> {
        let mut lines = self.head.split("\r\n");
        let mut head = lines.next().unwrap_or_default().to_owned();
        for line in lines.filter(|line| !named(line, "connection") && !named(line, "host")) {
            head = head + "\r\n" + line;
        }
        head = format!("{head}\r\nhost: {upstream}\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(upstream).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    }
}

fn named(line: &str, name: &str) -> bool {
    line.split_once(':')
        .is_some_and(|(given, _)| given.eq_ignore_ascii_case(name))
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let line = head.split("\r\n").skip(1).find(|line| named(line, name))?;
    line.split_once(':').map(|(_, value)| value.trim())
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Where an answer's body starts.
fn body_start(answer: &[u8]) -> usize {
    find(answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}

/// An answer in the emulator's words, as bytes.
fn spoken(reply: &Reply) -> Vec<u8> {
    let body = match &reply.body {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut head = format!("HTTP/1.1 {} Chosen\r\nconnection: close\r\n", reply.status);
    let kind = "content-type";
    let typed = reply
        .headers
        .keys()
        .any(|name| name.eq_ignore_ascii_case(kind));
    if !typed {
        head += "content-type: application/json\r\n";
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// A result file gone wrong, with its first line as the victim.
fn mutated(answer: &[u8], kind: MutationKind) -> Vec<u8> {
    let (head, body) = answer.split_at(body_start(answer));
    let head = String::from_utf8_lossy(head);
    let body = match header(&head, "transfer-encoding") {
        Some(_) => dechunked(body),
        None => body.to_vec(),
    };
    let mut lines: Vec<Vec<u8>> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let mut end: &[u8] = b"\n";
    let mut body = Vec::new();
    match kind {
        MutationKind::Drop => drop(lines.remove(0)),
        MutationKind::Duplicate => lines.push(lines[0].clone()),
        MutationKind::Shuffle => lines.reverse(),
        MutationKind::Crlf => end = b"\r\n",
        MutationKind::Bom => body.extend_from_slice(b"\xef\xbb\xbf"),
        MutationKind::Blank => lines.insert(1, b" ".to_vec()),
        MutationKind::Garble => {
            let half = lines[0].len() / 2;
            lines[0].truncate(half);
        }
        MutationKind::Add => {
            // Under an id nobody sent: cases name their rows p0-0, p1-1 and so on.
            let line = String::from_utf8_lossy(&lines[0]).replace("\"p", "\"q");
            lines.push(line.into_bytes());
        }
        other => unreachable!("{other:?} needs the emulator"),
    }
    for line in &lines {
        body.extend_from_slice(line);
        body.extend_from_slice(end);
    }
    let mut kept: String = head
        .trim_end()
        .split("\r\n")
        .filter(|line| !named(line, "content-length") && !named(line, "transfer-encoding"))
        .flat_map(|line| [line, "\r\n"])
        .collect();
    kept += &format!("content-length: {}\r\n\r\n", body.len());
    [kept.as_bytes(), &body].concat()
}

/// The content of a chunked body, as far as it is whole.
fn dechunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(at) = find(rest, b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..at]);
        let size = size.split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(piece) = rest.get(at + 2..at + 2 + size).filter(|_| size > 0) else {
            break;
        };
        body.extend_from_slice(piece);
        rest = rest.get(at + 4 + size..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_run() {
        for (form, path, yes) in [
            ("*", "/a/b", true),
            ("/a/*", "/a/b/c", true),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/d", false),
            ("/a", "/a/b", false),
        ] {
            assert_eq!(fits(form, path), yes, "{form} {path}");
        }
    }

    /// What the server and the provider see of a call that goes wrong so.
    async fn seen(action: Option<FaultAction>) -> (bool, String) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v3", server.local_addr().unwrap());
        let between = Between::start(&url).await;
        if let Some(action) = action {
            between.add("POST", "/v3/*", 1, action);
        }
        let address = between.base_url();
        let address = address.strip_prefix("http://").unwrap();
        let mut client = TcpStream::connect(address.strip_suffix("/v3").unwrap())
            .await
            .unwrap();
        let call = "POST /v3/asks?x=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
        client.write_all(call.as_bytes()).await.unwrap();
        let serve = async {
            let (mut stream, _) = server.accept().await.unwrap();
            let message = Message::read(&mut stream).await.unwrap().unwrap();
            assert_eq!(message.body, b"hi");
            assert!(message.head.starts_with("POST /v3/asks?x=1 "));
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let mut told = String::new();
        let mut asked = false;
        let hear = client.read_to_string(&mut told);
        tokio::pin!(hear, serve);
        loop {
            tokio::select! {
                () = &mut serve, if !asked => asked = true,
                heard = &mut hear => {
                    heard.unwrap();
                    break;
                }
            }
        }
        assert_eq!(between.calls("POST", "/v3/asks"), 1, "also a lost one");
        (asked, told)
    }

    #[tokio::test]
    async fn faults_are_before_or_after_the_server_has_acted() {
        let (asked, told) = seen(None).await;
        assert!(asked && told.ends_with("\r\n\r\ndone"), "{told}");

        let no = || Reply::status(400).with_body("no".into());
        let (asked, told) = seen(Some(FaultAction::Reply(no()))).await;
        assert!(!asked && told.starts_with("HTTP/1.1 400 ") && told.ends_with("no"));

        let (asked, told) = seen(Some(FaultAction::CommitThenReply(no()))).await;
        assert!(asked && told.ends_with("no"), "{told}");

        let (asked, told) = seen(Some(FaultAction::CommitThenDrop)).await;
        assert!(asked && told.is_empty(), "{told}");

        let cut = FaultAction::CutAfter {
            bytes: 50,
            how: batchwright_emulator::Cut::Rst,
        };
        let (asked, told) = seen(Some(cut)).await;
        assert!(asked && told.ends_with("\r\n\r\ndon"), "{told}");
    }

    #[tokio::test]
    #[should_panic(expected = "only the emulator")]
    async fn what_cannot_be_done_on_the_wire_is_not_passed_over() {
        let between = Between::start("http://127.0.0.1:1/v3").await;
        between.add("POST", "*", 1, FaultAction::StoreShort(1));
    }

    #[test]
    fn a_broken_file_has_the_length_it_says() {
        let plain =
            b"HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"i\":\"p0\"}\n{\"i\":\"p1\"}\n";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n{\"i\":\"p0\"}\n\r\nb\r\n{\"i\":\"p1\"}\n\r\n0\r\n\r\n";
        for answer in [&plain[..], &chunked[..]] {
            for (kind, body) in [
                (MutationKind::Drop, "{\"i\":\"p1\"}\n"),
                (MutationKind::Shuffle, "{\"i\":\"p1\"}\n{\"i\":\"p0\"}\n"),
                (MutationKind::Crlf, "{\"i\":\"p0\"}\r\n{\"i\":\"p1\"}\r\n"),
                (MutationKind::Garble, "{\"i\":\n{\"i\":\"p1\"}\n"),
                (
                    MutationKind::Add,
                    "{\"i\":\"p0\"}\n{\"i\":\"p1\"}\n{\"i\":\"q0\"}\n",
                ),
            ] {
                let answer = mutated(answer, kind);
                let length = body.len();
                let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                assert_eq!(String::from_utf8(answer).unwrap(), whole, "{kind:?}");
            }
        }
    }
}
