//! Single exchanges.
