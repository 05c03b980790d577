"""Makes what the crate xla calls XLA_EXTENSION_DIR, headers and library of XLA, from the PyPI wheel tensorflow-cpu.

usage: make_extension.py SITE_PACKAGES FOLDER

The wheel exports XLA's C++ functions and ships its headers, but not those of MLIR and LLVM: ``include`` beside this file has
stand-ins for what the crate names of them. Everything in FOLDER is a link.
"""

import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
# Headers that XLA's own include from the root, and where the wheel has them.
ROOTS = {"highwayhash": "highwayhash/highwayhash", "farmhash.h": "farmhash_archive/src/farmhash.h"}
LIBRARIES = {
    "libxla_extension.so": "libtensorflow_cc.so.2",
    "libtensorflow_cc.so.2": "libtensorflow_cc.so.2",
    "libtensorflow_framework.so": "libtensorflow_framework.so.2",
    "libtensorflow_framework.so.2": "libtensorflow_framework.so.2",
}


def links(tensorflow: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where every link points, by its path in the folder."""
    headers = [*(tensorflow / "include").iterdir(), *(HERE / "include").iterdir()]
    found = {f"include/{header.name}": header for header in headers}
    found |= {f"include/{name}": tensorflow / "include" / "external" / place for name, place in ROOTS.items()}
    return found | {f"lib/{name}": tensorflow / library for name, library in LIBRARIES.items()}


def main() -> None:
    packages, folder = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    for name, target in links(packages / "tensorflow").items():
        if not target.exists():
            sys.exit(f"{target} is missing: the wheel tensorflow-cpu has another form than that of 2.21.0")
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)


if __name__ == "__main__":
    main()
