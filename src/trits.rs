//! The base-3 format: five trits per byte, least significant first, every group on a byte border.
//!
//! Byte = d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4 with digit d = trit + 1 (SPEC 1). A group of `group_size` inputs takes
//! `ceil(min(group_size, in_dim) / 5)` bytes; what it does not fill holds trit 0 (digit 1). So rows can be cut at any group
//! border, and a kernel never meets a byte that belongs to two groups.

use crate::error::{Error, Result};

/// Trits in one byte.
pub const TRITS_PER_BYTE: usize = 5;
/// The largest byte that five trits make: 3^5 - 1.
pub const MAX_BYTE: u8 = 242;
/// Place values of the five digits of a byte.
pub const PLACES: [u8; TRITS_PER_BYTE] = [1, 3, 9, 27, 81];
/// A byte of five zero trits: digit 1 at every place.
pub const ZERO_BYTE: u8 = 121;

/// How one row of `in_dim` trits is cut into groups and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupLayout {
    in_dim: usize,
    group_size: usize,
}

impl GroupLayout {
    /// The layout of rows of `in_dim >= 1` trits in groups of `group_size >= 1`.
    pub fn new(in_dim: usize, group_size: usize) -> Result<Self> {
        let positive = |argument, value: usize| {
            if value >= 1 {
                return Ok(());
            }
            Err(Error::Argument { operation: "layout", argument, wanted: "be at least 1".into(), found: value.to_string() })
        };
        positive("in_dim", in_dim)?;
        positive("group_size", group_size)?;
        Ok(Self { in_dim, group_size })
    }

    /// Inputs of one row.
    pub fn in_dim(&self) -> usize {
        self.in_dim
    }

    /// Inputs of a full group, as the user gave it: it may exceed `in_dim`.
    pub fn group_size(&self) -> usize {
        self.group_size
    }

    /// Groups of one row: `ceil(in_dim / group_size)`.
    pub fn groups(&self) -> usize {
        self.in_dim.div_ceil(self.group_size)
    }

    /// Bytes of one group, the last one included: `ceil(min(group_size, in_dim) / 5)`.
    pub fn group_bytes(&self) -> usize {
        self.group_size.min(self.in_dim).div_ceil(TRITS_PER_BYTE)
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.groups() * self.group_bytes()
    }

    /// Inputs of group `group`: `group_size`, or less for a ragged last one.
    pub fn group_len(&self, group: usize) -> usize {
        self.group_size.min(self.in_dim - group * self.group_size)
    }
}

/// Packed trits of a matrix `[out_dim, in_dim]`, borrowed.
#[derive(Clone, Copy, Debug)]
pub struct TernaryMatrix<'a> {
    bytes: &'a [u8],
    out_dim: usize,
    layout: GroupLayout,
}

impl<'a> TernaryMatrix<'a> {
    /// A matrix over `out_dim * layout.row_bytes()` packed bytes.
    ///
    /// # Panics
    /// Where the number of bytes is another: callers check shapes first.
    pub fn new(bytes: &'a [u8], out_dim: usize, layout: GroupLayout) -> Self {
        assert_eq!(bytes.len(), out_dim * layout.row_bytes(), "packed bytes of {out_dim} rows of {layout:?}");
        Self { bytes, out_dim, layout }
    }

    /// All bytes, `[out, groups, group_bytes]` row-major.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of row `row`.
    pub fn row(&self, row: usize) -> &'a [u8] {
        let bytes = self.layout.row_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }

    /// Rows of the matrix.
    pub fn out_dim(&self) -> usize {
        self.out_dim
    }

    /// How its rows are cut.
    pub fn layout(&self) -> GroupLayout {
        self.layout
    }
}

/// The five trits of every byte; bytes above [`MAX_BYTE`] read modulo 243.
pub(crate) const TRITS_OF_BYTE: &[[i8; TRITS_PER_BYTE]; 256] = &{
    let mut table = [[0; TRITS_PER_BYTE]; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut place = 0;
        while place < TRITS_PER_BYTE {
            table[byte][place] = ((byte / PLACES[place] as usize) % 3) as i8 - 1;
            place += 1;
        }
        byte += 1;
    }
    table
};

/// The byte of up to five trits, the missing ones zero.
#[inline(always)]
fn pack_byte(trits: &[i8]) -> u8 {
    trits.iter().zip(PLACES).fold(ZERO_BYTE, |byte, (&trit, place)| byte.wrapping_add_signed(trit.wrapping_mul(place as i8)))
}

/// Packs one row of trits, each -1, 0 or 1, into `packed`, `layout.row_bytes()` long.
#[inline(always)]
pub fn pack_row(trits: &[i8], layout: GroupLayout, packed: &mut [u8]) {
    for (group, bytes) in trits.chunks(layout.group_size()).zip(packed.chunks_exact_mut(layout.group_bytes())) {
        let (fives, rest) = group.as_chunks::<TRITS_PER_BYTE>();
        let (full, padded) = bytes.split_at_mut(fives.len());
        for (byte, five) in full.iter_mut().zip(fives) {
            *byte = pack_byte(five);
        }
        padded.fill(ZERO_BYTE);
        if let Some(byte) = padded.first_mut() {
            *byte = pack_byte(rest);
        }
    }
}

/// Unpacks one row of `layout.row_bytes()` bytes, each at most [`MAX_BYTE`], into `layout.in_dim()` trits.
#[inline(always)]
pub fn unpack_row(packed: &[u8], layout: GroupLayout, trits: &mut [i8]) {
    for (group, bytes) in trits.chunks_mut(layout.group_size()).zip(packed.chunks_exact(layout.group_bytes())) {
        let (fives, rest) = group.as_chunks_mut::<TRITS_PER_BYTE>();
        for (five, &byte) in fives.iter_mut().zip(bytes) {
            *five = TRITS_OF_BYTE[usize::from(byte)];
        }
        if let Some(&byte) = bytes.get(fives.len()) {
            rest.copy_from_slice(&TRITS_OF_BYTE[usize::from(byte)][..rest.len()]);
        }
    }
}

/// Refuses all but -1, 0 and 1.
#[inline(always)]
pub fn check_trits(argument: &'static str, trits: &[i8]) -> Result<()> {
    let is_trit = |t: &i8| (-1..=1).contains(t);
    // The whole array first: a loop without an early end becomes vectors.
    if trits.iter().fold(true, |sound, t| sound & is_trit(t)) {
        return Ok(());
    }
    match trits.iter().position(|t| !is_trit(t)) {
        None => Ok(()),
        Some(index) => Err(Error::Trit { argument, index, value: trits[index] }),
    }
}

/// Refuses bytes above [`MAX_BYTE`], which are no packed trits (SPEC 4).
pub fn check_bytes(argument: &'static str, bytes: &[u8]) -> Result<()> {
    match bytes.iter().position(|&byte| byte > MAX_BYTE) {
        None => Ok(()),
        Some(index) => Err(Error::PackedByte { argument, index, value: bytes[index] }),
    }
}
