//! The input gradient `dx = dy (S T)`.

use super::dequantize::dequantize_row;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// `dx[m, i] = sum over o of dy[m, o] * scale[o, i / group_size] * T[o, i]`, summed in float32.
///
/// `dy [tokens, out]`, `scale [out, groups]`, `dx [tokens, in]`, all row-major.
pub fn matmul_transposed<D: Activation, X: Activation>(dy: &[D], matrix: TernaryMatrix<'_>, scale: &[f32], dx: &mut [X]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let mut weights = vec![0.0; layout.in_dim()];
    let mut sums = vec![0f32; dx.len()];
    for row in 0..out_dim {
        dequantize_row(matrix.row(row), &scale[row * layout.groups()..][..layout.groups()], layout, &mut weights);
        for (token, sums) in sums.chunks_exact_mut(layout.in_dim()).enumerate() {
            let dy = dy[token * out_dim + row].to_f32();
            for (sum, w) in sums.iter_mut().zip(&weights) {
                *sum += dy * w;
            }
        }
    }
    for (dx, sum) in dx.iter_mut().zip(sums) {
        *dx = X::from_f32(sum);
    }
}
