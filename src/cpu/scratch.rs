//! Memory that a thread keeps between calls, so that a kernel call allocates nothing after the first.
//!
//! All kernels and all types share it, and a thread holds [`LIMIT`] words at the most unless one call alone needs more, which none
//! does. Calls so large that together they would need more allocate again; that takes nothing beside their own time.

use std::cell::RefCell;
use std::marker::PhantomData;

use super::isa::Plain;

/// Words of a cache line.
const LINE: usize = 16;
/// Words that a thread holds at the most: 4 MiB.
const LIMIT: usize = 1 << 20;
/// Words that are taken at the least, so that small calls share their memory.
const LEAST: usize = 1 << 12;

/// The memory of a thread.
struct Memory {
    /// What nobody uses.
    idle: Vec<Vec<u32>>,
    /// Words that are in use.
    used: usize,
    /// The most words that were in use or idle at one time.
    most: usize,
}

thread_local! {
    static MEMORY: RefCell<Memory> = const { RefCell::new(Memory { idle: Vec::new(), used: 0, most: 0 }) };
}

impl Memory {
    /// `words` words or a few more, whose contents are anything: idle memory that fits closely, else new one. Were it to fit
    /// loosely, the memory in use might pass the limit.
    fn take(&mut self, words: usize) -> Vec<u32> {
        let words = words.max(LEAST);
        let memory = match self.idle.iter().position(|memory| (words..=words + words / 16).contains(&memory.len())) {
            Some(at) => self.idle.swap_remove(at),
            None => {
                self.shrink(LIMIT.saturating_sub(self.used + words));
                vec![0; words]
            }
        };
        self.used += memory.len();
        self.most = self.most.max(self.used + self.idle.iter().map(Vec::len).sum::<usize>());
        memory
    }

    /// Takes memory back.
    fn give(&mut self, memory: Vec<u32>) {
        self.used -= memory.len();
        self.idle.push(memory);
        self.shrink(LIMIT.saturating_sub(self.used));
    }

    /// Frees idle memory, the smallest first, until no more than so many words are idle.
    fn shrink(&mut self, most: usize) {
        self.idle.sort_unstable_by_key(|memory| std::cmp::Reverse(memory.len()));
        while self.idle.iter().map(Vec::len).sum::<usize>() > most {
            self.idle.pop();
        }
    }
}

/// The most bytes that this thread has held for kernels at one time, in use or not.
pub fn most_bytes() -> usize {
    MEMORY.with_borrow(|memory| memory.most * size_of::<u32>())
}

/// A type that the operands of a product are made of.
pub trait Operand: Plain {}

impl<T: Plain> Operand for T {}

/// Calls `body` with memory for operands of the lengths asked for, whose contents are anything.
#[inline(always)]
pub fn operands<T: Operand, const N: usize, R>(lengths: [usize; N], body: impl FnOnce([&mut [T]; N]) -> R) -> R {
    body(Scratch::operands().slices(lengths))
}

/// Calls `body` with memory for `len` sums, whose contents are anything.
#[inline(always)]
pub fn sums<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    operands([len], |[sums]| body(sums))
}

/// Memory taken from this thread until it is dropped. In a loop that must become part of its caller, whose vector instructions
/// it needs, this serves where a closure does not.
pub struct Scratch<T>(Vec<u32>, PhantomData<T>);

impl<T: Operand> Scratch<T> {
    /// Memory for operands.
    pub fn operands() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl Scratch<f32> {
    /// Memory for sums.
    pub fn sums() -> Self {
        Self::operands()
    }
}

impl<T: Operand> Scratch<T> {
    /// Slices of the lengths asked for, each on a cache line of its own, whose contents are anything.
    #[inline(always)]
    pub fn slices<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [T]; N] {
        let wanted = lengths.iter().map(|len| len.next_multiple_of(LINE)).sum::<usize>();
        if wanted == 0 {
            return lengths.map(|_| &mut [][..]);
        }
        self.hold(wanted + LINE);
        let skip = self.0.as_ptr().align_offset(LINE * size_of::<T>());
        let mut rest = T::of(&mut self.0[skip..]);
        lengths.map(|len| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(LINE));
            rest = after;
            &mut slice[..len]
        })
    }
}

impl<T> Scratch<T> {
    /// Takes `words` words or more.
    fn hold(&mut self, words: usize) {
        self.put_back();
        self.0 = MEMORY.with_borrow_mut(|memory| memory.take(words));
    }

    fn put_back(&mut self) {
        let words = std::mem::take(&mut self.0);
        if !words.is_empty() {
            // A thread that ends may have given up its memory already.
            let _ = MEMORY.try_with(|memory| memory.borrow_mut().give(words));
        }
    }
}

impl<T> Drop for Scratch<T> {
    fn drop(&mut self) {
        self.put_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle() -> Vec<usize> {
        MEMORY.with_borrow(|memory| memory.idle.iter().map(Vec::len).collect())
    }

    #[test]
    fn memory_of_one_type_serves_another_and_slices_lie_on_lines() {
        let first = operands([100, 33], |[left, right]: [&mut [u32]; 2]| {
            assert_eq!((left.len(), right.len()), (100, 33));
            assert!(left.as_ptr().addr().is_multiple_of(64) && right.as_ptr().addr().is_multiple_of(64));
            left.fill(u32::MAX);
            left.as_ptr().addr()
        });
        let again = sums(50, |sums| sums.as_ptr().addr());
        assert_eq!(first, again);
        assert_eq!(idle().len(), 1);
    }

    #[test]
    fn a_thread_never_holds_more_than_the_limit() {
        for words in [LIMIT / 2, LIMIT / 3, LIMIT / 4, 10, LIMIT / 2 + 100, LIMIT / 3] {
            sums(words, |_| operands([LIMIT / 5], |[operands]: [&mut [u32]; 1]| operands.fill(1)));
            assert!(most_bytes() <= 4 * LIMIT, "{words} words: {}", most_bytes());
        }
        assert!(idle().iter().sum::<usize>() <= LIMIT);
    }
}
