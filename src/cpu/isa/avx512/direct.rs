//! Few tokens of `dx`: weights go from packed bytes into registers, are multiplied there, and never lie in memory.

use std::arch::x86_64::*;
use std::ops::Range;

use super::panel::{PARTS, by_parts, group_of, interleaved};
use super::window::{ROWS, Tables, WIDTH, Window};
use crate::cpu::isa::backward::Direct;
use crate::trits::TernaryMatrix;

/// Lanes of a register of float32.
const LANES: usize = 16;
/// Tokens whose sums stay in registers together.
const TOKENS: usize = 4;

/// The AVX-512 product of few tokens.
pub static DIRECT: Direct = Direct { tokens: TOKENS, columns: WIDTH, group_step: WIDTH / 2, add_rows };

fn add_rows(matrix: TernaryMatrix<'_>, scale: &[f32], dy: &[f32], rows: Range<usize>, columns: Range<usize>, sums: &mut [f32]) {
    let (out_dim, groups) = (matrix.out_dim(), matrix.layout().groups());
    let tokens = dy.len() / out_dim;
    assert!(rows.end <= out_dim && dy.len() == tokens * out_dim && scale.len() == out_dim * groups, "operands of the matrix");
    assert!(
        columns.start.is_multiple_of(WIDTH) && matrix.layout().group_size().is_multiple_of(WIDTH / 2),
        "halves of windows in one group"
    );
    assert_eq!(sums.len(), tokens * columns.len().next_multiple_of(WIDTH), "sums of every token in whole windows");
    // SAFETY: the operands were just measured, and the table with this function is handed out only where the machine has the tier.
    unsafe {
        match tokens {
            1 => add_rows_of::<1>(matrix, scale, dy, rows, columns, sums),
            2 => add_rows_of::<2>(matrix, scale, dy, rows, columns, sums),
            3 => add_rows_of::<3>(matrix, scale, dy, rows, columns, sums),
            TOKENS => add_rows_of::<TOKENS>(matrix, scale, dy, rows, columns, sums),
            _ => unreachable!("1 to {TOKENS} tokens at once"),
        }
    }
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
    for (at, first) in (0..stride).step_by(WIDTH).zip(columns.step_by(WIDTH)) {
        let window = Window::new(layout, first, interleaved);
        let groups_of_halves = [0, WIDTH / 2].map(|column| group_of(layout, first, column));
        let lanes = window.lanes();
        let sums = sums[at..].as_mut_ptr();
        let place = |token: usize, part: usize| token * stride + part * LANES;
        let mut tile: [[__m512; PARTS]; TOKENS] = std::array::from_fn(|token| {
            // SAFETY: the window lies inside the sums of the token.
            std::array::from_fn(|part| unsafe { _mm512_loadu_ps(sums.add(place(token, part))) })
        });
        for four in rows.clone().step_by(ROWS) {
            let fields = tables.fields(&window, &lanes, matrix.bytes(), layout.row_bytes(), four);
            for (row, fields) in (four..rows.end).zip(fields) {
                let weights = by_parts(groups_of_halves, &scale[row * groups..][..groups], fields);
                for (token, tile) in tile.iter_mut().enumerate() {
                    // SAFETY: the row is one of `dy`.
                    let gradient = _mm512_set1_ps(unsafe { *dy.get_unchecked(token * matrix.out_dim() + row) });
                    for (sum, weights) in tile.iter_mut().zip(weights) {
                        *sum = _mm512_fmadd_ps(gradient, weights, *sum);
                    }
                }
            }
        }
        for (token, tile) in tile.into_iter().enumerate() {
            for (part, sum) in tile.into_iter().enumerate() {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(sums.add(place(token, part)), sum) };
            }
        }
    }
}
