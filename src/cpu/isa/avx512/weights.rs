//! Digits of a window in one row to its weights `S T` in registers, for every way in which groups meet registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::window::{ROWS, WIDTH, Window};
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
    /// Every column is a group, and this is the first one.
    Columns(usize),
}

/// The groups of the columns of the window from `first` on; columns past the row's end count as its last one.
fn groups_from(layout: GroupLayout, first: usize) -> [usize; WIDTH] {
    let (mut group, mut position) = (first / layout.group_size(), first % layout.group_size());
    let mut groups = [group; WIDTH];
    for (column, of_column) in groups.iter_mut().enumerate() {
        *of_column = group;
        position += 1;
        if position == layout.group_size() && first + column + 1 < layout.in_dim() {
            (group, position) = (group + 1, 0);
        }
    }
    groups
}

impl Groups {
    fn new(layout: GroupLayout, first: usize) -> Self {
        if layout.group_size() == 1 {
            return Groups::Columns(first);
        }
        let groups = groups_from(layout, first);
        let one = |count: usize| groups.chunks_exact(count).all(|groups| groups[0] == groups[count - 1]);
        if one(2 * LANES) {
            Groups::Halves([groups[0], groups[2 * LANES]])
        } else if one(LANES) {
            Groups::Parts(std::array::from_fn(|part| groups[part * LANES]))
        } else {
            Groups::Lanes(Box::new(std::array::from_fn(|part| {
                let groups = &groups[part * LANES..];
                (groups[0], std::array::from_fn(|lane| (groups[lane] - groups[0]) as i32))
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

/// `S T` of a window of one row in groups of one, from group `first` on; columns past the row's end have weight 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn by_columns(first: usize, scale: &[f32], fields: __m512i) -> [__m512; PARTS] {
    let (fields, mut weights) = (parts(fields), [_mm512_setzero_ps(); PARTS]);
    let there = u64::MAX.checked_shr(WIDTH.saturating_sub(scale.len() - first) as u32).unwrap_or(0);
    for part in 0..PARTS {
        let (at, there) = (scale.as_ptr().wrapping_add(first + part * LANES), (there >> (part * LANES)) as u16);
        // SAFETY: the mask keeps the load inside `scale`.
        let scale = unsafe { _mm512_maskz_loadu_ps(there, at) };
        weights[part] = _mm512_mul_ps(_mm512_permutexvar_ps(fields[part], trits()), scale);
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
            $crate::cpu::isa::avx512::weights::Groups::Columns(first) => {
                let $apply = |scale: &[f32], fields| $crate::cpu::isa::avx512::weights::by_columns(*first, scale, fields);
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

/// The most columns of a group whose scales are a stream of their own beside the bytes.
const SMALL_GROUP: usize = 4;

/// How far ahead the bytes and scales of small groups are fetched: whole rows are too much for the L1 cache, and too much at a
/// time for the requests that it can have under way.
#[derive(Clone, Copy)]
pub struct Ahead<'a> {
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
    end: usize,
}

impl<'a> Ahead<'a> {
    /// Fetches in rows before `end`, where the groups are small.
    pub fn new(matrix: TernaryMatrix<'a>, scale: &'a [f32], end: usize) -> Self {
        let small = matrix.layout().group_size() <= SMALL_GROUP;
        Self { matrix, scale, end: if small { end } else { 0 } }
    }

    /// Whether it fetches anything at all.
    pub fn is_of_use(&self) -> bool {
        self.end > 0
    }

    /// Fetches into the L2 cache what the window from `column` on needs of [`BLOCK`] rows later than four from `row` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn fetch(&self, column: usize, row: usize) {
        const FLOATS: usize = 16;
        let layout = self.matrix.layout();
        for row in row + BLOCK..self.end.min(row + BLOCK + ROWS) {
            let group = column / layout.group_size();
            let bytes = self.matrix.bytes().as_ptr().wrapping_add(row * layout.row_bytes() + group * layout.group_bytes());
            let scales = self.scale.as_ptr().wrapping_add(row * layout.groups() + group);
            // An address outside of the operands does no harm.
            _mm_prefetch::<_MM_HINT_T1>(bytes.cast());
            for line in (0..WIDTH.div_ceil(layout.group_size())).step_by(FLOATS) {
                _mm_prefetch::<_MM_HINT_T1>(scales.wrapping_add(line).cast());
            }
        }
    }
}
