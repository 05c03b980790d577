//! Operands and results of a call on a GPU: device addresses, never read or written here.

use serde::Deserialize;

use crate::error::{Error, Result};

/// Element types of operands and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// int8
    Int8,
    /// uint8
    Uint8,
    /// int32
    Int32,
    /// float16
    Float16,
    /// bfloat16
    Bfloat16,
    /// float32
    Float32,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::Int8 | Self::Uint8 => 1,
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Int32 | Self::Float32 => 4,
        }
    }

    /// The type's name in the CUDA sources.
    pub fn in_cuda(self) -> &'static str {
        match self {
            Self::Int8 => "int8_t",
            Self::Uint8 => "uint8_t",
            Self::Int32 => "int",
            Self::Float16 => "f16",
            Self::Bfloat16 => "bf16",
            Self::Float32 => "float",
        }
    }
}

/// A row-major operand or result in device memory.
#[derive(Clone, Debug, Deserialize)]
pub struct Tensor {
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where it lies; 0 where only shapes matter.
    #[serde(default)]
    pub address: u64,
}

impl Tensor {
    /// Refuses a tensor of another type or shape than `dtypes` and `shape`.
    pub fn expect(&self, operation: &'static str, argument: &'static str, dtypes: &[Dtype], shape: &[usize]) -> Result<()> {
        if dtypes.contains(&self.dtype) && self.shape == shape {
            return Ok(());
        }
        let wanted = format!("be {dtypes:?} of shape {shape:?}");
        Err(Error::Argument { operation, argument, wanted, found: format!("{:?} of shape {:?}", self.dtype, self.shape) })
    }

    /// The shape's first dimensions, or an error where it has fewer than `rank`.
    pub fn leading(&self, operation: &'static str, argument: &'static str, rank: usize) -> Result<&[usize]> {
        let found = || Error::Argument {
            operation,
            argument,
            wanted: format!("have at least {rank} dimensions"),
            found: format!("{:?}", self.shape),
        };
        self.shape.get(..rank).ok_or_else(found)
    }
}
