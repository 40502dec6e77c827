//! Rows on their way from the source into the schedule, which middlewares look at.

use super::Run;
use crate::{WorkItem, attempt::enter};
use batchwright_core::Error;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

/// The rows that were taken and have not arrived. Empty where there is no middleware.
pub(super) struct Entering<T, C> {
    /// Row numbers by place in the source, of all of them.
    rows: BTreeMap<u64, u64>,
    /// Those that every middleware has seen.
    ready: VecDeque<Ready<T, C>>,
    /// Whether the source holds no more.
    pub(super) is_source_over: bool,
}

struct Ready<T, C> {
    index: u64,
    item: Box<WorkItem<T, C>>,
    refused: Option<Error>,
}

impl<T, C> Default for Entering<T, C> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            ready: VecDeque::new(),
            is_source_over: false,
        }
    }
}

impl<T, C> Entering<T, C> {
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn ready(&mut self, index: u64, item: Box<WorkItem<T, C>>, refused: Option<Error>) {
        self.ready.push_back(Ready {
            index,
            item,
            refused,
        });
    }

    /// No task is left: whoever is still looked at was lost to a fault of the program.
    pub(super) fn nothing_runs(&mut self) {
        if self.rows.len() > self.ready.len() {
            let ready = &self.ready;
            self.rows
                .retain(|index, _| ready.iter().any(|item| item.index == *index));
        }
    }
}

impl<S, T: Send + Sync + 'static, C: Send + 'static> Run<S, T, C> {
    /// Whether another row may be taken from the source. Those that middlewares look at will want places too.
    pub(super) fn wants_item(&self) -> bool {
        !self.entering.is_source_over
            && self.next_index < self.take_until
            && self.schedule.wants_item()
            && (self.entering.is_empty()
                || self.schedule.in_flight() + self.entering.rows.len()
                    < self.options.max_in_flight)
    }

    /// A row was taken from the source.
    pub(super) fn take(&mut self, item: WorkItem<T, C>) {
        let index = self.next_index;
        self.next_index += 1;
        self.tell_item(&item);
        if self.line.hooks.middlewares.is_empty() {
            return self.arrive(index, item, None);
        }
        self.entering.rows.insert(index, item.row);
        let line = Arc::clone(&self.line);
        self.tasks
            .spawn(Box::pin(enter(line, index, Box::new(item))));
    }

    /// Lets rows that middlewares have seen into the schedule, as places are free.
    pub(super) fn let_in(&mut self) {
        while self.schedule.wants_item()
            && let Some(Ready {
                index,
                item,
                refused,
            }) = self.entering.ready.pop_front()
        {
            self.entering.rows.remove(&index);
            self.arrive(index, *item, refused);
        }
        if self.entering.is_source_over && self.entering.is_empty() {
            self.schedule.source_ended();
        }
    }

    /// Hands rows back that will not arrive, since the run stops.
    pub(super) fn turn_back(&mut self) {
        while let Some(Ready { index, .. }) = self.entering.ready.pop_front() {
            if let Some(row) = self.entering.rows.remove(&index) {
                self.schedule.turned_back(row);
            }
        }
    }
}
