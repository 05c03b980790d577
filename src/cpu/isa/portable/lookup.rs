//! The product by look-up on 8 lanes.

use std::ops::Range;

use crate::cpu::isa::forward::{Lookup, Offsets, TERM_SUMS};
use crate::cpu::matmul::terms::{CHUNK_INPUTS, CHUNK_TERMS, Chunk, TERM_INPUTS};
use crate::trits::{PLACES, TRITS_PER_BYTE, TernaryMatrix};

const LANES: usize = 8;
/// Bytes of an entry of the tables.
const ENTRY: usize = 4 * LANES;

/// The portable product by look-up.
pub static LOOKUP: Lookup<LANES> = Lookup { name: "portable lookup, 8 lanes", offsets, tables, accumulate, transpose };

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
pub fn offsets(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: [&mut [Offsets]; 2]) {
    let layout = matrix.layout();
    for (chunk, to) in chunks.iter().zip(to) {
        let places: [(usize, usize, usize); CHUNK_TERMS] = std::array::from_fn(|term| {
            let input = chunk.input_at(term * TERM_INPUTS).unwrap_or(chunk.first_input());
            let (group, position) = (input / layout.group_size(), input % layout.group_size());
            let byte = group * layout.group_bytes() + position / TRITS_PER_BYTE;
            (byte, (byte + 1).min(layout.row_bytes() - 1), position % TRITS_PER_BYTE)
        });
        for (row, to) in rows.clone().zip(to) {
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

#[inline(always)]
fn each<const N: usize>(a: [f32; N], b: [f32; N], operation: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|lane| operation(a[lane], b[lane]))
}

/// The nine signed sums of two inputs, the first one's coefficient fastest.
#[inline(always)]
fn pair(a: [f32; LANES], b: [f32; LANES]) -> [[f32; LANES]; 9] {
    let (zero, sum, difference) = ([0.0; LANES], each(a, b, |a, b| a + b), each(a, b, |a, b| a - b));
    let minus = |value| each(zero, value, |zero, value| zero - value);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}

pub fn tables(panel: &[[f32; LANES]; CHUNK_INPUTS], terms: usize, tables: &mut [[f32; LANES]]) {
    for (inputs, table) in panel.as_chunks::<TERM_INPUTS>().0.iter().zip(tables.as_chunks_mut::<TERM_SUMS>().0).take(terms) {
        let (low, high) = (pair(inputs[0], inputs[1]), pair(inputs[2], inputs[3]));
        for (entries, high) in table.as_chunks_mut::<9>().0.iter_mut().zip(high) {
            for (entry, low) in entries.iter_mut().zip(low) {
                *entry = each(low, high, |low, high| low + high);
            }
        }
    }
}

fn accumulate(chunk: &Chunk, tables: &[[f32; LANES]], offsets: &[Offsets], scales: &[f32], sums: &mut [[f32; LANES]]) {
    let (terms, slots) = (chunk.terms, chunk.group_slots());
    for ((offsets, scales), sums) in offsets.iter().zip(scales.chunks_exact(slots)).zip(sums) {
        let entry = |term: usize| &tables[(offsets[term / 2] >> (16 * (term % 2)) & 0xFFFF) as usize / ENTRY];
        for (slot, scale) in scales.iter().enumerate() {
            let first = slot * terms;
            let partial = (first + 1..first + terms).fold(*entry(first), |sum, term| each(sum, *entry(term), |a, b| a + b));
            *sums = each(*sums, partial, |sum, partial| sum + scale * partial);
        }
    }
}

pub fn transpose<const LANES: usize>(from: &[f32], stride: usize, to: &mut [[f32; LANES]; LANES]) {
    for row in 0..LANES {
        for (to, from) in to.iter_mut().zip(&from[row * stride..][..LANES]) {
            to[row] = *from;
        }
    }
}
