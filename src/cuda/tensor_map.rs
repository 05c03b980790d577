//! Tensor maps: what Hopper's copy engine knows of an operand that a kernel copies box by box (`cpp/cuda/hopper_tile.cuh`).
//!
//! The arguments of the driver's encoder are made here alone, for launches and for the tests' emulation of it.

use cudarc::driver::sys::{
    CUtensorMapDataType as Type, CUtensorMapFloatOOBfill as Fill, CUtensorMapInterleave as Interleave, CUtensorMapL2promotion as Promotion,
    CUtensorMapSwizzle as Swizzle,
};

use super::call::Launch;
use super::tensor::Dtype;

/// Columns of a box: a line of 128 bytes, which is also the width of the swizzle.
const COLUMNS: u32 = 64;
/// Of addresses and strides.
const ALIGNMENT: u64 = 16;
/// The kernel's parameter holds this many.
pub const MOST: usize = 2;

/// The arguments of `cuTensorMapEncodeTiled` for an operand of columns, rows and planes, which are ensemble members.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Where the operand lies.
    pub address: u64,
    /// Its columns, rows and planes.
    pub dims: [u64; 3],
    /// Bytes from one row and from one plane to the next.
    pub strides: [u64; 2],
    /// The sizes of a box.
    pub tile: [u32; 3],
    /// Every element of a box is copied.
    pub element_strides: [u32; 3],
    /// Dimensions.
    pub rank: u32,
    /// Type of the elements.
    pub dtype: Type,
    /// Plain rows.
    pub interleave: Interleave,
    /// How a box lies in shared memory.
    pub swizzle: Swizzle,
    /// Bytes that the L2 cache fetches at once.
    pub promotion: Promotion,
    /// What lies outside is zero.
    pub fill: Fill,
}

/// An operand that a kernel copies box by box: its index in the call, and the rows of a box.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Index in the call.
    pub operand: usize,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Columns; the rows are tokens.
    pub columns: usize,
    /// Rows of a box.
    pub rows: usize,
}

impl TensorMap {
    /// Of boxes of `rows` rows of a row-major operand whose `dims` are columns, rows and planes. None where the engine cannot copy from
    /// it: 16-bit elements alone, rows and planes at multiples of 16 bytes, nothing empty.
    pub fn new(address: u64, dtype: Dtype, dims: [usize; 3], rows: usize) -> Option<Self> {
        let dtype = match dtype {
            Dtype::Float16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Dtype::Bfloat16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            _ => return None,
        };
        let dims = dims.map(|dim| dim as u64);
        let row = dims[0] * 2;
        let strides = [row, row * dims[1]];
        let lawful = address.is_multiple_of(ALIGNMENT)
            && row.is_multiple_of(ALIGNMENT)
            && dims.iter().all(|dim| (1..=1 << 32).contains(dim))
            && strides.iter().all(|&stride| stride < 1 << 40)
            && (1..=256).contains(&rows);
        lawful.then_some(Self {
            address,
            dims,
            strides,
            tile: [COLUMNS, rows as u32, 1],
            element_strides: [1; 3],
            rank: 3,
            dtype,
            interleave: Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle: Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            promotion: Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            fill: Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        })
    }
}

/// The launches of kernels on warpgroups with tensor maps for what they copy, or none where an operand of one can have no map.
pub fn mapped(launches: &[Launch], copied: &[Copied]) -> Option<Vec<Launch>> {
    let of_one = |launch: &Launch| {
        if !launch.kernel.is_of_hopper() {
            return Some(launch.clone());
        }
        let (call, members) = (&launch.call, launch.grid[2] as usize / launch.call.splits as usize);
        let map = |&Copied { operand, dtype, columns, rows }: &Copied| {
            let planes = if call.operand_strides[operand] == 0 { 1 } else { members };
            TensorMap::new(call.operands[operand], dtype, [columns, call.tokens as usize, planes], rows)
        };
        let maps = copied.iter().map(map).collect::<Option<Vec<_>>>()?;
        Some(Launch { kernel: launch.kernel.with_tensor_maps(), maps, ..launch.clone() })
    };
    launches.iter().map(of_one).collect()
}
