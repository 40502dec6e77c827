//! A bounded parallel pool for direct LLM calls.
