//! How a row of trits is cut into terms for the product by look-up.
//!
//! A term is up to four neighbouring inputs of one group: it has 81 possible signed sums, and one look-up adds it. Four or eight
//! terms make a chunk, whose tables lie in the L1 cache together: part of one group, or a few small groups.

use std::ops::Range;

use crate::cpu::tiling::balanced;
use crate::trits::GroupLayout;

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
