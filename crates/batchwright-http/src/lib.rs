//! One careful HTTP client for all Batchwright providers.
