//! A small Quillmere in this process: asks, reams, presses and sheets, a clock and a bill.

#![allow(clippy::unwrap_used, reason = "it fails the test it serves")]

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
    routing::any,
};
use batchwright_testkit::{Billed, Double, prompt_hash};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::{net::TcpListener, task::JoinSet};

/// The one voice it speaks with.
pub(crate) const VOICE: &str = "quill-1";

/// The most bytes of a ream.
const REAM_BYTES: usize = 64 * 1024 * 1024;

/// How many presses a page of the list holds.
const PAGE: usize = 50;

/// When a press begins, has answered all, and is bound, in milliseconds after its creation; and how long a halt takes.
const INKING: i64 = 20_000;
const DRYING: i64 = 60_000;
const BOUND: i64 = 80_000;
const HALTING: i64 = 20_000;

/// A running server; it stops when it is dropped.
pub(crate) struct Server {
    base_url: String,
    shop: Arc<Mutex<Shop>>,
    _tasks: JoinSet<io::Result<()>>,
}

/// All it knows.
struct Shop {
    started: Instant,
    /// Virtual seconds for each real one.
    pace: i64,
    now_ms: i64,
    asks: u64,
    reams: BTreeMap<String, Bytes>,
    presses: Vec<Press>,
    billed: Vec<Billed>,
}

struct Press {
    id: String,
    ream: String,
    label: String,
    lines: Bytes,
    made: i64,
    halted: Option<i64>,
    /// When it ended, and what came of it.
    done: Option<(i64, String)>,
}

/// Trouble: a status, its sort, and what is said of it.
type Trouble = (u16, &'static str, &'static str);

impl Server {
    /// Starts one whose clock goes `pace` times as fast as ours; 0 stands still until it is moved.
    pub(crate) async fn start(pace: i64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}/v3", listener.local_addr().unwrap());
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let shop = Arc::new(Mutex::new(Shop {
            started: Instant::now(),
            pace,
            now_ms: i64::try_from(now.as_millis()).unwrap(),
            asks: 0,
            reams: BTreeMap::new(),
            presses: Vec::new(),
            billed: Vec::new(),
        }));
        let mut tasks = JoinSet::new();
        let app = any(handle).with_state(Arc::clone(&shop));
        tasks.spawn(async move { axum::serve(listener, app.into_make_service()).await });
        Self {
            base_url,
            shop,
            _tasks: tasks,
        }
    }

    fn shop(&self) -> MutexGuard<'_, Shop> {
        self.shop.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Double for Server {
    fn base_url(&self) -> String {
        self.base_url.clone()
    }

    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        let mut shop = self.shop();
        shop.now_ms += i64::try_from(by.as_millis()).unwrap();
        shop.settle();
        Box::pin(async {})
    }

    fn invoice(&self) -> BoxFuture<'_, Vec<Billed>> {
        let mut shop = self.shop();
        shop.settle();
        let billed = shop.billed.clone();
        Box::pin(async move { billed })
    }
}

async fn handle(State(shop): State<Arc<Mutex<Shop>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, REAM_BYTES).await else {
        return troubled((413, "too_thick", "a ream has at most 64 MiB"));
    };
    let key = parts.headers.get("x-quill-key");
    if key.is_none_or(|key| key.is_empty()) {
        return troubled((401, "no_key", "who is asking?"));
    }
    let path = parts.uri.path().trim_start_matches("/v3/");
    let path: Vec<&str> = path.split('/').collect();
    let after = parts
        .uri
        .query()
        .and_then(|query| query.strip_prefix("after="));
    let mut shop = shop.lock().unwrap_or_else(PoisonError::into_inner);
    shop.settle();
    let answer = match (&parts.method, &*path) {
        (&Method::POST, ["asks"]) => shop.ask(&body),
        (&Method::PUT, ["reams", name]) => Ok(shop.put_ream(name, body)),
        (&Method::GET, ["reams", name]) => shop.ream(name),
        (&Method::DELETE, ["reams", name]) => shop.delete_ream(name),
        (&Method::POST, ["presses"]) => shop.new_press(&body),
        (&Method::GET, ["presses"]) => Ok(shop.list(after)),
        (&Method::GET, ["presses", id]) => shop.find(id).map(|at| shop.shown(at)),
        (&Method::POST, ["presses", id, "halt"]) => shop.halt(id),
        (&Method::GET, ["sheets", id]) => {
            return match shop.sheet(id) {
                Ok(sheet) => Body::from(sheet).into_response(),
                Err(trouble) => troubled(trouble),
            };
        }
        _ => Err((404, "no_such_place", "there is nothing here")),
    };
    match answer {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(trouble) => troubled(trouble),
    }
}

fn troubled((status, sort, say): Trouble) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let body = json!({"trouble": {"sort": sort, "say": say}});
    (status, axum::Json(body)).into_response()
}

impl Shop {
    fn ask(&mut self, body: &[u8]) -> Result<Value, Trouble> {
        let ask = serde_json::from_slice(body);
        let ask: Value = ask.map_err(|_| (400, "bad_form", "that is no JSON"))?;
        self.asks += 1;
        let answer = answer(&ask, self.asks)?;
        self.billed.push(billed(&answer));
        Ok(answer)
    }

    fn put_ream(&mut self, name: &str, lines: Bytes) -> Value {
        let octets = lines.len();
        self.reams.insert(name.to_owned(), lines);
        json!({"ream": name, "octets": octets})
    }

    fn ream(&self, name: &str) -> Result<Value, Trouble> {
        let lines = self.reams.get(name).ok_or(NO_REAM)?;
        Ok(json!({"ream": name, "octets": lines.len()}))
    }

    fn delete_ream(&mut self, name: &str) -> Result<Value, Trouble> {
        let gone = self.reams.remove(name).ok_or(NO_REAM)?;
        Ok(json!({"octets": gone.len()}))
    }

    fn new_press(&mut self, body: &[u8]) -> Result<Value, Trouble> {
        let new: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| new[name].as_str().unwrap_or_default().to_owned();
        let lines = self.reams.get(&text("ream")).ok_or(NO_REAM)?;
        self.presses.push(Press {
            id: format!("pr_{}", self.presses.len() + 1),
            ream: text("ream"),
            label: text("label"),
            lines: lines.clone(),
            made: self.now(),
            halted: None,
            done: None,
        });
        Ok(self.shown(self.presses.len() - 1))
    }

    /// A page, newest first; `after` is the last id of the page before.
    fn list(&self, after: Option<&str>) -> Value {
        let end = after
            .and_then(|after| self.find(after).ok())
            .unwrap_or(self.presses.len());
        let start = end.saturating_sub(PAGE);
        let page: Vec<Value> = (start..end).rev().map(|at| self.shown(at)).collect();
        let next = (start > 0).then(|| self.presses[start].id.clone());
        json!({"presses": page, "next": next})
    }

    fn find(&self, id: &str) -> Result<usize, Trouble> {
        let found = self.presses.iter().position(|press| press.id == id);
        found.ok_or((404, "no_such_press", "no press of this name"))
    }

    fn halt(&mut self, id: &str) -> Result<Value, Trouble> {
        let at = self.find(id)?;
        if self.presses[at].done.is_some() {
            return Err((409, "press_idle", "it has ended"));
        }
        self.presses[at].halted = Some(self.now());
        Ok(self.shown(at))
    }

    fn sheet(&self, id: &str) -> Result<String, Trouble> {
        let at = self.find(&id.replace("sh_", "pr_"))?;
        let done = self.presses[at].done.as_ref();
        let (_, sheet) = done.ok_or((404, "no_such_sheet", "it is not bound"))?;
        Ok(sheet.clone())
    }

    fn shown(&self, at: usize) -> Value {
        let press = &self.presses[at];
        let age = self.now() - press.made;
        let stage = match (press.halted, &press.done) {
            (Some(_), Some(_)) => "halted",
            (Some(_), None) => "halting",
            (None, Some(_)) => "bound",
            _ if age < INKING => "queued",
            _ if age < DRYING => "inking",
            _ => "drying",
        };
        let mut shown = json!({"press": press.id, "ream": press.ream, "label": press.label,
            "stage": stage, "made": press.made});
        if let Some((done, sheet)) = &press.done {
            let troubled = sheet.matches("\"trouble\":").count();
            let said = sheet.matches("\"answer\":").count();
            let asked = sheet.lines().count();
            shown["done"] = (*done).into();
            shown["sheet"] = press.id.replace("pr_", "sh_").into();
            shown["tally"] = json!({"asked": asked, "said": said, "troubled": troubled});
        }
        shown
    }

    fn now(&self) -> i64 {
        let real = i64::try_from(self.started.elapsed().as_millis()).unwrap();
        self.now_ms + real * self.pace
    }

    /// Lets happen what is due.
    fn settle(&mut self) {
        let now = self.now();
        for press in &mut self.presses {
            let due = match press.halted {
                Some(halted) => halted + HALTING,
                None => press.made + BOUND,
            };
            if press.done.is_some() || now < due {
                continue;
            }
            let mut sheet = String::new();
            // In no order: whoever reads it goes by the slips.
            for line in press.lines.rsplit(|byte| *byte == b'\n') {
                let Ok(line) = serde_json::from_slice::<Value>(line) else {
                    continue;
                };
                self.asks += 1;
                let mut told = match press.halted {
                    Some(_) => json!({"unasked": "halted"}),
                    None => match answer(&line["ask"], self.asks) {
                        Ok(answer) => {
                            self.billed.push(billed(&answer));
                            json!({"answer": answer})
                        }
                        Err((status, sort, say)) => {
                            json!({"trouble": {"status": status, "sort": sort, "say": say}})
                        }
                    },
                };
                told["slip"] = line["slip"].clone();
                sheet += &format!("{told}\n");
            }
            press.done = Some((due, sheet));
        }
    }
}

const NO_REAM: Trouble = (404, "no_such_ream", "no ream of this name");

fn billed(answer: &Value) -> Billed {
    let count = |name: &str| answer["tokens"][name].as_u64().unwrap();
    Billed::new(count("read"), count("wrote"))
}

/// What the voice says: a mark of what was asked, or what stands in double brackets there.
fn answer(ask: &Value, number: u64) -> Result<Value, Trouble> {
    if ask["voice"] != VOICE {
        return Err((404, "no_such_voice", "nobody speaks with this voice"));
    }
    let turns = ask["turns"].as_array();
    let turns = turns.ok_or((400, "bad_form", "an ask has turns"))?;
    let words = turns.iter().flat_map(|turn| turn["words"].as_array());
    let words: Vec<&str> = words.flatten().filter_map(Value::as_str).collect();
    let asked = words.concat();
    let status = asked
        .split_once("[[error:")
        .and_then(|(_, rest)| rest.split_once("]]")?.0.parse().ok());
    if let Some(status) = status {
        return Err((status, "as_asked", "it was asked to fail"));
    }
    let (ended, said) = if asked.contains("[[refuse]]") {
        ("declined", "I would rather not.".to_owned())
    } else if asked.contains("[[filter]]") {
        ("barred", String::new())
    } else if asked.contains("[[length]]") {
        ("full", "And then".to_owned())
    } else {
        let mark = prompt_hash(&words);
        let first = asked.lines().next().unwrap_or_default();
        let said = format!("You said [prompt:{mark}] \"{first}\", and I say: ink.");
        ("done", said)
    };
    let tokens = |text: &str| text.len().div_ceil(4);
    Ok(
        json!({"ask": format!("a_{number}"), "voice": VOICE, "said": said, "ended": ended,
        "tokens": {"read": tokens(&asked), "wrote": tokens(&said)}}),
    )
}
