//! Checkpoints: the bytes are the reference's, layouts convert without loss, and no damaged file passes or ends the process.

mod checkpoint_files;
mod common;

use std::fs;
use std::path::Path;

use checkpoint_files::{LayerFile, Piece, json_file, metadata_of, opened, safetensors, ternax_file, torch_file};
use common::{Random, SHAPES};
use safetensors::SafeTensors;
use ternax::checkpoint::{File, Layout, flat, save};
use ternax::trits::{GroupLayout, pack_row};

/// The flat pack in the words of SPEC 1 to 3: the whole matrix in one run, digit 0 behind it.
fn flat_oracle(trits: &[i8]) -> Vec<u8> {
    let digit = |trit: Option<&i8>| trit.map_or(0, |trit| (trit + 1) as u8);
    let byte = |five: &[i8]| (0..5).map(|place| 3_u8.pow(place as u32) * digit(five.get(place))).sum();
    trits.chunks(5).map(byte).collect()
}

fn grouped_oracle(trits: &[i8], layout: GroupLayout) -> Vec<u8> {
    let row = |row: &[i8]| {
        let mut packed = vec![0; layout.row_bytes()];
        pack_row(row, layout, &mut packed);
        packed
    };
    trits.chunks(layout.in_dim()).flat_map(row).collect()
}

#[test]
fn flat_and_grouped_bytes_are_inverse_over_all_shapes() {
    let small = (1..=23).flat_map(|in_dim| (0..=4).flat_map(move |out| [1, 2, 3, 4, 5, 7, 10, 32].map(|group| (out, in_dim, group))));
    let table = SHAPES.iter().map(|shape| (shape.out_dim, shape.in_dim, shape.group_size));
    let mut random = Random::new(1);
    for (out, in_dim, group_size) in small.chain(table) {
        let layout = GroupLayout::new(in_dim, group_size).unwrap();
        let trits: Vec<i8> = (0..out * in_dim).map(|_| random.integer(-1, 1) as i8).collect();
        let (packed, grouped) = (flat_oracle(&trits), grouped_oracle(&trits, layout));
        assert_eq!(flat::to_grouped(&packed, out, layout), grouped, "[{out}, {in_dim}] in groups of {group_size}");
        assert_eq!(flat::from_grouped(&grouped, layout), packed, "[{out}, {in_dim}] in groups of {group_size}");
        assert_eq!(flat::flat_bytes(trits.len()), packed.len());
    }
}

#[test]
fn the_examples_of_the_specification_convert_to_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (torch, ternax, back) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
    // [[-1, 0, 1], [1, 0, -1]] -> [156, 0] with pad 4 (SPEC 3).
    let layer = LayerFile { flat: vec![156, 0], corr: vec![-(1 << 40), 7], step: 1 << 40, ..LayerFile::new(2, 3, 3) };
    fs::write(&torch, torch_file(&[("", &layer)], &[("group_size", "3")])).unwrap();
    convert(&torch, &ternax, Layout::Ternax);
    convert(&ternax, &back, Layout::Torch);

    let bytes = fs::read(&ternax).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    // Digits 0 1 2 and 2 1 0, each followed by two 1 that fill the group.
    assert_eq!(file.tensor("trits").unwrap().data(), [3 + 2 * 9 + 27 + 81, 2 + 3 + 27 + 81]);
    assert_eq!(file.tensor("trits").unwrap().shape(), [2, 1, 1]);
    assert_eq!(file.tensor("corr").unwrap().data(), [(-(1_i64 << 40)).to_le_bytes(), 7_i64.to_le_bytes()].concat());
    assert_eq!(file.tensor("step").unwrap().shape(), [0; 0]);

    let bytes = fs::read(&back).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, piece) in layer.torch("") {
        let found = file.tensor(&name).unwrap();
        assert_eq!((found.dtype(), found.shape(), found.data()), (piece.dtype, &piece.shape[..], &piece.data[..]), "{name}");
    }
    assert_eq!(file.len(), layer.torch("").len());
    assert_eq!(metadata_of(&bytes)["group_size"], "3");
}

fn convert(from: &Path, to: &Path, layout: Layout) {
    let file = File::open(from).unwrap();
    save(to, &file.contents(None).unwrap(), layout).unwrap();
}

#[test]
fn files_of_many_layers_come_back_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let [torch, ternax, back, again] = ["a", "b", "c", "d"].map(|name| folder.path().join(name));
    let mut random = Random::new(2);
    let layers: Vec<(String, LayerFile)> = SHAPES
        .iter()
        .filter(|shape| shape.in_dim * shape.out_dim < 10_000)
        .enumerate()
        .map(|(index, shape)| (format!("model.{index}"), LayerFile::random(shape.out_dim, shape.in_dim, shape.group_size, &mut random)))
        .collect();
    let named: Vec<(&str, &LayerFile)> = layers.iter().map(|(name, layer)| (&name[..], layer)).collect();
    let sizes: Vec<(String, String)> =
        layers.iter().map(|(name, layer)| (format!("{name}.group_size"), layer.group_size.to_string())).collect();
    let sizes: Vec<(&str, &str)> = sizes.iter().map(|(name, size)| (&name[..], &size[..])).collect();
    let mut pieces: Vec<(String, Piece)> = named.iter().flat_map(|(name, layer)| layer.torch(name)).collect();
    pieces.push(("embed.weight".into(), Piece::new(safetensors::Dtype::BF16, &[2, 2], vec![1, 2, 3, 4, 5, 6, 7, 8])));
    fs::write(&torch, safetensors(&pieces, &sizes)).unwrap();
    convert(&torch, &ternax, Layout::Ternax);
    convert(&ternax, &back, Layout::Torch);
    convert(&back, &again, Layout::Ternax);

    let bytes = fs::read(&back).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), pieces.len());
    for (name, piece) in &pieces {
        let found = file.tensor(name).unwrap();
        assert_eq!((found.dtype(), found.shape(), found.data()), (piece.dtype, &piece.shape[..], &piece.data[..]), "{name}");
    }
    assert_eq!(fs::read(&ternax).unwrap(), fs::read(&again).unwrap(), "the same state gives the same file");
}

#[test]
fn a_hostile_header_is_refused_with_what_is_wrong() {
    let json = |text: &str, data: usize| json_file(text, &vec![0; data]);
    let tensor =
        |dtype: &str, shape: &str, start: u64, end: u64| format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#);
    let one = |dtype: &str, shape: &str, start: u64, end: u64| format!(r#"{{"a":{}}}"#, tensor(dtype, shape, start, end));
    let two = |first: String, second: String| format!(r#"{{"a":{first},"b":{second}}}"#);
    // Together with the header's length, the last of these ends beyond 2^64.
    let wrapping = {
        let mut start = 0;
        let sizes = [[(1_u64 << 61) - 1; 8].as_slice(), &[7]].concat();
        let tensors = sizes.iter().enumerate().map(|(index, size)| {
            start += size;
            format!("\"{index}\":{}", tensor("U8", &format!("[{size}]"), start - size, start))
        });
        format!("{{{}}}", tensors.collect::<Vec<_>>().join(","))
    };
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "an empty file"),
        ("no length", vec![1, 2, 3], "a file of 3 bytes"),
        ("a length beyond all limits", [&[0xFF; 8][..], &[0; 8]].concat(), "at most 100000000 bytes long"),
        ("a length beyond the file", [&1000_u64.to_le_bytes()[..], b"{}"].concat(), "was it cut?"),
        ("no JSON", json("]", 0), "JSON object of tensors"),
        ("not UTF-8", json_file("", &[]).into_iter().chain([1, 0, 0, 0, 0, 0, 0, 0, 0xFF]).skip(8).collect(), "JSON object of tensors"),
        ("no object", json("[1]", 0), "an object of tensors"),
        ("deep JSON", json(&"[".repeat(100_000), 0), "JSON object of tensors"),
        ("a tensor twice", json(&format!(r#"{{"a":{0},"a":{0}}}"#, tensor("U8", "[1]", 0, 1)), 1), "\\\"a\\\" stands there twice"),
        ("metadata twice", json(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "stands there twice"),
        ("metadata of numbers", json(r#"{"__metadata__":{"group_size":3}}"#, 0), "expected a string"),
        ("an unknown dtype", json(&one("I65", "[1]", 0, 1), 1), "I65"),
        ("a negative dimension", json(&one("U8", "[-1]", 0, 1), 1), "invalid value"),
        ("a fractional dimension", json(&one("U8", "[1.5]", 0, 1), 1), "tensor \\\"a\\\""),
        ("a size that overflows", json(&one("I64", "[4294967296, 4294967296]", 0, 0), 0), "below 2^64 bits"),
        ("half a byte", json(&one("F4", "[3]", 0, 2), 2), "whole bytes"),
        ("offsets that wrap around", json(&wrapping, 8), "must end within the 8 bytes after the header"),
        ("an end before the start", json(&one("U8", "[1]", 1, 0), 1), "start at byte 0"),
        ("a gap", json(&two(tensor("U8", "[1]", 0, 1), tensor("U8", "[1]", 2, 3)), 3), "tensor \"b\" must start at byte 1"),
        ("an overlap", json(&two(tensor("U8", "[2]", 0, 2), tensor("U8", "[2]", 1, 3)), 3), "tensor \"b\" must start at byte 2"),
        ("another size than the shape's", json(&one("I32", "[2]", 0, 4), 4), "tensor \"a\" must take the 8 bytes of I32 [2]"),
        ("data cut off", json(&one("U8", "[9]", 0, 9), 5), "was the file cut?"),
        ("data too long", json(&one("U8", "[1]", 0, 1), 5), "end at byte 1"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.safetensors");
    for (what, bytes, wanted) in cases {
        fs::write(&path, bytes).unwrap();
        let error = File::open(&path).err().unwrap_or_else(|| panic!("{what}: taken")).to_string();
        let shown = wanted.replace("\\\"", "\"");
        assert!(error.contains(&shown) && error.contains("hostile.safetensors"), "{what}: {error}");
    }
}

/// A change of a sound file's tensors.
type Damage = fn(&mut Vec<(String, Piece)>);

fn piece<'a>(pieces: &'a mut [(String, Piece)], name: &str) -> &'a mut Piece {
    &mut pieces.iter_mut().find(|(found, _)| found == name).unwrap().1
}

#[test]
fn a_layer_that_is_not_as_it_must_be_is_refused_by_name() {
    let torch: &[(&str, Damage, &str)] = &[
        ("missing", |p| p.retain(|(name, _)| name != "a.E"), "tensor \"a.E\" must be in the file"),
        ("missing shape", |p| p.retain(|(name, _)| name != "a._T_shape"), "tensor \"a._T_shape\" must be in the file"),
        ("extra", |p| p.push(("a.weight".into(), Piece::i64s(&[1], &[0]))), "tensor \"a.weight\" must not stand among"),
        ("wrong dtype", |p| piece(p, "a.E").dtype = safetensors::Dtype::U8, "tensor \"a.E\" must be I8 [6], found U8 [6]"),
        ("wrong shape", |p| piece(p, "a.step_counter").shape = vec![], "\"a.step_counter\" must be I64 [1], found I64 []"),
        ("negative dim", |p| *piece(p, "a._T_shape") = Piece::i64s(&[2], &[-3, 7]), "must hold [out, in]"),
        ("no inputs", |p| *piece(p, "a._T_shape") = Piece::i64s(&[2], &[3, 0]), "must hold [out, in]"),
        ("overflow", |p| *piece(p, "a._T_shape") = Piece::i64s(&[2], &[i64::MAX, i64::MAX]), "sizes below 2^63"),
        ("other rows", |p| *piece(p, "a._T_shape") = Piece::i64s(&[2], &[2, 7]), "\"a.E\" must have 2 x ceil(7 / group_size 4)"),
        ("wrong pad", |p| *piece(p, "a._T_pad") = Piece::i64s(&[], &[3]), "\"a._T_pad\" must be 4 for 3 x 7 trits, found 3"),
        ("wrong pad digits", |p| piece(p, "a.T_packed").data[4] = 121, "must have digit 0 at the 4 places"),
        ("no packed byte", |p| piece(p, "a.T_packed").data[1] = 243, "at most 242 each, found 243 at byte 1"),
        ("negative step", |p| *piece(p, "a.step_counter") = Piece::i64s(&[1], &[-1]), "must not be negative"),
        ("float bias", |p| p.push(("a.bias".into(), Piece::new(safetensors::Dtype::F32, &[3], vec![0; 12]))), "must be I32 [3]"),
    ];
    let ternax: &[(&str, Damage, &str)] = &[
        ("missing", |p| p.retain(|(name, _)| name != "a.trits"), "tensor \"a.trits\" must be in the file"),
        ("extra", |p| p.push(("a.score".into(), Piece::i64s(&[1], &[0]))), "tensor \"a.score\" must not stand among"),
        ("a bias nobody told of", |p| p.push(("a.bias".into(), Piece::i64s(&[3], &[0; 3]))), "\"a.bias\" must not stand among"),
        ("too few dimensions", |p| piece(p, "a.trits").shape = vec![6, 1], "[..., out, groups, group_bytes], found [6, 1]"),
        ("limbs", |p| piece(p, "a.corr").dtype = safetensors::Dtype::I32, "\"a.corr\" must be I64 [3, 2]"),
        ("padding", |p| piece(p, "a.trits").data[1] = 0, "must hold trit 0 after the 3 trits of each group, found other trits in group 1"),
        ("no packed byte", |p| piece(p, "a.trits").data[0] = 255, "at most 242 each, found 255 at byte 0"),
        ("negative step", |p| *piece(p, "a.step") = Piece::i64s(&[], &[i64::MIN]), "must not be negative"),
    ];
    let layer = LayerFile::random(3, 7, 4, &mut Random::new(3));
    let refuse = |what: &str, file: Vec<u8>, wanted: &str| {
        let error = opened(&file, None).err().unwrap_or_else(|| panic!("{what}: taken"));
        assert!(error.contains(wanted), "{what}: {error}");
    };
    for (what, damage, wanted) in torch {
        let mut pieces = layer.torch("a");
        damage(&mut pieces);
        for (_, piece) in &mut pieces {
            piece.fit();
        }
        refuse(what, safetensors(&pieces, &[("group_size", "4")]), wanted);
    }
    for (what, damage, wanted) in ternax {
        let (mut pieces, manifest) = layer.ternax("a");
        damage(&mut pieces);
        for (_, piece) in &mut pieces {
            piece.fit();
        }
        refuse(what, safetensors(&pieces, &[("ternax", &manifest)]), wanted);
    }
}

#[test]
fn a_manifest_that_this_version_does_not_know_is_refused() {
    let (pieces, manifest) = LayerFile::random(3, 7, 4, &mut Random::new(4)).ternax("a");
    let refused = |from: &str, to: &str, wanted: &str| {
        let changed = manifest.replace(from, to);
        assert_ne!(changed, manifest);
        let error = opened(&safetensors(&pieces, &[("ternax", &changed)]), None).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    };
    refused(r#""version":1"#, r#""version":2"#, "a newer ternax wrote it");
    refused(r#""gain""#, r#""rule":"integral","gain""#, "unknown field `rule`");
    refused(r#""group_size":4"#, r#""group_size":0"#, "group_size of at least 1");
    refused(r#""group_size":4"#, r#""group_size":3"#, "must be U8 [3, 3, 1]");
    refused(r#""in_dim":7"#, r#""in_dim":18446744073709551615"#, "sizes below 2^63");
    refused(r#""gain":4.0"#, r#""gain":1e99"#, "finite gain");
    refused(r#""bias":false"#, r#""bias":true"#, "tensor \"a.bias\" must be in the file");
    refused(r#""a":"#, r#""b":"#, "tensor \"b.trits\" must be in the file");
    refused("{", "", "manifest of version 1");
}

#[test]
fn a_file_without_ternary_layers_is_no_checkpoint() {
    let pieces = [("weight".to_string(), Piece::i64s(&[1], &[0]))];
    let error = opened(&safetensors(&pieces, &[]), None).unwrap_err();
    assert!(error.contains("must hold ternary layers") && error.contains("1 other tensors"), "{error}");
    let manifest = r#"{"version":1,"layers":{}}"#;
    opened(&safetensors(&pieces, &[("ternax", manifest)]), None).expect("a tree without layers can be saved");
}

#[test]
fn the_group_size_comes_from_the_file_or_else_from_the_caller_and_both_must_agree() {
    let layer = LayerFile::random(3, 7, 4, &mut Random::new(5));
    let without = torch_file(&[("a", &layer)], &[]);
    let with = |name: &str, size: &str| torch_file(&[("a", &layer)], &[(name, size)]);
    let refused = |file: &[u8], given: Option<usize>, wanted: &str| {
        let error = opened(file, given).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    };
    assert_eq!(opened(&without, Some(4)), opened(&with("group_size", "4"), None));
    assert_eq!(opened(&without, Some(4)), opened(&with("a.group_size", "4"), Some(4)));
    refused(
        &without,
        None,
        "group_size must be given for layer \"a\", since the file does not hold it, found none (any group_size from 4 to 6 fits)",
    );
    refused(&without, Some(7), "found 6 (any group_size from 4 to 6 fits)");
    refused(&with("group_size", "4"), Some(5), "group_size must be 4, as the file says");
    refused(&with("group_size", "0"), None, "metadata \"group_size\" must be a whole number of at least 1, found \"0\"");
    refused(&with("a.group_size", "x"), Some(4), "metadata \"a.group_size\"");
    let single = torch_file(&[("a", &LayerFile::random(1, 1, 32, &mut Random::new(6)))], &[]);
    refused(&single, None, "any group_size of at least 1 fits");
    refused(&ternax_file("a", &layer), Some(5), "group_size must be 4");
}

#[test]
fn a_file_that_was_cut_anywhere_is_refused() {
    let layer = LayerFile::random(2, 7, 1, &mut Random::new(7));
    for file in [torch_file(&[("a", &layer)], &[("group_size", "1")]), ternax_file("a", &layer)] {
        opened(&file, None).expect("the whole file is sound");
        for length in 0..file.len() {
            assert!(opened(&file[..length], None).is_err(), "{length} of {} bytes", file.len());
        }
        assert!(opened(&[&file[..], &[0]].concat(), None).is_err(), "one byte too many");
    }
}

#[test]
fn a_flipped_bit_never_panics_and_in_the_structure_never_passes() {
    let layer = LayerFile::random(2, 7, 1, &mut Random::new(8));
    for file in [torch_file(&[("a", &layer)], &[("group_size", "1")]), ternax_file("a", &layer)] {
        let sound = opened(&file, None).unwrap();
        let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        for index in 0..file.len() {
            for bit in [0, 2, 5, 7] {
                let mut damaged = file.clone();
                damaged[index] ^= 1 << bit;
                match opened(&damaged, None) {
                    Err(_) => {}
                    // The gain is a number like any other, and spaces are as good as tabs.
                    Ok(read) if index < header => assert_eq!(read, sound, "bit {bit} of header byte {index}"),
                    Ok(read) => assert_eq!(read.shapes, sound.shapes, "bit {bit} of byte {index}"),
                }
            }
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let mut random = Random::new(9);
    let layer = LayerFile::random(5, 33, 8, &mut random);
    let files = [torch_file(&[("a", &layer), ("", &layer)], &[("group_size", "8")]), ternax_file("a", &layer)];
    for round in 0..4000 {
        let mut file = files[round % 2].clone();
        for _ in 0..random.integer(1, 8) {
            let index = random.integer(0, file.len() as i64 - 1) as usize;
            match random.integer(0, 3) {
                0 => file[index] = random.next_u64() as u8,
                1 => file[index] = *b"0123456789[]{},:\" -e.".get(random.integer(0, 20) as usize).unwrap(),
                2 => drop(file.remove(index)),
                _ => file.insert(index, random.next_u64() as u8),
            }
        }
        // Any answer will do, but there must be one.
        let _ = opened(&file, None);
    }
}

#[test]
fn what_the_reference_has_no_place_for_is_not_written_for_torch() {
    let layer = LayerFile::random(3, 7, 4, &mut Random::new(10));
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in"), folder.path().join("out"));
    let refused = |change: &dyn Fn(&mut Vec<(String, Piece)>, &mut String), wanted: &str| {
        let (mut pieces, mut manifest) = layer.ternax("a");
        change(&mut pieces, &mut manifest);
        fs::write(&input, safetensors(&pieces, &[("ternax", &manifest)])).unwrap();
        fs::write(&output, "the old file").unwrap();
        let file = File::open(&input).unwrap();
        let error = save(&output, &file.contents(None).unwrap(), Layout::Torch).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert_eq!(fs::read(&output).unwrap(), b"the old file");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file stays");
    };
    refused(
        &|pieces, _| pieces.iter_mut().for_each(|(_, piece)| piece.shape.insert(0, 1)),
        "layer \"a\", to be saved for torch, must be one matrix, found a stack [1]",
    );
    refused(&|_, manifest| *manifest = manifest.replace("4.0", "2.0"), "the reference's gain 4, found 2");
    refused(
        &|pieces, manifest| {
            *manifest = manifest.replace("\"bias\":false", "\"bias\":true");
            pieces.push(("a.bias".into(), Piece::new(safetensors::Dtype::F32, &[3], vec![0; 12])));
        },
        "an int32 bias, or none, found F32",
    );
    refused(
        &|pieces, manifest| {
            *manifest = manifest.replace("\"dtypes\":{}", "\"dtypes\":{\"k\":\"int4\"}");
            pieces.push(("k".into(), Piece::new(safetensors::Dtype::U8, &[1, 1], vec![0])));
        },
        "tensor \"k\" must have a dtype that safetensors knows",
    );
}

#[test]
fn a_checkpoint_may_replace_the_file_that_it_is_read_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let layer = LayerFile::random(40, 50, 7, &mut Random::new(11));
    let file = torch_file(&[("a", &layer)], &[("group_size", "7")]);
    fs::write(&path, &file).unwrap();
    convert(&path, &path, Layout::Ternax);
    convert(&path, &path, Layout::Torch);
    assert_eq!(opened(&fs::read(&path).unwrap(), None), opened(&file, None));
}

#[cfg(unix)]
#[test]
fn a_checkpoint_keeps_the_mode_of_the_file_that_it_replaces() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, ternax_file("a", &LayerFile::random(1, 5, 5, &mut Random::new(12)))).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    convert(&path, &path, Layout::Ternax);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn missing_files_and_folders_are_errors_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| File::open(path).err().unwrap();
    assert_eq!(error(&folder.path().join("none")).system_number(), Some(2));
    assert!(error(folder.path()).to_string().contains("must be a regular file"));
    let path = folder.path().join("model");
    fs::write(&path, ternax_file("a", &LayerFile::random(1, 5, 5, &mut Random::new(13)))).unwrap();
    let file = File::open(&path).unwrap();
    let error = save(folder.path().join("none/model"), &file.contents(None).unwrap(), Layout::Ternax).unwrap_err();
    assert_eq!(error.system_number(), Some(2), "{error}");
}
