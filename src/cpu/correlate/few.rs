//! Few tokens: blocks of columns whose gradients become signs and scores while they are in registers.
//!
//! What tiles for many tokens pay beside their products, bits of trits and of signs, would be most of the time here. The operands
//! of all tokens are packed once; some rows at a time then pass over all columns, in the order of memory.

use std::ops::Range;

use crate::cpu::isa::backward::{BlockDigits, Fill, SCORE_COLUMNS, SCORE_PIECES, Scores, Word};
use crate::cpu::isa::{Loop, Tier, prefetch_bytes, vectorise};
use crate::cpu::scratch::{Operand, Scratch};
use crate::cpu::threads;
use crate::trits::{GroupLayout, TernaryMatrix};

/// Columns of a group that are counted together; groups are whole numbers of them.
const PIECE: usize = SCORE_COLUMNS / SCORE_PIECES;
/// Rows that pass over all columns while their bytes stay in the L1 cache.
const ROWS: usize = 16;
/// Rows of a task.
const TASK_ROWS: usize = 64;
/// Most words of tokens: up to here faster than larger tiles on Zen 4, by a third at 24 and by some hundredths at 64, where those pay
/// for what is paid beside them.
const STEPS: usize = 64;
/// Most words of the packed inputs, half of the L2 caches that are common, and of the packed output gradients.
const RIGHT_WORDS: usize = 1 << 17;
const LEFT_WORDS: usize = 1 << 18;

/// Whether this is the way for so many words of tokens.
pub fn serves(matrix: TernaryMatrix<'_>, words: usize) -> bool {
    words <= STEPS && words * matrix.out_dim() <= LEFT_WORDS && matrix.layout().group_size().is_multiple_of(PIECE)
}

/// The scores of a few tokens whose gradients are neither -0 nor NaN; see [`super::correlate`].
pub fn correlate<W: Word + Operand, A: Fill<W>>(
    tier: Tier,
    kernels: &Scores<W>,
    x: &[A],
    dy: &[A],
    matrix: TernaryMatrix<'_>,
    score: &mut [f32],
) {
    let (in_dim, groups, out_dim) = (matrix.layout().in_dim(), matrix.layout().groups(), matrix.out_dim());
    let tokens = dy.len() / out_dim;
    let words = tokens.div_ceil(W::DEPTH);
    let left_stride = out_dim.next_multiple_of(ROWS);
    let columns = (RIGHT_WORDS / (words * SCORE_COLUMNS)).max(1) * SCORE_COLUMNS;
    log::debug!("correlate: few tokens, {columns} columns at a time, {} threads", threads::count());
    let right_len = words * columns.min(in_dim.next_multiple_of(SCORE_COLUMNS));
    let lengths = [words * left_stride, right_len, SCORE_COLUMNS];
    let mut memory = Scratch::new(lengths);
    let [left, right, line] = memory.cut().slices(lengths);
    vectorise(tier, PackLeft { dy, out_dim, tokens, left, stride: left_stride });
    let whole_groups = matrix.layout().group_size() == PIECE;
    if !whole_groups {
        score.fill(0.0);
    }
    for first in (0..in_dim).step_by(columns) {
        let columns = first..in_dim.min(first + columns);
        vectorise(tier, PackRight { kernels, x, in_dim, tokens, columns: columns.clone(), right: &mut *right, line: &mut *line });
        let (left, right) = (&*left, &*right);
        let blocks = blocks_of(kernels.digits, matrix.layout(), columns.clone());
        threads::for_each_block(score, TASK_ROWS * groups, x.len() * out_dim, |index, score| {
            let task_rows = index * TASK_ROWS..index * TASK_ROWS + score.len() / groups;
            for (start, score) in task_rows.clone().step_by(ROWS).zip(score.chunks_mut(ROWS * groups)) {
                let rows = start..start + score.len() / groups;
                for ((block, digits), right) in blocks.iter().zip(right.chunks_exact(words * SCORE_COLUMNS)) {
                    prefetch_bytes(matrix, block, rows.end..rows.end + ROWS);
                    if whole_groups {
                        (kernels.count)(
                            matrix,
                            rows.clone(),
                            digits,
                            &left[start..],
                            left_stride,
                            right,
                            &mut score[block.start / PIECE..],
                            groups,
                        );
                    } else {
                        let mut pieces = [0.0; ROWS * SCORE_PIECES];
                        (kernels.count)(matrix, rows.clone(), digits, &left[start..], left_stride, right, &mut pieces, SCORE_PIECES);
                        add_pieces(&pieces, block, matrix.layout().group_size(), score, groups);
                    }
                }
            }
        });
    }
}

/// The blocks of some columns and their digits.
fn blocks_of(
    digits: fn(GroupLayout, usize) -> BlockDigits,
    layout: GroupLayout,
    columns: Range<usize>,
) -> Vec<(Range<usize>, BlockDigits)> {
    let blocks = columns.clone().step_by(SCORE_COLUMNS).map(|first| first..columns.end.min(first + SCORE_COLUMNS));
    blocks.map(|block| (block.clone(), digits(layout, block.start))).collect()
}

/// Adds the counts of the pieces of some columns to the scores of their groups.
fn add_pieces(pieces: &[f32], columns: &Range<usize>, group_size: usize, score: &mut [f32], groups: usize) {
    for (scores, pieces) in score.chunks_exact_mut(groups).zip(pieces.chunks_exact(SCORE_PIECES)) {
        for (column, piece) in columns.clone().step_by(PIECE).zip(pieces) {
            scores[column / group_size] += piece;
        }
    }
}

/// Words of the tokens of one word.
fn tokens_of<W: Word, A>(values: &[A], dim: usize, tokens: usize, word: usize, columns: Range<usize>) -> [Option<&[A]>; 2] {
    [word * W::DEPTH, word * W::DEPTH + 1].map(|token| (token < tokens).then(|| &values[token * dim..][columns.clone()]))
}

/// Packs output gradients `[words][stride]`, with zeros after the last row.
struct PackLeft<'a, W, A> {
    dy: &'a [A],
    out_dim: usize,
    tokens: usize,
    left: &'a mut [W],
    stride: usize,
}

impl<W: Word, A: Fill<W>> Loop for PackLeft<'_, W, A> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (word, line) in self.left.chunks_exact_mut(self.stride).enumerate() {
            let (line, rest) = line.split_at_mut(self.out_dim);
            A::fill_across(tokens_of::<W, A>(self.dy, self.out_dim, self.tokens, word, 0..self.out_dim), line);
            rest.fill(W::default());
        }
    }
}

/// Packs inputs into panels of [`SCORE_COLUMNS`] in the order of the kernel, with zeros after the last column.
struct PackRight<'a, W: 'static, A> {
    kernels: &'a Scores<W>,
    x: &'a [A],
    in_dim: usize,
    tokens: usize,
    columns: Range<usize>,
    right: &'a mut [W],
    line: &'a mut [W],
}

impl<W: Word, A: Fill<W>> Loop for PackRight<'_, W, A> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        /// Words that are neighbours in both orders, and runs of them in 64 words.
        const RUN: usize = 4;
        const RUNS: usize = 16;
        let Self { kernels, x, in_dim, tokens, columns, right, line } = self;
        let words = tokens.div_ceil(W::DEPTH);
        let mut orders = [[0; RUNS]; SCORE_COLUMNS / (RUN * RUNS)];
        for (quarter, order) in orders.iter_mut().enumerate() {
            for (run, column) in order.iter_mut().enumerate() {
                *column = (kernels.column_of)(quarter, run * RUN);
            }
        }
        for (first, right) in columns.clone().step_by(SCORE_COLUMNS).zip(right.chunks_exact_mut(words * SCORE_COLUMNS)) {
            let block = first..columns.end.min(first + SCORE_COLUMNS);
            for word in 0..words {
                line[block.len()..].fill(W::default());
                A::fill_across(tokens_of::<W, A>(x, in_dim, tokens, word, block.clone()), &mut line[..block.len()]);
                for (order, right) in orders.iter().zip(right.chunks_exact_mut(words * RUN * RUNS)) {
                    let right = &mut right[word * RUN * RUNS..][..RUN * RUNS];
                    for (to, &column) in right.as_chunks_mut::<RUN>().0.iter_mut().zip(order) {
                        to.copy_from_slice(&line[column..column + RUN]);
                    }
                }
            }
        }
    }
}
