//! The thread pool of the kernels: our own, shared by all XLA devices of the process.
//!
//! XLA's own pool is left alone (blocking on it from one of its workers deadlocks), and the callers of many devices share
//! these threads instead of bringing their own.

use std::sync::OnceLock;

use rayon::prelude::*;

/// Work below which a call stays on its own thread, in multiply-adds or bytes touched.
const SMALL: usize = 1 << 17;

fn pool() -> &'static rayon::ThreadPool {
    static POOL: OnceLock<rayon::ThreadPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let wanted = std::env::var("TERNAX_NUM_THREADS").ok();
        let count = wanted.as_deref().and_then(|text| match text.parse() {
            Ok(count) if count >= 1 => Some(count),
            _ => {
                log::warn!("TERNAX_NUM_THREADS is {text:?}, wanted a whole number of at least 1: using all processors");
                None
            }
        });
        let builder = rayon::ThreadPoolBuilder::new().thread_name(|index| format!("ternax-{index}"));
        // 0 is rayon's own default: the processors this process may use.
        builder.num_threads(count.unwrap_or(0)).build().expect("the operating system gives threads")
    })
}

/// Threads of the pool: `TERNAX_NUM_THREADS`, else the processors this process may use.
pub fn count() -> usize {
    pool().current_num_threads()
}

/// Calls `body(index, block)` for every `block_len` elements of `out`, over the pool unless `work` is small.
pub fn for_each_block<T: Send>(out: &mut [T], block_len: usize, work: usize, body: impl Fn(usize, &mut [T]) + Sync) {
    let block_len = block_len.max(1);
    if work <= SMALL || out.len() <= block_len || count() == 1 {
        out.chunks_mut(block_len).enumerate().for_each(|(index, block)| body(index, block));
    } else {
        pool().install(|| out.par_chunks_mut(block_len).enumerate().for_each(|(index, block)| body(index, block)));
    }
}
