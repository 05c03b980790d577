//! Scores of activations and of dense gradients.

use half::{bf16, f16};

use crate::common::{Problem, SHAPES, Shape, Values};
use crate::device::{Buffer, Element, Number, call, grouped, planned, under_every_schedule};
use crate::machine::{Machine, OPTIONS};

/// Shapes beyond the shared table: aligned rows, groups of several tiles, ragged ones among them.
const MORE: &[Shape] = &[
    Shape { tokens: 70, in_dim: 256, out_dim: 136, group_size: 32 },
    Shape { tokens: 40, in_dim: 240, out_dim: 24, group_size: 40 },
    Shape { tokens: 40, in_dim: 528, out_dim: 136, group_size: 264 },
    Shape { tokens: 33, in_dim: 301, out_dim: 19, group_size: 200 },
    Shape { tokens: 9, in_dim: 520, out_dim: 8, group_size: 360 },
    Shape { tokens: 600, in_dim: 104, out_dim: 24, group_size: 48 },
    Shape { tokens: 530, in_dim: 200, out_dim: 9, group_size: 200 },
    Shape { tokens: 600, in_dim: 96, out_dim: 0, group_size: 32 },
];

pub fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.iter().chain(MORE).copied()
}

fn agrees<X: Number>() {
    let machine = Machine::get();
    for shape in shapes() {
        let Shape { tokens, in_dim, out_dim, group_size } = shape;
        for values in [Values::Dyadic, Values::Uniform] {
            let problem = Problem::<X>::new(shape, values);
            let (layout, wanted) = (problem.layout, problem.scores());
            let x = Buffer::of(machine, &problem.x, &[tokens, in_dim]);
            let dy = Buffer::of(machine, &problem.dy, &[tokens, out_dim]);
            let trits = Buffer::of(machine, &problem.packed, &[out_dim, layout.groups(), layout.group_bytes()]);
            under_every_schedule(|options| {
                let score = Buffer::result(machine, f32::DTYPE, &[out_dim, layout.groups()]);
                let votes = Buffer::result(machine, f32::DTYPE, &[]);
                call(machine, "correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes], options);
                assert_eq!(votes.values::<f32>(), [1.0]);
                for (index, (&found, (wanted, undecided))) in score.values::<f32>().iter().zip(&wanted).enumerate() {
                    let allowed = if values == Values::Dyadic { 0.0 } else { 2.0 * undecided };
                    assert!(
                        (found - wanted).abs() <= allowed,
                        "{} {values:?} {shape:?} {options:?} group {index}: {found}, wanted {wanted}",
                        X::NAME
                    );
                }
            });
        }
    }
}

/// Scores of gradients times powers of two, one for each output in turn: exact ones.
fn of_sizes(shape: Shape, sizes: [i32; 4]) {
    let (machine, Shape { tokens, in_dim, out_dim, group_size }) = (Machine::get(), shape);
    let mut problem = Problem::<f32>::new(shape, Values::Dyadic);
    // Whole numbers, so that no product is below float32's smallest number.
    problem.x.iter_mut().for_each(|x| *x *= 4.0);
    for (index, dy) in problem.dy.iter_mut().enumerate() {
        let size = sizes[index % out_dim % 4];
        *dy *= 2f32.powi(size / 2) * 2f32.powi(size - size / 2);
    }
    let groups = problem.layout.groups();
    let wanted: Vec<f32> = problem.scores().into_iter().map(|(score, _)| score).collect();
    let x = Buffer::of(machine, &problem.x, &[tokens, in_dim]);
    let dy = Buffer::of(machine, &problem.dy, &[tokens, out_dim]);
    let trits = Buffer::of(machine, &problem.packed, &[out_dim, groups, problem.layout.group_bytes()]);
    let score = Buffer::result(machine, f32::DTYPE, &[out_dim, groups]);
    let votes = Buffer::result(machine, f32::DTYPE, &[]);
    call(machine, "correlate", grouped(group_size), &[&x, &dy, &trits], &[&score, &votes], OPTIONS[1]);
    assert_eq!(score.values::<f32>(), wanted, "{shape:?}, 2^{sizes:?}");
}

#[test]
fn the_smallest_and_the_largest_numbers_have_their_sign_beside_others_in_the_same_tile() {
    for shape in [
        Shape { tokens: 1, in_dim: 8, out_dim: 4, group_size: 4 },
        Shape { tokens: 40, in_dim: 100, out_dim: 19, group_size: 32 },
        Shape { tokens: 600, in_dim: 104, out_dim: 24, group_size: 48 },
        Shape { tokens: 9, in_dim: 520, out_dim: 8, group_size: 360 },
    ] {
        of_sizes(shape, [-147, 0, -125, 10]);
        // Raised, these are not finite.
        of_sizes(shape, [100, 0, -90, 50]);
    }
}

#[test]
fn float32_scores_err_only_where_float32_cannot_decide_a_sign() {
    agrees::<f32>();
}

#[test]
fn bfloat16_scores_err_only_where_float32_cannot_decide_a_sign() {
    agrees::<bf16>();
}

#[test]
fn float16_scores_err_only_where_float32_cannot_decide_a_sign() {
    agrees::<f16>();
}

#[test]
fn operands_that_lie_anywhere_have_the_same_scores() {
    let shape = Shape { tokens: 70, in_dim: 64, out_dim: 136, group_size: 32 };
    let (machine, problem) = (Machine::get(), Problem::<bf16>::new(shape, Values::Dyadic));
    let wanted: Vec<f32> = problem.scores().into_iter().map(|(score, _)| score).collect();
    for (x_skips, dy_skips) in [(1, 0), (0, 3), (5, 4)] {
        let x = Buffer::beside(machine, &problem.x, &[70, 64], x_skips);
        let dy = Buffer::beside(machine, &problem.dy, &[70, 136], dy_skips);
        let trits = Buffer::beside(machine, &problem.packed, &[136, 2, 7], 3);
        let score = Buffer::result_beside(machine, f32::DTYPE, &[136, 2], 1);
        let votes = Buffer::result(machine, f32::DTYPE, &[]);
        let (plan, _scratch) = planned(machine, "correlate", grouped(32), &[&x, &dy, &trits], &[&score, &votes]);
        let hopper = plan.hopper.expect("16 bits");
        assert!(hopper.mapped.is_none(), "no tensor map begins there");
        for launches in [&plan.launches, &hopper.launches] {
            machine.run(launches, OPTIONS[1]);
            assert_eq!(score.values::<f32>(), wanted, "{x_skips} and {dy_skips} elements from an aligned address");
        }
    }
}

#[test]
fn scores_of_dense_gradients_count_signs_of_everything_but_zero_and_nan() {
    let machine = Machine::get();
    for shape in shapes() {
        let Shape { in_dim, out_dim, group_size, .. } = shape;
        let problem = Problem::<f32>::new(shape, Values::Dyadic);
        let special = [0.0, -0.0, f32::NAN, 1e-45, -1e-45, f32::INFINITY, f32::NEG_INFINITY, 3.0];
        let gradient: Vec<f32> = (0..out_dim * in_dim).map(|index| special[index * 7 % 8]).collect();
        let groups = problem.layout.groups();
        let mut wanted = vec![0.0; out_dim * groups];
        for (at, &value) in gradient.iter().enumerate() {
            let sign = f32::from(i8::from(value > 0.0) - i8::from(value < 0.0));
            wanted[at / in_dim * groups + at % in_dim / group_size] += sign * f32::from(problem.trits[at]);
        }
        let dw = Buffer::of(machine, &gradient, &[out_dim, in_dim]);
        let trits = Buffer::of(machine, &problem.packed, &[out_dim, groups, problem.layout.group_bytes()]);
        under_every_schedule(|options| {
            let score = Buffer::result(machine, f32::DTYPE, &[out_dim, groups]);
            call(machine, "correlate_dense", grouped(group_size), &[&dw, &trits], &[&score], options);
            assert_eq!(score.values::<f32>(), wanted, "{shape:?} {options:?}");
        });
    }
}
