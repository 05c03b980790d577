//! Memory that outlives a call, so that a kernel call allocates nothing after the first.
//!
//! All kernels, types and threads share it. Who calls a kernel is XLA's choice and changes from call to call, so that blocks
//! belong to nobody: there are as many as were ever in use at one time, which is one for each thread that computes. A thread gets the
//! block back that it had before, whose lines its caches hold, if that is idle and large enough.

use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::isa::Plain;

/// Words of a cache line.
const LINE: usize = 16;
/// What the words of a block are a multiple of, so that small calls share one.
const STEP: usize = 1 << 12;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Memory, and the thread that had it last.
struct Block {
    words: Vec<u32>,
    user: ThreadId,
}

/// The blocks of the process.
struct Pool {
    idle: Vec<Block>,
    /// Words that are in use.
    used: usize,
    /// The most words that were in use or idle at one time.
    most: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { idle: Vec::new(), used: 0, most: 0 }
    }

    /// `words` words or more for a thread, whose contents are anything: of the idle blocks that are large enough its own one or else
    /// the smallest, or else new memory in place of the largest block.
    fn take(&mut self, words: usize, user: ThreadId) -> Vec<u32> {
        let blocks = self.idle.iter().enumerate().map(|(at, block)| (block.user != user, block.words.len(), at));
        let fitting = blocks.clone().filter(|&(_, len, _)| len >= words).min();
        let memory = match fitting.or(blocks.max_by_key(|&(_, len, _)| len)) {
            Some((.., at)) => self.idle.swap_remove(at).words,
            None => Vec::new(),
        };
        let memory = if memory.len() >= words {
            memory
        } else {
            drop(memory);
            vec![0; words.next_multiple_of(STEP)]
        };
        self.used += memory.len();
        self.most = self.most.max(self.used + self.idle.iter().map(|block| block.words.len()).sum::<usize>());
        memory
    }

    fn give(&mut self, words: Vec<u32>, user: ThreadId) {
        self.used -= words.len();
        self.idle.push(Block { words, user });
    }
}

fn pool<R>(body: impl FnOnce(&mut Pool) -> R) -> R {
    body(&mut POOL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The most bytes that this process has held for kernels at one time, in use or not.
pub fn most_bytes() -> usize {
    pool(|pool| pool.most * size_of::<u32>())
}

/// A type that the operands of a product are made of.
pub trait Operand: Plain {}

impl<T: Plain> Operand for T {}

/// A block of memory until it is dropped.
pub struct Scratch(Vec<u32>);

impl Scratch {
    /// Memory for slices of the lengths given, in any order and of any types.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        let words: usize = lengths.into_iter().map(|len| len.next_multiple_of(LINE)).sum();
        Self(pool(|pool| pool.take(words + LINE, thread::current().id())))
    }

    /// The memory, to be cut into slices.
    #[inline(always)]
    pub fn cut(&mut self) -> Cut<'_> {
        let skip = self.0.as_ptr().align_offset(LINE * size_of::<u32>());
        Cut { rest: &mut self.0[skip..] }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let words = std::mem::take(&mut self.0);
        pool(|pool| pool.give(words, thread::current().id()));
    }
}

/// What is left of a block.
pub struct Cut<'a> {
    rest: &'a mut [u32],
}

impl<'a> Cut<'a> {
    /// Slices of the lengths given, each on a cache line of its own, whose contents are anything.
    ///
    /// # Panics
    /// Where the block was not made for them.
    #[inline(always)]
    pub fn slices<T: Operand, const N: usize>(&mut self, lengths: [usize; N]) -> [&'a mut [T]; N] {
        lengths.map(|len| {
            let (slice, rest) = std::mem::take(&mut self.rest).split_at_mut(len.next_multiple_of(LINE));
            self.rest = rest;
            &mut T::of(slice)[..len]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_several_types_lie_on_lines_and_apart() {
        let mut scratch = Scratch::new([100, 33, 7]);
        let mut cut = scratch.cut();
        let [left, right] = cut.slices::<u32, 2>([100, 33]);
        let [sums] = cut.slices::<f32, 1>([7]);
        assert_eq!((left.len(), right.len(), sums.len()), (100, 33, 7));
        for address in [left.as_ptr().addr(), right.as_ptr().addr(), sums.as_ptr().addr()] {
            assert!(address.is_multiple_of(64));
        }
        left.fill(1);
        right.fill(2);
        sums.fill(3.0);
        assert!(left.iter().all(|&word| word == 1) && right.iter().all(|&word| word == 2));
    }

    #[test]
    fn there_are_never_more_blocks_than_were_in_use_at_one_time() {
        let (mut pool, user) = (Pool::new(), thread::current().id());
        let (small, large) = (pool.take(10, user), pool.take(3 * STEP, user));
        assert_eq!((small.len(), large.len(), pool.most), (STEP, 3 * STEP, 4 * STEP));
        pool.give(large, user);
        pool.give(small, user);
        let again = pool.take(2 * STEP, user);
        assert_eq!((again.len(), pool.idle.len()), (3 * STEP, 1), "the one that is large enough");
        let grown = pool.take(2 * STEP + 1, user);
        assert_eq!((grown.len(), pool.idle.len()), (3 * STEP, 0), "the other one makes room");
        pool.give(again, user);
        pool.give(grown, user);
        assert_eq!((pool.take(STEP, user).len(), pool.used, pool.most), (3 * STEP, 3 * STEP, 6 * STEP));
    }

    #[test]
    fn a_thread_gets_the_block_that_it_had() {
        let (mut pool, here) = (Pool::new(), thread::current().id());
        let there = thread::spawn(|| thread::current().id()).join().expect("a thread that ends");
        let blocks = [here, there, here].map(|user| (pool.take(2 * STEP, user), user));
        let theirs = blocks[1].0.as_ptr();
        for (words, user) in blocks {
            pool.give(words, user);
        }
        let (first, second) = (pool.take(STEP, there), pool.take(STEP, there));
        assert_eq!(first.as_ptr(), theirs);
        assert_ne!(second.as_ptr(), theirs);
    }
}
