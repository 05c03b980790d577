//! Sizes of `cpp/cuda/matmul_planes.cuh`, by the same formulas.

use super::tensor::Dtype;

/// Most tokens that have a kernel.
pub const MOST_TOKENS: usize = 2;
/// The length of a group that it is written for.
pub const GROUP: usize = 32;
/// Rows of a block.
pub const ROWS: usize = 128;
/// Groups of one step of the contraction.
pub const STEP_GROUPS: usize = 4;
/// Steps whose bytes are copied together.
pub const STAGE_STEPS: usize = 2;

/// Dynamic shared memory of a block.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes whatever the length of its contraction is.
    pub fixed: usize,
    /// Bytes for each step.
    pub step: usize,
}

impl Sizes {
    /// Those for a number of tokens and a type of scales.
    pub fn new(tokens: usize, scale: Dtype) -> Self {
        const WARPS_AND_STAGES: usize = 8 * 4;
        let groups = STEP_GROUPS * STAGE_STEPS;
        let pitch = |bytes: usize| 16 * (bytes.div_ceil(16) | 1);
        let trits = pitch(15 + (groups - 1) * 7 + 12);
        let scales = pitch(16 - scale.size() + groups * scale.size());
        let operands = 2 * tokens * 5 * 64;
        Self { fixed: WARPS_AND_STAGES * 16 * (trits + scales) + 64 + operands, step: operands + 32 * tokens }
    }
}
