//! Files: mapped to be read, written beside their place and renamed into it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{TensorInfo, TensorView};
use vmap::Map;

use super::contents::{Contents, Tensors};
use super::error::{Error, Fault, Result};
use super::header::Header;
use super::layer::{Layout, Tensor};

/// A checkpoint that is open for reading. Its header has been checked; its tensors are mapped, and read when they are used.
///
/// The mapping stays whole while the file is replaced by [`save`]; as with every mapped file, another program that cuts the
/// file itself short ends this one.
pub struct File {
    path: PathBuf,
    map: Map,
    header: Header,
    start: usize,
}

impl File {
    /// Opens a safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let system = |source| Error::system(path, source);
        let metadata = fs::metadata(path).map_err(system)?;
        if !metadata.is_file() {
            return Err(Fault::new("a checkpoint", "be a regular file", "something else").of(path));
        }
        if metadata.len() == 0 {
            return Err(Fault::new("a checkpoint", "hold a safetensors header", "an empty file").of(path));
        }
        let file = fs::File::open(path).map_err(system)?;
        let map: Map = Map::with_options().map(&file).map_err(|error| system(error.into()))?;
        let (header, start) = Header::parse(&map).map_err(|fault| fault.of(path))?;
        Ok(Self { path: path.into(), map, header, start })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The layers and dense tensors, dtypes and shapes checked; `group_size` is for layers whose file has none.
    pub fn contents(&self, group_size: Option<usize>) -> Result<Contents<'_>> {
        let tensors = &self.map[self.start..];
        let view = |(name, info): (&String, &TensorInfo)| {
            let (start, end) = info.data_offsets;
            let view = TensorView::new(info.dtype, info.shape.clone(), &tensors[start..end]);
            Ok((name.clone(), view.map_err(|error| Fault::tensor(name, "be sound", error))?))
        };
        let views: std::result::Result<Tensors<'_>, Fault> = self.header.tensors.iter().map(view).collect();
        views.and_then(|views| Contents::of_file(&self.header.metadata, views, group_size)).map_err(|fault| fault.of(&self.path))
    }
}

/// Writes `contents` to `path` in `layout`. They are checked first; they go to a temporary file in the same folder, which is
/// flushed to the disk and renamed, so that `path` holds the old checkpoint or the new one, whole, whatever happens.
pub fn save(path: impl AsRef<Path>, contents: &Contents<'_>, layout: Layout) -> Result<()> {
    let path = path.as_ref();
    let fault = |fault: Fault| fault.of(path);
    contents.check().map_err(fault)?;
    let (metadata, mut tensors) = contents.tensors(layout).map_err(fault)?;
    // The order of the crate safetensors: by alignment, then by name.
    tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    let header = Header { metadata, tensors: places(&tensors) }.encode().map_err(fault)?;
    replace(path, &header, &tensors).map_err(|error| Error::system(path, error))
}

/// Where each tensor goes after the header, one behind the other.
fn places(tensors: &[Tensor<'_>]) -> BTreeMap<String, TensorInfo> {
    let mut start = 0;
    let place = |tensor: &Tensor<'_>| {
        let data_offsets = (start, start + tensor.data.len());
        start = data_offsets.1;
        (tensor.name.clone(), TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone(), data_offsets })
    };
    tensors.iter().map(place).collect()
}

/// Replaces `path` by a file of `header` and `tensors`, whose mode is the old file's, or else the process's usual one.
fn replace(path: &Path, header: &[u8], tensors: &[Tensor<'_>]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let create = |path: &Path| fs::OpenOptions::new().write(true).create_new(true).open(path);
    let temporary = tempfile::Builder::new().prefix(".ternax-").suffix(".tmp").make_in(folder, create)?;
    let mut file = temporary.as_file();
    if let Ok(old) = fs::metadata(path) {
        file.set_permissions(old.permissions())?;
    }
    file.write_all(header)?;
    tensors.iter().try_for_each(|tensor| file.write_all(&tensor.data.bytes()))?;
    file.sync_all()?;
    temporary.persist(path)?;
    // The new name, too, must outlive a power cut. Where a folder cannot be opened, its file system has its own way.
    match fs::File::open(folder) {
        Ok(folder) => folder.sync_all(),
        Err(_) => Ok(()),
    }
}
