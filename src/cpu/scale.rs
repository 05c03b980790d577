//! The scales of one layer from its exponents, correlations and step.

use super::threads;
use crate::float::Activation;
use crate::scale::{join_limbs, scale as scale_of_group};

/// Scales that one task computes.
const BLOCK: usize = 4096;

/// `scale[o, g] = 2^(E + gain * corr / (step * group_size))`, rounded to the result's type; see [`scale_of_group`].
pub fn scale<S: Activation>(exponent: &[i8], corr: &[i32], step: [i32; 2], group_size: usize, gain: f32, scale: &mut [S]) {
    let (corr, step) = (corr.as_chunks::<2>().0, join_limbs(step));
    threads::for_each_block(scale, BLOCK, 32 * exponent.len(), |index, block| {
        let start = index * BLOCK;
        for (position, out) in block.iter_mut().enumerate() {
            let group = start + position;
            *out = S::from_f32(scale_of_group(exponent[group], join_limbs(corr[group]), step, group_size, gain));
        }
    });
}
