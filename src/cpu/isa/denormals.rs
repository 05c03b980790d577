//! Denormal numbers as IEEE 754 has them, for as long as a call runs.
//!
//! XLA's threads flush denormals to zero, the threads of our pool do not: without this, results would depend on where a block
//! runs, and the sign of a denormal gradient would be 0 (SPEC 20). Rust itself assumes the default floating-point environment.

use core::arch::asm;

/// The control bits of this thread before the call; they return when this is dropped.
#[derive(Debug)]
pub struct KeepDenormals(u64);

#[cfg(target_arch = "x86_64")]
impl KeepDenormals {
    /// Flush to zero (bit 15) and denormals are zero (bit 6).
    const FLUSH: u64 = 1 << 15 | 1 << 6;

    fn read() -> u64 {
        let mut control = 0u32;
        // SAFETY: stores MXCSR, which every x86-64 has, into a local of its size.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut control, options(nostack, preserves_flags)) };
        u64::from(control)
    }

    fn write(control: u64) {
        let control = control as u32;
        // SAFETY: the value was read from MXCSR, but for bits that every x86-64 has; callers keep Rust's default while Rust runs.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &control, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
impl KeepDenormals {
    /// Flush to zero (bit 24), and of float16 (bit 19).
    const FLUSH: u64 = 1 << 24 | 1 << 19;

    fn read() -> u64 {
        let control: u64;
        // SAFETY: reads FPCR, which every aarch64 has.
        unsafe { asm!("mrs {}, fpcr", out(reg) control, options(nomem, nostack, preserves_flags)) };
        control
    }

    fn write(control: u64) {
        // SAFETY: the value was read from FPCR, but for bits that every aarch64 has; callers keep Rust's default while Rust runs.
        unsafe { asm!("msr fpcr, {}", in(reg) control, options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl KeepDenormals {
    const FLUSH: u64 = 0;

    fn read() -> u64 {
        0
    }

    fn write(_: u64) {}
}

impl KeepDenormals {
    /// Stops this thread from flushing denormals.
    pub fn new() -> Self {
        let control = Self::read();
        Self::write(control & !Self::FLUSH);
        Self(control)
    }
}

impl Default for KeepDenormals {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for KeepDenormals {
    fn drop(&mut self) {
        Self::write(self.0);
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn denormals_count_within_the_guard_and_the_old_setting_returns_after_it() {
        let before = KeepDenormals::read();
        KeepDenormals::write(before | KeepDenormals::FLUSH);
        // Not every aarch64 has the bit of float16.
        let flushing = KeepDenormals::read();
        let kept = {
            let _guard = KeepDenormals::new();
            black_box(f32::from_bits(2)) * black_box(0.5)
        };
        let after = KeepDenormals::read();
        KeepDenormals::write(before);
        assert_eq!(kept.to_bits(), 1);
        assert_ne!(flushing, before);
        assert_eq!(after, flushing);
    }
}
