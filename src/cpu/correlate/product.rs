//! Many tokens: the dense product on register tiles that end in signs.
//!
//! A task keeps the output gradients of its rows packed while it walks over the columns; for each block of columns it packs the
//! inputs, makes the signs of all tiles, and counts.

use std::ops::Range;

use super::counts::{Counter, whole_groups};
use crate::cpu::isa::backward::{BIT_COLUMNS, Backward, Fill, Order, Product, STEP_STRIDE, SignBits, TritBits, Word};
use crate::cpu::isa::{Loop, prefetch, vectorise};
use crate::cpu::scratch::{Operand, Scratch};
use crate::cpu::threads;
use crate::cpu::tiling::{Tile, balanced, tiles, wanted_tasks};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Most words of tokens that are summed without putting sums down.
const STEPS: usize = 1024;
/// Words of tokens of one chunk where there are more.
const CHUNK: usize = 256;
/// Most words of the packed inputs, and of the packed output gradients: 2 MiB each.
const OPERAND_WORDS: usize = 1 << 19;
/// Fewest panels of output gradients that are worth packing inputs for.
const PANELS: usize = 8;
/// Words between panels beyond their length, so that panels spread over the sets of a cache.
const PANEL_GAP: usize = 16;

/// Words of tokens that are fetched ahead while one is packed.
const AHEAD: usize = 4;

/// How a problem is cut.
struct Plan {
    /// Words of tokens that are summed without putting sums down.
    chunk: usize,
    /// Rows of a task.
    rows: usize,
    /// Groups of a task.
    groups: usize,
    /// Columns whose inputs are packed at a time.
    columns: usize,
}

impl Plan {
    fn new<W>(product: &Product<W>, layout: GroupLayout, out_dim: usize, words: usize) -> Self {
        let chunk = if words <= STEPS { words } else { CHUNK };
        let most = OPERAND_WORDS / (chunk * STEP_STRIDE);
        let wanted = out_dim.div_ceil(wanted_tasks()).div_ceil(product.rows);
        let rows = wanted.max(PANELS).min(most) * product.rows;
        let tasks = out_dim.div_ceil(rows);
        let groups = if tasks >= wanted_tasks() { layout.groups() } else { layout.groups().div_ceil(wanted_tasks().div_ceil(tasks)) };
        let columns = if chunk * BIT_COLUMNS <= OPERAND_WORDS { BIT_COLUMNS } else { BIT_COLUMNS / 2 };
        Self { chunk, rows, groups, columns }
    }
}

/// The scores by products of words of one type; see [`super::correlate`].
pub fn correlate<W: Word + Operand, A: Fill<W>>(
    kernels: &Backward,
    product: &Product<W>,
    x: &[A],
    dy: &[A],
    matrix: TernaryMatrix<'_>,
    score: &mut [f32],
) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = dy.len() / out_dim;
    let plan = Plan::new(product, layout, out_dim, tokens.div_ceil(W::DEPTH));
    let mut tasks = tiles(score, layout.groups(), plan.rows, plan.groups);
    log::debug!("correlate: {}, {} tasks of up to {} rows, {} threads", product.name, tasks.len(), plan.rows, threads::count());
    threads::for_each_block(&mut tasks, 1, x.len() * out_dim, |_, tasks| {
        for task in tasks {
            vectorise(kernels.tier, Task { kernels, product, plan: &plan, x, dy, tokens, matrix, task });
        }
    });
}

/// The scores of some rows and some groups.
struct Task<'a, 'b, W: 'static, A> {
    kernels: &'a Backward,
    product: &'a Product<W>,
    plan: &'a Plan,
    x: &'a [A],
    dy: &'a [A],
    tokens: usize,
    matrix: TernaryMatrix<'a>,
    task: &'a mut Tile<'b, f32>,
}

impl<W: Word + Operand, A: Fill<W>> Loop for Task<'_, '_, W, A> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { kernels, product, plan, x, dy, tokens, matrix, task } = self;
        let (layout, width, rows) = (matrix.layout(), product.columns, task.rows.clone());
        let columns = columns_of(layout, &task.columns);
        let words = tokens.div_ceil(W::DEPTH);
        let (chunk, slices) = (plan.chunk, columns.len().min(plan.columns).div_ceil(width));
        let x = Source { values: x, dim: layout.in_dim(), tokens };
        let dy = Source { values: dy, dim: matrix.out_dim(), tokens };
        let left_stride = chunk * STEP_STRIDE + PANEL_GAP;
        let right_stride = chunk * width + PANEL_GAP;
        let sums_len = if words > chunk { slices * rows.len() * width } else { 0 };
        let mut trits = vec![TritBits::default(); rows.len()];
        let mut signs = vec![SignBits::default(); rows.len()];
        if !whole_groups(layout, plan.columns) {
            task.pieces.iter_mut().for_each(|scores| scores.fill(0.0));
        }
        let (mut operands, mut sums) = (Scratch::operands(), Scratch::sums());
        let [left, right] = operands.slices([rows.len().div_ceil(product.rows) * left_stride, slices * right_stride]);
        let [sums] = sums.slices([sums_len]);
        for first in columns.clone().step_by(plan.columns) {
            let block = first..columns.end.min(first + plan.columns);
            (kernels.trit_bits)(matrix, rows.clone(), block.clone(), &mut trits);
            for start in (0..words).step_by(chunk) {
                let chunk = start..words.min(start + chunk);
                let (resume, last) = (start > 0, chunk.end == words);
                x.pack_right(chunk.clone(), &block, width, right, right_stride);
                if words > plan.chunk || first == columns.start {
                    dy.pack_left(chunk.clone(), &rows, product.rows, left, left_stride);
                }
                for (slice, right) in right.chunks(right_stride).take(block.len().div_ceil(width)).enumerate() {
                    let right = &right[..chunk.len() * width];
                    for (panel, panel_rows) in balanced(rows.len(), product.rows).enumerate() {
                        let (left, count) = (&left[panel * left_stride..], panel_rows.len());
                        let at = (slice * rows.len() + panel_rows.start) * width;
                        if last {
                            let start = if resume { Some(&sums[at..][..count * width]) } else { None };
                            (product.signs)(count, left, right, start, &mut signs[panel_rows], slice * width);
                        } else {
                            (product.multiply)(count, left, Order::Steps, right, &mut sums[at..][..count * width], resume);
                        }
                    }
                }
            }
            let counter = Counter::new(layout, plan.columns, block);
            for ((trits, signs), scores) in trits.iter().zip(&signs).zip(&mut task.pieces) {
                counter.count(trits, signs, scores, task.columns.start);
            }
        }
    }
}

/// The columns of some groups.
fn columns_of(layout: GroupLayout, groups: &Range<usize>) -> Range<usize> {
    groups.start * layout.group_size()..layout.in_dim().min(groups.end.saturating_mul(layout.group_size()))
}

/// Activations `[tokens, dim]` that are packed into operands.
#[derive(Clone, Copy)]
struct Source<'a, A> {
    values: &'a [A],
    dim: usize,
    tokens: usize,
}

impl<A> Source<'_, A> {
    /// Copies some columns of some words of tokens into panels of `width` columns.
    #[inline(always)]
    fn pack_right<W: Word>(&self, words: Range<usize>, columns: &Range<usize>, width: usize, right: &mut [W], stride: usize)
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

    /// Copies some columns of some words of tokens, rows of `dW`, into left operands of at most `most` of them.
    #[inline(always)]
    fn pack_left<W: Word>(&self, words: Range<usize>, columns: &Range<usize>, most: usize, left: &mut [W], stride: usize)
    where
        A: Fill<W>,
    {
        let mut line = vec![W::default(); columns.len() + STEP_STRIDE];
        for (step, word) in words.enumerate() {
            self.fill_line(word, columns, &mut line);
            for (panel, range) in balanced(columns.len(), most).enumerate() {
                let words = &line[range.start..][..STEP_STRIDE];
                left[panel * stride + step * STEP_STRIDE..][..STEP_STRIDE].copy_from_slice(words);
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
