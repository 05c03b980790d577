//! More tokens: every four trits look up their sum of four inputs, for some tokens at once.
//!
//! A task is some tokens by some rows. For a few windows of the inputs it turns the trits of its rows into offsets, then takes
//! the tokens a register's lanes at a time: the tables of one chunk stay in the L1 cache while all rows pass over them, and the
//! sums of these tokens in the L2 cache while all chunks do. Every sum runs over the chunks in order, however the tasks are cut.

use std::ops::Range;

use super::terms::{Chunk, TERM_INPUTS, WINDOW_INPUTS, chunks};
use crate::cpu::isa::forward::{Lookup, ROW_STEP};
use crate::cpu::isa::{Loop, Tier, prefetch, vectorise};
use crate::cpu::scratch::Scratch;
use crate::cpu::tiling::{Tile, tiles};
use crate::cpu::{cache, threads};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// Windows whose offsets exist at a time.
const WINDOWS: usize = 4;
/// Floats of the sums of a task: 1 MiB, half of what a call takes for each thread.
const SUMS: usize = 1 << 18;
/// The fewest rows of a task where there is a choice: less would not pay for the tables.
const LEAST_ROWS: usize = 512;
/// The fewest tokens of a task where there is a choice: less would not pay for the offsets.
const LEAST_TOKENS: usize = 64;
/// Rows whose scales are copied for all chunks before those of the next ones, which are fetched meanwhile.
const SOME_ROWS: usize = 32;
/// Words between the offsets of chunks beyond their length, so that they spread over the sets of a cache.
const GAP: usize = 16;

/// The product by look-up; see [`super::matmul`].
pub fn matmul<const LANES: usize, X: Activation, Y: Activation>(
    tier: Tier,
    kernels: &Lookup<LANES>,
    x: &[X],
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    y: &mut [Y],
) {
    if y.is_empty() {
        return;
    }
    let out_dim = matrix.out_dim();
    let tokens = y.len() / out_dim;
    let chunks = chunks(matrix.layout(), kernels.chunk_terms);
    let work = x.len() * out_dim;
    let (token_block, row_block) = blocks::<LANES>(tokens, out_dim, chunks[0].slots, threads::wanted(work));
    log::debug!("matmul: {}, blocks of {token_block} tokens by {row_block} rows, {} threads", kernels.name, threads::count());
    let product = Product { kernels, x, matrix, scale, chunks: &chunks };
    let tasks = tiles(y, out_dim, token_block, row_block);
    threads::for_each(tasks.into_iter(), work, |task| vectorise(tier, Task { product: &product, task }));
}

/// Tokens and rows of a task. Where chunks have several groups, half of the memory of the sums is left to their scales.
fn blocks<const LANES: usize>(tokens: usize, out_dim: usize, slots: usize, threads: usize) -> (usize, usize) {
    let sums = if slots == 1 { SUMS } else { SUMS / 2 };
    // The sums of one register's tokens take a quarter of the L2 cache.
    let most_rows = (cache::sizes().l2 / 4 / (size_of::<f32>() * LANES)).min(sums / LEAST_TOKENS);
    // Threads with rows of their own all make the same tables, those with tokens of their own the same offsets: few tokens are left whole.
    let cuts = if tokens < threads * LEAST_TOKENS && out_dim >= threads * LEAST_ROWS { threads } else { 1 };
    let row_parts = out_dim.div_ceil(most_rows).next_multiple_of(cuts);
    let rows = out_dim.div_ceil(row_parts).next_multiple_of(LANES);
    let cuts = if cuts == 1 { threads } else { 1 };
    let most_tokens = (sums / rows).min(tokens.div_ceil(cuts)).next_multiple_of(LANES);
    let tokens = tokens.div_ceil(tokens.div_ceil(most_tokens)).next_multiple_of(LANES);
    (tokens, rows)
}

/// The operands of a product.
struct Product<'a, const LANES: usize, X> {
    kernels: &'a Lookup<LANES>,
    x: &'a [X],
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
    chunks: &'a [Chunk],
}

/// The product for some tokens and some rows.
struct Task<'a, 'b, const LANES: usize, X, Y> {
    product: &'a Product<'a, LANES, X>,
    task: Tile<'b, Y>,
}

impl<const LANES: usize, X: Activation, Y: Activation> Loop for Task<'_, '_, LANES, X, Y> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { product, mut task } = self;
        let Product { kernels, chunks, .. } = product;
        let (rows, registers) = (task.columns.len(), task.rows.len().div_ceil(LANES));
        let cut = Cut::new(rows, kernels.chunk_terms, chunks);
        let lengths =
            [registers * rows * LANES, Lookup::<LANES>::ENTRIES * LANES, WINDOW_INPUTS * LANES, WINDOW_INPUTS * LANES, cut.scales_len()];
        let mut memory = Scratch::new(lengths.into_iter().chain([cut.offsets_len()]));
        let mut memory = memory.cut();
        let [sums, tables, inputs, panel, scales] = memory.slices::<f32, 5>(lengths);
        let [offsets] = memory.slices::<u32, 1>([cut.offsets_len()]);
        sums.fill(0.0);
        let sums = sums.as_chunks_mut::<LANES>().0;
        let tables = tables.as_chunks_mut::<LANES>().0;
        let panel = panel.as_chunks_mut::<LANES>().0;
        for chunks in chunks.chunks(WINDOWS * cut.window_chunks) {
            product.read_rows(&cut, chunks, task.columns.clone(), offsets, scales);
            for (register, sums) in sums.chunks_exact_mut(rows).enumerate() {
                let first = task.rows.start + register * LANES;
                let tokens = first..task.rows.end.min(first + LANES);
                for (index, chunk) in chunks.iter().enumerate() {
                    let place = index % cut.window_chunks;
                    if place == 0 {
                        let window = &chunks[index..chunks.len().min(index + cut.window_chunks)];
                        product.panel_of(window, tokens.clone(), inputs, panel);
                    }
                    let panel = &panel[place * kernels.chunk_terms * TERM_INPUTS..][..chunk.terms * chunk.slots * TERM_INPUTS];
                    (kernels.tables)(panel, tables);
                    let offsets = &offsets[index * cut.offsets_stride..][..rows * kernels.chunk_terms / 2];
                    let scales = &scales[cut.column(chunks, index)..][..rows * chunk.slots];
                    (kernels.accumulate)(chunk, tables, offsets, scales, sums);
                }
            }
        }
        for (sums, pieces) in sums.chunks_exact(rows).zip(task.pieces.chunks_mut(LANES)) {
            store(kernels, sums, pieces);
        }
    }
}

/// Where the offsets and scales of a task lie.
struct Cut {
    /// Chunks of a window.
    window_chunks: usize,
    /// Words of offsets from one chunk to the next.
    offsets_stride: usize,
    /// Floats from one column of scales to the next. A column belongs to a group where a chunk has no more than one, else to a
    /// chunk, whose groups then lie side by side.
    scales_stride: usize,
    /// Whether columns belong to groups.
    by_group: bool,
}

impl Cut {
    fn new(rows: usize, chunk_terms: usize, chunks: &[Chunk]) -> Self {
        let slots = chunks[0].slots;
        Self {
            window_chunks: WINDOW_INPUTS / (chunk_terms * TERM_INPUTS),
            offsets_stride: rows.next_multiple_of(ROW_STEP) * chunk_terms / 2 + GAP,
            scales_stride: rows * slots + GAP,
            by_group: slots == 1,
        }
    }

    fn offsets_len(&self) -> usize {
        WINDOWS * self.window_chunks * self.offsets_stride
    }

    fn scales_len(&self) -> usize {
        WINDOWS * self.window_chunks * self.scales_stride
    }

    /// The first float of the column of chunk `index`.
    fn column(&self, chunks: &[Chunk], index: usize) -> usize {
        self.scales_stride * if self.by_group { chunks[index].groups.start - chunks[0].groups.start } else { index }
    }
}

impl<const LANES: usize, X: Activation> Product<'_, LANES, X> {
    /// The offsets and scales of some chunks, for all rows of a task.
    #[inline(always)]
    fn read_rows(&self, cut: &Cut, chunks: &[Chunk], rows: Range<usize>, offsets: &mut [u32], scales: &mut [f32]) {
        (self.kernels.offsets)(self.matrix, rows.clone(), chunks, offsets, cut.offsets_stride);
        if cut.by_group {
            let groups = chunks[0].groups.start..chunks[chunks.len() - 1].groups.end;
            return self.columns_of(groups, rows, scales, cut.scales_stride);
        }
        let groups = chunks[0].groups.start..chunks[chunks.len() - 1].groups.end;
        for start in rows.clone().step_by(SOME_ROWS) {
            let (place, some) = (start - rows.start, start..rows.end.min(start + SOME_ROWS));
            for row in some.end..rows.end.min(some.end + SOME_ROWS) {
                prefetch(&self.scale[row * self.matrix.layout().groups()..][groups.clone()]);
            }
            for (chunk, scales) in chunks.iter().zip(scales.chunks_mut(cut.scales_stride)) {
                let to = &mut scales[place * chunk.slots..][..some.len() * chunk.slots];
                match chunk.slots {
                    2 => self.scales_of::<2>(chunk, some.clone(), to),
                    4 => self.scales_of::<4>(chunk, some.clone(), to),
                    8 => self.scales_of::<8>(chunk, some.clone(), to),
                    _ => unreachable!("four or eight terms of one, two, three or more"),
                }
            }
        }
    }

    /// The scales of some groups, transposed: each group's `stride` floats after those of the one before.
    #[inline(always)]
    fn columns_of(&self, groups: Range<usize>, rows: Range<usize>, to: &mut [f32], stride: usize) {
        let row_groups = self.matrix.layout().groups();
        for (first_row, first_group) in
            rows.clone().step_by(LANES).flat_map(|row| groups.clone().step_by(LANES).map(move |group| (row, group)))
        {
            let from = &self.scale[first_row * row_groups + first_group..];
            let (place, column) = (first_row - rows.start, first_group - groups.start);
            let (height, width) = (LANES.min(rows.end - first_row), LANES.min(groups.end - first_group));
            if height == LANES && from.len() >= (LANES - 1) * row_groups + LANES {
                let to = &mut to[column * stride + place..];
                let length = to.len().min((width - 1) * stride + LANES);
                (self.kernels.transpose)(from, row_groups, &mut to[..length], stride);
            } else {
                for (row, from) in from.chunks(row_groups).take(height).enumerate() {
                    for (group, &scale) in from[..width].iter().enumerate() {
                        to[(column + group) * stride + place + row] = scale;
                    }
                }
            }
        }
    }

    /// The scales of the group slots of a chunk, `[rows, slots]`, 0 where a slot has no group.
    #[inline(always)]
    fn scales_of<const SLOTS: usize>(&self, chunk: &Chunk, rows: Range<usize>, to: &mut [f32]) {
        let groups = self.matrix.layout().groups();
        let rows = self.scale[rows.start * groups..rows.end * groups].chunks_exact(groups);
        for (scale, to) in rows.zip(to.as_chunks_mut::<SLOTS>().0) {
            match scale[chunk.groups.clone()].first_chunk() {
                Some(scales) => *to = *scales,
                None => {
                    to.fill(0.0);
                    to[..chunk.groups.len()].copy_from_slice(&scale[chunk.groups.clone()]);
                }
            }
        }
    }

    /// The inputs of the chunks of a window for up to `LANES` tokens, transposed, 0 where there is none.
    #[inline(always)]
    fn panel_of(&self, window: &[Chunk], tokens: Range<usize>, inputs: &mut [f32], panel: &mut [[f32; LANES]]) {
        let (in_dim, width) = (self.matrix.layout().in_dim(), self.kernels.chunk_terms * TERM_INPUTS);
        let (rows, _) = inputs.as_chunks_mut::<WINDOW_INPUTS>();
        let full = window.len() * width == WINDOW_INPUTS && window.iter().all(|chunk| chunk.fills(width));
        if tokens.len() < LANES || !full {
            rows.as_flattened_mut().fill(0.0);
        }
        for (token, row) in tokens.zip(rows.iter_mut()) {
            let x = &self.x[token * in_dim..][..in_dim];
            if full {
                let first = window[0].first_input();
                X::widen(&x[first..first + WINDOW_INPUTS], row);
                continue;
            }
            for (chunk, row) in window.iter().zip(row.chunks_exact_mut(width)) {
                for (position, inputs) in chunk.inputs() {
                    let length = inputs.len();
                    X::widen(&x[inputs], &mut row[position..position + length]);
                }
            }
        }
        for (column, square) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            (self.kernels.transpose)(&inputs[column * LANES..], WINDOW_INPUTS, square.as_flattened_mut(), LANES);
        }
    }
}

/// Lines up a square of sums with the lines of a cache.
#[repr(align(64))]
struct Square<const LANES: usize>([[f32; LANES]; LANES]);

/// Writes the sums `[rows][lanes]` of up to `LANES` tokens to their pieces of the result.
#[inline(always)]
fn store<const LANES: usize, Y: Activation>(kernels: &Lookup<LANES>, sums: &[[f32; LANES]], pieces: &mut [&mut [Y]]) {
    let mut square = Square([[0.0; LANES]; LANES]);
    let mut edge = Square([[0.0; LANES]; LANES]);
    for (block, sums) in sums.chunks(LANES).enumerate() {
        let sums = if sums.len() == LANES {
            sums
        } else {
            edge.0[..sums.len()].copy_from_slice(sums);
            &edge.0
        };
        (kernels.transpose)(sums.as_flattened(), LANES, square.0.as_flattened_mut(), LANES);
        for (piece, lane) in pieces.iter_mut().zip(&square.0) {
            let start = block * LANES;
            let length = LANES.min(piece.len() - start);
            Y::narrow(&lane[..length], &mut piece[start..start + length]);
        }
    }
}
