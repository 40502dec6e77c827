//! Work items from plain texts.

use crate::WorkItem;
use batchwright_core::{Message, Request};

/// A plain question, before a model is chosen for it: a text, `(id, text)`, or `(id, text, context)`.
#[derive(Clone)]
#[non_exhaustive]
pub struct Prompt<C = ()> {
    /// The request's id; `None` is `item_` and the number of the prompt.
    pub custom_id: Option<String>,
    /// What the user says; may be empty.
    pub text: String,
    /// The caller's own, given back with the outcome.
    pub context: C,
}

impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prompt")
            .field("custom_id", &self.custom_id)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self {
            custom_id: None,
            text,
            context: (),
        }
    }
}

impl<I: Into<String>, P: Into<String>> From<(I, P)> for Prompt {
    fn from((custom_id, text): (I, P)) -> Self {
        Self {
            custom_id: Some(custom_id.into()),
            text: text.into(),
            context: (),
        }
    }
}

impl<I: Into<String>, P: Into<String>, C> From<(I, P, C)> for Prompt<C> {
    fn from((custom_id, text, context): (I, P, C)) -> Self {
        Self {
            custom_id: Some(custom_id.into()),
            text: text.into(),
            context,
        }
    }
}

/// One work item for each prompt, numbered from 0 in their order, all asked of `model`.
///
/// ```
/// use batchwright_core::Response;
/// use batchwright_realtime::{WorkItem, prompts};
///
/// let items: Vec<WorkItem> = prompts("small", ["Name a colour.", "Name a number."]).collect();
/// assert_eq!(items[1].request.custom_id, "item_1");
///
/// let items: Vec<WorkItem<Response, u32>> = prompts("small", [("sky", "Name its colour.", 7)]).collect();
/// assert_eq!((items[0].request.custom_id.as_str(), items[0].context), ("sky", 7));
/// ```
pub fn prompts<T, P, C>(
    model: impl Into<String>,
    prompts: impl IntoIterator<Item = P>,
) -> impl Iterator<Item = WorkItem<T, C>>
where
    P: Into<Prompt<C>>,
{
    let model = model.into();
    (0..).zip(prompts).map(move |(row, prompt)| {
        let prompt = prompt.into();
        let custom_id = prompt.custom_id.unwrap_or_else(|| format!("item_{row}"));
        let request = Request::chat(custom_id, &*model, [Message::user(prompt.text)]);
        WorkItem::new(row, request).with_context(prompt.context)
    })
}

/// A request alone, as row 0: for calls that number the rows themselves.
impl<T> From<Request> for WorkItem<T> {
    fn from(request: Request) -> Self {
        Self::new(0, request)
    }
}
