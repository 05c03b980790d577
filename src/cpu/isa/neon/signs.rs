//! Trits and gradient signs as bits.

use std::arch::aarch64::*;
use std::ops::Range;

use super::digits::blocks;
use crate::cpu::isa::backward::{BIT_COLUMNS, SignBits, TritBits};
use crate::trits::TernaryMatrix;

/// Gradients that are compared together.
const WIDTH: usize = 32;

/// The positive and the negative ones of 8 gradients.
#[inline]
#[target_feature(enable = "neon")]
pub fn sign_words([low, high]: [float32x4_t; 2]) -> (u32, u32) {
    const POSITIVE: [u16; 8] = [1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7];
    const NEGATIVE: [u16; 8] = [1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, 1 << 15];
    // SAFETY: both arrays have 16 bytes.
    let (positive, negative) = unsafe { (vld1q_u16(POSITIVE.as_ptr()), vld1q_u16(NEGATIVE.as_ptr())) };
    let positive = vandq_u16(halves(vcgtzq_f32(low), vcgtzq_f32(high)), positive);
    let negative = vandq_u16(halves(vcltzq_f32(low), vcltzq_f32(high)), negative);
    let bits = u32::from(vaddvq_u16(vorrq_u16(positive, negative)));
    (bits & 0xFF, bits >> 8)
}

/// Masks of eight gradients in half of their width.
#[inline]
#[target_feature(enable = "neon")]
fn halves(low: uint32x4_t, high: uint32x4_t) -> uint16x8_t {
    vuzp1q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high))
}

/// One bit of each of 32 masks.
#[inline]
#[target_feature(enable = "neon")]
fn word([low, high]: [uint8x16_t; 2]) -> u32 {
    const PLACES: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
    // SAFETY: the array has 16 bytes.
    let places = unsafe { vld1q_u8(PLACES.as_ptr()) };
    let pairs = vpaddq_u8(vandq_u8(low, places), vandq_u8(high, places));
    let fours = vpaddq_u8(pairs, pairs);
    vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vpaddq_u8(fours, fours)))
}

/// 32 masks in a quarter of their width.
#[inline]
#[target_feature(enable = "neon")]
fn quarters([a, b, c, d, e, f, g, h]: [uint32x4_t; 8]) -> [uint8x16_t; 2] {
    let quarter = |low, high| vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    [quarter(halves(a, b), halves(c, d)), quarter(halves(e, f), halves(g, h))]
}

/// The trits of some rows as bits.
pub fn trit_bits(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, bits: &mut [TritBits]) {
    assert!(columns.len() <= BIT_COLUMNS && bits.len() == rows.len(), "{rows:?} and {columns:?}");
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { trit_bits_by_blocks(matrix, rows, columns, bits) }
}

#[target_feature(enable = "neon")]
fn trit_bits_by_blocks(matrix: TernaryMatrix<'_>, rows: Range<usize>, columns: Range<usize>, bits: &mut [TritBits]) {
    let blocks = blocks(matrix.layout(), &columns);
    for (row, bits) in rows.zip(bits) {
        *bits = TritBits::default();
        for block in &blocks {
            let [low, high] = block.digits(matrix, row);
            let plus = word([vceqq_u8(low, vdupq_n_u8(2)), vceqq_u8(high, vdupq_n_u8(2))]);
            let minus = word([vceqzq_u8(low), vceqzq_u8(high)]);
            let (index, shift, kept) = (block.column / 32, block.column % 32, u32::MAX >> (32 - block.count));
            for (words, new) in [(&mut bits.plus, plus), (&mut bits.minus, minus)] {
                let new = u64::from(new & kept) << shift;
                words[index] |= new as u32;
                if let Some(next) = words.get_mut(index + 1) {
                    *next |= (new >> 32) as u32;
                }
            }
        }
    }
}

/// The signs of a row of gradients.
pub fn sign_bits(gradients: &[f32], signs: &mut SignBits) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { sign_bits_by_32(gradients, signs) }
}

#[target_feature(enable = "neon")]
fn sign_bits_by_32(gradients: &[f32], signs: &mut SignBits) {
    let (whole, rest) = gradients.as_chunks::<WIDTH>();
    let mut padded = [0.0; WIDTH];
    padded[..rest.len()].copy_from_slice(rest);
    let rest = (!rest.is_empty()).then_some(&padded);
    for (index, gradients) in whole.iter().chain(rest).enumerate() {
        // SAFETY: a register holds four of them.
        let load = |four: &[f32; 4]| unsafe { vld1q_f32(four.as_ptr()) };
        let mut values = [vdupq_n_f32(0.0); WIDTH / 4];
        for (value, four) in values.iter_mut().zip(gradients.as_chunks::<4>().0) {
            *value = load(four);
        }
        signs.positive[index] = word(quarters(values.map(|value| vcgtzq_f32(value))));
        signs.negative[index] = word(quarters(values.map(|value| vcltzq_f32(value))));
    }
}
