//! Randomness from the operating system, through the process's crypto provider.

/// The system gave no randomness: keys must not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gave no randomness")]
pub struct NoRandomness;

/// Fills `out`.
pub fn fill(out: &mut [u8]) -> Result<(), NoRandomness> {
    let provider = rustls::crypto::ring::default_provider();
    provider
        .secure_random
        .fill(out)
        .map_err(|_get_random_failed| NoRandomness)
}

/// A number for jitter; the middle of the range where there is no randomness.
pub fn jitter(below: u64) -> u64 {
    let mut bytes = [0u8; 8];
    match fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes) % below.max(1),
        Err(NoRandomness) => below / 2,
    }
}
