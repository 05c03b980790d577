//! Packed bytes to trit digits, 64 columns at a time, for any group size.
//!
//! Two tables of 256 bytes turn a packed byte into its digits: the first four as 2-bit fields of one byte, and the fifth. A
//! [`Window`] holds, for each of 64 lanes, which of these bytes and which field it takes; since no group of `n` trits has more
//! than `n` bytes, 64 columns never span more than 64 bytes. Where they span 16 at most, four rows share one look-up.

use std::arch::x86_64::*;
use std::ops::Range;

use crate::trits::{GroupLayout, PLACES, TRITS_PER_BYTE};

/// Columns of a window.
pub const WIDTH: usize = 64;
/// Rows that are unpacked together.
pub const ROWS: usize = 4;

/// `[first four digits as 2-bit fields, fifth digit]` of every byte; bytes above 242 read modulo 243.
static DIGITS: [[u8; 256]; 2] = {
    let mut digits = [[0; 256]; 2];
    let mut byte = 0;
    while byte < 256 {
        let mut place = 0;
        while place < TRITS_PER_BYTE {
            let digit = (byte / PLACES[place] as usize % 3) as u8;
            if place < 4 {
                digits[0][byte] |= digit << (2 * place);
            } else {
                digits[1][byte] = digit;
            }
            place += 1;
        }
        byte += 1;
    }
    digits
};

/// Where the digits of 64 columns of every row lie.
pub struct Window {
    /// The first byte of a row that they need.
    first_byte: usize,
    /// How many bytes from there.
    span: usize,
    /// For each lane the byte, and in bit 6 whether it is a fifth digit.
    select: [u8; WIDTH],
    /// For each lane the bit of its eight bytes at which its field starts.
    shift: [u8; WIDTH],
}

/// The bytes in their row and the places in these of [`WIDTH`] columns from `first` on.
fn places_from(layout: GroupLayout, first: usize) -> ([usize; WIDTH], [usize; WIDTH]) {
    let (mut group, mut position) = (first / layout.group_size(), first % layout.group_size());
    let (mut byte, mut place) = (group * layout.group_bytes() + position / TRITS_PER_BYTE, position % TRITS_PER_BYTE);
    let (mut bytes, mut places) = ([0; WIDTH], [0; WIDTH]);
    for lane in 0..WIDTH {
        (bytes[lane], places[lane]) = (byte, place);
        (position, place) = (position + 1, place + 1);
        if position == layout.group_size() {
            (group, position, place) = (group + 1, 0, 0);
            byte = group * layout.group_bytes();
        } else if place == TRITS_PER_BYTE {
            (byte, place) = (byte + 1, 0);
        }
    }
    (bytes, places)
}

impl Window {
    /// The window of up to 64 columns from `first`; lane `l` takes column `first + column_of(l)`, or anything where the row has
    /// no such column.
    pub fn new(layout: GroupLayout, first: usize, column_of: impl Fn(usize) -> usize) -> Self {
        let (byte_of, place_of) = places_from(layout, first);
        let there = (layout.in_dim() - first).min(WIDTH);
        let first_byte = byte_of[0];
        let mut window = Self { first_byte, span: byte_of[there - 1] + 1 - first_byte, select: [0; WIDTH], shift: [0; WIDTH] };
        for lane in 0..WIDTH {
            let offset = column_of(lane);
            if offset < there {
                let (fifth, field) = if place_of[offset] < 4 { (0, 2 * place_of[offset]) } else { (64, 0) };
                window.select[lane] = (byte_of[offset] - first_byte + fifth) as u8;
                window.shift[lane] = (8 * (lane % 8) + field) as u8;
            }
        }
        window
    }

    /// Whether four rows share one look-up.
    fn is_narrow(&self) -> bool {
        self.span <= 16
    }

    /// `select`, a byte of the window for each lane, moved to where the look-ups of four rows have it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn select_rows(&self, select: __m512i) -> [__m512i; ROWS] {
        let quarter = if self.is_narrow() { 16 } else { 0 };
        [0, 1, 2, 3].map(|row| _mm512_add_epi8(select, _mm512_set1_epi8(quarter * row)))
    }

    /// What [`Tables::fields`] needs of the window, in registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn lanes(&self) -> Lanes {
        Lanes { select: self.select_rows(load(&self.select)), shift: load(&self.shift) }
    }

    /// For each lane its byte, counted from the first one.
    pub fn bytes(&self) -> [u8; WIDTH] {
        self.select.map(|select| select % 64)
    }

    /// For each lane the bit of its place in the byte.
    pub fn places(&self) -> [u8; WIDTH] {
        std::array::from_fn(|lane| if self.select[lane] < 64 { 1 << (self.shift[lane] % 8 / 2) } else { 1 << 4 })
    }

    /// The first byte of a row that it needs.
    pub fn first_byte(&self) -> usize {
        self.first_byte
    }
}

/// For each lane of a window which byte it takes in each of four rows, and where in it.
pub struct Lanes {
    select: [__m512i; ROWS],
    shift: __m512i,
}

/// The tables in registers.
#[derive(Clone, Copy)]
pub struct Tables([[__m512i; 4]; 2]);

/// 64 bytes of a table.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the reference covers 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Looks 64 bytes up in a table of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn look_up(table: &[__m512i; 4], bytes: __m512i) -> __m512i {
    let low = _mm512_permutex2var_epi8(table[0], bytes, table[1]);
    let high = _mm512_permutex2var_epi8(table[2], bytes, table[3]);
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(bytes), low, high)
}

/// The `N` bytes from `at`, with anything past the end.
#[inline(always)]
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let bytes = bytes.get(at..).unwrap_or_default();
    match bytes.first_chunk() {
        Some(chunk) => *chunk,
        None => {
            let mut chunk = [0; N];
            chunk[..bytes.len()].copy_from_slice(bytes);
            chunk
        }
    }
}

impl Tables {
    /// Loads the tables of digits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn new() -> Self {
        Self::of(&DIGITS)
    }

    /// Loads two tables.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn of(tables: &'static [[u8; 256]; 2]) -> Self {
        Self(tables.each_ref().map(|table| {
            let parts = table.as_chunks::<64>().0;
            [load(&parts[0]), load(&parts[1]), load(&parts[2]), load(&parts[3])]
        }))
    }

    /// Calls `body(row, digits)` for every four rows of `rows`: the digits (0, 1, 2) of a window in the rows from `row` on, of
    /// `row_bytes` bytes each. Rows past the end of `bytes` give anything. The tables must be those of digits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn for_rows(
        &self,
        window: &Window,
        bytes: &[u8],
        row_bytes: usize,
        rows: Range<usize>,
        mut body: impl FnMut(usize, [__m512i; ROWS]),
    ) {
        let (lanes, three) = (window.lanes(), _mm512_set1_epi8(3));
        for row in rows.step_by(ROWS) {
            let fields = self.fields(window, &lanes, bytes, row_bytes, row);
            body(row, fields.map(|fields| _mm512_and_si512(fields, three)));
        }
    }

    /// Bytes whose lowest two bits are the digits of [`Tables::for_rows`] and whose other bits are anything, in four rows from
    /// `row` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn fields(&self, window: &Window, lanes: &Lanes, bytes: &[u8], row_bytes: usize, row: usize) -> [__m512i; ROWS] {
        let looked_up = self.look_up_rows(window, bytes, row_bytes, row);
        std::array::from_fn(|index| {
            let [fields, fifth] = looked_up[index];
            let bytes = _mm512_permutex2var_epi8(fields, lanes.select[index], fifth);
            _mm512_multishift_epi64_epi8(lanes.shift, bytes)
        })
    }

    /// What 64 bytes are in both tables.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn look_up(&self, bytes: __m512i) -> [__m512i; 2] {
        self.0.each_ref().map(|table| look_up(table, bytes))
    }

    /// What the bytes of a window are in both tables, for four rows from `row` on, of `row_bytes` bytes each; where in them
    /// [`Window::select_rows`] says. Rows past the end of `bytes` give anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn look_up_rows(&self, window: &Window, bytes: &[u8], row_bytes: usize, row: usize) -> [[__m512i; 2]; ROWS] {
        let first = row * row_bytes + window.first_byte;
        if window.is_narrow() {
            let packed = sixteen_of_four(bytes, first, row_bytes);
            [self.look_up(packed); ROWS]
        } else {
            [0, 1, 2, 3].map(|index| self.look_up(load(&bytes_at::<64>(bytes, first + index * row_bytes))))
        }
    }
}

/// 16 bytes from `first` of each of four rows, with anything past the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn sixteen_of_four(bytes: &[u8], first: usize, row_bytes: usize) -> __m512i {
    let join = |quarters: [__m128i; ROWS]| {
        let packed = _mm512_castsi128_si512(quarters[0]);
        let packed = _mm512_inserti32x4::<1>(packed, quarters[1]);
        let packed = _mm512_inserti32x4::<2>(packed, quarters[2]);
        _mm512_inserti32x4::<3>(packed, quarters[3])
    };
    if first + 3 * row_bytes + 16 <= bytes.len() {
        let at = bytes.as_ptr();
        // SAFETY: the last of these loads ends inside `bytes`.
        join([0, 1, 2, 3].map(|index| unsafe { _mm_loadu_si128(at.add(first + index * row_bytes).cast()) }))
    } else {
        join([0, 1, 2, 3].map(|index| {
            let quarter = bytes_at::<16>(bytes, first + index * row_bytes);
            // SAFETY: the array has 16 bytes.
            unsafe { _mm_loadu_si128(quarter.as_ptr().cast()) }
        }))
    }
}
