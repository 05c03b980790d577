//! The input gradient `dx = dy (S T)`.
//!
//! A dense product in the manner of Goto and van de Geijn (2008), whose packed right operand is made from the packed trits: a
//! block of `S T` lives in a cache for as long as the tokens of a task need it, and nowhere else.

use super::isa::backward::{Backward, CHUNK, Direct, Fill, Order, Product, ROW_STRIDE, Word};
use super::isa::{Loop, Tier, vectorise};
use super::scratch::{Operand, Scratch};
use super::threads;
use super::tiling::{Tile, balanced, tiles, wanted_tasks};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// Most tokens of a task.
const TOKENS: usize = 512;
/// Most columns of a task, and what they are a multiple of.
const COLUMNS: usize = 512;
const COLUMN_STEP: usize = 64;
/// Most columns of a task of few tokens: their sums and some rows of their bytes share the L1 cache.
const DIRECT_COLUMNS: usize = 1024;
/// Words between panels beyond their length, so that panels spread over the sets of a cache.
const PANEL_GAP: usize = 16;

/// `dx[m, i] = sum over o of dy[m, o] * scale[o, i / group_size] * T[o, i]`, summed in float32.
///
/// `dy [tokens, out]`, `scale [out, groups]`, `dx [tokens, in]`, all row-major. bfloat16 products are used where they lose
/// nothing: for bfloat16 `dy` and scales that bfloat16 holds, as [`super::scale`] makes them for such activations.
///
/// # Panics
/// Where the lengths of the operands do not agree.
pub fn matmul_transposed<D: Activation, X: Activation>(dy: &[D], matrix: TernaryMatrix<'_>, scale: &[f32], dx: &mut [X]) {
    matmul_transposed_on(Tier::chosen(), dy, matrix, scale, dx);
}

/// [`matmul_transposed`] on a tier of this machine.
///
/// # Panics
/// As [`matmul_transposed`], and where this machine has not the tier.
pub fn matmul_transposed_on<D: Activation, X: Activation>(tier: Tier, dy: &[D], matrix: TernaryMatrix<'_>, scale: &[f32], dx: &mut [X]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = dx.len() / layout.in_dim();
    assert_eq!(dx.len(), tokens * layout.in_dim(), "dx of whole tokens");
    assert_eq!(dy.len(), tokens * out_dim, "dy of {tokens} tokens");
    assert_eq!(scale.len(), out_dim * layout.groups(), "a scale for every group");
    if dx.is_empty() || out_dim == 0 {
        return dx.fill(X::default());
    }
    let kernels = Backward::of(tier);
    if let Some(direct) = kernels.direct
        && tokens <= direct.tokens
    {
        return run_direct(tier, direct, dy, matrix, scale, dx);
    }
    match (D::as_bf16(dy), kernels.bfloat16) {
        (Some(dy), Some(product)) if scale.iter().all(|&scale| is_bf16(scale)) => run(tier, product, dy, matrix, scale, dx),
        _ => run(tier, kernels.float32, dy, matrix, scale, dx),
    }
}

/// Whether bfloat16 holds a float32 exactly.
fn is_bf16(value: f32) -> bool {
    value.to_bits() & 0xFFFF == 0
}

/// The product of few tokens, each sum in the order of its rows as in [`run`].
fn run_direct<D: Activation, X: Activation>(tier: Tier, direct: &Direct, dy: &[D], matrix: TernaryMatrix<'_>, scale: &[f32], dx: &mut [X]) {
    let (in_dim, out_dim) = (matrix.layout().in_dim(), matrix.out_dim());
    let work = dx.len() * out_dim;
    let column_block = in_dim.div_ceil(2 * threads::wanted(work)).min(DIRECT_COLUMNS).next_multiple_of(direct.columns);
    log::debug!("matmul_transposed: direct, blocks of {column_block} columns, {} threads", threads::count());
    let (mut gradients, tokens) = (vec![0.0; dy.len()], dy.len() / out_dim);
    vectorise(tier, Widen(dy, &mut gradients));
    threads::for_each(tiles(dx, in_dim, tokens, column_block).into_iter(), work, |task| {
        let stride = task.columns.len().next_multiple_of(direct.columns);
        let mut memory = Scratch::new([tokens * stride]);
        let [sums] = memory.cut().slices([tokens * stride]);
        sums.fill(0.0);
        (direct.add_rows)(matrix, scale, &gradients, 0..out_dim, task.columns.clone(), sums);
        for (piece, sums) in task.pieces.into_iter().zip(sums.chunks_exact(stride)) {
            X::narrow(&sums[..piece.len()], piece);
        }
    });
}

/// Widens activations.
struct Widen<'a, D>(&'a [D], &'a mut [f32]);

impl<D: Activation> Loop for Widen<'_, D> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        D::widen(self.0, self.1);
    }
}

fn run<W: Word + Operand, D: Fill<W>, X: Activation>(
    tier: Tier,
    product: &Product<W>,
    dy: &[D],
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    dx: &mut [X],
) {
    let (in_dim, out_dim) = (matrix.layout().in_dim(), matrix.out_dim());
    let work = dx.len() * out_dim;
    let column_block = in_dim.div_ceil(wanted_tasks(work)).next_multiple_of(COLUMN_STEP).min(COLUMNS);
    let mut tasks = tiles(dx, in_dim, TOKENS, column_block);
    log::debug!("matmul_transposed: {}, {} tasks of up to {column_block} columns, {} threads", product.name, tasks.len(), threads::count());
    threads::for_each_block(&mut tasks, 1, work, |_, tasks| {
        for task in tasks {
            vectorise(tier, Task { product, dy, matrix, scale, task });
        }
    });
}

/// The product for some tokens and some columns.
struct Task<'a, 'b, W: 'static, D, X> {
    product: &'a Product<W>,
    dy: &'a [D],
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
    task: &'a mut Tile<'b, X>,
}

impl<W: Word + Operand, D: Fill<W>, X: Activation> Loop for Task<'_, '_, W, D, X> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { product, dy, matrix, scale, task } = self;
        let (out_dim, tokens) = (matrix.out_dim(), task.rows.len());
        let slices = task.columns.len().div_ceil(product.columns);
        let stride = CHUNK * product.columns + PANEL_GAP;
        let lengths = [tokens * ROW_STRIDE, slices * stride, tokens * slices * product.columns];
        let mut memory = Scratch::new(lengths);
        let mut memory = memory.cut();
        let [left, right] = memory.slices([lengths[0], lengths[1]]);
        let [memory] = memory.slices([lengths[2]]);
        let mut sums = Sums { memory, tokens, columns: product.columns };
        for first in (0..out_dim).step_by(CHUNK * W::DEPTH) {
            let rows = first..out_dim.min(first + CHUNK * W::DEPTH);
            let steps = rows.len().div_ceil(W::DEPTH);
            (product.weights)(matrix, scale, rows.clone(), task.columns.clone(), right, stride);
            for (token, left) in task.rows.clone().zip(left.chunks_exact_mut(ROW_STRIDE)) {
                D::fill_along(&dy[token * out_dim..][rows.clone()], left);
            }
            for (slice, right) in right.chunks(stride).enumerate() {
                for rows in balanced(tokens, product.rows) {
                    let left = &left[rows.start * ROW_STRIDE..];
                    let sums = sums.tile(slice, rows.start, rows.len());
                    (product.multiply)(rows.len(), left, Order::Rows, &right[..steps * product.columns], sums, first > 0);
                }
            }
        }
        for (token, piece) in task.pieces.iter_mut().enumerate() {
            for (slice, piece) in piece.chunks_mut(product.columns).enumerate() {
                X::narrow(&sums.tile(slice, token, 1)[..piece.len()], piece);
            }
        }
    }
}

/// Float32 sums `[slices][tokens][columns]`, so that the sums of a tile are neighbours.
struct Sums<'a> {
    memory: &'a mut [f32],
    tokens: usize,
    columns: usize,
}

impl Sums<'_> {
    /// The sums of some tokens in one slice of columns.
    fn tile(&mut self, slice: usize, first: usize, tokens: usize) -> &mut [f32] {
        &mut self.memory[(slice * self.tokens + first) * self.columns..][..tokens * self.columns]
    }
}
