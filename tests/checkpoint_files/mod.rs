//! Checkpoint files built by hand, without the code under test.

#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors};
use ternax::checkpoint::File;
use ternax::checkpoint::layer::Layout;

use super::common::Random;

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Piece {
    pub fn new(dtype: Dtype, shape: &[usize], data: Vec<u8>) -> Self {
        Self { dtype, shape: shape.into(), data }
    }

    pub fn i64s(shape: &[usize], values: &[i64]) -> Self {
        Self::new(Dtype::I64, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Gives the data the length of the shape, so that what is wrong is the tensor and not the file.
    pub fn fit(&mut self) {
        self.data.resize(self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8, 0);
    }
}

/// The bytes of a safetensors file.
pub fn safetensors(pieces: &[(String, Piece)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let metadata: HashMap<&str, &str> = metadata.iter().copied().collect();
    header.insert("__metadata__".into(), serde_json::json!(metadata));
    let mut data = Vec::new();
    for (name, piece) in pieces {
        let start = data.len();
        data.extend(&piece.data);
        let info = serde_json::json!({ "dtype": piece.dtype, "shape": piece.shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), info);
    }
    json_file(&serde_json::Value::Object(header).to_string(), &data)
}

/// A file of this header and these data.
pub fn json_file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

pub fn metadata_of(file: &[u8]) -> HashMap<String, String> {
    SafeTensors::read_metadata(file).unwrap().1.metadata().clone().unwrap()
}

/// A layer, from which files of either layout are made.
#[derive(Clone, Debug)]
pub struct LayerFile {
    pub out_dim: usize,
    pub in_dim: usize,
    pub group_size: usize,
    /// The reference's pack.
    pub flat: Vec<u8>,
    /// ternax's pack.
    pub grouped: Vec<u8>,
    pub exponent: Vec<u8>,
    pub corr: Vec<i64>,
    pub step: i64,
}

impl LayerFile {
    /// A layer of trits -1 (SPEC 1: digit 0) that was never trained.
    pub fn new(out_dim: usize, in_dim: usize, group_size: usize) -> Self {
        Self::of_trits(&vec![-1; out_dim * in_dim], out_dim, in_dim, group_size)
    }

    /// A layer of random state that honest updates can reach.
    pub fn random(out_dim: usize, in_dim: usize, group_size: usize, random: &mut Random) -> Self {
        let trits: Vec<i8> = (0..out_dim * in_dim).map(|_| random.integer(-1, 1) as i8).collect();
        let mut layer = Self::of_trits(&trits, out_dim, in_dim, group_size);
        layer.step = random.integer(1, 1 << 40);
        let limit = layer.step * group_size as i64;
        layer.corr.iter_mut().for_each(|corr| *corr = random.integer(-limit, limit));
        layer.exponent.iter_mut().for_each(|exponent| *exponent = random.next_u64() as u8);
        layer
    }

    pub fn of_trits(trits: &[i8], out_dim: usize, in_dim: usize, group_size: usize) -> Self {
        let byte = |five: &[i8], padding: u8| {
            let digit = |place: usize| five.get(place).map_or(padding, |trit| (trit + 1) as u8);
            (0..5).map(|place| 3_u8.pow(place as u32) * digit(place)).sum::<u8>()
        };
        let group_bytes = group_size.min(in_dim).div_ceil(5);
        let group = |group: &[i8]| {
            (0..group_bytes).map(|at| byte(group.get(at * 5..).map_or(&[], |rest| &rest[..rest.len().min(5)]), 1)).collect::<Vec<u8>>()
        };
        let grouped: Vec<u8> = trits.chunks(in_dim).flat_map(|row| row.chunks(group_size).flat_map(group)).collect();
        let groups = out_dim * in_dim.div_ceil(group_size);
        let flat = trits.chunks(5).map(|five| byte(five, 0)).collect();
        Self { out_dim, in_dim, group_size, flat, grouped, exponent: vec![0xFC; groups], corr: vec![0; groups], step: 0 }
    }

    /// Its tensors as the reference's `state_dict` has them.
    pub fn torch(&self, name: &str) -> Vec<(String, Piece)> {
        let groups = self.corr.len();
        let padding = (5 - self.out_dim * self.in_dim % 5) % 5;
        let prefix = if name.is_empty() { String::new() } else { format!("{name}.") };
        [
            ("T_packed", Piece::new(Dtype::U8, &[self.flat.len()], self.flat.clone())),
            ("_T_shape", Piece::i64s(&[2], &[self.out_dim as i64, self.in_dim as i64])),
            ("_T_pad", Piece::i64s(&[], &[padding as i64])),
            ("E", Piece::new(Dtype::I8, &[groups], self.exponent.clone())),
            ("corr_accum", Piece::i64s(&[groups], &self.corr)),
            ("step_counter", Piece::i64s(&[1], &[self.step])),
        ]
        .map(|(part, piece)| (format!("{prefix}{part}"), piece))
        .into()
    }

    /// Its tensors in ternax's layout, and the manifest.
    pub fn ternax(&self, name: &str) -> (Vec<(String, Piece)>, String) {
        let groups = self.in_dim.div_ceil(self.group_size);
        let bytes = self.group_size.min(self.in_dim).div_ceil(5);
        let pieces = [
            ("trits", Piece::new(Dtype::U8, &[self.out_dim, groups, bytes], self.grouped.clone())),
            ("exponent", Piece::new(Dtype::I8, &[self.out_dim, groups], self.exponent.clone())),
            ("corr", Piece::i64s(&[self.out_dim, groups], &self.corr)),
            ("step", Piece::i64s(&[], &[self.step])),
        ];
        let (in_dim, group_size) = (self.in_dim, self.group_size);
        let layer = format!(r#"{{"in_dim":{in_dim},"group_size":{group_size},"gain":4.0,"bias":false}}"#);
        let manifest = format!(r#"{{"version":1,"layers":{{"{name}":{layer}}},"dtypes":{{}}}}"#);
        (pieces.map(|(part, piece)| (format!("{name}.{part}"), piece)).into(), manifest)
    }
}

/// A file of these layers as the reference's `state_dict`.
pub fn torch_file(layers: &[(&str, &LayerFile)], metadata: &[(&str, &str)]) -> Vec<u8> {
    let pieces: Vec<_> = layers.iter().flat_map(|(name, layer)| layer.torch(name)).collect();
    safetensors(&pieces, metadata)
}

/// A file of one layer in ternax's layout.
pub fn ternax_file(name: &str, layer: &LayerFile) -> Vec<u8> {
    let (pieces, manifest) = layer.ternax(name);
    safetensors(&pieces, &[("ternax", &manifest)])
}

/// What was read from a file, in ternax's layout.
#[derive(Debug, PartialEq)]
pub struct Read {
    pub shapes: Vec<(String, Dtype, Vec<usize>)>,
    pub data: Vec<Vec<u8>>,
}

/// Reads a whole file, or says why not.
pub fn opened(bytes: &[u8], group_size: Option<usize>) -> Result<Read, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let path = file.path();
    let read = || {
        let file = File::open(path)?;
        let contents = file.contents(group_size)?;
        let of_file = |fault: ternax::checkpoint::error::Fault| fault.of(path);
        contents.check().map_err(of_file)?;
        let (_, tensors) = contents.tensors(Layout::Ternax).map_err(of_file)?;
        let shapes = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype, tensor.shape.clone())).collect();
        Ok(Read { shapes, data: tensors.iter().map(|tensor| tensor.data.bytes().into_owned()).collect() })
    };
    read().map_err(|error: ternax::checkpoint::Error| error.to_string())
}
