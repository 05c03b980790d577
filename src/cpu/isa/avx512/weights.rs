//! Digits of a window in one row to its weights `S T` in registers, for every way in which groups meet registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::window::{WIDTH, Window};
use crate::cpu::isa::{prefetch_bytes, prefetch_scales};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Lanes of a register of float32.
pub const LANES: usize = 16;
/// Registers of a window.
pub const PARTS: usize = WIDTH / LANES;
/// Rows whose bytes and scales stay in the L1 cache while all windows of a task pass over them.
pub const BLOCK: usize = 16;

/// The trits of fields, for permutations, which look at the lowest four bits of a lane: a digit and two bits of anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn trits() -> __m512 {
    _mm512_setr_ps(-1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0., -1., 0., 1., 0.)
}

/// The fields of the four parts of a window in the lowest bits of its dwords. Multiply-adds shift by a word, since the units for
/// shifts are those for permutations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn parts(fields: __m512i) -> [__m512i; PARTS] {
    let upper_word = _mm512_set1_epi32(1 << 16);
    let upper_bytes = _mm512_srli_epi16::<8>(fields);
    [fields, upper_bytes, _mm512_madd_epi16(fields, upper_word), _mm512_madd_epi16(upper_bytes, upper_word)]
}

/// For each 16 columns the group of the first one, and for each column its group from there.
pub type LaneGroups = [(usize, [i32; LANES]); PARTS];

/// The groups of the registers of a window.
pub enum Groups {
    /// Each half of the window lies in one group.
    Halves([usize; 2]),
    /// Each register lies in one group.
    Parts([usize; PARTS]),
    /// Registers lie in several groups.
    Lanes(Box<LaneGroups>),
}

/// The group of a column of the window from `first` on; columns past the row's end count as its last one.
fn group_of(layout: GroupLayout, first: usize, column: usize) -> usize {
    (first + column).min(layout.in_dim() - 1) / layout.group_size()
}

impl Groups {
    fn new(layout: GroupLayout, first: usize) -> Self {
        let group = |column: usize| group_of(layout, first, column);
        let one = |count: usize| (0..WIDTH).step_by(count).all(|from| group(from) == group(from + count - 1));
        if one(2 * LANES) {
            Groups::Halves([group(0), group(2 * LANES)])
        } else if one(LANES) {
            Groups::Parts(std::array::from_fn(|part| group(part * LANES)))
        } else {
            Groups::Lanes(Box::new(std::array::from_fn(|part| {
                let start = group(part * LANES);
                (start, std::array::from_fn(|lane| (group(part * LANES + lane) - start) as i32))
            })))
        }
    }
}

/// 64 columns, their lanes and their groups.
pub struct Columns {
    /// Where their digits lie: the dword lane `l` holds, from its lowest byte on, columns `l`, `l + 16`, `l + 32` and `l + 48`.
    pub window: Window,
    /// The groups.
    pub groups: Groups,
}

/// The windows of some columns, with `column_of` as [`Window::new`] has it.
pub fn windows(layout: GroupLayout, columns: &Range<usize>, column_of: impl Fn(usize) -> usize + Copy) -> Vec<Window> {
    // Where windows are whole groups, one is like the other.
    let alike = WIDTH.is_multiple_of(layout.group_size());
    let bytes = WIDTH / layout.group_size() * layout.group_bytes();
    let mut windows: Vec<Window> = Vec::with_capacity(columns.len().div_ceil(WIDTH));
    for first in columns.clone().step_by(WIDTH) {
        let window = match windows.last() {
            Some(last) if alike && first + WIDTH <= layout.in_dim() => last.moved(bytes),
            _ => Window::new(layout, first, column_of),
        };
        windows.push(window);
    }
    windows
}

/// All columns of a task.
pub fn columns_of(layout: GroupLayout, columns: &Range<usize>) -> Vec<Columns> {
    let windows = windows(layout, columns, |lane| lane / PARTS + LANES * (lane % PARTS));
    windows
        .into_iter()
        .zip(columns.clone().step_by(WIDTH))
        .map(|(window, first)| Columns { window, groups: Groups::new(layout, first) })
        .collect()
}

/// `S T` of a window of one row where all columns of a part lie in one group: `scale` are the scales of the row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn by_parts<const GROUPS: usize>(groups: &[usize; GROUPS], scale: &[f32], fields: __m512i) -> [__m512; PARTS] {
    let mut tables = [_mm512_setzero_ps(); GROUPS];
    for (table, &group) in tables.iter_mut().zip(groups) {
        *table = _mm512_mul_ps(trits(), _mm512_set1_ps(scale[group]));
    }
    let (fields, mut weights) = (parts(fields), [_mm512_setzero_ps(); PARTS]);
    for part in 0..PARTS {
        weights[part] = _mm512_permutexvar_ps(fields[part], tables[part * GROUPS / PARTS]);
    }
    weights
}

/// `S T` of a window of one row for any groups.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn by_lanes(groups: &LaneGroups, scale: &[f32], fields: __m512i) -> [__m512; PARTS] {
    let (fields, mut weights) = (parts(fields), [_mm512_setzero_ps(); PARTS]);
    for (part, (first, lanes)) in groups.iter().enumerate() {
        let scale = &scale[*first..];
        let there = if scale.len() < LANES { (1 << scale.len()) - 1 } else { u16::MAX };
        // SAFETY: `lanes` has 16 elements; the mask keeps the other load inside `scale`.
        let (lanes, scale) = unsafe { (_mm512_loadu_si512(lanes.as_ptr().cast()), _mm512_maskz_loadu_ps(there, scale.as_ptr())) };
        weights[part] = _mm512_mul_ps(_mm512_permutexvar_ps(fields[part], trits()), _mm512_permutexvar_ps(lanes, scale));
    }
    weights
}

/// Runs a body with `$apply(scale, fields)`, the weights of a window in a row with these scales: one copy of the body for each
/// way in which groups meet registers, so that none of them decides anything in its loop.
macro_rules! with_weights {
    ($groups:expr, |$apply:ident| $body:expr) => {
        match $groups {
            $crate::cpu::isa::avx512::weights::Groups::Halves(groups) => {
                let $apply = |scale: &[f32], fields| $crate::cpu::isa::avx512::weights::by_parts(groups, scale, fields);
                $body
            }
            $crate::cpu::isa::avx512::weights::Groups::Parts(groups) => {
                let $apply = |scale: &[f32], fields| $crate::cpu::isa::avx512::weights::by_parts(groups, scale, fields);
                $body
            }
            $crate::cpu::isa::avx512::weights::Groups::Lanes(groups) => {
                let $apply = |scale: &[f32], fields| $crate::cpu::isa::avx512::weights::by_lanes(groups, scale, fields);
                $body
            }
        }
    };
}
pub(super) use with_weights;

/// The groups that some columns meet.
pub fn groups_of(layout: GroupLayout, columns: &Range<usize>) -> Range<usize> {
    columns.start / layout.group_size()..(columns.end - 1) / layout.group_size() + 1
}

/// Fetches the bytes and the scales of some columns in some rows, as far as the matrix has them.
#[inline(always)]
pub fn fetch(matrix: TernaryMatrix<'_>, scale: &[f32], columns: &Range<usize>, rows: Range<usize>) {
    prefetch_bytes(matrix, columns, rows.clone());
    prefetch_scales(matrix, scale, columns, rows);
}
