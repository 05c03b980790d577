//! `dx = dy (S T)` against the multiply-add peak of the same run.

mod common;

use common::{Problem, fma_peak, report, time, token_counts};
use half::{bf16, f16};
use ternax::cpu;
use ternax::float::Activation;

fn run<A: Activation>(tokens: usize, size: usize, group_size: usize, peak: f64) {
    let problem = Problem::<A>::new(tokens, size, size, group_size);
    let mut dx = vec![A::default(); tokens * size];
    let times = time(|| cpu::matmul_transposed(&problem.dy, problem.matrix(), &problem.scale, &mut dx));
    report(&format!("matmul_transposed {} {tokens}x{size}x{size} group {group_size}", A::NAME), problem.operations(), peak, times);
}

fn main() {
    let peak = fma_peak();
    println!("multiply-add peak of one thread: {:.1} GFLOP/s, {} threads", peak / 1e9, cpu::threads::count());
    for tokens in token_counts() {
        run::<f32>(tokens, 4096, 32, peak);
        run::<bf16>(tokens, 4096, 32, peak);
        run::<f16>(tokens, 4096, 32, peak);
    }
    for group_size in [1, 8, 24, 64, 256] {
        run::<f32>(128, 4096, group_size, peak);
    }
}
