//! `y = x (S T)^t` against the multiply-add peak of the same run and, with the feature `peers`, the dense product of `gemm`.

mod common;

use common::{Problem, fma_peak, report, time, token_counts};
use half::{bf16, f16};
use ternax::cpu;
use ternax::float::Activation;

fn run<A: Activation>(tokens: usize, in_dim: usize, out_dim: usize, group_size: usize, peak: f64) {
    let problem = Problem::<A>::new(tokens, in_dim, out_dim, group_size);
    let mut y = vec![A::default(); tokens * out_dim];
    let times = time(|| cpu::matmul(&problem.x, problem.matrix(), &problem.scale, &mut y));
    report(&format!("matmul {} {tokens}x{in_dim}x{out_dim} group {group_size}", A::NAME), problem.operations(), peak, times);
}

/// The dense product of the `gemm` crate, with the layout in which it is fastest.
#[cfg(feature = "peers")]
fn run_dense(tokens: usize, size: usize, peak: f64) {
    let parallelism = match cpu::threads::count() {
        1 => gemm::Parallelism::None,
        count => gemm::Parallelism::Rayon(count),
    };
    let (x, w, mut y) = (vec![0.5f32; tokens * size], vec![0.5f32; size * size], vec![0f32; tokens * size]);
    let stride = size as isize;
    let times = time(|| {
        // SAFETY: the three matrices are row-major with the dimensions passed.
        unsafe {
            let (y, x, w) = (y.as_mut_ptr(), x.as_ptr(), w.as_ptr());
            gemm::gemm(tokens, size, size, y, 1, stride, false, x, 1, stride, w, 1, stride, 0.0, 1.0, false, false, false, parallelism);
        }
    });
    report(&format!("gemm float32 {tokens}x{size}x{size} dense"), 2.0 * (tokens * size * size) as f64, peak, times);
}

fn main() {
    let peak = fma_peak();
    println!("multiply-add peak of one thread: {:.1} GFLOP/s, {} threads", peak / 1e9, cpu::threads::count());
    for tokens in token_counts() {
        run::<f32>(tokens, 4096, 4096, 32, peak);
        run::<bf16>(tokens, 4096, 4096, 32, peak);
        run::<f16>(tokens, 4096, 4096, 32, peak);
        #[cfg(feature = "peers")]
        run_dense(tokens, 4096, peak);
    }
    for group_size in [1, 7, 8, 16, 24, 40, 64, 80, 100, 128, 256] {
        run::<f32>(1, 4096, 4096, group_size, peak);
        run::<f32>(128, 4096, 4096, group_size, peak);
    }
    for (tokens, in_dim, out_dim) in [(8, 64, 64), (32, 256, 256), (128, 4099, 4097), (333, 1000, 4096), (17, 4096, 4096)] {
        run::<f32>(tokens, in_dim, out_dim, 32, peak);
    }
}
