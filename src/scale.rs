//! Exponent, correlation and step to the scale of each group: `S = 2^(E + gain * corr / (step * group_size))`.

/// High limb of the step of a layer whose update was refused; any negative step means so.
pub const REFUSED_STEP: i64 = i64::MIN;

/// The scale of one group, in the reference's order of float32 operations (SPEC 11, 12).
///
/// `mean = f32(corr) / f32(step * group_size)`, both rounded once from exact integers; `S = 2^(E + mean * gain)`, exact where
/// the exponent is an integer and within 1 ulp elsewhere. With `step == 0` it is `2^E`. A negative step marks a refused
/// update and gives NaN, so that training stops visibly.
#[inline(always)]
pub fn scale(exponent: i8, corr: i64, step: i64, group_size: usize, gain: f32) -> f32 {
    let exponent = f32::from(exponent);
    match step {
        ..0 => f32::NAN,
        0 => exp2(exponent),
        _ => {
            let denominator = i128::from(step) * group_size as i128;
            exp2(exponent + corr as f32 / denominator as f32 * gain)
        }
    }
}

/// `2^x`: exact at integers, within 0.8 ulp elsewhere; the same bits on every machine.
///
/// `2^x = 2^n 2^f` with `n` the nearest integer, `2^f = 1 + f (hi + (lo + f q(f)))` with `hi + lo = ln 2`. Neither branches nor
/// fused operations, so that compilers turn it into vectors and all of them agree.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    /// Adding and subtracting it rounds to an integer, which its lowest bits hold in between.
    const ROUNDER: f32 = 12_582_912.0;
    /// `ln 2` in float32 and what that lacks.
    const HI: f32 = std::f32::consts::LN_2;
    const LO: f32 = (std::f64::consts::LN_2 - HI as f64) as f32;
    /// `q`: interpolates `((2^f - 1) / f - ln 2) / f` at Chebyshev points of [-1/2, 1/2]; 2^f errs by less than 2^-27.
    const Q: [f32; 5] = [2.402_265e-1, 5.550_357e-2, 9.618_057e-3, 1.339_086_7e-3, 1.546_144_7e-4];

    // Beyond these all results are zero or infinite, and both halves of `n` remain exponents of normal numbers.
    let rounded = x.clamp(-250.0, 250.0) + ROUNDER;
    let f = x.clamp(-250.0, 250.0) - (rounded - ROUNDER);
    let n = rounded.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32;
    let q = Q[0] + f * (Q[1] + f * (Q[2] + f * (Q[3] + f * Q[4])));
    let linear = f * HI;
    let sum = 1.0 + linear;
    let power = sum + ((linear - (sum - 1.0)) + f * (LO + f * q));
    let power_of_two = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    power * power_of_two(n >> 1) * power_of_two(n - (n >> 1))
}

/// The int64 that two little-endian int32 limbs stand for.
#[inline(always)]
pub fn join_limbs(limbs: [i32; 2]) -> i64 {
    i64::from(limbs[1]) << 32 | i64::from(limbs[0] as u32)
}

/// The two little-endian int32 limbs of an int64.
#[inline(always)]
pub fn split_limbs(value: i64) -> [i32; 2] {
    [value as i32, (value >> 32) as i32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integer_exponents_are_exact_powers_of_two() {
        for exponent in -128..=127_i8 {
            assert_eq!(f64::from(scale(exponent, 0, 0, 32, 4.0)), 2f64.powi(i32::from(exponent)));
        }
        assert_eq!(scale(-4, -32, 1, 32, 4.0), 2f32.powi(-8), "the example of SPEC 11");
    }

    #[test]
    fn powers_between_integers_are_within_an_ulp() {
        let mut worst = 0f64;
        for step in 0..=3_000_000 {
            let x = (step as f64 / 1e4 - 150.0) as f32;
            let (found, wanted) = (f64::from(exp2(x)), f64::from(x).exp2());
            if wanted >= 2f64.powi(128) {
                assert!(found.is_infinite(), "2^{x}");
                continue;
            }
            let ulp = 2f64.powi((wanted.log2().floor() as i32).max(-126) - 23);
            worst = worst.max((found - wanted).abs() / ulp);
        }
        assert!(worst < 0.9, "{worst} ulp");
        assert_eq!([200.0, f32::INFINITY, -200.0, f32::NEG_INFINITY].map(exp2), [f32::INFINITY, f32::INFINITY, 0.0, 0.0]);
        assert!(exp2(f32::NAN).is_nan());
    }

    #[test]
    fn correlations_beyond_24_bits_round_to_even_before_the_division() {
        assert_eq!(scale(0, (1 << 24) + 1, 1 << 19, 32, 4.0), scale(0, 1 << 24, 1 << 19, 32, 4.0));
        assert_eq!(scale(0, (1 << 24) + 3, 1 << 19, 32, 4.0), scale(0, (1 << 24) + 4, 1 << 19, 32, 4.0));
    }

    #[test]
    fn a_refused_update_makes_the_scale_nan() {
        assert!(scale(0, 5, REFUSED_STEP, 32, 4.0).is_nan());
        assert!(scale(0, 5, -1, 32, 4.0).is_nan());
    }

    #[test]
    fn limbs_carry_every_int64() {
        for value in [0, 1, -1, i64::MAX, i64::MIN, 1 << 32, -(1 << 32) - 1, 0xFFFF_FFFF] {
            assert_eq!(join_limbs(split_limbs(value)), value);
        }
    }
}
