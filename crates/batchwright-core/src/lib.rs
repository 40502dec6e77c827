//! Words, traits, errors and prices of Batchwright: no socket, no runtime, no clock.
