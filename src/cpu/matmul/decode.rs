//! Few tokens: rows look up their bytes in tables of the tokens.

use crate::cpu::isa::forward::Decode;
use crate::cpu::scratch::Scratch;
use crate::cpu::threads;
use crate::cpu::tiling::tiles;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// The fewest rows of a task, and what they are a multiple of.
const ROW_STEP: usize = 64;
/// Tasks for each thread: more of them even out threads of unequal speed, fewer read the matrix in longer runs.
const TASKS: usize = 2;

/// The product for a few tokens; see [`super::matmul`].
pub fn matmul<X: Activation, Y: Activation>(kernels: &Decode, x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let (in_dim, table_len) = (layout.in_dim(), (kernels.table_len)(layout));
    let work = x.len() * out_dim;
    let rows = out_dim.div_ceil(TASKS * threads::wanted(work)).next_multiple_of(ROW_STEP);
    log::debug!("matmul: {}, {} tokens, blocks of {rows} rows, {} threads", kernels.name, x.len() / in_dim, threads::count());
    let passes = x.chunks(kernels.tokens_at_once * in_dim).zip(y.chunks_mut(kernels.tokens_at_once * out_dim));
    for (x, y) in passes {
        let tokens = x.len() / in_dim;
        let mut memory = Scratch::new([in_dim, tokens * table_len]);
        let [inputs, tables] = memory.cut().slices([in_dim, tokens * table_len]);
        for (x, tables) in x.chunks_exact(in_dim).zip(tables.chunks_exact_mut(table_len)) {
            X::widen(x, inputs);
            (kernels.tables)(layout, inputs, tables);
        }
        threads::for_each(tiles(y, out_dim, tokens, rows).into_iter(), work, |tile| {
            let mut sums = vec![0.0; tokens * tile.columns.len()];
            (kernels.rows)(matrix, scale, tile.columns.clone(), tables, &mut sums);
            for (piece, sums) in tile.pieces.into_iter().zip(sums.chunks_exact(tile.columns.len())) {
                Y::narrow(sums, piece);
            }
        });
    }
}
