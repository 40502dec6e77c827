//! What sets the members of the OpenAI family apart, as data.

use crate::model::Model;

/// One member of the family.
#[derive(Debug)]
pub(in crate::face) struct Dialect {
    /// The face's name.
    pub(in crate::face) name: &'static str,
    /// The path that clients have in their base URL.
    pub(in crate::face) base: &'static str,
    pub(in crate::face) models: &'static [Model],
    /// What ids of files begin with.
    pub(in crate::face) file_id: &'static str,
    /// What ids of batches begin with.
    pub(in crate::face) batch_id: &'static str,
}

impl Dialect {
    pub(in crate::face) fn model(&self, name: &str) -> Option<&'static Model> {
        Model::find(self.models, name)
    }
}
