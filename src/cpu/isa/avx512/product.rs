//! Register tiles of 14 x 32 sums: 28 accumulators, two registers of the right panel, one broadcast.

use std::arch::x86_64::*;

use super::signs::sign_words;
use super::{panel, scores};
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE, SignBits};

/// Columns of a tile: two registers.
pub const COLUMNS: usize = 32;

/// Products of float32.
pub static FLOAT32: Product<f32> = Product {
    name: "avx512 14x32 fma",
    rows: 14,
    columns: COLUMNS,
    multiply: float32::multiply,
    signs: float32::signs,
    weights: panel::weights_f32,
    scores: Some(&scores::FLOAT32),
};

/// Products of bfloat16; only for machines with AVX512-BF16.
pub static BFLOAT16: Product<u32> = Product {
    name: "avx512 14x32 bf16",
    rows: 14,
    columns: COLUMNS,
    multiply: bfloat16::multiply,
    signs: bfloat16::signs,
    weights: panel::weights_bf16,
    scores: Some(&scores::BFLOAT16),
};

/// Calls a tile with the number of rows as its first parameter.
macro_rules! with_rows {
    ($rows:expr, $n:ident => $call:expr) => {
        with_rows!(@ $rows, $n => $call, 1 2 3 4 5 6 7 8 9 10 11 12 13 14)
    };
    (@ $rows:expr, $n:ident => $call:expr, $($count:literal)*) => {
        match $rows {
            $($count => {
                const $n: usize = $count;
                // SAFETY: the lengths were checked; the table is handed out only where the machine has the tier.
                unsafe { $call }
            })*
            _ => unreachable!("a tile has 1 to 14 rows"),
        }
    };
}

/// Defines the micro-kernels over one type of word.
macro_rules! micro_kernels {
    ($name:ident, $word:ty, $feature:literal, $broadcast:expr, $load:expr, $multiply_add:expr) => {
        mod $name {
            use super::*;

            /// The sums of a tile, beginning with `start` where it is not null.
            ///
            /// # Safety
            /// `left` holds `ROWS` rows of `steps` words in the order that `BY_ROWS` says, `right` `steps * COLUMNS` words,
            /// `start`, if anything, `ROWS * COLUMNS` float32.
            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn tile<const ROWS: usize, const BY_ROWS: bool>(
                left: *const $word,
                right: *const $word,
                steps: usize,
                start: *const f32,
            ) -> [[__m512; 2]; ROWS] {
                let (row_stride, step_stride) = if BY_ROWS { (ROW_STRIDE, 1) } else { (1, STEP_STRIDE) };
                let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
                if !start.is_null() {
                    for (row, tile) in tile.iter_mut().enumerate() {
                        // SAFETY: `start` holds `ROWS * COLUMNS` float32.
                        *tile = unsafe { [_mm512_loadu_ps(start.add(row * COLUMNS)), _mm512_loadu_ps(start.add(row * COLUMNS + 16))] };
                    }
                }
                for step in 0..steps {
                    // SAFETY: `step` is below `steps`, `row` below `ROWS`.
                    unsafe {
                        let low = $load(right.add(step * COLUMNS));
                        let high = $load(right.add(step * COLUMNS + 16));
                        for (row, tile) in tile.iter_mut().enumerate() {
                            let value = $broadcast(*left.add(row * row_stride + step * step_stride));
                            tile[0] = $multiply_add(tile[0], value, low);
                            tile[1] = $multiply_add(tile[1], value, high);
                        }
                    }
                }
                tile
            }

            /// # Safety
            /// As [`tile`]; `sums` holds `ROWS * COLUMNS` float32.
            #[target_feature(enable = $feature)]
            unsafe fn sums_of_tile<const ROWS: usize, const BY_ROWS: bool>(
                left: *const $word,
                right: *const $word,
                steps: usize,
                sums: *mut f32,
                resume: bool,
            ) {
                // SAFETY: the caller's promise is the callee's.
                let tile = unsafe { tile::<ROWS, BY_ROWS>(left, right, steps, if resume { sums } else { std::ptr::null() }) };
                for (row, tile) in tile.iter().enumerate() {
                    // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
                    unsafe {
                        _mm512_storeu_ps(sums.add(row * COLUMNS), tile[0]);
                        _mm512_storeu_ps(sums.add(row * COLUMNS + 16), tile[1]);
                    }
                }
            }

            /// # Safety
            /// As [`tile`].
            #[target_feature(enable = $feature)]
            unsafe fn signs_of_tile<const ROWS: usize>(
                left: *const $word,
                right: *const $word,
                steps: usize,
                start: *const f32,
                signs: &mut [SignBits],
                word: usize,
            ) {
                // SAFETY: the caller's promise is the callee's.
                let tile = unsafe { tile::<ROWS, false>(left, right, steps, start) };
                for (tile, signs) in tile.into_iter().zip(signs) {
                    (signs.positive[word], signs.negative[word]) = sign_words(tile);
                }
            }

            pub fn multiply(rows: usize, left: &[$word], order: Order, right: &[$word], sums: &mut [f32], resume: bool) {
                let steps = order.check(rows, left, right, Some(sums), COLUMNS);
                let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
                match order {
                    Order::Rows => with_rows!(rows, ROWS => sums_of_tile::<ROWS, true>(left, right, steps, sums, resume)),
                    Order::Steps => with_rows!(rows, ROWS => sums_of_tile::<ROWS, false>(left, right, steps, sums, resume)),
                }
            }

            pub fn signs(rows: usize, left: &[$word], right: &[$word], start: Option<&[f32]>, signs: &mut [SignBits], column: usize) {
                let steps = Order::Steps.check(rows, left, right, start, COLUMNS);
                let (left, right, start) = (left.as_ptr(), right.as_ptr(), start.map_or(std::ptr::null(), |start| start.as_ptr()));
                with_rows!(rows, ROWS => signs_of_tile::<ROWS>(left, right, steps, start, signs, column / COLUMNS));
            }
        }
    };
}

micro_kernels!(float32, f32, "avx512f,avx512bw", |value| _mm512_set1_ps(value), |at| _mm512_loadu_ps(at), |sum, left, right| {
    _mm512_fmadd_ps(left, right, sum)
});

micro_kernels!(
    bfloat16,
    u32,
    "avx512f,avx512bw,avx512bf16",
    |pair: u32| bf16_pairs(_mm512_set1_epi32(pair as i32)),
    |at: *const u32| bf16_pairs(_mm512_loadu_si512(at.cast())),
    |sum, left, right| _mm512_dpbf16_ps(sum, left, right)
);

/// Sixteen words as pairs of bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub fn bf16_pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute(words) }
}
