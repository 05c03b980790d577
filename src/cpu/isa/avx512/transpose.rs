//! Transposes in registers.

use std::arch::x86_64::*;

/// `result[c]` holds dword `c` of every row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
pub fn transpose_16x16(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for i in 0..4 {
        fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut columns = fours;
    for i in 0..4 {
        let low_even = _mm512_shuffle_i32x4::<0x88>(fours[i], fours[4 + i]);
        let low_odd = _mm512_shuffle_i32x4::<0xDD>(fours[i], fours[4 + i]);
        let high_even = _mm512_shuffle_i32x4::<0x88>(fours[8 + i], fours[12 + i]);
        let high_odd = _mm512_shuffle_i32x4::<0xDD>(fours[8 + i], fours[12 + i]);
        columns[i] = _mm512_shuffle_i32x4::<0x88>(low_even, high_even);
        columns[4 + i] = _mm512_shuffle_i32x4::<0x88>(low_odd, high_odd);
        columns[8 + i] = _mm512_shuffle_i32x4::<0xDD>(low_even, high_even);
        columns[12 + i] = _mm512_shuffle_i32x4::<0xDD>(low_odd, high_odd);
    }
    columns
}

/// `result[c]` holds float `c` of 16 rows, where `halves[i]` is row `i` in its low half and row `i + 8` in its high half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
pub fn transpose_16x8(halves: [__m512; 8]) -> [__m512; 8] {
    let mut pairs = halves;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_ps(halves[2 * i], halves[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(halves[2 * i], halves[2 * i + 1]);
    }
    let mut columns = halves;
    // A group of four lanes of `fours` holds one column of four rows.
    for (column, (first, high)) in [(0, false), (0, true), (1, false), (1, true)].into_iter().enumerate() {
        let low = pick_four(pairs[first], pairs[first + 2], high);
        let high = pick_four(pairs[first + 4], pairs[first + 6], high);
        let near = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        let far = _mm512_setr_epi32(4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
        columns[column] = _mm512_permutex2var_ps(low, near, high);
        columns[4 + column] = _mm512_permutex2var_ps(low, far, high);
    }
    columns
}

/// The low or the high two of four lanes of `a`, then those of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
fn pick_four(a: __m512, b: __m512, high: bool) -> __m512 {
    let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
    _mm512_castpd_ps(if high { _mm512_unpackhi_pd(a, b) } else { _mm512_unpacklo_pd(a, b) })
}
