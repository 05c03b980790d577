//! More tokens: every four trits look up their sum of four inputs, for some tokens at once.
//!
//! A task is some tokens by some rows. For each eight chunks of the inputs it turns the trits of its rows into offsets, then takes
//! the tokens a register's lanes at a time: the tables of one chunk stay in the L1 cache while all rows pass over them, and the
//! sums of these tokens in the L2 cache while all chunks do. Every sum runs over the chunks in order, however the tasks are cut.

use std::ops::Range;

use super::terms::{CHUNK_INPUTS, CHUNK_TERMS, Chunk, chunks};
use crate::cpu::isa::forward::Lookup;
use crate::cpu::isa::{Loop, Tier, vectorise};
use crate::cpu::tiling::{Tile, tiles};
use crate::cpu::{cache, scratch, threads};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// Chunks whose offsets exist at a time.
const CHUNKS: usize = 8;
/// Floats of the sums of a task: 2 MiB, half of what a call may take for each thread.
const SUMS: usize = 1 << 19;
/// The fewest rows of a task where there is a choice: less would not pay for the tables.
const LEAST_ROWS: usize = 512;
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
    let out_dim = matrix.out_dim();
    let tokens = y.len() / out_dim;
    let (token_block, row_block) = blocks::<LANES>(tokens, out_dim);
    let chunks = chunks(matrix.layout());
    let work = x.len() * out_dim;
    log::debug!("matmul: {}, blocks of {token_block} tokens by {row_block} rows, {} threads", kernels.name, threads::count());
    let product = Product { kernels, x, matrix, scale, chunks: &chunks };
    let tasks = tiles(y, out_dim, token_block, row_block);
    threads::for_each(tasks.into_iter(), work, |task| vectorise(tier, Task { product: &product, task }));
}

/// Tokens and rows of a task.
fn blocks<const LANES: usize>(tokens: usize, out_dim: usize) -> (usize, usize) {
    let threads = threads::count();
    // The sums of one register's tokens take a quarter of the L2 cache.
    let most_rows = cache::sizes().l2 / 4 / (size_of::<f32>() * LANES);
    let cuts = if out_dim >= threads * LEAST_ROWS { threads } else { 1 };
    let row_parts = out_dim.div_ceil(most_rows).next_multiple_of(cuts);
    let rows = out_dim.div_ceil(row_parts).next_multiple_of(LANES);
    let cuts = if row_parts == 1 { threads } else { 1 };
    let most_tokens = (SUMS / rows).min(tokens.div_ceil(cuts)).next_multiple_of(LANES);
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
        let Product { kernels, matrix, chunks, .. } = product;
        let (rows, registers) = (task.columns.len(), task.rows.len().div_ceil(LANES));
        let slots = chunks.iter().map(Chunk::group_slots).max().unwrap_or(1);
        let (offsets_stride, scales_stride) = (rows * CHUNK_TERMS / 2 + GAP, rows * slots + GAP);
        let lengths = [Lookup::<LANES>::ENTRIES * LANES, CHUNK_INPUTS * LANES, CHUNK_INPUTS * LANES, CHUNKS * scales_stride];
        scratch::sums(registers * rows * LANES, |sums| {
            scratch::operands([CHUNKS * offsets_stride], |[offsets]: [&mut [u32]; 1]| {
                scratch::operands(lengths, |[tables, inputs, panel, scales]: [&mut [f32]; 4]| {
                    sums.fill(0.0);
                    let sums = sums.as_chunks_mut::<LANES>().0;
                    let tables = tables.as_chunks_mut::<LANES>().0;
                    let panel = panel.as_chunks_mut::<LANES>().0.first_chunk_mut::<CHUNK_INPUTS>().expect("inputs of a chunk");
                    for chunks in chunks.chunks(CHUNKS) {
                        for (pair, offsets) in chunks.chunks(2).zip(offsets.chunks_mut(2 * offsets_stride)) {
                            let (low, high) = offsets.split_at_mut(offsets_stride);
                            let offsets = [low, high].map(|words| &mut words.as_chunks_mut().0[..rows]);
                            (kernels.offsets)(*matrix, task.columns.clone(), pair, offsets);
                        }
                        for (chunk, scales) in chunks.iter().zip(scales.chunks_mut(scales_stride)) {
                            product.scales_of(chunk, task.columns.clone(), scales);
                        }
                        for (register, sums) in sums.chunks_exact_mut(rows).enumerate() {
                            let first = task.rows.start + register * LANES;
                            let tokens = first..task.rows.end.min(first + LANES);
                            let operands = chunks.iter().zip(offsets.chunks(offsets_stride)).zip(scales.chunks(scales_stride));
                            for ((chunk, offsets), scales) in operands {
                                product.panel_of(chunk, tokens.clone(), inputs, panel);
                                (kernels.tables)(panel, chunk.terms * chunk.group_slots(), tables);
                                let offsets = &offsets.as_chunks().0[..rows];
                                (kernels.accumulate)(chunk, tables, offsets, &scales[..rows * chunk.group_slots()], sums);
                            }
                        }
                    }
                    for (sums, pieces) in sums.chunks_exact(rows).zip(task.pieces.chunks_mut(LANES)) {
                        store(kernels, sums, pieces);
                    }
                });
            });
        });
    }
}

impl<const LANES: usize, X: Activation> Product<'_, LANES, X> {
    /// The scales of the group slots of a chunk, `[rows, slots]`, 0 where a slot has no group.
    #[inline(always)]
    fn scales_of(&self, chunk: &Chunk, rows: Range<usize>, to: &mut [f32]) {
        let groups = self.matrix.layout().groups();
        for (row, to) in rows.zip(to.chunks_exact_mut(chunk.group_slots())) {
            let (scales, rest) = to.split_at_mut(chunk.groups.len());
            scales.copy_from_slice(&self.scale[row * groups..][chunk.groups.clone()]);
            rest.fill(0.0);
        }
    }

    /// The inputs of a chunk for up to `LANES` tokens, transposed, 0 where there is none.
    #[inline(always)]
    fn panel_of(&self, chunk: &Chunk, tokens: Range<usize>, inputs: &mut [f32], panel: &mut [[f32; LANES]; CHUNK_INPUTS]) {
        let in_dim = self.matrix.layout().in_dim();
        let (rows, _) = inputs.as_chunks_mut::<CHUNK_INPUTS>();
        if tokens.len() < LANES || !chunk.is_full() {
            rows.as_flattened_mut().fill(0.0);
        }
        for (token, row) in tokens.zip(rows.iter_mut()) {
            let x = &self.x[token * in_dim..][..in_dim];
            for (position, inputs) in chunk.inputs() {
                let length = inputs.len();
                X::widen(&x[inputs], &mut row[position..position + length]);
            }
        }
        for (column, square) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            (self.kernels.transpose)(&inputs[column * LANES..], CHUNK_INPUTS, square);
        }
    }
}

/// Writes the sums `[rows][lanes]` of up to `LANES` tokens to their pieces of the result.
#[inline(always)]
fn store<const LANES: usize, Y: Activation>(kernels: &Lookup<LANES>, sums: &[[f32; LANES]], pieces: &mut [&mut [Y]]) {
    let mut square = [[0.0; LANES]; LANES];
    let mut edge = square;
    for (block, sums) in sums.chunks(LANES).enumerate() {
        let sums = if sums.len() == LANES {
            sums
        } else {
            edge[..sums.len()].copy_from_slice(sums);
            &edge
        };
        (kernels.transpose)(sums.as_flattened(), LANES, &mut square);
        for (piece, lane) in pieces.iter_mut().zip(&square) {
            let start = block * LANES;
            let length = LANES.min(piece.len() - start);
            Y::narrow(&lane[..length], &mut piece[start..start + length]);
        }
    }
}
