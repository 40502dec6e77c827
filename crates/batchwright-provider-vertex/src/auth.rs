//! Who calls: credentials, and the access tokens they are exchanged for.

mod credentials;
mod encoding;
mod token;

pub use credentials::{AuthorizedUser, Credentials, ServiceAccount};
pub(crate) use encoding::escaped;
pub(crate) use token::{Token, Tokens};
