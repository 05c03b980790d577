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
#[inline(always)]
pub fn operands<T: Operand, const N: usize, R>(lengths: [usize; N], body: impl FnOnce([&mut [T]; N]) -> R) -> R {
    with(T::memory(), lengths, body)
}

/// Calls `body` with memory for `len` sums, whose contents are anything.
#[inline(always)]
pub fn sums<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    with(&SUMS, [len], |[sums]| body(sums))
}

/// Lends slices of a memory, each on a cache line of its own.
#[inline(always)]
fn with<T: Copy + Default, const N: usize, R>(key: &'static Memory<T>, lengths: [usize; N], body: impl FnOnce([&mut [T]; N]) -> R) -> R {
    body(Scratch(key, key.take()).slices(lengths))
}

/// Memory taken from this thread until it is dropped. In a loop that must become part of its caller, whose vector instructions
/// it needs, this serves where a closure does not.
pub struct Scratch<T: 'static>(&'static Memory<T>, Vec<T>);

impl<T: Operand> Scratch<T> {
    /// Memory for operands.
    pub fn operands() -> Self {
        Self(T::memory(), T::memory().take())
    }
}

impl Scratch<f32> {
    /// Memory for sums.
    pub fn sums() -> Self {
        Self(&SUMS, SUMS.take())
    }
}

impl<T: Copy + Default> Scratch<T> {
    /// Slices of the lengths asked for, each on a cache line of its own, whose contents are anything.
    #[inline(always)]
    pub fn slices<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [T]; N] {
        let memory = &mut self.1;
        let wanted = lengths.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>() + LINE;
        if memory.len() < wanted {
            memory.resize(wanted, T::default());
        }
        let skip = memory.as_ptr().align_offset(LINE * size_of::<T>());
        let mut rest = &mut memory[skip..];
        lengths.map(|len| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
            rest = after;
            &mut slice[..len]
        })
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        // A thread that ends may have given up its memory already.
        let _ = self.0.try_with(|memory| memory.replace(std::mem::take(&mut self.1)));
    }
}
