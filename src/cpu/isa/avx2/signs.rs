//! Gradient signs as bits.

use std::arch::x86_64::*;

use crate::cpu::isa::backward::SignBits;

/// Gradients that are compared together.
pub const WIDTH: usize = 16;

/// The positive and the negative ones of 16 gradients.
#[inline]
#[target_feature(enable = "avx2")]
pub fn sign_words([low, high]: [__m256; 2]) -> (u32, u32) {
    let zero = _mm256_setzero_ps();
    let bits = |low, high| (_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8) as u32;
    (
        bits(_mm256_cmp_ps::<_CMP_GT_OQ>(low, zero), _mm256_cmp_ps::<_CMP_GT_OQ>(high, zero)),
        bits(_mm256_cmp_ps::<_CMP_LT_OQ>(low, zero), _mm256_cmp_ps::<_CMP_LT_OQ>(high, zero)),
    )
}

/// The signs of a row of gradients.
pub fn sign_bits(gradients: &[f32], signs: &mut SignBits) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { sign_bits_by_16(gradients, signs) }
}

#[target_feature(enable = "avx2")]
fn sign_bits_by_16(gradients: &[f32], signs: &mut SignBits) {
    let (whole, rest) = gradients.as_chunks::<WIDTH>();
    let mut padded = [0.0; WIDTH];
    padded[..rest.len()].copy_from_slice(rest);
    let rest = (!rest.is_empty()).then_some(&padded);
    for (index, gradients) in whole.iter().chain(rest).enumerate() {
        // SAFETY: there are 16 of them.
        let halves = unsafe { [_mm256_loadu_ps(gradients.as_ptr()), _mm256_loadu_ps(gradients.as_ptr().add(8))] };
        let (positive, negative) = sign_words(halves);
        signs.set(index * WIDTH, WIDTH, positive, negative);
    }
}
