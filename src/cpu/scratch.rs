//! Memory that a thread keeps between calls, so that a kernel call allocates nothing after the first.

use std::cell::RefCell;
use std::thread::LocalKey;

/// Elements of a cache line; all elements have 4 bytes.
const LINE: usize = 16;

type Memory<T> = LocalKey<RefCell<Vec<T>>>;

/// A type that the operands of a product are made of.
pub trait Operand: Copy + Default + 'static {
    /// This thread's memory for operands of the type.
    fn memory() -> &'static Memory<Self>;
}

thread_local! {
    static FLOAT32: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static PAIRS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Operand for f32 {
    fn memory() -> &'static Memory<f32> {
        &FLOAT32
    }
}

impl Operand for u32 {
    fn memory() -> &'static Memory<u32> {
        &PAIRS
    }
}

/// Calls `body` with memory for operands of the lengths asked for, whose contents are anything.
///
/// # Panics
/// Where `body` asks for operands of the same type again.
pub fn operands<T: Operand, const N: usize, R>(lengths: [usize; N], body: impl FnOnce([&mut [T]; N]) -> R) -> R {
    with(T::memory(), lengths, body)
}

/// Calls `body` with memory for `len` sums, whose contents are anything.
///
/// # Panics
/// Where `body` asks for sums again.
pub fn sums<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    with(&SUMS, [len], |[sums]| body(sums))
}

/// Lends slices of a memory, each on a cache line of its own.
fn with<T: Copy + Default, const N: usize, R>(memory: &'static Memory<T>, lengths: [usize; N], body: impl FnOnce([&mut [T]; N]) -> R) -> R {
    memory.with_borrow_mut(|memory| {
        let wanted = lengths.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
        if memory.len() < wanted {
            memory.resize(wanted, T::default());
        }
        let skip = memory.as_ptr().align_offset(LINE * size_of::<T>());
        let mut rest = &mut memory[skip..];
        body(lengths.map(|len| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
            rest = after;
            &mut slice[..len]
        }))
    })
}
