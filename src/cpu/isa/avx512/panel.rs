//! Packed trits and scales straight into right panels: the only form in which `S T` exists.

use std::arch::x86_64::*;
use std::ops::Range;

use super::product::COLUMNS;
use super::window::{Tables, WIDTH, Window};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Lanes of a register of float32.
const LANES: usize = 16;
/// Registers of a window.
pub const PARTS: usize = WIDTH / LANES;

/// Which scales the columns of a window take.
enum Scales {
    /// The columns of each 32 lie in one group: these two.
    Halves([usize; 2]),
    /// The columns of each 16 lie in one group: these four.
    Quarters([usize; PARTS]),
    /// Any others: for each 16 columns the group of the first one, and for each column its group from there.
    Lanes([(usize, [i32; LANES]); PARTS]),
}

impl Scales {
    fn new(layout: GroupLayout, first: usize) -> Self {
        let group = |column: usize| (first + column).min(layout.in_dim() - 1) / layout.group_size();
        let one = |from: usize, count: usize| group(from) == group(from + count - 1);
        if one(0, 2 * LANES) && one(2 * LANES, 2 * LANES) {
            Self::Halves([group(0), group(2 * LANES)])
        } else if (0..PARTS).all(|part| one(part * LANES, LANES)) {
            Self::Quarters(std::array::from_fn(|part| group(part * LANES)))
        } else {
            Self::Lanes(std::array::from_fn(|part| {
                let first = group(part * LANES);
                (first, std::array::from_fn(|lane| (group(part * LANES + lane) - first) as i32))
            }))
        }
    }

    /// `S T` of the 64 columns of one row: `scale` are its scales, `digits` its digits as [`interleaved`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn apply(&self, scale: &[f32], digits: __m512i) -> [__m512; PARTS] {
        // A permutation looks at the lowest four bits of a lane: a digit and two zeros.
        let trits = _mm512_setr_ps(-1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0.);
        let scaled = |group: usize| _mm512_mul_ps(trits, _mm512_set1_ps(scale[group]));
        let digits = [digits, _mm512_srli_epi32::<8>(digits), _mm512_srli_epi32::<16>(digits), _mm512_srli_epi32::<24>(digits)];
        match self {
            Self::Halves(groups) => {
                let tables = groups.map(scaled);
                std::array::from_fn(|part| _mm512_permutexvar_ps(digits[part], tables[part / 2]))
            }
            Self::Quarters(groups) => std::array::from_fn(|part| _mm512_permutexvar_ps(digits[part], scaled(groups[part]))),
            Self::Lanes(parts) => std::array::from_fn(|part| {
                let (first, lanes) = &parts[part];
                let scale = &scale[*first..];
                let there = if scale.len() < LANES { (1 << scale.len()) - 1 } else { u16::MAX };
                // SAFETY: `lanes` has 16 elements; the mask keeps the other load inside `scale`.
                let (lanes, scale) = unsafe { (_mm512_loadu_si512(lanes.as_ptr().cast()), _mm512_maskz_loadu_ps(there, scale.as_ptr())) };
                _mm512_mul_ps(_mm512_permutexvar_ps(digits[part], trits), _mm512_permutexvar_ps(lanes, scale))
            }),
        }
    }
}

/// The dword lane `l` of a window holds, from its lowest byte on, the digits of columns `l`, `l + 16`, `l + 32` and `l + 48`.
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
        let (window, scales) = (Window::new(layout, first, interleaved), Scales::new(layout, first));
        tables.for_rows(&window, matrix.bytes(), row_bytes, rows.clone(), |first, digits| {
            for (row, digits) in (first..rows.end).zip(digits) {
                let weights = scales.apply(&scale[row * groups..][..groups], digits);
                store(&mut panels, row - rows.start, weights.map(|weights| _mm512_castps_si512(weights)));
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
        let (window, scales) = (Window::new(layout, first, interleaved), Scales::new(layout, first));
        tables.for_rows(&window, matrix.bytes(), row_bytes, rows.clone(), |first, digits| {
            for (row, [even, odd]) in (first..rows.end).step_by(2).zip([[digits[0], digits[1]], [digits[2], digits[3]]]) {
                let even = scales.apply(&scale[row * groups..][..groups], even);
                let odd = match scale.get((row + 1) * groups..(row + 2) * groups) {
                    Some(scale) if row + 1 < rows.end => scales.apply(scale, odd),
                    _ => [_mm512_setzero_ps(); PARTS],
                };
                let words = std::array::from_fn(|part| {
                    let even = _mm512_srli_epi32::<16>(_mm512_castps_si512(even[part]));
                    // Bits of the odd row where the mask is set, else of the even one.
                    _mm512_ternarylogic_epi32::<0xCA>(high_half, _mm512_castps_si512(odd[part]), even)
                });
                store(&mut panels, (row - rows.start) / 2, words);
            }
        });
    }
}
