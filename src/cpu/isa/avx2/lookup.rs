//! The product by look-up on the 8 lanes of a 256-bit register.

use std::arch::x86_64::*;

use crate::cpu::isa::forward::{Lookup, TERM_SUMS};
use crate::cpu::isa::portable;
use crate::cpu::matmul::terms::{Chunk, MOST_TERMS, TERM_INPUTS};

const LANES: usize = 8;

/// The AVX2 product by look-up.
pub static LOOKUP: Lookup<LANES> = Lookup {
    name: "avx2 lookup, 8 lanes",
    chunk_terms: MOST_TERMS,
    offsets: portable::lookup::offsets,
    tables,
    accumulate,
    transpose: portable::lookup::transpose,
};

/// The nine signed sums of two inputs, the first one's coefficient fastest.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn pair(a: __m256, b: __m256) -> [__m256; 9] {
    let (zero, sum, difference) = (_mm256_setzero_ps(), _mm256_add_ps(a, b), _mm256_sub_ps(a, b));
    let minus = |value| _mm256_sub_ps(zero, value);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}

fn tables(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_terms(panel, tables) }
}

#[target_feature(enable = "avx2,fma")]
fn tables_of_terms(panel: &[[f32; LANES]], tables: &mut [[f32; LANES]]) {
    for (inputs, table) in panel.as_chunks::<TERM_INPUTS>().0.iter().zip(tables.as_chunks_mut::<TERM_SUMS>().0) {
        // SAFETY: an input has 8 lanes.
        let [a, b, c, d] = inputs.each_ref().map(|lanes| unsafe { _mm256_loadu_ps(lanes.as_ptr()) });
        let (low, high) = (pair(a, b), pair(c, d));
        for (entries, high) in table.as_chunks_mut::<9>().0.iter_mut().zip(high) {
            for (entry, low) in entries.iter_mut().zip(low) {
                // SAFETY: an entry has 8 lanes.
                unsafe { _mm256_storeu_ps(entry.as_mut_ptr(), _mm256_add_ps(low, high)) };
            }
        }
    }
}

fn accumulate(chunk: &Chunk, tables: &[[f32; LANES]], offsets: &[u32], scales: &[f32], sums: &mut [[f32; LANES]]) {
    assert!(tables.len() >= Lookup::<LANES>::ENTRIES && chunk.terms * chunk.slots <= MOST_TERMS);
    let offsets = offsets.as_chunks().0;
    // SAFETY: the tables were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match (chunk.terms, chunk.slots) {
            (1, _) => rows::<1, 8>(tables, offsets, scales, sums),
            (2, _) => rows::<2, 4>(tables, offsets, scales, sums),
            (3, _) => rows::<3, 2>(tables, offsets, scales, sums),
            (4, 1) => rows::<4, 1>(tables, offsets, scales, sums),
            (4, _) => rows::<4, 2>(tables, offsets, scales, sums),
            (5, _) => rows::<5, 1>(tables, offsets, scales, sums),
            (6, _) => rows::<6, 1>(tables, offsets, scales, sums),
            (7, _) => rows::<7, 1>(tables, offsets, scales, sums),
            _ => rows::<8, 1>(tables, offsets, scales, sums),
        }
    }
}

/// The rows of a chunk with `SLOTS` groups of `TERMS` terms each.
///
/// # Safety
/// `tables` has [`Lookup::ENTRIES`] entries.
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const TERMS: usize, const SLOTS: usize>(
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
            unsafe { _mm256_loadu_ps(base.add(usize::from(offset)).cast()) }
        };
        // SAFETY: sums have 8 lanes.
        let mut sum = unsafe { _mm256_loadu_ps(sums.as_ptr()) };
        for (slot, &scale) in scales.iter().enumerate() {
            let mut partial = entry(slot * TERMS);
            for term in 1..TERMS {
                partial = _mm256_add_ps(partial, entry(slot * TERMS + term));
            }
            sum = _mm256_fmadd_ps(partial, _mm256_set1_ps(scale), sum);
        }
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sum) };
    }
}
