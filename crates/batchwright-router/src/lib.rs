//! Many batches over many providers: one buyer, streamed results.
