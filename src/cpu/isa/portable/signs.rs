//! Trits and gradient signs as bits.

use std::ops::Range;

use super::panel::for_bytes;
use crate::cpu::isa::backward::{Agreement, TritMask};
use crate::trits::{PLACES, TRITS_PER_BYTE, TernaryMatrix};

/// The columns of trit +1 and of trit -1 of every byte, as five bits each; bytes above 242 read modulo 243.
static SIGNS: [[u8; 2]; 256] = {
    let mut table = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut place = 0;
        while place < TRITS_PER_BYTE {
            match byte / PLACES[place] as usize % 3 {
                2 => table[byte][0] |= 1 << place,
                0 => table[byte][1] |= 1 << place,
                _ => {}
            }
            place += 1;
        }
        byte += 1;
    }
    table
};

/// Trit masks in slices of `width` columns.
pub fn trit_masks(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, width: usize, masks: &mut [TritMask]) {
    let count = rows.len();
    masks.fill(TritMask::default());
    for (index, row) in rows.enumerate() {
        for_bytes(matrix, row, columns.clone(), |byte, place, columns, _| {
            let kept = (1 << columns.len()) - 1;
            let [plus, minus] = SIGNS[usize::from(byte)].map(|bits| u64::from(bits >> place & kept) << (columns.start % width));
            let slice = columns.start / width;
            let mut merge = |slice: usize, shift: usize| {
                if let Some(mask) = masks.get_mut(slice * count + index) {
                    mask.plus |= (plus >> shift) as u32 & low_bits(width);
                    mask.minus |= (minus >> shift) as u32 & low_bits(width);
                }
            };
            merge(slice, 0);
            merge(slice + 1, width);
        });
    }
}

/// The lowest `count` bits, 1 to 32.
fn low_bits(count: usize) -> u32 {
    u32::MAX >> (32 - count)
}

/// Compares rows of gradients with their masks.
pub fn compare(gradients: &[f32], masks: &[TritMask], agreements: &mut [Agreement]) {
    let width = gradients.len() / masks.len().max(1);
    for ((row, mask), agreement) in gradients.chunks_exact(width.max(1)).zip(masks).zip(agreements) {
        let (mut positive, mut negative) = (0, 0);
        for (column, &gradient) in row.iter().enumerate() {
            positive |= u32::from(gradient > 0.0) << column;
            negative |= u32::from(gradient < 0.0) << column;
        }
        *agreement = mask.compare(positive, negative);
    }
}
