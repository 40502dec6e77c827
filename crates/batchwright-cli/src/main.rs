//! The `batchwright` command.
fn main() {}
