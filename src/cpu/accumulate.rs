//! `corr -= score; step += votes`, exact in int64, in place.

use super::isa::{Loop, Tier, vectorise};
use super::threads;
use crate::correlation::{add_votes, check_scores, subtract_scores};
use crate::error::Result;

/// Work of one score.
const WORK: usize = threads::PER_NANOSECOND * 2 / 3;
/// Limbs that one task updates.
const BLOCK: usize = 1 << 15;

/// Checks the scores of one layer, as [`check_scores`]; nothing may be written before all layers of a call passed.
pub fn check(score: &[f32], votes: f32, group_size: usize, wanted_votes: Option<u32>) -> Result<()> {
    check_on(Tier::chosen(), score, votes, group_size, wanted_votes)
}

/// [`check()`] on a tier of this machine.
pub fn check_on(tier: Tier, score: &[f32], votes: f32, group_size: usize, wanted_votes: Option<u32>) -> Result<()> {
    vectorise(tier, Check { score, votes, group_size, wanted_votes })
}

/// Updates one layer: `corr [out, groups, 2]` by `score [out, groups]` and `step` by `votes` (SPEC 17). Check them first.
pub fn accumulate(corr: &mut [i32], step: &mut [i32; 2], score: &[f32], votes: f32) {
    accumulate_on(Tier::chosen(), corr, step, score, votes);
}

/// [`accumulate()`] on a tier of this machine.
pub fn accumulate_on(tier: Tier, corr: &mut [i32], step: &mut [i32; 2], score: &[f32], votes: f32) {
    threads::for_each_block(corr, BLOCK, WORK * score.len(), |index, limbs| {
        let score = &score[index * BLOCK / 2..][..limbs.len() / 2];
        vectorise(tier, Subtract { limbs, score });
    });
    add_votes(step, votes);
}

/// [`check_scores`] as vectors.
struct Check<'a> {
    score: &'a [f32],
    votes: f32,
    group_size: usize,
    wanted_votes: Option<u32>,
}

impl Loop for Check<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(self) -> Result<()> {
        check_scores(self.score, self.votes, self.group_size, self.wanted_votes)
    }
}

/// [`subtract_scores`] as vectors.
struct Subtract<'a> {
    limbs: &'a mut [i32],
    score: &'a [f32],
}

impl Loop for Subtract<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        subtract_scores(self.limbs, self.score);
    }
}
