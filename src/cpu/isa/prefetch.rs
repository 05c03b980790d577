//! Fetching ahead what the prefetchers of the processor do not see coming: short runs, far apart.

/// Asks for the cache lines of `values`.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        const LINE: usize = 64;
        let first = values.as_ptr().cast::<i8>();
        // From the start of the first line on: a run that is no multiple of lines long may touch one line more.
        for offset in (0..first as usize % LINE + size_of_val(values)).step_by(LINE) {
            // SAFETY: a prefetch has no effect but on caches.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(offset)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
