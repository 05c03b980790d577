//! The product by look-up on the 16 lanes of a 512-bit register, with chunks of eight terms or, where the L1 cache is small, four.

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::transpose_16x16;
use super::window::{ROWS, Tables, WIDTH, Window};
use crate::cpu::cache;
use crate::cpu::isa::forward::{Accumulate, Lookup, ROW_STEP, TERM_SUMS};
use crate::cpu::matmul::terms::{Chunk, TERM_INPUTS, WINDOW_INPUTS};
use crate::trits::TernaryMatrix;

const LANES: usize = 16;
/// Bytes of an entry of the tables.
const ENTRY: i32 = 4 * LANES as i32;
/// Rows whose offsets are written for all windows before those of the next ones, whose bytes are fetched meanwhile.
const SOME_ROWS: usize = 32;

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
    Lookup { name, chunk_terms: TERMS, offsets: offsets::<TERMS>, tables, accumulate, transpose }
}

fn offsets<const TERMS: usize>(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: &mut [u32], stride: usize) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { offsets_of_windows::<TERMS>(matrix, rows, chunks, to, stride) }
}

/// The offsets of some windows, some rows at a time, so that their bytes come from the L1 cache for all windows but the first.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn offsets_of_windows<const TERMS: usize>(matrix: TernaryMatrix<'_>, rows: Range<usize>, chunks: &[Chunk], to: &mut [u32], stride: usize) {
    /// A column that no window has: its digit is anything, and its input zero.
    const NOWHERE: usize = usize::MAX / 2;
    let (inputs, window_chunks) = (TERMS * TERM_INPUTS, WINDOW_INPUTS / (TERMS * TERM_INPUTS));
    let windows: Vec<Window> = chunks
        .chunks(window_chunks)
        .map(|chunks| {
            let first = chunks[0].first_input();
            Window::new(matrix.layout(), first, |lane| {
                let input = chunks.get(lane / inputs).and_then(|chunk| chunk.input_at(lane % inputs));
                input.map_or(NOWHERE, |input| input - first)
            })
        })
        .collect();
    let (tables, terms) = (Tables::new(), Terms::<TERMS>::new());
    for start in rows.clone().step_by(SOME_ROWS) {
        let some = start..rows.end.min(start + SOME_ROWS);
        let place = (start - rows.start) * TERMS / 2;
        let starts = (place..).step_by(window_chunks * stride);
        for ((window, chunks), place) in windows.iter().zip(chunks.chunks(window_chunks)).zip(starts) {
            terms.write(&tables, window, chunks.len(), matrix, some.clone(), &mut to[place..], stride);
        }
    }
}

/// Constants for offsets of chunks of `TERMS` terms.
struct Terms<const TERMS: usize> {
    /// The start of each term's sums.
    starts: __m512i,
    /// Words of two rows sorted by chunk.
    pairs: __m512i,
    /// Quarters of four rows sorted by chunk.
    fours: [__m512i; 2],
}

impl<const TERMS: usize> Terms<TERMS> {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn new() -> Self {
        const { assert!(WIDTH == WINDOW_INPUTS && ROWS == ROW_STEP && (TERMS == 4 || TERMS == 8)) };
        let starts: [i32; 16] = std::array::from_fn(|term| (term % TERMS * TERM_SUMS) as i32 * ENTRY);
        let pairs: [i16; 32] = std::array::from_fn(|word| {
            let (chunk, row, term) = (word / (2 * TERMS), word / TERMS % 2, word % TERMS);
            (32 * row + 2 * (chunk * TERMS + term)) as i16
        });
        let fours = if TERMS == 8 {
            [_mm512_setr_epi64(0, 1, 2, 3, 8, 9, 10, 11), _mm512_setr_epi64(4, 5, 6, 7, 12, 13, 14, 15)]
        } else {
            [_mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)]
        };
        // SAFETY: both arrays have 64 bytes.
        let (starts, pairs) = unsafe { (_mm512_loadu_si512(starts.as_ptr().cast()), _mm512_loadu_si512(pairs.as_ptr().cast())) };
        Self { starts, pairs, fours }
    }

    /// Digits to offsets by multiply-adds `d0 + 3 d1 + 9 (d2 + 3 d3)` in the dword of each term.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn offsets(&self, digits: __m512i) -> __m512i {
        let threes = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(0x0301));
        _mm512_add_epi32(_mm512_madd_epi16(threes, _mm512_set1_epi32(0x0009_0001 * ENTRY)), self.starts)
    }

    /// The offsets of the `count` chunks of a window.
    #[allow(clippy::too_many_arguments, reason = "one inner loop of `offsets_of_windows`")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn write(
        &self,
        tables: &Tables,
        window: &Window,
        count: usize,
        matrix: TernaryMatrix<'_>,
        rows: Range<usize>,
        to: &mut [u32],
        stride: usize,
    ) {
        let (words, first_row, row_bytes) = (TERMS / 2, rows.start, matrix.layout().row_bytes());
        let fetched = matrix.bytes().as_ptr().wrapping_add(window.first_byte() + SOME_ROWS * row_bytes);
        tables.for_rows(window, matrix.bytes(), row_bytes, rows, |row, [a, b, c, d]| {
            for row in row..row + ROWS {
                // An address outside of the bytes does no harm.
                _mm_prefetch::<_MM_HINT_T0>(fetched.wrapping_add(row * row_bytes).cast());
            }
            let above = _mm512_permutex2var_epi16(self.offsets(a), self.pairs, self.offsets(b));
            let below = _mm512_permutex2var_epi16(self.offsets(c), self.pairs, self.offsets(d));
            for (pair, order) in self.fours.iter().enumerate() {
                let sorted = _mm512_permutex2var_epi64(above, *order, below);
                let halves = [_mm512_castsi512_si256(sorted), _mm512_extracti64x4_epi64::<1>(sorted)];
                for (half, offsets) in halves.into_iter().enumerate() {
                    // Four rows of eight terms are both halves.
                    let (chunk, skip) = if TERMS == 8 { (pair, 8 * half) } else { (2 * pair + half, 0) };
                    if chunk < count {
                        let to = &mut to[chunk * stride + (row - first_row) * words + skip..][..8];
                        // SAFETY: eight words have 32 bytes.
                        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), offsets) };
                    }
                }
            }
        });
    }
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
