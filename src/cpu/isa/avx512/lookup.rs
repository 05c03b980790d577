//! The product by look-up on the 16 lanes of a 512-bit register, with chunks of eight terms or, where the L1 cache is small, four.

use std::arch::x86_64::*;

use super::offsets::offsets;
use super::transpose::transpose_16x16;
use crate::cpu::cache;
use crate::cpu::isa::forward::{Accumulate, Lookup, TERM_SUMS};
use crate::cpu::matmul::terms::{Chunk, TERM_INPUTS};

const LANES: usize = 16;

/// The product with tables of 41.5 KB.
pub static EIGHT_TERMS: Lookup<LANES> = with_terms::<8>("avx512 lookup, 8 terms", accumulate_eight);
/// The product with tables of 20.7 KB: the sums are loaded and stored twice as often.
pub static FOUR_TERMS: Lookup<LANES> = with_terms::<4>("avx512 lookup, 4 terms", accumulate_four);

/// Bytes of an L2 cache that is near enough for the entries that an L1 cache of 32 KB does not hold: measured on Zen 4, where
/// the larger tables are faster by a sixth.
const NEAR_L2: usize = 1 << 20;

/// The product for the caches of this machine.
pub fn for_caches(sizes: cache::Sizes) -> &'static Lookup<LANES> {
    let fits = sizes.l1_data > EIGHT_TERMS.table_bytes() || sizes.l2 >= NEAR_L2;
    if fits { &EIGHT_TERMS } else { &FOUR_TERMS }
}

const fn with_terms<const TERMS: usize>(name: &'static str, accumulate: Accumulate<LANES>) -> Lookup<LANES> {
    Lookup { name, chunk_terms: TERMS, offsets: offsets::<TERMS, LANES>, tables, accumulate, transpose }
}

/// The nine signed sums of two inputs, the first one's coefficient fastest.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(a: __m512, b: __m512) -> [__m512; 9] {
    let (zero, sum, difference) = (_mm512_setzero_ps(), _mm512_add_ps(a, b), _mm512_sub_ps(a, b));
    let minus = |value| _mm512_sub_ps(zero, value);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}

fn tables(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_terms(panel, tables) }
}

#[target_feature(enable = "avx512f")]
fn tables_of_terms(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    for (inputs, table) in panel.as_chunks::<TERM_INPUTS>().0.iter().zip(tables.as_chunks_mut::<TERM_SUMS>().0) {
        // SAFETY: an input has 16 lanes.
        let [a, b, c, d] = inputs.each_ref().map(|lanes| unsafe { _mm512_loadu_ps(lanes.as_ptr()) });
        let (low, high) = (pair(a, b), pair(c, d));
        for (entries, high) in table.as_chunks_mut::<9>().0.iter_mut().zip(high) {
            for (entry, low) in entries.iter_mut().zip(low) {
                // SAFETY: an entry has 16 lanes.
                unsafe { _mm512_storeu_ps(entry.as_mut_ptr(), _mm512_add_ps(low, high)) };
            }
        }
    }
}

fn accumulate_eight(chunk: &Chunk, tables: &[[f32; LANES]], offsets: &[u32], scales: &[f32], sums: &mut [[f32; LANES]]) {
    assert!(tables.len() >= Lookup::<LANES>::ENTRIES && chunk.terms * chunk.slots <= EIGHT_TERMS.chunk_terms);
    let offsets = offsets.as_chunks().0;
    // SAFETY: the tables were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match (chunk.terms, chunk.slots) {
            (1, _) => rows::<1, 8, 4>(tables, offsets, scales, sums),
            (2, _) => rows::<2, 4, 4>(tables, offsets, scales, sums),
            (3, _) => rows::<3, 2, 4>(tables, offsets, scales, sums),
            (4, 1) => rows::<4, 1, 4>(tables, offsets, scales, sums),
            (4, _) => rows::<4, 2, 4>(tables, offsets, scales, sums),
            (5, _) => rows::<5, 1, 4>(tables, offsets, scales, sums),
            (6, _) => rows::<6, 1, 4>(tables, offsets, scales, sums),
            (7, _) => rows::<7, 1, 4>(tables, offsets, scales, sums),
            _ => rows::<8, 1, 4>(tables, offsets, scales, sums),
        }
    }
}

fn accumulate_four(chunk: &Chunk, tables: &[[f32; LANES]], offsets: &[u32], scales: &[f32], sums: &mut [[f32; LANES]]) {
    assert!(tables.len() >= Lookup::<LANES>::ENTRIES && chunk.terms * chunk.slots <= FOUR_TERMS.chunk_terms);
    let offsets = offsets.as_chunks().0;
    // SAFETY: as in `accumulate_eight`.
    unsafe {
        match (chunk.terms, chunk.slots) {
            (1, _) => rows::<1, 4, 2>(tables, offsets, scales, sums),
            (2, 1) => rows::<2, 1, 2>(tables, offsets, scales, sums),
            (2, _) => rows::<2, 2, 2>(tables, offsets, scales, sums),
            (3, _) => rows::<3, 1, 2>(tables, offsets, scales, sums),
            _ => rows::<4, 1, 2>(tables, offsets, scales, sums),
        }
    }
}

/// The rows of a chunk with `SLOTS` groups of `TERMS` terms each and offsets of `WORDS` words.
///
/// # Safety
/// `tables` has [`Lookup::ENTRIES`] entries, and `WORDS` hold the offsets of all terms.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const TERMS: usize, const SLOTS: usize, const WORDS: usize>(
    tables: &[[f32; LANES]],
    offsets: &[[u32; WORDS]],
    scales: &[f32],
    sums: &mut [[f32; LANES]],
) {
    let base = tables.as_ptr().cast::<u8>();
    for ((offsets, scales), sums) in offsets.iter().zip(scales.as_chunks::<SLOTS>().0).zip(sums) {
        let (quarters, _) = offsets.as_chunks::<2>();
        let entry = |term: usize| {
            let [low, high] = quarters[term / 4];
            let offset = ((u64::from(low) | u64::from(high) << 32) >> (16 * (term % 4))) as u16;
            // SAFETY: `ENTRIES` entries hold a whole entry at every offset of 16 bits.
            unsafe { _mm512_loadu_ps(base.add(usize::from(offset)).cast()) }
        };
        // SAFETY: sums have 16 lanes.
        let mut sum = unsafe { _mm512_loadu_ps(sums.as_ptr()) };
        for (slot, &scale) in scales.iter().enumerate() {
            let mut partial = entry(slot * TERMS);
            for term in 1..TERMS {
                partial = _mm512_add_ps(partial, entry(slot * TERMS + term));
            }
            sum = _mm512_fmadd_ps(partial, _mm512_set1_ps(scale), sum);
        }
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), sum) };
    }
}

fn transpose(from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
    assert!(from.len() >= (LANES - 1) * stride + LANES, "a square of {LANES}");
    // SAFETY: the square was just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe { transpose_square(from, stride, to, to_stride) }
}

/// # Safety
/// `from` has a square of 16 at `stride`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn transpose_square(from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, at) in rows.iter_mut().zip((0..).step_by(stride)) {
        // SAFETY: the caller vouches for `from`.
        *row = unsafe { _mm512_loadu_si512(from.as_ptr().add(at).cast()) };
    }
    for (to, column) in to.chunks_mut(to_stride).zip(transpose_16x16(rows)) {
        let to = &mut to[..LANES];
        // SAFETY: a column has 16 lanes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), column) };
    }
}
