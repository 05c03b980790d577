//! Every specialisation of every CUDA kernel, compiled by NVRTC for three architectures; needs its Python package and no GPU.
//!
//! ptxas's report is held against `tests/cuda/limits.txt`: registers within the limit, nothing spilled to memory, no stack, no static shared
//! memory. `TERNAX_WRITE_LIMITS=1 cargo test --test cuda_compile` writes that file anew; `TERNAX_WRITE_LIMITS=raise`, with another version
//! of the compiler, raises what that one exceeds. How far ptxas unrolls and loads ahead differs between versions; what they share is the
//! bound on registers that `__launch_bounds__` gives with both its numbers, and that nothing spills under it.

#![cfg(not(target_os = "macos"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use ternax::cuda::compile::{Compiled, compile, compile_source};
use ternax::cuda::kernel::Kernel;

#[path = "cuda/compiler.rs"]
mod compiler;

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100a"];
/// Registers by which another version of the compiler may differ.
const SLACK: u32 = 16;
/// What ptxas reports of one kernel.
#[derive(Debug, PartialEq)]
struct Resources {
    registers: u32,
    stack: u32,
    spilled: u32,
    shared: u32,
}

impl Resources {
    fn of(log: &str) -> Self {
        // The numbers before every mention of `what`, summed.
        let before = |what: &str| -> u32 {
            log.match_indices(what).filter_map(|(end, _)| log[..end].split_whitespace().last()?.parse::<u32>().ok()).sum()
        };
        assert!(log.contains("Used "), "no report of ptxas in {log:?}");
        let spilled = before(" bytes spill stores") + before(" bytes spill loads");
        Self { registers: before(" registers"), stack: before(" bytes stack frame"), spilled, shared: before(" bytes smem") }
    }
}

fn limits_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/limits.txt")
}

/// Registers by class and architecture.
fn limits() -> BTreeMap<(String, String), u32> {
    let text = fs::read_to_string(limits_file()).expect("the committed limits");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let [architecture, registers, class] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                panic!("a line of three parts: {line}")
            };
            ((class.to_owned(), architecture.to_owned()), registers.parse().expect("a number of registers"))
        })
        .collect()
}

/// Every kernel on every architecture that has its instructions.
fn kernels() -> Vec<(Kernel, &'static str)> {
    let all = Kernel::all().into_iter().flat_map(|kernel| ARCHITECTURES.map(|architecture| (kernel.clone(), architecture)));
    all.filter(|(kernel, architecture)| kernel.runs_on(architecture)).collect()
}

/// The report of each task.
fn reports(tasks: &[(Kernel, &str)]) -> BTreeMap<(String, String), Resources> {
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((kernel, architecture)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Compiled { cubin, log } = compile(kernel, architecture).unwrap_or_else(|error| panic!("{}: {error}", kernel.class));
                    assert!(cubin.starts_with(b"\x7fELF"), "{} for {architecture} is no machine code", kernel.class);
                    assert!(!log.contains("warning"), "{} for {architecture}: {log}", kernel.class);
                    // Where ptxas cannot follow the accumulators it waits after each wgmma, and says so.
                    assert!(!log.contains("wgmma"), "{} for {architecture}: {log}", kernel.class);
                    let key = (kernel.class.clone(), (*architecture).to_owned());
                    reports.lock().expect("no panic").insert(key, Resources::of(&log));
                }
            });
        }
    });
    reports.into_inner().expect("no panic")
}

#[test]
fn every_specialisation_compiles_within_its_limits_and_spills_nothing() {
    compiler::find();
    let reports = reports(&kernels());
    if let Some(how) = env::var_os("TERNAX_WRITE_LIMITS") {
        let known = if how == "raise" { limits() } else { BTreeMap::new() };
        let most = |key, found: &Resources| known.get(key).map_or(found.registers, |&limit| limit.max(found.registers));
        let lines = reports.iter().map(|(key, found)| format!("{} {} {}\n", key.1, most(key, found), key.0));
        let head = "# Registers of a thread by architecture and kernel: the most that NVRTC 13.2.86 and 13.5.37 took, from tests/cuda_compile.rs.\n";
        fs::write(limits_file(), lines.fold(head.to_owned(), |text, line| text + &line)).expect("the limits are written");
    }
    let limits = limits();
    let known = limits.keys().filter(|key| !reports.contains_key(*key)).collect::<Vec<_>>();
    assert!(known.is_empty(), "limits of kernels that no longer exist: {known:?}");
    let mut wrong = Vec::new();
    for (key, found) in &reports {
        match limits.get(key) {
            None => wrong.push(format!("{key:?} has no limit: {found:?}")),
            Some(&limit) if found.registers > limit + SLACK => wrong.push(format!("{key:?}: more than {limit} registers: {found:?}")),
            Some(_) if found.stack + found.spilled + found.shared > 0 => wrong.push(format!("{key:?} spills or has a stack: {found:?}")),
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_source_that_does_not_compile_is_an_error_with_the_compiler_s_first_complaint() {
    compiler::find();
    let error = compile_source("extern \"C\" __global__ void k() { undefined_name(); }", "sm_80").expect_err("no such name").to_string();
    assert!(error.contains("compile for sm_80") && error.contains("undefined_name"), "{error}");
    let error = compile(&Kernel::pack(), "sm_1").expect_err("no such architecture").to_string();
    assert!(error.contains("sm_1"), "{error}");
}
