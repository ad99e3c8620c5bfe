//! The server's only reader of the wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

pub use flotilla_api_types::time::{from_rfc3339, rfc3339};

/// Unix milliseconds now.
#[expect(clippy::disallowed_methods, reason = "this is the clock that everybody else takes")]
pub fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}
