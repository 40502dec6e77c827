//! What one strategy remembers of one item, apart from what others of its type do.

use crate::{ItemState, Scope};
use std::{
    any::Any,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Tells a strategy's memory of an item from that of its siblings: one chain may hold two ladders.
#[derive(Debug)]
pub(crate) struct Memory(u64);

/// The values of one type, by whose they are. Rarely more than one.
struct Shelf<S>(Vec<(u64, S)>);

impl<S> Default for Shelf<S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Memory {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    pub(crate) fn of<'s, S: Any + Send + Sync>(&self, state: &'s ItemState) -> Option<&'s S> {
        let shelf = state.get::<Shelf<S>>()?;
        let (_, value) = shelf.0.iter().find(|(owner, _)| *owner == self.0)?;
        Some(value)
    }

    pub(crate) fn of_mut<'s, S: Any + Send + Sync + Default>(
        &self,
        state: &'s mut ItemState,
    ) -> &'s mut S {
        let shelf = &mut state.get_mut::<Shelf<S>>().0;
        let place = shelf.iter().position(|(owner, _)| *owner == self.0);
        let place = place.unwrap_or_else(|| {
            shelf.push((self.0, S::default()));
            shelf.len() - 1
        });
        &mut shelf[place].1
    }
}

/// A scope that outlives the request it was asked with, kept in the item's state.
#[derive(Clone, Default)]
pub(crate) struct OwnedScope {
    provider: String,
    model: String,
    deployment: String,
}

impl OwnedScope {
    pub(crate) fn of(scope: Scope<'_>) -> Self {
        Self {
            provider: scope.provider.to_owned(),
            model: scope.model.to_owned(),
            deployment: scope.deployment.to_owned(),
        }
    }

    pub(crate) fn scope(&self) -> Scope<'_> {
        Scope::new(&self.provider, &self.model).with_deployment(&self.deployment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_of_one_type_keep_apart() {
        let (one, other) = (Memory::new(), Memory::new());
        let mut state = ItemState::default();
        *one.of_mut::<u32>(&mut state) = 7;
        assert_eq!(other.of::<u32>(&state), None);
        *other.of_mut::<u32>(&mut state) += 1;
        assert_eq!(
            (one.of::<u32>(&state), other.of::<u32>(&state)),
            (Some(&7), Some(&1))
        );
    }
}
