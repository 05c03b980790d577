//! Packed trits and scales into right panels, five trits by one look-up.

use std::ops::Range;

use crate::cpu::dequantize::FLOATS_OF_BYTE;
use crate::trits::{TRITS_PER_BYTE, TernaryMatrix};

/// Calls `body(byte, first, columns)` for the bytes of `row` that hold columns of the range: `columns` are columns of the
/// range, counted from its start, and `first` is the place of the first one in the byte.
#[inline(always)]
pub fn for_bytes(matrix: TernaryMatrix<'_>, row: usize, range: Range<usize>, mut body: impl FnMut(u8, usize, Range<usize>, usize)) {
    let (layout, bytes) = (matrix.layout(), matrix.row(row));
    let (mut group, mut position) = (range.start / layout.group_size(), range.start % layout.group_size());
    let mut column = range.start;
    while column < range.end {
        let group_end = range.end.min((column - position).saturating_add(layout.group_size()));
        let bytes = &bytes[group * layout.group_bytes()..][..layout.group_bytes()];
        let mut place = position % TRITS_PER_BYTE;
        for &byte in &bytes[position / TRITS_PER_BYTE..] {
            if column >= group_end {
                break;
            }
            let end = group_end.min(column + TRITS_PER_BYTE - place);
            body(byte, place, column - range.start..end - range.start, group);
            (column, place) = (end, 0);
        }
        (group, position) = (group + 1, 0);
    }
}

/// Floats that the last look-up of a row may write past its end.
const BEYOND: usize = 8;

/// `S T` of some columns of a row, and up to [`BEYOND`] floats more.
#[inline(always)]
fn unpack(matrix: TernaryMatrix<'_>, scale: &[f32], row: usize, columns: Range<usize>, unpacked: &mut [f32]) {
    let groups = matrix.layout().groups();
    let scale = &scale[row * groups..][..groups];
    for_bytes(matrix, row, columns, |byte, place, columns, group| {
        let trits = &FLOATS_OF_BYTE[usize::from(byte)];
        if place == 0 {
            for (weight, trit) in unpacked[columns.start..columns.start + BEYOND].iter_mut().zip(trits) {
                *weight = scale[group] * trit;
            }
        } else {
            for (weight, trit) in unpacked[columns].iter_mut().zip(&trits[place..]) {
                *weight = scale[group] * trit;
            }
        }
    });
}

/// `S T` as float32 in panels of `COLUMNS` columns, one row per step.
pub fn weights<const COLUMNS: usize>(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    let mut unpacked = vec![0.0; columns.len().next_multiple_of(COLUMNS) + BEYOND];
    for (step, row) in rows.enumerate() {
        unpack(matrix, scale, row, columns.clone(), &mut unpacked);
        for (panel, weights) in unpacked.as_chunks::<COLUMNS>().0.iter().take(columns.len().div_ceil(COLUMNS)).enumerate() {
            panels[panel * stride + step * COLUMNS..][..COLUMNS].copy_from_slice(weights);
        }
    }
}

/// The transpose of `S T` as float32 in panels of `COLUMNS` rows, one column per step.
pub fn transposed<const COLUMNS: usize>(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    let length = columns.len() + BEYOND;
    let mut unpacked = vec![0.0; COLUMNS * length];
    for (first, panel) in rows.clone().step_by(COLUMNS).zip(panels.chunks_mut(stride)) {
        for (row, unpacked) in (first..rows.end).zip(unpacked.chunks_exact_mut(length)) {
            unpack(matrix, scale, row, columns.clone(), unpacked);
        }
        for (step, weights) in panel.as_chunks_mut::<COLUMNS>().0.iter_mut().take(columns.len()).enumerate() {
            for (row, weight) in weights.iter_mut().enumerate() {
                *weight = unpacked[row * length + step];
            }
        }
    }
}
