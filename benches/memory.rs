//! Few tokens, where the packed matrix decides the time: every kernel with its operands in caches, and out of memory, as a call
//! finds them after a dense layer has passed. Arguments are token counts and names of kernels.

mod common;

use common::{Problem, seconds_of, token_counts};
use half::bf16;
use ternax::cpu::{self, threads};
use ternax::float::Activation;

const SIZE: usize = 4096;
/// What is read between two calls out of memory: a dense layer of float32.
const OTHERS: usize = SIZE * SIZE;
const CALLS: usize = 41;
const KERNELS: [&str; 3] = ["forward", "dx", "correlation"];

/// Least and median milliseconds of a call.
fn milliseconds(mut call: impl FnMut(), mut between: impl FnMut()) -> [f64; 2] {
    call();
    let mut times: Vec<f64> = (0..CALLS)
        .map(|_| {
            between();
            seconds_of(&mut call) * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    [times[0], times[CALLS / 2]]
}

fn report(what: &str, others: &[f32], mut call: impl FnMut()) {
    let read = || {
        std::hint::black_box(others.iter().step_by(16).sum::<f32>());
    };
    let [near, near_median] = milliseconds(&mut call, || {});
    let [far, far_median] = milliseconds(&mut call, read);
    println!("{what:<40} {near:8.3} (median {near_median:8.3}) {far:8.3} (median {far_median:8.3})");
}

fn run<A: Activation>(tokens: usize, others: &[f32]) {
    let problem = Problem::<A>::new(tokens, SIZE, SIZE, 32);
    let name = |kernel: &str| format!("{kernel} {} {tokens}x{SIZE}x{SIZE}", A::NAME);
    let mut product = vec![A::default(); tokens * SIZE];
    let mut score = vec![0f32; problem.groups()];
    let asked = |kernel: &str| {
        let mut names = std::env::args().skip(1).filter(|argument| KERNELS.contains(&argument.as_str())).peekable();
        names.peek().is_none() || names.any(|name| name == kernel)
    };
    if asked("forward") {
        report(&name("forward"), others, || cpu::matmul(&problem.x, problem.matrix(), &problem.scale, &mut product));
    }
    if asked("dx") {
        report(&name("dx"), others, || cpu::matmul_transposed(&problem.dy, problem.matrix(), &problem.scale, &mut product));
    }
    if asked("correlation") {
        report(&name("correlation"), others, || cpu::correlate(&problem.x, &problem.dy, problem.matrix(), &mut score));
    }
}

fn main() {
    let others = vec![1f32; OTHERS];
    println!("milliseconds, {} threads\n{:<40} in caches {:>19} out of memory", threads::count(), "", "");
    for tokens in token_counts() {
        run::<f32>(tokens, &others);
        run::<bf16>(tokens, &others);
    }
}
