//! Compiled kernels on disk: `$XDG_CACHE_HOME/ternax/cubins`, else `~/.cache/ternax/cubins`.
//!
//! An entry is written to a temporary file and renamed, holds its whole key and a checksum, and is built anew where anything is wrong with it. A
//! folder that cannot be written costs time, never an error.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::error::Result;

/// First bytes of every entry; the number changes with the format.
const MAGIC: &[u8] = b"ternax cubin 1\n";

/// FNV-1a of 128 bits: the same on every machine and with every compiler.
pub fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u128 {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
    let start: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    parts.into_iter().fold(start, |hash, part| {
        // Each part's length first, so that moving a border between parts shows.
        let length = (part.len() as u64).to_le_bytes();
        length.iter().chain(part).fold(hash, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
    })
}

/// A folder of compiled kernels, or none.
#[derive(Debug)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// The user's cache.
    pub fn of_user() -> Self {
        let absolute = |path: PathBuf| path.is_absolute().then_some(path);
        let given = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).and_then(absolute);
        let home = || env::home_dir().and_then(absolute).map(|home| home.join(".cache"));
        Self { folder: given.or_else(home).map(|folder| folder.join("ternax/cubins")) }
    }

    /// A cache in `folder`.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// The entry under `key`, or what `build` makes, which is kept.
    pub fn get_or_build(&self, key: &str, build: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
        let Some(folder) = &self.folder else { return build() };
        let path = folder.join(format!("{:032x}", fingerprint([key.as_bytes()])));
        match fs::read(&path).ok().map(|entry| content(&entry, key)) {
            Some(Some(cubin)) => return Ok(cubin),
            Some(None) => log::warn!("the compiled kernel {} is damaged and will be built anew", path.display()),
            None => {}
        }
        let cubin = build()?;
        if let Err(error) = write(folder, &path, &entry(&cubin, key)) {
            log::warn!("compiled kernels cannot be kept in {}: {error}", folder.display());
        }
        Ok(cubin)
    }
}

fn entry(cubin: &[u8], key: &str) -> Vec<u8> {
    let checksum = fingerprint([key.as_bytes(), cubin]).to_le_bytes();
    [MAGIC, &(key.len() as u64).to_le_bytes(), key.as_bytes(), &checksum, cubin].concat()
}

/// What an entry holds, if it is whole and under this key.
fn content(entry: &[u8], key: &str) -> Option<Vec<u8>> {
    let header = MAGIC.len() + 8 + key.len() + 16;
    let cubin = entry.get(header..)?;
    (entry[..header] == self::entry(cubin, key)[..header]).then(|| cubin.to_vec())
}

fn write(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// What the cache gives under `key`, and whether it had to be built.
    fn get(cache: &Cache, key: &str) -> (Vec<u8>, bool) {
        let mut built = false;
        let cubin = cache.get_or_build(key, || {
            built = true;
            Ok(format!("cubin of {key}").into_bytes())
        });
        (cubin.expect("built"), built)
    }

    fn entries(folder: &Path) -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect()
    }

    #[test]
    fn an_entry_is_built_once_and_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::in_folder(folder.path().join("deep/inside"));
        assert_eq!(get(&cache, "a"), (b"cubin of a".to_vec(), true));
        assert_eq!(get(&cache, "a"), (b"cubin of a".to_vec(), false));
        assert_eq!(get(&cache, "b"), (b"cubin of b".to_vec(), true), "another key is another entry");
    }

    #[test]
    fn a_damaged_entry_is_built_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::in_folder(folder.path());
        get(&cache, "a");
        let path = &entries(folder.path())[0];
        let whole = fs::read(path).expect("the entry");
        let last = whole.len() - 1;
        for damaged in [
            &[][..],
            &whole[..10],
            &whole[..last],
            &[&whole[..last], b"x"].concat(),
            b"other text altogether, long enough to hold a header ...............",
        ] {
            fs::write(path, damaged).expect("damage");
            assert_eq!(get(&cache, "a"), (b"cubin of a".to_vec(), true));
            assert_eq!(fs::read(path).expect("the entry"), whole);
        }
    }

    #[test]
    fn an_entry_under_another_key_s_name_is_not_taken_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::in_folder(folder.path());
        get(&cache, "a");
        let of_a = entries(folder.path())[0].clone();
        get(&cache, "b");
        let of_b = entries(folder.path()).into_iter().find(|path| *path != of_a).expect("a second entry");
        fs::copy(of_a, of_b).expect("a copy");
        assert_eq!(get(&cache, "b"), (b"cubin of b".to_vec(), true));
    }

    #[test]
    fn nothing_is_kept_of_a_failed_build_and_no_temporary_file_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::in_folder(folder.path());
        let refused = || Err(Error::Gpu("no compiler".into()));
        assert!(cache.get_or_build("a", refused).is_err());
        get(&cache, "a");
        assert_eq!(entries(folder.path()).len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file where the folder should be");
        let cache = Cache::in_folder(file.join("cubins"));
        assert!(get(&cache, "a").1 && get(&cache, "a").1);
    }

    #[test]
    fn the_fingerprint_tells_parts_apart() {
        assert_eq!(fingerprint([]), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_ne!(fingerprint([&b"ab"[..], b"c"]), fingerprint([&b"a"[..], b"bc"]));
    }
}
