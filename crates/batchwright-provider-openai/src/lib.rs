//! OpenAI's wire protocol for Batchwright: realtime, files and batches.
