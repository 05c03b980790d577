//! Compiles the C++ shim against the XLA FFI headers that jaxlib ships.

use std::{env, path::PathBuf, process::Command};

/// Prints the include directory of the jaxlib that an interpreter sees, without importing it.
const FIND_HEADERS: &str = "import importlib.util as u, os; \
    print(os.path.join(u.find_spec('jaxlib').submodule_search_locations[0], 'include'))";

/// Where the XLA FFI headers are: `XLA_FFI_INCLUDE_DIR`, else the jaxlib of the interpreter that runs the build.
fn xla_ffi_headers() -> PathBuf {
    for variable in ["XLA_FFI_INCLUDE_DIR", "PYO3_PYTHON", "PYTHON"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if let Some(dir) = env::var_os("XLA_FFI_INCLUDE_DIR") {
        return dir.into();
    }
    let named = ["PYO3_PYTHON", "PYTHON"].iter().filter_map(|v| env::var(v).ok());
    for python in named.chain(["python3".into(), "python".into()]) {
        let Ok(out) = Command::new(&python).args(["-c", FIND_HEADERS]).output() else { continue };
        let dir = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim());
        if out.status.success() && dir.join("xla/ffi/api/ffi.h").is_file() {
            return dir;
        }
    }
    panic!("xla/ffi/api/ffi.h not found: install jaxlib for the python in use, or set XLA_FFI_INCLUDE_DIR to jaxlib's include directory");
}

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-changed=src/xla/bridge.rs");
    let headers = xla_ffi_headers();
    let linked_runtime = env::var_os("CARGO_FEATURE_XLA_RS").map(|_| "cpp/linked_runtime.cc");
    cxx_build::bridge("src/xla/bridge.rs")
        .files(["cpp/handlers.cc", "cpp/gpu.cc", "cpp/host.cc"])
        .files(linked_runtime)
        .include("cpp")
        .flag(format!("-isystem{}", headers.display()))
        .std("c++17")
        .flag_if_supported("-fvisibility=hidden")
        .flag_if_supported("-fvisibility-inlines-hidden")
        .compile("ternax_shim");
}
