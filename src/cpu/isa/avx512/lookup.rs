//! The product by look-up on the 16 lanes of a 512-bit register, or on 8 where the L1 cache is small.

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose_16x16;
use super::window::{Tables, WIDTH, Window};
use crate::cpu::isa::forward::{Lookup, Offsets, TERM_SUMS};
use crate::cpu::isa::{avx2, portable};
use crate::cpu::matmul::terms::{CHUNK_INPUTS, CHUNK_TERMS, Chunk, TERM_INPUTS};
use crate::trits::TernaryMatrix;

const LANES: usize = 16;

/// The AVX-512 product by look-up.
pub static SIXTEEN: Lookup<LANES> = Lookup { name: "avx512 lookup, 16 lanes", offsets: offsets::<LANES>, tables, accumulate, transpose };

/// The same for an L1 cache below 42 KB.
pub static EIGHT: Lookup<8> = Lookup {
    name: "avx512 lookup, 8 lanes",
    offsets: offsets::<8>,
    tables: avx2::lookup::tables,
    accumulate: avx2::lookup::accumulate,
    transpose: portable::lookup::transpose,
};

fn offsets<const LANES: usize>(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: [&mut [Offsets]; 2]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { offsets_of_pair::<LANES>(matrix, rows, chunks, to) }
}

/// Digits by [`Window`], then by multiply-adds `d0 + 3 d1 + 9 (d2 + 3 d3)` in the dword of each term.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn offsets_of_pair<const LANES: usize>(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: [&mut [Offsets]; 2]) {
    /// A column that no window has: its digit is anything, and its input zero.
    const NOWHERE: usize = usize::MAX / 2;
    const { assert!(WIDTH == 2 * CHUNK_INPUTS && CHUNK_TERMS == 8) };
    let first = chunks[0].first_input();
    let column_of = |lane: usize| {
        let input = chunks.get(lane / CHUNK_INPUTS).and_then(|chunk| chunk.input_at(lane % CHUNK_INPUTS));
        input.map_or(NOWHERE, |input| input - first)
    };
    let (window, tables) = (Window::new(matrix.layout(), first, column_of), Tables::new());
    let entry = (4 * LANES) as i32;
    let step = _mm512_set1_epi32(TERM_SUMS as i32 * entry);
    let starts = _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7), step);
    let (threes, nines) = (_mm512_set1_epi16(0x0301), _mm512_set1_epi32(0x0009_0001 * entry));
    let row_bytes = matrix.layout().row_bytes();
    let [low, high] = to;
    let (mut low, mut high) = (low.iter_mut(), high.iter_mut());
    tables.for_rows(&window, matrix.bytes(), row_bytes, rows, |_, digits| {
        for digits in digits {
            let Some(low) = low.next() else { return };
            let indices = _mm512_madd_epi16(_mm512_maddubs_epi16(digits, threes), nines);
            let offsets = _mm512_cvtepi32_epi16(_mm512_add_epi32(indices, starts));
            // SAFETY: offsets of a row have 16 bytes.
            unsafe { _mm_storeu_si128(low.as_mut_ptr().cast(), _mm256_castsi256_si128(offsets)) };
            if let Some(high) = high.next() {
                // SAFETY: as above.
                unsafe { _mm_storeu_si128(high.as_mut_ptr().cast(), _mm256_extracti128_si256::<1>(offsets)) };
            }
        }
    });
}

/// The nine signed sums of two inputs, the first one's coefficient fastest.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(a: __m512, b: __m512) -> [__m512; 9] {
    let (zero, sum, difference) = (_mm512_setzero_ps(), _mm512_add_ps(a, b), _mm512_sub_ps(a, b));
    let minus = |value| _mm512_sub_ps(zero, value);
    [minus(sum), minus(b), difference, minus(a), zero, a, minus(difference), b, sum]
}

fn tables(panel: &[[f32; LANES]; CHUNK_INPUTS], terms: usize, tables: &mut [[f32; LANES]]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_terms(panel, terms, tables) }
}

#[target_feature(enable = "avx512f")]
fn tables_of_terms(panel: &[[f32; LANES]; CHUNK_INPUTS], terms: usize, tables: &mut [[f32; LANES]]) {
    for (inputs, table) in panel.as_chunks::<TERM_INPUTS>().0.iter().zip(tables.as_chunks_mut::<TERM_SUMS>().0).take(terms) {
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

fn accumulate(chunk: &Chunk, tables: &[[f32; LANES]], offsets: &[Offsets], scales: &[f32], sums: &mut [[f32; LANES]]) {
    assert!(tables.len() >= Lookup::<LANES>::ENTRIES && chunk.terms * chunk.group_slots() <= CHUNK_TERMS);
    // SAFETY: the tables were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match chunk.terms {
            1 => rows::<1, 8>(tables, offsets, scales, sums),
            2 => rows::<2, 4>(tables, offsets, scales, sums),
            3 => rows::<3, 2>(tables, offsets, scales, sums),
            4 => rows::<4, 2>(tables, offsets, scales, sums),
            5 => rows::<5, 1>(tables, offsets, scales, sums),
            6 => rows::<6, 1>(tables, offsets, scales, sums),
            7 => rows::<7, 1>(tables, offsets, scales, sums),
            _ => rows::<8, 1>(tables, offsets, scales, sums),
        }
    }
}

/// The rows of a chunk with `SLOTS` groups of `TERMS` terms each.
///
/// # Safety
/// `tables` has [`Lookup::ENTRIES`] entries.
#[target_feature(enable = "avx512f")]
unsafe fn rows<const TERMS: usize, const SLOTS: usize>(
    tables: &[[f32; LANES]],
    offsets: &[Offsets],
    scales: &[f32],
    sums: &mut [[f32; LANES]],
) {
    let base = tables.as_ptr().cast::<u8>();
    for ((offsets, scales), sums) in offsets.iter().zip(scales.as_chunks::<SLOTS>().0).zip(sums) {
        let words = [u64::from(offsets[0]) | u64::from(offsets[1]) << 32, u64::from(offsets[2]) | u64::from(offsets[3]) << 32];
        let entry = |term: usize| {
            let offset = (words[term / 4] >> (16 * (term % 4))) as u16;
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

fn transpose(from: &[f32], stride: usize, to: &mut [[f32; LANES]; LANES]) {
    assert!(from.len() >= (LANES - 1) * stride + LANES, "a square of {LANES}");
    // SAFETY: the square was just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe { transpose_square(from, stride, to) }
}

/// # Safety
/// `from` has a square of 16 at `stride`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
unsafe fn transpose_square(from: &[f32], stride: usize, to: &mut [[f32; LANES]; LANES]) {
    // SAFETY: the caller vouches for `from`.
    let rows = std::array::from_fn(|row| unsafe { _mm512_loadu_si512(from.as_ptr().add(row * stride).cast()) });
    for (to, column) in to.iter_mut().zip(transpose_16x16(rows)) {
        // SAFETY: a column has 16 lanes.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), column) };
    }
}
