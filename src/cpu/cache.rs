//! The sizes of the caches of this machine, which choose tables and blocks.

use std::path::Path;
use std::sync::OnceLock;

/// Bytes of the caches of one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// First level, data.
    pub l1_data: usize,
    /// Second level.
    pub l2: usize,
}

/// What every machine of the last decade has at least.
const LEAST: Sizes = Sizes { l1_data: 32 << 10, l2: 256 << 10 };

/// The sizes of the first processor as Linux tells them, else [`LEAST`].
pub fn sizes() -> Sizes {
    static SIZES: OnceLock<Sizes> = OnceLock::new();
    *SIZES.get_or_init(|| {
        let sizes = read(Path::new("/sys/devices/system/cpu/cpu0/cache"));
        log::debug!("caches: {sizes:?}");
        sizes
    })
}

/// Reads a directory laid out as `/sys/devices/system/cpu/cpu0/cache`.
fn read(directory: &Path) -> Sizes {
    let mut sizes = LEAST;
    for index in 0..8 {
        let text = |file: &str| std::fs::read_to_string(directory.join(format!("index{index}/{file}"))).unwrap_or_default();
        let Some(size) = parse(text("size").trim()) else { continue };
        match (text("level").trim(), text("type").trim()) {
            ("1", "Data" | "Unified") => sizes.l1_data = size,
            ("2", "Data" | "Unified") => sizes.l2 = size,
            _ => {}
        }
    }
    sizes
}

/// `48K`, `1M` or a plain number of bytes.
fn parse(text: &str) -> Option<usize> {
    let (digits, unit) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix('M').map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<usize>().ok().filter(|&size| size > 0).map(|size| size * unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_linux_writes_them() {
        assert_eq!(parse("48K"), Some(48 << 10));
        assert_eq!(parse("2M"), Some(2 << 20));
        assert_eq!(parse("512"), Some(512));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_machine_that_tells_nothing_gets_the_least_sizes() {
        assert_eq!(read(Path::new("/nowhere")), LEAST);
    }
}
