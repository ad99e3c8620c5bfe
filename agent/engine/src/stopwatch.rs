//! Measures durations for the golden gate's latency budget. Not a clock: it knows no time of day.

/// Runs `work` and returns its result with the microseconds it took, monotonic.
#[expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a duration inside one call; the engine has no runtime whose clock it could take"
)]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let start = std::time::Instant::now();
    let result = work();
    (result, u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
}
