//! Trits and gradient signs as bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::weights::{BLOCK, windows as windows_of};
use super::window::{ROWS, Tables, WIDTH, Window, load};
use crate::cpu::isa::backward::{BIT_COLUMNS, SignBits, TritBits};
use crate::cpu::isa::prefetch_bytes;
use crate::trits::{PLACES, TRITS_PER_BYTE, TernaryMatrix};

/// `[places of trit 1, places of trit -1]` of every byte, as five bits each; bytes above 242 read modulo 243.
pub static SIGNS: [[u8; 256]; 2] = {
    let mut signs = [[0; 256]; 2];
    let mut byte = 0;
    while byte < 256 {
        let mut place = 0;
        while place < TRITS_PER_BYTE {
            match byte / PLACES[place] as usize % 3 {
                2 => signs[0][byte] |= 1 << place,
                0 => signs[1][byte] |= 1 << place,
                _ => {}
            }
            place += 1;
        }
        byte += 1;
    }
    signs
};

/// The trits of some rows as bits.
pub fn trit_bits(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, bits: &mut [TritBits]) {
    assert!(columns.len() <= BIT_COLUMNS && bits.len() == rows.len(), "{rows:?} and {columns:?}");
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { trit_bits_by_64(matrix, rows, columns, bits) }
}

/// A window of columns: for each lane the bit of its place in the byte, none where the columns have ended.
struct Places {
    window: Window,
    select: [u8; WIDTH],
    places: [u8; WIDTH],
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn trit_bits_by_64(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, bits: &mut [TritBits]) {
    let (tables, layout) = (Tables::of(&SIGNS), matrix.layout());
    let mut windows = Vec::with_capacity(BIT_COLUMNS / WIDTH);
    for (window, first) in windows_of(layout, &columns, |lane| lane).into_iter().zip(columns.clone().step_by(WIDTH)) {
        let (select, mut places) = (window.bytes(), window.places());
        places[(columns.end - first).min(WIDTH)..].fill(0);
        windows.push(Places { window, select, places });
    }
    for (start, bits) in rows.clone().step_by(BLOCK).zip(bits.chunks_mut(BLOCK)) {
        prefetch_bytes(matrix, &columns, start + BLOCK..rows.end.min(start + 2 * BLOCK));
        for (index, Places { window, select, places }) in windows.iter().enumerate() {
            let (select, places) = (window.select_rows(load(select)), load(places));
            for (row, bits) in (start..).step_by(ROWS).zip(bits.chunks_mut(ROWS)) {
                let looked_up = tables.look_up_rows(window, matrix.bytes(), layout.row_bytes(), row);
                for ((bits, [plus, minus]), select) in bits.iter_mut().zip(looked_up).zip(select) {
                    let plus = _mm512_test_epi8_mask(_mm512_permutexvar_epi8(select, plus), places);
                    let minus = _mm512_test_epi8_mask(_mm512_permutexvar_epi8(select, minus), places);
                    bits.plus.as_chunks_mut::<2>().0[index] = [plus as u32, (plus >> 32) as u32];
                    bits.minus.as_chunks_mut::<2>().0[index] = [minus as u32, (minus >> 32) as u32];
                }
            }
        }
        for bits in bits {
            bits.plus[2 * windows.len()..].fill(0);
            bits.minus[2 * windows.len()..].fill(0);
        }
    }
}

/// The positive and the negative ones of 32 gradients.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn sign_words([low, high]: [__m512; 2]) -> (u32, u32) {
    let zero = _mm512_setzero_ps();
    (
        _mm512_kunpackw(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(high, zero).into(), _mm512_cmp_ps_mask::<_CMP_GT_OQ>(low, zero).into()),
        _mm512_kunpackw(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(high, zero).into(), _mm512_cmp_ps_mask::<_CMP_LT_OQ>(low, zero).into()),
    )
}

/// The signs of a row of gradients.
pub fn sign_bits(gradients: &[f32], signs: &mut SignBits) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { sign_bits_by_32(gradients, signs) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn sign_bits_by_32(gradients: &[f32], signs: &mut SignBits) {
    let (whole, rest) = gradients.as_chunks::<32>();
    let mut padded = [0.0; 32];
    padded[..rest.len()].copy_from_slice(rest);
    let rest = (!rest.is_empty()).then_some(&padded);
    for (word, gradients) in whole.iter().chain(rest).enumerate() {
        // SAFETY: there are 32 of them.
        let halves = unsafe { [_mm512_loadu_ps(gradients.as_ptr()), _mm512_loadu_ps(gradients.as_ptr().add(16))] };
        (signs.positive[word], signs.negative[word]) = sign_words(halves);
    }
}
