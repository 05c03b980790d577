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

/// Packs one row of trits into `packed`, `layout.row_bytes()` long.
pub fn pack_row(trits: &[i8], layout: GroupLayout, packed: &mut [u8]) -> Result<()> {
    if let Some(index) = trits.iter().position(|t| !(-1..=1).contains(t)) {
        return Err(Error::Trit { argument: "trits", index, value: trits[index] });
    }
    for (group, bytes) in trits.chunks(layout.group_size()).zip(packed.chunks_exact_mut(layout.group_bytes())) {
        for (position, byte) in bytes.iter_mut().enumerate() {
            let digit = |place: usize| group.get(position * TRITS_PER_BYTE + place).map_or(1, |t| (t + 1) as u8);
            *byte = PLACES.iter().enumerate().map(|(place, value)| value * digit(place)).sum();
        }
    }
    Ok(())
}

/// Unpacks one row of `layout.row_bytes()` bytes, each at most [`MAX_BYTE`], into `layout.in_dim()` trits.
pub fn unpack_row(packed: &[u8], layout: GroupLayout, trits: &mut [i8]) {
    for (group, bytes) in trits.chunks_mut(layout.group_size()).zip(packed.chunks_exact(layout.group_bytes())) {
        for (five, byte) in group.chunks_mut(TRITS_PER_BYTE).zip(bytes) {
            for (trit, place) in five.iter_mut().zip(PLACES) {
                *trit = ((byte / place) % 3) as i8 - 1;
            }
        }
    }
}

/// Refuses bytes above [`MAX_BYTE`], which are no packed trits (SPEC 4).
pub fn check_bytes(argument: &'static str, bytes: &[u8]) -> Result<()> {
    match bytes.iter().position(|&byte| byte > MAX_BYTE) {
        None => Ok(()),
        Some(index) => Err(Error::PackedByte { argument, index, value: bytes[index] }),
    }
}
