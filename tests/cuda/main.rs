//! The CUDA kernels, compiled for the host and run on an emulation of the machine, by the plans that a GPU would run.
//!
//! The emulation stops at races, missing waits, uninitialised or stray accesses; what remains is compared with the oracles that test every
//! other implementation, over the same shapes, under three schedules of the threads and two models of the tensor cores' rounding.

#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;
mod device;
mod ensembles;
mod faults;
mod hopper;
mod machine;
mod plans;
mod products;
mod scores;
mod state;
mod units;
