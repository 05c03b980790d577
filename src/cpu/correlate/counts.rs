//! Trits and signs as bits to the scores of groups.

use std::ops::Range;

use crate::cpu::isa::backward::{BIT_COLUMNS, SignBits, TritBits};
use crate::trits::GroupLayout;

const WORDS: usize = BIT_COLUMNS / 32;

/// How the groups of a block of columns lie in its bits.
enum Groups {
    /// Every group is so many whole words.
    Words(usize),
    /// Every word is whole groups of 1, 2, 4, 8 or 16 columns.
    Fields(usize),
    /// Anything else.
    Pieces(Vec<Piece>),
}

/// Up to 32 neighbouring columns of one group.
struct Piece {
    word: usize,
    shift: usize,
    mask: u32,
    group: usize,
}

/// Whether blocks of so many columns are whole groups, so that [`Counter::count`] needs no zeros to begin with.
pub fn whole_groups(layout: GroupLayout, block_columns: usize) -> bool {
    block_columns.is_multiple_of(layout.group_size())
}

/// Counts the bits of a block of up to [`BIT_COLUMNS`] columns, group by group.
pub struct Counter {
    /// The group of the first column.
    first_group: usize,
    groups: Groups,
}

impl Counter {
    /// For a block of columns of rows that are cut as `layout` says, where whole blocks have `block_columns`, a multiple of 32
    /// and a power of two, and the first one begins with a group.
    pub fn new(layout: GroupLayout, block_columns: usize, columns: Range<usize>) -> Self {
        let size = layout.group_size();
        let first_group = columns.start / size;
        let groups = match size {
            _ if !whole_groups(layout, block_columns) => Groups::Pieces(pieces(size, columns)),
            1 | 2 | 4 | 8 | 16 => Groups::Fields(size),
            _ => Groups::Words(size / 32),
        };
        Self { first_group, groups }
    }

    /// Puts down what the signs of a row say of its trits in its scores, of which the first is that of group `first`: adds it,
    /// but where the block is [`whole_groups`]. Scores are integers far below 2^24.
    #[inline(always)]
    pub fn count(&self, trits: &TritBits, signs: &SignBits, scores: &mut [f32], first: usize) {
        let scores = &mut scores[self.first_group - first..];
        match &self.groups {
            Groups::Words(words) => count_words(*words, trits, signs, scores),
            Groups::Fields(1) => count_fields::<1>(trits, signs, scores),
            Groups::Fields(2) => count_fields::<2>(trits, signs, scores),
            Groups::Fields(4) => count_fields::<4>(trits, signs, scores),
            Groups::Fields(8) => count_fields::<8>(trits, signs, scores),
            Groups::Fields(_) => count_fields::<16>(trits, signs, scores),
            Groups::Pieces(pieces) => count_pieces(pieces, trits, signs, scores),
        }
    }
}

/// The columns of a word whose gradient has the sign of the trit, and those where it has the opposite one.
#[inline(always)]
fn agreement(trits: &TritBits, signs: &SignBits, word: usize) -> [u32; 2] {
    let (plus, minus) = (trits.plus[word], trits.minus[word]);
    let (positive, negative) = (signs.positive[word], signs.negative[word]);
    [positive & plus | negative & minus, positive & minus | negative & plus]
}

/// The pieces of some columns, with their groups counted from the first one.
fn pieces(size: usize, columns: Range<usize>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut column = columns.start;
    while column < columns.end {
        let group = column / size;
        let end = columns.end.min(column + 32).min((group + 1).saturating_mul(size));
        let (bit, mask) = (column - columns.start, u32::MAX >> (32 - (end - column)));
        pieces.push(Piece { word: bit / 32, shift: bit % 32, mask, group: group - columns.start / size });
        column = end;
    }
    pieces
}

#[inline(always)]
fn count_pieces(pieces: &[Piece], trits: &TritBits, signs: &SignBits, scores: &mut [f32]) {
    // One more word, so that every piece lies in two.
    let mut agreements = [[0; 2]; WORDS + 1];
    for (word, agreement_of_word) in agreements[..WORDS].iter_mut().enumerate() {
        *agreement_of_word = agreement(trits, signs, word);
    }
    for piece in pieces {
        let count = |which: usize| {
            let bits = u64::from(agreements[piece.word][which]) | u64::from(agreements[piece.word + 1][which]) << 32;
            ((bits >> piece.shift) as u32 & piece.mask).count_ones() as i32
        };
        scores[piece.group] += (count(0) - count(1)) as f32;
    }
}

#[inline(always)]
fn count_words(words: usize, trits: &TritBits, signs: &SignBits, scores: &mut [f32]) {
    let count = |word: usize| {
        let [same, opposite] = agreement(trits, signs, word);
        same.count_ones() as i32 - opposite.count_ones() as i32
    };
    if let (1, Some(scores)) = (words, scores.first_chunk_mut::<WORDS>()) {
        for (word, score) in scores.iter_mut().enumerate() {
            *score = count(word) as f32;
        }
    } else {
        let counts: [i32; WORDS] = std::array::from_fn(count);
        for (score, counts) in scores.iter_mut().zip(counts.chunks(words)) {
            *score = counts.iter().sum::<i32>() as f32;
        }
    }
}

/// The bits of every field of `SIZE` bits counted in that field, by halves of fields.
#[inline(always)]
fn counts_of_fields<const SIZE: usize>(bits: u32) -> u32 {
    let mut counts = bits;
    for (size, mask) in [(1, 0x5555_5555), (2, 0x3333_3333), (4, 0x0F0F_0F0F), (8, 0x00FF_00FF)] {
        if size < SIZE {
            counts = (counts & mask) + (counts >> size & mask);
        }
    }
    counts
}

#[inline(always)]
fn count_fields<const SIZE: usize>(trits: &TritBits, signs: &SignBits, scores: &mut [f32]) {
    let field = |counts: u32, index: usize| (counts >> (index * SIZE) & (u32::MAX >> (32 - SIZE))) as i32;
    for (word, scores) in scores.chunks_mut(32 / SIZE).take(WORDS).enumerate() {
        let [same, opposite] = agreement(trits, signs, word).map(counts_of_fields::<SIZE>);
        for (index, score) in scores.iter_mut().enumerate() {
            *score = (field(same, index) - field(opposite, index)) as f32;
        }
    }
}
