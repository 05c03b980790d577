//! The product by look-up on 16 lanes in four registers or, where the L1 cache is small, 8 lanes in two.

use std::arch::aarch64::*;

use super::offsets::offsets;
use crate::cpu::cache;
use crate::cpu::isa::forward::{Lanes, Lookup, TERM_SUMS};
use crate::cpu::matmul::terms::{Chunk, MOST_TERMS, TERM_INPUTS};

/// The product with tables of 41.5 KB: one offset serves 16 tokens.
pub static SIXTEEN: Lookup<16> = Lookup {
    name: "neon lookup, 16 lanes",
    chunk_terms: MOST_TERMS,
    offsets: offsets::<16>,
    tables: tables::<16>,
    accumulate: accumulate::<16, 4>,
    transpose: transpose::<16>,
};

/// The product with tables of 20.7 KB.
pub static EIGHT: Lookup<8> = Lookup {
    name: "neon lookup, 8 lanes",
    chunk_terms: MOST_TERMS,
    offsets: offsets::<8>,
    tables: tables::<8>,
    accumulate: accumulate::<8, 2>,
    transpose: transpose::<8>,
};

/// The product for the caches of this machine.
pub fn for_caches(sizes: cache::Sizes) -> Lanes {
    if sizes.l1_data > SIXTEEN.table_bytes() { Lanes::Sixteen(&SIXTEEN) } else { Lanes::Eight(&EIGHT) }
}

/// The nine signed sums of two inputs, the first one's coefficient fastest.
#[inline]
#[target_feature(enable = "neon")]
fn pair(a: float32x4_t, b: float32x4_t) -> [float32x4_t; 9] {
    let (zero, sum, difference) = (vdupq_n_f32(0.0), vaddq_f32(a, b), vsubq_f32(a, b));
    let minus = |value| vsubq_f32(zero, value);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}

fn tables<const LANES: usize>(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_terms(panel, tables) }
}

#[target_feature(enable = "neon")]
fn tables_of_terms<const LANES: usize>(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    for (inputs, table) in panel.as_chunks::<TERM_INPUTS>().0.iter().zip(tables.as_chunks_mut::<TERM_SUMS>().0) {
        for first in (0..LANES).step_by(4) {
            // SAFETY: an input has four lanes from `first` on.
            let [a, b, c, d] = inputs.each_ref().map(|lanes| unsafe { vld1q_f32(lanes.as_ptr().add(first)) });
            let (low, high) = (pair(a, b), pair(c, d));
            for (entries, high) in table.as_chunks_mut::<9>().0.iter_mut().zip(high) {
                for (entry, low) in entries.iter_mut().zip(low) {
                    // SAFETY: so has an entry.
                    unsafe { vst1q_f32(entry.as_mut_ptr().add(first), vaddq_f32(low, high)) };
                }
            }
        }
    }
}

fn accumulate<const LANES: usize, const REGISTERS: usize>(
    chunk: &Chunk,
    tables: &[[f32; LANES]],
    offsets: &[u32],
    scales: &[f32],
    sums: &mut [[f32; LANES]],
) {
    const { assert!(LANES == 4 * REGISTERS) };
    assert!(tables.len() >= Lookup::<LANES>::ENTRIES && chunk.terms * chunk.slots <= MOST_TERMS);
    let offsets = offsets.as_chunks().0;
    // SAFETY: the tables were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match (chunk.terms, chunk.slots) {
            (1, _) => rows::<LANES, REGISTERS, 1, 8>(tables, offsets, scales, sums),
            (2, _) => rows::<LANES, REGISTERS, 2, 4>(tables, offsets, scales, sums),
            (3, _) => rows::<LANES, REGISTERS, 3, 2>(tables, offsets, scales, sums),
            (4, 1) => rows::<LANES, REGISTERS, 4, 1>(tables, offsets, scales, sums),
            (4, _) => rows::<LANES, REGISTERS, 4, 2>(tables, offsets, scales, sums),
            (5, _) => rows::<LANES, REGISTERS, 5, 1>(tables, offsets, scales, sums),
            (6, _) => rows::<LANES, REGISTERS, 6, 1>(tables, offsets, scales, sums),
            (7, _) => rows::<LANES, REGISTERS, 7, 1>(tables, offsets, scales, sums),
            _ => rows::<LANES, REGISTERS, 8, 1>(tables, offsets, scales, sums),
        }
    }
}

/// # Safety
/// There are `4 * REGISTERS` float32 at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const REGISTERS: usize>(from: *const f32) -> [float32x4_t; REGISTERS] {
    let mut registers = [vdupq_n_f32(0.0); REGISTERS];
    for (index, register) in registers.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *register = unsafe { vld1q_f32(from.add(4 * index)) };
    }
    registers
}

/// The rows of a chunk with `SLOTS` groups of `TERMS` terms each.
///
/// # Safety
/// `tables` has [`Lookup::ENTRIES`] entries, of `REGISTERS` registers each.
#[target_feature(enable = "neon")]
unsafe fn rows<const LANES: usize, const REGISTERS: usize, const TERMS: usize, const SLOTS: usize>(
    tables: &[[f32; LANES]],
    offsets: &[[u32; MOST_TERMS / 2]],
    scales: &[f32],
    sums: &mut [[f32; LANES]],
) {
    let base = tables.as_ptr().cast::<u8>();
    for ((offsets, scales), sums) in offsets.iter().zip(scales.as_chunks::<SLOTS>().0).zip(sums) {
        let words = [u64::from(offsets[0]) | u64::from(offsets[1]) << 32, u64::from(offsets[2]) | u64::from(offsets[3]) << 32];
        let entry = |term: usize| {
            let offset = (words[term / 4] >> (16 * (term % 4))) as u16;
            // SAFETY: `ENTRIES` entries hold a whole entry at every offset of 16 bits.
            unsafe { load::<REGISTERS>(base.add(usize::from(offset)).cast()) }
        };
        // SAFETY: sums have as many lanes as the registers.
        let mut total = unsafe { load::<REGISTERS>(sums.as_ptr()) };
        for (slot, &scale) in scales.iter().enumerate() {
            let mut partial = entry(slot * TERMS);
            for term in 1..TERMS {
                for (partial, entry) in partial.iter_mut().zip(entry(slot * TERMS + term)) {
                    *partial = vaddq_f32(*partial, entry);
                }
            }
            for (total, partial) in total.iter_mut().zip(partial) {
                *total = vfmaq_n_f32(*total, partial, scale);
            }
        }
        for (four, total) in sums.as_chunks_mut::<4>().0.iter_mut().zip(total) {
            // SAFETY: a register has four lanes.
            unsafe { vst1q_f32(four.as_mut_ptr(), total) };
        }
    }
}

fn transpose<const LANES: usize>(from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
    assert!(from.len() >= (LANES - 1) * stride + LANES, "a square of {LANES}");
    // SAFETY: the square was just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe { transpose_square::<LANES>(from, stride, to, to_stride) }
}

/// # Safety
/// `from` has a square of `LANES` at `stride`.
#[target_feature(enable = "neon")]
unsafe fn transpose_square<const LANES: usize>(from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
    for (column, to) in (0..LANES).step_by(4).zip(to.chunks_mut(4 * to_stride)) {
        for row in (0..LANES).step_by(4) {
            // SAFETY: the caller vouches for four values in each of four rows.
            let load = |place: usize| unsafe { vld1q_f32(from.as_ptr().add((row + place) * stride + column)) };
            for (to, column) in to.chunks_mut(to_stride).zip(transpose_fours([load(0), load(1), load(2), load(3)])) {
                let to = &mut to[row..][..4];
                // SAFETY: there are four of them.
                unsafe { vst1q_f32(to.as_mut_ptr(), column) };
            }
        }
    }
}

/// The columns of a square of four.
#[inline]
#[target_feature(enable = "neon")]
fn transpose_fours([a, b, c, d]: [float32x4_t; 4]) -> [float32x4_t; 4] {
    let pairs = |low: float32x4_t, high: float32x4_t| (vreinterpretq_f64_f32(low), vreinterpretq_f64_f32(high));
    let (even, even_below) = pairs(vtrn1q_f32(a, b), vtrn1q_f32(c, d));
    let (odd, odd_below) = pairs(vtrn2q_f32(a, b), vtrn2q_f32(c, d));
    [vtrn1q_f64(even, even_below), vtrn1q_f64(odd, odd_below), vtrn2q_f64(even, even_below), vtrn2q_f64(odd, odd_below)]
        .map(|column| vreinterpretq_f32_f64(column))
}
