//! A server of the provider's own in the vendor's place, where the emulator does not speak its protocol.

use futures::future::BoxFuture;
use std::{fmt, sync::Arc, time::Duration};

/// A server that speaks the vendor's protocol, one for each case; it stops when it is dropped.
///
/// The suite stands between it and the provider: it counts calls, refuses them, loses their answers and breaks result
/// files by itself. What it cannot do from there is what this trait asks for, and each of them may be missing
/// ([`Powers`]).
pub trait Double: Send + Sync {
    /// Its base URL as the provider takes it, over plain http: `http://127.0.0.1:4711/v3`.
    fn base_url(&self) -> String;

    /// Moves its clock; done when all that became due has happened. Time stands still otherwise. Called only with
    /// [`Powers::clock`].
    ///
    /// # Cancel safety
    /// Never dropped before its end.
    fn advance(&self, by: Duration) -> BoxFuture<'_, ()> {
        let _ = by;
        Box::pin(async {})
    }

    /// All that was billed since it started. Called only with [`Powers::invoice`].
    ///
    /// # Cancel safety
    /// Never dropped before its end.
    fn invoice(&self) -> BoxFuture<'_, Vec<Billed>> {
        Box::pin(async { Vec::new() })
    }
}

/// An answer that was billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Billed {
    /// Tokens read.
    pub input_tokens: u64,
    /// Tokens written.
    pub output_tokens: u64,
}

impl Billed {
    /// An answer to `input_tokens` of `output_tokens`.
    pub const fn new(input_tokens: u64, output_tokens: u64) -> Self {
        Self {
            input_tokens,
            output_tokens,
        }
    }
}

/// What a [`Double`] can do besides speaking the protocol. A case that needs what is not there is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Powers {
    /// Its clock stands still and is moved by [`Double::advance`].
    pub clock: bool,
    /// [`Double::invoice`] tells what was billed.
    pub invoice: bool,
    /// An answer holds the [`prompt_hash`](crate::prompt_hash) of its prompt.
    pub marks: bool,
    /// A prompt that holds `[[error:STATUS]]` fails with that status, `[[refuse]]` is refused by the model, `[[filter]]`
    /// is stopped by a policy, `[[length]]` is cut off.
    pub directives: bool,
}

impl Powers {
    /// None of them.
    pub const NONE: Self = Self {
        clock: false,
        invoice: false,
        marks: false,
        directives: false,
    };

    /// All of them.
    pub const ALL: Self = Self {
        clock: true,
        invoice: true,
        marks: true,
        directives: true,
    };

    /// Sets whether its clock is moved by the cases.
    #[must_use]
    pub const fn with_clock(mut self, clock: bool) -> Self {
        self.clock = clock;
        self
    }

    /// Sets whether it tells what was billed.
    #[must_use]
    pub const fn with_invoice(mut self, invoice: bool) -> Self {
        self.invoice = invoice;
        self
    }

    /// Sets whether answers hold the prompt's hash.
    #[must_use]
    pub const fn with_marks(mut self, marks: bool) -> Self {
        self.marks = marks;
        self
    }

    /// Sets whether it obeys what stands in double brackets.
    #[must_use]
    pub const fn with_directives(mut self, directives: bool) -> Self {
        self.directives = directives;
        self
    }
}

/// How a double is started, once for each case.
pub(crate) type Start = Arc<dyn Fn() -> BoxFuture<'static, Box<dyn Double>> + Send + Sync>;

impl fmt::Debug for dyn Double {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Double")
            .field("base_url", &self.base_url())
            .finish()
    }
}
