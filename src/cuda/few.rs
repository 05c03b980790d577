//! Sizes of `cpp/cuda/matmul_few.cuh`, by the same formulas.

use super::tensor::Dtype;

/// Bytes of a unit of larger groups.
const UNIT_BYTES: usize = 32;

/// Windows of 8 bytes in a unit of groups of `group_bytes`.
pub fn windows(group_bytes: usize) -> usize {
    group_bytes.min(UNIT_BYTES).div_ceil(8)
}

/// How a row is walked, in units of a group or of 32 bytes of a larger one.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Units of a group.
    pub units_per_group: usize,
    /// Windows of 8 bytes in a unit.
    pub windows: usize,
    /// Units whose bytes are copied together.
    pub stage_units: usize,
    /// Bytes of shared memory for one warp's copy.
    pub stage: usize,
}

impl Sizes {
    /// Those of a length of groups and a type of scales.
    pub fn new(group: usize, group_bytes: usize, scale: Dtype) -> Self {
        let unit_bytes = group_bytes.min(UNIT_BYTES);
        let windows = windows(group_bytes);
        let stage_units = (640 / group.min(5 * UNIT_BYTES)).clamp(1, 32);
        let segment = ((stage_units - 1) * unit_bytes + 8 * windows + 15).div_ceil(16) * 16;
        let pitch = if segment.is_multiple_of(32) { segment + 16 } else { segment };
        let scale_words = if scale == Dtype::Float32 { stage_units } else { stage_units / 2 + 1 };
        Self { units_per_group: group_bytes.div_ceil(UNIT_BYTES), windows, stage_units, stage: 16 * pitch + 64 * scale_words }
    }
}
