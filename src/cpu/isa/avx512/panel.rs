//! Packed trits and scales straight into right panels: the only form in which `S T` exists.

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::COLUMNS;
use super::window::{ROWS, Tables, WIDTH, Window};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Lanes of a register of float32.
const LANES: usize = 16;
/// Registers of a window.
pub const PARTS: usize = WIDTH / LANES;

/// The fields of the four parts of a window from its dwords, for permutations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn parts(fields: __m512i) -> [__m512i; PARTS] {
    [fields, _mm512_srli_epi32::<8>(fields), _mm512_srli_epi32::<16>(fields), _mm512_srli_epi32::<24>(fields)]
}

/// The trits of fields, for permutations, which look at the lowest four bits of a lane: a digit and two bits of anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn trits() -> __m512 {
    _mm512_setr_ps(-1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0.)
}

/// `S T` of a window of one row where all columns of a part lie in one group: `scale` are the scales of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn by_parts<const GROUPS: usize>(groups: [usize; GROUPS], scale: &[f32], fields: __m512i) -> [__m512; PARTS] {
    let tables = groups.map(|group| _mm512_mul_ps(trits(), _mm512_set1_ps(scale[group])));
    let fields = parts(fields);
    std::array::from_fn(|part| _mm512_permutexvar_ps(fields[part], tables[part * GROUPS / PARTS]))
}

/// For each 16 columns the group of the first one, and for each column its group from there.
type Groups = [(usize, [i32; LANES]); PARTS];

/// `S T` of a window of one row for any groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn by_lanes(groups: &Groups, scale: &[f32], fields: __m512i) -> [__m512; PARTS] {
    let fields = parts(fields);
    std::array::from_fn(|part| {
        let (first, lanes) = &groups[part];
        let scale = &scale[*first..];
        let there = if scale.len() < LANES { (1 << scale.len()) - 1 } else { u16::MAX };
        // SAFETY: `lanes` has 16 elements; the mask keeps the other load inside `scale`.
        let (lanes, scale) = unsafe { (_mm512_loadu_si512(lanes.as_ptr().cast()), _mm512_maskz_loadu_ps(there, scale.as_ptr())) };
        _mm512_mul_ps(_mm512_permutexvar_ps(fields[part], trits()), _mm512_permutexvar_ps(lanes, scale))
    })
}

/// The group of a column of the window from `first` on; columns past the row's end count as its last one.
pub fn group_of(layout: GroupLayout, first: usize, column: usize) -> usize {
    (first + column).min(layout.in_dim() - 1) / layout.group_size()
}

/// The groups of all lanes of a window.
fn groups_of_lanes(layout: GroupLayout, first: usize) -> Groups {
    std::array::from_fn(|part| {
        let start = group_of(layout, first, part * LANES);
        (start, std::array::from_fn(|lane| (group_of(layout, first, part * LANES + lane) - start) as i32))
    })
}

/// Runs a body with the function that scales the fields of the window from `$first` on: one copy of the body for each way in
/// which groups meet registers, so that none of them decides anything in its loop.
macro_rules! with_scales {
    ($layout:expr, $first:expr, |$apply:ident| $body:expr) => {{
        let group = |column: usize| group_of($layout, $first, column);
        let one = |count: usize| (0..WIDTH).step_by(count).all(|from| group(from) == group(from + count - 1));
        if one(2 * LANES) {
            let groups = [group(0), group(2 * LANES)];
            let $apply = |scale: &[f32], fields: __m512i| by_parts(groups, scale, fields);
            $body
        } else if one(LANES) {
            let groups: [usize; PARTS] = std::array::from_fn(|part| group(part * LANES));
            let $apply = |scale: &[f32], fields: __m512i| by_parts(groups, scale, fields);
            $body
        } else {
            let groups = groups_of_lanes($layout, $first);
            let $apply = |scale: &[f32], fields: __m512i| by_lanes(&groups, scale, fields);
            $body
        }
    }};
}

/// The dword lane `l` of a window holds, from its lowest byte on, the fields of columns `l`, `l + 16`, `l + 32` and `l + 48`.
pub fn interleaved(lane: usize) -> usize {
    lane / PARTS + LANES * (lane % PARTS)
}

/// Stores the words of 64 columns of one step in two neighbouring panels, the second of which may be missing.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn store<W>(panels: &mut [&mut [W]; 2], step: usize, words: [__m512i; PARTS]) {
    const { assert!(size_of::<W>() == 4) };
    let [low, high, rest @ ..] = words;
    for (panel, [low, high]) in panels.iter_mut().zip([[low, high], rest]) {
        if let Some(words) = panel.get_mut(step * COLUMNS..(step + 1) * COLUMNS) {
            // SAFETY: `words` are 32 words of 4 bytes.
            unsafe {
                _mm512_storeu_si512(words.as_mut_ptr().cast(), low);
                _mm512_storeu_si512(words.as_mut_ptr().add(LANES).cast(), high);
            }
        }
    }
}

/// The windows of some columns: for each its first column, and the two panels that it fills.
fn windows<'a, W>(columns: &Range<usize>, panels: &'a mut [W], stride: usize) -> impl Iterator<Item = (usize, [&'a mut [W]; 2])> {
    columns.clone().step_by(WIDTH).zip(panels.chunks_mut(2 * stride)).map(move |(first, panels)| {
        let (low, high) = panels.split_at_mut(stride.min(panels.len()));
        (first, [low, high])
    })
}

/// `S T` as float32, one row per step.
pub fn weights_f32(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { unpack_f32(matrix, scale, rows, columns, panels, stride) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_f32(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [f32], stride: usize) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    for (first, mut panels) in windows(&columns, panels, stride) {
        let window = Window::new(layout, first, interleaved);
        let lanes = window.lanes();
        with_scales!(layout, first, |apply| {
            for first in rows.clone().step_by(ROWS) {
                let fields = tables.fields(&window, &lanes, matrix.bytes(), row_bytes, first);
                for (row, fields) in (first..rows.end).zip(fields) {
                    let weights = apply(&scale[row * groups..][..groups], fields);
                    store(&mut panels, row - rows.start, weights.map(|weights| _mm512_castps_si512(weights)));
                }
            }
        });
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
    unsafe { unpack_bf16(matrix, scale, rows, columns, panels, stride) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn unpack_bf16(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, columns: Range<usize>, panels: &mut [u32], stride: usize) {
    let (tables, layout) = (Tables::new(), matrix.layout());
    let (row_bytes, groups) = (layout.row_bytes(), layout.groups());
    let high_half = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    for (first, mut panels) in windows(&columns, panels, stride) {
        let window = Window::new(layout, first, interleaved);
        let lanes = window.lanes();
        with_scales!(layout, first, |apply| {
            for first in rows.clone().step_by(ROWS) {
                let fields = tables.fields(&window, &lanes, matrix.bytes(), row_bytes, first);
                for (row, [even, odd]) in (first..rows.end).step_by(2).zip([[fields[0], fields[1]], [fields[2], fields[3]]]) {
                    let even = apply(&scale[row * groups..][..groups], even);
                    let odd = match scale.get((row + 1) * groups..(row + 2) * groups) {
                        Some(scale) if row + 1 < rows.end => apply(scale, odd),
                        _ => [_mm512_setzero_ps(); PARTS],
                    };
                    let words = std::array::from_fn(|part| {
                        let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even[part]));
                        // Bits of the odd row where the mask is set, else of the even one.
                        _mm512_ternarylogic_epi32::<0xCA>(high_half, _mm512_castps_si512(odd[part]), even)
                    });
                    store(&mut panels, (row - rows.start) / 2, words);
                }
            }
        });
    }
}
