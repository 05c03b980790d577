//! Exponent, correlation and step to the scale of each group: `S = 2^(E + gain * corr / (step * group_size))`.

/// High limb of the step of a layer whose update was refused; any negative step means so.
pub const REFUSED_STEP: i64 = i64::MIN;

/// The scale of one group, in the reference's order of float32 operations (SPEC 11, 12).
///
/// `mean = f32(corr) / f32(step * group_size)`, both rounded once from exact integers; `S = 2^(E + mean * gain)`, exact where
/// the exponent is an integer and within 1 ulp elsewhere. With `step == 0` it is `2^E`. A negative step marks a refused
/// update and gives NaN, so that training stops visibly.
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

/// `2^x`: exact at integers, correctly rounded elsewhere but for ties that no float32 `x` comes near.
fn exp2(x: f32) -> f32 {
    f64::from(x).exp2() as f32
}

/// The int64 that two little-endian int32 limbs stand for.
pub fn join_limbs(limbs: [i32; 2]) -> i64 {
    i64::from(limbs[1]) << 32 | i64::from(limbs[0] as u32)
}

/// The two little-endian int32 limbs of an int64.
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
