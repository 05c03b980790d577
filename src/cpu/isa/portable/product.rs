//! Register tiles of 4 x 8 sums, which fit 16 registers of four.

use super::panel;
use super::signs::sign_words;
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE, SignBits};

const COLUMNS: usize = 8;

/// Products of float32.
pub static FLOAT32: Product<f32> =
    Product { name: "portable 4x8", rows: 4, columns: COLUMNS, multiply, signs, weights: panel::weights::<COLUMNS>, scores: None };

/// `sum + left * right`, fused where that is an instruction and not a call.
#[inline(always)]
fn multiply_add(left: f32, right: f32, sum: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { left.mul_add(right, sum) } else { left * right + sum }
}

#[inline(always)]
fn tile<const ROWS: usize>(left: &[f32], order: Order, right: &[f32], start: Option<&[f32]>) -> [[f32; COLUMNS]; ROWS] {
    let (row_stride, step_stride) = match order {
        Order::Rows => (ROW_STRIDE, 1),
        Order::Steps => (1, STEP_STRIDE),
    };
    let mut tile = [[0.0; COLUMNS]; ROWS];
    if let Some(start) = start {
        tile.copy_from_slice(&start.as_chunks().0[..ROWS]);
    }
    for (step, right) in right.as_chunks::<COLUMNS>().0.iter().enumerate() {
        for (row, tile) in tile.iter_mut().enumerate() {
            let value = left[row * row_stride + step * step_stride];
            for (sum, &right) in tile.iter_mut().zip(right) {
                *sum = multiply_add(value, right, *sum);
            }
        }
    }
    tile
}

#[inline(always)]
fn sums_of_tile<const ROWS: usize>(left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    let tile = tile::<ROWS>(left, order, right, resume.then_some(&*sums));
    sums.as_chunks_mut().0[..ROWS].copy_from_slice(&tile);
}

#[inline(always)]
fn signs_of_tile<const ROWS: usize>(left: &[f32], right: &[f32], start: Option<&[f32]>, signs: &mut [SignBits], column: usize) {
    for (tile, signs) in tile::<ROWS>(left, Order::Steps, right, start).iter().zip(signs) {
        let (positive, negative) = sign_words(tile);
        signs.set(column, COLUMNS, positive, negative);
    }
}

fn multiply(rows: usize, left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    match rows {
        1 => sums_of_tile::<1>(left, order, right, sums, resume),
        2 => sums_of_tile::<2>(left, order, right, sums, resume),
        3 => sums_of_tile::<3>(left, order, right, sums, resume),
        4 => sums_of_tile::<4>(left, order, right, sums, resume),
        _ => unreachable!("a tile has 1 to 4 rows"),
    }
}

fn signs(rows: usize, left: &[f32], right: &[f32], start: Option<&[f32]>, signs: &mut [SignBits], column: usize) {
    match rows {
        1 => signs_of_tile::<1>(left, right, start, signs, column),
        2 => signs_of_tile::<2>(left, right, start, signs, column),
        3 => signs_of_tile::<3>(left, right, start, signs, column),
        4 => signs_of_tile::<4>(left, right, start, signs, column),
        _ => unreachable!("a tile has 1 to 4 rows"),
    }
}
