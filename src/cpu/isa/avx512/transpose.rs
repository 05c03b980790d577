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
