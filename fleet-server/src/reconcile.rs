//! Reconcilers: they take no input, look at the database, do what is due, and are idempotent. They wake on news and on a
//! timer.

pub mod guesses;
pub mod imports;
pub mod retention;
pub mod rollouts;
