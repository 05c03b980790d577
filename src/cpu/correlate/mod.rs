//! The score of every group: how many signs of the weight gradient agree with the trits, less those that oppose them.
//!
//! `dW = dy^t x` is a product whose result is only ever looked at: the signs of a tile are compared with the trits as bits,
//! counted, and forgotten.

mod counts;
mod dense;
mod product;
mod single;
mod source;

use half::bf16;

pub use dense::{correlate_dense, correlate_dense_on};

use super::isa::backward::Backward;
use super::isa::{Loop, Tier, vectorise};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// `score[o, g] = sum over i in group g of sign(dW[o, i]) * T[o, i]` with `dW = dy^t x` summed in float32 over all tokens and
/// never stored (SPEC 17, 19, 20).
///
/// `x [tokens, in]`, `dy [tokens, out]`, `score [out, groups]`, all row-major. Faster ways than float32 products are taken where
/// they give the same signs: see [`no_product_below`].
///
/// # Panics
/// Where the lengths of the operands do not agree.
pub fn correlate<A: Activation>(x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    correlate_on(Tier::chosen(), x, dy, matrix, score);
}

/// [`correlate`] on a tier of this machine.
///
/// # Panics
/// As [`correlate`], and where this machine has not the tier.
pub fn correlate_on<A: Activation>(tier: Tier, x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = x.len() / layout.in_dim();
    assert_eq!(x.len(), tokens * layout.in_dim(), "x of whole tokens");
    assert_eq!(dy.len(), tokens * out_dim, "dy of {tokens} tokens");
    assert_eq!(score.len(), out_dim * layout.groups(), "a score for every group");
    if x.is_empty() || dy.is_empty() {
        return score.fill(0.0);
    }
    let kernels = Backward::of(tier);
    /// float32 holds multiples of this.
    const SMALLEST: i32 = -149;
    if tokens == 1 && no_product_below(SMALLEST, tier, x, dy) {
        return single::correlate(&kernels, x, dy, matrix, score);
    }
    /// Normal numbers begin here, and products of two bfloat16 are multiples of 2^-14 times the product of their powers of two.
    const SMALLEST_PAIR: i32 = -126 + 14;
    match (A::as_bf16(x), A::as_bf16(dy), kernels.bfloat16) {
        (Some(x), Some(dy), Some(product)) if no_product_below(SMALLEST_PAIR, tier, x, dy) => {
            product::correlate::<u32, bf16>(&kernels, product, x, dy, matrix, score);
        }
        _ => product::correlate::<f32, A>(&kernels, kernels.float32, x, dy, matrix, score),
    }
}

/// Whether every product of a value of `x` and one of `dy` that is not zero is `2^exponent` at least.
///
/// With `2^-149` no product rounds to zero, so that its sign is the product of the signs. And bfloat16 instructions take
/// subnormal operands and results for zero, which would lose signs: sums of multiples of `2^-126` are zero or normal.
fn no_product_below<A: Activation>(exponent: i32, tier: Tier, x: &[A], dy: &[A]) -> bool {
    let [x, dy] = [x, dy].map(|values| vectorise(tier, LeastExponent(values)));
    x >= 1 && dy >= 1 && x + dy - 2 * 127 >= exponent
}

/// The least biased exponent of the values that are not zero, 0 where one is subnormal in float32.
struct LeastExponent<'a, A>(&'a [A]);

impl<A: Activation> Loop for LeastExponent<'_, A> {
    type Output = i32;

    #[inline(always)]
    fn run(self) -> i32 {
        const FRACTION_BITS: u32 = 23;
        // Zero wraps to the largest value.
        let magnitude = |value: &A| (value.to_f32().to_bits() & 0x7FFF_FFFF).wrapping_sub(1);
        let least = self.0.iter().fold(u32::MAX, |least, value| least.min(magnitude(value)));
        (least.saturating_add(1) >> FRACTION_BITS) as i32
    }
}
