//! Time by the number of tokens, 1 to 64, of every kernel on every tier that `TERNAX_ISA` allows: no border between two ways of
//! computing may be a cliff.
//!
//! Prints where more tokens took less time by more than the scatter of this run, which is what the same call repeated shows.
//! Names of kernels on the command line choose among them, numbers are group sizes: `cargo bench --bench sweep -- forward dx 1 32`.

mod common;

use common::{Problem, time};
use ternax::cpu::{self, Tier, threads};

const TOKENS: usize = 64;
const IN_DIM: usize = 4096;
const OUT_DIM: usize = 1024;
/// Falls of the time that count as scatter.
const SCATTER: f64 = 0.05;

const KERNELS: [&str; 3] = ["forward", "dx", "correlation"];

/// Least seconds of one call of a kernel.
fn seconds(kernel: &str, problem: &Problem<f32>) -> f64 {
    let (mut y, mut dx) = (vec![0f32; problem.tokens * OUT_DIM], vec![0f32; problem.tokens * IN_DIM]);
    let mut score = vec![0f32; problem.groups()];
    let (least, _) = match kernel {
        "forward" => time(|| cpu::matmul(&problem.x, problem.matrix(), &problem.scale, &mut y)),
        "dx" => time(|| cpu::matmul_transposed(&problem.dy, problem.matrix(), &problem.scale, &mut dx)),
        _ => time(|| cpu::correlate(&problem.x, &problem.dy, problem.matrix(), &mut score)),
    };
    least
}

fn report(kernel: &str, times: &[f64]) {
    println!("\n{kernel}, ms for 1 to {TOKENS} tokens:");
    for row in times.chunks(16) {
        println!("  {}", row.iter().map(|time| format!("{time:6.3}")).collect::<Vec<_>>().join(" "));
    }
    // A fall is what a count takes beyond the least time of any larger one.
    let falls = (0..times.len()).filter_map(|at| {
        let later = times[at + 1..].iter().copied().fold(f64::INFINITY, f64::min);
        (times[at] > later * (1.0 + SCATTER)).then(|| format!("{} tokens take {:.3}, more of them {later:.3}", at + 1, times[at]))
    });
    let falls: Vec<_> = falls.collect();
    println!("  {}", if falls.is_empty() { "never falls".into() } else { falls.join("; ") });
    let steepest = (1..times.len()).max_by(|&a, &b| (times[a] / times[a - 1]).total_cmp(&(times[b] / times[b - 1])));
    if let Some(at) = steepest {
        println!("  steepest: {:.2} x from {at} to {} tokens", times[at] / times[at - 1], at + 1);
    }
}

fn main() {
    println!("{}, {IN_DIM} inputs, {OUT_DIM} outputs, {} threads", Tier::chosen().name(), threads::count());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut groups: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    if groups.is_empty() {
        groups.push(32);
    }
    let named = |kernel: &str| arguments.iter().any(|argument| argument == kernel);
    let all = !KERNELS.iter().any(|kernel| named(kernel));
    for kernel in KERNELS.into_iter().filter(|kernel| all || named(kernel)) {
        for &group_size in &groups {
            let times: Vec<f64> =
                (1..=TOKENS).map(|tokens| seconds(kernel, &Problem::new(tokens, IN_DIM, OUT_DIM, group_size)) * 1e3).collect();
            report(&format!("{kernel}, groups of {group_size}"), &times);
        }
    }
}
