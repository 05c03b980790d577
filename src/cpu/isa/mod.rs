//! Instruction-set tiers and their run-time choice. The modules below hold the only SIMD of the crate.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod backward;
pub mod denormals;
pub mod forward;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod prefetch;
mod strided;
mod vectorise;
mod words;

use std::sync::OnceLock;

pub use prefetch::{prefetch, prefetch_bytes, prefetch_later, prefetch_scales};
pub use strided::copy_column;
pub use vectorise::{Loop, vectorise};
pub use words::Plain;

/// A set of instructions that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Plain Rust.
    Portable,
    /// aarch64 with Advanced SIMD.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL, VBMI and VPOPCNTDQ.
    Avx512,
}

impl Tier {
    /// All tiers, the plainest first.
    pub const ALL: [Tier; 4] = [Tier::Portable, Tier::Neon, Tier::Avx2, Tier::Avx512];

    /// Its name in `TERNAX_ISA`.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Portable => "portable",
            Tier::Neon => "neon",
            Tier::Avx2 => "avx2",
            Tier::Avx512 => "avx512",
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            Tier::Portable => true,
            Tier::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("popcnt"),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("avx512vpopcntdq")
                    && Tier::Avx2.is_available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 => false,
        }
    }

    /// The tiers of this machine, the plainest first.
    pub fn available() -> impl Iterator<Item = Tier> {
        Tier::ALL.into_iter().filter(|tier| tier.is_available())
    }

    /// The tier of this process: `TERNAX_ISA` where it names one that this machine has, else the best.
    pub fn chosen() -> Tier {
        static CHOSEN: OnceLock<Tier> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let best = Tier::available().max().unwrap_or(Tier::Portable);
            let Ok(wanted) = std::env::var("TERNAX_ISA") else { return best };
            match Tier::available().find(|tier| tier.name() == wanted) {
                Some(tier) => tier,
                None => {
                    let names: Vec<_> = Tier::available().map(Tier::name).collect();
                    log::warn!("TERNAX_ISA is {wanted:?}, this machine has {names:?}: using {:?}", best.name());
                    best
                }
            }
        })
    }
}
