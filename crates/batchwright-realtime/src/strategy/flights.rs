//! Identical requests on their way at the same time.

use crate::{AnswerKey, Executed};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

type Answer<T> = Option<Arc<Executed<T>>>;
type Open<T> = Mutex<HashMap<AnswerKey, watch::Receiver<Answer<T>>>>;

/// Who is on its way with which request; as many as there are attempts in flight.
pub(crate) struct Flights<T>(Open<T>);

/// What joining comes to.
pub(crate) enum Joined<'a, T> {
    /// Nobody else is on its way.
    Lead(Lead<'a, T>),
    /// Somebody else came back with this.
    Answer(Arc<Executed<T>>),
    /// The time to wait is over.
    Late,
}

/// The one that is sent. Dropped without an answer, it lets the next one go.
pub(crate) struct Lead<'a, T> {
    flights: &'a Flights<T>,
    key: AnswerKey,
    answer: watch::Sender<Answer<T>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Flights<T> {
    /// Waits for whoever is on its way with this, until `deadline`.
    pub(crate) async fn join(&self, key: AnswerKey, deadline: Instant) -> Joined<'_, T> {
        loop {
            let mut answers = match self.board(key) {
                Ok(lead) => return Joined::Lead(lead),
                Err(answers) => answers,
            };
            let waited = timeout_at(deadline, answers.wait_for(Option::is_some)).await;
            match waited.map(|answer| answer.ok().and_then(|answer| answer.clone())) {
                Ok(Some(answer)) => return Joined::Answer(answer),
                // It failed.
                Ok(None) => {}
                Err(_elapsed) => return Joined::Late,
            }
        }
    }

    fn board(&self, key: AnswerKey) -> Result<Lead<'_, T>, watch::Receiver<Answer<T>>> {
        let mut open = self.open();
        if let Some(answers) = open.get(&key) {
            return Err(answers.clone());
        }
        let (answer, answers) = watch::channel(None);
        open.insert(key, answers);
        Ok(Lead {
            flights: self,
            key,
            answer,
        })
    }
}

impl<T> Flights<T> {
    fn open(&self) -> MutexGuard<'_, HashMap<AnswerKey, watch::Receiver<Answer<T>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Lead<'_, T> {
    /// Gives the answer to those who wait.
    pub(crate) fn land(self, answer: &Executed<T>) {
        self.answer.send_replace(Some(Arc::new(answer.clone())));
    }
}

impl<T> Drop for Lead<'_, T> {
    fn drop(&mut self) {
        // Before the sender goes: who is woken by that must find the way free.
        self.flights.open().remove(&self.key);
    }
}
