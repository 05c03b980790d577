//! The layout of the PyTorch reference's `state_dict` (SPEC, "state_dict"): flat pack, and no group size but in the metadata.

use std::collections::BTreeSet;

use safetensors::Dtype;

use super::contents::{Metadata, Parts, Tensors};
use super::error::Fault;
use super::flat;
use super::layer::{Data, Layer, LayerShape, Tensor, Trits, tensor_name};

/// The gain of the reference.
const GAIN: f32 = 4.0;
/// The tensors of a layer; the first ones are found in no other module, and so tell a layer.
const PARTS: [&str; 7] = ["T_packed", "_T_shape", "_T_pad", "corr_accum", "step_counter", "E", "bias"];
/// How many of [`PARTS`] tell a layer.
const TELLING: usize = 5;
/// The name of the group size in the metadata, for all layers or, behind its name, for one.
const GROUP_SIZE: &str = "group_size";

/// Takes the layers out of `tensors`. The group size stands in `metadata`, or else is `group_size`.
pub fn take_layers<'a>(metadata: &Metadata, tensors: &mut Tensors<'a>, group_size: Option<usize>) -> Result<Vec<Layer<'a>>, Fault> {
    let names: BTreeSet<String> = tensors.keys().filter_map(|name| layer_of(name)).map(String::from).collect();
    names.iter().map(|name| take_layer(name, metadata, tensors, group_size)).collect()
}

/// The layer that a tensor of this name tells.
fn layer_of(name: &str) -> Option<&str> {
    let (layer, part) = name.rsplit_once('.').unwrap_or(("", name));
    PARTS[..TELLING].contains(&part).then_some(layer)
}

fn take_layer<'a>(name: &str, metadata: &Metadata, tensors: &mut Tensors<'a>, group_size: Option<usize>) -> Result<Layer<'a>, Fault> {
    let mut parts = Parts::new(name, tensors);
    let dims = parts.take("_T_shape", Dtype::I64, &[2])?;
    let dims: Vec<i64> = dims.as_chunks::<8>().0.iter().map(|&dim| i64::from_le_bytes(dim)).collect();
    let [Ok(out_dim), Ok(in_dim @ 1..)] = [usize::try_from(dims[0]), usize::try_from(dims[1])] else {
        return Err(Fault::tensor(&parts.name("_T_shape"), "hold [out, in] with out >= 0 and in >= 1", format!("{dims:?}")));
    };
    let &[groups] = parts.shape("E")? else {
        return Err(Fault::tensor(&parts.name("E"), "have one dimension", format!("{:?}", parts.shape("E")?)));
    };
    let group_size = group_size_of(name, metadata, group_size, [out_dim, in_dim, groups])?;
    let shape = LayerShape::new(name, &[], out_dim, in_dim, group_size, GAIN)?;
    let weights = shape.weights();
    if groups != out_dim * shape.layout.groups() {
        let wanted = format!("have {out_dim} x ceil({in_dim} / group_size {group_size}) = {} elements", out_dim * shape.layout.groups());
        let fitting = fitting_group_sizes([out_dim, in_dim, groups]);
        return Err(Fault::tensor(&parts.name("E"), wanted, format!("{groups} ({fitting})")));
    }
    let padding = parts.take("_T_pad", Dtype::I64, &[])?;
    if padding != (flat::flat_padding(weights) as i64).to_le_bytes() {
        let wanted = format!("be {} for {out_dim} x {in_dim} trits", flat::flat_padding(weights));
        let found = padding.first_chunk::<8>().map_or(0, |&bytes| i64::from_le_bytes(bytes));
        return Err(Fault::tensor(&parts.name("_T_pad"), wanted, found));
    }
    let trits = Trits::Flat(parts.take("T_packed", Dtype::U8, &[flat::flat_bytes(weights)])?);
    let exponent = parts.take("E", Dtype::I8, &[groups])?;
    let corr = parts.take("corr_accum", Dtype::I64, &[groups])?;
    let step = parts.take("step_counter", Dtype::I64, &[1])?;
    let bias = parts.take_if("bias", &[out_dim], "I32", |dtype| dtype == Dtype::I32)?;
    parts.finish(&PARTS)?;
    Ok(Layer { name: name.into(), shape, trits, exponent, corr, step, bias })
}

/// The group size of layer `name`, of `[out, in, groups]`: from the metadata, else the one `given`; both must agree.
fn group_size_of(name: &str, metadata: &Metadata, given: Option<usize>, dims: [usize; 3]) -> Result<usize, Fault> {
    let key = tensor_name(name, GROUP_SIZE);
    let stored = metadata.get_key_value(&key).or_else(|| metadata.get_key_value(GROUP_SIZE));
    let stored = match stored {
        None => None,
        Some((key, text)) => match text.parse::<usize>() {
            Ok(size @ 1..) => Some(size),
            _ => return Err(Fault::new(format!("metadata {key:?}"), "be a whole number of at least 1", format!("{text:?}"))),
        },
    };
    match (stored, given) {
        (Some(stored), Some(given)) if stored != given => {
            Err(Fault::new(GROUP_SIZE, format!("be {stored}, as the file says for layer {name:?}"), given))
        }
        (Some(size), _) | (None, Some(size)) => Ok(size),
        (None, None) => {
            let wanted = format!("be given for layer {name:?}, since the file does not hold it");
            Err(Fault::new(GROUP_SIZE, wanted, format!("none ({})", fitting_group_sizes(dims))))
        }
    }
}

/// Which group sizes cut rows of a layer `[out, in, groups]` into as many groups as it has.
fn fitting_group_sizes([out_dim, in_dim, groups]: [usize; 3]) -> String {
    if out_dim == 0 || groups == 0 || groups % out_dim != 0 {
        return "no group size is known to fit".into();
    }
    let per_row = groups / out_dim;
    let smallest = in_dim.div_ceil(per_row);
    match per_row {
        1 => format!("any group_size of at least {smallest} fits"),
        _ => match in_dim.div_ceil(per_row - 1) - 1 {
            largest if largest == smallest => format!("group_size {smallest} fits"),
            largest if largest > smallest => format!("any group_size from {smallest} to {largest} fits"),
            _ => "no group_size fits".into(),
        },
    }
}

/// The metadata of a file of `layers`.
pub fn metadata(layers: &[Layer<'_>]) -> Metadata {
    let size = |layer: &Layer<'_>| layer.shape.layout.group_size().to_string();
    let mut metadata = Metadata::from([("format".into(), "pt".into())]);
    match layers {
        [first, rest @ ..] if rest.iter().all(|layer| size(layer) == size(first)) => {
            metadata.insert(GROUP_SIZE.into(), size(first));
        }
        _ => metadata.extend(layers.iter().map(|layer| (tensor_name(&layer.name, GROUP_SIZE), size(layer)))),
    }
    metadata
}

/// The tensors of `layer` in this layout, refused where the reference has nothing of the kind.
pub fn tensors<'a>(layer: &Layer<'a>) -> Result<Vec<Tensor<'a>>, Fault> {
    let shape = &layer.shape;
    let fault = |wanted, found: String| Err(Fault::new(format!("layer {:?}, to be saved for torch,", layer.name), wanted, found));
    if !shape.ensemble.is_empty() {
        return fault("be one matrix", format!("a stack {:?}: save its layers one by one", shape.ensemble));
    }
    if shape.gain != GAIN {
        return fault("have the reference's gain 4", shape.gain.to_string());
    }
    if let Some((dtype, _)) = layer.bias.filter(|(dtype, _)| *dtype != Dtype::I32) {
        return fault("have an int32 bias, or none", dtype.to_string());
    }
    let (out_dim, weights) = (shape.out_dim, shape.weights());
    let groups = out_dim * shape.layout.groups();
    let trits = match layer.trits {
        Trits::Flat(bytes) => Data::Bytes(bytes.into()),
        Trits::Grouped(bytes) => Data::Flat(bytes, shape.layout, out_dim),
    };
    let dims = [out_dim, shape.layout.in_dim()].iter().flat_map(|&dim| (dim as i64).to_le_bytes()).collect::<Vec<_>>();
    let padding = (flat::flat_padding(weights) as i64).to_le_bytes().to_vec();
    let tensor = |part, dtype, shape: &[usize], data| Tensor { name: tensor_name(&layer.name, part), dtype, shape: shape.to_vec(), data };
    let mut tensors = vec![
        tensor("T_packed", Dtype::U8, &[flat::flat_bytes(weights)], trits),
        tensor("_T_shape", Dtype::I64, &[2], Data::Bytes(dims.into())),
        tensor("_T_pad", Dtype::I64, &[], Data::Bytes(padding.into())),
        tensor("E", Dtype::I8, &[groups], Data::Bytes(layer.exponent.into())),
        tensor("corr_accum", Dtype::I64, &[groups], Data::Bytes(layer.corr.into())),
        tensor("step_counter", Dtype::I64, &[1], Data::Bytes(layer.step.into())),
    ];
    tensors.extend(layer.bias.map(|(dtype, bytes)| tensor("bias", dtype, &[out_dim], Data::Bytes(bytes.into()))));
    Ok(tensors)
}
