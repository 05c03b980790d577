//! Register tiles of 6 x 16 sums: 12 accumulators, two registers of the right panel, one broadcast.

use std::arch::x86_64::*;

use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE};
use crate::cpu::isa::portable::panel;

/// Columns of a tile: two registers.
const COLUMNS: usize = 16;

/// Products of float32.
pub static FLOAT32: Product<f32> =
    Product { name: "avx2 6x16 fma", rows: 6, columns: COLUMNS, multiply, weights: panel::weights::<COLUMNS> };

/// # Safety
/// `left` holds `ROWS` rows of `steps` words in the order that `BY_ROWS` says, `right` `steps * COLUMNS` words, `sums`
/// `ROWS * COLUMNS` float32.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const ROWS: usize, const BY_ROWS: bool>(left: *const f32, right: *const f32, steps: usize, sums: *mut f32, resume: bool) {
    let (row_stride, step_stride) = if BY_ROWS { (ROW_STRIDE, 1) } else { (1, STEP_STRIDE) };
    let mut tile = [[_mm256_setzero_ps(); 2]; ROWS];
    if resume {
        for (row, tile) in tile.iter_mut().enumerate() {
            // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
            *tile = unsafe { [_mm256_loadu_ps(sums.add(row * COLUMNS)), _mm256_loadu_ps(sums.add(row * COLUMNS + 8))] };
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
    for (row, tile) in tile.iter().enumerate() {
        // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
        unsafe {
            _mm256_storeu_ps(sums.add(row * COLUMNS), tile[0]);
            _mm256_storeu_ps(sums.add(row * COLUMNS + 8), tile[1]);
        }
    }
}

fn multiply(rows: usize, left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    let steps = order.check(rows, left, right, sums, COLUMNS);
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
    macro_rules! of_rows {
        ($n:literal) => {
            match order {
                // SAFETY: the lengths were checked above; the table is handed out only where the machine has the tier.
                Order::Rows => unsafe { tile::<$n, true>(left, right, steps, sums, resume) },
                // SAFETY: as above.
                Order::Steps => unsafe { tile::<$n, false>(left, right, steps, sums, resume) },
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
        _ => unreachable!("a tile has 1 to 6 rows"),
    }
}
