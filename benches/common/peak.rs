//! The multiply-add peak: independent chains in registers and nothing else.

use std::hint::black_box;

use super::time;

/// Steps of one measurement.
const STEPS: usize = 200_000;
/// Chains: more than the latency of two units.
const CHAINS: usize = 16;

/// Defines the loop for registers of one width.
#[cfg(target_arch = "x86_64")]
macro_rules! chains {
    ($name:ident, $feature:literal, $set:ident, $multiply_add:ident) => {
        #[target_feature(enable = $feature)]
        fn $name() {
            let (factor, term) = (black_box($set(1.000_000_1)), black_box($set(1e-9)));
            let mut chains = [$set(1.0); CHAINS];
            for _ in 0..STEPS {
                for chain in &mut chains {
                    *chain = $multiply_add(*chain, factor, term);
                }
            }
            black_box(chains);
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{CHAINS, STEPS, black_box};

    chains!(chains_512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps);
    chains!(chains_256, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps);

    /// Runs the widest loop of the machine and returns its lanes.
    pub fn run() -> usize {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the machine has AVX-512.
            unsafe { chains_512() };
            16
        } else {
            assert!(is_x86_feature_detected!("fma"), "a machine without fused multiply-add has no peak to compare with");
            // SAFETY: every machine with fused multiply-add has AVX2.
            unsafe { chains_256() };
            8
        }
    }
}

#[cfg(target_arch = "x86_64")]
use x86::run;

#[cfg(target_arch = "aarch64")]
fn run() -> usize {
    let mut chains = [[1f32; 4]; CHAINS];
    let (factor, term) = (black_box(1.000_000_1), black_box(1e-9));
    for _ in 0..STEPS {
        for value in chains.as_flattened_mut() {
            *value = value.mul_add(factor, term);
        }
    }
    black_box(chains);
    4
}

/// One measurement of the peak, and its float32 operations, a multiply-add counting two.
pub fn fma_chains() -> (impl Fn() + Sync, f64) {
    let call = || {
        run();
    };
    (call, (2 * run() * CHAINS * STEPS) as f64)
}

/// Float32 operations per second of one thread at the most.
pub fn fma_peak() -> f64 {
    let (call, operations) = fma_chains();
    operations / time(call).0
}
