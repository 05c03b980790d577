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
        direct: None,
        trit_bits: portable::signs::trit_bits,
        count_pieces: None,
        sign_bits: signs::sign_bits,
    }
}
