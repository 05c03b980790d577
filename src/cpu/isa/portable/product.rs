//! Register tiles of 8 columns: 4 rows fill the 16 registers of SSE2, 8 rows use the 32 of Advanced SIMD.

use super::panel;
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE};

const COLUMNS: usize = 8;

/// For 16 vector registers.
pub static TILE_4X8: Product<f32> =
    Product { name: "portable 4x8", rows: 4, columns: COLUMNS, multiply, weights: panel::weights::<COLUMNS> };

/// For 32 vector registers.
pub static TILE_8X8: Product<f32> = Product { name: "neon 8x8", rows: 8, columns: COLUMNS, multiply, weights: panel::weights::<COLUMNS> };

/// `sum + left * right`, fused where that is an instruction and not a call.
#[inline(always)]
fn multiply_add(left: f32, right: f32, sum: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { left.mul_add(right, sum) } else { left * right + sum }
}

#[inline(always)]
fn tile<const ROWS: usize>(left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    let (row_stride, step_stride) = match order {
        Order::Rows => (ROW_STRIDE, 1),
        Order::Steps => (1, STEP_STRIDE),
    };
    let (sums, _) = sums.as_chunks_mut::<COLUMNS>();
    let mut tile = [[0.0; COLUMNS]; ROWS];
    if resume {
        tile.copy_from_slice(&sums[..ROWS]);
    }
    for (step, right) in right.as_chunks::<COLUMNS>().0.iter().enumerate() {
        for (row, tile) in tile.iter_mut().enumerate() {
            let value = left[row * row_stride + step * step_stride];
            for (sum, &right) in tile.iter_mut().zip(right) {
                *sum = multiply_add(value, right, *sum);
            }
        }
    }
    sums[..ROWS].copy_from_slice(&tile);
}

fn multiply(rows: usize, left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    match rows {
        1 => tile::<1>(left, order, right, sums, resume),
        2 => tile::<2>(left, order, right, sums, resume),
        3 => tile::<3>(left, order, right, sums, resume),
        4 => tile::<4>(left, order, right, sums, resume),
        5 => tile::<5>(left, order, right, sums, resume),
        6 => tile::<6>(left, order, right, sums, resume),
        7 => tile::<7>(left, order, right, sums, resume),
        8 => tile::<8>(left, order, right, sums, resume),
        _ => unreachable!("a tile has 1 to 8 rows"),
    }
}
