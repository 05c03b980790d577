//! Plain Rust in shapes that compilers turn into vectors.

#[cfg(target_arch = "x86_64")]
pub(super) mod lookup;
pub(super) mod panel;
mod product;
pub(super) mod signs;

use super::Tier;
use super::backward::Backward;

/// The backward kernels of this tier.
pub(super) fn backward() -> Backward {
    Backward {
        tier: Tier::Portable,
        float32: &product::FLOAT32,
        bfloat16: None,
        direct: None,
        trit_bits: signs::trit_bits,
        count_pieces: None,
        sign_bits: signs::sign_bits,
    }
}
