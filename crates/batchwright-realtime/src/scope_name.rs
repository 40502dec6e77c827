//! Numbers for the places attempts go to.

use crate::Scope;
use std::{collections::HashMap, sync::Arc};

/// Names a scope within a run, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ScopeId(usize);

impl ScopeId {
    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// The names of a [`Scope`], shared. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ScopeName {
    /// The provider's name.
    pub provider: Arc<str>,
    /// The model.
    pub model: Arc<str>,
    /// What tells apart keys, accounts or deployments; empty where there is one.
    pub deployment: Arc<str>,
}

impl ScopeName {
    pub(crate) fn borrow(&self) -> Scope<'_> {
        Scope::new(&self.provider, &self.model).with_deployment(&self.deployment)
    }

    fn is(&self, scope: Scope<'_>) -> bool {
        *self.model == *scope.model
            && *self.provider == *scope.provider
            && *self.deployment == *scope.deployment
    }
}

/// The names of all scopes a run has met. There are as many as models and deployments, not as rows.
#[derive(Debug, Default)]
pub(crate) struct ScopeNames {
    names: Vec<ScopeName>,
    ids: HashMap<ScopeName, ScopeId>,
    /// The next attempt mostly goes where the last one went.
    last: ScopeId,
}

impl ScopeNames {
    pub(crate) fn id(&mut self, scope: Scope<'_>) -> ScopeId {
        if let Some(name) = self.names.get(self.last.index())
            && name.is(scope)
        {
            return self.last;
        }
        let name = ScopeName {
            provider: Arc::from(scope.provider),
            model: Arc::from(scope.model),
            deployment: Arc::from(scope.deployment),
        };
        self.last = *self.ids.entry(name).or_insert_with_key(|name| {
            self.names.push(name.clone());
            ScopeId(self.names.len() - 1)
        });
        self.last
    }

    pub(crate) fn name(&self, id: ScopeId) -> &ScopeName {
        &self.names[id.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_keeps_its_number() {
        let mut scopes = ScopeNames::default();
        let small = Scope::new("p", "small");
        let first = scopes.id(small);
        let other = scopes.id(small.with_deployment("eu"));
        assert_ne!(first, other);
        assert_eq!((scopes.id(small), scopes.id(small)), (first, first));
        assert_eq!(&*scopes.name(other).deployment, "eu");
    }
}
