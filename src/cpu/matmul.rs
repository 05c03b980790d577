//! The fused unpack-scale-matmul `y = x (S T)^t`.

use super::dequantize::dequantize_row;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// `y[m, o] = sum over i of x[m, i] * scale[o, i / group_size] * T[o, i]`, summed in float32.
///
/// `x [tokens, in]`, `scale [out, groups]`, `y [tokens, out]`, all row-major.
pub fn matmul<X: Activation, Y: Activation>(x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let mut weights = vec![0.0; layout.in_dim()];
    for row in 0..out_dim {
        dequantize_row(matrix.row(row), &scale[row * layout.groups()..][..layout.groups()], layout, &mut weights);
        for (token, x) in x.chunks_exact(layout.in_dim()).enumerate() {
            let mut lanes = [0f32; 16];
            for (x, w) in x.chunks(16).zip(weights.chunks(16)) {
                for ((lane, x), w) in lanes.iter_mut().zip(x).zip(w) {
                    *lane += x.to_f32() * w;
                }
            }
            y[token * out_dim + row] = Y::from_f32(lanes.iter().sum());
        }
    }
}
