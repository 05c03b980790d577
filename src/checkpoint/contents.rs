//! The layers and the dense tensors of one checkpoint, borrowed from a file or from whoever saves them.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::error::Fault;
use super::layer::{Data, Layer, Layout, Tensor, tensor_name};
use super::native::{self, Manifest};
use super::torch;

/// Tensors by name.
pub type Tensors<'a> = BTreeMap<String, TensorView<'a>>;
/// The free text of a safetensors file.
pub type Metadata = BTreeMap<String, String>;

/// All that a checkpoint holds.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The layout that the layers come in.
    pub layout: Layout,
    /// The ternary layers, by name.
    pub layers: Vec<Layer<'a>>,
    /// The tensors that belong to no layer.
    pub dense: Tensors<'a>,
    /// The dtypes of those dense tensors that safetensors has no name for, which are stored as bytes.
    pub dtypes: BTreeMap<String, String>,
}

impl<'a> Contents<'a> {
    /// Sorts the tensors of a file into layers and others, and checks dtypes and shapes; `group_size` is for files without one.
    pub fn of_file(metadata: &Metadata, tensors: Tensors<'a>, group_size: Option<usize>) -> Result<Self, Fault> {
        match metadata.get(native::METADATA) {
            Some(text) => Self::of_manifest(Manifest::parse(text)?, tensors, group_size),
            None => {
                let mut dense = tensors;
                let layers = torch::take_layers(metadata, &mut dense, group_size)?;
                if layers.is_empty() {
                    let wanted = format!("hold ternary layers, as T_packed and its companions or with the metadata {:?}", native::METADATA);
                    return Err(Fault::new("a checkpoint", wanted, format!("{} other tensors", dense.len())));
                }
                Ok(Self { layout: Layout::Torch, layers, dense, dtypes: BTreeMap::new() })
            }
        }
    }

    /// As [`Contents::of_file`], of tensors in ternax's layout.
    pub fn of_manifest(manifest: Manifest, tensors: Tensors<'a>, group_size: Option<usize>) -> Result<Self, Fault> {
        let mut dense = tensors;
        let layers = native::take_layers(&manifest, &mut dense, group_size)?;
        if let Some(name) = manifest.dtypes.keys().find(|&name| !dense.contains_key(name)) {
            return Err(Fault::tensor(name, "be in the file, since the metadata gives its dtype", "no such tensor"));
        }
        Ok(Self { layout: Layout::Ternax, layers, dense, dtypes: manifest.dtypes })
    }

    /// Refuses contents that no layer can have; reads all trits.
    pub fn check(&self) -> Result<(), Fault> {
        self.layers.iter().try_for_each(Layer::check)
    }

    /// The metadata and the tensors of a file in `layout` that holds these contents.
    pub fn tensors(&self, layout: Layout) -> Result<(Metadata, Vec<Tensor<'_>>), Fault> {
        let (metadata, mut tensors) = match layout {
            Layout::Ternax => (Manifest::of(self).metadata()?, self.layers.iter().flat_map(native::tensors).collect()),
            Layout::Torch => {
                if let Some((name, dtype)) = self.dtypes.first_key_value() {
                    return Err(Fault::tensor(name, "have a dtype that safetensors knows, to be saved for torch", dtype));
                }
                let layers: Result<Vec<_>, _> = self.layers.iter().map(torch::tensors).collect();
                (torch::metadata(&self.layers), layers?.concat())
            }
        };
        tensors.extend(self.dense.iter().map(|(name, view)| Tensor {
            name: name.clone(),
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: Data::Bytes(view.data().into()),
        }));
        let mut names = BTreeSet::new();
        match tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
            None => Ok((metadata, tensors)),
            Some(tensor) => Err(Fault::tensor(&tensor.name, "be one tensor", "two of this name")),
        }
    }
}

/// The tensors of one layer, taken out of a file's one by one.
pub struct Parts<'m, 'a> {
    name: &'m str,
    tensors: &'m mut Tensors<'a>,
}

impl<'m, 'a> Parts<'m, 'a> {
    /// The tensors of layer `name`.
    pub fn new(name: &'m str, tensors: &'m mut Tensors<'a>) -> Self {
        Self { name, tensors }
    }

    /// The name of tensor `part`.
    pub fn name(&self, part: &str) -> String {
        tensor_name(self.name, part)
    }

    /// The shape of tensor `part`, which stays.
    pub fn shape(&self, part: &str) -> Result<&[usize], Fault> {
        self.tensors.get(&self.name(part)).map(TensorView::shape).ok_or_else(|| self.missing(part))
    }

    /// Takes tensor `part`, which must have this dtype and shape.
    pub fn take(&mut self, part: &str, dtype: Dtype, shape: &[usize]) -> Result<&'a [u8], Fault> {
        let (_, data) = self.take_if(part, shape, &format!("{dtype}"), |found| found == dtype)?.ok_or_else(|| self.missing(part))?;
        Ok(data)
    }

    /// Takes tensor `part`, if it is there, which must have this shape and a dtype that `accepts` does.
    pub fn take_if(
        &mut self,
        part: &str,
        shape: &[usize],
        wanted: &str,
        accepts: impl Fn(Dtype) -> bool,
    ) -> Result<Option<(Dtype, &'a [u8])>, Fault> {
        let name = self.name(part);
        match self.tensors.remove(&name) {
            None => Ok(None),
            Some(view) if accepts(view.dtype()) && view.shape() == shape => Ok(Some((view.dtype(), view.data()))),
            Some(view) => Err(Fault::tensor(&name, format!("be {wanted} {shape:?}"), format!("{} {:?}", view.dtype(), view.shape()))),
        }
    }

    /// Refuses tensors that stand among the layer's own and are none of them.
    pub fn finish(self, parts: &[&str]) -> Result<(), Fault> {
        let prefix = self.name("");
        let extra = self.tensors.keys().find(|name| name.strip_prefix(&prefix).is_some_and(|part| !part.contains('.')));
        match extra {
            None => Ok(()),
            Some(extra) => {
                let wanted = format!("not stand among the tensors of layer {:?}, which are {}", self.name, parts.join(", "));
                Err(Fault::tensor(extra, wanted, "an extra tensor"))
            }
        }
    }

    /// The fault of a layer without tensor `part`.
    pub fn missing(&self, part: &str) -> Fault {
        Fault::tensor(&self.name(part), format!("be in the file, for layer {:?}", self.name), "no such tensor")
    }
}
