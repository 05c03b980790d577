//! The thread pool of the kernels: our own, shared by all XLA devices of the process.
//!
//! A caller always works on its own call and never waits for a thread to become free: it reserves helpers that no other call
//! has, or does without. So eight devices on two processors run their calls side by side, each on its own thread, and one device
//! gets both processors. XLA's own pool is left alone: blocking on it from one of its workers deadlocks.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Work below which a call stays on its own thread, in multiply-adds: to wake a helper takes as long as some tens of
/// microseconds of them.
const SMALL: usize = 1 << 22;
/// Multiply-adds in the time of one nanosecond, in which anything else counts.
pub const PER_NANOSECOND: usize = 60;

/// Threads that calls have reserved at this moment.
static BUSY: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// What [`with_count`] wants on this thread.
    static WANTED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Threads of a call: `TERNAX_NUM_THREADS`, else the processors this process may use.
pub fn count() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    let configured = || {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let Ok(text) = std::env::var("TERNAX_NUM_THREADS") else { return processors() };
        match text.parse() {
            Ok(count) if count >= 1 => count,
            _ => {
                log::warn!("TERNAX_NUM_THREADS is {text:?}, wanted a whole number of at least 1: using all processors");
                processors()
            }
        }
    };
    WANTED.get().unwrap_or_else(|| *COUNT.get_or_init(configured))
}

/// Whether a call with so much work stays on its own thread.
pub fn is_small(work: usize) -> bool {
    work <= SMALL
}

/// Threads that a call with so much work may take.
pub fn wanted(work: usize) -> usize {
    if is_small(work) { 1 } else { count() }
}

/// Runs `body`, whose calls from this thread take `count` threads.
pub fn with_count<R>(count: usize, body: impl FnOnce() -> R) -> R {
    struct Restore(Option<usize>);
    impl Drop for Restore {
        fn drop(&mut self) {
            WANTED.set(self.0);
        }
    }
    let _restore = Restore(WANTED.replace(Some(count.max(1))));
    body()
}

/// The helpers: one thread less than the first call that needs any takes.
fn helpers() -> &'static rayon::ThreadPool {
    static HELPERS: OnceLock<rayon::ThreadPool> = OnceLock::new();
    HELPERS.get_or_init(|| {
        let builder = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("ternax-{index}"));
        builder.num_threads(count() - 1).build().expect("the operating system gives threads")
    })
}

/// Threads that a call has for itself, this one among them.
struct Reserved {
    threads: usize,
}

impl Reserved {
    /// This thread, and of the threads that no other call has as many as are wanted beside it.
    fn new(wanted: usize) -> Self {
        let take = |busy: usize| wanted.min(count().saturating_sub(busy)).max(1);
        let busy = BUSY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |busy| Some(busy + take(busy)));
        Self { threads: take(busy.unwrap_or_else(|busy| busy)) }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        BUSY.fetch_sub(self.threads, Ordering::Relaxed);
    }
}

/// Calls `body` for every item, on this thread and, unless `work` is small, on helpers that are free.
///
/// Who takes which item is left to chance: `body` must give the same result on any thread.
pub fn for_each<T>(items: impl ExactSizeIterator<Item = T> + Send, work: usize, body: impl Fn(T) + Sync) {
    let wanted = wanted(work).min(items.len());
    if wanted <= 1 {
        return items.for_each(body);
    }
    let reserved = Reserved::new(wanted);
    if reserved.threads == 1 {
        return items.for_each(body);
    }
    let items = Mutex::new(items);
    let run = || {
        loop {
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(item) = next else { return };
            body(item);
        }
    };
    helpers().in_place_scope(|scope| {
        for _ in 1..reserved.threads {
            scope.spawn(|_| run());
        }
        run();
    });
}

/// Calls `body(index, block)` for every `block_len` elements of `out`, over the threads unless `work` is small.
pub fn for_each_block<T: Send>(out: &mut [T], block_len: usize, work: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    for_each(out.chunks_mut(block_len.max(1)).enumerate(), work, |(index, block)| body(index, block));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_taken_once_on_any_number_of_threads() {
        for threads in 1..=4 {
            let mut seen = vec![0; 1000];
            with_count(threads, || for_each_block(&mut seen, 7, usize::MAX, |index, block| block.fill(index + 1)));
            assert!(seen.iter().enumerate().all(|(at, &block)| block == at / 7 + 1));
        }
    }

    #[test]
    fn calls_from_many_threads_and_from_inside_a_call_end() {
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for_each(0..50, usize::MAX, |_| {
                        for_each(0..10, usize::MAX, |item| {
                            total.fetch_add(item, Ordering::Relaxed);
                        });
                    });
                });
            }
        });
        assert_eq!(total.into_inner(), 8 * 50 * 45);
    }

    #[test]
    fn a_panic_in_an_item_reaches_the_caller() {
        let call = || with_count(2, || for_each(0..100, usize::MAX, |item| assert!(item != 50, "item fifty")));
        assert!(std::panic::catch_unwind(call).is_err());
        let done = AtomicUsize::new(0);
        for_each(0..100, usize::MAX, |_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 100, "and later calls go on");
    }
}
