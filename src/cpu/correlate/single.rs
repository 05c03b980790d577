//! One token: the sign of `dy[o] x[i]` is the product of two signs, so that rows only differ in their trits.

use super::counts::{Counter, whole_groups};
use crate::cpu::isa::backward::{BIT_COLUMNS, Backward, CountPieces, PIECES, Pieces, SignBits, TritBits};
use crate::cpu::isa::{Loop, vectorise};
use crate::cpu::threads;
use crate::float::Activation;
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Rows of a task.
const ROWS: usize = 128;
/// Work of a packed byte.
const WORK: usize = threads::PER_NANOSECOND / 10;

/// The scores of one token whose products all keep their signs; see [`super::correlate`].
pub fn correlate<A: Activation>(kernels: &Backward, x: &[A], dy: &[A], matrix: TernaryMatrix<'_>, score: &mut [f32]) {
    let sign = |value: &A| i8::from(value.to_f32() > 0.0) - i8::from(value.to_f32() < 0.0);
    let [x, dy] = [x, dy].map(|values| values.iter().map(sign).collect::<Vec<_>>());
    let layout = matrix.layout();
    let work = WORK * dy.len() * layout.row_bytes();
    match kernels.count_pieces {
        Some(count) if layout.group_bytes() > 1 => {
            log::debug!("correlate: one token by bytes, {} threads", threads::count());
            let pieces = pieces_of_row(layout, &x);
            threads::for_each_block(score, ROWS * layout.groups(), work, |index, score| {
                let task = ByBytes { count, dy: &dy, matrix, first_row: index * ROWS, pieces: &pieces, score };
                vectorise(kernels.tier, task);
            });
        }
        _ => {
            log::debug!("correlate: one token by bits, {} threads", threads::count());
            let blocks = blocks_of_row(layout, &x, kernels);
            threads::for_each_block(score, ROWS * layout.groups(), work, |index, score| {
                let task = ByBits { kernels, dy: &dy, matrix, first_row: index * ROWS, blocks: &blocks, score };
                vectorise(kernels.tier, task);
            });
        }
    }
}

/// Bytes of a group of which pieces have [`PIECES`] and the last one what is left.
fn pieces_of_group(layout: GroupLayout) -> usize {
    layout.group_bytes().div_ceil(PIECES)
}

/// A row cut into pieces of groups, with the signs of its inputs.
fn pieces_of_row(layout: GroupLayout, signs: &[i8]) -> Vec<Pieces> {
    let (groups, bytes) = (layout.groups(), layout.group_bytes());
    let ranges: Vec<_> = (0..groups)
        .flat_map(|group| (0..bytes).step_by(PIECES).map(move |first| group * bytes + first..group * bytes + bytes.min(first + PIECES)))
        .collect();
    let run = |ranges: &[std::ops::Range<usize>]| {
        let first_byte = ranges[0].start;
        let mut run = Pieces { first_byte, count: ranges.len(), ..Pieces::EMPTY };
        for (piece, range) in ranges.iter().enumerate() {
            for (lane, byte) in range.clone().enumerate() {
                let (at, lane) = (byte - first_byte, piece * PIECES + lane);
                run.there |= 1 << at;
                run.taken |= 1 << lane;
                run.select[lane] = at as u8;
                let (group, position) = (byte / bytes, byte % bytes * TRITS_PER_BYTE);
                let inputs = position..layout.group_len(group).min(position + TRITS_PER_BYTE);
                for (place, input) in inputs.enumerate() {
                    match signs[group * layout.group_size() + input] {
                        1 => run.positive[at] |= 1 << place,
                        -1 => run.negative[at] |= 1 << place,
                        _ => {}
                    }
                }
            }
        }
        run
    };
    ranges.chunks(PIECES).map(run).collect()
}

/// The scores of up to [`ROWS`] rows by pieces of groups.
struct ByBytes<'a> {
    count: CountPieces,
    dy: &'a [i8],
    matrix: TernaryMatrix<'a>,
    first_row: usize,
    pieces: &'a [Pieces],
    score: &'a mut [f32],
}

impl Loop for ByBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { count, dy, matrix, first_row, pieces, score } = self;
        let (groups, pieces_of_group) = (matrix.layout().groups(), pieces_of_group(matrix.layout()));
        if pieces_of_group == 1 {
            let rows = first_row..first_row + score.len() / groups;
            return count(pieces, matrix, rows.clone(), &dy[rows], score);
        }
        let mut counts = vec![0.0; groups * pieces_of_group];
        for (row, scores) in (first_row..).zip(score.chunks_exact_mut(groups)) {
            count(pieces, matrix, row..row + 1, &dy[row..=row], &mut counts);
            for (score, counts) in scores.iter_mut().zip(counts.chunks_exact(pieces_of_group)) {
                *score = counts.iter().sum();
            }
        }
    }
}

/// Some columns and the signs of their inputs.
struct Block {
    columns: std::ops::Range<usize>,
    counter: Counter,
    signs: SignBits,
}

fn blocks_of_row(layout: GroupLayout, signs: &[i8], kernels: &Backward) -> Vec<Block> {
    let inputs: Vec<f32> = signs.iter().map(|&sign| sign.into()).collect();
    let block = |first: usize| {
        let columns = first..inputs.len().min(first + BIT_COLUMNS);
        let mut signs = SignBits::default();
        (kernels.sign_bits)(&inputs[columns.clone()], &mut signs);
        Block { counter: Counter::new(layout, BIT_COLUMNS, columns.clone()), columns, signs }
    };
    (0..inputs.len()).step_by(BIT_COLUMNS).map(block).collect()
}

/// The scores of up to [`ROWS`] rows by the bits of their trits.
struct ByBits<'a> {
    kernels: &'a Backward,
    dy: &'a [i8],
    matrix: TernaryMatrix<'a>,
    first_row: usize,
    blocks: &'a [Block],
    score: &'a mut [f32],
}

impl Loop for ByBits<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { kernels, dy, matrix, first_row, blocks, score } = self;
        let groups = matrix.layout().groups();
        let rows = first_row..first_row + score.len() / groups;
        let mut trits = [TritBits::default(); ROWS];
        if !whole_groups(matrix.layout(), BIT_COLUMNS) {
            score.fill(0.0);
        }
        for Block { columns, counter, signs } in blocks {
            (kernels.trit_bits)(matrix, rows.clone(), columns.clone(), &mut trits[..rows.len()]);
            for (trits, scores) in trits.iter().zip(score.chunks_exact_mut(groups)) {
                counter.count(trits, signs, scores, 0);
            }
        }
        for (&sign, scores) in dy[rows].iter().zip(score.chunks_exact_mut(groups)) {
            scores.iter_mut().for_each(|score| *score *= f32::from(sign));
        }
    }
}
