//! The fused unpack-scale-matmul `y = x (S T)^t`.

mod decode;
mod lookup;
pub(crate) mod terms;

use super::isa::Tier;
use super::isa::forward::{Forward, Lanes};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// `y[m, o] = sum over i of x[m, i] * scale[o, i / group_size] * T[o, i]`, summed in float32.
///
/// `x [tokens, in]`, `scale [out, groups]`, `y [tokens, out]`, all row-major. The sum of every element has an order of its own that
/// depends on the shape and the tier, never on the number of threads.
///
/// # Panics
/// Where the lengths of the operands do not agree.
pub fn matmul<X: Activation, Y: Activation>(x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    matmul_on(Tier::chosen(), x, matrix, scale, y);
}

/// [`matmul`] on a tier of this machine.
///
/// # Panics
/// As [`matmul`], and where this machine has not the tier.
pub fn matmul_on<X: Activation, Y: Activation>(tier: Tier, x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = x.len() / layout.in_dim();
    assert_eq!(x.len(), tokens * layout.in_dim(), "x of whole tokens");
    assert_eq!(y.len(), tokens * out_dim, "y of {tokens} tokens");
    assert_eq!(scale.len(), out_dim * layout.groups(), "a scale for every group");
    if y.is_empty() {
        return;
    }
    let forward = Forward::of(tier);
    if tokens <= forward.decode.most_tokens {
        return decode::matmul(forward.decode, x, matrix, scale, y);
    }
    match forward.lookup {
        Lanes::Eight(kernels) => lookup::matmul(tier, kernels, x, matrix, scale, y),
        Lanes::Sixteen(kernels) => lookup::matmul(tier, kernels, x, matrix, scale, y),
    }
}
