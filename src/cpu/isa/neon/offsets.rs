//! The offsets of the product by look-up, eight terms at a time.
//!
//! A term of four trits lies in one or two of the eight bytes where its chunk begins. With `place` the digit at which it starts,
//! its index is `byte / 3^place + (next % 3^(place - 1)) * 3^(5 - place)`: two quotients by constants that differ from lane to lane.

use std::arch::aarch64::*;
use std::ops::Range;

use super::digits::{BYTES, QUOTIENTS, packed};
use crate::cpu::isa::forward::TERM_SUMS;
use crate::cpu::isa::prefetch;
use crate::cpu::matmul::terms::{Chunk, MOST_TERMS, TermPlace};
use crate::trits::{PLACES, TernaryMatrix};

/// Rows whose offsets are written for all chunks before those of the next ones, whose bytes are fetched meanwhile.
const SOME_ROWS: usize = 16;
/// How the offsets of a chunk follow from the eight bytes where it begins; a lane is a term.
struct Terms {
    /// The first byte in the row.
    first_byte: usize,
    /// The byte in which the term starts.
    bytes: [u8; MOST_TERMS],
    /// The byte that holds the rest of it, or all of it where it starts a byte.
    rest: [u8; MOST_TERMS],
    /// The quotient of `bytes`, none where the term starts a byte.
    factors: [u8; MOST_TERMS],
    shifts: [i16; MOST_TERMS],
    /// The quotient of `rest`.
    rest_factors: [u8; MOST_TERMS],
    rest_shifts: [i16; MOST_TERMS],
    /// What one of `rest` adds to the offset.
    steps: [u16; MOST_TERMS],
    /// What one of the quotient of `rest` takes off, so that the remainder counts.
    wraps: [u16; MOST_TERMS],
    /// Where the sums of the term begin.
    starts: [u16; MOST_TERMS],
}

impl Terms {
    /// For entries of `entry` bytes.
    fn new(chunk: &Chunk, entry: usize) -> Self {
        let first_byte = chunk.first_byte();
        let mut terms = Self {
            first_byte,
            bytes: [0; _],
            rest: [0; _],
            factors: [0; _],
            shifts: [0; _],
            rest_factors: [0; _],
            rest_shifts: [0; _],
            steps: [0; _],
            wraps: [0; _],
            starts: [0; _],
        };
        for term in 0..MOST_TERMS {
            let TermPlace { byte, quotient, rest, remainder, step } = chunk.term_place(term);
            assert!(rest - first_byte < BYTES, "a chunk of {BYTES} bytes");
            terms.bytes[term] = (byte - first_byte) as u8;
            terms.rest[term] = (rest - first_byte) as u8;
            if let Some(power) = quotient {
                let (factor, shift) = QUOTIENTS[power];
                (terms.factors[term], terms.shifts[term]) = (factor, -shift);
            }
            let (factor, shift) = QUOTIENTS[remainder];
            (terms.rest_factors[term], terms.rest_shifts[term]) = (factor, -shift);
            terms.steps[term] = (step * entry) as u16;
            terms.wraps[term] = (step * entry * usize::from(PLACES[remainder])) as u16;
            terms.starts[term] = (term * TERM_SUMS * entry) as u16;
        }
        terms
    }

    /// The offsets of some rows, whose first bytes `from` yields.
    #[inline]
    #[target_feature(enable = "neon")]
    fn write(&self, entry: usize, from: impl Iterator<Item = [u8; BYTES]>, to: &mut [[u32; MOST_TERMS / 2]]) {
        let bytes_of = |values: &[u8; MOST_TERMS]| {
            // SAFETY: the array has 8 bytes.
            unsafe { vld1_u8(values.as_ptr()) }
        };
        let halves_of = |values: &[u16; MOST_TERMS]| {
            // SAFETY: the array has 16 bytes.
            unsafe { vld1q_u16(values.as_ptr()) }
        };
        let shifts_of = |values: &[i16; MOST_TERMS]| {
            // SAFETY: the array has 16 bytes.
            unsafe { vld1q_s16(values.as_ptr()) }
        };
        let [bytes, rest, factors, rest_factors] = [&self.bytes, &self.rest, &self.factors, &self.rest_factors].map(bytes_of);
        let [shifts, rest_shifts] = [&self.shifts, &self.rest_shifts].map(shifts_of);
        let [steps, wraps, starts] = [&self.steps, &self.wraps, &self.starts].map(halves_of);
        let entry = vdupq_n_u16(entry as u16);
        for (from, to) in from.zip(to) {
            let packed = packed(&from);
            let (first, second) = (vtbl1_u8(packed, bytes), vtbl1_u8(packed, rest));
            let quotient = vshlq_u16(vmull_u8(first, factors), shifts);
            let rest_quotient = vshlq_u16(vmull_u8(second, rest_factors), rest_shifts);
            let offsets = vmlaq_u16(starts, quotient, entry);
            let offsets = vmlsq_u16(vmlaq_u16(offsets, vmovl_u8(second), steps), rest_quotient, wraps);
            // SAFETY: four words have 16 bytes.
            unsafe { vst1q_u32(to.as_mut_ptr(), vreinterpretq_u32_u16(offsets)) };
        }
    }
}

/// The offsets of `rows` for tables of `LANES` lanes: see [`Lookup::offsets`](crate::cpu::isa::forward::Lookup::offsets).
pub fn offsets<const LANES: usize>(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: &mut [u32], stride: usize) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { offsets_of_chunks(matrix, rows, chunks, size_of::<[f32; LANES]>(), to, stride) }
}

#[target_feature(enable = "neon")]
fn offsets_of_chunks(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], entry: usize, to: &mut [u32], stride: usize) {
    let (all, row_bytes) = (matrix.bytes(), matrix.layout().row_bytes());
    let terms: Vec<_> = chunks.iter().map(|chunk| Terms::new(chunk, entry)).collect();
    let (Some(first), Some(last)) = (terms.first(), terms.last()) else { return };
    let fetched = first.first_byte..row_bytes.min(last.first_byte + BYTES);
    for start in rows.clone().step_by(SOME_ROWS) {
        let some = start..rows.end.min(start + SOME_ROWS);
        for row in some.end..rows.end.min(some.end + SOME_ROWS) {
            prefetch(&matrix.row(row)[fetched.clone()]);
        }
        for (terms, to) in terms.iter().zip(to.chunks_mut(stride)) {
            let to = &mut to.as_chunks_mut::<{ MOST_TERMS / 2 }>().0[start - rows.start..][..some.len()];
            let from = &all[start * row_bytes + terms.first_byte..];
            // The bytes of the last rows may end beyond those of the matrix.
            let whole = some.len().min((from.len() + row_bytes).saturating_sub(BYTES) / row_bytes);
            let (to, to_rest) = to.split_at_mut(whole);
            let at = |row: usize| &from[row * row_bytes..];
            terms.write(entry, (0..whole).map(|row| *at(row).first_chunk().unwrap_or(&[0; BYTES])), to);
            let padded = |bytes: &[u8]| std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default());
            terms.write(entry, (whole..some.len()).map(|row| padded(at(row))), to_rest);
        }
    }
}
