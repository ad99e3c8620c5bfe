//! The border to tract: its errors become text, its panics become errors.
//!
//! Needs `panic = "unwind"`. In a build with `panic = "abort"` only the panic hook runs: the agent, which is shipped so, puts
//! the threads that call the engine under a hook of its own.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tract_onnx::prelude::TractError;

use crate::error::EngineError;

/// Runs `work`; a panic inside becomes [`EngineError::Panicked`]. Whoever calls must throw away what `work` was changing
/// when it panicked.
pub(crate) fn guarded<T>(
    during: &'static str,
    work: impl FnOnce() -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(EngineError::Panicked {
            during,
            message: message(panic.as_ref()),
        })
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    shorten(text.unwrap_or("no message"))
}

/// tract's chain of causes in one line. It may quote whole nodes of a hostile file: kept short.
pub(crate) fn causes(error: &TractError) -> String {
    shorten(&format!("{error:#}"))
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 600;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    let mut short: String = line.chars().take(LONGEST).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let result: Result<(), _> = guarded("testing", || panic!("index {} out of bounds", 7));
        let error = result.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the inference library panicked while testing: index 7 out of bounds"
        );
    }
}
