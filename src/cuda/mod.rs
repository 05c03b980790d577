//! The custom calls on NVIDIA GPUs: which kernels run on what, compiled for the card at hand.
//!
//! | module | concern |
//! |---|---|
//! | [`tensor`] | operands and results as device addresses with shapes |
//! | [`kernel`] | the CUDA sources and their specialisations |
//! | [`call`] | the argument of every kernel, and a launch |
//! | [`ensemble`] | which members of an ensemble one launch covers |
//! | [`plan`] | from one custom call to its launches |
//!
//! A plan touches no driver, so that the tests run it on an emulation of the machine.

pub mod call;
pub mod ensemble;
pub mod kernel;
pub mod plan;
pub mod tensor;
