//! The CPU kernels, one file per operation, on slices: no XLA, no shapes of more than one matrix.
//!
//! Every result is split over the threads by rows of the output in blocks that do not depend on their number, and every sum
//! runs in one fixed order, so that the same call gives the same bits on any number of threads.

pub mod accumulate;
pub mod cache;
pub mod correlate;
mod dense;
pub mod dequantize;
pub mod isa;
pub mod matmul;
pub mod matmul_transposed;
pub mod pack;
pub mod scale;
pub mod scratch;
pub mod threads;
pub mod tiling;

pub use accumulate::accumulate;
pub use correlate::{correlate, correlate_dense};
pub use dequantize::dequantize;
pub use isa::Tier;
pub use matmul::{matmul, matmul_on};
pub use matmul_transposed::matmul_transposed;
pub use pack::{pack, unpack};
pub use scale::scale;
