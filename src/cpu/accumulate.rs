//! `corr -= score; step += votes`, exact in int64, in place.

use super::threads;
use crate::correlation::{add_votes, check_scores, subtract_scores};
use crate::error::Result;

/// Limbs that one task updates.
const BLOCK: usize = 1 << 15;

/// Checks the scores of one layer, as [`check_scores`]; nothing may be written before all layers of a call passed.
pub fn check(score: &[f32], votes: f32, group_size: usize, wanted_votes: Option<u32>) -> Result<()> {
    check_scores(score, votes, group_size, wanted_votes)
}

/// Updates one layer: `corr [out, groups, 2]` by `score [out, groups]` and `step` by `votes` (SPEC 17). Check them first.
pub fn accumulate(corr: &mut [i32], step: &mut [i32; 2], score: &[f32], votes: f32) {
    threads::for_each_block(corr, BLOCK, 3 * score.len(), |index, limbs| {
        subtract_scores(limbs, &score[index * BLOCK / 2..][..limbs.len() / 2]);
    });
    add_votes(step, votes);
}
