//! The scores of few tokens: gradients of 256 columns become signs in bytes, which meet the trits in the same order and are counted
//! there. Neither has ever been a bit.
//!
//! Saturating packs turn float32, read as integers, into bytes that are negative, zero or positive as they are, but for -0 and NaN,
//! which the caller rules out.

#![allow(clippy::needless_range_loop, reason = "registers stay registers only where no loop over them can end early")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::bf16_pairs;
use super::window::{Tables, load, sixty_four};
use crate::cpu::isa::backward::{BlockDigits, SCORE_COLUMNS, SCORE_PIECES, Scores};
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Rows whose gradients are in registers together.
const ROWS: usize = 4;
/// Columns that are in registers together, and the registers of a row.
const WIDTH: usize = 64;
const PARTS: usize = 4;
/// Parts of a block of columns: a group of 32 has eight columns in each.
const QUARTERS: usize = SCORE_COLUMNS / WIDTH;

/// Scores by float32 products.
pub static FLOAT32: Scores<f32> = Scores { column_of, digits, count: float32::count };
/// Scores by products of pairs of bfloat16; only for machines with AVX512-BF16.
pub static BFLOAT16: Scores<u32> = Scores { column_of, digits, count: bfloat16::count };

/// The column of a block that is in this place of a right panel, `[quarters][steps][words]`: packs of four registers leave four
/// neighbours of each of them in every 16 bytes, and eight bytes are to be of one group.
fn column_of(quarter: usize, word: usize) -> usize {
    let (register, lane) = (word / 16, word % 16);
    32 * (2 * (lane / 4) + register / 2) + 8 * quarter + 4 * (register % 2) + lane % 4
}

/// The trits of a digit in the lowest two of six bits.
static TRITS: [u8; 64] = {
    let mut trits = [0; 64];
    let mut field = 0;
    while field < 64 {
        trits[field] = (field as u8 % 4).wrapping_sub(1);
        field += 1;
    }
    trits
};

/// See [`Scores::digits`].
fn digits(layout: GroupLayout, first: usize) -> BlockDigits {
    let byte_of = |column: usize| {
        let (group, position) = (column / layout.group_size(), column % layout.group_size());
        (group * layout.group_bytes() + position / TRITS_PER_BYTE, position % TRITS_PER_BYTE)
    };
    let (first_byte, _) = byte_of(first);
    let mut digits =
        BlockDigits { first_byte, pieces: pieces_from(layout, first), select: [[0; WIDTH]; QUARTERS], shift: [[0; WIDTH]; QUARTERS] };
    for quarter in 0..QUARTERS {
        // Four neighbouring lanes are four neighbouring columns of one group.
        for first_lane in (0..WIDTH).step_by(4) {
            // Byte `l` comes from lane `4 (l / 16) + l % 4` of register `l % 16 / 4`.
            let column = first + column_of(quarter, first_lane % 16 / 4 * 16 + first_lane / 16 * 4);
            let (mut byte, mut place) = byte_of(column);
            for lane in first_lane..first_lane + 4 {
                let (fifth, field) = if place < 4 { (0, 2 * place) } else { (64, 0) };
                // Columns past the last one take anything: their gradients are 0.
                digits.select[quarter][lane] = ((byte - first_byte) % 64 + fifth) as u8;
                digits.shift[quarter][lane] = (8 * (lane % 8) + field) as u8;
                place += 1;
                if place == TRITS_PER_BYTE {
                    (byte, place) = (byte + 1, 0);
                }
            }
        }
    }
    digits
}

/// Groups of 32 columns, or pieces of larger ones, of the block from `first` on.
fn pieces_from(layout: GroupLayout, first: usize) -> usize {
    (layout.in_dim() - first).div_ceil(SCORE_COLUMNS / SCORE_PIECES).min(SCORE_PIECES)
}

/// A quarter of the trits of some rows.
#[repr(align(64))]
struct Trits([[[u8; WIDTH]; ROWS]; QUARTERS]);

impl Trits {
    /// Unpacks four rows from `row` on; those past the end give anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn unpack(&mut self, tables: &Tables, digits: &BlockDigits, matrix: TernaryMatrix<'_>, row: usize) {
        let row_bytes = matrix.layout().row_bytes();
        let trits_of = load(&TRITS);
        let mut looked_up = [[_mm512_setzero_si512(); 2]; ROWS];
        for (index, looked_up) in looked_up.iter_mut().enumerate() {
            *looked_up = tables.look_up(sixty_four(matrix.bytes(), (row + index) * row_bytes + digits.first_byte));
        }
        for quarter in 0..QUARTERS {
            let (select, shift) = (load(&digits.select[quarter]), load(&digits.shift[quarter]));
            for row in 0..ROWS {
                let [fields, fifth] = looked_up[row];
                let fields = _mm512_multishift_epi64_epi8(shift, _mm512_permutex2var_epi8(fields, select, fifth));
                let trits = _mm512_permutexvar_epi8(fields, trits_of);
                // SAFETY: a row has 64 trits.
                unsafe { _mm512_store_si512(self.0[quarter][row].as_mut_ptr().cast(), trits) };
            }
        }
    }
}

/// Bytes that are negative, zero or positive as these gradients are, in the order of [`digits`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn signs([a, b, c, d]: [__m512; PARTS]) -> __m512i {
    let low = _mm512_packs_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b));
    let high = _mm512_packs_epi32(_mm512_castps_si512(c), _mm512_castps_si512(d));
    _mm512_packs_epi16(low, high)
}

/// What every byte of the counts of a row begins with, so that none is negative: it takes -1, 0 or 1 from each quarter.
const BIAS: i8 = QUARTERS as i8;

/// The counts of the eight groups of a row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn totals([low, high]: [__m256i; 2]) -> __m256 {
    let zero = _mm256_setzero_si256();
    let sums = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_sad_epu8(low, zero)), _mm256_sad_epu8(high, zero));
    let bias = _mm256_set1_epi32(8 * i32::from(BIAS));
    _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm512_cvtepi64_epi32(sums), bias))
}

/// Defines the count over one type of word.
macro_rules! scores {
    ($name:ident, $word:ty, $feature:literal, $broadcast:expr, $load:expr, $multiply_add:expr) => {
        mod $name {
            use super::*;

            #[allow(clippy::too_many_arguments, reason = "the arguments of `Scores::count`")]
            pub fn count(
                matrix: TernaryMatrix<'_>,
                rows: Range<usize>,
                digits: &BlockDigits,
                left: &[$word],
                left_stride: usize,
                right: &[$word],
                scores: &mut [f32],
                stride: usize,
            ) {
                let steps = right.len() / SCORE_COLUMNS;
                assert!(rows.end <= matrix.out_dim() && digits.pieces <= SCORE_PIECES, "{rows:?} and pieces of a block");
                assert!(steps == 0 || left.len() >= (steps - 1) * left_stride + rows.len().next_multiple_of(ROWS), "a left operand");
                assert!(scores.len() >= (rows.len() - 1) * stride + digits.pieces, "scores of {rows:?}");
                // SAFETY: the operands were just measured, and the table with this function is handed out only where the machine
                // has the tier.
                unsafe { count_rows(matrix, rows, digits, left, left_stride, right, scores, stride) }
            }

            /// # Safety
            /// `left` and `right` hold as many steps, `left` for whole fours of rows; `scores` have room for the pieces of each row.
            #[allow(clippy::too_many_arguments, reason = "the arguments of `Scores::count`")]
            #[target_feature(enable = $feature)]
            unsafe fn count_rows(
                matrix: TernaryMatrix<'_>,
                rows: Range<usize>,
                digits: &BlockDigits,
                left: &[$word],
                left_stride: usize,
                right: &[$word],
                scores: &mut [f32],
                stride: usize,
            ) {
                let (tables, steps) = (Tables::new(), right.len() / SCORE_COLUMNS);
                let mut trits = Trits([[[0; WIDTH]; ROWS]; QUARTERS]);
                let there = u8::MAX >> (SCORE_PIECES - digits.pieces);
                for row in rows.clone().step_by(ROWS) {
                    trits.unpack(&tables, digits, matrix, row);
                    let mut counts = [[_mm256_set1_epi8(BIAS); 2]; ROWS];
                    for quarter in 0..QUARTERS {
                        // SAFETY: the operands hold so many steps.
                        let gradients = unsafe {
                            let right = right.as_ptr().add(quarter * steps * WIDTH);
                            gradients(left.as_ptr().add(row - rows.start), left_stride, right, steps)
                        };
                        for row in 0..ROWS {
                            let signs = signs(gradients[row]);
                            let signs = [_mm512_castsi512_si256(signs), _mm512_extracti64x4_epi64::<1>(signs)];
                            for half in 0..2 {
                                // SAFETY: a row has 64 trits.
                                let trits = unsafe { _mm256_load_si256(trits.0[quarter][row].as_ptr().add(32 * half).cast()) };
                                counts[row][half] = _mm256_add_epi8(counts[row][half], _mm256_sign_epi8(trits, signs[half]));
                            }
                        }
                    }
                    for (index, counts) in counts.into_iter().enumerate() {
                        if row + index < rows.end {
                            let to = scores[(row + index - rows.start) * stride..].as_mut_ptr();
                            // SAFETY: there is room for the scores of the mask.
                            unsafe { _mm256_mask_storeu_ps(to, there, totals(counts)) };
                        }
                    }
                }
            }

            /// The gradients of four rows and a quarter of the columns.
            ///
            /// # Safety
            /// `left` holds `steps` times four words, `left_stride` apart, `right` `steps * WIDTH` words.
            #[inline]
            #[target_feature(enable = $feature)]
            unsafe fn gradients(left: *const $word, left_stride: usize, right: *const $word, steps: usize) -> [[__m512; PARTS]; ROWS] {
                let mut sums = [[_mm512_setzero_ps(); PARTS]; ROWS];
                for step in 0..steps {
                    // SAFETY: `step` is below `steps`.
                    unsafe {
                        let right = right.add(step * WIDTH);
                        let columns = [$load(right), $load(right.add(16)), $load(right.add(32)), $load(right.add(48))];
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let value = $broadcast(*left.add(step * left_stride + row));
                            for part in 0..PARTS {
                                sums[part] = $multiply_add(sums[part], value, columns[part]);
                            }
                        }
                    }
                }
                sums
            }
        }
    };
}

scores!(
    float32,
    f32,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt",
    |value| _mm512_set1_ps(value),
    |at| _mm512_loadu_ps(at),
    |sum, left, right| _mm512_fmadd_ps(left, right, sum)
);

scores!(
    bfloat16,
    u32,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt,avx512bf16",
    |pair: u32| bf16_pairs(_mm512_set1_epi32(pair as i32)),
    |at: *const u32| bf16_pairs(_mm512_loadu_si512(at.cast())),
    |sum, left, right| _mm512_dpbf16_ps(sum, left, right)
);
