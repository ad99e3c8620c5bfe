//! How inference is reached on the device itself: over HTTP on the loopback interface, and from sensor streams.

pub mod rest;
pub mod stream;
