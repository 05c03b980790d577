//! Few tokens of `dx`: weights go from packed bytes into registers, are multiplied there, and never lie in memory.

#![allow(clippy::needless_range_loop, reason = "sums stay in registers only where no loop over them can end early")]

use std::arch::x86_64::*;
use std::ops::Range;

use super::weights::{BLOCK, Columns, Groups, LANES, PARTS, columns_of, fetch, groups_of, parts, with_weights};
use super::window::{ROWS, Tables, WIDTH};
use crate::cpu::isa::backward::Direct;
use crate::trits::TernaryMatrix;

/// Tokens whose sums stay in registers together.
const TOKENS: usize = 4;

/// The AVX-512 product of few tokens.
pub static DIRECT: Direct = Direct { tokens: TOKENS, columns: WIDTH, add_rows };

fn add_rows(matrix: TernaryMatrix<'_>, scale: &[f32], dy: &[f32], rows: Range<usize>, columns: Range<usize>, sums: &mut [f32]) {
    let (out_dim, layout) = (matrix.out_dim(), matrix.layout());
    let tokens = dy.len() / out_dim;
    assert!(rows.end <= out_dim && dy.len() == tokens * out_dim && scale.len() == out_dim * layout.groups(), "operands of the matrix");
    assert!(columns.start.is_multiple_of(WIDTH) && columns.end <= layout.in_dim(), "whole windows");
    assert_eq!(sums.len(), tokens * columns.len().next_multiple_of(WIDTH), "sums of every token in whole windows");
    // SAFETY: the operands were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match tokens {
            1 if layout.group_size().is_multiple_of(WIDTH / 2) => add_pairs(matrix, scale, dy, rows, columns, sums),
            1 => add_rows_of::<1>(matrix, scale, dy, rows, columns, sums),
            2 => add_rows_of::<2>(matrix, scale, dy, rows, columns, sums),
            3 => add_rows_of::<3>(matrix, scale, dy, rows, columns, sums),
            TOKENS => add_rows_of::<TOKENS>(matrix, scale, dy, rows, columns, sums),
            _ => unreachable!("1 to {TOKENS} tokens at once"),
        }
    }
}

/// The rows after a block that are fetched along with one of its windows: all at once would be more lines than can be under way.
fn share_of_next(block: &Range<usize>, window: usize, windows: usize) -> Range<usize> {
    block.end + window * BLOCK / windows..block.end + (window + 1) * BLOCK / windows
}

/// # Safety
/// The rows are rows of the matrix, of `dy` and of the scales; `sums` hold whole windows of columns for each token.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn add_rows_of<const TOKENS: usize>(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    dy: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    sums: &mut [f32],
) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (groups, stride) = (layout.groups(), columns.len().next_multiple_of(WIDTH));
    let windows = columns_of(layout, &columns);
    let mut gradients = [[0.0; TOKENS]; BLOCK];
    for start in rows.clone().step_by(BLOCK) {
        let block = start..rows.end.min(start + BLOCK);
        for (index, gradients) in gradients.iter_mut().enumerate() {
            for token in 0..TOKENS {
                gradients[token] = if index < block.len() { dy[token * matrix.out_dim() + start + index] } else { 0.0 };
            }
        }
        for (index, Columns { window, groups: groups_of_window }) in windows.iter().enumerate() {
            fetch(matrix, scale, &columns, share_of_next(&block, index, windows.len()));
            let lanes = window.lanes();
            let sums = sums[index * WIDTH..].as_mut_ptr();
            let mut tile = [[_mm512_setzero_ps(); PARTS]; TOKENS];
            for token in 0..TOKENS {
                for part in 0..PARTS {
                    // SAFETY: the window lies inside the sums of the token.
                    tile[token][part] = unsafe { _mm512_loadu_ps(sums.add(token * stride + part * LANES)) };
                }
            }
            with_weights!(groups_of_window, |apply| {
                for (four, gradients) in block.clone().step_by(ROWS).zip(gradients.as_chunks::<ROWS>().0) {
                    let fields = tables.fields(window, &lanes, matrix.bytes(), layout.row_bytes(), four);
                    for index in 0..ROWS {
                        // The gradient of a row past the end is zero, whatever its weights.
                        let row = (four + index).min(block.end - 1);
                        let weights = apply(&scale[row * groups..][..groups], fields[index]);
                        for token in 0..TOKENS {
                            let gradient = _mm512_set1_ps(gradients[index][token]);
                            for part in 0..PARTS {
                                tile[token][part] = _mm512_fmadd_ps(gradient, weights[part], tile[token][part]);
                            }
                        }
                    }
                }
            });
            for token in 0..TOKENS {
                for part in 0..PARTS {
                    // SAFETY: as above.
                    unsafe { _mm512_storeu_ps(sums.add(token * stride + part * LANES), tile[token][part]) };
                }
            }
        }
    }
}

/// One token in groups of whole halves of windows: the digits of two rows look up, in one table of nine sums, what both rows add
/// to a column.
///
/// # Safety
/// As [`add_rows_of`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn add_pairs(matrix: TernaryMatrix<'_>, scale: &[f32], dy: &[f32], rows: Range<usize>, columns: Range<usize>, sums: &mut [f32]) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let windows = columns_of(layout, &columns);
    let groups = groups_of(layout, &columns);
    let even_trits = _mm512_setr_ps(-1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0., 0., 0., 0., 0.);
    let odd_trits = _mm512_setr_ps(-1., -1., -1., 0., 0., 0., 0., 0., 1., 1., 1., 0., 0., 0., 0., 0.);
    // The scale of each group times the gradient of the row, `[BLOCK][groups]`; 0 in rows past the end.
    let mut factors = vec![0.0; BLOCK * groups.len()];
    for start in rows.clone().step_by(BLOCK) {
        let block = start..rows.end.min(start + BLOCK);
        factors[block.len() * groups.len()..].fill(0.0);
        for (row, factors) in block.clone().zip(factors.chunks_exact_mut(groups.len())) {
            for (factor, scale) in factors.iter_mut().zip(&scale[row * layout.groups()..][groups.clone()]) {
                *factor = scale * dy[row];
            }
        }
        for (index, Columns { window, groups: groups_of_window }) in windows.iter().enumerate() {
            fetch(matrix, scale, &columns, share_of_next(&block, index, windows.len()));
            let Groups::Halves(groups_of_halves) = groups_of_window else { unreachable!("halves of windows in one group") };
            let [low, high] = groups_of_halves.map(|group| group - groups.start);
            assert!(low < groups.len() && high < groups.len(), "groups of the columns");
            let (lanes, count) = (window.staggered_lanes(), groups.len());
            let sums = sums[index * WIDTH..].as_mut_ptr();
            let mut tile = [_mm512_setzero_ps(); PARTS];
            for part in 0..PARTS {
                // SAFETY: the window lies inside the sums.
                tile[part] = unsafe { _mm512_loadu_ps(sums.add(part * LANES)) };
            }
            for (four, factors) in block.clone().step_by(ROWS).zip(factors.chunks_exact(ROWS * count)) {
                let fields = tables.fields(window, &lanes, matrix.bytes(), layout.row_bytes(), four);
                for pair in 0..ROWS / 2 {
                    let mut pair_sums = [_mm512_setzero_ps(); 2];
                    for (half, group) in [low, high].into_iter().enumerate() {
                        // SAFETY: there are factors of all groups in four rows.
                        let [even, odd] = unsafe {
                            let even = factors.as_ptr().add(2 * pair * count + group);
                            [_mm512_set1_ps(*even), _mm512_set1_ps(*even.add(count))]
                        };
                        pair_sums[half] = _mm512_fmadd_ps(odd_trits, odd, _mm512_mul_ps(even_trits, even));
                    }
                    // The lowest two bits from the even row, the next two from the odd one.
                    let both = _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi8(3), fields[2 * pair], fields[2 * pair + 1]);
                    let both = parts(both);
                    for part in 0..PARTS {
                        tile[part] = _mm512_add_ps(tile[part], _mm512_permutexvar_ps(both[part], pair_sums[part / 2]));
                    }
                }
            }
            for part in 0..PARTS {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(sums.add(part * LANES), tile[part]) };
            }
        }
    }
}
