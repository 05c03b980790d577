//! Flat pack to group-aligned bytes and back.
//!
//! The reference packs the whole matrix as one run of trits, rows running into each other, and fills its last byte with
//! digit 0 (SPEC 2, 3). ternax starts every group on a byte and fills it with trit 0, digit 1 ([`crate::trits`]).

use crate::trits::{GroupLayout, PLACES, TRITS_OF_BYTE, TRITS_PER_BYTE};

/// The five digits of a byte, trit + 1 each; bytes above 242, which no checked file holds, count modulo 243 (SPEC 4).
pub fn digits(byte: u8) -> [u8; TRITS_PER_BYTE] {
    TRITS_OF_BYTE[usize::from(byte)].map(|trit| (trit + 1) as u8)
}

/// Bytes of `trits` trits in a flat pack.
pub fn flat_bytes(trits: usize) -> usize {
    trits.div_ceil(TRITS_PER_BYTE)
}

/// Digits that fill the last byte of a flat pack of `trits` trits.
pub fn flat_padding(trits: usize) -> usize {
    flat_bytes(trits) * TRITS_PER_BYTE - trits
}

/// The flat pack of group-aligned rows.
pub fn from_grouped(grouped: &[u8], layout: GroupLayout) -> Vec<u8> {
    let rows = grouped.len() / layout.row_bytes();
    let mut flat = vec![0; flat_bytes(rows * layout.in_dim())];
    let (mut index, mut place) = (0, 0);
    for row in grouped.chunks_exact(layout.row_bytes()) {
        for (group, bytes) in row.chunks_exact(layout.group_bytes()).enumerate() {
            for digit in bytes.iter().flat_map(|&byte| digits(byte)).take(layout.group_len(group)) {
                flat[index] += PLACES[place] * digit;
                place += 1;
                if place == TRITS_PER_BYTE {
                    (index, place) = (index + 1, 0);
                }
            }
        }
    }
    flat
}

/// Group-aligned rows of a flat pack of `rows` rows.
pub fn to_grouped(flat: &[u8], rows: usize, layout: GroupLayout) -> Vec<u8> {
    let mut grouped = vec![0; rows * layout.row_bytes()];
    let mut run = flat.iter().flat_map(|&byte| digits(byte));
    for row in grouped.chunks_exact_mut(layout.row_bytes()) {
        for (group, bytes) in row.chunks_exact_mut(layout.group_bytes()).enumerate() {
            let mut left = layout.group_len(group);
            for byte in bytes {
                for place in PLACES {
                    let digit = if left > 0 { run.next().unwrap_or(1) } else { 1 };
                    *byte += place * digit;
                    left = left.saturating_sub(1);
                }
            }
        }
    }
    grouped
}
