//! How the kernels on Hopper's warpgroups cut a product: `cpp/cuda/hopper_tile.cuh`.

/// Rows of a tile.
pub const ROWS: usize = 256;
/// Columns of a tile: as many as in the kernels of every architecture.
pub const COLUMNS: usize = 128;
/// Steps of the contraction in a stage.
pub const STEPS: usize = 64;
/// Dynamic shared memory of a block: four stages and their barriers.
pub const SHARED: usize = 4 * (ROWS + COLUMNS) * STEPS * 2 + 64;
/// Fewer tokens are left to the kernels of every architecture.
pub const FEWEST_TOKENS: usize = 256;
/// Blocks that a large card holds at once: what parts are counted with. A launch takes the number of the card at hand.
const BLOCKS: usize = 132;

/// The tiles of a result.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    each: usize,
    members: usize,
}

impl Tiles {
    /// Of `members` results of `rows` by `columns`, `wide` of which a tile has.
    pub fn of(rows: usize, columns: usize, wide: usize, members: usize) -> Self {
        Self { each: rows.div_ceil(ROWS) * columns.div_ceil(wide), members: members.max(1) }
    }

    /// Parts of a contraction of `steps` stages that fill the card, each of at least eight stages.
    pub fn wanted_splits(self, steps: usize) -> usize {
        (BLOCKS / (self.each * self.members).max(1)).clamp(1, (steps / 8).max(1))
    }

    /// Blocks of one member and part: where there are more tiles than the card holds blocks, each block takes several.
    pub fn shared_blocks(self, splits: usize) -> u32 {
        self.each.min((BLOCKS / (self.members * splits)).max(1)) as u32
    }

    /// As many blocks as tiles.
    pub fn own_blocks(self) -> u32 {
        self.each as u32
    }
}
