//! How a row of trits is cut into terms for the product by look-up.
//!
//! A term is up to four neighbouring inputs of one group: it has 81 possible signed sums, and one look-up adds it. Four or eight
//! terms make a chunk, whose tables lie in the L1 cache together: part of one group, or a few small groups.

use std::ops::Range;

use crate::cpu::tiling::balanced;
use crate::trits::{GroupLayout, PLACES, TRITS_PER_BYTE};

/// Inputs of a term.
pub const TERM_INPUTS: usize = 4;
/// The most terms of a chunk.
pub const MOST_TERMS: usize = 8;
/// Inputs of the chunks whose offsets are made together, which a chunk of four or eight terms divides.
pub const WINDOW_INPUTS: usize = 64;

/// Terms of one row that are looked up together: `terms` of each of its groups, group by group.
#[derive(Clone, Debug)]
pub struct Chunk {
    layout: GroupLayout,
    /// The groups that it covers, in full or in part.
    pub groups: Range<usize>,
    /// The first input of each group that it covers, counted from the group's start.
    first: usize,
    /// Terms of each group.
    pub terms: usize,
    /// Groups that it has room for: beyond `groups` they have scale 0.
    pub slots: usize,
}

impl Chunk {
    /// The first input.
    pub fn first_input(&self) -> usize {
        self.groups.start * self.layout.group_size() + self.first
    }

    /// The byte of a row in which the first input lies.
    pub fn first_byte(&self) -> usize {
        self.groups.start * self.layout.group_bytes() + self.first / TRITS_PER_BYTE
    }

    /// Whether all of the first `positions` positions hold an input.
    pub fn fills(&self, positions: usize) -> bool {
        self.inputs().map(|(_, inputs)| inputs.len()).sum::<usize>() == positions
    }

    /// For each group: the position of its first input among the inputs of the chunk, and its inputs.
    pub fn inputs(&self) -> impl Iterator<Item = (usize, Range<usize>)> + '_ {
        self.groups.clone().enumerate().map(|(slot, group)| {
            let width = self.terms * TERM_INPUTS;
            let start = group * self.layout.group_size();
            let end = self.layout.group_len(group).min(self.first + width);
            (slot * width, start + self.first..start + end)
        })
    }

    /// The input at `position`, as [`inputs`](Self::inputs) counts, where there is one.
    pub fn input_at(&self, position: usize) -> Option<usize> {
        let width = self.terms * TERM_INPUTS;
        let group = self.groups.start + position / width;
        let offset = self.first + position % width;
        (self.groups.contains(&group) && offset < self.layout.group_len(group)).then(|| group * self.layout.group_size() + offset)
    }
}

/// How the number that the digits of a term make follows from the bytes of a row where they lie:
/// `byte / 3^quotient + rest % 3^remainder * step`, without the first part where `quotient` is none.
#[derive(Clone, Copy, Debug)]
pub struct TermPlace {
    /// The byte in which the term starts.
    pub byte: usize,
    /// The power of three by which that is divided.
    pub quotient: Option<usize>,
    /// The byte that holds the rest of the term, or all of it where it starts a byte; it may lie past the row, and counts for nothing then.
    pub rest: usize,
    /// The power of three whose remainder counts.
    pub remainder: usize,
    /// What one of the remainder adds.
    pub step: usize,
}

impl Chunk {
    /// Where `term` lies; a term without inputs lies anywhere.
    pub fn term_place(&self, term: usize) -> TermPlace {
        let input = self.input_at(term * TERM_INPUTS).unwrap_or(self.first_input());
        let (group, position) = (input / self.layout.group_size(), input % self.layout.group_size());
        let (byte, place) = (group * self.layout.group_bytes() + position / TRITS_PER_BYTE, position % TRITS_PER_BYTE);
        // A term that starts a byte is the remainder of that byte, one that starts at its second digit the quotient.
        let (rest, remainder, step) = match place {
            0 => (byte, TERM_INPUTS, 1),
            1 => (byte, TERM_INPUTS, 0),
            _ => (byte + 1, place - 1, usize::from(PLACES[TRITS_PER_BYTE - place])),
        };
        TermPlace { byte, quotient: (place > 0).then_some(place), rest, remainder, step }
    }
}

/// The chunks of a row, in order, of at most `most_terms` terms.
pub fn chunks(layout: GroupLayout, most_terms: usize) -> Vec<Chunk> {
    let terms = layout.group_len(0).div_ceil(TERM_INPUTS);
    if terms <= most_terms / 2 {
        let slots = most_terms / terms;
        let starts = (0..layout.groups()).step_by(slots);
        return starts.map(|group| Chunk { layout, groups: group..layout.groups().min(group + slots), first: 0, terms, slots }).collect();
    }
    let parts = |group: usize| {
        let terms = balanced(terms, most_terms);
        terms.map(move |terms| Chunk { layout, groups: group..group + 1, first: terms.start * TERM_INPUTS, terms: terms.len(), slots: 1 })
    };
    let chunks = (0..layout.groups()).flat_map(parts);
    chunks.filter(|chunk| chunk.first < layout.group_len(chunk.groups.start)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_term_gives_the_number_that_its_digits_make() {
        for group_size in [1, 3, 5, 7, 8, 12, 13, 24, 32, 33, 64, 100] {
            let layout = GroupLayout::new(203, group_size).expect("a lawful layout");
            let row: Vec<usize> = (0..layout.row_bytes()).map(|byte| byte * 89 % 243).collect();
            let digit_of = |input: usize| {
                let (group, position) = (input / group_size, input % group_size);
                row[group * layout.group_bytes() + position / TRITS_PER_BYTE] / usize::from(PLACES[position % TRITS_PER_BYTE]) % 3
            };
            for chunk in [4, 8].into_iter().flat_map(|most_terms| chunks(layout, most_terms)) {
                for term in 0..chunk.terms * chunk.slots {
                    let inputs: Vec<_> = (0..TERM_INPUTS).map_while(|at| chunk.input_at(term * TERM_INPUTS + at)).collect();
                    if inputs.is_empty() {
                        continue;
                    }
                    let TermPlace { byte, quotient, rest, remainder, step } = chunk.term_place(term);
                    let first = quotient.map_or(0, |power| row[byte] / usize::from(PLACES[power]));
                    let number = first + row.get(rest).copied().unwrap_or(0) % usize::from(PLACES[remainder]) * step;
                    assert!(number < 81, "{chunk:?}, term {term}: {number}");
                    for (at, &input) in inputs.iter().enumerate() {
                        let digit = number / usize::from(PLACES[at]) % 3;
                        assert_eq!(digit, digit_of(input), "groups of {group_size}, {chunk:?}, term {term}, input {input}");
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_cover_every_input_once_and_never_mix_groups_in_a_term() {
        for group_size in [1, 2, 3, 4, 5, 7, 8, 12, 13, 16, 17, 24, 32, 33, 40, 64, 80, 100, 128, 256, 1000] {
            for in_dim in [1, 2, 5, 31, 32, 33, 64, 97, 160, 520, 1001] {
                let layout = GroupLayout::new(in_dim, group_size).expect("a lawful layout");
                for most_terms in [4, 8] {
                    let mut seen = Vec::new();
                    for chunk in chunks(layout, most_terms) {
                        assert!(chunk.slots * chunk.terms <= most_terms && chunk.groups.len() <= chunk.slots);
                        assert_eq!(chunk.input_at(0), Some(chunk.first_input()));
                        let listed: Vec<_> = chunk.inputs().flat_map(|(_, inputs)| inputs).collect();
                        let positions: Vec<_> = (0..TERM_INPUTS * most_terms).filter_map(|position| chunk.input_at(position)).collect();
                        assert_eq!(listed, positions);
                        seen.extend(listed);
                    }
                    assert_eq!(seen, (0..in_dim).collect::<Vec<_>>(), "in_dim {in_dim}, group_size {group_size}");
                }
            }
        }
    }
}
