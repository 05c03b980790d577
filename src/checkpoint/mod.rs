//! Checkpoints: safetensors files of ternary layers and of the dense tensors beside them, in two layouts.
//!
//! | module | concern |
//! |---|---|
//! | [`header`] | the safetensors header: parsed and checked, or made |
//! | [`layer`] | one layer whatever its layout: shape, invariants, statistics |
//! | [`flat`] | flat pack to group-aligned bytes and back |
//! | [`torch`] | the layout of the PyTorch reference's `state_dict` |
//! | [`native`] | ternax's own layout |
//! | [`contents`] | the layers and dense tensors of one file |
//! | [`file`] | files: mapped to be read, replaced whole when written |
//! | [`exchange`] | what Python hands over and receives |
//! | [`error`] | what can be wrong |
//!
//! | tensor of a layer | [`Layout::Ternax`] | [`Layout::Torch`] (SPEC, "state_dict") |
//! |---|---|---|
//! | trits | `trits` U8 `[*E, out, groups, group_bytes]` | `T_packed` U8 `[ceil(out*in/5)]`, `_T_shape` I64 `[2]`, `_T_pad` I64 `[]` |
//! | exponent | `exponent` I8 `[*E, out, groups]` | `E` I8 `[out*groups]` |
//! | correlation | `corr` I64 `[*E, out, groups]` | `corr_accum` I64 `[out*groups]` |
//! | step | `step` I64 `[*E]` | `step_counter` I64 `[1]` |
//! | bias | `bias` I32 or float `[*E, out]` | `bias` I32 `[out]` |
//! | the rest | `in_dim`, `group_size`, `gain`, whether there is a `bias`: JSON in the metadata `ternax` | `group_size` or `NAME.group_size` in the metadata; gain 4 |
//!
//! A layer `NAME` has its tensors under `NAME.`; a layer without a name has them as they are. `E` are ensemble dimensions.

pub mod contents;
pub mod error;
pub mod exchange;
pub mod file;
pub mod flat;
pub mod header;
pub mod layer;
pub mod native;
pub mod torch;

pub use contents::Contents;
pub use error::{Error, Result};
pub use file::{File, save};
pub use layer::{Layer, Layout};
