//! The cxx bridge: the one place where raw buffers become views, and where panics stop.
//!
//! C++ decodes an XLA call frame into [`ffi::Input`]s and [`ffi::Output`]s; the functions here turn those into checked slices
//! and hand them to [`handlers`]. The table at the end is all that Python needs to find: adding a custom call
//! is one handler in C++, one function here and one line of the table.

use std::any::Any;
use std::cell::Cell;
use std::ffi::{OsString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};

use super::handlers::{self, Elements, ElementsMut, InPlace, Tensor, TensorMut};
use crate::checkpoint::{self, Layout, exchange};
use crate::cpu::isa::denormals::KeepDenormals;
use crate::cuda::{self, tensor::Dtype};
use crate::error::{Error, Result};

#[cxx::bridge(namespace = "ternax")]
mod ffi {
    /// An operand that XLA lends for the duration of one call; row-major.
    #[derive(Clone, Copy)]
    struct Input<'a> {
        data: *const u8,
        dims: &'a [i64],
        dtype: i32,
    }

    /// A result that XLA lends for the duration of one call; row-major.
    struct Output<'a> {
        data: *mut u8,
        dims: &'a [i64],
        dtype: i32,
    }

    extern "Rust" {
        unsafe fn scale(exponent: Input<'_>, corr: Input<'_>, step: Input<'_>, scale: Output<'_>, group_size: i64, gain: f32)
        -> Result<()>;
        unsafe fn matmul(x: Input<'_>, trits: Input<'_>, scale: Input<'_>, y: Output<'_>, group_size: i64) -> Result<()>;
        unsafe fn matmul_transposed(dy: Input<'_>, trits: Input<'_>, scale: Input<'_>, dx: Output<'_>, group_size: i64) -> Result<()>;
        unsafe fn correlate(
            x: Input<'_>,
            dy: Input<'_>,
            trits: Input<'_>,
            score: Output<'_>,
            votes: Output<'_>,
            group_size: i64,
        ) -> Result<()>;
        unsafe fn correlate_dense(dw: Input<'_>, trits: Input<'_>, score: Output<'_>, group_size: i64) -> Result<()>;
        #[allow(clippy::too_many_arguments)]
        unsafe fn accumulate(
            corr: Input<'_>,
            step: Input<'_>,
            score: Input<'_>,
            votes: Input<'_>,
            new_corr: Output<'_>,
            new_step: Output<'_>,
            group_size: i64,
            wanted_votes: i64,
        ) -> Result<()>;
        unsafe fn pack(trits: Input<'_>, packed: Output<'_>, group_size: i64) -> Result<()>;
        unsafe fn unpack(packed: Input<'_>, trits: Output<'_>, group_size: i64) -> Result<()>;
        unsafe fn dequantize(trits: Input<'_>, scale: Input<'_>, weights: Output<'_>, group_size: i64) -> Result<()>;
    }

    /// The attributes of a call on a GPU; those that it lacks are 0.
    #[derive(Clone, Copy)]
    struct GpuAttributes {
        group_size: i64,
        gain: f32,
        wanted_votes: i64,
    }

    extern "Rust" {
        unsafe fn gpu_initialize(
            operation: &str,
            operands: &[Input<'_>],
            results: &[Output<'_>],
            attributes: GpuAttributes,
            stream: usize,
        ) -> Result<()>;
        unsafe fn gpu_execute(
            operation: &str,
            operands: &[Input<'_>],
            results: &[Output<'_>],
            attributes: GpuAttributes,
            stream: usize,
        ) -> Result<()>;
    }

    /// Whose fault an error of a custom call is.
    #[derive(Clone, Copy, Debug)]
    enum Fault {
        /// The caller's: a wrong operand.
        Input,
        /// The card has no memory left.
        Memory,
        /// CUDA's, or this machine's.
        Cuda,
        /// Ours.
        Bug,
    }

    extern "Rust" {
        fn last_fault() -> Fault;
    }

    /// What became of a host call.
    struct Outcome {
        /// 0: done; 1: refused, the input is wrong; 2: a bug of ours; 3: the system refused; below 0: it gave minus this number.
        code: i32,
        /// What was asked for, or what went wrong.
        text: String,
    }

    /// Bytes that a host call reads.
    struct Bytes<'a> {
        bytes: &'a [u8],
    }

    /// Bytes that a host call writes.
    struct Buffer<'a> {
        bytes: &'a mut [u8],
    }

    extern "Rust" {
        type CheckpointReader;
        fn checkpoint_reader() -> Box<CheckpointReader>;
        fn open(self: &mut CheckpointReader, path: &[u8], group_size: i64) -> Outcome;
        fn read(self: &CheckpointReader, buffers: &mut [Buffer<'_>]) -> Outcome;
        fn checkpoint_write(path: &[u8], torch: bool, description: &[u8], tensors: &[Bytes<'_>]) -> Outcome;
        fn command(arguments: &[Bytes<'_>]) -> Outcome;
        fn gpu_scratch(request: &[u8]) -> Outcome;
        fn gpu_compiler(folders: &[Bytes<'_>]) -> Outcome;
    }
}

/// Codes of `XLA_FFI_DataType`.
mod dtype {
    pub const S8: i32 = 2;
    pub const S32: i32 = 4;
    pub const U8: i32 = 6;
    pub const F16: i32 = 10;
    pub const F32: i32 = 11;
    pub const BF16: i32 = 16;
}

thread_local! {
    /// Of this thread's last error: cxx hands over its text alone.
    static LAST_FAULT: Cell<ffi::Fault> = const { Cell::new(ffi::Fault::Bug) };
}

/// Whose fault the last error of a custom call on this thread was.
fn last_fault() -> ffi::Fault {
    LAST_FAULT.get()
}

/// Runs `body` and turns a panic into an error: cxx itself would abort the process.
fn guarded(body: impl FnOnce() -> Result<()>) -> Result<()> {
    crate::logging::start();
    let _keep_denormals = KeepDenormals::new();
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Error::Panic(panic_message(payload))));
    if let Err(error) = &result {
        LAST_FAULT.set(match error {
            Error::OutOfMemory(_) => ffi::Fault::Memory,
            Error::Gpu(_) => ffi::Fault::Cuda,
            Error::Panic(_) => ffi::Fault::Bug,
            _ => ffi::Fault::Input,
        });
    }
    result
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(payload) => payload.downcast_ref::<&str>().map_or("unknown panic", |text| text).into(),
    }
}

fn shape(operation: &'static str, argument: &'static str, dims: &[i64]) -> Result<Vec<usize>> {
    let found = || Error::Argument { operation, argument, wanted: "have a static shape".into(), found: format!("{dims:?}") };
    dims.iter().map(|&dim| usize::try_from(dim).map_err(|_| found())).collect()
}

fn unsupported(operation: &'static str, argument: &'static str, code: i32) -> Error {
    let wanted = "be one of int8, uint8, int32, float16, bfloat16, float32".into();
    Error::Argument { operation, argument, wanted, found: format!("XLA element type {code}") }
}

/// # Safety
/// `data` points to `len` initialised elements of `T` that live and stay unwritten for `'a`, or `len` is 0.
unsafe fn slice<'a, T>(data: *const u8, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    assert!(data.cast::<T>().is_aligned(), "XLA buffers are aligned to their elements");
    // SAFETY: the caller's promise; the alignment was checked above.
    unsafe { std::slice::from_raw_parts(data.cast(), len) }
}

/// # Safety
/// As [`slice`], and nothing else reads or writes the elements for `'a`.
unsafe fn slice_mut<'a, T>(data: *mut u8, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    assert!(data.cast::<T>().is_aligned(), "XLA buffers are aligned to their elements");
    // SAFETY: the caller's promise; the alignment was checked above.
    unsafe { std::slice::from_raw_parts_mut(data.cast(), len) }
}

/// # Safety
/// `input` is an operand of the XLA call that is running: its buffer holds the elements that its shape says.
unsafe fn read<'a>(operation: &'static str, argument: &'static str, input: ffi::Input<'a>) -> Result<Tensor<'a>> {
    let shape = shape(operation, argument, input.dims)?;
    let len = shape.iter().product();
    // SAFETY: XLA keeps operands alive and unwritten while the call runs, and the element type is XLA's own.
    let elements = unsafe {
        match input.dtype {
            dtype::S8 => Elements::I8(slice(input.data, len)),
            dtype::U8 => Elements::U8(slice(input.data, len)),
            dtype::S32 => Elements::I32(slice(input.data, len)),
            dtype::F32 => Elements::F32(slice(input.data, len)),
            dtype::F16 => Elements::F16(slice::<f16>(input.data, len)),
            dtype::BF16 => Elements::BF16(slice::<bf16>(input.data, len)),
            code => return Err(unsupported(operation, argument, code)),
        }
    };
    Ok(Tensor { operation, argument, shape, elements })
}

/// # Safety
/// `output` is a result of the XLA call that is running and shares no memory with any operand that is read.
unsafe fn write<'a>(operation: &'static str, argument: &'static str, output: ffi::Output<'a>) -> Result<TensorMut<'a>> {
    let shape = shape(operation, argument, output.dims)?;
    let len = shape.iter().product();
    // SAFETY: XLA gives results to this call alone while it runs, and the element type is XLA's own.
    let elements = unsafe {
        match output.dtype {
            dtype::S8 => ElementsMut::I8(slice_mut(output.data, len)),
            dtype::U8 => ElementsMut::U8(slice_mut(output.data, len)),
            dtype::S32 => ElementsMut::I32(slice_mut(output.data, len)),
            dtype::F32 => ElementsMut::F32(slice_mut(output.data, len)),
            dtype::F16 => ElementsMut::F16(slice_mut::<f16>(output.data, len)),
            dtype::BF16 => ElementsMut::BF16(slice_mut::<bf16>(output.data, len)),
            code => return Err(unsupported(operation, argument, code)),
        }
    };
    Ok(TensorMut { operation, argument, shape, elements })
}

/// A state that is updated: XLA passes the same buffer twice where it is donated, and two buffers elsewhere.
///
/// # Safety
/// As [`read`] and [`write`]; the two may be the same buffer, but not overlap in part.
unsafe fn in_place<'a>(argument: &'static str, old: ffi::Input<'a>, new: ffi::Output<'a>) -> Result<InPlace<'a>> {
    const OPERATION: &str = "accumulate";
    if old.dims != new.dims || old.dtype != dtype::S32 || new.dtype != dtype::S32 {
        let found = format!("{:?} of type {} and {:?} of type {}", old.dims, old.dtype, new.dims, new.dtype);
        return Err(Error::Argument { operation: OPERATION, argument, wanted: "be int32 with a result of its own shape".into(), found });
    }
    let same = std::ptr::eq(old.data, new.data);
    let shape = shape(OPERATION, argument, old.dims)?;
    // SAFETY: where the buffers are one, only the mutable view is made.
    let old = if same { None } else { Some(unsafe { slice(old.data, shape.iter().product()) }) };
    // SAFETY: the result belongs to this call alone.
    let new = unsafe { slice_mut(new.data, shape.iter().product()) };
    Ok(InPlace { argument, shape, old, new })
}

/// Defines bridge functions that view their operands and results and call the handler of the same name.
macro_rules! bridged {
    ($($name:ident($($input:ident),+ => $($output:ident),+; $($attribute:ident: $type:ty),*);)+) => {
        $(
            /// # Safety
            /// The operands and results are those of the XLA call that is running.
            unsafe fn $name($($input: ffi::Input<'_>,)+ $($output: ffi::Output<'_>,)+ $($attribute: $type),*) -> Result<()> {
                guarded(|| {
                    // SAFETY: the caller's promise; no result of these calls is aliased to an operand.
                    $(let $input = unsafe { read(stringify!($name), stringify!($input), $input) }?;)+
                    // SAFETY: as above.
                    $(let $output = unsafe { write(stringify!($name), stringify!($output), $output) }?;)+
                    handlers::$name($($input,)+ $($output,)+ $($attribute),*)
                })
            }
        )+
    };
}

bridged! {
    scale(exponent, corr, step => scale; group_size: i64, gain: f32);
    matmul(x, trits, scale => y; group_size: i64);
    matmul_transposed(dy, trits, scale => dx; group_size: i64);
    correlate(x, dy, trits => score, votes; group_size: i64);
    correlate_dense(dw, trits => score; group_size: i64);
    pack(trits => packed; group_size: i64);
    unpack(packed => trits; group_size: i64);
    dequantize(trits, scale => weights; group_size: i64);
}

/// # Safety
/// The operands and results are those of the XLA call that is running; each state may share its buffer with its result.
#[allow(clippy::too_many_arguments)]
unsafe fn accumulate(
    corr: ffi::Input<'_>,
    step: ffi::Input<'_>,
    score: ffi::Input<'_>,
    votes: ffi::Input<'_>,
    new_corr: ffi::Output<'_>,
    new_step: ffi::Output<'_>,
    group_size: i64,
    wanted_votes: i64,
) -> Result<()> {
    guarded(|| {
        // SAFETY: the caller's promise.
        let (corr, step) = unsafe { (in_place("corr", corr, new_corr)?, in_place("step", step, new_step)?) };
        // SAFETY: the caller's promise; scores and votes are never aliased.
        let (score, votes) = unsafe { (read("accumulate", "score", score)?, read("accumulate", "votes", votes)?) };
        handlers::accumulate(corr, step, score, votes, group_size, wanted_votes)
    })
}

fn gpu_plan(
    operation: &str,
    operands: &[ffi::Input<'_>],
    results: &[ffi::Output<'_>],
    attributes: ffi::GpuAttributes,
) -> Result<cuda::plan::Plan> {
    let tensor = |address: u64, dims: &[i64], code: i32| {
        let dtype = match code {
            dtype::S8 => Dtype::Int8,
            dtype::U8 => Dtype::Uint8,
            dtype::S32 => Dtype::Int32,
            dtype::F32 => Dtype::Float32,
            dtype::F16 => Dtype::Float16,
            dtype::BF16 => Dtype::Bfloat16,
            code => return Err(unsupported("a call on a GPU", "an operand or result", code)),
        };
        Ok(cuda::tensor::Tensor { dtype, shape: shape("a call on a GPU", "an operand or result", dims)?, address })
    };
    let ffi::GpuAttributes { group_size, gain, wanted_votes } = attributes;
    cuda::plan::plan(&cuda::plan::Request {
        operation: operation.into(),
        operands: operands.iter().map(|input| tensor(input.data.addr() as u64, input.dims, input.dtype)).collect::<Result<_>>()?,
        results: results.iter().map(|output| tensor(output.data.addr() as u64, output.dims, output.dtype)).collect::<Result<_>>()?,
        attributes: cuda::plan::Attributes { group_size, gain, wanted_votes },
        any_tokens: false,
    })
}

/// Defines the stages of a call on a GPU: each plans the call and hands the plan to the function of `cuda::launch` that it names.
macro_rules! gpu_stages {
    ($($stage:ident: $launch:ident;)+) => {
        $(
            /// # Safety
            /// The operands and results are those of the XLA call whose stage is running, and `stream` is its stream.
            unsafe fn $stage(
                operation: &str,
                operands: &[ffi::Input<'_>],
                results: &[ffi::Output<'_>],
                attributes: ffi::GpuAttributes,
                stream: usize,
            ) -> Result<()> {
                guarded(|| {
                    let plan = gpu_plan(operation, operands, results, attributes)?;
                    // SAFETY: the caller's promise; XLA keeps its buffers until the stream has run the call.
                    unsafe { cuda::launch::$launch(&plan, std::ptr::with_exposed_provenance_mut(stream)) }
                })
            }
        )+
    };
}

gpu_stages! {
    gpu_initialize: initialize;
    gpu_execute: execute;
}

/// Runs the body of a host call that concerns GPUs.
fn gpu_host_call(body: impl FnOnce() -> Result<String>) -> ffi::Outcome {
    let mut text = String::new();
    match guarded(|| body().map(|answer| text = answer)) {
        Ok(()) => ffi::Outcome { code: 0, text },
        Err(error) => ffi::Outcome { code: if matches!(error, Error::Panic(_)) { 2 } else { 1 }, text: error.to_string() },
    }
}

/// The float32 elements of scratch that a call on a GPU needs, from its description as JSON.
fn gpu_scratch(request: &[u8]) -> ffi::Outcome {
    gpu_host_call(|| {
        let request = serde_json::from_slice(request).map_err(|error| Error::Argument {
            operation: "scratch",
            argument: "request",
            wanted: "describe a call".into(),
            found: error.to_string(),
        })?;
        Ok(cuda::plan::scratch(&request)?.to_string())
    })
}

/// Empty where the compiler of CUDA is at hand, else why not; `folders` are pip's folders of NVIDIA's packages.
fn gpu_compiler(folders: &[ffi::Bytes<'_>]) -> ffi::Outcome {
    gpu_host_call(|| {
        cuda::library::search_in(folders.iter().map(|folder| os_string(folder.bytes).into()));
        Ok(cuda::library::nvrtc().err().map_or_else(String::new, |error| error.to_string()))
    })
}

/// Runs the body of a host call; errors and panics become codes.
fn host_call(body: impl FnOnce() -> checkpoint::Result<String>) -> ffi::Outcome {
    crate::logging::start();
    let (code, text) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(text)) => (0, text),
        Ok(Err(error @ checkpoint::Error::Content { .. })) => (1, error.to_string()),
        Ok(Err(error @ checkpoint::Error::System { .. })) => (error.system_number().map_or(3, |number| -number), error.to_string()),
        Err(payload) => (2, Error::Panic(panic_message(payload)).to_string()),
    };
    ffi::Outcome { code, text }
}

/// The path or argument that Python's `os.fsencode` gives.
#[cfg(unix)]
fn os_string(bytes: &[u8]) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

/// The path that Python's `os.fsencode` gives: UTF-8 on these systems.
#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

/// A checkpoint that Python reads.
#[derive(Default)]
pub struct CheckpointReader {
    open: Option<(checkpoint::File, Option<usize>)>,
}

fn checkpoint_reader() -> Box<CheckpointReader> {
    Box::default()
}

impl CheckpointReader {
    /// Opens and checks a file, and describes it; `group_size` 0 stands for none.
    fn open(&mut self, bytes: &[u8], group_size: i64) -> ffi::Outcome {
        host_call(|| {
            let file = checkpoint::File::open(os_string(bytes))?;
            let group_size = usize::try_from(group_size).ok().filter(|&size| size > 0);
            let description = exchange::describe(&file, group_size)?;
            self.open = Some((file, group_size));
            Ok(description)
        })
    }

    /// Copies the described tensors into `buffers`.
    fn read(&self, buffers: &mut [ffi::Buffer<'_>]) -> ffi::Outcome {
        host_call(|| {
            let (file, group_size) = self.open.as_ref().expect("a checkpoint is opened before it is read");
            let mut buffers: Vec<&mut [u8]> = buffers.iter_mut().map(|buffer| &mut *buffer.bytes).collect();
            exchange::read(file, *group_size, &mut buffers)?;
            Ok(String::new())
        })
    }
}

fn checkpoint_write(bytes: &[u8], torch: bool, description: &[u8], tensors: &[ffi::Bytes<'_>]) -> ffi::Outcome {
    host_call(|| {
        let layout = if torch { Layout::Torch } else { Layout::Ternax };
        let tensors: Vec<&[u8]> = tensors.iter().map(|tensor| tensor.bytes).collect();
        exchange::write(os_string(bytes).as_ref(), layout, description, &tensors)?;
        Ok(String::new())
    })
}

/// Runs the command `ternax`; the text is its exit code.
fn command(arguments: &[ffi::Bytes<'_>]) -> ffi::Outcome {
    host_call(|| {
        let arguments = arguments.iter().map(|argument| os_string(argument.bytes));
        let code = crate::cli::run(arguments, &mut std::io::stdout(), &mut std::io::stderr());
        Ok(code.to_string())
    })
}

/// One line of the table of exported functions.
#[repr(C)]
pub struct Entry {
    /// The custom call's or host function's name.
    name: *const c_char,
    /// `cpu` or `CUDA` for a custom call, `host` for a function that Python calls by itself.
    platform: *const c_char,
    /// The handler of the execute stage, or the host function.
    execute: *const c_void,
    /// The handler of the initialize stage, or null.
    initialize: *const c_void,
}

// SAFETY: the pointers are to immutable static data and functions.
unsafe impl Sync for Entry {}

/// Declares the functions of the C++ shim and lists them.
macro_rules! exported {
    ($($platform:literal: $($name:ident = $symbol:ident $(after $initialize:ident)?),+;)+) => {
        unsafe extern "C" { $($(fn $symbol(); $(fn $initialize();)?)+)+ }
        static TABLE: &[Entry] = &[$($(Entry {
            name: concat!(stringify!($name), "\0").as_ptr().cast(),
            platform: concat!($platform, "\0").as_ptr().cast(),
            execute: $symbol as *const c_void,
            initialize: exported!(@initialize $($initialize)?),
        }),+),+];
    };
    (@initialize) => { std::ptr::null() };
    (@initialize $initialize:ident) => { $initialize as *const c_void };
}

exported! {
    "cpu":
        ternax_scale = ternax_cpu_scale,
        ternax_matmul = ternax_cpu_matmul,
        ternax_matmul_transposed = ternax_cpu_matmul_transposed,
        ternax_correlate = ternax_cpu_correlate,
        ternax_correlate_dense = ternax_cpu_correlate_dense,
        ternax_accumulate = ternax_cpu_accumulate,
        ternax_pack = ternax_cpu_pack,
        ternax_unpack = ternax_cpu_unpack,
        ternax_dequantize = ternax_cpu_dequantize;
    "CUDA":
        ternax_scale = ternax_gpu_scale after ternax_gpu_scale_initialize,
        ternax_matmul = ternax_gpu_matmul after ternax_gpu_matmul_initialize,
        ternax_matmul_transposed = ternax_gpu_matmul_transposed after ternax_gpu_matmul_transposed_initialize,
        ternax_correlate = ternax_gpu_correlate after ternax_gpu_correlate_initialize,
        ternax_correlate_dense = ternax_gpu_correlate_dense after ternax_gpu_correlate_dense_initialize,
        ternax_accumulate = ternax_gpu_accumulate after ternax_gpu_accumulate_initialize,
        ternax_pack = ternax_gpu_pack after ternax_gpu_pack_initialize,
        ternax_unpack = ternax_gpu_unpack after ternax_gpu_unpack_initialize,
        ternax_dequantize = ternax_gpu_dequantize after ternax_gpu_dequantize_initialize;
    "host":
        ffi_version = ternax_host_ffi_version,
        text = ternax_host_text,
        checkpoint_open = ternax_host_checkpoint_open,
        checkpoint_read = ternax_host_checkpoint_read,
        checkpoint_close = ternax_host_checkpoint_close,
        checkpoint_write = ternax_host_checkpoint_write,
        command = ternax_host_command,
        gpu_scratch = ternax_host_gpu_scratch,
        gpu_compiler = ternax_host_gpu_compiler;
}

/// The table of exported functions; writes its length to `len`. rustc exports Rust symbols only, so that the C++ handlers
/// are reached through here.
///
/// # Safety
/// `len` is null or points to a writable `usize`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ternax_table(len: *mut usize) -> *const Entry {
    if !len.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *len = TABLE.len() };
    }
    TABLE.as_ptr()
}

/// Registers the custom calls with the XLA that is linked into this program; once, before a program that has them is compiled.
///
/// # Errors
/// [`Error::Registration`] where no XLA with a typed FFI is linked, its FFI is older than ours, or it refuses a call.
#[cfg(feature = "xla-rs")]
pub fn register() -> Result<()> {
    use std::ffi::CStr;

    unsafe extern "C" {
        fn ternax_register(name: *const c_char, platform: *const c_char, execute: *const c_void) -> *const c_char;
    }
    for entry in TABLE {
        // SAFETY: the table holds static strings that end in NUL.
        let (call, platform) = unsafe { (CStr::from_ptr(entry.name), CStr::from_ptr(entry.platform)) };
        // Calls on GPUs have two stages, of which this registers one.
        if platform != c"cpu" {
            continue;
        }
        // SAFETY: the handler is a static function with the signature of XLA's handlers.
        let refusal = unsafe { ternax_register(entry.name, entry.platform, entry.execute) };
        if !refusal.is_null() {
            // SAFETY: the reason is a string that ends in NUL and lives until this thread's next registration.
            let reason = unsafe { CStr::from_ptr(refusal) }.to_string_lossy().into_owned();
            return Err(Error::Registration { call: call.to_string_lossy().into_owned(), reason });
        }
    }
    Ok(())
}
