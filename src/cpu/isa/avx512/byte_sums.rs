//! Tables of the sums that a packed byte can make of its five inputs, for look-ups in registers.
//!
//! The high three digits of a byte index a table of 27 sums in two registers, the low two one of 9 sums in one register.

use std::arch::x86_64::*;

use crate::trits::{GroupLayout, TRITS_PER_BYTE};

/// Lanes of a register of float32.
pub const LANES: usize = 16;
/// Sums of the high three inputs of a byte, in two registers.
pub const HIGH_SUMS: usize = 32;
/// Sums of one byte: those of the high three inputs and those of the low two.
pub const BYTE_SUMS: usize = HIGH_SUMS + LANES;

/// `(NINTH byte) >> 16` is the number of the high three digits of a byte, `byte / 9`.
pub const NINTH: u16 = 7282;
/// `byte + ((SEVEN_NINTHS byte) >> 16)` is `16 (byte / 9) + low_place(byte % 9)`: its lowest four bits tell the low two digits.
pub const SEVEN_NINTHS: u16 = 50973;

/// Where the sum of the low two digits lies in its table.
const fn low_place(digits: usize) -> usize {
    digits + 7 * digits / 9
}

const _: () = {
    let mut byte = 0;
    while byte < 256 {
        assert!((byte * NINTH as usize) >> 16 == byte / 9 && byte / 9 < HIGH_SUMS);
        assert!(byte + ((byte * SEVEN_NINTHS as usize) >> 16) == 16 * (byte / 9) + low_place(byte % 9));
        byte += 1;
    }
};

/// Trit `place` of the high three digits of every index.
const fn high_trits(place: u32) -> [f32; HIGH_SUMS] {
    let mut trits = [0.0; HIGH_SUMS];
    let mut index = 0;
    while index < HIGH_SUMS {
        trits[index] = (index / 3usize.pow(place) % 3) as f32 - 1.0;
        index += 1;
    }
    trits
}

/// Trit `place` of the low two digits of every index that has some, else 0.
const fn low_trits(place: u32) -> [f32; LANES] {
    let mut trits = [0.0; LANES];
    let mut digits = 0;
    while digits < 9 {
        trits[low_place(digits)] = (digits / 3usize.pow(place) % 3) as f32 - 1.0;
        digits += 1;
    }
    trits
}

static HIGH_TRITS: [[f32; HIGH_SUMS]; 3] = [high_trits(0), high_trits(1), high_trits(2)];
static LOW_TRITS: [[f32; LANES]; 2] = [low_trits(0), low_trits(1)];

/// Floats of the tables of one token.
pub fn table_len(layout: GroupLayout) -> usize {
    layout.row_bytes() * BYTE_SUMS
}

/// The tables of one token.
pub fn tables(layout: GroupLayout, x: &[f32], tables: &mut [f32]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_bytes(layout, x, tables) }
}

#[target_feature(enable = "avx512f")]
fn tables_of_bytes(layout: GroupLayout, x: &[f32], tables: &mut [f32]) {
    // SAFETY: the arrays have 32 floats each.
    let high = unsafe { HIGH_TRITS.each_ref().map(|trits| (_mm512_loadu_ps(trits.as_ptr()), _mm512_loadu_ps(trits.as_ptr().add(LANES)))) };
    // SAFETY: the arrays have 16 floats each.
    let [first, second] = unsafe { LOW_TRITS.each_ref().map(|trits| _mm512_loadu_ps(trits.as_ptr())) };
    let [(third, third_end), (fourth, fourth_end), (fifth, fifth_end)] = high;
    let groups = x.chunks(layout.group_size()).zip(tables.chunks_exact_mut(layout.group_bytes() * BYTE_SUMS));
    for (inputs, tables) in groups {
        let mut inputs = inputs.chunks(TRITS_PER_BYTE);
        for table in tables.as_chunks_mut::<BYTE_SUMS>().0 {
            let mut five = [0.0; TRITS_PER_BYTE];
            if let Some(inputs) = inputs.next() {
                five[..inputs.len()].copy_from_slice(inputs);
            }
            let [a, b, c, d, e] = [five[0], five[1], five[2], five[3], five[4]].map(|input| _mm512_set1_ps(input));
            let high = _mm512_fmadd_ps(fifth, e, _mm512_fmadd_ps(fourth, d, _mm512_mul_ps(third, c)));
            let high_end = _mm512_fmadd_ps(fifth_end, e, _mm512_fmadd_ps(fourth_end, d, _mm512_mul_ps(third_end, c)));
            let low = _mm512_fmadd_ps(second, b, _mm512_mul_ps(first, a));
            for (to, sums) in table.as_chunks_mut::<LANES>().0.iter_mut().zip([high, high_end, low]) {
                // SAFETY: a register has 16 floats.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sums) };
            }
        }
    }
}
