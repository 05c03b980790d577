//! The integer state, and packed bytes.

use half::{bf16, f16};
use ternax::cuda::plan::Attributes;
use ternax::scale::{REFUSED_STEP, join_limbs, scale as scale_of_group, split_limbs};

use crate::common::{Problem, Random, SHAPES, Shape, Values};
use crate::device::{Buffer, Element, call, grouped, under_every_schedule};
use crate::machine::{Machine, Options};

fn limbs(values: &[i64]) -> Vec<i32> {
    values.iter().flat_map(|&value| split_limbs(value)).collect()
}

fn joined(buffer: &Buffer<'_>) -> Vec<i64> {
    buffer.values::<i32>().as_chunks::<2>().0.iter().map(|&limbs| join_limbs(limbs)).collect()
}

#[test]
fn scales_are_those_of_the_cpu_bit_for_bit() {
    let (machine, mut random) = (Machine::get(), Random::new(3));
    let steps = [0, 1, 3, 1 << 31, i64::MAX, -1, REFUSED_STEP, 77];
    let count = 300;
    let exponents: Vec<i8> = (0..steps.len() * count).map(|_| random.integer(-8, 0) as i8).collect();
    for group_size in [1_usize, 32, 1 << 40] {
        let corr: Vec<i64> = (0..steps.len() * count)
            .map(|index| {
                let step = steps[index / count].clamp(1, 1 << 20);
                random.integer(-step * 32, step * 32) + if index % 7 == 0 { (1 << 24) + 1 } else { 0 }
            })
            .collect();
        let exponent = Buffer::of(machine, &exponents, &[steps.len(), 3, count / 3]);
        let corrs = Buffer::of(machine, &limbs(&corr), &[steps.len(), 3, count / 3, 2]);
        let step = Buffer::of(machine, &limbs(&steps), &[steps.len(), 2]);
        let attributes = Attributes { group_size: group_size as i64, gain: 4.0, wanted_votes: -1 };
        let wanted: Vec<f32> =
            (0..corr.len()).map(|at| scale_of_group(exponents[at], corr[at], steps[at / count], group_size, 4.0)).collect();
        under_every_schedule(|options| {
            let scale = Buffer::result(machine, f32::DTYPE, &[steps.len(), 3, count / 3]);
            call(machine, "scale", attributes, &[&exponent, &corrs, &step], &[&scale], options);
            let same = |found: f32, wanted: f32| found == wanted || found.is_nan() && wanted.is_nan();
            assert!(scale.values::<f32>().iter().zip(&wanted).all(|(&found, &wanted)| same(found, wanted)), "group_size {group_size}");
            let narrow = Buffer::result(machine, bf16::DTYPE, &[steps.len(), 3, count / 3]);
            call(machine, "scale", attributes, &[&exponent, &corrs, &step], &[&narrow], options);
            let same = |found: bf16, wanted: f32| same(found.to_f32(), bf16::from_f32(wanted).to_f32());
            assert!(narrow.values::<bf16>().iter().zip(&wanted).all(|(&found, &wanted)| same(found, wanted)), "group_size {group_size}");
        });
    }
}

/// The state after one update of three layers of `count` groups, in place or not.
fn updated(
    score: &[f32],
    votes: [f32; 3],
    step: [i64; 3],
    wanted_votes: i64,
    in_place: bool,
    options: Options,
) -> (Vec<i64>, Vec<i64>, Vec<i64>) {
    let (machine, count) = (Machine::get(), score.len() / 3);
    let edges = [0, -1, 0xFFFF_FFFF, 1 << 32, -(1 << 32), i64::MAX - 40, i64::MIN + 40, 1];
    let before: Vec<i64> = (0..score.len()).map(|index| edges[index % 8]).collect();
    let corr = Buffer::of(machine, &limbs(&before), &[3, 1, count, 2]);
    let steps = Buffer::of(machine, &limbs(&step), &[3, 2]);
    let scores = Buffer::of(machine, score, &[3, 1, count]);
    let votes = Buffer::of(machine, &votes, &[3]);
    let elsewhere = (Buffer::result(machine, i32::DTYPE, &[3, 1, count, 2]), Buffer::result(machine, i32::DTYPE, &[3, 2]));
    let (new_corr, new_step) = if in_place { (&corr, &steps) } else { (&elsewhere.0, &elsewhere.1) };
    let attributes = Attributes { group_size: 32, gain: 0.0, wanted_votes };
    call(machine, "accumulate", attributes, &[&corr, &steps, &scores, &votes], &[new_corr, new_step], options);
    (before, joined(new_corr), joined(new_step))
}

#[test]
fn scores_and_votes_reach_the_state_exactly_in_place_and_elsewhere() {
    for (count, in_place) in [(1, true), (5000, true), (5000, false)] {
        let mut random = Random::new(count as u64);
        let score: Vec<f32> = (0..3 * count).map(|_| random.integer(-32, 32) as f32).collect();
        under_every_schedule(|options| {
            let (before, corr, step) = updated(&score, [1.0, 2.0, 1.0], [0xFFFF_FFFF, 5, -1], -1, in_place, options);
            let wanted: Vec<i64> = before.iter().zip(&score).map(|(corr, &score)| corr.wrapping_sub(score as i64)).collect();
            assert_eq!(corr, wanted);
            assert_eq!(step, [1 << 32, 7, -1], "a negative step stays");
        });
    }
}

#[test]
fn a_score_that_cannot_be_honest_leaves_its_layer_and_marks_its_step() {
    let honest = vec![3.0_f32; 3 * 5000];
    for (bad, votes, wanted_votes) in
        [(0.5, 1.0, -1), (33.0, 1.0, -1), (f32::NAN, 1.0, -1), (3.0, 0.5, -1), (3.0, f32::NAN, -1), (3.0, 2.0, 1)]
    {
        let mut score = honest.clone();
        score[2 * 5000 - 1] = bad;
        under_every_schedule(|options| {
            let (before, corr, step) = updated(&score, [1.0, votes, 1.0], [4, 4, 4], wanted_votes, true, options);
            assert_eq!(step, [5, REFUSED_STEP, 5], "{bad} with {votes} votes");
            assert_eq!(corr[5000..2 * 5000], before[5000..2 * 5000], "corr stays");
            assert!((0..5000).all(|index| corr[index] == before[index].wrapping_sub(3)), "other layers are updated");
        });
    }
}

#[test]
fn trits_survive_packing_and_weights_are_scale_times_trit() {
    let machine = Machine::get();
    for &shape in SHAPES {
        let Shape { in_dim, out_dim, group_size, .. } = shape;
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        let groups = problem.layout.groups();
        let packed_shape = [out_dim, groups, problem.layout.group_bytes()];
        let dense = Buffer::of(machine, &problem.trits, &[out_dim, in_dim]);
        under_every_schedule(|options| {
            let packed = Buffer::result(machine, u8::DTYPE, &packed_shape);
            call(machine, "pack", grouped(group_size), &[&dense], &[&packed], options);
            assert_eq!(packed.values::<u8>(), problem.packed, "{shape:?}");
            let unpacked = Buffer::result(machine, i8::DTYPE, &[out_dim, in_dim]);
            call(machine, "unpack", grouped(group_size), &[&packed], &[&unpacked], options);
            assert_eq!(unpacked.values::<i8>(), problem.trits, "{shape:?}");
            let wanted: Vec<f32> = (0..out_dim * in_dim).map(|at| problem.weight(at / in_dim, at % in_dim) as f32).collect();
            let scale = Buffer::of(machine, &problem.scale, &[out_dim, groups]);
            let narrow: Vec<bf16> = problem.scale.iter().map(|&scale| bf16::from_f32(scale)).collect();
            let narrow_scale = Buffer::of(machine, &narrow, &[out_dim, groups]);
            let of_narrow = |at: usize| narrow[at / in_dim * groups + at % in_dim / group_size].to_f32() * f32::from(problem.trits[at]);
            let narrow: Vec<f32> = (0..out_dim * in_dim).map(of_narrow).collect();
            let shifted = Buffer::result_beside(machine, f32::DTYPE, &[out_dim, in_dim], 1);
            call(machine, "dequantize", grouped(group_size), &[&packed, &scale], &[&shifted], options);
            assert_eq!(shifted.values::<f32>(), wanted, "{shape:?}, a result at no multiple of 16 bytes");
            for (scale, wanted) in [(&scale, &wanted), (&narrow_scale, &narrow)] {
                let weights = [f32::DTYPE, bf16::DTYPE, f16::DTYPE].map(|dtype| Buffer::result(machine, dtype, &[out_dim, in_dim]));
                for weights in &weights {
                    call(machine, "dequantize", grouped(group_size), &[&packed, scale], &[weights], options);
                }
                assert_eq!(weights[0].values::<f32>(), wanted, "{shape:?}");
                let rounded = |(found, wanted): (&bf16, &f32)| found.to_bits() == bf16::from_f32(*wanted).to_bits();
                assert!(weights[1].values::<bf16>().iter().zip(wanted).all(rounded), "{shape:?}: bfloat16 weights are rounded once");
                let rounded = |(found, wanted): (&f16, &f32)| found.to_bits() == f16::from_f32(*wanted).to_bits();
                assert!(weights[2].values::<f16>().iter().zip(wanted).all(rounded), "{shape:?}: float16 weights are rounded once");
            }
        });
    }
}

#[test]
fn every_byte_unpacks_as_on_the_cpu_those_above_242_included() {
    let machine = Machine::get();
    let bytes: Vec<u8> = (0..=255).collect();
    let packed = Buffer::of(machine, &bytes, &[1, 256, 1]);
    under_every_schedule(|options| {
        let trits = Buffer::result(machine, i8::DTYPE, &[1, 1280]);
        call(machine, "unpack", grouped(5), &[&packed], &[&trits], options);
        let digit = |index: usize| (index / 5 / 3_usize.pow(index as u32 % 5) % 3) as i8 - 1;
        assert!(trits.values::<i8>().iter().enumerate().all(|(index, &trit)| trit == digit(index)));
    });
}
