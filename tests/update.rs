//! The operations on the state against plain oracles, on every tier: scales, updates, and trits to bytes and back.

mod common;

use common::guarded::placed;
use common::{Problem, Random, SHAPES, Values};
use ternax::cpu::accumulate::{accumulate_on, check_on};
use ternax::cpu::pack::pack_on;
use ternax::cpu::scale::scale_on;
use ternax::cpu::{Tier, dequantize, unpack};
use ternax::scale::{join_limbs, scale, split_limbs};
use ternax::trits::{GroupLayout, TernaryMatrix};

/// Lengths around every width of a vector and every size of a task.
const LENGTHS: [usize; 9] = [0, 1, 7, 16, 33, 101, 1 << 14, (1 << 15) + 1, 70_001];

/// Correlations of all sizes: small ones, those that float32 rounds, and the ends of int64.
fn correlation(random: &mut Random) -> i64 {
    match random.integer(0, 3) {
        0 => random.integer(-40, 40),
        1 => random.integer(-(1 << 40), 1 << 40),
        2 => random.next_u64() as i64,
        _ => [i64::MIN, i64::MAX, 0, -1][random.integer(0, 3) as usize],
    }
}

#[test]
fn scales_have_the_same_bits_on_every_tier() {
    let mut random = Random::new(1);
    for length in LENGTHS {
        for step in [0, 1, 3, 1 << 40, i64::MAX] {
            let exponent: Vec<i8> = (0..length).map(|_| random.integer(-128, 127) as i8).collect();
            let corr: Vec<i64> = (0..length).map(|_| correlation(&mut random)).collect();
            let limbs: Vec<i32> = corr.iter().flat_map(|&c| split_limbs(c)).collect();
            for tier in Tier::available() {
                let mut found = vec![0f32; length];
                scale_on(tier, &exponent, &limbs, split_limbs(step), 24, 4.0, &mut found);
                for ((&found, &exponent), &corr) in found.iter().zip(&exponent).zip(&corr) {
                    let wanted = scale(exponent, corr, step, 24, 4.0);
                    assert_eq!(found.to_bits(), wanted.to_bits(), "{}: E {exponent}, corr {corr}, step {step}", tier.name());
                }
            }
        }
    }
}

#[test]
fn updates_are_exact_in_int64_on_every_tier() {
    let mut random = Random::new(2);
    for length in LENGTHS {
        let corr: Vec<i64> = (0..length).map(|_| correlation(&mut random)).collect();
        let score: Vec<f32> = (0..length).map(|_| random.integer(-3 << 20, 3 << 20) as f32).collect();
        let wanted: Vec<i64> = corr.iter().zip(&score).map(|(&c, &s)| c.wrapping_sub(s as i64)).collect();
        for tier in Tier::available() {
            let mut limbs: Vec<i32> = corr.iter().flat_map(|&c| split_limbs(c)).collect();
            let mut step = split_limbs((1 << 32) - 1);
            accumulate_on(tier, &mut limbs, &mut step, &score, 3.0);
            let found: Vec<i64> = limbs.as_chunks::<2>().0.iter().map(|&l| join_limbs(l)).collect();
            assert!(found == wanted, "{} of {length}", tier.name());
            assert_eq!(join_limbs(step), (1 << 32) + 2);
        }
    }
}

#[test]
fn dishonest_scores_are_found_wherever_they_are() {
    for tier in Tier::available() {
        for length in [1, 15, 16, 17, 100] {
            for index in 0..length {
                for bad in [0.5, 33.0, -33.0, f32::NAN, f32::INFINITY] {
                    let mut score = vec![-32.0; length];
                    assert!(check_on(tier, &score, 1.0, 32, None).is_ok());
                    score[index] = bad;
                    let refused = check_on(tier, &score, 1.0, 32, None).expect_err("a dishonest score").to_string();
                    assert!(refused.contains(&format!("{bad} at group {index}")), "{}: {refused}", tier.name());
                }
            }
        }
    }
}

#[test]
fn bytes_are_base_3_with_zero_trits_as_padding_and_unpack_inverts_pack() {
    for &shape in SHAPES {
        let Problem { layout, trits, .. } = Problem::<f32>::new(shape, Values::Dyadic);
        let mut wanted = vec![121u8; shape.out_dim * layout.row_bytes()];
        for (index, &trit) in trits.iter().enumerate() {
            let (row, input) = (index / layout.in_dim(), index % layout.in_dim());
            let (group, position) = (input / layout.group_size(), input % layout.group_size());
            let byte = &mut wanted[row * layout.row_bytes() + group * layout.group_bytes() + position / 5];
            *byte = (i16::from(*byte) + i16::from(trit) * 3i16.pow((position % 5) as u32)) as u8;
        }
        for tier in Tier::available() {
            let mut packed = vec![0; wanted.len()];
            pack_on(tier, &trits, layout, &mut packed).expect("trits");
            assert_eq!(packed, wanted, "{} {shape:?}", tier.name());
        }
        let mut back = vec![9; trits.len()];
        unpack(TernaryMatrix::new(&wanted, shape.out_dim, layout), &mut back).expect("packed trits");
        assert_eq!(back, trits, "{shape:?}");
    }
}

#[test]
fn what_is_no_trit_is_refused_before_anything_is_written() {
    let layout = GroupLayout::new(100, 32).expect("a lawful shape");
    for (index, value) in [(0, 2), (57, -2), (199, 127)] {
        let mut trits = vec![1i8; 200];
        trits[index] = value;
        for tier in Tier::available() {
            let mut packed = vec![7; 2 * layout.row_bytes()];
            let refused = pack_on(tier, &trits, layout, &mut packed).expect_err("no trit").to_string();
            assert!(refused.contains(&value.to_string()) && refused.contains(&index.to_string()), "{refused}");
            assert!(packed.iter().all(|&byte| byte == 7));
        }
    }
}

#[test]
fn the_dense_matrix_is_scale_times_trit() {
    for &shape in SHAPES {
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        let mut weights = vec![f32::NAN; problem.trits.len()];
        dequantize(problem.matrix(), &problem.scale, &mut weights);
        for (index, (&weight, &trit)) in weights.iter().zip(&problem.trits).enumerate() {
            let group = index / shape.in_dim * problem.layout.groups() + index % shape.in_dim / shape.group_size;
            assert_eq!(weight, problem.scale[group] * f32::from(trit), "{shape:?} at {index}");
        }
    }
}

#[test]
fn no_operation_on_the_state_reads_or_writes_past_an_operand() {
    let mut random = Random::new(3);
    for (length, at_start, tier) in LENGTHS
        .into_iter()
        .flat_map(|length| [false, true].into_iter().flat_map(move |side| Tier::available().map(move |tier| (length, side, tier))))
    {
        let exponent: Vec<i8> = (0..length).map(|_| random.integer(-60, 60) as i8).collect();
        let corr: Vec<i64> = (0..length).map(|_| random.integer(-40, 40)).collect();
        let limbs: Vec<i32> = corr.iter().flat_map(|&c| split_limbs(c)).collect();
        let score: Vec<f32> = (0..length).map(|_| random.integer(-24, 24) as f32).collect();
        let (exponent, score) = (placed(&exponent, at_start), placed(&score, at_start));
        let (mut limbs, mut scales) = (placed(&limbs, at_start), placed(&vec![f32::NAN; length], at_start));
        scale_on(tier, &exponent, &limbs, split_limbs(3), 24, 4.0, &mut scales);
        for ((&found, &exponent), &corr) in scales.iter().zip(exponent.iter()).zip(&corr) {
            assert_eq!(found.to_bits(), scale(exponent, corr, 3, 24, 4.0).to_bits(), "{} of {length}", tier.name());
        }
        check_on(tier, &score, 1.0, 24, None).expect("honest scores");
        accumulate_on(tier, &mut limbs, &mut split_limbs(3), &score, 1.0);
        let sums = limbs.as_chunks::<2>().0.iter().map(|&l| join_limbs(l));
        assert!(sums.eq(corr.iter().zip(score.iter()).map(|(&c, &s)| c - s as i64)), "{} of {length}", tier.name());
    }
    for (&shape, at_start) in SHAPES.iter().flat_map(|shape| [(shape, false), (shape, true)]) {
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        let (trits, scale) = (placed(&problem.trits, at_start), placed(&problem.scale, at_start));
        for tier in Tier::available() {
            let mut packed = placed(&vec![0; problem.packed.len()], at_start);
            pack_on(tier, &trits, problem.layout, &mut packed).expect("trits");
            assert!(*packed == *problem.packed, "{} {shape:?}", tier.name());
        }
        let packed = placed(&problem.packed, at_start);
        let matrix = TernaryMatrix::new(&packed, shape.out_dim, problem.layout);
        let (mut back, mut weights) = (placed(&vec![9; trits.len()], at_start), placed(&vec![f32::NAN; trits.len()], at_start));
        unpack(matrix, &mut back).expect("packed trits");
        assert!(*back == *trits, "{shape:?}");
        dequantize(matrix, &scale, &mut weights);
        assert!(weights.iter().zip(trits.iter()).all(|(weight, &trit)| (*weight == 0.0) == (trit == 0)), "{shape:?}");
    }
}
