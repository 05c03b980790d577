//! NVRTC of the interpreter that builds the crate.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use ternax::cuda::library;

/// The folder of NVIDIA's packages of an interpreter.
const FIND: &str = "import importlib.util as u; s = u.find_spec('nvidia'); print(*(s.submodule_search_locations if s else ()), sep='\\n')";

/// Lets NVRTC be found where the interpreter of the build keeps it.
pub fn find() {
    let named = ["PYO3_PYTHON", "PYTHON"].iter().filter_map(|variable| env::var(variable).ok());
    for python in named.chain(["python3".into(), "python".into()]) {
        if let Ok(output) = Command::new(&python).args(["-c", FIND]).output() {
            library::search_in(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from));
        }
    }
    library::nvrtc().expect("NVRTC, from `pip install nvidia-cuda-nvrtc` for the interpreter that PYTHON names");
}
