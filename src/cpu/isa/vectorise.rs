//! Plain loops, compiled once per tier.

use super::Tier;

/// A loop over slices that the compiler can turn into vectors by itself.
pub trait Loop {
    /// What it returns.
    type Output;
    /// Runs it. Implementations are `#[inline(always)]`, so that the loop takes the instructions of its caller.
    fn run(self) -> Self::Output;
}

/// Runs `body` with the vectors of `tier`.
#[inline]
pub fn vectorise<L: Loop>(tier: Tier, body: L) -> L::Output {
    assert!(tier.is_available(), "this machine has no {}", tier.name());
    match tier {
        Tier::Portable | Tier::Neon => body.run(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the tier's instructions, as asserted above.
        Tier::Avx2 => unsafe { run_avx2(body) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Tier::Avx512 => unsafe { run_avx512(body) },
        #[cfg(not(target_arch = "x86_64"))]
        Tier::Avx2 | Tier::Avx512 => unreachable!("not available on this architecture"),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt")]
fn run_avx2<L: Loop>(body: L) -> L::Output {
    body.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vpopcntdq,popcnt")]
fn run_avx512<L: Loop>(body: L) -> L::Output {
    body.run()
}
