//! Register tiles of 12 x 8 sums: 24 accumulators, two registers of the right panel, the left operand by lanes of registers.

use std::arch::aarch64::*;

use super::signs::sign_words;
use super::weights::weights;
use crate::cpu::isa::backward::{Order, Product, ROW_STRIDE, STEP_STRIDE, SignBits};

/// Columns of a tile: two registers.
const COLUMNS: usize = 8;
/// Values in a register.
const LANES: usize = 4;

/// Products of float32.
pub static FLOAT32: Product<f32> =
    Product { name: "neon 12x8 fma", rows: 12, columns: COLUMNS, multiply, signs, weights: weights::<COLUMNS>, scores: None };

/// The sums of one row, or one step of the right panel.
type Row = [float32x4_t; COLUMNS / LANES];

/// # Safety
/// There are `COLUMNS` float32 at `from`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(from: *const f32) -> Row {
    // SAFETY: the caller's promise.
    unsafe { [vld1q_f32(from), vld1q_f32(from.add(LANES))] }
}

/// Adds a row of the right panel times a value.
#[inline]
#[target_feature(enable = "neon")]
fn add_value(sums: &mut Row, left: f32, right: &Row) {
    *sums = [vfmaq_n_f32(sums[0], right[0], left), vfmaq_n_f32(sums[1], right[1], left)];
}

/// Adds one step to the rows from `FIRST` on, four of them or what the tile has.
///
/// # Safety
/// `left` holds the words of all rows of that step, side by side.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_step<const FIRST: usize>(sums: &mut [Row], left: *const f32, right: &Row) {
    /// Adds a row of the right panel times a lane of `left`.
    #[inline]
    #[target_feature(enable = "neon")]
    fn add_lane<const LANE: i32>(sums: &mut Row, left: float32x4_t, right: &Row) {
        *sums = [vfmaq_laneq_f32::<LANE>(sums[0], right[0], left), vfmaq_laneq_f32::<LANE>(sums[1], right[1], left)];
    }
    let rows = &mut sums[FIRST..];
    if let Some([a, b, c, d]) = rows.first_chunk_mut() {
        // SAFETY: the tile has four rows from `FIRST` on.
        let left = unsafe { vld1q_f32(left.add(FIRST)) };
        add_lane::<0>(a, left, right);
        add_lane::<1>(b, left, right);
        add_lane::<2>(c, left, right);
        add_lane::<3>(d, left, right);
        return;
    }
    for (row, sums) in rows.iter_mut().enumerate() {
        // SAFETY: the tile has that row.
        add_value(sums, unsafe { *left.add(FIRST + row) }, right);
    }
}

/// Adds two steps to all rows. Four at a time would need eight registers for the right panel, and there are no more than 32.
///
/// # Safety
/// `left` holds two words for each row, rows `ROW_STRIDE` words apart, and `right` two steps.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_two_steps(sums: &mut [Row], left: *const f32, right: *const f32) {
    // SAFETY: the caller vouches for two steps.
    let [first, second] = unsafe { [load(right), load(right.add(COLUMNS))] };
    for (row, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the tile has that row.
        let left = unsafe { vld1_f32(left.add(row * ROW_STRIDE)) };
        *sums = [vfmaq_lane_f32::<0>(sums[0], first[0], left), vfmaq_lane_f32::<0>(sums[1], first[1], left)];
        *sums = [vfmaq_lane_f32::<1>(sums[0], second[0], left), vfmaq_lane_f32::<1>(sums[1], second[1], left)];
    }
}

/// The sums of a tile, beginning with `start` where it is not null.
///
/// # Safety
/// `left` holds `ROWS` rows of `steps` words in the order that `BY_ROWS` says, `right` `steps * COLUMNS` words, `start`, if
/// anything, `ROWS * COLUMNS` float32.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile<const ROWS: usize, const BY_ROWS: bool>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    start: *const f32,
) -> [Row; ROWS] {
    let mut sums = [[vdupq_n_f32(0.0); 2]; ROWS];
    if !start.is_null() {
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `start` holds `ROWS * COLUMNS` float32.
            *sums = unsafe { load(start.add(row * COLUMNS)) };
        }
    }
    let mut step = 0;
    while BY_ROWS && step + 2 <= steps {
        // SAFETY: two steps are left.
        unsafe { add_two_steps(&mut sums, left.add(step), right.add(step * COLUMNS)) };
        step += 2;
    }
    while step < steps {
        // SAFETY: `step` is below `steps`, and the tile has the rows that are named.
        unsafe {
            let right = load(right.add(step * COLUMNS));
            if BY_ROWS {
                for (row, sums) in sums.iter_mut().enumerate() {
                    add_value(sums, *left.add(row * ROW_STRIDE + step), &right);
                }
            } else {
                let left = left.add(step * STEP_STRIDE);
                add_step::<0>(&mut sums, left, &right);
                if ROWS > 4 {
                    add_step::<4>(&mut sums, left, &right);
                }
                if ROWS > 8 {
                    add_step::<8>(&mut sums, left, &right);
                }
            }
        }
        step += 1;
    }
    sums
}

/// # Safety
/// As [`tile`]; `sums` holds `ROWS * COLUMNS` float32.
#[target_feature(enable = "neon")]
unsafe fn sums_of_tile<const ROWS: usize, const BY_ROWS: bool>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    sums: *mut f32,
    resume: bool,
) {
    // SAFETY: the caller's promise is the callee's.
    let tile = unsafe { tile::<ROWS, BY_ROWS>(left, right, steps, if resume { sums } else { std::ptr::null() }) };
    for (row, tile) in tile.iter().enumerate() {
        // SAFETY: `sums` holds `ROWS * COLUMNS` float32.
        unsafe {
            vst1q_f32(sums.add(row * COLUMNS), tile[0]);
            vst1q_f32(sums.add(row * COLUMNS + LANES), tile[1]);
        }
    }
}

/// # Safety
/// As [`tile`].
#[target_feature(enable = "neon")]
unsafe fn signs_of_tile<const ROWS: usize>(
    left: *const f32,
    right: *const f32,
    steps: usize,
    start: *const f32,
    signs: &mut [SignBits],
    column: usize,
) {
    // SAFETY: the caller's promise is the callee's.
    let tile = unsafe { tile::<ROWS, false>(left, right, steps, start) };
    for (tile, signs) in tile.into_iter().zip(signs) {
        let (positive, negative) = sign_words(tile);
        signs.set(column, COLUMNS, positive, negative);
    }
}

/// Calls a tile with the number of rows as its first parameter.
macro_rules! with_rows {
    ($rows:expr, $n:ident => $call:expr) => {
        with_rows!(@ $rows, $n => $call, 1 2 3 4 5 6 7 8 9 10 11 12)
    };
    (@ $rows:expr, $n:ident => $call:expr, $($count:literal)*) => {
        match $rows {
            $($count => {
                const $n: usize = $count;
                // SAFETY: the lengths were checked; the table is handed out only where the machine has the tier.
                unsafe { $call }
            })*
            _ => unreachable!("a tile has 1 to 12 rows"),
        }
    };
}

fn multiply(rows: usize, left: &[f32], order: Order, right: &[f32], sums: &mut [f32], resume: bool) {
    let steps = order.check(rows, left, right, Some(sums), COLUMNS);
    let (left, right, sums) = (left.as_ptr(), right.as_ptr(), sums.as_mut_ptr());
    match order {
        Order::Rows => with_rows!(rows, ROWS => sums_of_tile::<ROWS, true>(left, right, steps, sums, resume)),
        Order::Steps => with_rows!(rows, ROWS => sums_of_tile::<ROWS, false>(left, right, steps, sums, resume)),
    }
}

fn signs(rows: usize, left: &[f32], right: &[f32], start: Option<&[f32]>, signs: &mut [SignBits], column: usize) {
    let steps = Order::Steps.check(rows, left, right, start, COLUMNS);
    let (left, right, start) = (left.as_ptr(), right.as_ptr(), start.map_or(std::ptr::null(), |start| start.as_ptr()));
    with_rows!(rows, ROWS => signs_of_tile::<ROWS>(left, right, steps, start, signs, column));
}
