//! The score of every group: how many signs of the weight gradient agree with the trits, less those that oppose them.
//!
//! `dW = dy^t x` is a product whose result is only ever looked at: the signs of a tile are compared with the trits as bits,
//! counted, and forgotten.

mod counts;
mod dense;
mod few;
mod product;
mod single;
mod source;

use half::bf16;

pub use dense::{correlate_dense, correlate_dense_on};

use super::isa::backward::{Backward, Fill, Product, Word};
use super::isa::{Loop, Tier, vectorise};
use super::scratch::Operand;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// `score[o, g] = sum over i in group g of sign(dW[o, i]) * T[o, i]` with `dW = dy^t x` summed in float32 over all tokens and
/// never stored (SPEC 17, 19, 20).
///
/// `x [tokens, in]`, `dy [tokens, out]`, `score [out, groups]`, all row-major. Faster ways than float32 products are taken where
/// they give the same signs: see [`Sizes`].
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
    let sizes = Sizes::of(tier, x, dy);
    if tokens == 1 && sizes.no_product_below(SMALLEST) {
        return single::correlate(&kernels, x, dy, matrix, score);
    }
    match (A::as_bf16(x), A::as_bf16(dy), kernels.bfloat16) {
        (Some(x), Some(dy), Some(product)) if sizes.no_product_below(SMALLEST_PAIR) => {
            run::<u32, bf16>(&kernels, product, x, dy, matrix, sizes.finite(tokens), score);
        }
        _ => {
            let plain = sizes.finite(tokens) && sizes.no_product_below(SMALLEST + PRODUCT_BITS);
            run::<f32, A>(&kernels, kernels.float32, x, dy, matrix, plain, score);
        }
    }
}

/// float32 holds multiples of `2^SMALLEST`.
const SMALLEST: i32 = -149;
/// Normal numbers begin at `2^-126`, and products of two bfloat16 are multiples of `2^-14` times the product of their powers of two.
const SMALLEST_PAIR: i32 = -126 + 14;
/// Products of two float32 are multiples of so many bits less than the product of their powers of two.
const PRODUCT_BITS: i32 = 46;

/// The scores by products of words of one type, whose sums are `plain` where none can be -0, infinite or NaN.
fn run<W: Word + Operand, A: Fill<W>>(
    kernels: &Backward,
    product: &Product<W>,
    x: &[A],
    dy: &[A],
    matrix: TernaryMatrix<'_>,
    plain: bool,
    score: &mut [f32],
) {
    let words = (dy.len() / matrix.out_dim()).div_ceil(W::DEPTH);
    match product.scores {
        Some(scores) if plain && few::serves(matrix, words) => few::correlate(kernels.tier, scores, x, dy, matrix, score),
        _ => product::correlate(kernels, product, x, dy, matrix, score),
    }
}

/// The least and the most biased exponents of the operands: the least of those that are not zero, 0 where one is subnormal.
struct Sizes {
    x: [i32; 2],
    dy: [i32; 2],
}

/// What is added to exponents.
const BIAS: i32 = 127;

impl Sizes {
    fn of<A: Activation>(tier: Tier, x: &[A], dy: &[A]) -> Self {
        let [x, dy] = [x, dy].map(|values| vectorise(tier, Exponents(values)));
        Self { x, dy }
    }

    /// Whether every product of a value of `x` and one of `dy` that is not zero is `2^exponent` at least.
    ///
    /// With `2^-149` no product rounds to zero, so that its sign is the product of the signs; where products are multiples of it,
    /// no sum of them rounds to zero either, and a sum that is zero is +0. And bfloat16 instructions take subnormal operands and
    /// results for zero, which would lose signs: sums of multiples of `2^-126` are zero or normal.
    fn no_product_below(&self, exponent: i32) -> bool {
        let ([x, _], [dy, _]) = (self.x, self.dy);
        x >= 1 && dy >= 1 && x + dy - 2 * BIAS >= exponent
    }

    /// Whether the sum of so many products is finite, in any order.
    fn finite(&self, tokens: usize) -> bool {
        let ([_, x], [_, dy]) = (self.x, self.dy);
        let summed = tokens.next_power_of_two().ilog2() as i32;
        // Values are below 2^(exponent + 1).
        x <= 2 * BIAS && dy <= 2 * BIAS && x + dy - 2 * BIAS + 2 + summed <= BIAS
    }
}

/// The least biased exponent of the values that are not zero, and the most of all.
struct Exponents<'a, A>(&'a [A]);

impl<A: Activation> Loop for Exponents<'_, A> {
    type Output = [i32; 2];

    #[inline(always)]
    fn run(self) -> [i32; 2] {
        const FRACTION_BITS: u32 = 23;
        let (mut least, mut most) = (u32::MAX, 0);
        for value in self.0 {
            let magnitude = value.to_f32().to_bits() & 0x7FFF_FFFF;
            // Zero wraps to the largest value.
            least = least.min(magnitude.wrapping_sub(1));
            most = most.max(magnitude);
        }
        [least.saturating_add(1), most].map(|magnitude| (magnitude >> FRACTION_BITS) as i32)
    }
}
