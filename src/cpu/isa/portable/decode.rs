//! The product of one token by tables of bytes: for every byte of a row the 243 sums that its five trits can make of its five
//! inputs, so that five weights cost one look-up. No index can leave a table, whatever the byte.

use std::ops::Range;

use crate::cpu::isa::forward::Decode;
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Sums of one byte; those of bytes above 242 stay 0.
const SUMS: usize = 256;
/// Bytes of a row whose tables are used together: 16 KB, half of a small L1 cache.
const BYTES: usize = 16;

/// The portable product of few tokens.
pub static DECODE: Decode = Decode { name: "portable decode", most_tokens: 4, tokens_at_once: 1, table_len, tables, rows };

fn table_len(layout: GroupLayout) -> usize {
    layout.row_bytes() * SUMS
}

fn tables(layout: GroupLayout, x: &[f32], tables: &mut [f32]) {
    let groups = x.chunks(layout.group_size()).zip(tables.chunks_exact_mut(layout.group_bytes() * SUMS));
    for (inputs, tables) in groups {
        tables.fill(0.0);
        for (inputs, table) in inputs.chunks(TRITS_PER_BYTE).zip(tables.chunks_exact_mut(SUMS)) {
            let mut count = 1;
            for place in 0..TRITS_PER_BYTE {
                let input = inputs.get(place).copied().unwrap_or(0.0);
                let (zeros, others) = table[..3 * count].split_at_mut(count);
                let (middle, last) = others.split_at_mut(count);
                for ((zero, middle), last) in zeros.iter_mut().zip(middle).zip(last) {
                    (*zero, *middle, *last) = (*zero - input, *zero, *zero + input);
                }
                count *= 3;
            }
        }
    }
}

fn rows(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, tables: &[f32], sums: &mut [f32]) {
    let (layout, tables) = (matrix.layout(), tables.as_chunks::<SUMS>().0);
    let (groups, group_bytes) = (layout.groups(), layout.group_bytes());
    sums.fill(0.0);
    let groups_at_once = (BYTES / group_bytes).max(1);
    for first in (0..groups).step_by(groups_at_once) {
        let last = groups.min(first + groups_at_once);
        let tables = &tables[first * group_bytes..last * group_bytes];
        for (row, sum) in rows.clone().zip(sums.iter_mut()) {
            let bytes = &matrix.row(row)[first * group_bytes..last * group_bytes];
            let scales = &scale[row * groups + first..row * groups + last];
            for ((bytes, tables), scale) in bytes.chunks_exact(group_bytes).zip(tables.chunks_exact(group_bytes)).zip(scales) {
                let terms = bytes.iter().zip(tables).map(|(&byte, table)| table[usize::from(byte)]);
                *sum += scale * terms.sum::<f32>();
            }
        }
    }
}
