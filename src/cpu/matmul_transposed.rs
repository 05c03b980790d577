//! The input gradient `dx = dy (S T)`.
//!
//! Few tokens multiply weights in registers, more of them go through [`dense`](super::dense) panels.

use super::dense::{Dense, Steps};
use super::isa::backward::{Backward, Direct};
use super::isa::{Loop, Tier, vectorise};
use super::scratch::Scratch;
use super::threads;
use super::tiling::tiles;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// Most columns of a task of few tokens: their sums and some rows of their bytes share the L1 cache.
const DIRECT_COLUMNS: usize = 1024;

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
        (Some(left), Some(product)) if scale.iter().all(|&scale| is_bf16(scale)) => {
            Dense { tier, product, weights: product.weights, steps: Steps::Rows, left, matrix, scale }.write(dx);
        }
        _ => {
            let product = kernels.float32;
            Dense { tier, product, weights: product.weights, steps: Steps::Rows, left: dy, matrix, scale }.write(dx);
        }
    }
}

/// Whether bfloat16 holds a float32 exactly.
fn is_bf16(value: f32) -> bool {
    value.to_bits() & 0xFFFF == 0
}

/// The product of few tokens, each sum in the order of its rows as in [`Dense`].
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
