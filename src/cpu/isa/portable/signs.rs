//! Trits and gradient signs as bits.

use std::ops::Range;

use super::panel::for_bytes;
use crate::cpu::isa::backward::{BIT_COLUMNS, SignBits, TritBits};
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

/// The trits of some rows as bits.
pub fn trit_bits(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, bits: &mut [TritBits]) {
    assert!(columns.len() <= BIT_COLUMNS && bits.len() == rows.len(), "{rows:?} and {columns:?}");
    for (row, bits) in rows.zip(bits) {
        *bits = TritBits::default();
        for_bytes(matrix, row, columns.clone(), |byte, place, columns, _| {
            let kept = (1 << columns.len()) - 1;
            let (word, shift) = (columns.start / 32, columns.start % 32);
            for (words, signs) in [&mut bits.plus, &mut bits.minus].into_iter().zip(SIGNS[usize::from(byte)]) {
                let signs = u64::from(signs >> place & kept) << shift;
                words[word] |= signs as u32;
                if let Some(next) = words.get_mut(word + 1) {
                    *next |= (signs >> 32) as u32;
                }
            }
        });
    }
}

/// The positive and the negative ones of up to 32 gradients.
#[inline(always)]
pub fn sign_words(gradients: &[f32]) -> (u32, u32) {
    let (mut positive, mut negative) = (0, 0);
    for (column, &gradient) in gradients.iter().enumerate() {
        positive |= u32::from(gradient > 0.0) << column;
        negative |= u32::from(gradient < 0.0) << column;
    }
    (positive, negative)
}

/// The signs of a row of gradients.
pub fn sign_bits(gradients: &[f32], signs: &mut SignBits) {
    for (word, gradients) in gradients.chunks(32).enumerate() {
        (signs.positive[word], signs.negative[word]) = sign_words(gradients);
    }
}
