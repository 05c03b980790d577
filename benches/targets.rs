//! The targets that only the kernels can show, each with what it must reach beside it, and a sweep over the number of tokens.
//!
//! Contenders take turns; on one thread they are timed by its processor time, on two by the clock. Prints a table and writes
//! `out/bench-kernels.json`, from which `python/benchmarks/roofline.py` draws `benches/roofline.png`. `-- peak dense bfloat16 threads`
//! or some of these words prints those rows alone.

mod common;

use std::path::Path;

use common::{Clock, Problem, alternate, fma_chains};
use half::bf16;
use serde_json::{Value, json};
use ternax::cpu::{self, threads};
use ternax::float::Activation;

const SIZE: usize = 4096;
const GROUP_SIZE: usize = 32;
const MANY_TOKENS: [usize; 3] = [128, 512, 2048];
const KERNELS: [&str; 3] = ["forward", "dx", "correlation"];

/// A measured figure with what it must reach and what it aims at.
struct Row {
    what: String,
    measure: &'static str,
    reached: f64,
    must: f64,
    aim: f64,
}

impl Row {
    fn print(&self) {
        let Self { what, measure, reached, must, aim } = self;
        let verdict = if reached >= must { "met" } else { "MISSED" };
        println!("| {what:<38} | {measure:<28} | {reached:>7.3} | {must:>5.2} | {aim:>5.2} | {verdict:<6} |");
    }

    fn json(&self) -> Value {
        json!({"what": self.what, "measure": self.measure, "reached": self.reached, "must": self.must, "aim": self.aim})
    }
}

/// A call of one kernel on a problem of its own.
fn call<A: Activation>(kernel: &str, tokens: usize, size: usize) -> Box<dyn FnMut()> {
    let problem = Problem::<A>::new(tokens, size, size, GROUP_SIZE);
    let mut product = vec![A::default(); tokens * size];
    let mut score = vec![0.0; problem.groups()];
    match kernel {
        "forward" => Box::new(move || cpu::matmul(&problem.x, problem.matrix(), &problem.scale, &mut product)),
        "dx" => Box::new(move || cpu::matmul_transposed(&problem.dy, problem.matrix(), &problem.scale, &mut product)),
        _ => Box::new(move || cpu::correlate(&problem.x, &problem.dy, problem.matrix(), &mut score)),
    }
}

fn operations(tokens: usize) -> f64 {
    2.0 * (tokens * SIZE * SIZE) as f64
}

/// dx and correlation as shares of the multiply-add peak.
fn shares_of_peak() -> Vec<Row> {
    let (mut chains, chain_operations) = fma_chains();
    let mut rows = Vec::new();
    for kernel in ["dx", "correlation"] {
        for tokens in MANY_TOKENS {
            let mut own = call::<f32>(kernel, tokens, SIZE);
            let [own, peak] = alternate(Clock::Processor, [&mut *own, &mut chains]);
            let reached = (operations(tokens) / own) / (chain_operations / peak);
            rows.push(Row { what: format!("{kernel}, {tokens} tokens"), measure: "share of the FMA peak", reached, must: 0.85, aim: 0.90 });
        }
    }
    rows
}

/// The forward product against the dense one of the `gemm` crate.
#[cfg(feature = "peers")]
fn forward_against_dense() -> Vec<Row> {
    let row = |tokens: usize| {
        let stride = SIZE as isize;
        let (x, w, mut y) = (vec![0.5f32; tokens * SIZE], vec![0.5f32; SIZE * SIZE], vec![0f32; tokens * SIZE]);
        let mut dense = || {
            // SAFETY: the three matrices are row-major with the dimensions passed.
            unsafe {
                let (y, x, w) = (y.as_mut_ptr(), x.as_ptr(), w.as_ptr());
                let one = gemm::Parallelism::None;
                gemm::gemm(tokens, SIZE, SIZE, y, 1, stride, false, x, 1, stride, w, 1, stride, 0.0, 1.0, false, false, false, one);
            }
        };
        let mut own = call::<f32>("forward", tokens, SIZE);
        let [own, dense] = alternate(Clock::Processor, [&mut *own, &mut dense]);
        Row { what: format!("forward, {tokens} tokens"), measure: "gemm crate / ternax", reached: dense / own, must: 1.75, aim: 2.2 }
    };
    MANY_TOKENS.into_iter().map(row).collect()
}

#[cfg(not(feature = "peers"))]
fn forward_against_dense() -> Vec<Row> {
    println!("the rows against the gemm crate need: cargo bench --bench targets --features peers");
    Vec::new()
}

/// bfloat16 activations against float32 ones.
fn bfloat16() -> Vec<Row> {
    let row = |kernel: &str, tokens: usize| {
        let [single, half] =
            alternate(Clock::Processor, [&mut *call::<f32>(kernel, tokens, SIZE), &mut *call::<bf16>(kernel, tokens, SIZE)]);
        let (must, aim) = if kernel == "forward" { (1.0, 1.0) } else { (1.6, 1.9) };
        Row { what: format!("{kernel} in bfloat16, {tokens} tokens"), measure: "float32 / bfloat16", reached: single / half, must, aim }
    };
    KERNELS.iter().flat_map(|kernel| [row(kernel, 1), row(kernel, 16), row(kernel, 512)]).collect()
}

/// Two threads against one.
fn two_threads() -> Vec<Row> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors < 2 {
        println!("the rows of two threads need two processors, here is {processors}");
        return Vec::new();
    }
    let ratio = |one: &mut dyn FnMut(), two: &mut dyn FnMut()| {
        let [one, two] = alternate(Clock::Wall, [&mut || threads::with_count(1, &mut *one), &mut || threads::with_count(2, &mut *two)]);
        one / two
    };
    let (chains, _) = fma_chains();
    let pieces = || threads::for_each(0..64, usize::MAX, |_| chains());
    println!("{:.2} times the multiply-adds on two threads, as other programs leave this machine\n", ratio(&mut &pieces, &mut &pieces));
    let row = |kernel: &str, tokens: usize| {
        let reached = ratio(&mut call::<f32>(kernel, tokens, SIZE), &mut call::<f32>(kernel, tokens, SIZE));
        Row { what: format!("{kernel}, {tokens} tokens"), measure: "one thread / two threads", reached, must: 1.9, aim: 1.95 }
    };
    KERNELS.iter().flat_map(|kernel| MANY_TOKENS.map(|tokens| row(kernel, tokens))).collect()
}

/// GFLOP/s of every kernel over the number of tokens.
fn sweep() -> Vec<Value> {
    let tokens = (1..=64).chain([96, 128, 192, 256, 333, 512, 1024, 2048]);
    let points = tokens.flat_map(|tokens| KERNELS.map(|kernel| (tokens, kernel)));
    let point = |(tokens, kernel)| {
        let [seconds] = alternate(Clock::Processor, [&mut *call::<f32>(kernel, tokens, SIZE)]);
        json!({"kernel": kernel, "tokens": tokens, "seconds": seconds, "gflops": operations(tokens) / seconds / 1e9})
    };
    points.map(point).collect()
}

fn main() {
    let (mut chains, chain_operations) = fma_chains();
    let peak = chain_operations / alternate(Clock::Processor, [&mut chains])[0] / 1e9;
    println!("FMA peak of one thread: {peak:.1} GFLOP/s; {SIZE} x {SIZE}, groups of {GROUP_SIZE}, one thread unless said\n");
    println!("| {:<38} | {:<28} | reached |  must |   aim |        |", "what", "measure");
    println!("|{:-<40}|{:-<30}|{:-<9}|{:-<7}|{:-<7}|{:-<8}|", "", "", "", "", "", "");
    let parts: [(&str, usize, fn() -> Vec<Row>); 4] =
        [("threads", 2, two_threads), ("peak", 1, shares_of_peak), ("dense", 1, forward_against_dense), ("bfloat16", 1, bfloat16)];
    let asked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|asked| asked == name);
    // The first call that needs helpers decides how many there are: two threads come first.
    let run = |(_, count, part): (&str, usize, fn() -> Vec<Row>)| threads::with_count(count, part);
    let rows: Vec<Row> = parts.into_iter().filter(|(name, ..)| wanted(name)).flat_map(run).collect();
    rows.iter().for_each(Row::print);
    if !asked.is_empty() {
        return;
    }
    let sweep = threads::with_count(1, sweep);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("out/bench-kernels.json");
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    let text = format!("{:#}\n", json!({"peak_gflops": peak, "rows": rows, "sweep": sweep}));
    std::fs::create_dir_all(path.parent().expect("a folder")).and_then(|()| std::fs::write(&path, text)).expect("out/ is writable");
    println!("\nwritten: out/bench-kernels.json");
}
