//! Packed trits and scales straight into right panels: the only form in which `S T` exists.

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::COLUMNS;
use super::window::{ROWS, Tables, WIDTH, Window};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Lanes of a register of float32.
const LANES: usize = 16;
/// Registers of a window.
const PARTS: usize = WIDTH / LANES;

/// The scales of 16 neighbouring columns.
struct Scales {
    /// The group of the first column.
    first: usize,
    /// For each lane its group from there, or None where all lanes lie in one.
    lanes: Option<[i32; LANES]>,
}

impl Scales {
    fn new(layout: GroupLayout, column: usize) -> Self {
        let group = |lane: usize| (column + lane).min(layout.in_dim() - 1) / layout.group_size();
        let first = group(0);
        let several = group(LANES - 1) != first;
        Self { first, lanes: several.then(|| std::array::from_fn(|lane| (group(lane) - first) as i32)) }
    }

    /// `S T` of one row: `scale` are its scales, `digits` 16 dwords that hold a digit in their low 4 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn apply(&self, scale: &[f32], digits: __m512i) -> __m512 {
        let trits = _mm512_setr_ps(-1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0.);
        match &self.lanes {
            None => _mm512_permutexvar_ps(digits, _mm512_mul_ps(trits, _mm512_set1_ps(scale[self.first]))),
            Some(lanes) => {
                let scale = &scale[self.first..];
                let there = if scale.len() < LANES { (1 << scale.len()) - 1 } else { u16::MAX };
                // SAFETY: `lanes` has 16 elements; the mask keeps the other load inside `scale`.
                let (lanes, scale) = unsafe { (_mm512_loadu_si512(lanes.as_ptr().cast()), _mm512_maskz_loadu_ps(there, scale.as_ptr())) };
                _mm512_mul_ps(_mm512_permutexvar_ps(digits, trits), _mm512_permutexvar_ps(lanes, scale))
            }
        }
    }
}

/// The dword lane `l` of a window holds, from its lowest byte on, the digits of columns `l`, `l + 16`, `l + 32` and `l + 48`.
fn interleaved(lane: usize) -> usize {
    lane / PARTS + LANES * (lane % PARTS)
}

/// Runs the body for every window of the columns: with its digits, the scales of its four registers, and its first panel.
macro_rules! for_windows {
    ($matrix:ident, $columns:ident, |$window:ident, $scales:ident, $panel:ident| $body:block) => {
        for first in $columns.clone().step_by(WIDTH) {
            let $window = Window::new($matrix.layout(), first, interleaved);
            let $scales: [Scales; PARTS] = std::array::from_fn(|part| Scales::new($matrix.layout(), first + part * LANES));
            let $panel = (first - $columns.start) / COLUMNS;
            $body
        }
    };
}

/// `S T` as float32, one row per step.
pub fn weights_f32(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { unpack_f32(matrix, scale, rows, columns, panels, stride) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_f32(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [f32],
    stride: usize,
) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    for_windows!(matrix, columns, |window, scales, panel| {
        let mut halves = panels.chunks_mut(stride).skip(panel);
        let mut halves = [halves.next().unwrap_or_default(), halves.next().unwrap_or_default()];
        for first in rows.clone().step_by(ROWS) {
            let digits = tables.digits(&window, matrix.bytes(), first * row_bytes, row_bytes);
            for (row, digits) in (first..rows.end).zip(digits) {
                let scale = &scale[row * groups..][..groups];
                let weights = [
                    scales[0].apply(scale, digits),
                    scales[1].apply(scale, _mm512_srli_epi32::<8>(digits)),
                    scales[2].apply(scale, _mm512_srli_epi32::<16>(digits)),
                    scales[3].apply(scale, _mm512_srli_epi32::<24>(digits)),
                ];
                for (half, [low, high]) in halves.iter_mut().zip([[weights[0], weights[1]], [weights[2], weights[3]]]) {
                    let at = (row - rows.start) * COLUMNS;
                    if let Some(words) = half.get_mut(at..at + COLUMNS) {
                        // SAFETY: `words` are 32.
                        unsafe {
                            _mm512_storeu_ps(words.as_mut_ptr(), low);
                            _mm512_storeu_ps(words.as_mut_ptr().add(LANES), high);
                        }
                    }
                }
            }
        }
    });
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
    unsafe { unpack_bf16(matrix, scale, rows, columns, panels, stride) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_bf16(
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    rows: Range<usize>,
    columns: Range<usize>,
    panels: &mut [u32],
    stride: usize,
) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    for_windows!(matrix, columns, |window, scales, panel| {
        let mut halves = panels.chunks_mut(stride).skip(panel);
        let mut halves = [halves.next().unwrap_or_default(), halves.next().unwrap_or_default()];
        for first in rows.clone().step_by(ROWS) {
            let digits = tables.digits(&window, matrix.bytes(), first * row_bytes, row_bytes);
            for (row, pair) in (first..rows.end).step_by(2).zip([[digits[0], digits[1]], [digits[2], digits[3]]]) {
                let weights = |part: usize, digits: [__m512i; 2]| {
                    let word = |row: usize, digits| {
                        if row < rows.end { scales[part].apply(&scale[row * groups..][..groups], digits) } else { _mm512_setzero_ps() }
                    };
                    let (low, high) = (word(row, digits[0]), word(row + 1, digits[1]));
                    let (low, high) = (_mm512_srli_epi32::<16>(_mm512_castps_si512(low)), _mm512_castps_si512(high));
                    // Bits from `high` where the mask is set, else from `low`.
                    _mm512_ternarylogic_epi32::<0xCA>(_mm512_set1_epi32(0xFFFF_0000_u32 as i32), high, low)
                };
                let weights = [
                    weights(0, pair),
                    weights(1, pair.map(|digits| _mm512_srli_epi32::<8>(digits))),
                    weights(2, pair.map(|digits| _mm512_srli_epi32::<16>(digits))),
                    weights(3, pair.map(|digits| _mm512_srli_epi32::<24>(digits))),
                ];
                for (half, [low, high]) in halves.iter_mut().zip([[weights[0], weights[1]], [weights[2], weights[3]]]) {
                    let at = (row - rows.start) / 2 * COLUMNS;
                    if let Some(words) = half.get_mut(at..at + COLUMNS) {
                        // SAFETY: `words` are 32.
                        unsafe {
                            _mm512_storeu_si512(words.as_mut_ptr().cast(), low);
                            _mm512_storeu_si512(words.as_mut_ptr().add(LANES).cast(), high);
                        }
                    }
                }
            }
        }
    });
}
