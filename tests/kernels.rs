//! Every kernel against its plain oracle, over one table of shapes.

mod common;

use common::{Problem, SHAPES, Values, assert_close};
use half::{bf16, f16};
use ternax::cpu;
use ternax::float::Activation;

fn matmul_transposed_agrees<A: Activation>(values: Values) {
    for &shape in SHAPES {
        let problem = Problem::<A>::new(shape, values);
        let mut dx = vec![A::default(); shape.tokens * shape.in_dim];
        cpu::matmul_transposed(&problem.dy, problem.matrix(), &problem.scale, &mut dx);
        assert_close(&dx, &problem.matmul_transposed(), shape.out_dim, &format!("matmul_transposed {} {shape:?}", A::NAME));
    }
}

#[test]
fn matmul_transposed_is_within_the_rounding_of_float32_sums() {
    matmul_transposed_agrees::<f32>(Values::Uniform);
    matmul_transposed_agrees::<bf16>(Values::Uniform);
    matmul_transposed_agrees::<f16>(Values::Uniform);
}

fn correlate_agrees<A: Activation>(values: Values) {
    for &shape in SHAPES {
        let problem = Problem::<A>::new(shape, values);
        let mut score = vec![f32::NAN; shape.out_dim * problem.layout.groups()];
        cpu::correlate(&problem.x, &problem.dy, problem.matrix(), &mut score);
        for (index, (&found, (wanted, undecided))) in score.iter().zip(problem.scores()).enumerate() {
            let allowed = if values == Values::Dyadic { 0.0 } else { 2.0 * undecided };
            assert!((found - wanted).abs() <= allowed, "correlate {} {shape:?} group {index}: {found}, wanted {wanted}", A::NAME);
        }
    }
}

#[test]
fn correlate_is_exact_where_the_gradient_is() {
    correlate_agrees::<f32>(Values::Dyadic);
    correlate_agrees::<bf16>(Values::Dyadic);
    correlate_agrees::<f16>(Values::Dyadic);
}

#[test]
fn correlate_errs_only_where_float32_cannot_decide_a_sign() {
    correlate_agrees::<f32>(Values::Uniform);
}
