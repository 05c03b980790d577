//! Packed trits and scales into right panels of the transpose, which the forward product multiplies: rows of the matrix become
//! columns of a panel, sixteen at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::COLUMNS;
use super::transpose::transpose_16x16;
use super::weights::{Ahead, BLOCK, Columns, LANES, PARTS, columns_of, fetch, with_weights};
use super::window::{ROWS, Tables, WIDTH};
use crate::trits::TernaryMatrix;

/// The weights of a window in as many rows as a register has lanes.
#[repr(align(64))]
struct Strip([[f32; WIDTH]; LANES]);

/// `S T` as float32, one column of the matrix per step. There must be room for whole windows of steps in each panel, whose words
/// beyond the last row or column become anything.
pub fn weights(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { unpack(matrix, scale, rows, columns, panels, stride) }
}

#[allow(clippy::needless_range_loop, reason = "a loop that can end early puts its registers into memory")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    const { assert!(COLUMNS == 2 * LANES && BLOCK == LANES && LANES.is_multiple_of(ROWS)) };
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    let windows = columns_of(layout, &columns);
    let ahead = Ahead::new(matrix, scale, rows.end);
    let mut strip = Strip([[0.0; WIDTH]; LANES]);
    for (place, first) in rows.clone().step_by(LANES).enumerate() {
        let panel = &mut panels[place / 2 * stride..][..windows.len() * WIDTH * COLUMNS];
        if !ahead.is_of_use() {
            fetch(matrix, scale, &columns, first + LANES..rows.end.min(first + 2 * LANES));
        }
        for (index, Columns { window, groups: groups_of_window }) in windows.iter().enumerate() {
            let lanes = window.lanes();
            with_weights!(groups_of_window, |apply| {
                for (four, strip) in (first..).step_by(ROWS).zip(strip.0.as_chunks_mut::<ROWS>().0) {
                    ahead.fetch(columns.start + index * WIDTH, four);
                    let fields = tables.fields(window, &lanes, matrix.bytes(), row_bytes, four);
                    for index in 0..ROWS {
                        // Rows past the last one are columns that nobody looks at.
                        let row = (four + index).min(rows.end - 1);
                        let weights = apply(&scale[row * groups..][..groups], fields[index]);
                        for part in 0..PARTS {
                            // SAFETY: a row of the strip has a register for each part.
                            unsafe { _mm512_store_ps(strip[index].as_mut_ptr().add(part * LANES), weights[part]) };
                        }
                    }
                }
            });
            let steps = &mut panel[index * WIDTH * COLUMNS..][..WIDTH * COLUMNS];
            for part in 0..PARTS {
                let mut square = [_mm512_setzero_si512(); LANES];
                for row in 0..LANES {
                    // SAFETY: as above.
                    square[row] = unsafe { _mm512_load_si512(strip.0[row].as_ptr().add(part * LANES).cast()) };
                }
                let square = transpose_16x16(square);
                for lane in 0..LANES {
                    let step = (part * LANES + lane) * COLUMNS + place % 2 * LANES;
                    // SAFETY: there are words of `WIDTH` steps, each of two registers.
                    unsafe { _mm512_storeu_si512(steps.as_mut_ptr().add(step).cast(), square[lane]) };
                }
            }
        }
    }
}
