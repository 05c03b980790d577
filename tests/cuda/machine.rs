//! Builds the emulated kernels with the C++ compiler at hand, and launches them.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::{env, fs};

use libloading::{Library, Symbol};
use ternax::cuda::call::{Call, Launch};
use ternax::cuda::kernel::{HEADERS, Kernel};
use ternax::cuda::tensor_map::TensorMap;

/// Order of the threads, rounding of the tensor cores, and a seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    schedule: c_int,
    rounding: c_int,
    seed: c_uint,
}

/// Threads in order with sums rounded to nearest; in reverse, and at random, with sums that are cut.
pub const OPTIONS: [Options; 3] = [
    Options { schedule: 0, rounding: 0, seed: 1 },
    Options { schedule: 1, rounding: 1, seed: 1 },
    Options { schedule: 2, rounding: 1, seed: 7 },
];

type Launcher = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    c_uint,
    *const c_void,
    *const TensorMap,
    usize,
    c_int,
    c_int,
    c_uint,
    *mut c_char,
    usize,
) -> c_int;

/// A library of emulated kernels, loaded for good.
pub struct Machine {
    library: &'static Library,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The compiler's name, as the build of the crate itself chooses it.
fn compiler() -> String {
    env::var("CXX").unwrap_or_else(|_| "c++".into())
}

/// Starts the compilation of one source; `sources` is the folder of the CUDA headers.
fn compile(source: &Path, object: &Path, sources: &Path) -> Child {
    Command::new(compiler())
        .args([
            "-std=c++17",
            "-O1",
            "-ffp-contract=off",
            "-fPIC",
            // Each library has a machine of its own.
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-DTERNAX_EMULATION",
            "-c",
        ])
        // It runs where it is compiled; wide vectors make the tensor cores several times faster.
        .args(if cfg!(target_arch = "x86_64") { &["-march=native"][..] } else { &[] })
        .arg(format!("-I{}", sources.display()))
        .arg(format!("-I{}", repository().join("tests/cuda").display()))
        .arg(source)
        .arg("-o")
        .arg(object)
        .spawn()
        .unwrap_or_else(|error| panic!("the tests of the CUDA kernels need a C++ compiler; {} does not start: {error}", compiler()))
}

/// A source that registers kernels: pairs of the name to launch by and the class, with what must stand before them.
pub fn registry(entry: bool, prelude: &str, kernels: &[(String, String)]) -> String {
    let mut text = String::new();
    if entry {
        text += "#define TERNAX_EMULATION_ENTRY\n";
    }
    text += "#include \"emulation/entry.h\"\n";
    text += prelude;
    text += "static const emulation::Registered kKernels[] = {\n";
    for (name, class) in kernels {
        let run = format!("emulation::Run({class}::Run, call, maps);");
        writeln!(text, "{{\"{name}\", [](const Call& call, const TensorMap* maps) {{ {run} }}}},").expect("a string grows");
    }
    text + "};\n"
}

/// Includes of every header that defines kernels.
pub fn includes() -> String {
    HEADERS.iter().map(|(name, _)| format!("#include \"{name}\"\n")).collect()
}

impl Machine {
    /// Every kernel as it is in the repository.
    pub fn get() -> &'static Self {
        static MACHINE: OnceLock<Machine> = OnceLock::new();
        MACHINE.get_or_init(|| {
            let classes = Kernel::all().into_iter().map(|kernel| (kernel.class.clone(), kernel.class));
            // Two sources, so that two cores share the work.
            let (even, odd): (Vec<_>, Vec<_>) = classes.enumerate().partition(|(index, _)| index % 2 == 0);
            let kernels = |half: Vec<(usize, _)>| half.into_iter().map(|(_, kernel)| kernel).collect::<Vec<_>>();
            let sources = [registry(true, &includes(), &kernels(even)), registry(false, &includes(), &kernels(odd))];
            Self::build("kernels", &sources, &repository().join("cpp/cuda"))
        })
    }

    /// Compiles and loads sources against the CUDA headers in `headers`; a library of the same text is taken as it is.
    pub fn build(name: &str, sources: &[String], headers: &Path) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda");
        fs::create_dir_all(&folder).expect("a folder for the emulated kernels");
        let mut hash = DefaultHasher::new();
        (sources, HEADERS, compiler()).hash(&mut hash);
        for file in ["bulk.h", "entry.h", "fibers.h", "hopper.h", "machine.h", "memory.h", "tensor_core.h"] {
            fs::read(repository().join("tests/cuda/emulation").join(file)).expect("the emulation").hash(&mut hash);
        }
        let stem = format!("{name}-{:016x}", hash.finish());
        let library = folder.join(format!("{stem}.so"));
        if !library.exists() {
            let parts: Vec<(PathBuf, Child)> = (0..sources.len())
                .map(|index| {
                    let source = folder.join(format!("{stem}-{index}.cc"));
                    fs::write(&source, &sources[index]).expect("a source");
                    let object = source.with_extension("o");
                    let child = compile(&source, &object, headers);
                    (object, child)
                })
                .collect();
            let mut objects = Vec::new();
            for (object, mut child) in parts {
                assert!(child.wait().expect("the compiler ends").success(), "{} refuses the emulated kernels", compiler());
                objects.push(object);
            }
            let building = folder.join(format!("{stem}-{}.building", std::process::id()));
            let status = Command::new(compiler()).arg("-shared").args(&objects).arg("-o").arg(&building).status();
            assert!(status.expect("the linker starts").success(), "the emulated kernels do not link");
            fs::rename(&building, &library).expect("the finished library");
        }
        // SAFETY: the library is ours; its initialisers only fill a table.
        let library: &'static Library = Box::leak(Box::new(unsafe { Library::new(&library) }.expect("the emulated kernels load")));
        // SAFETY: the function takes nothing and returns a size.
        let bytes = unsafe { library.get::<unsafe extern "C" fn() -> usize>(b"emulation_call_bytes").expect("the size of a call")() };
        assert_eq!(bytes, size_of::<Call>(), "struct Call is not the same in C++ and Rust");
        Self { library }
    }

    /// Launches kernel `name`; what the machine caught is the error.
    pub fn launch(&self, name: &str, launch: &Launch, options: Options) -> Result<(), String> {
        // SAFETY: the signature of tests/cuda/emulation/entry.h.
        let launcher: Symbol<'_, Launcher> = unsafe { self.library.get(b"emulation_launch") }.expect("the launcher");
        let (name, mut message) = (CString::new(name).expect("no NUL"), [0; 2048]);
        let Launch { kernel, grid, call, shared, maps, tiles: _ } = launch;
        if grid.contains(&0) || grid[1..].iter().any(|&blocks| blocks > 65_535) {
            return Err(format!("no card takes a grid of {grid:?}"));
        }
        let argument = std::ptr::from_ref(call).cast();
        // SAFETY: all pointers live through the call; addresses in `call` are checked against the registered buffers.
        let code = unsafe {
            let Options { schedule, rounding, seed } = options;
            launcher(
                name.as_ptr(),
                grid.as_ptr(),
                kernel.threads,
                *shared,
                argument,
                maps.as_ptr(),
                maps.len(),
                schedule,
                rounding,
                seed,
                message.as_mut_ptr(),
                2048,
            )
        };
        // SAFETY: the launcher ends every message with a NUL.
        let text = || unsafe { CStr::from_ptr(message.as_ptr()) }.to_string_lossy().into_owned();
        if code == 0 { Ok(()) } else { Err(text()) }
    }

    /// Launches a plan in order.
    pub fn run(&self, launches: &[Launch], options: Options) {
        for launch in launches {
            self.launch(&launch.kernel.class, launch, options).unwrap_or_else(|error| panic!("{}: {error}", launch.kernel.class));
        }
    }

    /// Makes a buffer known, so that accesses to it are lawful for this thread's launches.
    pub fn register(&self, data: *const c_void, bytes: usize) {
        // SAFETY: the signature of tests/cuda/emulation/entry.h; the range is only compared with.
        unsafe { self.library.get::<unsafe extern "C" fn(*const c_void, usize)>(b"emulation_register").expect("a function")(data, bytes) }
    }

    /// Makes a buffer unknown again.
    pub fn forget(&self, data: *const c_void) {
        // SAFETY: as above.
        unsafe { self.library.get::<unsafe extern "C" fn(*const c_void)>(b"emulation_forget").expect("a function")(data) }
    }
}
