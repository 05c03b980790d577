//! Many tokens: the dense product on register tiles that end in signs.
//!
//! A task keeps the output gradients of its rows packed while it walks over the columns. For each block of columns it packs the
//! inputs, which then stay in the L2 cache while panel after panel of rows passes over them, and counts the signs of each panel.

use std::ops::Range;

use super::counts::{Counter, whole_groups};
use super::source::Source;
use crate::cpu::isa::backward::{BIT_COLUMNS, Backward, Fill, Order, Product, STEP_STRIDE, SignBits, TritBits, Word};
use crate::cpu::isa::{Loop, prefetch, prefetch_bytes, vectorise};
use crate::cpu::scratch::{Operand, Scratch};
use crate::cpu::threads;
use crate::cpu::tiling::{Tile, balanced, tiles, wanted_tasks};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Most words of tokens that are summed without putting sums down.
const STEPS: usize = 1024;
/// Words of tokens of one chunk where there are more.
const CHUNK: usize = 256;
/// Most words of the packed output gradients where sums are never put down and where they are, and of the packed inputs, half of the L2
/// caches that are common.
const LEFT_WORDS: usize = 3 << 17;
const LEFT_WORDS_OF_CHUNKS: usize = 1 << 19;
const RIGHT_WORDS: usize = 1 << 17;
/// Fewest panels of output gradients that are worth packing inputs for.
const PANELS: usize = 8;
/// Words between panels beyond their length, so that panels spread over the sets of a cache.
const PANEL_GAP: usize = 16;

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
    fn new<W>(product: &Product<W>, layout: GroupLayout, out_dim: usize, words: usize, wanted_tasks: usize) -> Self {
        let (chunk, left_words) = if words <= STEPS { (words, LEFT_WORDS) } else { (CHUNK, LEFT_WORDS_OF_CHUNKS) };
        let most = left_words / (chunk * STEP_STRIDE);
        let wanted = out_dim.div_ceil(wanted_tasks).div_ceil(product.rows);
        let rows = wanted.max(PANELS).min(most) * product.rows;
        let tasks = out_dim.div_ceil(rows);
        let groups = if tasks >= wanted_tasks { layout.groups() } else { layout.groups().div_ceil(wanted_tasks.div_ceil(tasks)) };
        let columns = (RIGHT_WORDS / chunk.next_power_of_two()).min(BIT_COLUMNS);
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
    let work = x.len() * out_dim;
    let plan = Plan::new(product, layout, out_dim, tokens.div_ceil(W::DEPTH), wanted_tasks(work));
    let mut tasks = tiles(score, layout.groups(), plan.rows, plan.groups);
    log::debug!("correlate: {}, {} tasks of up to {} rows, {} threads", product.name, tasks.len(), plan.rows, threads::count());
    threads::for_each_block(&mut tasks, 1, work, |_, tasks| {
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
        let mut signs = [SignBits::default(); STEP_STRIDE];
        // Divisions, which a loop over steps should not repeat.
        let panels: Vec<_> = balanced(rows.len(), product.rows).collect();
        if !whole_groups(layout, plan.columns) {
            task.pieces.iter_mut().for_each(|scores| scores.fill(0.0));
        }
        let lengths = [rows.len().div_ceil(product.rows) * left_stride, slices * right_stride, sums_len];
        let mut memory = Scratch::new(lengths);
        let mut memory = memory.cut();
        let [left, right] = memory.slices::<W, 2>([lengths[0], lengths[1]]);
        let [sums] = memory.slices::<f32, 1>([sums_len]);
        for first in columns.clone().step_by(plan.columns) {
            let block = first..columns.end.min(first + plan.columns);
            let next = block.end..columns.end.min(block.end + plan.columns);
            let counter = Counter::new(layout, plan.columns, block.clone());
            (kernels.trit_bits)(matrix, rows.clone(), block.clone(), &mut trits);
            for start in (0..words).step_by(chunk) {
                let chunk = start..words.min(start + chunk);
                let (resume, last) = (start > 0, chunk.end == words);
                x.pack_right(chunk.clone(), &block, width, right, right_stride);
                if words > plan.chunk || first == columns.start {
                    dy.pack_left(chunk.clone(), &rows, &panels, left, left_stride);
                }
                for (panel, panel_rows) in panels.iter().cloned().enumerate() {
                    let (left, count) = (&left[panel * left_stride..], panel_rows.len());
                    if last {
                        prefetch_bytes(matrix, &next, rows.start + panel_rows.start..rows.start + panel_rows.end);
                    }
                    for (slice, right) in right.chunks(right_stride).take(block.len().div_ceil(width)).enumerate() {
                        let right = &right[..chunk.len() * width];
                        let at = (panel_rows.start * slices + slice * count) * width;
                        if resume {
                            prefetch(sums.get(at + count * width..at + 2 * count * width).unwrap_or_default());
                        }
                        if last {
                            let start = if resume { Some(&sums[at..][..count * width]) } else { None };
                            (product.signs)(count, left, right, start, &mut signs[..count], slice * width);
                        } else {
                            (product.multiply)(count, left, Order::Steps, right, &mut sums[at..][..count * width], resume);
                        }
                    }
                    if last {
                        let rows = trits[panel_rows.clone()].iter().zip(&signs).zip(&mut task.pieces[panel_rows]);
                        for ((trits, signs), scores) in rows {
                            counter.count(trits, signs, scores, task.columns.start);
                        }
                    }
                }
            }
        }
    }
}

/// The columns of some groups.
fn columns_of(layout: GroupLayout, groups: &Range<usize>) -> Range<usize> {
    groups.start * layout.group_size()..layout.in_dim().min(groups.end.saturating_mul(layout.group_size()))
}
