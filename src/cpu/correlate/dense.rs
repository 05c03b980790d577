//! The scores of a gradient that lies in memory.

use super::counts::{Counter, whole_groups};
use crate::cpu::isa::backward::{BIT_COLUMNS, Backward, SignBits, TritBits};
use crate::cpu::isa::{Loop, Tier, vectorise};
use crate::cpu::threads;
use crate::trits::TernaryMatrix;

/// Work of an element of the gradient.
const WORK: usize = threads::PER_NANOSECOND / 5;
/// Rows of a task.
const ROWS: usize = 16;

/// The scores of a dense gradient `dw [out, in]` that had to be reduced first.
pub fn correlate_dense(dw: &[f32], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    correlate_dense_on(Tier::chosen(), dw, matrix, score);
}

/// [`correlate_dense`] on a tier of this machine.
pub fn correlate_dense_on(tier: Tier, dw: &[f32], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let (kernels, layout) = (Backward::of(tier), matrix.layout());
    let blocks: Vec<_> = (0..layout.in_dim())
        .step_by(BIT_COLUMNS)
        .map(|first| first..layout.in_dim().min(first + BIT_COLUMNS))
        .map(|columns| (columns.clone(), Counter::new(layout, BIT_COLUMNS, columns)))
        .collect();
    threads::for_each_block(score, ROWS * layout.groups(), WORK * dw.len(), |index, score| {
        vectorise(tier, Task { kernels: &kernels, dw, matrix, first_row: index * ROWS, blocks: &blocks, score });
    });
}

/// The scores of up to [`ROWS`] rows.
struct Task<'a> {
    kernels: &'a Backward,
    dw: &'a [f32],
    matrix: TernaryMatrix<'a>,
    first_row: usize,
    blocks: &'a [(std::ops::Range<usize>, Counter)],
    score: &'a mut [f32],
}

impl Loop for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { kernels, dw, matrix, first_row, blocks, score } = self;
        let (in_dim, groups) = (matrix.layout().in_dim(), matrix.layout().groups());
        let rows = first_row..first_row + score.len() / groups;
        let (mut trits, mut signs) = ([TritBits::default(); ROWS], SignBits::default());
        if !whole_groups(matrix.layout(), BIT_COLUMNS) {
            score.fill(0.0);
        }
        for (columns, counter) in blocks {
            (kernels.trit_bits)(matrix, rows.clone(), columns.clone(), &mut trits[..rows.len()]);
            for ((row, trits), scores) in rows.clone().zip(&trits).zip(score.chunks_exact_mut(groups)) {
                (kernels.sign_bits)(&dw[row * in_dim..][columns.clone()], &mut signs);
                counter.count(trits, &signs, scores, 0);
            }
        }
    }
}
