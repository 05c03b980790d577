//! Activations into the operands of tiles.

use std::ops::Range;

use crate::cpu::isa::backward::{Fill, STEP_STRIDE, Word};
use crate::cpu::isa::prefetch_later;

/// Words of tokens that are copied together: panels lie in more pages than a processor remembers.
const LINES: usize = 4;
/// Words of tokens by which those are ahead that are fetched while some are packed: short rows into the first cache, long ones, which
/// would drive each other out of it where rows lie powers of two apart, into the second.
const AHEAD: [usize; 2] = [4, 16];
/// Most bytes of a short row.
const SHORT: usize = 1 << 10;

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
        let panels = columns.len().div_ceil(WIDTH);
        for first in words.clone().step_by(LINES) {
            let lines = self.lines::<W>(first..words.end, columns);
            let right = right[(first - words.start) * WIDTH..].chunks_mut(stride).take(panels);
            lines.copy::<W, WIDTH>((0..).step_by(WIDTH).zip(right));
        }
    }

    /// Copies some columns of some words of tokens, rows of `dW`, into left operands that begin with the given ones of them.
    #[inline(always)]
    pub fn pack_left<W: Word>(&self, words: Range<usize>, columns: &Range<usize>, panels: &[Range<usize>], left: &mut [W], stride: usize)
    where
        A: Fill<W>,
    {
        for first in words.clone().step_by(LINES) {
            let lines = self.lines::<W>(first..words.end, columns);
            let left = left[(first - words.start) * STEP_STRIDE..].chunks_mut(stride);
            lines.copy::<W, STEP_STRIDE>(panels.iter().map(|range| range.start).zip(left));
        }
    }

    /// The first [`LINES`] of some words of tokens from the first of some columns on.
    #[inline(always)]
    fn lines<W: Word>(&self, words: Range<usize>, columns: &Range<usize>) -> Lines<'_, A> {
        let row = |token: usize| (token < self.tokens).then(|| &self.values[token * self.dim..][columns.start..self.dim]);
        let word = |word: usize| [0, 1].map(|half| if half < W::DEPTH { row(word * W::DEPTH + half) } else { None });
        let short = columns.len() * size_of::<A>() <= SHORT;
        let ahead = AHEAD[usize::from(!short)];
        // Not past the last word: to look for pages that are not there takes as long as to read them.
        let later = if words.len() >= ahead + LINES { ahead * W::DEPTH * self.dim } else { 0 };
        Lines { count: words.len().min(LINES), rows: std::array::from_fn(|line| word(words.start + line)), short, later }
    }
}

/// Some words of tokens from a column on.
struct Lines<'a, A> {
    count: usize,
    /// The rows of each word.
    rows: [[Option<&'a [A]>; 2]; LINES],
    /// Whether these are short rows.
    short: bool,
    /// How many values later those begin that are to be fetched meanwhile.
    later: usize,
}

impl<A> Lines<'_, A> {
    /// Copies `WIDTH` columns into each panel, from the column that comes with it on.
    #[inline(always)]
    fn copy<'b, W: Word, const WIDTH: usize>(&self, panels: impl Iterator<Item = (usize, &'b mut [W])>)
    where
        A: Fill<W>,
    {
        // The rows of words without gaps; where words have one row, it stands for both.
        let mut rows = [[&[][..]; 2]; LINES];
        let mut complete = self.count == LINES;
        for (rows, line) in rows.iter_mut().zip(&self.rows) {
            *rows = [line[0].unwrap_or_default(), line[W::DEPTH - 1].unwrap_or_default()];
            complete &= line[W::DEPTH - 1].is_some();
        }
        let rest = rows[0][0].len();
        for (column, panel) in panels {
            if complete && column + WIDTH <= rest {
                for (rows, to) in rows.iter().zip(&mut panel.as_chunks_mut::<WIDTH>().0[..LINES]) {
                    let pieces = rows.map(|row| row[column..].first_chunk::<WIDTH>().expect("a row with these columns"));
                    for piece in &pieces[..W::DEPTH] {
                        prefetch_later(piece, self.later, self.short);
                    }
                    // In registers first: nothing says that operands do not overlap.
                    let mut words = [W::default(); WIDTH];
                    A::fill_across(pieces.map(|piece| Some(piece.as_slice())), &mut words);
                    *to = words;
                }
            } else {
                for (rows, to) in self.rows[..self.count].iter().zip(panel.as_chunks_mut::<WIDTH>().0) {
                    let rows = rows.map(|row| row.map(|row| &row[column.min(row.len())..row.len().min(column + WIDTH)]));
                    let len = rows[0].map_or(0, |row| row.len());
                    A::fill_across(rows, &mut to[..len]);
                }
            }
        }
    }
}
