//! The safetensors header: 8 bytes of length, then JSON from names to dtype, shape and place, then the tensors without gaps.
//!
//! The crate's own reader takes a name that stands twice and does not say which tensor is at fault, nor what it wanted; files
//! may come from anywhere, so the header is checked here, over the crate's types.

use std::collections::BTreeMap;
use std::fmt;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::error::Fault;

/// Bytes of the length in front of the header.
const LENGTH_BYTES: usize = 8;
/// The largest header that safetensors allows.
const MAX_HEADER: usize = 100_000_000;
/// The header's one name that is no tensor.
const METADATA: &str = "__metadata__";

/// The names, dtypes, shapes and places of a file's tensors, and its metadata.
#[derive(Debug, Default)]
pub struct Header {
    /// The free text of the file.
    pub metadata: BTreeMap<String, String>,
    /// The tensors by name; offsets count from the header's end.
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Parses and checks the header of a whole file; also returns where the tensors start.
    pub fn parse(file: &[u8]) -> Result<(Self, usize), Fault> {
        let fault = |wanted: &str, found: String| Err(Fault::new("the safetensors header", wanted, found));
        let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
            return fault("be at least 8 bytes long", format!("a file of {} bytes", file.len()));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER as u64 {
            return fault(
                &format!("be at most {MAX_HEADER} bytes long"),
                format!("a length of {length} bytes: is this a safetensors file?"),
            );
        }
        let Some(json) = rest.get(..length as usize) else {
            return fault(&format!("be {length} bytes long, as its length says"), format!("a file of {} bytes: was it cut?", file.len()));
        };
        let header: Self = match serde_json::from_slice(json) {
            Ok(header) => header,
            Err(error) => return fault("be a JSON object of tensors", error.to_string()),
        };
        header.check_places((rest.len() - json.len()) as u64)?;
        Ok((header, LENGTH_BYTES + json.len()))
    }

    /// Refuses tensors whose size is not that of their shape, that overlap, leave gaps, or do not fill `available` bytes.
    fn check_places(&self, available: u64) -> Result<(), Fault> {
        let mut by_place: Vec<_> = self.tensors.iter().collect();
        by_place.sort_by_key(|(_, info)| info.data_offsets);
        let mut filled = 0;
        for (name, TensorInfo { dtype, shape, data_offsets: (start, end) }) in by_place {
            let found = format!("bytes {start} to {end}");
            let bits = shape.iter().try_fold(dtype.bitsize(), |bits, &dim| bits.checked_mul(dim));
            let Some(bytes) = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8) else {
                return Err(Fault::tensor(name, "have a size in whole bytes below 2^64 bits", format!("{dtype} {shape:?}")));
            };
            if *start != filled {
                return Err(Fault::tensor(name, format!("start at byte {filled}, where the one before it ends"), found));
            }
            if end.checked_sub(*start) != Some(bytes) {
                return Err(Fault::tensor(name, format!("take the {bytes} bytes of {dtype} {shape:?}"), found));
            }
            if *end as u64 > available {
                return Err(Fault::tensor(
                    name,
                    format!("end within the {available} bytes after the header"),
                    format!("{found}: was the file cut?"),
                ));
            }
            filled = *end;
        }
        match filled as u64 == available {
            true => Ok(()),
            false => Err(Fault::new(
                "the file",
                format!("end at byte {filled} after its header, with its last tensor"),
                format!("{available} bytes"),
            )),
        }
    }

    /// The header's bytes, its length in front, filled up with spaces so that the tensors start at a multiple of 8.
    pub fn encode(&self) -> Result<Vec<u8>, Fault> {
        let mut json = serde_json::to_vec(self).map_err(|error| Fault::new("the safetensors header", "be written as JSON", error))?;
        json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
        if json.len() > MAX_HEADER {
            return Err(Fault::new(
                "the safetensors header",
                format!("be at most {MAX_HEADER} bytes long"),
                format!("{} bytes", json.len()),
            ));
        }
        Ok([&(json.len() as u64).to_le_bytes()[..], &json].concat())
    }
}

impl Serialize for Header {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA, &self.metadata)?;
        }
        for (name, info) in &self.tensors {
            map.serialize_entry(name, info)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads a header and refuses names that stand twice: which of the two counts would be up to the reader.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            let first = if name == METADATA {
                header.metadata = map.next_value()?;
                !std::mem::replace(&mut has_metadata, true)
            } else {
                let info = map.next_value().map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                header.tensors.insert(name.clone(), info).is_none()
            };
            if !first {
                return Err(A::Error::custom(format!("{name:?} stands there twice")));
            }
        }
        Ok(header)
    }
}
