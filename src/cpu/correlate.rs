//! The score of every group: how many signs of the weight gradient agree with the trits, less those that oppose them.

use super::threads;
use crate::float::Activation;
use crate::trits::{TernaryMatrix, unpack_row};

/// The sign of a gradient as SPEC 20 wants it: 0 for 0, -0 and NaN, +-1 for all else, denormals included.
#[inline(always)]
fn sign(gradient: f32) -> i32 {
    i32::from(gradient > 0.0) - i32::from(gradient < 0.0)
}

/// Scores of one row from its dense gradient.
fn score_row(gradient: &[f32], trits: &[i8], group_size: usize, score: &mut [f32]) {
    for ((gradient, trits), score) in gradient.chunks(group_size).zip(trits.chunks(group_size)).zip(score) {
        let sum: i32 = gradient.iter().zip(trits).map(|(&g, &t)| sign(g) * i32::from(t)).sum();
        *score = sum as f32;
    }
}

/// `score[o, g] = sum over i in group g of sign(dW[o, i]) * T[o, i]` with `dW = dy^t x` summed in float32 over all tokens and
/// never stored (SPEC 17, 19, 20).
///
/// `x [tokens, in]`, `dy [tokens, out]`, `score [out, groups]`, all row-major.
pub fn correlate<A: Activation>(x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let in_dim = layout.in_dim();
    let work = x.len() * out_dim;
    threads::for_each_block(score, layout.groups(), work, |row, score| {
        let mut gradient = vec![0f32; in_dim];
        for (x, dy) in x.chunks_exact(in_dim).zip(dy.chunks_exact(out_dim)) {
            let dy = dy[row].to_f32();
            for (sum, x) in gradient.iter_mut().zip(x) {
                *sum += dy * x.to_f32();
            }
        }
        let mut trits = vec![0; in_dim];
        unpack_row(matrix.row(row), layout, &mut trits);
        score_row(&gradient, &trits, layout.group_size(), score);
    });
}

/// The scores of a dense gradient `dw [out, in]` that had to be reduced first.
pub fn correlate_dense(dw: &[f32], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let layout = matrix.layout();
    threads::for_each_block(score, layout.groups(), 4 * dw.len(), |row, score| {
        let mut trits = vec![0; layout.in_dim()];
        unpack_row(matrix.row(row), layout, &mut trits);
        score_row(&dw[row * layout.in_dim()..][..layout.in_dim()], &trits, layout.group_size(), score);
    });
}
