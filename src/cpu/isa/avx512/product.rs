//! Register tiles of 14 x 32 sums: 28 accumulators, two registers of the right panel, one broadcast.

use std::arch::x86_64::*;

use super::panel;
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE};

/// Columns of a tile: two registers.
pub const COLUMNS: usize = 32;

/// Products of float32.
pub static FLOAT32: Product<f32> =
    Product { name: "avx512 14x32 fma", rows: 14, columns: COLUMNS, multiply: multiply_f32, weights: panel::weights_f32 };

/// Products of bfloat16; only for machines with AVX512-BF16.
pub static BFLOAT16: Product<u32> =
    Product { name: "avx512 14x32 bf16", rows: 14, columns: COLUMNS, multiply: multiply_bf16, weights: panel::weights_bf16 };

/// Defines a micro-kernel for every number of rows, and the function that picks one.
macro_rules! micro_kernel {
    ($pick:ident, $tile:ident, $word:ty, $feature:literal, $broadcast:expr, $load:expr, $multiply_add:expr) => {
        /// # Safety
        /// `left` holds `ROWS` rows of `steps` words in the order that `BY_ROWS` says, `right` `steps * COLUMNS` words, `sums`
        /// `ROWS * COLUMNS` float32.
        #[target_feature(enable = $feature)]
        unsafe fn $tile<const ROWS: usize, const BY_ROWS: bool>(
            left: *const $word,
            right: *const $word,
            steps: usize,
            sums: *mut f32,
            resume: bool,
        ) {
            let (row_stride, step_stride) = if BY_ROWS { (ROW_STRIDE, 1) } else { (1, STEP_STRIDE) };
            let mut tile = [[_mm512_setzero_ps(); 2]; ROWS];
            if resume {
                for (row, tile) in tile.iter_mut().enumerate() {
                    // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
                    *tile = unsafe { [_mm512_loadu_ps(sums.add(row * COLUMNS)), _mm512_loadu_ps(sums.add(row * COLUMNS + 16))] };
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
            for (row, tile) in tile.iter().enumerate() {
                // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
                unsafe {
                    _mm512_storeu_ps(sums.add(row * COLUMNS), tile[0]);
                    _mm512_storeu_ps(sums.add(row * COLUMNS + 16), tile[1]);
                }
            }
        }

        fn $pick(rows: usize, left: &[$word], order: Order, right: &[$word], sums: &mut [f32], resume: bool) {
            let steps = order.check(rows, left, right, sums, COLUMNS);
            let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
            macro_rules! of_rows {
                ($n:literal) => {
                    match order {
                        // SAFETY: the lengths were checked above; the table is handed out only where the machine has the tier.
                        Order::Rows => unsafe { $tile::<$n, true>(left, right, steps, sums, resume) },
                        // SAFETY: as above.
                        Order::Steps => unsafe { $tile::<$n, false>(left, right, steps, sums, resume) },
                    }
                };
            }
            match rows {
                1 => of_rows!(1),
                2 => of_rows!(2),
                3 => of_rows!(3),
                4 => of_rows!(4),
                5 => of_rows!(5),
                6 => of_rows!(6),
                7 => of_rows!(7),
                8 => of_rows!(8),
                9 => of_rows!(9),
                10 => of_rows!(10),
                11 => of_rows!(11),
                12 => of_rows!(12),
                13 => of_rows!(13),
                14 => of_rows!(14),
                _ => unreachable!("a tile has 1 to 14 rows"),
            }
        }
    };
}

micro_kernel!(multiply_f32, tile_f32, f32, "avx512f", |value| _mm512_set1_ps(value), |at| _mm512_loadu_ps(at), |sum, left, right| {
    _mm512_fmadd_ps(left, right, sum)
});

micro_kernel!(
    multiply_bf16,
    tile_bf16,
    u32,
    "avx512f,avx512bf16",
    |pair: u32| bf16_pairs(_mm512_set1_epi32(pair as i32)),
    |at: *const u32| bf16_pairs(_mm512_loadu_si512(at.cast())),
    |sum, left, right| _mm512_dpbf16_ps(sum, left, right)
);

/// Sixteen words as pairs of bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_pairs(words: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute(words) }
}
