//! Scores into the int64 correlation, votes into the step, and the law that keeps them honest.
//!
//! One exact use of a layer gives `|score| <= group_size` and one vote, so `|corr| <= step * group_size` holds for ever if
//! every update adds a score and its votes together (SPEC 13, 17).

use crate::error::{Error, Result};
use crate::scale::{join_limbs, split_limbs};

/// Largest count that float32 carries exactly.
const MAX_EXACT: f32 = 16_777_216.0;

/// Largest score: 2^24 votes on a group of 2^26 inputs.
const MAX_SCORE: f64 = (1_u64 << 50) as f64;

/// Refuses scores that are no sums of honest scores: fractions, NaN, or more than `votes * group_size` or [`MAX_SCORE`].
///
/// `wanted_votes`, where given, refuses any other count: only the caller can tell a double psum from honest votes, since it
/// multiplies both.
#[inline(always)]
pub fn check_scores(scores: &[f32], votes: f32, group_size: usize, wanted_votes: Option<u32>) -> Result<()> {
    let refuse = |what: String| Err(Error::Score { what, votes, group_size });
    if !(0.0..=MAX_EXACT).contains(&votes) || votes.fract() != 0.0 {
        return refuse("grad.votes is not a whole number from 0 to 2^24".into());
    }
    if let Some(wanted) = wanted_votes
        && votes != wanted as f32
    {
        return refuse(format!("grad.votes must be {wanted}, the votes that were asked for"));
    }
    let limit = largest_float_within((f64::from(votes) * group_size as f64).min(MAX_SCORE));
    if scores.iter().fold(true, |sound, &score| sound & is_sound(score, limit)) {
        return Ok(());
    }
    match scores.iter().position(|&score| !is_sound(score, limit)) {
        None => Ok(()),
        Some(index) => refuse(format!("grad.score holds {} at group {index}", scores[index])),
    }
}

/// Whether a score is a whole number of at most `limit`.
#[inline(always)]
fn is_sound(score: f32, limit: f32) -> bool {
    (score.trunc() == score) & (score.abs() <= limit)
}

/// The largest float32 that is not above `limit >= 0`.
fn largest_float_within(limit: f64) -> f32 {
    let nearest = limit as f32;
    if f64::from(nearest) > limit { nearest.next_down() } else { nearest }
}

/// `corr -= score` on limbs, exact modulo 2^64. The scores must have passed [`check_scores`].
#[inline(always)]
pub fn subtract_scores(corr: &mut [i32], scores: &[f32]) {
    // In float64 between 2^52 and 2^53 one step is 1: the fraction bits are the score as an integer.
    const ROUNDER: f64 = (3_u64 << 51) as f64;
    for (limbs, &score) in corr.as_chunks_mut::<2>().0.iter_mut().zip(scores) {
        let score = (f64::from(score) + ROUNDER).to_bits().wrapping_sub(ROUNDER.to_bits()) as i64;
        *limbs = split_limbs(join_limbs(*limbs).wrapping_sub(score));
    }
}

/// `step += votes` on limbs; a negative step marks a refused update and stays.
pub fn add_votes(step: &mut [i32; 2], votes: f32) {
    let value = join_limbs(*step);
    if value >= 0 {
        *step = split_limbs(value.wrapping_add(votes as i64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_borrow_and_carry_across_the_limbs() {
        let mut corr: Vec<i32> = [0, 1 << 32, -1, i64::MAX].iter().flat_map(|&v| split_limbs(v)).collect();
        subtract_scores(&mut corr, &[1.0, 1.0, -3.0, 7.0]);
        let values = |corr: &[i32]| corr.as_chunks::<2>().0.iter().map(|&limbs| join_limbs(limbs)).collect::<Vec<_>>();
        assert_eq!(values(&corr), [-1, (1 << 32) - 1, 2, i64::MAX - 7]);
        subtract_scores(&mut corr, &[MAX_SCORE as f32, -MAX_SCORE as f32, 0.0, -1.0]);
        assert_eq!(values(&corr), [-1 - (1 << 50), (1 << 32) - 1 + (1 << 50), 2, i64::MAX - 6]);
    }

    #[test]
    fn fractions_nan_and_scores_beyond_their_votes_are_refused() {
        let refused = |score: f32, votes: f32| check_scores(&[0.0, score], votes, 4, None).is_err();
        assert!(refused(0.5, 1.0) && refused(f32::NAN, 1.0) && refused(5.0, 1.0) && refused(1.0, 0.0) && refused(1.0, 0.5));
        assert!(refused(f32::INFINITY, 1.0) && refused(0.0, -1.0) && refused(0.0, f32::NAN));
        assert!(check_scores(&[2f32.powi(51)], 16_777_216.0, usize::MAX, None).is_err());
        assert!(!refused(-4.0, 1.0) && !refused(8.0, 2.0) && !refused(0.0, 0.0));
    }

    #[test]
    fn limits_beyond_24_bits_are_not_rounded_up() {
        assert_eq!(largest_float_within(16_777_217.0), 16_777_216.0);
        assert_eq!(largest_float_within(16_777_219.0), 16_777_218.0);
        assert!(check_scores(&[16_777_220.0], 1.0, 16_777_219, None).is_err());
        assert!(check_scores(&[16_777_218.0], 1.0, 16_777_219, None).is_ok());
    }

    #[test]
    fn other_votes_than_asked_for_are_refused() {
        assert!(check_scores(&[8.0], 2.0, 4, Some(1)).is_err(), "a double psum multiplies scores and votes alike");
        assert!(check_scores(&[8.0], 2.0, 4, Some(2)).is_ok());
    }
}
