//! ternax's own layout: group-aligned trits, and a manifest in the metadata that says which tensors are layers.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::contents::{Contents, Metadata, Parts, Tensors};
use super::error::Fault;
use super::layer::{Data, Layer, LayerShape, Tensor, Trits, tensor_name};

/// The name of the manifest in the metadata.
pub const METADATA: &str = "ternax";
/// The version of the layout; another one is refused.
const VERSION: u32 = 1;
/// The tensors of a layer.
const PARTS: [&str; 5] = ["trits", "exponent", "corr", "step", "bias"];

/// What the tensors alone do not say.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the layout.
    version: u32,
    /// The constants of the layers, by name.
    layers: BTreeMap<String, Constants>,
    /// The dtypes of dense tensors that safetensors has no name for.
    #[serde(default)]
    pub dtypes: BTreeMap<String, String>,
}

/// The constants of a layer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constants {
    in_dim: usize,
    group_size: usize,
    gain: f32,
    bias: bool,
}

impl Manifest {
    /// Reads a manifest of this version.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let fault = |found: String| Fault::new(format!("metadata {METADATA:?}"), format!("be a manifest of version {VERSION}"), found);
        let manifest: Self = serde_json::from_str(text).map_err(|error| fault(error.to_string()))?;
        match manifest.version {
            VERSION => Ok(manifest),
            other => Err(fault(format!("version {other}: a newer ternax wrote it"))),
        }
    }

    /// The manifest of a file that holds `contents`.
    pub fn of(contents: &Contents<'_>) -> Self {
        let constants = |layer: &Layer<'_>| Constants {
            in_dim: layer.shape.layout.in_dim(),
            group_size: layer.shape.layout.group_size(),
            gain: layer.shape.gain,
            bias: layer.bias.is_some(),
        };
        let layers = contents.layers.iter().map(|layer| (layer.name.clone(), constants(layer))).collect();
        Self { version: VERSION, layers, dtypes: contents.dtypes.clone() }
    }

    /// The metadata of a file with this manifest.
    pub fn metadata(&self) -> Result<Metadata, Fault> {
        let text = serde_json::to_string(self).map_err(|error| Fault::new("the manifest", "be written as JSON", error))?;
        Ok(BTreeMap::from([(METADATA.into(), text)]))
    }
}

/// Takes the manifest's layers out of `tensors`; a `group_size` from the caller must agree with theirs.
pub fn take_layers<'a>(manifest: &Manifest, tensors: &mut Tensors<'a>, group_size: Option<usize>) -> Result<Vec<Layer<'a>>, Fault> {
    manifest.layers.iter().map(|(name, constants)| take_layer(name, constants, tensors, group_size)).collect()
}

fn take_layer<'a>(name: &str, constants: &Constants, tensors: &mut Tensors<'a>, group_size: Option<usize>) -> Result<Layer<'a>, Fault> {
    if let Some(given) = group_size.filter(|&given| given != constants.group_size) {
        let wanted = format!("be {}, as the file says for layer {name:?}", constants.group_size);
        return Err(Fault::new("group_size", wanted, given));
    }
    let mut parts = Parts::new(name, tensors);
    let found = parts.shape("trits")?.to_vec();
    let [ensemble @ .., out_dim, _, _] = &found[..] else {
        return Err(Fault::tensor(&parts.name("trits"), "have shape [..., out, groups, group_bytes]", format!("{found:?}")));
    };
    let shape = LayerShape::new(name, ensemble, *out_dim, constants.in_dim, constants.group_size, constants.gain)?;
    let per_group = shape.with(&[*out_dim, shape.layout.groups()]);
    let trits = Trits::Grouped(parts.take("trits", Dtype::U8, &[&per_group[..], &[shape.layout.group_bytes()]].concat())?);
    let exponent = parts.take("exponent", Dtype::I8, &per_group)?;
    let corr = parts.take("corr", Dtype::I64, &per_group)?;
    let step = parts.take("step", Dtype::I64, ensemble)?;
    let is_bias = |dtype| matches!(dtype, Dtype::I32 | Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    let bias = if constants.bias {
        let bias = parts.take_if("bias", &shape.with(&[*out_dim]), "I32, F16, BF16, F32 or F64", is_bias)?;
        Some(bias.ok_or_else(|| parts.missing("bias"))?)
    } else {
        None
    };
    parts.finish(&PARTS)?;
    Ok(Layer { name: name.into(), shape, trits, exponent, corr, step, bias })
}

/// The tensors of `layer` in this layout.
pub fn tensors<'a>(layer: &Layer<'a>) -> Vec<Tensor<'a>> {
    let shape = &layer.shape;
    let per_group = shape.with(&[shape.out_dim, shape.layout.groups()]);
    let trits = match layer.trits {
        Trits::Grouped(bytes) => Data::Bytes(bytes.into()),
        Trits::Flat(bytes) => Data::Grouped(bytes, shape.layout, shape.rows()),
    };
    let tensor = |part, dtype, shape, data| Tensor { name: tensor_name(&layer.name, part), dtype, shape, data };
    let mut tensors = vec![
        tensor("trits", Dtype::U8, [&per_group[..], &[shape.layout.group_bytes()]].concat(), trits),
        tensor("exponent", Dtype::I8, per_group.clone(), Data::Bytes(layer.exponent.into())),
        tensor("corr", Dtype::I64, per_group, Data::Bytes(layer.corr.into())),
        tensor("step", Dtype::I64, shape.ensemble.clone(), Data::Bytes(layer.step.into())),
    ];
    tensors.extend(layer.bias.map(|(dtype, bytes)| tensor("bias", dtype, shape.with(&[shape.out_dim]), Data::Bytes(bytes.into()))));
    tensors
}
