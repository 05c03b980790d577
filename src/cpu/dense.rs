//! Dense products whose right operand is `S T` or its transpose.
//!
//! In the manner of Goto and van de Geijn (2008), with a packed right operand that is made from the packed trits: a block of
//! `S T` lives in a cache for as long as the tokens of a task need it, and nowhere else.

use std::ops::Range;

use super::isa::backward::{CHUNK, Fill, Order, Product, ROW_STRIDE, Weights, Word};
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
/// Words between panels beyond their length, so that panels spread over the sets of a cache.
const PANEL_GAP: usize = 16;

/// What a step of the summed index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steps {
    /// A row of the matrix: the columns of the result are its columns.
    Rows,
    /// A column of the matrix: the columns of the result are its rows.
    Columns,
}

/// The product of activations `[tokens, steps]` and a matrix or its transpose.
pub struct Dense<'a, W: 'static, A> {
    /// Where it runs.
    pub tier: Tier,
    /// The tile.
    pub product: &'a Product<W>,
    /// Makes the panels of the right operand.
    pub weights: Weights<W>,
    /// What is summed.
    pub steps: Steps,
    /// The left operand.
    pub left: &'a [A],
    /// The matrix.
    pub matrix: TernaryMatrix<'a>,
    /// Its scales.
    pub scale: &'a [f32],
}

impl<W: Word + Operand, A: Fill<W>> Dense<'_, W, A> {
    /// Steps of the summed index, and columns of the result.
    fn dims(&self) -> (usize, usize) {
        let (rows, columns) = (self.matrix.out_dim(), self.matrix.layout().in_dim());
        match self.steps {
            Steps::Rows => (rows, columns),
            Steps::Columns => (columns, rows),
        }
    }

    /// Writes the product, every sum in the order of its steps.
    pub fn write<Y: Activation>(&self, result: &mut [Y]) {
        let (steps, columns) = self.dims();
        let work = result.len() * steps;
        let column_block = columns.div_ceil(wanted_tasks(work)).next_multiple_of(COLUMN_STEP).min(COLUMNS);
        let mut tasks = tiles(result, columns, TOKENS, column_block);
        let name = self.product.name;
        log::debug!(
            "sums over {:?}: {name}, {} tasks of up to {column_block} columns, {} threads",
            self.steps,
            tasks.len(),
            threads::count()
        );
        threads::for_each_block(&mut tasks, 1, work, |_, tasks| {
            for task in tasks {
                vectorise(self.tier, Task { dense: self, task });
            }
        });
    }

    /// The right operand of some steps and columns.
    fn unpack(&self, steps: Range<usize>, columns: Range<usize>, panels: &mut [W], stride: usize) {
        let (rows, columns) = match self.steps {
            Steps::Rows => (steps, columns),
            Steps::Columns => (columns, steps),
        };
        (self.weights)(self.matrix, self.scale, rows, columns, panels, stride);
    }
}

/// The product for some tokens and some columns.
struct Task<'a, 'b, W: 'static, A, Y> {
    dense: &'a Dense<'a, W, A>,
    task: &'a mut Tile<'b, Y>,
}

impl<W: Word + Operand, A: Fill<W>, Y: Activation> Loop for Task<'_, '_, W, A, Y> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { dense, task } = self;
        let (product, (all_steps, _)) = (dense.product, dense.dims());
        let tokens = task.rows.len();
        let slices = task.columns.len().div_ceil(product.columns);
        let stride = CHUNK * product.columns + PANEL_GAP;
        let lengths = [tokens * ROW_STRIDE, slices * stride, tokens * slices * product.columns];
        let mut memory = Scratch::new(lengths);
        let mut memory = memory.cut();
        let [left, right] = memory.slices([lengths[0], lengths[1]]);
        let [memory] = memory.slices([lengths[2]]);
        let mut sums = Sums { memory, tokens, columns: product.columns };
        for first in (0..all_steps).step_by(CHUNK * W::DEPTH) {
            let range = first..all_steps.min(first + CHUNK * W::DEPTH);
            let steps = range.len().div_ceil(W::DEPTH);
            dense.unpack(range.clone(), task.columns.clone(), right, stride);
            for (token, left) in task.rows.clone().zip(left.chunks_exact_mut(ROW_STRIDE)) {
                A::fill_along(&dense.left[token * all_steps..][range.clone()], left);
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
                Y::narrow(&sums.tile(slice, token, 1)[..piece.len()], piece);
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
