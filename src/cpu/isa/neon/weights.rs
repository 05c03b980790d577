//! Packed trits and scales into right panels.

use std::arch::aarch64::*;
use std::ops::Range;

use super::digits::{WIDTH, blocks};
use crate::trits::TernaryMatrix;

/// `S T` as float32 in panels of `COLUMNS` columns, one row per step.
pub fn weights<const COLUMNS: usize>(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { weights_by_blocks::<COLUMNS>(matrix, scale, rows, columns, panels, stride) }
}

#[target_feature(enable = "neon")]
fn weights_by_blocks<const COLUMNS: usize>(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    let (groups, blocks) = (matrix.layout().groups(), blocks(matrix.layout(), &columns));
    let slices = columns.len().div_ceil(COLUMNS);
    // Room for the lanes of a block past its last column, which the next block overwrites.
    let mut unpacked = vec![0.0; slices * COLUMNS + WIDTH];
    for (step, row) in rows.enumerate() {
        let scale = &scale[row * groups..][..groups];
        for block in &blocks {
            let digits = block.digits(matrix, row);
            let to = &mut unpacked[block.column..][..WIDTH];
            for (to, digits) in to.as_chunks_mut().0.iter_mut().zip(digits).take(block.count.div_ceil(16)) {
                scaled(digits, scale[block.group], to);
            }
        }
        for (panel, weights) in unpacked.as_chunks::<COLUMNS>().0[..slices].iter().enumerate() {
            panels[panel * stride + step * COLUMNS..][..COLUMNS].copy_from_slice(weights);
        }
    }
}

/// Trits of 16 digits times a scale.
#[inline]
#[target_feature(enable = "neon")]
fn scaled(digits: uint8x16_t, scale: f32, to: &mut [f32; 16]) {
    let trits = vreinterpretq_s8_u8(vsubq_u8(digits, vdupq_n_u8(1)));
    let halves = [vmovl_s8(vget_low_s8(trits)), vmovl_high_s8(trits)];
    for (to, half) in to.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
        let (low, high) = (vcvtq_f32_s32(vmovl_s16(vget_low_s16(half))), vcvtq_f32_s32(vmovl_high_s16(half)));
        // SAFETY: there are eight float32.
        unsafe {
            vst1q_f32(to.as_mut_ptr(), vmulq_n_f32(low, scale));
            vst1q_f32(to.as_mut_ptr().add(4), vmulq_n_f32(high, scale));
        }
    }
}
