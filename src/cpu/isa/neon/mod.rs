//! Advanced SIMD of aarch64, with fused multiply-add: 32 registers of four float32. Every aarch64 that Rust's standard library
//! supports has it.

pub(super) mod lookup;
mod offsets;
mod product;
mod signs;

use super::backward::Backward;
use super::{Tier, portable};

/// The backward kernels of this tier.
pub(super) fn backward() -> Backward {
    Backward {
        tier: Tier::Neon,
        float32: &product::FLOAT32,
        bfloat16: None,
        direct: None,
        trit_bits: portable::signs::trit_bits,
        count_pieces: None,
        sign_bits: signs::sign_bits,
    }
}
