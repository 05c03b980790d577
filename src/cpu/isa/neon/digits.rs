//! Digits of packed bytes, up to 32 trits of a group at a time: the byte of every trit, its quotient by the trit's power of three,
//! and what that leaves modulo three.

use std::arch::aarch64::*;
use std::ops::Range;

use crate::trits::{GroupLayout, PLACES, TRITS_PER_BYTE, TernaryMatrix};

/// Bytes in which a block lies.
pub const BYTES: usize = 8;
/// Most trits of a block.
pub const WIDTH: usize = 32;
/// Numbers that a packed byte can be.
const PACKED: u8 = 243;

/// For each power of three a factor and a shift by which `byte * factor >> shift` is the quotient.
pub const QUOTIENTS: [(u8, i16); TRITS_PER_BYTE] = [(1, 0), (171, 9), (57, 9), (19, 9), (203, 14)];

const _: () = {
    let mut power = 0;
    while power < TRITS_PER_BYTE {
        let ((factor, shift), mut byte) = (QUOTIENTS[power], 0);
        while byte < PACKED as u16 {
            assert!((byte * factor as u16) >> shift == byte / PLACES[power] as u16);
            byte += 1;
        }
        power += 1;
    }
};

/// The lanes of a block that starts at some place of its first byte.
struct Lanes {
    bytes: [u8; WIDTH],
    factors: [u8; WIDTH],
    shifts: [i16; WIDTH],
}

/// One for each place.
static LANES: [Lanes; TRITS_PER_BYTE] = {
    let mut places = [const { Lanes { bytes: [0; WIDTH], factors: [0; WIDTH], shifts: [0; WIDTH] } }; TRITS_PER_BYTE];
    let mut place = 0;
    while place < TRITS_PER_BYTE {
        let mut lane = 0;
        while lane < WIDTH {
            let (factor, shift) = QUOTIENTS[(place + lane) % TRITS_PER_BYTE];
            places[place].bytes[lane] = ((place + lane) / TRITS_PER_BYTE) as u8;
            places[place].factors[lane] = factor;
            places[place].shifts[lane] = -shift;
            lane += 1;
        }
        place += 1;
    }
    places
};

/// Neighbouring columns of one group.
pub struct Block {
    /// The first column, counted from the start of the range that was cut.
    pub column: usize,
    /// How many columns.
    pub count: usize,
    /// The group.
    pub group: usize,
    /// The first byte in the row.
    first_byte: usize,
    lanes: &'static Lanes,
}

/// Cuts columns into blocks.
pub fn blocks(layout: GroupLayout, columns: &Range<usize>) -> Vec<Block> {
    let (size, mut blocks, mut column) = (layout.group_size(), Vec::new(), columns.start);
    while column < columns.end {
        let (group, position) = (column / size, column % size);
        let count = (columns.end - column).min(size - position).min(WIDTH);
        let first_byte = group * layout.group_bytes() + position / TRITS_PER_BYTE;
        blocks.push(Block { column: column - columns.start, count, group, first_byte, lanes: &LANES[position % TRITS_PER_BYTE] });
        column += count;
    }
    blocks
}

/// Eight bytes, those above 242 modulo 243: the others would wrap to something larger.
#[inline]
#[target_feature(enable = "neon")]
pub fn packed(bytes: &[u8; BYTES]) -> uint8x8_t {
    // SAFETY: there are eight bytes.
    let bytes = unsafe { vld1_u8(bytes.as_ptr()) };
    vmin_u8(bytes, vsub_u8(bytes, vdup_n_u8(PACKED)))
}

impl Block {
    /// The digits 0, 1 and 2 of a row; lanes past the last column hold anything.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn digits(&self, matrix: TernaryMatrix<'_>, row: usize) -> [uint8x16_t; 2] {
        let bytes = &matrix.bytes()[row * matrix.layout().row_bytes() + self.first_byte..];
        let packed = match bytes.first_chunk() {
            Some(bytes) => packed(bytes),
            // The last bytes of the matrix.
            None => packed(&std::array::from_fn(|at| bytes.get(at).copied().unwrap_or_default())),
        };
        let packed = vcombine_u8(packed, vdup_n_u8(0));
        let low = self.half::<0>(packed);
        [low, if self.count > WIDTH / 2 { self.half::<1>(packed) } else { low }]
    }

    /// 16 digits.
    #[inline]
    #[target_feature(enable = "neon")]
    fn half<const HALF: usize>(&self, packed: uint8x16_t) -> uint8x16_t {
        const { assert!(HALF < 2) };
        let first = HALF * WIDTH / 2;
        let Lanes { bytes, factors, shifts } = self.lanes;
        // SAFETY: each array has 16 elements from `first` on.
        let (bytes, factors, shifts) = unsafe {
            let shifts = shifts.as_ptr().add(first);
            (vld1q_u8(bytes.as_ptr().add(first)), vld1q_u8(factors.as_ptr().add(first)), [vld1q_s16(shifts), vld1q_s16(shifts.add(8))])
        };
        let bytes = vqtbl1q_u8(packed, bytes);
        let low = vshlq_u16(vmull_u8(vget_low_u8(bytes), vget_low_u8(factors)), shifts[0]);
        let high = vshlq_u16(vmull_high_u8(bytes, factors), shifts[1]);
        let quotients = vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
        let (factor, _) = QUOTIENTS[1];
        let low = vmull_u8(vget_low_u8(quotients), vdup_n_u8(factor));
        let high = vmull_high_u8(quotients, vdupq_n_u8(factor));
        // The upper bytes are shifted by 8 of the 9 bits.
        let thirds = vshrq_n_u8::<1>(vuzp2q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high)));
        vmlsq_u8(quotients, thirds, vdupq_n_u8(3))
    }
}
