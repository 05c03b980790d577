//! Trits to bytes and back.

use super::isa::{Loop, Tier, vectorise};
use super::threads;
use crate::error::Result;
use crate::trits::{GroupLayout, TernaryMatrix, check_bytes, check_trits, pack_row, unpack_row};

/// Work of one trit.
const PACK_WORK: usize = threads::PER_NANOSECOND / 2;
const UNPACK_WORK: usize = threads::PER_NANOSECOND / 4;
/// Trits that one task moves.
const BLOCK: usize = 1 << 16;

/// Packs `trits [out, in]` into `packed [out, groups, group_bytes]`; refuses anything but -1, 0 and 1.
pub fn pack(trits: &[i8], layout: GroupLayout, packed: &mut [u8]) -> Result<()> {
    pack_on(Tier::chosen(), trits, layout, packed)
}

/// [`pack()`] on a tier of this machine.
pub fn pack_on(tier: Tier, trits: &[i8], layout: GroupLayout, packed: &mut [u8]) -> Result<()> {
    vectorise(tier, Check(trits))?;
    let rows = (BLOCK / layout.in_dim()).max(1);
    threads::for_each_block(packed, rows * layout.row_bytes(), PACK_WORK * trits.len(), |block, packed| {
        let trits = &trits[block * rows * layout.in_dim()..];
        vectorise(tier, Pack { trits, layout, packed });
    });
    Ok(())
}

/// Unpacks a matrix into `trits [out, in]`; refuses bytes above 242 (SPEC 4).
pub fn unpack(matrix: TernaryMatrix<'_>, trits: &mut [i8]) -> Result<()> {
    check_bytes("trits", matrix.bytes())?;
    let layout = matrix.layout();
    let rows = (BLOCK / layout.in_dim()).max(1);
    threads::for_each_block(trits, rows * layout.in_dim(), UNPACK_WORK * trits.len(), |block, trits| {
        for (row, trits) in trits.chunks_exact_mut(layout.in_dim()).enumerate() {
            unpack_row(matrix.row(block * rows + row), layout, trits);
        }
    });
    Ok(())
}

/// [`check_trits`] as vectors.
struct Check<'a>(&'a [i8]);

impl Loop for Check<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn run(self) -> Result<()> {
        check_trits("trits", self.0)
    }
}

/// [`pack_row`] for the rows of a task.
struct Pack<'a> {
    trits: &'a [i8],
    layout: GroupLayout,
    packed: &'a mut [u8],
}

impl Loop for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { trits, layout, packed } = self;
        for (row, bytes) in trits.chunks_exact(layout.in_dim()).zip(packed.chunks_exact_mut(layout.row_bytes())) {
            pack_row(row, layout, bytes);
        }
    }
}
