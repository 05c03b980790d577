//! Gradient signs as bits.

use std::arch::x86_64::*;

use crate::cpu::isa::backward::{Agreement, TritMask};

/// Compares rows of 16 gradients with their masks.
pub fn compare(gradients: &[f32], masks: &[TritMask], agreements: &mut [Agreement]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { compare_by_16(gradients, masks, agreements) }
}

#[target_feature(enable = "avx2")]
fn compare_by_16(gradients: &[f32], masks: &[TritMask], agreements: &mut [Agreement]) {
    let zero = _mm256_setzero_ps();
    for ((row, mask), agreement) in gradients.as_chunks::<16>().0.iter().zip(masks).zip(agreements) {
        // SAFETY: a row is 16 float32.
        let (low, high) = unsafe { (_mm256_loadu_ps(row.as_ptr()), _mm256_loadu_ps(row.as_ptr().add(8))) };
        let bits = |low, high| (_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8) as u32;
        let positive = bits(_mm256_cmp_ps::<_CMP_GT_OQ>(low, zero), _mm256_cmp_ps::<_CMP_GT_OQ>(high, zero));
        let negative = bits(_mm256_cmp_ps::<_CMP_LT_OQ>(low, zero), _mm256_cmp_ps::<_CMP_LT_OQ>(high, zero));
        *agreement = mask.compare(positive, negative);
    }
}
