//! Trits and gradient signs as bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::window::{Tables, WIDTH, Window};
use crate::cpu::isa::backward::{Agreement, TritMask};
use crate::trits::TernaryMatrix;

/// Trit masks in slices of 32 columns.
pub fn trit_masks(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, width: usize, masks: &mut [TritMask]) {
    assert_eq!(width, super::product::COLUMNS);
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { trit_masks_by_32(matrix, rows, columns, masks) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn trit_masks_by_32(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, masks: &mut [TritMask]) {
    let (tables, row_bytes, count) = (Tables::new(), matrix.layout().row_bytes(), rows.len());
    for (window_index, start) in columns.clone().step_by(WIDTH).enumerate() {
        let window = Window::new(matrix.layout(), start, |lane| lane);
        let there = u64::MAX >> (WIDTH - (columns.end - start).min(WIDTH));
        tables.for_rows(&window, matrix.bytes(), row_bytes, rows.clone(), |first, digits| {
            for (row, digits) in (first..rows.end).zip(digits) {
                let plus = _mm512_cmpeq_epi8_mask(digits, _mm512_set1_epi8(2)) & there;
                let minus = _mm512_testn_epi8_mask(digits, digits) & there;
                let at = 2 * window_index * count + row - rows.start;
                masks[at] = TritMask { plus: plus as u32, minus: minus as u32 };
                if let Some(mask) = masks.get_mut(at + count) {
                    *mask = TritMask { plus: (plus >> 32) as u32, minus: (minus >> 32) as u32 };
                }
            }
        });
    }
}

/// Compares rows of 32 gradients with their masks.
pub fn compare(gradients: &[f32], masks: &[TritMask], agreements: &mut [Agreement]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { compare_by_32(gradients, masks, agreements) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn compare_by_32(gradients: &[f32], masks: &[TritMask], agreements: &mut [Agreement]) {
    let zero = _mm512_setzero_ps();
    for ((row, mask), agreement) in gradients.as_chunks::<32>().0.iter().zip(masks).zip(agreements) {
        // SAFETY: a row is 32 float32.
        let (low, high) = unsafe { (_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16))) };
        let bits = |low: __mmask16, high: __mmask16| u32::from(low) | u32::from(high) << 16;
        let positive = bits(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(low, zero), _mm512_cmp_ps_mask::<_CMP_GT_OQ>(high, zero));
        let negative = bits(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(low, zero), _mm512_cmp_ps_mask::<_CMP_LT_OQ>(high, zero));
        *agreement = mask.compare(positive, negative);
    }
}
