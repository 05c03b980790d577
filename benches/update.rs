//! The operations on the state: bytes that each must move, against the rate at which this machine copies memory in the same run.

mod common;

use common::{Problem, time};
use ternax::cpu;
use ternax::scale::split_limbs;

/// Bytes of the copy that stands for the machine: more than its caches hold.
const COPY: usize = 1 << 27;

fn report(name: &str, bytes: usize, copies_per_second: f64, (least, median): (f64, f64)) {
    let rate = bytes as f64 / least;
    let (least, median) = (least * 1e3, median * 1e3);
    println!("{name:<28} {least:9.3} ms (median {median:9.3}) {:7.2} GB/s {:6.2} of a copy", rate / 1e9, rate / copies_per_second);
}

fn main() {
    let (from, mut to) = (vec![1u8; COPY], vec![0u8; COPY]);
    let (least, _) = time(|| to.copy_from_slice(&from));
    let copies = 2.0 * COPY as f64 / least;
    println!("a copy reads and writes {:.1} GB/s on one thread, {} threads", copies / 1e9, cpu::threads::count());
    for (size, group_size) in [(4096, 32), (4096, 128), (1024, 32)] {
        let problem = Problem::<f32>::new(1, size, size, group_size);
        let (matrix, groups, weights) = (problem.matrix(), problem.groups(), size * size);
        let name = |what: &str| format!("{what} {size}x{size} group {group_size}");
        let exponent = vec![-3i8; groups];
        let (mut corr, score) = (vec![5i32; 2 * groups], vec![3f32; groups]);
        let mut scale = vec![0f32; groups];
        let times = time(|| cpu::scale(&exponent, &corr, split_limbs(1000), group_size, 4.0, &mut scale));
        report(&name("scale"), groups * 13, copies, times);
        let times = time(|| cpu::accumulate::check(&score, 1.0, group_size, None).expect("honest scores"));
        report(&name("check"), groups * 4, copies, times);
        let mut step = split_limbs(1000);
        let times = time(|| cpu::accumulate(&mut corr, &mut step, &score, 1.0));
        report(&name("accumulate"), groups * 20, copies, times);
        let mut trits = vec![0i8; weights];
        let times = time(|| cpu::unpack(matrix, &mut trits).expect("packed trits"));
        report(&name("unpack"), weights + matrix.bytes().len(), copies, times);
        let mut packed = vec![0u8; matrix.bytes().len()];
        let times = time(|| cpu::pack(&trits, matrix.layout(), &mut packed).expect("trits"));
        report(&name("pack"), weights + packed.len(), copies, times);
        let mut dense = vec![0f32; weights];
        let times = time(|| cpu::dequantize(matrix, &problem.scale, &mut dense));
        report(&name("dequantize"), 4 * weights + matrix.bytes().len(), copies, times);
    }
}
