//! Outlives panics of the inference library, also in the build for devices, where a panic ends the process.
//!
//! What is shipped aborts on panic: unwinding would cost a fifth of its size. But a value can make a signed model panic (an
//! index looked up in a table that is too short), and neither the update logic nor other models may die of it. So the
//! panic hook, which runs before the process would end, tells whoever waits and then never returns: the thread stays parked
//! for the rest of the process's life, with what it owned. That is bounded: after [`MAX_PARKED`] the process does end, and
//! the supervisor's restart gives everything back. In builds that unwind it works in the same way.
//!
//! The guarded work must hold no lock that anybody else wants, for it is never given back.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, PanicHookInfo};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

/// tract's optimiser recurses over the graph.
pub(crate) const STACK_BYTES: usize = 8 * 1024 * 1024;
/// Threads that may be parked for good. Each keeps its stack and its model.
const MAX_PARKED: usize = 32;

static PARKED: AtomicUsize = AtomicUsize::new(0);

type OnPanic = Box<dyn FnOnce(String)>;

thread_local! {
    static ON_PANIC: RefCell<Option<OnPanic>> = const { RefCell::new(None) };
}

/// The work panicked, and its thread is parked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the inference library panicked: {0}")]
pub struct Panicked(pub String);

/// Runs `work` on this thread. Should it panic, `on_panic` is called with the message, and this thread never goes on:
/// only for threads that others can do without.
pub(crate) fn guarded<T>(on_panic: impl FnOnce(String) + 'static, work: impl FnOnce() -> T) -> T {
    install_hook();
    let armed = Armed::new(Box::new(on_panic));
    let result = work();
    drop(armed);
    result
}

/// Runs `work` on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<Result<T, Panicked>> {
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let reply = std::rc::Rc::new(std::cell::Cell::new(Some(reply)));
            let tell = |reply: &std::cell::Cell<Option<oneshot::Sender<_>>>, result| {
                if let Some(reply) = reply.take() {
                    // Whoever asked may have given up.
                    drop(reply.send(result));
                }
            };
            let for_panic = std::rc::Rc::clone(&reply);
            let result = guarded(move |message| tell(&for_panic, Err(Panicked(message))), work);
            tell(&reply, Ok(result));
        })?;
    Ok(answer
        .await
        .unwrap_or_else(|_gone| Err(Panicked("the thread ended without an answer".to_owned()))))
}

/// Disarms when the work is done, however it ends.
struct Armed;

impl Armed {
    fn new(on_panic: OnPanic) -> Self {
        ON_PANIC.with(|slot| slot.replace(Some(on_panic)));
        Self
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        ON_PANIC.with(|slot| slot.replace(None));
    }
}

fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| match armed_here() {
            Some(on_panic) if PARKED.fetch_add(1, Ordering::Relaxed) < MAX_PARKED => {
                on_panic(describe(info));
                while stay_parked() {
                    std::thread::park();
                }
            }
            _ => usual(info),
        }));
    });
}

/// For ever, but for tests: their harness takes the panic hook away when it ends, and waits until nobody is in it.
fn stay_parked() -> bool {
    #[cfg(test)]
    if !tests::stay_parked() {
        return false;
    }
    true
}

fn armed_here() -> Option<OnPanic> {
    // A thread whose locals are gone already was not armed.
    ON_PANIC
        .try_with(|slot| slot.try_borrow_mut().ok().and_then(|mut slot| slot.take()))
        .ok()
        .flatten()
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let message = text(info.payload());
    match info.location() {
        Some(location) => format!("{message} ({}:{})", location.file(), location.line()),
        None => message.to_owned(),
    }
}

/// What a panic said.
pub(crate) fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::thread::Thread;

    use super::*;

    /// Tests that run, and the threads that they parked.
    static PARKING: Mutex<(usize, Vec<Thread>)> = Mutex::new((0, Vec::new()));

    /// Held by a test that makes guarded work panic. When the last one goes, parked threads end.
    pub(crate) struct Parking;

    impl Parking {
        pub(crate) fn new() -> Self {
            PARKING.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
            Self
        }
    }

    impl Drop for Parking {
        fn drop(&mut self) {
            let mut parking = PARKING.lock().unwrap_or_else(PoisonError::into_inner);
            parking.0 -= 1;
            if parking.0 == 0 {
                parking.1.drain(..).for_each(|thread| thread.unpark());
            }
        }
    }

    pub(super) fn stay_parked() -> bool {
        let mut parking = PARKING.lock().unwrap_or_else(PoisonError::into_inner);
        parking.1.push(std::thread::current());
        parking.0 > 0
    }

    #[tokio::test]
    async fn a_panic_is_told_and_nothing_else_ends() {
        let _parking = Parking::new();
        let index = std::hint::black_box(7);
        let panicked = on_thread("doomed", move || vec![1, 2][index]).await.unwrap();
        let message = panicked.unwrap_err().to_string();
        assert!(
            message.contains("index out of bounds: the len is 2 but the index is 7")
                && message.contains("isolation.rs"),
            "{message}"
        );
        assert_eq!(on_thread("well", || 5).await.unwrap(), Ok(5));
    }

    #[test]
    fn what_is_not_guarded_panics_as_usual() {
        let joined = std::thread::spawn(|| {
            guarded(|message| panic!("told of '{message}', which is not the work's"), || ());
            panic!("usual");
        })
        .join();
        assert_eq!(text(joined.unwrap_err().as_ref()), "usual");
    }
}
