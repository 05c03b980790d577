//! Trits and signs as bits to the scores of groups.

use std::ops::Range;

use crate::cpu::isa::backward::{BIT_COLUMNS, SignBits, TritBits};
use crate::trits::GroupLayout;

const WORDS: usize = BIT_COLUMNS / 32;

/// How the groups of a block of columns lie in its bits.
enum Groups {
    /// Every group is so many whole words, or what is left of them.
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

/// Counts the bits of a block of up to [`BIT_COLUMNS`] columns, group by group.
pub struct Counter {
    /// The group of the first column.
    first_group: usize,
    groups: Groups,
}

impl Counter {
    /// For some columns of rows that are cut as `layout` says.
    pub fn new(layout: GroupLayout, columns: Range<usize>) -> Self {
        let size = layout.group_size();
        let first_group = columns.start / size;
        let groups = match size {
            _ if columns.start % size != 0 => Groups::Pieces(pieces(size, columns)),
            1 | 2 | 4 | 8 | 16 => Groups::Fields(size),
            _ if size.is_multiple_of(32) => Groups::Words(size / 32),
            _ => Groups::Pieces(pieces(size, columns)),
        };
        Self { first_group, groups }
    }

    /// Adds what the signs of a row say of its trits to its scores, of which the first is that of group `first`. Scores are
    /// integers far below 2^24.
    #[inline(always)]
    pub fn add(&self, trits: &TritBits, signs: &SignBits, scores: &mut [f32], first: usize) {
        let scores = &mut scores[self.first_group - first..];
        // One more word, so that every piece lies in two.
        let (mut same, mut opposite) = ([0; WORDS + 1], [0; WORDS + 1]);
        for word in 0..WORDS {
            let (plus, minus) = (trits.plus[word], trits.minus[word]);
            let (positive, negative) = (signs.positive[word], signs.negative[word]);
            same[word] = positive & plus | negative & minus;
            opposite[word] = positive & minus | negative & plus;
        }
        match &self.groups {
            Groups::Words(words) => count_words(*words, &same, &opposite, scores),
            Groups::Fields(1) => count_fields::<1>(&same, &opposite, scores),
            Groups::Fields(2) => count_fields::<2>(&same, &opposite, scores),
            Groups::Fields(4) => count_fields::<4>(&same, &opposite, scores),
            Groups::Fields(8) => count_fields::<8>(&same, &opposite, scores),
            Groups::Fields(_) => count_fields::<16>(&same, &opposite, scores),
            Groups::Pieces(pieces) => {
                for piece in pieces {
                    scores[piece.group] += (piece.count(&same) - piece.count(&opposite)) as f32;
                }
            }
        }
    }
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

impl Piece {
    #[inline(always)]
    fn count(&self, bits: &[u32; WORDS + 1]) -> i32 {
        let bits = u64::from(bits[self.word]) | u64::from(bits[self.word + 1]) << 32;
        ((bits >> self.shift) as u32 & self.mask).count_ones() as i32
    }
}

#[inline(always)]
fn count_words(words: usize, same: &[u32; WORDS + 1], opposite: &[u32; WORDS + 1], scores: &mut [f32]) {
    let mut counts = [0; WORDS];
    for (count, (same, opposite)) in counts.iter_mut().zip(same.iter().zip(opposite)) {
        *count = same.count_ones() as i32 - opposite.count_ones() as i32;
    }
    match (words, scores.first_chunk_mut::<WORDS>()) {
        (1, Some(scores)) => scores.iter_mut().zip(counts).for_each(|(score, count)| *score += count as f32),
        (2, _) => add_sums(counts.chunks(2), scores),
        _ => add_sums(counts.chunks(words), scores),
    }
}

#[inline(always)]
fn add_sums<'a>(counts: impl Iterator<Item = &'a [i32]>, scores: &mut [f32]) {
    for (score, counts) in scores.iter_mut().zip(counts) {
        *score += counts.iter().sum::<i32>() as f32;
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
fn count_fields<const SIZE: usize>(same: &[u32; WORDS + 1], opposite: &[u32; WORDS + 1], scores: &mut [f32]) {
    let field = |counts: u32, index: usize| (counts >> (index * SIZE) & (u32::MAX >> (32 - SIZE))) as i32;
    for ((scores, &same), &opposite) in scores.chunks_mut(32 / SIZE).zip(same).zip(opposite) {
        let (same, opposite) = (counts_of_fields::<SIZE>(same), counts_of_fields::<SIZE>(opposite));
        for (index, score) in scores.iter_mut().enumerate() {
            *score += (field(same, index) - field(opposite, index)) as f32;
        }
    }
}
