//! The driver's side of the custom calls, run against libraries that stand in for the driver and for NVRTC: what is called in which
//! context, what is made once, and what becomes of every failure. Needs a C++ compiler and no GPU.

#![cfg(target_os = "linux")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, ptr, thread};

use libloading::Library;
use libloading::os::unix::{self, RTLD_GLOBAL, RTLD_NOW};
use ternax::cuda::launch::{execute, initialize};
use ternax::cuda::plan::{Attributes, Plan, Request, plan};
use ternax::cuda::tensor::{Dtype, Tensor};
use ternax::error::{Error, Result};

const OUT_OF_MEMORY: c_int = 2;
const NO_BINARY_FOR_GPU: c_int = 209;
const UNSUPPORTED_PTX_VERSION: c_int = 222;
const LAUNCH_FAILED: c_int = 719;
const COMPILATION: c_int = 6;

/// The libraries that stand in.
struct Stubs {
    driver: Library,
    nvrtc: Library,
    /// One of libnvrtc's usual name that is loaded before the one that is named, as jax's plugin does.
    other_nvrtc: Library,
}

/// Builds a library that is known by `name` to whoever looks for it, and loads it.
fn build(folder: &Path, source: &str, file: &str, name: &str) -> Library {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/stubs").join(source);
    let library = folder.join(file);
    let compiler = env::var("CXX").unwrap_or_else(|_| "c++".into());
    let status = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"])
        .arg(format!("-Wl,-soname,{name}"))
        .arg(&source)
        .arg("-o")
        .arg(&library)
        .status();
    assert!(status.unwrap_or_else(|error| panic!("{compiler}: {error}")).success(), "{} is not built", source.display());
    // SAFETY: the library is ours; its initialisers only set up its own state.
    unsafe { unix::Library::open(Some(&library), RTLD_NOW | RTLD_GLOBAL) }.expect("the library loads").into()
}

/// The stubs, for one test at a time: their records are one.
struct Machine {
    stubs: &'static Stubs,
    _turn: MutexGuard<'static, ()>,
}

impl Machine {
    /// A machine of such cards.
    fn of(driver_version: c_int, (major, minor): (c_int, c_int), multiprocessors: c_int) -> Self {
        static STUBS: OnceLock<Stubs> = OnceLock::new();
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let stubs = STUBS.get_or_init(|| {
            let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("driver-{}", std::process::id()));
            std::fs::create_dir_all(&folder).expect("a folder");
            let other_nvrtc = build(&folder, "nvrtc.cc", "other.so", "libnvrtc.so");
            let nvrtc = build(&folder, "nvrtc.cc", "named.so", "named.so");
            let driver = build(&folder, "driver.cc", "libcuda.so", "libcuda.so");
            // SAFETY: the first thing that any test does, under a lock; nothing else of this process reads the environment by then.
            unsafe {
                env::set_var("TERNAX_NVRTC", folder.join("named.so"));
                env::set_var("XDG_CACHE_HOME", &folder);
            }
            Stubs { driver, nvrtc, other_nvrtc }
        });
        // SAFETY: the signature of tests/cuda/stubs/driver.cc.
        unsafe {
            let reset = stubs.driver.get::<unsafe extern "C" fn(c_int, c_int, c_int, c_int)>(b"stub_reset").expect("a function");
            reset(driver_version, major, minor, multiprocessors);
        }
        let machine = Self { stubs, _turn: turn };
        machine.compilations();
        machine
    }

    /// Of one kind that no other test has, so that nothing is compiled yet.
    fn new(minor: c_int) -> Self {
        Self::of(13_000, (8, minor), 108)
    }

    /// Lets the next call of a function of the driver give a code.
    fn fail(&self, function: &str, code: c_int) {
        let function = CString::new(function).expect("no NUL");
        // SAFETY: the signature of tests/cuda/stubs/driver.cc.
        unsafe {
            let fail = self.stubs.driver.get::<unsafe extern "C" fn(*const c_char, c_int)>(b"stub_fail").expect("a function");
            fail(function.as_ptr(), code);
        }
    }

    fn fail_compilation(&self) {
        // SAFETY: the signature of tests/cuda/stubs/nvrtc.cc.
        unsafe { self.stubs.nvrtc.get::<unsafe extern "C" fn(c_int)>(b"stub_fail_compilation").expect("a function")(COMPILATION) };
    }

    /// What was called since the last look.
    fn events(&self) -> Vec<String> {
        let mut text = vec![0_u8; 1 << 16];
        // SAFETY: the signature of tests/cuda/stubs/driver.cc; the buffer has that size.
        let length = unsafe {
            let events = self.stubs.driver.get::<unsafe extern "C" fn(*mut c_char, usize) -> usize>(b"stub_events").expect("a function");
            events(text.as_mut_ptr().cast(), text.len())
        };
        String::from_utf8_lossy(&text[..length]).lines().map(String::from).collect()
    }

    /// How many were compiled since the last look, by the library that is named.
    fn compilations(&self) -> c_int {
        let [named, other] = [&self.stubs.nvrtc, &self.stubs.other_nvrtc].map(|library| {
            // SAFETY: the signature of tests/cuda/stubs/nvrtc.cc.
            unsafe { library.get::<unsafe extern "C" fn() -> c_int>(b"stub_compilations").expect("a function")() }
        });
        assert_eq!(other, 0, "TERNAX_NVRTC names another library");
        named
    }

    /// Contexts of this thread, and the current one.
    fn contexts(&self) -> (usize, usize) {
        let mut current = 0;
        // SAFETY: the signature of tests/cuda/stubs/driver.cc.
        let count = unsafe {
            let contexts = self.stubs.driver.get::<unsafe extern "C" fn(*mut usize) -> usize>(b"stub_contexts").expect("a function");
            contexts(&raw mut current)
        };
        (count, current)
    }

    /// A context of the caller's own, current from now on.
    fn push(&self, context: usize) {
        // SAFETY: the signature of tests/cuda/stubs/driver.cc.
        unsafe { self.stubs.driver.get::<unsafe extern "C" fn(usize) -> c_int>(b"cuCtxPushCurrent_v2").expect("a function")(context) };
        self.events();
    }
}

/// The stub's stream of a context.
fn stream(context: usize) -> *mut c_void {
    ptr::without_provenance_mut(context | 1 << 16)
}

fn prepare(plan: &Plan, context: usize) -> Result<()> {
    // SAFETY: a stream of the stub's.
    unsafe { initialize(plan, stream(context)) }
}

fn run(plan: &Plan, context: usize) -> Result<()> {
    // SAFETY: a stream of the stub's, which runs nothing.
    unsafe { execute(plan, stream(context)) }
}

fn call(operation: &str, operands: &[(Dtype, &[usize])], results: &[(Dtype, &[usize])]) -> Plan {
    let tensors = |shapes: &[(Dtype, &[usize])]| {
        shapes.iter().map(|&(dtype, shape)| Tensor { dtype, shape: shape.into(), address: 1 << 20 }).collect::<Vec<_>>()
    };
    let attributes = Attributes { group_size: 32, ..Attributes::default() };
    let (operands, results) = (tensors(operands), tensors(results));
    plan(&Request { operation: operation.into(), operands, results, attributes, any_tokens: false }).expect("a lawful call")
}

/// A call of one kernel: 300 bytes of packed trits.
fn pack() -> Plan {
    call("pack", &[(Dtype::Int8, &[100, 64])], &[(Dtype::Uint8, &[100, 2, 7])])
}

fn product(tokens: usize, width: usize, x: Dtype) -> Plan {
    let scale = if x == Dtype::Bfloat16 { x } else { Dtype::Float32 };
    let weight: [(Dtype, &[usize]); 2] = [(Dtype::Uint8, &[width, width / 32, 7]), (scale, &[width, width / 32])];
    call("matmul", &[(x, &[tokens, width]), weight[0], weight[1]], &[(x, &[tokens, width])])
}

fn refusal(result: Result<()>) -> String {
    match result.expect_err("a failure") {
        Error::Gpu(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_kernel_is_made_once_and_the_context_of_the_thread_is_left_as_it_was() {
    let machine = Machine::new(0);
    machine.push(900);
    for round in 0..3 {
        prepare(&pack(), 10).expect("a kernel");
        let made = ["push 10", "stream's context", "load module 10", "find ternax_kernel", "load function 10", "pop 10"];
        let mut events = machine.events();
        events[..2].sort();
        assert_eq!(events, if round == 0 { &made[..] } else { &["push 10", "stream's context", "pop 10"] }, "round {round}");
        assert_eq!((machine.compilations(), machine.contexts()), (i32::from(round == 0), (1, 900)));
        run(&pack(), 10).expect("a launch");
        assert_eq!(machine.events()[2..], ["launch 10 6 1 1 256 0 65546", "pop 10"]);
        assert_eq!(machine.contexts(), (1, 900));
    }
}

#[test]
fn cards_of_one_kind_share_what_is_compiled_and_have_their_own_kernels() {
    let machine = Machine::new(1);
    thread::scope(|scope| {
        for context in [20, 21, 22, 23] {
            scope.spawn(move || prepare(&pack(), context).expect("a kernel"));
        }
    });
    assert_eq!(machine.compilations(), 1, "while one compiles the others wait for it");
    let loaded = machine.events().iter().filter(|event| event.starts_with("load module")).count();
    assert_eq!(loaded, 4);
    for context in [20, 21] {
        run(&pack(), context).expect("a launch");
        assert!(machine.events()[2].starts_with(&format!("launch {context} ")));
    }
}

#[test]
fn a_kernel_that_was_not_initialised_is_refused_not_compiled_while_it_runs() {
    let machine = Machine::new(2);
    assert!(refusal(run(&pack(), 30)).contains("Pack was not initialised before it ran"));
    assert_eq!((machine.compilations(), machine.contexts()), (0, (0, 0)));
}

#[test]
fn drivers_that_load_at_the_first_launch_are_told_to_load_before() {
    for (version, context, loads) in [(12_030, 40, 0), (12_040, 42, 1)] {
        let machine = Machine::of(version, (8, 3), 108);
        prepare(&pack(), context).expect("a kernel");
        assert_eq!(machine.events().iter().filter(|event| event.starts_with("load function")).count(), loads, "{version}");
    }
}

#[test]
fn a_driver_older_than_the_compiler_is_an_error_that_says_what_to_do() {
    let machine = Machine::new(4);
    for code in [NO_BINARY_FOR_GPU, UNSUPPORTED_PTX_VERSION] {
        machine.fail("load module", code);
        let text = refusal(prepare(&pack(), 50));
        assert!(text.contains("upgrade the driver, or name an older libnvrtc in TERNAX_NVRTC"), "{text}");
        assert_eq!(machine.contexts(), (0, 0));
    }
}

#[test]
fn memory_that_is_used_up_is_an_error_of_its_own_and_the_next_attempt_is_not_bound_by_it() {
    let machine = Machine::new(5);
    let exhausted = |result: Result<()>| {
        let error = result.expect_err("no memory");
        assert!(matches!(&error, Error::OutOfMemory(text) if text.contains("out of memory")), "{error:?}");
        assert_eq!(machine.contexts(), (0, 0));
    };
    machine.fail("load module", OUT_OF_MEMORY);
    exhausted(prepare(&pack(), 60));
    machine.fail("load function", OUT_OF_MEMORY);
    exhausted(prepare(&pack(), 60));
    prepare(&pack(), 60).expect("memory again");
    machine.fail("launch", OUT_OF_MEMORY);
    exhausted(run(&pack(), 60));
    run(&pack(), 60).expect("memory again");
    machine.fail("launch", LAUNCH_FAILED);
    assert!(refusal(run(&pack(), 60)).contains("fails to launch Pack"));
}

#[test]
fn a_failed_compilation_shows_the_first_error_and_is_tried_again() {
    let machine = Machine::new(6);
    machine.fail_compilation();
    let text = refusal(prepare(&pack(), 70));
    assert!(text.contains("compile for sm_86: an error of the stub: kernel.cuh(2): error: seeded"), "{text}");
    assert!(!text.contains("later"), "{text}");
    assert_eq!(machine.contexts(), (0, 0));
    prepare(&pack(), 70).expect("a kernel");
    assert_eq!(machine.compilations(), 2);
}

#[test]
fn an_old_card_is_refused_before_anything_is_compiled() {
    let machine = Machine::of(13_000, (7, 5), 40);
    assert!(refusal(prepare(&pack(), 80)).contains("compute capability 7.5"));
    assert_eq!((machine.compilations(), machine.contexts()), (0, (0, 0)));
}

#[test]
fn a_context_that_cannot_be_pushed_is_an_error_and_one_that_cannot_be_popped_takes_no_result_away() {
    let machine = Machine::new(7);
    machine.fail("push", LAUNCH_FAILED);
    assert!(refusal(prepare(&pack(), 90)).contains("make the context current"));
    assert_eq!(machine.contexts(), (0, 0));
    machine.fail("pop", LAUNCH_FAILED);
    prepare(&pack(), 90).expect("a kernel");
    run(&pack(), 90).expect("a launch");
}

#[test]
fn kernels_of_much_shared_memory_ask_for_it_once() {
    let machine = Machine::new(9);
    for _ in 0..2 {
        prepare(&product(128, 4096, Dtype::Float32), 100).expect("kernels");
    }
    let events = machine.events();
    let asked: Vec<&String> = events.iter().filter(|event| event.starts_with("set attribute 8 ")).collect();
    assert_eq!(asked.len(), 1, "{events:?}");
    run(&product(128, 4096, Dtype::Float32), 100).expect("launches");
    let bytes = asked[0].rsplit(' ').next().expect("a number");
    assert!(machine.events().iter().any(|event| event.starts_with("launch") && event.contains(&format!(" 256 {bytes} "))));
}

#[test]
fn blocks_that_share_tiles_fill_the_card_at_hand_and_their_operands_have_tensor_maps() {
    let plan = product(4096, 4096, Dtype::Bfloat16);
    for (context, multiprocessors) in [(110, 132), (112, 114)] {
        let machine = Machine::of(13_000, (9, 0), multiprocessors);
        prepare(&plan, context).expect("a kernel");
        machine.events();
        run(&plan, context).expect("a launch");
        let events = machine.events();
        assert_eq!(events[2], "encode");
        assert!(events[3].starts_with(&format!("launch {context} {multiprocessors} 1 1 512 ")), "{events:?}");
    }
}
