//! Advanced SIMD of aarch64, with fused multiply-add: 32 registers of four float32. Every aarch64 that Rust's standard library
//! supports has it.

mod digits;
pub(super) mod lookup;
mod offsets;
mod product;
mod signs;
mod weights;

use super::Tier;
use super::backward::Backward;

/// The backward kernels of this tier.
pub(super) fn backward() -> Backward {
    Backward {
        tier: Tier::Neon,
        float32: &product::FLOAT32,
        bfloat16: None,
        direct: None,
        trit_bits: signs::trit_bits,
        count_pieces: None,
        sign_bits: signs::sign_bits,
    }
}
