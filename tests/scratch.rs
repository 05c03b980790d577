//! What the kernels hold beside their results: at most 4 MiB for each thread, whatever ran before.

mod common;

use common::{Problem, SHAPES, Shape, Values};
use half::bf16;
use ternax::cpu::correlate::correlate_on;
use ternax::cpu::matmul_transposed::matmul_transposed_on;
use ternax::cpu::{Tier, matmul_on, scratch, threads};
use ternax::float::Activation;

/// What a call may hold for each thread.
const MOST: usize = 4 << 20;

/// Shapes that fill every block of every kernel.
const LARGE: [Shape; 3] = [
    Shape { tokens: 512, in_dim: 4096, out_dim: 4096, group_size: 32 },
    Shape { tokens: 2100, in_dim: 1100, out_dim: 2300, group_size: 24 },
    Shape { tokens: 1024, in_dim: 600, out_dim: 4000, group_size: 1 },
];

fn run<A: Activation>(tier: Tier, shape: Shape) {
    let problem = Problem::<A>::new(shape, Values::Dyadic);
    let mut y = vec![A::default(); shape.tokens * shape.out_dim];
    let mut dx = vec![A::default(); shape.tokens * shape.in_dim];
    let mut score = vec![0.0; shape.out_dim * problem.layout.groups()];
    let kernels: [(&str, &mut dyn FnMut()); 3] = [
        ("matmul", &mut || matmul_on(tier, &problem.x, problem.matrix(), &problem.scale, &mut y)),
        ("matmul_transposed", &mut || matmul_transposed_on(tier, &problem.dy, problem.matrix(), &problem.scale, &mut dx)),
        ("correlate", &mut || correlate_on(tier, &problem.x, &problem.dy, problem.matrix(), &mut score)),
    ];
    for (kernel, call) in kernels {
        threads::with_count(1, call);
        let held = scratch::most_bytes();
        assert!(held <= MOST, "{kernel} {} on {} {shape:?} holds {held} bytes", A::NAME, tier.name());
    }
}

/// All calls on one thread, so that what one leaves counts for the next.
#[test]
fn a_thread_holds_at_most_four_mebibytes_over_all_kernels_and_shapes() {
    for tier in Tier::available() {
        for &shape in SHAPES {
            run::<f32>(tier, shape);
            run::<bf16>(tier, shape);
        }
    }
    for shape in LARGE {
        run::<f32>(Tier::chosen(), shape);
        run::<bf16>(Tier::chosen(), shape);
    }
    assert!(scratch::most_bytes() > MOST / 4, "large shapes were counted");
}
