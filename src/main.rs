//! The `ternax` command.

fn main() {
    ternax::logging::start();
}
