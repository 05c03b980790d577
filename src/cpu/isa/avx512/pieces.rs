//! Signs counted in packed bytes: no trit of a row is ever unpacked.

use std::arch::x86_64::*;
use std::ops::Range;

use super::signs::SIGNS;
use super::window::{Tables, load};
use crate::cpu::isa::backward::{PIECES, Pieces};
use crate::trits::{TRITS_PER_BYTE, TernaryMatrix};

/// How many of the five bits of a number are set, repeated.
static ONES: [u8; 64] = {
    let mut ones = [0; 64];
    let mut number = 0;
    while number < 64 {
        ones[number] = (number as u8 % 32).count_ones() as u8;
        number += 1;
    }
    ones
};

/// Counts some rows; see [`crate::cpu::isa::backward::Backward::count_pieces`].
pub fn count_pieces(pieces: &[Pieces], matrix: TernaryMatrix<'_>, rows: Range<usize>, signs: &[i8], counts: &mut [f32]) {
    let stride = pieces.iter().map(|pieces| pieces.count).sum::<usize>();
    let inside = |pieces: &Pieces| {
        let last = 64 - pieces.there.leading_zeros() as usize;
        pieces.count <= PIECES && pieces.first_byte + last <= matrix.layout().row_bytes()
    };
    assert!(pieces.iter().all(inside) && rows.end <= matrix.out_dim(), "pieces and rows of the matrix");
    assert!(signs.len() == rows.len() && counts.len() == rows.len() * stride, "signs and counts of {rows:?}");
    // SAFETY: the operands were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe { count_rows(pieces, matrix, rows, signs, counts) }
}

/// # Safety
/// The pieces lie in rows of the matrix, the rows are its rows, and there is a count for every piece of every row.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn count_rows(pieces: &[Pieces], matrix: TernaryMatrix<'_>, rows: Range<usize>, signs: &[i8], counts: &mut [f32]) {
    /// Makes every byte a count of 0 to 10, which sums of absolute differences need.
    const BIAS: i8 = TRITS_PER_BYTE as i8;
    let (tables, ones, bias) = (Tables::of(&SIGNS), load(&ONES), _mm512_set1_epi8(BIAS));
    let bias_of_piece = _mm256_set1_epi32(PIECES as i32 * i32::from(BIAS));
    let mut at = counts.as_mut_ptr();
    for (row, &sign) in rows.zip(signs) {
        let bytes = matrix.row(row).as_ptr();
        let factor = _mm256_set1_epi32(sign.into());
        for pieces in pieces {
            // SAFETY: the mask ends with the bytes of the row.
            let packed = unsafe { _mm512_maskz_loadu_epi8(pieces.there, bytes.add(pieces.first_byte).cast()) };
            let [plus, minus] = tables.look_up(packed);
            let (positive, negative) = (load(&pieces.positive), load(&pieces.negative));
            // (a & b) | (c & d), the second half of it in one instruction.
            let same = _mm512_ternarylogic_epi32::<0xF8>(_mm512_and_si512(plus, positive), minus, negative);
            let opposite = _mm512_ternarylogic_epi32::<0xF8>(_mm512_and_si512(plus, negative), minus, positive);
            let same = _mm512_add_epi8(_mm512_permutexvar_epi8(same, ones), bias);
            let count = _mm512_sub_epi8(same, _mm512_permutexvar_epi8(opposite, ones));
            let lanes = _mm512_mask_permutexvar_epi8(bias, pieces.taken, load(&pieces.select), count);
            let sums = _mm512_cvtepi64_epi32(_mm512_sad_epu8(lanes, _mm512_setzero_si512()));
            let signed = _mm256_mullo_epi32(_mm256_sub_epi32(sums, bias_of_piece), factor);
            let there = u8::MAX >> (PIECES - pieces.count);
            // SAFETY: there are as many counts.
            unsafe {
                _mm256_mask_storeu_ps(at, there, _mm256_cvtepi32_ps(signed));
                at = at.add(pieces.count);
            }
        }
    }
}
