//! Fetching ahead what the prefetchers of the processor do not see coming: short runs, far apart.

use std::ops::Range;

use crate::trits::{GroupLayout, TernaryMatrix};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for a cache line.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_line(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch has no effect but on caches.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
}

/// Asks for a cache line.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_line(at: *const u8) {
    // SAFETY: a prefetch has no effect but on caches.
    unsafe { std::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Nothing: there is no such instruction that every machine has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_line(_: *const u8) {}

/// Asks the second cache for a line.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch_second(at: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch has no effect but on caches.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}

/// Asks the second cache for a line.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn prefetch_second(at: *const u8) {
    // SAFETY: a prefetch has no effect but on caches.
    unsafe { std::arch::asm!("prfm pldl2keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Nothing: as above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn prefetch_second(_: *const u8) {}

/// Asks for the cache lines of `values`.
#[inline(always)]
pub fn prefetch<T>(values: &[T]) {
    let first = values.as_ptr().cast::<u8>();
    // From the start of the first line on: a run that is no multiple of lines long may touch one line more.
    for offset in (0..first as usize % LINE + size_of_val(values)).step_by(LINE) {
        prefetch_line(first.wrapping_add(offset));
    }
}

/// Asks for what lies so many values after these, if anything does: the second cache, or the first one where it is `near`.
#[inline(always)]
pub fn prefetch_later<T, const COUNT: usize>(values: &[T; COUNT], distance: usize, near: bool) {
    let first = values.as_ptr().wrapping_add(distance).cast::<u8>();
    for offset in (0..size_of::<[T; COUNT]>()).step_by(LINE) {
        let line = first.wrapping_add(offset);
        if near { prefetch_line(line) } else { prefetch_second(line) }
    }
}

/// The groups that some columns meet.
fn groups_of(layout: GroupLayout, columns: &Range<usize>) -> Range<usize> {
    columns.start / layout.group_size()..(columns.end - 1) / layout.group_size() + 1
}

/// Asks for the bytes of some columns in some rows, as far as the matrix has them.
#[inline(always)]
pub fn prefetch_bytes(matrix: TernaryMatrix<'_>, columns: &Range<usize>, rows: Range<usize>) {
    if columns.is_empty() {
        return;
    }
    let (layout, groups) = (matrix.layout(), groups_of(matrix.layout(), columns));
    let bytes = groups.start * layout.group_bytes()..groups.end * layout.group_bytes();
    for row in rows.start..rows.end.min(matrix.out_dim()) {
        prefetch(&matrix.row(row)[bytes.clone()]);
    }
}

/// Asks for the scales of some columns in some rows, as far as the matrix has them.
#[inline(always)]
pub fn prefetch_scales(matrix: TernaryMatrix<'_>, scale: &[f32], columns: &Range<usize>, rows: Range<usize>) {
    if columns.is_empty() {
        return;
    }
    let (layout, groups) = (matrix.layout(), groups_of(matrix.layout(), columns));
    for row in rows.start..rows.end.min(matrix.out_dim()) {
        prefetch(&scale[row * layout.groups()..][groups.clone()]);
    }
}
