//! The score of every group: how many signs of the weight gradient agree with the trits, less those that oppose them.
//!
//! `dW = dy^t x` is a dense product whose result is only ever looked at: a register tile of it, summed over the tokens, is
//! compared with the trits as bits, counted, and forgotten.

use std::ops::Range;

use half::bf16;

use super::isa::backward::{Agreement, Backward, Fill, Order, Product, STEP_STRIDE, TritMask, Word};
use super::isa::{Loop, Tier, vectorise};
use super::scratch::{self, Operand};
use super::threads;
use super::tiling::{Tile, balanced, tiles, wanted_tasks};
use crate::float::Activation;
use crate::trits::{GroupLayout, TernaryMatrix};

/// Most columns whose activations are packed at a time.
const COLUMNS: usize = 512;
/// Most rows whose output gradients are packed at a time.
const ROWS: usize = 256;
/// Most words of tokens that are summed without putting sums down.
const STEPS: usize = 1024;
/// Words of tokens of one chunk where there are more.
const CHUNK: usize = 512;
/// Words between panels beyond their length, so that panels spread over the sets of a cache.
const PANEL_GAP: usize = 16;

/// Gradients that one task of [`correlate_dense`] reads.
const DENSE_BLOCK: usize = 1 << 15;

/// `score[o, g] = sum over i in group g of sign(dW[o, i]) * T[o, i]` with `dW = dy^t x` summed in float32 over all tokens and
/// never stored (SPEC 17, 19, 20).
///
/// `x [tokens, in]`, `dy [tokens, out]`, `score [out, groups]`, all row-major. bfloat16 products are used where the signs they
/// give are those of float32 sums: see [`no_product_is_subnormal`].
pub fn correlate<A: Activation>(x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    correlate_on(Tier::chosen(), x, dy, matrix, score);
}

/// [`correlate`] on a tier of this machine.
pub fn correlate_on<A: Activation>(tier: Tier, x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    score.fill(0.0);
    if x.is_empty() || dy.is_empty() {
        return;
    }
    let kernels = Backward::of(tier);
    match (A::as_bf16(x), A::as_bf16(dy), kernels.bfloat16) {
        (Some(x), Some(dy), Some(product)) if no_product_is_subnormal(tier, x, dy) => run(&kernels, product, x, dy, matrix, score),
        _ => run(&kernels, kernels.float32, x, dy, matrix, score),
    }
}

/// Whether every product of a value of `x` and one of `dy`, and so every sum of them, is zero or a normal float32.
///
/// bfloat16 instructions take subnormal operands and results for zero, which would lose signs. Products are multiples of
/// `2^(e_x - 7) 2^(e_dy - 7)` for the least exponents, rounded sums too: enough that this is at least `2^-126`.
fn no_product_is_subnormal(tier: Tier, x: &[bf16], dy: &[bf16]) -> bool {
    /// Biased exponents of the factor 2^-126 / (2^-127 2^-127), and the 14 fraction bits of a product.
    const LEAST_SUM: u32 = 128 + 14;
    let [x, dy] = [x, dy].map(|values| vectorise(tier, LeastExponent(values)));
    x >= 1 && dy >= 1 && x + dy >= LEAST_SUM
}

/// The least biased exponent of the values that are not zero, 0 where a value is subnormal.
struct LeastExponent<'a>(&'a [bf16]);

impl Loop for LeastExponent<'_> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        // Zero wraps to the largest value.
        let least = self.0.iter().fold(u16::MAX, |least, value| least.min((value.to_bits() & 0x7FFF).wrapping_sub(1)));
        u32::from(least).saturating_add(1) >> 7
    }
}

fn run<W: Word + Operand, A: Fill<W>>(
    kernels: &Backward,
    product: &Product<W>,
    x: &[A],
    dy: &[A],
    matrix: TernaryMatrix<'_>,
    score: &mut [f32],
) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = dy.len() / out_dim;
    let group_block = (COLUMNS / layout.group_size()).max(1).min(layout.groups());
    let row_block = out_dim.div_ceil(wanted_tasks().div_ceil(layout.groups().div_ceil(group_block)));
    let work = x.len() * out_dim;
    let mut tasks = tiles(score, layout.groups(), row_block, group_block);
    log::debug!(
        "correlate: {}, {} tasks of up to {row_block} rows and {group_block} groups, {} threads",
        product.name,
        tasks.len(),
        threads::count()
    );
    threads::for_each_block(&mut tasks, 1, work, |_, tasks| {
        for task in tasks {
            vectorise(kernels.tier, Task { kernels, product, x, dy, tokens, matrix, task });
        }
    });
}

/// The scores of some rows and some groups.
struct Task<'a, 'b, W: 'static, A> {
    kernels: &'a Backward,
    product: &'a Product<W>,
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
        let Self { kernels, product, x, dy, tokens, matrix, task } = self;
        let (layout, out_dim, width) = (matrix.layout(), matrix.out_dim(), product.columns);
        let words = tokens.div_ceil(W::DEPTH);
        let chunk = if words <= STEPS { words } else { CHUNK };
        let (columns, rows) = (columns_of(layout, &task.columns), task.rows.clone());
        let slices = columns.len().min(COLUMNS).div_ceil(width);
        let panels = rows.len().min(ROWS).div_ceil(product.rows);
        let right_stride = chunk * width + PANEL_GAP;
        let left_stride = chunk * STEP_STRIDE + PANEL_GAP;
        let mut masks = vec![TritMask::default(); slices * rows.len().min(ROWS)];
        let sums_len = if words > chunk { slices * rows.len().min(ROWS) * width } else { product.rows * width };
        scratch::operands([panels * left_stride, slices * right_stride], |[left, right]| {
            scratch::sums(sums_len, |sums| {
                for columns in columns.clone().step_by(COLUMNS).map(|first| first..columns.end.min(first + COLUMNS)) {
                    let segments = Segments::new(layout, &columns, width, task.columns.start);
                    for block in balanced(rows.len(), ROWS) {
                        let block_rows = rows.start + block.start..rows.start + block.end;
                        (kernels.trit_masks)(
                            matrix,
                            block_rows.clone(),
                            columns.clone(),
                            width,
                            &mut masks[..columns.len().div_ceil(width) * block.len()],
                        );
                        for first in (0..words).step_by(chunk) {
                            let steps = chunk.min(words - first);
                            let (resume, last) = (first > 0, first + steps == words);
                            if words > chunk || block.start == 0 {
                                pack_right(x, layout.in_dim(), first..first + steps, tokens, &columns, width, right, right_stride);
                            }
                            pack_left(dy, out_dim, first..first + steps, tokens, &block_rows, product.rows, left, left_stride);
                            for (slice, segments) in segments.slices.iter().enumerate() {
                                let right = &right[slice * right_stride..][..steps * width];
                                for (panel, panel_rows) in balanced(block.len(), product.rows).enumerate() {
                                    let at = if words > chunk { (slice * block.len() + panel_rows.start) * width } else { 0 };
                                    let sums = &mut sums[at..][..panel_rows.len() * width];
                                    (product.multiply)(panel_rows.len(), &left[panel * left_stride..], Order::Steps, right, sums, resume);
                                    if last {
                                        let masks = &masks[slice * block.len()..][panel_rows.clone()];
                                        let mut agreements = [Agreement::default(); STEP_STRIDE];
                                        (kernels.compare)(sums, masks, &mut agreements);
                                        let pieces = &mut task.pieces[block.start..][panel_rows];
                                        segments.count(&agreements, pieces);
                                    }
                                }
                            }
                        }
                    }
                }
            });
        });
    }
}

/// The columns of some groups.
fn columns_of(layout: GroupLayout, groups: &Range<usize>) -> Range<usize> {
    groups.start * layout.group_size()..layout.in_dim().min(groups.end.saturating_mul(layout.group_size()))
}

/// The parts of groups in one slice of columns: the group, counted from the first one of the task, and its columns as bits.
struct Slice(Vec<(usize, u32)>);

impl Slice {
    /// Adds what the agreements of some rows say to the scores of those rows. Scores are integers far below 2^24.
    #[inline(always)]
    fn count(&self, agreements: &[Agreement], scores: &mut [&mut [f32]]) {
        for (agreement, scores) in agreements.iter().zip(scores) {
            for &(group, columns) in &self.0 {
                let count = (agreement.same & columns).count_ones() as i32 - (agreement.opposite & columns).count_ones() as i32;
                scores[group] += count as f32;
            }
        }
    }
}

/// The slices of some columns.
struct Segments {
    slices: Vec<Slice>,
}

impl Segments {
    fn new(layout: GroupLayout, columns: &Range<usize>, width: usize, first_group: usize) -> Self {
        let slice = |first: usize| {
            let mut parts: Vec<(usize, u32)> = Vec::new();
            for column in first..columns.end.min(first + width) {
                let (group, bit) = (column / layout.group_size() - first_group, 1 << (column - first));
                match parts.last_mut() {
                    Some((last, bits)) if *last == group => *bits |= bit,
                    _ => parts.push((group, bit)),
                }
            }
            Slice(parts)
        };
        Self { slices: columns.clone().step_by(width).map(slice).collect() }
    }
}

/// The rows of the tokens that one word stands for.
#[inline(always)]
fn token_rows<A, W: Word>(values: &[A], dim: usize, word: usize, tokens: usize) -> [Option<&[A]>; 2] {
    [word * W::DEPTH, word * W::DEPTH + 1].map(|token| (token < tokens).then(|| &values[token * dim..][..dim]))
}

/// Copies `columns` of some words of tokens into panels of `width` columns.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn pack_right<W: Word, A: Fill<W>>(
    x: &[A],
    in_dim: usize,
    words: Range<usize>,
    tokens: usize,
    columns: &Range<usize>,
    width: usize,
    right: &mut [W],
    stride: usize,
) {
    for (step, word) in words.enumerate() {
        let rows = token_rows::<A, W>(x, in_dim, word, tokens).map(|row| row.map(|row| &row[columns.clone()]));
        for (panel, first) in (0..columns.len()).step_by(width).enumerate() {
            let part = rows.map(|row| row.map(|row| &row[first..row.len().min(first + width)]));
            A::fill_across(part, &mut right[panel * stride + step * width..][..width]);
        }
    }
}

/// Copies some rows of `dW`, columns of `dy`, of some words of tokens into left operands of at most `most` rows.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn pack_left<W: Word, A: Fill<W>>(
    dy: &[A],
    out_dim: usize,
    words: Range<usize>,
    tokens: usize,
    rows: &Range<usize>,
    most: usize,
    left: &mut [W],
    stride: usize,
) {
    for (step, word) in words.enumerate() {
        let gradients = token_rows::<A, W>(dy, out_dim, word, tokens);
        for (panel, panel_rows) in balanced(rows.len(), most).enumerate() {
            let first = rows.start + panel_rows.start;
            let part = gradients.map(|row| row.map(|row| &row[first..row.len().min(first + STEP_STRIDE)]));
            A::fill_across(part, &mut left[panel * stride + step * STEP_STRIDE..][..STEP_STRIDE]);
        }
    }
}

/// The scores of a dense gradient `dw [out, in]` that had to be reduced first.
pub fn correlate_dense(dw: &[f32], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    correlate_dense_on(Tier::chosen(), dw, matrix, score);
}

/// [`correlate_dense`] on a tier of this machine.
pub fn correlate_dense_on(tier: Tier, dw: &[f32], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let (kernels, layout) = (Backward::of(tier), matrix.layout());
    let rows = (DENSE_BLOCK / layout.in_dim()).max(1);
    threads::for_each_block(score, rows * layout.groups(), 4 * dw.len(), |block, score| {
        let rows = block * rows..block * rows + score.len() / layout.groups();
        vectorise(tier, DenseTask { kernels: &kernels, dw, matrix, rows, score });
    });
}

/// The scores of some rows of a dense gradient.
struct DenseTask<'a> {
    kernels: &'a Backward,
    dw: &'a [f32],
    matrix: TernaryMatrix<'a>,
    rows: Range<usize>,
    score: &'a mut [f32],
}

impl Loop for DenseTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { kernels, dw, matrix, rows, score } = self;
        let (layout, width) = (matrix.layout(), kernels.float32.columns);
        let (columns, count) = (0..layout.in_dim(), rows.len());
        let segments = Segments::new(layout, &columns, width, 0);
        let mut masks = vec![TritMask::default(); segments.slices.len() * count];
        (kernels.trit_masks)(matrix, rows.clone(), columns, width, &mut masks);
        score.fill(0.0);
        let mut agreements = vec![Agreement::default(); segments.slices.len()];
        let mut row_masks = vec![TritMask::default(); segments.slices.len()];
        for (index, (row, scores)) in rows.zip(score.chunks_exact_mut(layout.groups())).enumerate() {
            let gradients = &dw[row * layout.in_dim()..][..layout.in_dim()];
            for (slice, mask) in row_masks.iter_mut().enumerate() {
                *mask = masks[slice * count + index];
            }
            let (whole, rest) = gradients.split_at(gradients.len() / width * width);
            (kernels.compare)(whole, &row_masks[..whole.len() / width], &mut agreements);
            if !rest.is_empty() {
                let mut padded = [0.0; 32];
                padded[..rest.len()].copy_from_slice(rest);
                let last = whole.len() / width;
                (kernels.compare)(&padded[..width], &row_masks[last..], &mut agreements[last..]);
            }
            for (slice, agreement) in segments.slices.iter().zip(&agreements) {
                slice.count(std::slice::from_ref(agreement), &mut [&mut *scores]);
            }
        }
    }
}
