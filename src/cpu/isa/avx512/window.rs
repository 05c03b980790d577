//! Packed bytes to trit digits, 64 columns at a time, for any group size.
//!
//! Two tables of 256 bytes turn a packed byte into its digits: the first four as 2-bit fields of one byte, and the fifth. A
//! [`Window`] holds, for each of 64 lanes, which of these bytes and which field it takes; since no group of `n` trits has more
//! than `n` bytes, 64 columns never span more than 64 bytes. Where they span 16 at most, four rows share one look-up.

use std::arch::x86_64::*;

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
#[derive(Clone)]
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

    /// The same lanes of columns that lie so many bytes later in every row.
    pub fn moved(&self, bytes: usize) -> Self {
        Self { first_byte: self.first_byte + bytes, ..self.clone() }
    }

    /// Whether four rows share one look-up.
    pub fn is_narrow(&self) -> bool {
        self.span <= 16
    }

    /// `select`, a byte of the window for each lane, moved to where the look-ups of four rows have it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn select_rows(&self, select: __m512i) -> [__m512i; ROWS] {
        let quarter = if self.is_narrow() { 16 } else { 0 };
        let mut rows = [select; ROWS];
        for row in 1..ROWS {
            rows[row] = _mm512_add_epi8(rows[row - 1], _mm512_set1_epi8(quarter));
        }
        rows
    }

    /// What [`Tables::fields`] needs of the window, in registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn lanes(&self) -> Lanes {
        let shift = load(&self.shift);
        Lanes { select: self.select_rows(load(&self.select)), shift: [shift; 2] }
    }

    /// As [`Window::lanes`] for a narrow window, with the digits of odd rows two bits higher.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn staggered_lanes(&self) -> Lanes {
        let shift = load(&self.shift);
        Lanes { select: self.select_rows(load(&self.select)), shift: [shift, _mm512_sub_epi8(shift, _mm512_set1_epi8(2))] }
    }

    /// As [`Window::lanes`] for a narrow window whose lanes come from two rows, with the digits one bit higher: `odd` are 16 for
    /// the lanes of the second row and 0 elsewhere.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn paired_lanes(&self, odd: __m512i) -> PairedLanes {
        let first = _mm512_add_epi8(load(&self.select), odd);
        let shift = _mm512_sub_epi8(load(&self.shift), _mm512_set1_epi8(1));
        PairedLanes { select: [first, _mm512_add_epi8(first, _mm512_set1_epi8(32))], shift }
    }

    /// For each lane its byte, counted from the first one.
    pub fn bytes(&self) -> [u8; WIDTH] {
        self.select.map(|select| select % 64)
    }

    /// For each lane the bit of its place in the byte.
    pub fn places(&self) -> [u8; WIDTH] {
        std::array::from_fn(|lane| if self.select[lane] < 64 { 1 << (self.shift[lane] % 8 / 2) } else { 1 << 4 })
    }
}

/// For each lane of a window which byte it takes in each of four rows, and where in it in even and in odd ones.
pub struct Lanes {
    select: [__m512i; ROWS],
    shift: [__m512i; 2],
}

/// For each lane of a window which byte it takes in the first and in the second two of four rows, and where in it.
pub struct PairedLanes {
    select: [__m512i; ROWS / 2],
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
        let mut registers = [[_mm512_setzero_si512(); 4]; 2];
        for (registers, table) in registers.iter_mut().zip(tables) {
            for (register, part) in registers.iter_mut().zip(table.as_chunks::<64>().0) {
                *register = load(part);
            }
        }
        Self(registers)
    }

    /// Bytes whose lowest two bits are the digits (0, 1, 2) of a window and whose other bits are anything, in four rows from `row` on, of
    /// `row_bytes` bytes each. Rows past the end of `bytes` give anything. The tables must be those of digits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn fields(&self, window: &Window, lanes: &Lanes, bytes: &[u8], row_bytes: usize, row: usize) -> [__m512i; ROWS] {
        if window.is_narrow() {
            let looked_up = self.look_up(sixteen_of_four(bytes, row * row_bytes + window.first_byte, row_bytes));
            spread([looked_up; ROWS], lanes)
        } else {
            spread(self.look_up_wide(bytes, row * row_bytes + window.first_byte, row_bytes), lanes)
        }
    }

    /// For two windows of two rows each, bytes whose bits 1 and 2 are digits and whose other bits are anything, in four rows from
    /// `row` on: `[rows][window]`. Both windows must be narrow and begin with the same byte.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn paired_fields(
        &self,
        window: &Window,
        lanes: &[PairedLanes; 2],
        bytes: &[u8],
        row_bytes: usize,
        row: usize,
    ) -> [[__m512i; 2]; ROWS / 2] {
        let [fields, fifth] = self.look_up(sixteen_of_four(bytes, row * row_bytes + window.first_byte, row_bytes));
        let mut paired = [[_mm512_setzero_si512(); 2]; ROWS / 2];
        for (pair, paired) in paired.iter_mut().enumerate() {
            for (to, lanes) in paired.iter_mut().zip(lanes) {
                *to = _mm512_multishift_epi64_epi8(lanes.shift, _mm512_permutex2var_epi8(fields, lanes.select[pair], fifth));
            }
        }
        paired
    }

    /// What 64 bytes are in both tables.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn look_up(&self, bytes: __m512i) -> [__m512i; 2] {
        [look_up(&self.0[0], bytes), look_up(&self.0[1], bytes)]
    }

    /// What the bytes of a window are in both tables, for four rows from `row` on, of `row_bytes` bytes each; where in them
    /// [`Window::select_rows`] says. Rows past the end of `bytes` give anything.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    pub fn look_up_rows(&self, window: &Window, bytes: &[u8], row_bytes: usize, row: usize) -> [[__m512i; 2]; ROWS] {
        let first = row * row_bytes + window.first_byte;
        if window.is_narrow() {
            [self.look_up(sixteen_of_four(bytes, first, row_bytes)); ROWS]
        } else {
            self.look_up_wide(bytes, first, row_bytes)
        }
    }

    /// What the 64 bytes from `first` on of each of four rows are in both tables.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn look_up_wide(&self, bytes: &[u8], first: usize, row_bytes: usize) -> [[__m512i; 2]; ROWS] {
        let mut looked_up = [[_mm512_setzero_si512(); 2]; ROWS];
        for (row, looked_up) in looked_up.iter_mut().enumerate() {
            *looked_up = self.look_up(sixty_four(bytes, first + row * row_bytes));
        }
        looked_up
    }
}

/// The digits of four rows in their lanes, from what [`Tables::look_up_rows`] found.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn spread(looked_up: [[__m512i; 2]; ROWS], lanes: &Lanes) -> [__m512i; ROWS] {
    let mut digits = [_mm512_setzero_si512(); ROWS];
    for (row, (digits, [fields, fifth])) in digits.iter_mut().zip(looked_up).enumerate() {
        let bytes = _mm512_permutex2var_epi8(fields, lanes.select[row], fifth);
        *digits = _mm512_multishift_epi64_epi8(lanes.shift[row % 2], bytes);
    }
    digits
}

/// How many of the bytes from `first` on are there.
#[inline(always)]
fn bytes_from(bytes: &[u8], first: usize) -> u32 {
    bytes.len().saturating_sub(first).min(64) as u32
}

/// 64 bytes from `first` on, with zeros past the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn sixty_four(bytes: &[u8], first: usize) -> __m512i {
    let there = u64::MAX.checked_shr(64 - bytes_from(bytes, first)).unwrap_or(0);
    // SAFETY: the mask ends with the bytes.
    unsafe { _mm512_maskz_loadu_epi8(there, bytes.as_ptr().wrapping_add(first).cast()) }
}

/// 16 bytes from `first` on, with zeros past the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn sixteen(bytes: &[u8], first: usize) -> __m128i {
    let there = ((1u32 << bytes_from(bytes, first).min(16)) - 1) as u16;
    // SAFETY: as above.
    unsafe { _mm_maskz_loadu_epi8(there, bytes.as_ptr().wrapping_add(first).cast()) }
}

/// 16 bytes from `first` of each of four rows, with zeros past the end.
///
/// No way through it calls a function: a caller would have to put all of its registers down around the call.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
pub fn sixteen_of_four(bytes: &[u8], first: usize, row_bytes: usize) -> __m512i {
    let at = bytes.as_ptr().wrapping_add(first);
    let [a, b, c, d] = if first + 3 * row_bytes + 16 <= bytes.len() {
        // SAFETY: the last of these loads ends inside `bytes`.
        unsafe {
            [
                _mm_loadu_si128(at.cast()),
                _mm_loadu_si128(at.add(row_bytes).cast()),
                _mm_loadu_si128(at.add(2 * row_bytes).cast()),
                _mm_loadu_si128(at.add(3 * row_bytes).cast()),
            ]
        }
    } else {
        [
            sixteen(bytes, first),
            sixteen(bytes, first + row_bytes),
            sixteen(bytes, first + 2 * row_bytes),
            sixteen(bytes, first + 3 * row_bytes),
        ]
    };
    // To insert into 256 bits costs less than into 512.
    let (above, below) =
        (_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b), _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d));
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(above), below)
}
