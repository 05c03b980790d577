//! The custom calls on NVIDIA GPUs: which kernels run on what, compiled for the card at hand.
//!
//! | module | concern |
//! |---|---|
//! | [`tensor`] | operands and results as device addresses with shapes |
//! | [`kernel`] | the CUDA sources and their specialisations |
//! | [`call`] | the argument of every kernel, and a launch |
//! | [`ensemble`] | which members of an ensemble one launch covers |
//! | [`plan`], [`elementwise`] | from one custom call to its launches |
//! | [`tensor_map`] | what Hopper's copy engine knows of an operand |
//! | [`few`], [`planes`], [`hopper`] | sizes of the kernels for few tokens, and of those for Hopper |
//! | [`library`] | CUDA's libraries, looked up when they are first used |
//! | [`compile`], [`cache`] | NVRTC, and what it made before, on disk |
//! | [`device`], [`modules`], [`launch`] | the driver: contexts, loaded kernels, launches |
//!
//! A plan touches no driver, so that the tests run it on an emulation of the machine. Where there is no driver, nothing here is used.

pub mod cache;
pub mod call;
pub mod compile;
pub mod device;
pub mod elementwise;
pub mod ensemble;
pub mod few;
pub mod hopper;
pub mod kernel;
pub mod launch;
pub mod library;
pub mod modules;
pub mod plan;
pub mod planes;
pub mod tensor;
pub mod tensor_map;
