//! What the fleet server and the agent say to each other: identifiers, topics, codecs, signed documents and their
//! verification, telemetry bundles, sketches, the audit chain, feature transforms and the inference protocol's bodies.
//!
//! Pure: no runtime, no files, no clock. Time is an argument (`i64` Unix milliseconds), bytes are slices, and whatever
//! comes from outside is capped before it is decoded. Wire types live here and nowhere else.

pub mod audit;
pub mod bundle;
pub mod chunks;
pub mod codec;
pub mod desired_state;
pub mod enroll;
pub mod features;
pub mod golden;
pub mod head;
pub mod ids;
pub mod infer;
pub mod manifest;
pub mod messages;
pub mod report;
pub mod sketch;
pub mod text;
pub mod topics;
pub mod trust;
