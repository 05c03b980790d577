//! The argument of every kernel, and a launch of one.

use super::kernel::Kernel;
use super::tensor_map::TensorMap;

/// `struct Call` of `cpp/cuda/call.cuh`: addresses, strides in elements between ensemble members, and sizes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// Addresses of the operands.
    pub operands: [u64; 4],
    /// Addresses of the results, scratch included.
    pub results: [u64; 3],
    /// Elements of each operand from one member to the next; 0 where members share it.
    pub operand_strides: [i64; 4],
    /// Elements of each result from one member to the next.
    pub result_strides: [i64; 3],
    /// Elements of one member, for kernels that work element by element.
    pub count: i64,
    /// Inputs of a group as the caller gave it.
    pub group_size: i64,
    /// Votes that were asked for, or a negative number.
    pub wanted_votes: i64,
    /// Rows of the activations.
    pub tokens: i32,
    /// Inputs of the weight.
    pub in_dim: i32,
    /// Outputs of the weight.
    pub out_dim: i32,
    /// Inputs of a full group: at most `in_dim`.
    pub group: i32,
    /// Parts of the contraction.
    pub splits: i32,
    /// Steps of the contraction in each part.
    pub split_steps: i32,
    /// 1 where the result is float32 whatever the activations are.
    pub wide: i32,
    /// K of the scale.
    pub gain: f32,
}

/// One launch: everything but the stream.
#[derive(Clone, Debug)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Its argument.
    pub call: Call,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Tensor maps of what it copies box by box.
    pub maps: Vec<TensorMap>,
    /// Tiles that the blocks of the grid's first direction share, where each takes several: then the grid may have fewer.
    pub tiles: Option<u32>,
}

impl Launch {
    /// Without tensor maps, each block with its own part of the result.
    pub fn new(kernel: Kernel, grid: [u32; 3], call: Call, shared: u32) -> Self {
        Self { kernel, grid, call, shared, maps: Vec::new(), tiles: None }
    }

    /// The grid for a card of so many multiprocessors: where blocks share tiles, no more than it holds at once. Sums are the same.
    pub fn grid_on(&self, multiprocessors: u32) -> [u32; 3] {
        let [x, y, z] = self.grid;
        [self.tiles.map_or(x, |tiles| tiles.min((multiprocessors / (y * z)).max(1))), y, z]
    }
}
