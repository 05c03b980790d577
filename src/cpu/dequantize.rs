//! The dense matrix `S * T`, for those who want to see it: no kernel of a training step makes one.

use super::threads;
use crate::trits::{GroupLayout, TRITS_OF_BYTE, TRITS_PER_BYTE, TernaryMatrix};

/// Work of one weight.
const WORK: usize = threads::PER_NANOSECOND / 3;
/// Weights that one task writes.
const BLOCK: usize = 1 << 15;

/// The five trits of every byte as float32 and three zeros, so that a look-up is whole vectors.
pub(crate) static FLOATS_OF_BYTE: [[f32; 8]; 256] = {
    let mut table = [[0.0; 8]; 256];
    let mut entry = 0;
    while entry < 256 * TRITS_PER_BYTE {
        let (byte, place) = (entry / TRITS_PER_BYTE, entry % TRITS_PER_BYTE);
        table[byte][place] = TRITS_OF_BYTE[byte][place] as f32;
        entry += 1;
    }
    table
};

/// Writes `scale[g] * T` of the inputs of one row.
pub(crate) fn dequantize_row(packed: &[u8], scale: &[f32], layout: GroupLayout, weights: &mut [f32]) {
    let groups = weights.chunks_mut(layout.group_size()).zip(packed.chunks_exact(layout.group_bytes())).zip(scale);
    for ((weights, bytes), &scale) in groups {
        for (five, &byte) in weights.chunks_mut(TRITS_PER_BYTE).zip(bytes) {
            for (weight, trit) in five.iter_mut().zip(FLOATS_OF_BYTE[usize::from(byte)]) {
                *weight = scale * trit;
            }
        }
    }
}

/// `weights[o, i] = scale[o, i / group_size] * T[o, i]`, float32 `[out, in]`.
pub fn dequantize(matrix: TernaryMatrix<'_>, scale: &[f32], weights: &mut [f32]) {
    let layout = matrix.layout();
    let rows = (BLOCK / layout.in_dim()).max(1);
    threads::for_each_block(weights, rows * layout.in_dim(), WORK * weights.len(), |block, weights| {
        for (index, weights) in weights.chunks_exact_mut(layout.in_dim()).enumerate() {
            let row = block * rows + index;
            dequantize_row(matrix.row(row), &scale[row * layout.groups()..][..layout.groups()], layout, weights);
        }
    });
}
