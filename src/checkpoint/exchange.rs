//! What Python hands over and receives: a JSON description of tensors in ternax's layout, and one buffer for each.

use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use super::contents::{Contents, Tensors};
use super::error::{Fault, Result};
use super::file::{File, save};
use super::layer::Layout;
use super::native::Manifest;

/// The name, dtype and shape of one tensor.
#[derive(Serialize, Deserialize)]
struct Described {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// The tensors of a checkpoint, in the order of their buffers, and what they mean.
#[derive(Serialize, Deserialize)]
struct Description {
    manifest: Manifest,
    tensors: Vec<Described>,
}

/// Checks the whole contents of a file and describes them.
pub fn describe(file: &File, group_size: Option<usize>) -> Result<String> {
    let of_file = |fault: Fault| fault.of(file.path());
    let contents = file.contents(group_size)?;
    contents.check().map_err(of_file)?;
    let (_, tensors) = contents.tensors(Layout::Ternax).map_err(of_file)?;
    let tensors = tensors.into_iter().map(|tensor| Described { name: tensor.name, dtype: tensor.dtype, shape: tensor.shape }).collect();
    let description = Description { manifest: Manifest::of(&contents), tensors };
    serde_json::to_string(&description).map_err(|error| of_file(Fault::new("the description", "be written as JSON", error)))
}

/// Copies the tensors that [`describe`] named into `buffers`, in its order.
pub fn read(file: &File, group_size: Option<usize>, buffers: &mut [&mut [u8]]) -> Result<()> {
    let of_file = |fault: Fault| fault.of(file.path());
    let contents = file.contents(group_size)?;
    let (_, tensors) = contents.tensors(Layout::Ternax).map_err(of_file)?;
    let sizes = |lengths: Vec<usize>| format!("{lengths:?} bytes");
    let wanted: Vec<usize> = tensors.iter().map(|tensor| tensor.data.len()).collect();
    let found: Vec<usize> = buffers.iter().map(|buffer| buffer.len()).collect();
    if wanted != found {
        return Err(of_file(Fault::new("the buffers", format!("have {}", sizes(wanted)), sizes(found))));
    }
    for (tensor, buffer) in tensors.iter().zip(buffers) {
        buffer.copy_from_slice(&tensor.data.bytes());
    }
    Ok(())
}

/// Saves described tensors to `path` in `layout`.
pub fn write(path: &Path, layout: Layout, description: &[u8], buffers: &[&[u8]]) -> Result<()> {
    contents(description, buffers).map_err(|fault| fault.of(path)).and_then(|contents| save(path, &contents, layout))
}

fn contents<'a>(description: &[u8], buffers: &[&'a [u8]]) -> std::result::Result<Contents<'a>, Fault> {
    let description: Description =
        serde_json::from_slice(description).map_err(|error| Fault::new("the description", "be JSON of tensors", error))?;
    if description.tensors.len() != buffers.len() {
        return Err(Fault::new("the buffers", format!("be {}, one per tensor", description.tensors.len()), buffers.len()));
    }
    let mut tensors = Tensors::new();
    for (Described { name, dtype, shape }, buffer) in description.tensors.into_iter().zip(buffers) {
        let view = TensorView::new(dtype, shape, buffer).map_err(|error| Fault::tensor(&name, "fill its buffer", error))?;
        if tensors.insert(name.clone(), view).is_some() {
            return Err(Fault::tensor(&name, "be one tensor", "two of this name"));
        }
    }
    Contents::of_manifest(description.manifest, tensors, None)
}
