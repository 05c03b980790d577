//! Plain Rust in shapes that compilers turn into vectors. It serves aarch64 too, where Advanced SIMD and fused multiply-add
//! belong to every processor and need no dispatch: only the tile differs.

pub(super) mod lookup;
pub(super) mod panel;
mod product;
pub(super) mod signs;

use super::Tier;
use super::backward::Backward;

/// The backward kernels of the portable tier and of NEON.
pub(super) fn backward(tier: Tier) -> Backward {
    Backward {
        tier,
        float32: if tier == Tier::Neon { &product::TILE_8X8 } else { &product::TILE_4X8 },
        bfloat16: None,
        direct: None,
        trit_bits: signs::trit_bits,
        count_pieces: None,
        sign_bits: signs::sign_bits,
    }
}
