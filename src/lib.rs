//! Ternary layers with integer state: the kernels behind the Python package `ternax`, as XLA custom calls.
//!
//! | module | concern |
//! |---|---|
//! | [`trits`] | the base-3 format: groups, rows, validation |
//! | [`scale`] | exponent, correlation and step to scale |
//! | [`correlation`] | scores into the int64 correlation, votes, the invariant |
//! | [`float`] | activation types |
//! | [`cpu`] | the kernels, one file per operation |
//! | [`cuda`] | the custom calls on NVIDIA GPUs |
//! | [`checkpoint`] | safetensors files, in the layout of the PyTorch reference and in our own |
//! | [`cli`] | the command `ternax` |
//! | [`xla`] | the cxx bridge and one handler per custom call |
//! | [`logging`] | `TERNAX_LOG` |
//!
//! Data flows one way: handlers decode a call into views, kernels compute on slices and know nothing of XLA.

pub mod checkpoint;
pub mod cli;
pub mod correlation;
pub mod cpu;
pub mod cuda;
pub mod error;
pub mod float;
pub mod logging;
pub mod scale;
pub mod trits;
pub mod xla;

pub use error::{Error, Result};
