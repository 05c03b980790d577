//! AVX-512 with BW, DQ, VL, VBMI and VPOPCNTDQ.

mod byte_sums;
pub(super) mod decode;
mod direct;
pub(super) mod lookup;
mod offsets;
mod panel;
mod pieces;
mod product;
mod scores;
mod signs;
mod transpose;
pub(super) mod transposed;
mod weights;
mod window;

use super::Tier;
use super::backward::Backward;

/// The backward kernels of this tier.
pub(super) fn backward() -> Backward {
    Backward {
        tier: Tier::Avx512,
        float32: &product::FLOAT32,
        bfloat16: is_x86_feature_detected!("avx512bf16").then_some(&product::BFLOAT16),
        direct: Some(&direct::DIRECT),
        trit_bits: signs::trit_bits,
        count_pieces: Some(pieces::count_pieces),
        sign_bits: signs::sign_bits,
    }
}
