//! `TERNAX_LOG`: which kernel, tile and thread count ran, through `env_logger`.

use std::sync::Once;

/// Starts `env_logger` from `TERNAX_LOG` (the syntax of `RUST_LOG`) where that variable is set, and does nothing otherwise:
/// a library must not take the process's logger unasked.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if std::env::var_os("TERNAX_LOG").is_some() {
            // An error means that the host process has a logger already: then ours is not wanted.
            let _ = env_logger::Builder::from_env("TERNAX_LOG").try_init();
        }
    });
}
