//! Durable, fast bulk LLM work: batch APIs and a realtime pool as one job.
