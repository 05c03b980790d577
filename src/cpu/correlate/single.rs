//! One token: the sign of `dy[o] x[i]` is the product of two signs, so that rows only differ in their trits.

use crate::cpu::isa::backward::{BIT_COLUMNS, Backward, SignBits, TritBits};
use crate::cpu::isa::{Loop, vectorise};
use crate::cpu::threads;
use crate::float::Activation;
use crate::trits::TernaryMatrix;

use super::counts::{Counter, whole_groups};

/// The signs of zeros.
const NONE: SignBits = SignBits { positive: [0; BIT_COLUMNS / 32], negative: [0; BIT_COLUMNS / 32] };
/// Rows of a task.
const ROWS: usize = 128;

/// The scores of one token whose products all keep their signs; see [`super::correlate`].
pub fn correlate<A: Activation>(kernels: &Backward, x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let layout = matrix.layout();
    let mut inputs = vec![0.0; x.len()];
    A::widen(x, &mut inputs);
    let blocks: Vec<_> = (0..x.len())
        .step_by(BIT_COLUMNS)
        .map(|first| {
            let columns = first..x.len().min(first + BIT_COLUMNS);
            let mut signs = SignBits::default();
            (kernels.sign_bits)(&inputs[columns.clone()], &mut signs);
            let opposite = SignBits { positive: signs.negative, negative: signs.positive };
            Block { counter: Counter::new(layout, BIT_COLUMNS, columns.clone()), columns, signs, opposite }
        })
        .collect();
    log::debug!("correlate: one token, {} threads", threads::count());
    threads::for_each_block(score, ROWS * layout.groups(), x.len() * dy.len() / 8, |index, score| {
        vectorise(kernels.tier, Task { kernels, dy: &dy[index * ROWS..], matrix, first_row: index * ROWS, blocks: &blocks, score });
    });
}

/// Some columns, the signs of their inputs and the opposite ones.
struct Block {
    columns: std::ops::Range<usize>,
    counter: Counter,
    signs: SignBits,
    opposite: SignBits,
}

/// The scores of up to [`ROWS`] rows.
struct Task<'a, A> {
    kernels: &'a Backward,
    dy: &'a [A],
    matrix: TernaryMatrix<'a>,
    first_row: usize,
    blocks: &'a [Block],
    score: &'a mut [f32],
}

impl<A: Activation> Loop for Task<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { kernels, dy, matrix, first_row, blocks, score } = self;
        let groups = matrix.layout().groups();
        let rows = score.len() / groups;
        let mut trits = [TritBits::default(); ROWS];
        if !whole_groups(matrix.layout(), BIT_COLUMNS) {
            score.fill(0.0);
        }
        for Block { columns, counter, signs, opposite } in blocks {
            (kernels.trit_bits)(matrix, first_row..first_row + rows, columns.clone(), &mut trits[..rows]);
            for ((trits, dy), scores) in trits.iter().zip(dy).zip(score.chunks_exact_mut(groups)) {
                let dy = dy.to_f32();
                let signs = if dy > 0.0 {
                    signs
                } else if dy < 0.0 {
                    opposite
                } else {
                    &NONE
                };
                counter.count(trits, signs, scores, 0);
            }
        }
    }
}
