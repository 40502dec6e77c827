//! The durable record of a Batchwright job: SQLite journal, sealed chunks, outcome segments.
