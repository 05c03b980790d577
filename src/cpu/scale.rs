//! The scales of one layer from its exponents, correlations and step.

use super::isa::{Loop, Tier, vectorise};
use super::threads;
use crate::float::Activation;
use crate::scale::{join_limbs, scale as scale_of_group};

/// Scales that one task computes.
const BLOCK: usize = 1 << 14;
/// Work of one scale.
const WORK: usize = threads::PER_NANOSECOND * 2 / 3;

/// `scale[o, g] = 2^(E + gain * corr / (step * group_size))`, rounded to the result's type; see [`scale_of_group`].
pub fn scale<S: Activation>(exponent: &[i8], corr: &[i32], step: [i32; 2], group_size: usize, gain: f32, scale: &mut [S]) {
    scale_on(Tier::chosen(), exponent, corr, step, group_size, gain, scale);
}

/// [`scale()`] on a tier of this machine; all tiers give the same bits.
pub fn scale_on<S: Activation>(tier: Tier, exponent: &[i8], corr: &[i32], step: [i32; 2], group_size: usize, gain: f32, scale: &mut [S]) {
    let (corr, step) = (corr.as_chunks::<2>().0, join_limbs(step));
    threads::for_each_block(scale, BLOCK, WORK * exponent.len(), |index, scale| {
        let groups = index * BLOCK..index * BLOCK + scale.len();
        vectorise(tier, Task { exponent: &exponent[groups.clone()], corr: &corr[groups], step, group_size, gain, scale });
    });
}

/// The scales of some groups.
struct Task<'a, S> {
    exponent: &'a [i8],
    corr: &'a [[i32; 2]],
    step: i64,
    group_size: usize,
    gain: f32,
    scale: &'a mut [S],
}

impl<S: Activation> Loop for Task<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { exponent, corr, step, group_size, gain, scale } = self;
        for ((scale, &exponent), &corr) in scale.iter_mut().zip(exponent).zip(corr) {
            *scale = S::from_f32(scale_of_group(exponent, join_limbs(corr), step, group_size, gain));
        }
    }
}
