//! The forward product on every tier against its oracle.

mod common;

use common::guarded::{Guarded, placed};
use common::{Problem, Random, SHAPES, Shape, Values, assert_close};
use half::{bf16, f16};
use ternax::cpu::{Tier, matmul_on, threads};
use ternax::float::Activation;
use ternax::trits::TernaryMatrix;

/// Shapes beyond the shared table: every number of tokens around the borders between kernels, and every way to cut a group.
fn more_shapes() -> impl Iterator<Item = Shape> {
    let tokens = (1..=34).map(|tokens| Shape { tokens, in_dim: 70, out_dim: 37, group_size: 32 });
    let sizes = [1, 2, 3, 4, 5, 6, 8, 9, 12, 13, 16, 17, 20, 21, 24, 28, 32, 33, 40, 64, 80, 100, 128, 256, 320, 321, 640, 1000];
    let groups = sizes.into_iter().flat_map(|group_size| {
        let shape = move |tokens, in_dim| Shape { tokens, in_dim, out_dim: 35, group_size };
        [shape(1, 1003), shape(3, 97), shape(4, 330), shape(16, 1003), shape(19, 330)]
    });
    // Where the way changes in small groups, with panels that are full, begun and cut within a register.
    let small = [1, 2, 3, 4, 8].into_iter().flat_map(|group_size| {
        let tokens = [2, 3, 4, 5, 9, 10, 15, 17, 18, 33, 66];
        tokens.map(move |tokens| Shape { tokens, in_dim: 523, out_dim: 77, group_size })
    });
    tokens.chain(groups).chain(small)
}

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.iter().copied().chain(more_shapes())
}

fn product<X: Activation, Y: Activation>(tier: Tier, problem: &Problem<X>) -> Vec<Y> {
    let mut y = vec![Y::from_f32(f32::NAN); problem.shape.tokens * problem.shape.out_dim];
    matmul_on(tier, &problem.x, problem.matrix(), &problem.scale, &mut y);
    y
}

fn agrees<X: Activation, Y: Activation>() {
    for shape in shapes() {
        let problem = Problem::<X>::new(shape, Values::Uniform);
        let wanted = problem.matmul();
        for tier in Tier::available() {
            let what = format!("{} to {} on {} {shape:?}", X::NAME, Y::NAME, tier.name());
            assert_close(&product::<X, Y>(tier, &problem), &wanted, shape.in_dim, &what);
        }
    }
}

#[test]
fn every_tier_is_within_the_rounding_of_float32_sums() {
    agrees::<f32, f32>();
}

#[test]
fn bfloat16_activations_are_widened_and_rounded_once() {
    agrees::<bf16, bf16>();
    agrees::<bf16, f32>();
}

#[test]
fn float16_activations_are_widened_and_rounded_once() {
    agrees::<f16, f16>();
    agrees::<f16, f32>();
}

#[test]
fn sums_that_float32_holds_are_exact_on_every_tier() {
    for shape in shapes() {
        let problem = Problem::<f32>::new(shape, Values::Dyadic);
        let wanted: Vec<f32> = problem.matmul().iter().map(|sum| sum.value as f32).collect();
        for tier in Tier::available() {
            assert_eq!(product::<f32, f32>(tier, &problem), wanted, "{} {shape:?}", tier.name());
        }
    }
}

#[test]
fn the_error_is_no_larger_than_that_of_plain_float32_dot_products() {
    for (tokens, in_dim) in [(1, 4096), (16, 4096), (40, 1500)] {
        let problem = Problem::<f32>::new(Shape { tokens, in_dim, out_dim: 64, group_size: 32 }, Values::Uniform);
        let wanted = problem.matmul();
        let plain = (0..tokens * 64).map(|at| {
            let (x, row) = (&problem.x[at / 64 * in_dim..][..in_dim], at % 64);
            x.iter().enumerate().map(|(input, x)| x * problem.weight(row, input) as f32).sum::<f32>()
        });
        let square = |found: f32, wanted: f64| (f64::from(found) - wanted).powi(2);
        let plain: f64 = plain.zip(&wanted).map(|(found, wanted)| square(found, wanted.value)).sum();
        for tier in Tier::available() {
            let found = product::<f32, f32>(tier, &problem);
            let error: f64 = found.iter().zip(&wanted).map(|(&found, wanted)| square(found, wanted.value)).sum();
            assert!(error <= plain, "{}, {tokens} tokens: {error:e}, plain {plain:e}", tier.name());
        }
    }
}

#[test]
fn the_number_of_threads_never_changes_a_bit() {
    let shape = |tokens, out_dim| Shape { tokens, in_dim: 333, out_dim, group_size: 32 };
    let dense = [3, 600].map(|tokens| Shape { group_size: 1, ..shape(tokens, 4500) });
    for shape in [shape(1, 13000), shape(5, 2700), shape(16, 1100), shape(40, 2100), shape(150, 90)].into_iter().chain(dense) {
        assert!(!threads::is_small(shape.tokens * shape.in_dim * shape.out_dim), "{shape:?} takes threads");
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        for tier in Tier::available() {
            let bits = |threads| {
                let y = threads::with_count(threads, || product::<f32, f32>(tier, &problem));
                y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let alone = bits(1);
            for threads in 2..=4 {
                assert!(bits(threads) == alone, "{} {shape:?} on {threads} threads", tier.name());
            }
        }
    }
}

fn guarded<A: Activation>() {
    for shape in shapes() {
        let problem = Problem::<A>::new(shape, Values::Uniform);
        let wanted = problem.matmul();
        let unset = vec![A::from_f32(f32::NAN); shape.tokens * shape.out_dim];
        for at_start in [false, true] {
            let (packed, scale) = (placed(&problem.packed, at_start), placed(&problem.scale, at_start));
            let x = placed(&problem.x, at_start);
            let matrix = TernaryMatrix::new(&packed, shape.out_dim, problem.layout);
            for tier in Tier::available() {
                let mut y = placed(&unset, at_start);
                matmul_on(tier, &x, matrix, &scale, &mut y);
                assert_close(&y, &wanted, shape.in_dim, &format!("guarded, {} on {} {shape:?}", A::NAME, tier.name()));
            }
        }
    }
}

#[test]
fn no_kernel_reads_or_writes_past_an_operand() {
    guarded::<f32>();
    guarded::<bf16>();
    guarded::<f16>();
}

#[test]
fn bytes_that_are_no_packed_trits_stay_harmless() {
    for shape in more_shapes() {
        let mut problem = Problem::<f32>::new(shape, Values::Uniform);
        let mut random = Random::new(1);
        problem.packed.iter_mut().for_each(|byte| *byte = random.integer(243, 255) as u8);
        let packed = Guarded::new(&problem.packed);
        let most: f64 = (0..shape.in_dim).map(|_| 1.5).sum();
        for tier in Tier::available() {
            let mut y = vec![f32::NAN; shape.tokens * shape.out_dim];
            matmul_on(tier, &problem.x, TernaryMatrix::new(&packed, shape.out_dim, problem.layout), &problem.scale, &mut y);
            assert!(y.iter().all(|y| f64::from(y.abs()) <= most), "{} {shape:?}: sums of {{-1, 0, 1}} times x", tier.name());
        }
    }
}

#[test]
fn operands_of_wrong_lengths_are_refused() {
    let problem = Problem::<f32>::new(Shape { tokens: 2, in_dim: 8, out_dim: 3, group_size: 4 }, Values::Uniform);
    let refused = |x: &[f32], scale: &[f32], y_len: usize| {
        let call = || matmul_on(Tier::Portable, x, problem.matrix(), scale, &mut vec![0f32; y_len]);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err()
    };
    assert!(!refused(&problem.x, &problem.scale, 6));
    assert!(refused(&problem.x[1..], &problem.scale, 6));
    assert!(refused(&problem.x, &problem.scale[1..], 6));
    assert!(refused(&problem.x, &problem.scale, 5));
}
