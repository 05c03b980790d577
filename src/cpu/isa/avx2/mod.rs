//! AVX2 with fused multiply-add.

pub(super) mod lookup;
mod product;
mod signs;

use super::backward::Backward;
use super::{Tier, portable};

/// The backward kernels of this tier.
pub(super) fn backward() -> Backward {
    Backward {
        tier: Tier::Avx2,
        float32: &product::FLOAT32,
        bfloat16: None,
        trit_masks: portable::signs::trit_masks,
        compare: signs::compare,
    }
}
