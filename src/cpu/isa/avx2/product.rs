//! Register tiles of 6 x 16 sums: 12 accumulators, two registers of the right panel, one broadcast.

use std::arch::x86_64::*;

use super::signs::sign_words;
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE, SignBits};
use crate::cpu::isa::portable::panel;

/// Columns of a tile: two registers.
const COLUMNS: usize = 16;

/// Products of float32.
pub static FLOAT32: Product<f32> =
    Product { name: "avx2 6x16 fma", rows: 6, columns: COLUMNS, multiply, signs, weights: panel::weights::<COLUMNS>, scores: None };

/// The sums of a tile, beginning with `start` where it is not null.
///
/// # Safety
/// `left` holds `ROWS` rows of `steps` words in the order that `BY_ROWS` says, `right` `steps * COLUMNS` words, `start`, if
/// anything, `ROWS * COLUMNS` float32.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize, const BY_ROWS: bool>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    start: *const f32,
) -> [[__m256; 2]; ROWS] {
    let (row_stride, step_stride) = if BY_ROWS { (ROW_STRIDE, 1) } else { (1, STEP_STRIDE) };
    let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
    if !start.is_null() {
        for (row, tile) in tile.iter_mut().enumerate() {
            // SAFETY: `start` holds `ROWS * COLUMNS` float32.
            *tile = unsafe { [_mm256_loadu_ps(start.add(row * COLUMNS)), _mm256_loadu_ps(start.add(row * COLUMNS + 8))] };
        }
    }
    for step in 0..steps {
        // SAFETY: `step` is below `steps`, `row` below `ROWS`.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(right.add(step * COLUMNS)), _mm256_loadu_ps(right.add(step * COLUMNS + 8)));
            for (row, tile) in tile.iter_mut().enumerate() {
                let value = _mm256_set1_ps(*left.add(row * row_stride + step * step_stride));
                tile[0] = _mm256_fmadd_ps(value, low, tile[0]);
                tile[1] = _mm256_fmadd_ps(value, high, tile[1]);
            }
        }
    }
    tile
}

/// # Safety
/// As [`tile`]; `sums` holds `ROWS * COLUMNS` float32.
#[target_feature(enable = "avx2,fma")]
unsafe fn sums_of_tile<const ROWS: usize, const BY_ROWS: bool>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    sums: *mut f32,
    resume: bool,
) {
    // SAFETY: the caller's promise is the callee's.
    let tile = unsafe { tile::<ROWS, BY_ROWS>(left, right, steps, if resume { sums } else { std::ptr::null() }) };
    for (row, tile) in tile.iter().enumerate() {
        // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
        unsafe {
            _mm256_storeu_ps(sums.add(row * COLUMNS), tile[0]);
            _mm256_storeu_ps(sums.add(row * COLUMNS + 8), tile[1]);
        }
    }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn signs_of_tile<const ROWS: usize>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    start: *const f32,
    signs: &mut [SignBits],
    column: usize,
) {
    // SAFETY: the caller's promise is the callee's.
    let tile = unsafe { tile::<ROWS, false>(left, right, steps, start) };
    for (tile, signs) in tile.into_iter().zip(signs) {
        let (positive, negative) = sign_words(tile);
        signs.set(column, COLUMNS, positive, negative);
    }
}

/// Calls a tile with the number of rows as its first parameter.
macro_rules! with_rows {
    ($rows:expr, $n:ident => $call:expr) => {
        with_rows!(@ $rows, $n => $call, 1 2 3 4 5 6)
    };
    (@ $rows:expr, $n:ident => $call:expr, $($count:literal)*) => {
        match $rows {
            $($count => {
                const $n: usize = $count;
                // SAFETY: the lengths were checked; the table is handed out only where the machine has the tier.
                unsafe { $call }
            })*
            _ => unreachable!("a tile has 1 to 6 rows"),
        }
    };
}

fn multiply(rows: usize, left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    let steps = order.check(rows, left, right, Some(sums), COLUMNS);
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
    match order {
        Order::Rows => with_rows!(rows, ROWS => sums_of_tile::<ROWS, true>(left, right, steps, sums, resume)),
        Order::Steps => with_rows!(rows, ROWS => sums_of_tile::<ROWS, false>(left, right, steps, sums, resume)),
    }
}

fn signs(rows: usize, left: &[f32], right: &[f32], start: Option<&[f32]>, signs: &mut [SignBits], column: usize) {
    let steps = Order::Steps.check(rows, left, right, start, COLUMNS);
    let (left, right, start) = (left.as_ptr(), right.as_ptr(), start.map_or(std::ptr::null(), |start| start.as_ptr()));
    with_rows!(rows, ROWS => signs_of_tile::<ROWS>(left, right, steps, start, signs, column));
}
