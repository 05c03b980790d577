//! What the two dense products of the backward pass need of a tier: one table of functions for each.
//!
//! Both products run on register tiles, `ROWS x COLUMNS` float32 sums that take one step of the summed index at a time from a
//! left operand (one value broadcast per row) and a right panel (one value per column). A word of an operand is one float32,
//! or two bfloat16 that stand for two steps.

use std::ops::Range;

use half::bf16;

use super::{Tier, portable};
use crate::float::Activation;
use crate::trits::{GroupLayout, TernaryMatrix};

/// Steps (words) of one chunk of the summed index of `dx`, which fix the distance between rows of a left operand by rows.
pub const CHUNK: usize = 256;
/// Words from one row to the next of a left operand in [`Order::Rows`]: a chunk and a cache line, so that rows spread over
/// the sets of a cache.
pub const ROW_STRIDE: usize = CHUNK + 16;
/// Words from one step to the next of a left operand in [`Order::Steps`]; no tile has more rows.
pub const STEP_STRIDE: usize = 16;

/// How a left operand lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[rows][ROW_STRIDE]`, one word per step.
    Rows,
    /// `[steps][STEP_STRIDE]`, one word per row.
    Steps,
}

impl Order {
    /// Checks that the operands of a micro-kernel hold `rows` rows, and returns the steps of the panel.
    pub(super) fn check<W>(self, rows: usize, left: &[W], right: &[W], sums: Option<&[f32]>, columns: usize) -> usize {
        let steps = right.len() / columns;
        let words = match self {
            Order::Rows => (rows - 1) * ROW_STRIDE + steps,
            Order::Steps => steps.saturating_sub(1) * STEP_STRIDE + rows,
        };
        assert!(steps == 0 || left.len() >= words, "a left operand of {words} words");
        assert!(sums.is_none_or(|sums| sums.len() >= rows * columns), "sums of {rows} rows");
        steps
    }
}

/// A word of the operands of a product.
pub trait Word: Copy + Default + Send + Sync + 'static {
    /// Steps of the summed index in one word.
    const DEPTH: usize;
}

impl Word for f32 {
    const DEPTH: usize = 1;
}

impl Word for u32 {
    const DEPTH: usize = 2;
}

/// Activations that fill words of type `W`.
pub trait Fill<W: Word>: Activation {
    /// Words whose steps are rows: word `i` is element `i` of `rows[0]`, and of `rows[1]` (0 where it is missing).
    fn fill_across(rows: [Option<&[Self]>; 2], words: &mut [W]);
    /// Words whose steps are neighbours: word `i` is elements `DEPTH * i ..` of `row`, then zeros.
    fn fill_along(row: &[Self], words: &mut [W]);
}

impl<A: Activation> Fill<f32> for A {
    #[inline(always)]
    fn fill_across([first, _]: [Option<&[Self]>; 2], words: &mut [f32]) {
        if let Some(first) = first {
            A::widen(first, words);
        }
    }
    #[inline(always)]
    fn fill_along(row: &[Self], words: &mut [f32]) {
        A::widen(row, words);
    }
}

/// Two bfloat16 in one word, the earlier step in the low half.
#[inline(always)]
fn pair(first: bf16, second: bf16) -> u32 {
    u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16
}

impl Fill<u32> for bf16 {
    #[inline(always)]
    fn fill_across(rows: [Option<&[Self]>; 2], words: &mut [u32]) {
        match rows {
            [Some(first), Some(second)] => {
                for ((word, &first), &second) in words.iter_mut().zip(first).zip(second) {
                    *word = pair(first, second);
                }
            }
            [Some(first), None] => {
                for (word, &first) in words.iter_mut().zip(first) {
                    *word = pair(first, bf16::ZERO);
                }
            }
            [None, _] => words.fill(0),
        }
    }
    #[inline(always)]
    fn fill_along(row: &[Self], words: &mut [u32]) {
        let (pairs, rest) = row.as_chunks::<2>();
        for (word, &[first, second]) in words.iter_mut().zip(pairs) {
            *word = pair(first, second);
        }
        if let ([last], Some(word)) = (rest, words.get_mut(pairs.len())) {
            *word = pair(*last, bf16::ZERO);
        }
    }
}

/// `sums[row][column] (+)= sum over the steps of left[row] * right[column]`: arguments are the rows, the left operand and
/// its order, the right panel `[steps][columns]`, the sums `[rows][columns]`, and whether the sums go on from what they hold.
/// Every sum takes its steps one after another, so that cutting them into chunks changes no bit.
pub type Multiply<W> = fn(usize, &[W], Order, &[W], &mut [f32], bool);

/// The signs of the sums that [`Multiply`] would make of a left operand in [`Order::Steps`]: arguments are the rows, the
/// operands, the sums to go on from if any, and for each row the bits to write, those of the tile's columns from the given one.
pub type Signs<W> = fn(usize, &[W], &[W], Option<&[f32]>, &mut [SignBits], usize);

/// Writes `S T` of some rows and columns of a matrix into right panels that lie `stride` words apart.
pub type Weights<W> = fn(TernaryMatrix<'_>, &[f32], Range<usize>, Range<usize>, &mut [W], usize);

/// Columns of a block of [`Scores`].
pub const SCORE_COLUMNS: usize = 256;
/// Pieces of a block, of 32 columns each, that are counted together.
pub const SCORE_PIECES: usize = 8;
/// Parts of a block whose columns are in registers together.
pub const SCORE_PARTS: usize = 4;

/// Where the digits of the trits of a block of columns lie, in the order in which its signs are.
#[derive(Clone, Copy)]
pub struct BlockDigits {
    /// The first byte of a row that they need.
    pub first_byte: usize,
    /// How many pieces there are.
    pub pieces: usize,
    /// For each lane of each part its byte, and in bit 6 whether it is a fifth digit.
    pub select: [[u8; SCORE_COLUMNS / SCORE_PARTS]; SCORE_PARTS],
    /// The bit of its eight bytes at which its field starts.
    pub shift: [[u8; SCORE_COLUMNS / SCORE_PARTS]; SCORE_PARTS],
}

/// The scores of few tokens, whose gradients are finite and never -0, for groups of whole pieces.
pub struct Scores<W: 'static> {
    /// `column_of(part, word)`: the column of a block whose words are there in a right panel `[parts][steps][words]`; runs of four
    /// words are neighbouring columns.
    pub column_of: fn(usize, usize) -> usize,
    /// `digits(layout, first)`: what [`Scores::count`] needs of the block of columns from `first` on.
    pub digits: fn(GroupLayout, usize) -> BlockDigits,
    /// `count(matrix, rows, digits, left, left_stride, right, scores, stride)`: for each of `rows` and each piece, how many trits have
    /// the sign of their gradient less how many have the opposite one. `left [steps][left_stride]` begins with the first of the
    /// rows, and has rows up to a multiple of four; `scores` of a row lie `stride` after those of the one before.
    pub count: fn(TernaryMatrix<'_>, Range<usize>, &BlockDigits, &[W], usize, &[W], &mut [f32], usize),
}

/// Register tiles over words of one type.
pub struct Product<W: 'static> {
    /// What it is called in the log.
    pub name: &'static str,
    /// Most rows of a tile.
    pub rows: usize,
    /// Columns of a tile: a divisor of 32.
    pub columns: usize,
    /// The micro-kernel.
    pub multiply: Multiply<W>,
    /// The micro-kernel that keeps nothing but signs.
    pub signs: Signs<W>,
    /// Panels of `S T`.
    pub weights: Weights<W>,
    /// The scores of few tokens, where that is faster than tiles.
    pub scores: Option<&'static Scores<W>>,
}

/// `dx` of a few tokens without panels.
pub struct Direct {
    /// Most tokens of a call.
    pub tokens: usize,
    /// What the columns of the sums of a token are padded to a multiple of.
    pub columns: usize,
    /// `add_rows(matrix, scale, dy, rows, columns, sums)`: adds to `sums [tokens][columns]` what `rows` give, row after row, with
    /// `dy [tokens][out]` and `scale [out][groups]` of all rows.
    pub add_rows: fn(TernaryMatrix<'_>, &[f32], &[f32], Range<usize>, Range<usize>, &mut [f32]),
}

/// Columns of [`Bits`].
pub const BIT_COLUMNS: usize = 512;

/// One bit for each of up to [`BIT_COLUMNS`] columns, the first one lowest.
pub type Bits = [u32; BIT_COLUMNS / 32];

/// Which trits of a row are 1 and which -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
pub struct TritBits {
    /// Columns of trit 1.
    pub plus: Bits,
    /// Columns of trit -1.
    pub minus: Bits,
}

/// Which gradients of a row are positive and which negative. The sign is SPEC 20's: NaN and both zeros have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(align(64))]
pub struct SignBits {
    /// Columns of positive gradients.
    pub positive: Bits,
    /// Columns of negative gradients.
    pub negative: Bits,
}

impl SignBits {
    /// Writes the signs of `count` columns from `first`; none of them crosses a word.
    #[inline(always)]
    pub fn set(&mut self, first: usize, count: usize, positive: u32, negative: u32) {
        let (word, shift, mask) = (first / 32, first % 32, u32::MAX >> (32 - count));
        for (bits, new) in [(&mut self.positive[word], positive), (&mut self.negative[word], negative)] {
            *bits = *bits & !(mask << shift) | new << shift;
        }
    }
}

/// Bytes of a piece, and pieces of a run.
pub const PIECES: usize = 8;

/// Up to eight neighbouring pieces of groups, of up to eight bytes each, and the signs of the inputs that stand there.
#[derive(Clone, Debug)]
pub struct Pieces {
    /// The first byte in the row.
    pub first_byte: usize,
    /// How many pieces.
    pub count: usize,
    /// The bytes from the first one on that belong to pieces.
    pub there: u64,
    /// For each byte the places whose inputs are positive.
    pub positive: [u8; 64],
    /// For each byte the places whose inputs are negative.
    pub negative: [u8; 64],
    /// Piece `p` is the bytes `select[8 p ..]`, as far as bits of `taken` are set.
    pub select: [u8; 64],
    /// See [`Pieces::select`].
    pub taken: u64,
}

impl Pieces {
    /// No pieces.
    pub const EMPTY: Self = Self { first_byte: 0, count: 0, there: 0, positive: [0; 64], negative: [0; 64], select: [0; 64], taken: 0 };
}

/// `count(pieces, matrix, rows, signs, counts)`: for each of `rows` and each piece of its row, how many trits have the sign of
/// their input less how many have the opposite one, times the row's sign (-1, 0 or 1): `counts [rows][pieces]`.
pub type CountPieces = fn(&[Pieces], TernaryMatrix<'_>, Range<usize>, &[i8], &mut [f32]);

/// All that the backward kernels need of a tier.
pub struct Backward {
    /// The tier.
    pub tier: Tier,
    /// Products of float32.
    pub float32: &'static Product<f32>,
    /// Products of bfloat16, where the machine multiplies them faster than float32.
    pub bfloat16: Option<&'static Product<u32>>,
    /// `dx` of a few tokens, where that is faster than products.
    pub direct: Option<&'static Direct>,
    /// The trits of some rows and up to [`BIT_COLUMNS`] columns, for each row; columns past the last one count as trit 0.
    pub trit_bits: fn(TernaryMatrix<'_>, Range<usize>, Range<usize>, &mut [TritBits]),
    /// Counts of one token, where that is faster than bits.
    pub count_pieces: Option<CountPieces>,
    /// The signs of up to [`BIT_COLUMNS`] gradients; what stands for further columns is anything.
    pub sign_bits: fn(&[f32], &mut SignBits),
}

impl Backward {
    /// The table of a tier.
    ///
    /// # Panics
    /// Where the machine does not have the tier.
    pub fn of(tier: Tier) -> Self {
        assert!(tier.is_available(), "this machine has no {}", tier.name());
        match tier {
            Tier::Portable => portable::backward(),
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => super::neon::backward(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => super::avx2::backward(),
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => super::avx512::backward(),
            #[cfg(not(target_arch = "aarch64"))]
            Tier::Neon => unreachable!("not available on this architecture"),
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 => unreachable!("not available on this architecture"),
        }
    }
}
