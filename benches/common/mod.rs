//! What the kernel benchmarks share: problems, timing, and the peak of the same run.

#![allow(dead_code, unused_imports, reason = "every benchmark is a crate of its own and uses a part of this")]

mod peak;

use std::time::Instant;

pub use peak::{fma_chains, fma_peak};
use rustix::time::{ClockId, clock_gettime};
use ternax::cpu::threads;
use ternax::float::Activation;
use ternax::trits::{GroupLayout, TernaryMatrix, pack_row};

/// Seconds that one measurement may take.
const BUDGET: f64 = 0.1;

/// Seconds of processor that this thread has used: other programs on the machine do not count.
fn thread_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// Seconds of one call: processor time on one thread, wall-clock time on more.
pub fn seconds_of(mut call: impl FnMut()) -> f64 {
    let (wall, processor) = (Instant::now(), thread_seconds());
    call();
    if threads::count() == 1 { thread_seconds() - processor } else { wall.elapsed().as_secs_f64() }
}

/// The least and the median time of one call in seconds, as [`seconds_of`] counts.
pub fn time(mut call: impl FnMut()) -> (f64, f64) {
    call();
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < 5 || (start.elapsed().as_secs_f64() < BUDGET && times.len() < 2000) {
        times.push(seconds_of(&mut call));
    }
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// What a measurement counts.
#[derive(Clone, Copy)]
pub enum Clock {
    /// Processor time of the calling thread: other programs on the machine do not count.
    Processor,
    Wall,
}

/// Median seconds of each call; they take turns for a while, each at least seven times, after one warm-up.
pub fn alternate<const N: usize>(clock: Clock, mut calls: [&mut dyn FnMut(); N]) -> [f64; N] {
    calls.iter_mut().for_each(|call| call());
    let (start, mut times) = (Instant::now(), [const { Vec::new() }; N]);
    while times[0].len() < 7 || (start.elapsed().as_secs_f64() < N as f64 * BUDGET && times[0].len() < 2000) {
        for (call, times) in calls.iter_mut().zip(&mut times) {
            let (wall, processor) = (Instant::now(), thread_seconds());
            call();
            times.push(match clock {
                Clock::Processor => thread_seconds() - processor,
                Clock::Wall => wall.elapsed().as_secs_f64(),
            });
        }
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

/// A problem with activations of one type.
pub struct Problem<A> {
    pub tokens: usize,
    pub in_dim: usize,
    pub out_dim: usize,
    layout: GroupLayout,
    packed: Vec<u8>,
    pub scale: Vec<f32>,
    pub x: Vec<A>,
    pub dy: Vec<A>,
}

impl<A: Activation> Problem<A> {
    pub fn new(tokens: usize, in_dim: usize, out_dim: usize, group_size: usize) -> Self {
        let layout = GroupLayout::new(in_dim, group_size).expect("a lawful shape");
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 40
        };
        let mut packed = vec![0; out_dim * layout.row_bytes()];
        for bytes in packed.chunks_exact_mut(layout.row_bytes()) {
            let trits: Vec<i8> = (0..in_dim).map(|_| (random() % 3) as i8 - 1).collect();
            pack_row(&trits, layout, bytes);
        }
        let scale = (0..out_dim * layout.groups()).map(|_| 2f32.powi((random() % 8) as i32 - 8)).collect();
        let mut activations = |count| (0..count).map(|_| A::from_f32(random() as f32 / (1 << 23) as f32 - 1.0)).collect();
        let (x, dy) = (activations(tokens * in_dim), activations(tokens * out_dim));
        Self { tokens, in_dim, out_dim, layout, packed, scale, x, dy }
    }

    pub fn matrix(&self) -> TernaryMatrix<'_> {
        TernaryMatrix::new(&self.packed, self.out_dim, self.layout)
    }

    pub fn groups(&self) -> usize {
        self.out_dim * self.layout.groups()
    }

    /// Multiplications and additions of one product.
    pub fn operations(&self) -> f64 {
        2.0 * (self.tokens * self.in_dim * self.out_dim) as f64
    }
}

/// Prints one row: times, GFLOP/s, and the share of the peak of all threads.
pub fn report(name: &str, operations: f64, peak: f64, (least, median): (f64, f64)) {
    let (rate, share) = (operations / least / 1e9, operations / least / peak / threads::count() as f64);
    println!("{name:<48} {:9.3} ms (median {:9.3}) {rate:8.1} GFLOP/s {share:6.3} of peak", least * 1e3, median * 1e3);
}

/// The token counts asked for on the command line, or those of the target table.
pub fn token_counts() -> Vec<usize> {
    let asked: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    if asked.is_empty() { vec![1, 2, 4, 8, 16, 32, 128, 512, 2048] } else { asked }
}
