//! What the product by look-up needs beside its tables, on 8 lanes: offsets and transposes.
//!
//! The portable tier itself has no product by look-up: without gathers of packed digits its offsets cost more than they save, and
//! tables of bytes are faster for any number of tokens.

use std::ops::Range;

use crate::cpu::isa::forward::TERM_SUMS;
use crate::cpu::matmul::terms::{Chunk, MOST_TERMS, TERM_INPUTS};
use crate::trits::{PLACES, TRITS_PER_BYTE, TernaryMatrix};

const LANES: usize = 8;
/// Bytes of an entry of the tables.
const ENTRY: usize = 4 * LANES;

/// `[place][byte]`: what the digits of a byte from `place` on add to the index of a term that starts there.
static HEADS: [[u8; 256]; TRITS_PER_BYTE] = {
    let mut heads = [[0; 256]; TRITS_PER_BYTE];
    let mut place = 0;
    while place < TRITS_PER_BYTE {
        let mut byte = 0;
        while byte < 256 {
            heads[place][byte] = (byte % 243 / PLACES[place] as usize % TERM_SUMS) as u8;
            byte += 1;
        }
        place += 1;
    }
    heads
};

/// `[place][byte]`: what the digits of the next byte add to the index of a term that starts at `place` of the byte before.
static TAILS: [[u8; 256]; TRITS_PER_BYTE] = {
    let mut tails = [[0; 256]; TRITS_PER_BYTE];
    let mut place = 2;
    while place < TRITS_PER_BYTE {
        let mut byte = 0;
        while byte < 256 {
            let before = TRITS_PER_BYTE - place;
            tails[place][byte] = (byte % 3usize.pow((TERM_INPUTS - before) as u32) * PLACES[before] as usize) as u8;
            byte += 1;
        }
        place += 1;
    }
    tails
};

/// The offsets of rows, one table look-up for every byte that a term touches. Digits past the end of a group are another
/// group's or anything: their inputs are zero.
pub fn offsets(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: &mut [u32], stride: usize) {
    let layout = matrix.layout();
    for (chunk, to) in chunks.iter().zip(to.chunks_mut(stride)) {
        let places: [(usize, usize, usize); MOST_TERMS] = std::array::from_fn(|term| {
            let input = chunk.input_at(term * TERM_INPUTS).unwrap_or(chunk.first_input());
            let (group, position) = (input / layout.group_size(), input % layout.group_size());
            let byte = group * layout.group_bytes() + position / TRITS_PER_BYTE;
            (byte, (byte + 1).min(layout.row_bytes() - 1), position % TRITS_PER_BYTE)
        });
        for (row, to) in rows.clone().zip(to.as_chunks_mut::<{ MOST_TERMS / 2 }>().0) {
            let bytes = matrix.row(row);
            let offset = |term: usize| {
                let (byte, next, place) = places[term];
                let index = HEADS[place][usize::from(bytes[byte])] + TAILS[place][usize::from(bytes[next])];
                ((term * TERM_SUMS + usize::from(index)) * ENTRY) as u32
            };
            *to = std::array::from_fn(|pair| offset(2 * pair) | offset(2 * pair + 1) << 16);
        }
    }
}

/// `to[column * to_stride + row] = from[row * stride + column]` for 8 rows and as many columns, up to 8, as `to` has room for.
pub fn transpose(from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
    for (column, to) in to.chunks_mut(to_stride).take(LANES).enumerate() {
        for (row, to) in to.iter_mut().take(LANES).enumerate() {
            *to = from[row * stride + column];
        }
    }
}
