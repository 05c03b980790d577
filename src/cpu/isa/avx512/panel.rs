//! Packed trits and scales straight into right panels: the only form in which `S T` exists.
//!
//! Some rows at a time are unpacked in all windows of a task, so that their cache lines are read once.

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::COLUMNS;
use super::weights::{Ahead, BLOCK, Columns, LANES, PARTS, columns_of, fetch, groups_of, windows, with_weights};
use super::window::{ROWS, Tables, WIDTH, Window};
use crate::trits::TernaryMatrix;

/// Where the words of 64 columns go: two neighbouring panels, the second of which may be missing.
struct Panels<'a, W> {
    words: &'a mut [W],
    stride: usize,
    count: usize,
}

impl<'a, W> Panels<'a, W> {
    fn new(words: &'a mut [W], stride: usize, columns: &Range<usize>) -> Self {
        Self { words, stride, count: columns.len().div_ceil(COLUMNS) }
    }

    /// Stores the words of a window in one step.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn store(&mut self, window: usize, step: usize, words: [__m512i; PARTS]) {
        const { assert!(size_of::<W>() == 4 && COLUMNS == 2 * LANES && WIDTH == 2 * COLUMNS) };
        let first = 2 * window * self.stride + step * COLUMNS;
        let to = &mut self.words[first..][..COLUMNS];
        // SAFETY: they are 32 words of 4 bytes.
        unsafe {
            _mm512_storeu_si512(to.as_mut_ptr().cast(), words[0]);
            _mm512_storeu_si512(to.as_mut_ptr().add(LANES).cast(), words[1]);
        }
        if 2 * window + 1 < self.count {
            let to = &mut self.words[first + self.stride..][..COLUMNS];
            // SAFETY: as above.
            unsafe {
                _mm512_storeu_si512(to.as_mut_ptr().cast(), words[2]);
                _mm512_storeu_si512(to.as_mut_ptr().add(LANES).cast(), words[3]);
            }
        }
    }
}

/// `S T` as float32, one row per step.
pub fn weights_f32(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { unpack_f32(matrix, scale, rows, columns, panels, stride) }
}

#[allow(clippy::needless_range_loop, reason = "a loop that can end early puts its registers into memory")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_f32(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    let (windows, mut panels) = (columns_of(layout, &columns), Panels::new(panels, stride, &columns));
    let ahead = Ahead::new(matrix, scale, matrix.out_dim());
    for start in rows.clone().step_by(BLOCK) {
        let block = start..rows.end.min(start + BLOCK);
        if !ahead.is_of_use() {
            fetch(matrix, scale, &columns, block.end..block.end + BLOCK);
        }
        for (index, Columns { window, groups: groups_of_window }) in windows.iter().enumerate() {
            let lanes = window.lanes();
            with_weights!(groups_of_window, |apply| {
                for four in block.clone().step_by(ROWS) {
                    ahead.fetch(columns.start + index * WIDTH, four);
                    let fields = tables.fields(window, &lanes, matrix.bytes(), row_bytes, four);
                    for index_of_four in 0..ROWS {
                        let row = four + index_of_four;
                        if row < block.end {
                            let [a, b, c, d] = apply(&scale[row * groups..][..groups], fields[index_of_four]);
                            let words = [_mm512_castps_si512(a), _mm512_castps_si512(b), _mm512_castps_si512(c), _mm512_castps_si512(d)];
                            panels.store(index, row - rows.start, words);
                        }
                    }
                }
            });
        }
    }
}

/// `S T` as pairs of bfloat16, two rows per step, the second one zero where there is none. The scales must be bfloat16 values.
pub fn weights_bf16(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [u32],
    stride: usize,
) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe {
        if matrix.layout().group_size().is_multiple_of(COLUMNS) {
            unpack_bf16_in_pairs(matrix, scale, rows, columns, panels, stride);
        } else {
            unpack_bf16(matrix, scale, rows, columns, panels, stride);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_bf16(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [u32], stride: usize) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    let high_half = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let (windows, mut panels) = (columns_of(layout, &columns), Panels::new(panels, stride, &columns));
    for start in rows.clone().step_by(BLOCK) {
        let block = start..rows.end.min(start + BLOCK);
        fetch(matrix, scale, &columns, block.end..block.end + BLOCK);
        for (index, Columns { window, groups: groups_of_window }) in windows.iter().enumerate() {
            let lanes = window.lanes();
            with_weights!(groups_of_window, |apply| {
                for four in block.clone().step_by(ROWS) {
                    let [a, b, c, d] = tables.fields(window, &lanes, matrix.bytes(), row_bytes, four);
                    for (row, [even, odd]) in (four..block.end).step_by(2).zip([[a, b], [c, d]]) {
                        let even = apply(&scale[row * groups..][..groups], even);
                        let odd = match scale.get((row + 1) * groups..(row + 2) * groups) {
                            Some(scale) if row + 1 < block.end => apply(scale, odd),
                            _ => [_mm512_setzero_ps(); PARTS],
                        };
                        let mut words = [_mm512_setzero_si512(); PARTS];
                        for (word, (even, odd)) in words.iter_mut().zip(even.into_iter().zip(odd)) {
                            let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even));
                            // Bits of the odd row where the mask is set, else of the even one.
                            *word = _mm512_ternarylogic_epi32::<0xCA>(high_half, _mm512_castps_si512(odd), even);
                        }
                        panels.store(index, (row - rows.start) / 2, words);
                    }
                }
            });
        }
    }
}

/// The columns of half a window in lanes of pairs: the dword lane `l` holds columns `l` and `l + 16` of the even row, then both
/// of the odd one.
fn paired(half: usize) -> impl Fn(usize) -> usize + Copy {
    move |lane| COLUMNS * half + lane / PARTS + LANES * (lane % 2)
}

/// The scales of pairs of rows, the even row's in the low half: `[BLOCK / 2][groups]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn pair_scales(scale: &[f32], all_groups: usize, groups: &Range<usize>, rows: Range<usize>, pairs: &mut [u32]) {
    for (row, pairs) in rows.clone().step_by(2).zip(pairs.chunks_exact_mut(groups.len())) {
        let even = &scale[row * all_groups..][groups.clone()];
        if row + 1 < rows.end {
            let odd = &scale[(row + 1) * all_groups..][groups.clone()];
            for ((pair, even), odd) in pairs.iter_mut().zip(even).zip(odd) {
                *pair = even.to_bits() >> 16 | odd.to_bits() & 0xFFFF_0000;
            }
        } else {
            for (pair, even) in pairs.iter_mut().zip(even) {
                *pair = even.to_bits() >> 16;
            }
        }
    }
}

/// As [`unpack_bf16`] where both halves of a window lie in one group each: digits of two rows side by side look up both words in
/// one table of the two scales.
#[allow(clippy::needless_range_loop, reason = "a loop that can end early puts its registers into memory")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_bf16_in_pairs(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [u32],
    stride: usize,
) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, all_groups) = (layout.row_bytes(), layout.groups());
    let windows: [Vec<Window>; 2] = [0, 1].map(|half| windows(layout, &columns, paired(half)));
    let groups = groups_of(layout, &columns);
    let group_at = |column: usize| column.min(columns.end - 1) / layout.group_size() - groups.start;
    let mut scales = vec![0; BLOCK / 2 * groups.len()];
    let mut panels = Panels::new(panels, stride, &columns);
    // Entries of a table are numbered by digit and row: `2 * digit + row`.
    let odd_rows = _mm512_set1_epi32(0x1010_0000);
    let (digits, row_bits) = (_mm512_set1_epi8(6), _mm512_set1_epi32(0x0101_0000));
    let there = _mm512_setr_epi32(-1, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    let minus = _mm512_setr_epi32(0x8000_8000_u32 as i32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    for start in rows.clone().step_by(BLOCK) {
        let block = start..rows.end.min(start + BLOCK);
        fetch(matrix, scale, &columns, block.end..block.end + BLOCK);
        pair_scales(scale, all_groups, &groups, block.clone(), &mut scales);
        for (index, (low, high)) in windows[0].iter().zip(&windows[1]).enumerate() {
            let lanes = [low.paired_lanes(odd_rows), high.paired_lanes(odd_rows)];
            let first = columns.start + index * WIDTH;
            let groups_of_halves = [group_at(first), group_at(first + COLUMNS)];
            for four in block.clone().step_by(ROWS) {
                let fields = tables.paired_fields(low, &lanes, matrix.bytes(), row_bytes, four);
                for pair in 0..ROWS / 2 {
                    let row = four + 2 * pair;
                    if row >= block.end {
                        continue;
                    }
                    let scales = &scales[(row - start) / 2 * groups.len()..][..groups.len()];
                    let mut words = [_mm512_setzero_si512(); PARTS];
                    for half in 0..2 {
                        // The scales where the digit is not 1, with the sign changed where it is 0.
                        let scales = _mm512_set1_epi32(scales[groups_of_halves[half]] as i32);
                        let table = _mm512_ternarylogic_epi32::<0x78>(minus, there, scales);
                        // (fields & digits) | row_bits
                        let numbers = _mm512_ternarylogic_epi32::<0xF8>(row_bits, fields[pair][half], digits);
                        let upper = _mm512_srli_epi16::<8>(numbers);
                        words[2 * half] = _mm512_permutexvar_epi16(numbers, table);
                        words[2 * half + 1] = _mm512_permutexvar_epi16(upper, table);
                    }
                    panels.store(index, (row - rows.start) / 2, words);
                }
            }
        }
    }
}
