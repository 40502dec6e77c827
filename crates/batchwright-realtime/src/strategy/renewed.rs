//! A value that is made once for all who need it, until one of them finds that it no longer serves.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::OnceCell;

/// Holds a value and its number. Whoever comes while it is being made waits; where the maker is dropped or fails, the
/// next one makes it.
pub(super) struct Renewed<V>(Mutex<Generation<V>>);

struct Generation<V> {
    number: u64,
    cell: Arc<OnceCell<V>>,
}

impl<V: Clone> Renewed<V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Generation {
            number: 0,
            cell: Arc::default(),
        }))
    }

    /// The value and its number, made where there is none.
    pub(super) async fn get<E>(
        &self,
        make: impl Future<Output = Result<V, E>>,
    ) -> Result<(u64, V), E> {
        let (number, cell) = {
            let generation = self.lock();
            (generation.number, Arc::clone(&generation.cell))
        };
        let value = cell.get_or_try_init(|| make).await?;
        Ok((number, value.clone()))
    }

    /// The value and its number, where there is one.
    pub(super) fn current(&self) -> Option<(u64, V)> {
        let generation = self.lock();
        Some((generation.number, generation.cell.get()?.clone()))
    }

    /// Forgets the value of this number, unless another has taken its place. Returns whether it did.
    pub(super) fn forget(&self, number: u64) -> bool {
        let mut generation = self.lock();
        let holds = generation.number == number && generation.cell.initialized();
        if holds {
            generation.number += 1;
            generation.cell = Arc::default();
        }
        holds
    }

    fn lock(&self) -> MutexGuard<'_, Generation<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
