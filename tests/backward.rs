//! The products of the backward pass on every tier against their oracles.

mod common;

use common::guarded::Guarded;
use common::{Problem, Random, SHAPES, Shape, Values, assert_close};
use half::{bf16, f16};
use ternax::cpu::correlate::{correlate_dense_on, correlate_on};
use ternax::cpu::matmul_transposed::matmul_transposed_on;
use ternax::cpu::{Tier, threads};
use ternax::float::Activation;
use ternax::trits::TernaryMatrix;

/// Shapes beyond the shared table: every number of tokens around the borders between kernels, more tokens than are summed in
/// one go, and every way in which groups meet bytes, words and blocks of columns.
fn shapes() -> impl Iterator<Item = Shape> {
    let tokens = (1..=34).map(|tokens| Shape { tokens, in_dim: 70, out_dim: 37, group_size: 32 });
    let sizes = [1, 2, 3, 4, 5, 6, 8, 12, 13, 16, 17, 20, 24, 32, 33, 40, 64, 80, 96, 100, 128, 256, 320, 512, 544, 1000, 1024, 2000];
    let groups = sizes.into_iter().flat_map(|group_size| {
        let shape = move |tokens, in_dim| Shape { tokens, in_dim, out_dim: 18, group_size };
        [shape(1, 1203), shape(3, 97), shape(4, 1203), shape(19, 330)]
    });
    let long = Shape { tokens: 2060, in_dim: 600, out_dim: 16, group_size: 24 };
    SHAPES.iter().copied().chain(tokens).chain(groups).chain([long])
}

fn dx<D: Activation, X: Activation>(tier: Tier, problem: &Problem<D>) -> Vec<X> {
    let mut dx = vec![X::from_f32(f32::NAN); problem.shape.tokens * problem.shape.in_dim];
    matmul_transposed_on(tier, &problem.dy, problem.matrix(), &problem.scale, &mut dx);
    dx
}

fn scores<A: Activation>(tier: Tier, problem: &Problem<A>) -> Vec<f32> {
    let mut score = vec![f32::NAN; problem.shape.out_dim * problem.layout.groups()];
    correlate_on(tier, &problem.x, &problem.dy, problem.matrix(), &mut score);
    score
}

fn dx_agrees<D: Activation, X: Activation>() {
    for shape in shapes() {
        let problem = Problem::<D>::new(shape, Values::Uniform);
        let wanted = problem.matmul_transposed();
        for tier in Tier::available() {
            let what = format!("dx {} to {} on {} {shape:?}", D::NAME, X::NAME, tier.name());
            assert_close(&dx::<D, X>(tier, &problem), &wanted, shape.out_dim, &what);
        }
    }
}

#[test]
fn dx_is_within_the_rounding_of_float32_sums_on_every_tier() {
    dx_agrees::<f32, f32>();
}

#[test]
fn dx_of_narrow_activations_is_summed_in_float32_and_rounded_once() {
    dx_agrees::<bf16, bf16>();
    dx_agrees::<f16, f16>();
}

#[test]
fn dx_that_float32_holds_is_exact_on_every_tier() {
    fn check<D: Activation>() {
        for shape in shapes() {
            let problem = Problem::<D>::new(shape, Values::Dyadic);
            let wanted: Vec<f32> = problem.matmul_transposed().iter().map(|sum| sum.value as f32).collect();
            for tier in Tier::available() {
                assert_eq!(dx::<D, f32>(tier, &problem), wanted, "{} on {} {shape:?}", D::NAME, tier.name());
            }
        }
    }
    check::<f32>();
    check::<bf16>();
}

fn assert_scores(found: &[f32], wanted: &[(f32, f32)], exact: bool, what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (index, (found, (wanted, undecided))) in found.iter().zip(wanted).enumerate() {
        let allowed = if exact { 0.0 } else { 2.0 * undecided };
        assert!((found - wanted).abs() <= allowed, "{what} group {index}: {found}, wanted {wanted}");
    }
}

fn scores_agree<A: Activation>(values: Values) {
    for shape in shapes() {
        let problem = Problem::<A>::new(shape, values);
        let wanted = problem.scores();
        for tier in Tier::available() {
            let what = format!("scores {} on {} {shape:?}", A::NAME, tier.name());
            assert_scores(&scores(tier, &problem), &wanted, values == Values::Dyadic, &what);
        }
    }
}

#[test]
fn scores_are_exact_where_the_gradient_is() {
    scores_agree::<f32>(Values::Dyadic);
    scores_agree::<bf16>(Values::Dyadic);
    scores_agree::<f16>(Values::Dyadic);
}

/// Few tokens pass rows over stretches of columns: more than one stretch, groups of one piece of a block and of several, that end
/// within a block and across two, ragged last groups and rows, and the last words of tokens of that way and the first beyond.
#[test]
fn scores_of_few_tokens_are_exact_over_several_stretches_of_columns() {
    fn check<A: Activation>(tokens: &[usize]) {
        for (&tokens, (in_dim, group_size)) in
            tokens.iter().flat_map(|tokens| [(2333, 32), (2333, 96), (301, 64), (290, 160)].map(|columns| (tokens, columns)))
        {
            let problem = Problem::<A>::new(Shape { tokens, in_dim, out_dim: 21, group_size }, Values::Dyadic);
            let wanted = problem.scores();
            for tier in Tier::available() {
                for threads in [1, 3] {
                    let found = threads::with_count(threads, || scores(tier, &problem));
                    assert_scores(&found, &wanted, true, &format!("{} on {} {:?}", A::NAME, tier.name(), problem.shape));
                }
            }
        }
    }
    check::<f32>(&[24, 25, 63, 64, 65]);
    check::<bf16>(&[48, 49, 127, 128, 129]);
}

#[test]
fn scores_err_only_where_float32_cannot_decide_a_sign() {
    scores_agree::<f32>(Values::Uniform);
    scores_agree::<bf16>(Values::Uniform);
}

/// The scores of a gradient by the definition of SPEC 17 and 20.
fn plain_scores<A: Activation>(problem: &Problem<A>, gradient: impl Fn(usize, usize) -> f32) -> Vec<f32> {
    let Shape { in_dim, out_dim, group_size, .. } = problem.shape;
    let mut scores = vec![0.0; out_dim * problem.layout.groups()];
    for (row, column) in (0..out_dim).flat_map(|row| (0..in_dim).map(move |column| (row, column))) {
        let gradient = gradient(row, column);
        let sign = f32::from(gradient > 0.0) - f32::from(gradient < 0.0);
        scores[row * problem.layout.groups() + column / group_size] += sign * f32::from(problem.trits[row * in_dim + column]);
    }
    scores
}

/// Values whose products are special: among them some that round to zero, some that are subnormal, and some that are neither.
const SPECIAL: [f32; 13] =
    [0.0, -0.0, 1.0, -2.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40, -1e-42, 1e-30, -3e-16, 1.5e-20, f32::MAX];

fn special_scores_agree<A: Activation>(values: &[f32], tokens: usize) {
    for group_size in [1, 7, 8, 24, 32, 64] {
        let mut problem = Problem::<A>::new(Shape { tokens, in_dim: 145, out_dim: 29, group_size }, Values::Uniform);
        let mut random = Random::new(group_size as u64);
        let mut draw = || A::from_f32(values[random.integer(0, values.len() as i64 - 1) as usize]);
        problem.x.fill_with(&mut draw);
        problem.dy.fill_with(&mut draw);
        // Tiers differ in whether they round a product before it is added.
        let wanted = [f32::mul_add, |dy: f32, x: f32, sum: f32| dy * x + sum].map(|add| {
            plain_scores(&problem, |row, column| {
                let term = |token: usize| (problem.dy[token * 29 + row].to_f32(), problem.x[token * 145 + column].to_f32());
                (0..tokens).map(term).fold(0.0, |sum, (dy, x)| add(dy, x, sum))
            })
        });
        for tier in Tier::available() {
            let what = format!("{} of {tokens} tokens in groups of {group_size} on {}", A::NAME, tier.name());
            assert!(wanted.contains(&scores(tier, &problem)), "{what}");
        }
    }
}

#[test]
fn zeros_and_nan_have_no_sign_and_denormals_have_one() {
    for tokens in 1..=2 {
        special_scores_agree::<f32>(&SPECIAL, tokens);
        special_scores_agree::<bf16>(&SPECIAL, tokens);
        special_scores_agree::<f32>(&SPECIAL[..7], tokens);
        special_scores_agree::<bf16>(&SPECIAL[..7], tokens);
    }
    special_scores_agree::<f32>(&[1e-40, -3e-41, 0.0, 1.0], 3);
    special_scores_agree::<f32>(&[1e-23, -1e-22, 0.0], 1);
}

#[test]
fn the_scores_of_a_dense_gradient_are_counted_sign_by_sign() {
    for shape in shapes().filter(|shape| shape.tokens == 1 || shape.tokens == 333) {
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        let mut random = Random::new(7);
        let mut draw = || SPECIAL[random.integer(0, SPECIAL.len() as i64 - 1) as usize];
        let gradient: Vec<f32> = (0..shape.out_dim * shape.in_dim).map(|_| draw()).collect();
        let wanted = plain_scores(&problem, |row, column| gradient[row * shape.in_dim + column]);
        let (gradient, packed) = (Guarded::new(&gradient), Guarded::new(&problem.packed));
        for tier in Tier::available() {
            let mut score = Guarded::new(&vec![f32::NAN; wanted.len()]);
            correlate_dense_on(tier, &gradient, TernaryMatrix::new(&packed, shape.out_dim, problem.layout), &mut score);
            assert_eq!(*score, *wanted, "{} {shape:?}", tier.name());
        }
    }
}

#[test]
fn the_number_of_threads_never_changes_a_bit() {
    let shape = |tokens, in_dim, out_dim| Shape { tokens, in_dim, out_dim, group_size: 32 };
    for shape in [shape(1, 2100, 2100), shape(5, 1333, 700), shape(40, 1500, 333), shape(150, 70, 1100), shape(1030, 520, 30)] {
        assert!(!threads::is_small(shape.tokens * shape.in_dim * shape.out_dim), "{shape:?} takes threads");
        let problem = Problem::<f32>::new(shape, Values::Uniform);
        for tier in Tier::available() {
            let bits = |threads| {
                let results = threads::with_count(threads, || [dx(tier, &problem), scores(tier, &problem)].concat());
                results.into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            let alone = bits(1);
            for threads in 2..=4 {
                assert!(bits(threads) == alone, "{} {shape:?} on {threads} threads", tier.name());
            }
        }
    }
}

/// Every operand between pages without access, against the page after it or the page before it.
fn guarded<A: Activation>() {
    fn place<T: Copy>(values: &[T], at_end: bool) -> Guarded<T> {
        if at_end { Guarded::new(values) } else { Guarded::at_start(values) }
    }
    for (shape, at_end) in shapes().flat_map(|shape| [(shape, true), (shape, false)]) {
        let problem = Problem::<A>::new(shape, Values::Uniform);
        let (wanted_dx, wanted_scores) = (problem.matmul_transposed(), problem.scores());
        let (x, dy) = (place(&problem.x, at_end), place(&problem.dy, at_end));
        let (packed, scale) = (place(&problem.packed, at_end), place(&problem.scale, at_end));
        let matrix = TernaryMatrix::new(&packed, shape.out_dim, problem.layout);
        for tier in Tier::available() {
            let what = format!("guarded, {} on {} {shape:?}", A::NAME, tier.name());
            let mut dx = place(&vec![A::from_f32(f32::NAN); shape.tokens * shape.in_dim], at_end);
            matmul_transposed_on(tier, &dy, matrix, &scale, &mut dx);
            assert_close(&dx, &wanted_dx, shape.out_dim, &what);
            let mut score = place(&vec![f32::NAN; wanted_scores.len()], at_end);
            correlate_on(tier, &x, &dy, matrix, &mut score);
            assert_scores(&score, &wanted_scores, false, &what);
        }
    }
}

#[test]
fn no_kernel_reads_or_writes_past_an_operand_or_before_it() {
    guarded::<f32>();
    guarded::<bf16>();
}

#[test]
fn operands_of_wrong_lengths_are_refused() {
    let problem = Problem::<f32>::new(Shape { tokens: 2, in_dim: 8, out_dim: 3, group_size: 4 }, Values::Uniform);
    let refused = |call: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err();
    let dx = |dy: &[f32], scale: &[f32], len: usize| {
        matmul_transposed_on(Tier::Portable, dy, problem.matrix(), scale, &mut vec![0f32; len]);
    };
    assert!(!refused(&|| dx(&problem.dy, &problem.scale, 16)));
    assert!(refused(&|| dx(&problem.dy[1..], &problem.scale, 16)));
    assert!(refused(&|| dx(&problem.dy, &problem.scale[1..], 16)));
    assert!(refused(&|| dx(&problem.dy, &problem.scale, 15)));
    let correlate = |x: &[f32], dy: &[f32], len: usize| correlate_on(Tier::Portable, x, dy, problem.matrix(), &mut vec![0f32; len]);
    assert!(!refused(&|| correlate(&problem.x, &problem.dy, 6)));
    assert!(refused(&|| correlate(&problem.x[1..], &problem.dy, 6)));
    assert!(refused(&|| correlate(&problem.x, &problem.dy[1..], 6)));
    assert!(refused(&|| correlate(&problem.x, &problem.dy, 5)));
}
