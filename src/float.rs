//! The activation types of the kernels: float32, bfloat16 and float16. Sums are always float32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A float type of activations and gradients.
pub trait Activation: Copy + Default + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Name as numpy and jax spell it.
    const NAME: &'static str;
    /// The value as float32, exactly.
    fn to_f32(self) -> f32;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Widens `from` into the same number of float32, exactly.
    #[inline(always)]
    fn widen(from: &[Self], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = from.to_f32();
        }
    }

    /// Rounds `from` into the same number of values, to nearest even.
    #[inline(always)]
    fn narrow(from: &[f32], to: &mut [Self]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = Self::from_f32(from);
        }
    }

    /// The values themselves where they are bfloat16, for the instructions that multiply those.
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        let _ = values;
        None
    }
}

impl Activation for f32 {
    const NAME: &'static str = "float32";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Activation for bf16 {
    const NAME: &'static str = "bfloat16";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn as_bf16(values: &[Self]) -> Option<&[bf16]> {
        Some(values)
    }
}

impl Activation for f16 {
    const NAME: &'static str = "float16";
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
    // `half` converts one value at a time behind a run-time check, and slices eight at a time behind one.
    fn widen(from: &[Self], to: &mut [f32]) {
        from.convert_to_f32_slice(&mut to[..from.len()]);
    }
    fn narrow(from: &[f32], to: &mut [Self]) {
        to[..from.len()].convert_from_f32_slice(from);
    }
}
