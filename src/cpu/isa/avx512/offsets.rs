//! The offsets of the product by look-up, for 64 inputs of four rows at a time.
//!
//! A register holds eight terms of four rows, 16 bits each: the row of a lane of 128 bits is where its bytes are too. The number that the
//! digits of a term make is a quotient of one byte and a remainder of another (see [`TermPlace`]), both by multiplications whose factors
//! differ from term to term, so that no digit is ever separated.

use std::arch::x86_64::*;
use std::ops::Range;

use super::window::{ROWS, sixteen_of_four};
use crate::cpu::isa::forward::{ROW_STEP, TERM_SUMS};
use crate::cpu::matmul::terms::{Chunk, MOST_TERMS, TermPlace, WINDOW_INPUTS};
use crate::trits::{PLACES, TernaryMatrix};

/// Rows whose offsets are written for all windows before those of the next ones, whose bytes are fetched meanwhile.
const SOME_ROWS: usize = 32;
/// Bytes of a row that a window lies in at most.
const BYTES: usize = 16;
/// Numbers that a packed byte can be.
const PACKED: u8 = 243;

/// For each power of three the factor by which `(byte * factor) >> 16` is the quotient; there is none for 1.
const QUOTIENTS: [u16; PLACES.len()] = [0, 21846, 7282, 2428, 810];

const _: () = {
    let mut power = 1;
    while power < PLACES.len() {
        let mut byte = 0;
        while byte < PACKED as u32 {
            assert!((byte * QUOTIENTS[power] as u32) >> 16 == byte / PLACES[power] as u32);
            byte += 1;
        }
        power += 1;
    }
};

/// How eight terms follow from the bytes of a window.
#[derive(Clone)]
struct Terms {
    /// For each byte of the terms which byte of the window it takes, or zero where bit 7 is set: the low bytes those in which the terms start.
    bytes: [u8; 2 * MOST_TERMS],
    /// The same of those that hold the rest.
    rests: [u8; 2 * MOST_TERMS],
    /// The factor of `bytes`' quotient.
    factors: [u16; MOST_TERMS],
    /// The factor of the quotient that is taken off `rests`, so that the remainder is left.
    rest_factors: [u16; MOST_TERMS],
    /// What one of `rests` adds to the offset.
    steps: [u16; MOST_TERMS],
    /// Where the sums of the term begin.
    starts: [u16; MOST_TERMS],
}

impl Terms {
    /// The terms of some chunks of `chunk_terms`, from byte `first_byte` of a row on, for entries of `entry` bytes.
    fn new(chunks: &[Chunk], chunk_terms: usize, first_byte: usize, entry: usize) -> Self {
        const NOTHING: u8 = 1 << 7;
        let mut terms =
            Self { bytes: [NOTHING; _], rests: [NOTHING; _], factors: [0; _], rest_factors: [0; _], steps: [0; _], starts: [0; _] };
        let select = |byte: usize| if byte - first_byte < BYTES { (byte - first_byte) as u8 } else { NOTHING };
        for (at, (chunk, term)) in chunks.iter().flat_map(|chunk| (0..chunk_terms).map(move |term| (chunk, term))).enumerate() {
            let TermPlace { byte, quotient, rest, remainder, step } = chunk.term_place(term);
            terms.starts[at] = (term * TERM_SUMS * entry) as u16;
            if let Some(power) = quotient {
                terms.bytes[2 * at] = select(byte);
                terms.factors[at] = QUOTIENTS[power];
            }
            if step > 0 {
                terms.rests[2 * at] = select(rest);
                // A remainder of 3^0 is nothing.
                (terms.rest_factors[at], terms.steps[at]) = (QUOTIENTS[remainder], (step * entry) as u16);
            }
        }
        terms
    }

    /// The same in registers, once for each row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn in_registers(&self) -> InRegisters {
        let bytes = |values: &[u8; 16]| {
            // SAFETY: the array has 16 bytes.
            unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
        };
        let words = |values: &[u16; 8]| {
            // SAFETY: as above.
            unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
        };
        InRegisters {
            bytes: _mm512_broadcast_i32x4(bytes(&self.bytes)),
            rests: _mm512_broadcast_i32x4(bytes(&self.rests)),
            factors: _mm512_broadcast_i32x4(words(&self.factors)),
            rest_factors: _mm512_broadcast_i32x4(words(&self.rest_factors)),
            steps: _mm512_broadcast_i32x4(words(&self.steps)),
            starts: _mm512_broadcast_i32x4(words(&self.starts)),
        }
    }
}

/// [`Terms`].
struct InRegisters {
    bytes: __m512i,
    rests: __m512i,
    factors: __m512i,
    rest_factors: __m512i,
    steps: __m512i,
    starts: __m512i,
}

impl InRegisters {
    /// The offsets of the terms in entries of `4 * LANES` bytes.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn offsets<const LANES: usize>(&self, packed: __m512i) -> __m512i {
        const { assert!(LANES == 16, "entries of 2^6 bytes") };
        /// What one of the quotient of the rest takes off: every step times the power whose remainder is wanted is 3^4.
        const WRAP: i16 = 81 << 6;
        let (byte, rest) = (_mm512_shuffle_epi8(packed, self.bytes), _mm512_shuffle_epi8(packed, self.rests));
        let quotient = _mm512_slli_epi16::<6>(multiply_high(byte, self.factors));
        let rest_quotient = _mm512_mullo_epi16(multiply_high(rest, self.rest_factors), _mm512_set1_epi16(WRAP));
        let rest = _mm512_add_epi16(_mm512_mullo_epi16(rest, self.steps), self.starts);
        _mm512_add_epi16(quotient, _mm512_sub_epi16(rest, rest_quotient))
    }
}

/// The high halves of the products of 16 bits. LLVM would make products of 32 bits and shifts of the intrinsic: eight instructions for one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply_high(a: __m512i, b: __m512i) -> __m512i {
    let high;
    // SAFETY: one instruction on registers, which the features of this function have.
    unsafe {
        std::arch::asm!("vpmulhuw {}, {}, {}", lateout(zmm_reg) high, in(zmm_reg) a, in(zmm_reg) b, options(pure, nomem, nostack, preserves_flags))
    };
    high
}

/// The offsets of `rows` for chunks of `TERMS` terms; see [`Lookup::offsets`](crate::cpu::isa::forward::Lookup::offsets).
pub fn offsets<const TERMS: usize, const LANES: usize>(
    matrix: TernaryMatrix<'_>,
    rows: Range<usize>,
    chunks: &[Chunk],
    to: &mut [u32],
    stride: usize,
) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { offsets_of_windows::<TERMS, LANES>(matrix, rows, chunks, to, stride) }
}

/// The offsets of some windows, some rows at a time, so that their bytes come from the L1 cache for all windows but the first.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn offsets_of_windows<const TERMS: usize, const LANES: usize>(
    matrix: TernaryMatrix<'_>,
    rows: Range<usize>,
    chunks: &[Chunk],
    to: &mut [u32],
    stride: usize,
) {
    const { assert!(ROWS == ROW_STEP && WINDOW_INPUTS == 2 * 4 * MOST_TERMS && (TERMS == 4 || TERMS == 8)) };
    let (words, row_bytes, bytes) = (TERMS / 2, matrix.layout().row_bytes(), matrix.bytes());
    let window_chunks = 2 * MOST_TERMS / TERMS;
    let windows: Vec<(usize, [Terms; 2])> = chunks
        .chunks(window_chunks)
        .map(|chunks| {
            let first_byte = chunks[0].first_byte();
            let (above, below) = chunks.split_at(chunks.len().min(window_chunks / 2));
            (first_byte, [above, below].map(|chunks| Terms::new(chunks, TERMS, first_byte, 4 * LANES)))
        })
        .collect();
    for start in rows.clone().step_by(SOME_ROWS) {
        let some = start..rows.end.min(start + SOME_ROWS);
        for (window, (first_byte, terms)) in windows.iter().enumerate() {
            let (first_byte, count) = (*first_byte, window_chunks.min(chunks.len() - window * window_chunks));
            let halves = terms.each_ref().map(|terms| terms.in_registers());
            let to = &mut to[window * window_chunks * stride..];
            for row in some.clone().step_by(ROWS) {
                let first = row * row_bytes + first_byte;
                for ahead in SOME_ROWS..SOME_ROWS + ROWS {
                    // An address outside of the bytes does no harm.
                    _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(first + ahead * row_bytes).cast());
                }
                let packed = sixteen_of_four(bytes, first, row_bytes);
                // Bytes that no trits make read modulo 243, as everywhere; less than that, they wrap and stay what they are.
                let packed = _mm512_min_epu8(packed, _mm512_sub_epi8(packed, _mm512_set1_epi8(PACKED.cast_signed())));
                let place = (row - rows.start) * words;
                for (half, terms) in halves.iter().enumerate() {
                    let offsets = terms.offsets::<LANES>(packed);
                    if TERMS == MOST_TERMS {
                        if half < count {
                            let to = &mut to[half * stride + place..][..16];
                            // SAFETY: 16 words have 64 bytes.
                            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), offsets) };
                        }
                    } else {
                        let sorted = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), offsets);
                        for (chunk, offsets) in
                            [_mm512_castsi512_si256(sorted), _mm512_extracti64x4_epi64::<1>(sorted)].into_iter().enumerate()
                        {
                            if 2 * half + chunk < count {
                                let to = &mut to[(2 * half + chunk) * stride + place..][..8];
                                // SAFETY: eight words have 32 bytes.
                                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), offsets) };
                            }
                        }
                    }
                }
            }
        }
    }
}
