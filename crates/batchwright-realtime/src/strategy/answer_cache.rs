//! Where answers are kept: the trait, its key, and a cache in memory.

use crate::{Executed, Scope};
use async_trait::async_trait;
use batchwright_core::{
    Chat, Media, Message, Part, Payload, Request, Response, ResponseFormat, Result, ToolChoice,
};
use ring::digest::{Context, SHA256};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Where [`Cached`](crate::Cached) keeps answers. `T` is what a success holds.
#[async_trait]
pub trait AnswerCache<T = Response>: Send + Sync {
    /// The answer kept under this key, if there is one that is not too old.
    ///
    /// # Errors
    /// Every failure; the request is then sent.
    ///
    /// # Cancel safety
    /// Dropped where it takes too long; must not lose what is kept.
    async fn get(&self, key: &AnswerKey) -> Result<Option<Executed<T>>>;

    /// Keeps a success, in the place of what was there.
    ///
    /// # Errors
    /// Every failure; the answer is used all the same.
    ///
    /// # Cancel safety
    /// Dropped where it takes too long; must leave either this answer, or another whole one, or none.
    async fn put(&self, key: &AnswerKey, answer: &Executed<T>) -> Result<()>;
}

/// What an answer is kept under: SHA-256 of all that decides it, and of nothing else. Requests of other
/// `custom_id`s have the same key. The same in every process of this version.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AnswerKey([u8; 32]);

impl AnswerKey {
    /// The key of `request` where it goes to this provider and model; keys of different namespaces differ. `None`
    /// where the request holds what this version cannot tell apart.
    pub fn of(namespace: &str, scope: Scope<'_>, request: &Request) -> Option<Self> {
        let mut hash = Hash(Context::new(&SHA256));
        hash.text("batchwright answer v1");
        hash.text(namespace);
        hash.text(scope.provider);
        hash.text(scope.model);
        hash.text(&request.model);
        hash.json(&request.sampling)?;
        hash.json(&request.extra)?;
        match &request.payload {
            Payload::Chat(chat) => {
                hash.tag(0);
                hash.chat(chat)?;
            }
            Payload::Embedding(input) => {
                hash.tag(1);
                hash.json(&input.dimensions)?;
                hash.all(&input.texts, |hash, text| {
                    hash.text(text);
                    Some(())
                })?;
            }
            Payload::Raw(raw) => {
                hash.tag(2);
                hash.text(&raw.endpoint);
                hash.text(raw.body.get());
            }
            _ => return None,
        }
        let digest = hash.0.finish();
        Some(Self(
            digest.as_ref().try_into().expect("SHA-256 has 32 bytes"),
        ))
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Each piece is preceded by its length, so that no two requests make the same bytes.
struct Hash(Context);

impl Hash {
    fn tag(&mut self, tag: u8) {
        self.0.update(&[tag]);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn json(&mut self, value: &impl serde::Serialize) -> Option<()> {
        self.bytes(&serde_json::to_vec(value).ok()?);
        Some(())
    }

    fn maybe(&mut self, text: Option<&str>) {
        self.tag(u8::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn all<V>(&mut self, all: &[V], each: impl Fn(&mut Self, &V) -> Option<()>) -> Option<()> {
        self.0.update(&(all.len() as u64).to_le_bytes());
        all.iter().try_for_each(|one| each(self, one))
    }

    fn chat(&mut self, chat: &Chat) -> Option<()> {
        self.all(&chat.messages, Self::message)?;
        self.all(&chat.tools, |hash, tool| {
            hash.text(&tool.name);
            hash.maybe(tool.description.as_deref());
            hash.json(&tool.parameters)?;
            hash.json(&tool.strict)
        })?;
        match &chat.tool_choice {
            None => self.tag(0),
            Some(ToolChoice::Auto) => self.tag(1),
            Some(ToolChoice::None) => self.tag(2),
            Some(ToolChoice::Required) => self.tag(3),
            Some(ToolChoice::Named(name)) => {
                self.tag(4);
                self.text(name);
            }
            Some(_) => return None,
        }
        match &chat.response_format {
            ResponseFormat::Text => self.tag(0),
            ResponseFormat::Json => self.tag(1),
            ResponseFormat::JsonSchema {
                name,
                schema,
                strict,
            } => {
                self.tag(2);
                self.text(name);
                self.json(schema)?;
                self.tag(u8::from(*strict));
            }
            _ => return None,
        }
        Some(())
    }

    fn message(&mut self, message: &Message) -> Option<()> {
        self.json(&message.role)?;
        self.all(&message.content, Self::part)
    }

    fn part(&mut self, part: &Part) -> Option<()> {
        match part {
            Part::Text(text) => {
                self.tag(0);
                self.text(text);
            }
            Part::Image(media) => {
                self.tag(1);
                self.media(media)?;
            }
            Part::Document(media) => {
                self.tag(2);
                self.media(media)?;
            }
            Part::Audio(media) => {
                self.tag(3);
                self.media(media)?;
            }
            Part::Thinking(thinking) => {
                self.tag(4);
                self.text(&thinking.text);
                self.maybe(thinking.signature.as_deref());
            }
            Part::ToolCall(call) => {
                self.tag(5);
                self.text(&call.id);
                self.text(&call.name);
                self.text(&call.arguments);
            }
            Part::ToolResult(result) => {
                self.tag(6);
                self.text(&result.id);
                self.text(&result.content);
            }
            _ => return None,
        }
        Some(())
    }

    fn media(&mut self, media: &Media) -> Option<()> {
        match media {
            Media::Url(url) => {
                self.tag(0);
                self.text(url);
            }
            Media::Inline {
                media_type,
                base64,
                name,
            } => {
                self.tag(1);
                self.text(media_type);
                self.text(base64);
                self.maybe(name.as_deref());
            }
            Media::File(id) => {
                self.tag(2);
                self.text(id);
            }
            _ => return None,
        }
        Some(())
    }
}

impl fmt::Display for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AnswerKey({self})")
    }
}

/// A cache in memory, bounded by a number of answers; the one used longest ago makes room.
///
/// What it takes is that number times the size of an answer, which a response holds twice: parsed, and as the
/// vendor's bytes.
pub struct MemoryCache<T = Response> {
    max_answers: usize,
    ttl: Duration,
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    answers: HashMap<AnswerKey, Answer<T>>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, AnswerKey>,
    clock: u64,
}

struct Answer<T> {
    executed: Executed<T>,
    since: Instant,
    used: u64,
}

impl<T> MemoryCache<T> {
    /// At most `max_answers`, at least 1, each for an hour: the answers of one job, not of last week's.
    pub fn new(max_answers: usize) -> Self {
        Self {
            max_answers: max_answers.max(1),
            ttl: Duration::from_secs(3600),
            kept: Mutex::new(Kept {
                answers: HashMap::new(),
                order: BTreeMap::new(),
                clock: 0,
            }),
        }
    }

    /// How long an answer is given again.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Answers kept, those that are too old included until somebody asks for them or they make room.
    pub fn len(&self) -> usize {
        self.kept().answers.len()
    }

    /// Whether it keeps none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn kept(&self) -> MutexGuard<'_, Kept<T>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Kept<T> {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn remove(&mut self, key: &AnswerKey) {
        if let Some(answer) = self.answers.remove(key) {
            self.order.remove(&answer.used);
        }
    }
}

#[async_trait]
impl<T: Clone + Send + Sync> AnswerCache<T> for MemoryCache<T> {
    async fn get(&self, key: &AnswerKey) -> Result<Option<Executed<T>>> {
        let mut kept = self.kept();
        let now = kept.tick();
        let Some(answer) = kept.answers.get_mut(key) else {
            return Ok(None);
        };
        if answer.since.elapsed() >= self.ttl {
            kept.remove(key);
            return Ok(None);
        }
        let before = std::mem::replace(&mut answer.used, now);
        let executed = answer.executed.clone();
        kept.order.remove(&before);
        kept.order.insert(now, *key);
        Ok(Some(executed))
    }

    async fn put(&self, key: &AnswerKey, answer: &Executed<T>) -> Result<()> {
        let answer = answer.clone();
        let mut kept = self.kept();
        kept.remove(key);
        while kept.answers.len() >= self.max_answers {
            let Some((_, oldest)) = kept.order.pop_first() else {
                break;
            };
            kept.answers.remove(&oldest);
        }
        let used = kept.tick();
        kept.order.insert(used, *key);
        let answer = Answer {
            executed: answer,
            since: Instant::now(),
            used,
        };
        kept.answers.insert(*key, answer);
        Ok(())
    }
}

impl<T> fmt::Debug for MemoryCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryCache")
            .field("max_answers", &self.max_answers)
            .field("ttl", &self.ttl)
            .field("len", &self.len())
            .finish()
    }
}
