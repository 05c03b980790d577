//! Activations into the operands of tiles.

use std::ops::Range;

use crate::cpu::isa::backward::{Fill, STEP_STRIDE, Word};
use crate::cpu::isa::prefetch;

/// Words of tokens that are copied into a left operand together: its panels lie in more pages than a processor remembers.
const LINES: usize = 4;
/// Words of tokens that are fetched ahead while one is packed.
const AHEAD: usize = 4;

/// Activations `[tokens, dim]` that are packed into operands.
#[derive(Clone, Copy)]
pub struct Source<'a, A> {
    /// The activations.
    pub values: &'a [A],
    /// Columns.
    pub dim: usize,
    /// Rows.
    pub tokens: usize,
}

impl<A> Source<'_, A> {
    /// Copies some columns of some words of tokens into panels of `width` columns.
    #[inline(always)]
    pub fn pack_right<W: Word>(&self, words: Range<usize>, columns: &Range<usize>, width: usize, right: &mut [W], stride: usize)
    where
        A: Fill<W>,
    {
        match width {
            32 => self.pack_panels::<W, 32>(words, columns, right, stride),
            16 => self.pack_panels::<W, 16>(words, columns, right, stride),
            8 => self.pack_panels::<W, 8>(words, columns, right, stride),
            _ => unreachable!("tiles have 8, 16 or 32 columns"),
        }
    }

    #[inline(always)]
    fn pack_panels<W: Word, const WIDTH: usize>(&self, words: Range<usize>, columns: &Range<usize>, right: &mut [W], stride: usize)
    where
        A: Fill<W>,
    {
        let mut line = vec![W::default(); columns.len().next_multiple_of(WIDTH)];
        for (step, word) in words.enumerate() {
            self.fill_line(word, columns, &mut line);
            for (panel, words) in line.as_chunks::<WIDTH>().0.iter().enumerate() {
                right[panel * stride + step * WIDTH..][..WIDTH].copy_from_slice(words);
            }
        }
    }

    /// Copies some columns of some words of tokens, rows of `dW`, into left operands that begin with the given ones of them.
    #[inline(always)]
    pub fn pack_left<W: Word>(&self, words: Range<usize>, columns: &Range<usize>, panels: &[Range<usize>], left: &mut [W], stride: usize)
    where
        A: Fill<W>,
    {
        let length = columns.len() + STEP_STRIDE;
        let mut lines = vec![W::default(); LINES * length];
        for first in words.clone().step_by(LINES) {
            let count = LINES.min(words.end - first);
            for (word, line) in (first..).zip(lines.chunks_exact_mut(length)).take(count) {
                self.fill_line(word, columns, line);
            }
            for (range, left) in panels.iter().zip(left.chunks_mut(stride)) {
                let left = &mut left[(first - words.start) * STEP_STRIDE..][..count * STEP_STRIDE];
                for (words, line) in left.as_chunks_mut::<STEP_STRIDE>().0.iter_mut().zip(lines.chunks_exact(length)) {
                    words.copy_from_slice(&line[range.start..][..STEP_STRIDE]);
                }
            }
        }
    }

    /// Some columns of a word of tokens in one run, and those of a later one fetched.
    #[inline(always)]
    fn fill_line<W: Word>(&self, word: usize, columns: &Range<usize>, line: &mut [W])
    where
        A: Fill<W>,
    {
        let rows = |word: usize| {
            [word * W::DEPTH, word * W::DEPTH + 1]
                .map(|token| (token < self.tokens).then(|| &self.values[token * self.dim..][columns.clone()]))
        };
        rows(word + AHEAD)[..W::DEPTH].iter().flatten().for_each(|row| prefetch(row));
        A::fill_across(rows(word), &mut line[..columns.len()]);
    }
}
