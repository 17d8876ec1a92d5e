//! Damaged and hostile weight files: each gives a clear error, none panics or allocates what it claims.

use crate::common::{Member, Pickler, golden, safetensors_bytes, torch_bytes, zip_bytes};
use otter_checkpoint::Weights;
use proptest::prelude::*;
use std::fs;

fn open(bytes: &[u8]) -> Result<Weights, String> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("weights");
    fs::write(&path, bytes).unwrap();
    Weights::open(&path).map_err(|error| error.to_string())
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).err().unwrap_or_default()
}

fn floats(count: u16) -> Vec<u8> {
    (0..count).flat_map(|number| f32::from(number).to_le_bytes()).collect()
}

fn one_tensor(storage: (&str, &str, i64), offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    Pickler::new().raw(b"}(").text("x").tensor(storage, offset, shape, strides, false).raw(b"u").end()
}

#[test]
fn safetensors_claims_are_checked() {
    let good = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_eq!(open(&safetensors_bytes(good, &floats(2))).unwrap().read_f32("a").unwrap(), [0.0, 1.0]);
    let file = safetensors_bytes(good, &floats(2));
    assert!(refusal(&file[..file.len() - 1]).contains("outside the 7 bytes"));
    assert!(refusal(&file[..20]).contains("truncated"));
    assert!(refusal(&file[..5]).contains("truncated"));
    assert!(refusal(b"").contains("empty"));
    let mut overlong = file.clone();
    overlong[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&overlong).contains("18446744073709551615"));
    let cases = [
        (r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, "shape [3]"),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#, "outside"),
        (r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#, "outside"),
        (r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#, "shape"),
        (r#"{"a":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}"#, "F8_E4M3"),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
            "occurs twice",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            "overlap",
        ),
        (r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#, "header"),
        ("[]", "header"),
        ("{", "header"),
    ];
    for (header, expected) in cases {
        let text = refusal(&safetensors_bytes(header, &floats(2)));
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn torch_views_of_every_kind_are_read() {
    let storage = floats(6);
    let read = |offset, shape: &[i64], strides: &[i64]| {
        let pickle = one_tensor(("FloatStorage", "0", 6), offset, shape, strides);
        open(&torch_bytes(&pickle, &storage)).unwrap().read_f32("x").unwrap()
    };
    assert_eq!(read(0, &[2, 3], &[3, 1]), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert_eq!(read(0, &[3, 2], &[1, 3]), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert_eq!(read(4, &[2], &[1]), [4.0, 5.0]);
    assert_eq!(read(5, &[], &[]), [5.0]);
    assert_eq!(read(6, &[0, 4], &[4, 1]), [0.0; 0]);
    assert_eq!(read(1, &[2, 2], &[0, 1]), [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn torch_claims_are_checked() {
    let storage = floats(6);
    let refuse = |pickle: &[u8]| refusal(&torch_bytes(pickle, &storage));
    let float = ("FloatStorage", "0", 6);
    assert!(refuse(&one_tensor(float, 1, &[2, 3], &[3, 1])).contains("reach beyond"));
    assert!(refuse(&one_tensor(float, 0, &[2, 3], &[4, 1])).contains("reach beyond"));
    assert!(refuse(&one_tensor(float, 0, &[2], &[i64::MAX])).contains("reach beyond"));
    assert!(refuse(&one_tensor(float, -1, &[2], &[1])).contains("-1 where a size"));
    assert!(refuse(&one_tensor(float, 0, &[1 << 40], &[0])).contains("does not fit its storage"));
    assert!(refuse(&one_tensor(float, 0, &[1 << 40, 1 << 40], &[0, 0])).contains("does not fit its storage"));
    assert!(refuse(&one_tensor(float, 0, &[2, 3], &[1])).contains("sizes than strides"));
    assert!(refuse(&one_tensor(("FloatStorage", "0", 7), 0, &[6], &[1])).contains("claims 7 elements"));
    assert!(refuse(&one_tensor(("HalfStorage", "0", 6), 0, &[6], &[1])).contains("24 bytes"));
    assert!(
        refuse(&one_tensor(("FloatStorage", "1", 6), 0, &[6], &[1])).contains("missing from the archive")
    );
    assert!(refuse(&one_tensor(("FloatStorage", "../data.pkl", 6), 0, &[6], &[1])).contains("not a number"));
    assert!(refuse(&one_tensor(("QInt8Storage", "0", 6), 0, &[6], &[1])).contains("torch.QInt8Storage"));
    let long = "n".repeat(5000);
    let named = Pickler::new().raw(b"}(").text(&long).tensor(float, 0, &[6], &[1], false).raw(b"u").end();
    assert!(refuse(&named).contains("5000 bytes"));
    let twice = Pickler::new()
        .raw(b"}(")
        .text("x")
        .tensor(float, 0, &[6], &[1], false)
        .text("x")
        .tensor(float, 0, &[6], &[1], false)
        .raw(b"u")
        .end();
    assert!(refuse(&twice).contains("twice"));
    let code = Pickler::new().raw(b"cposix\nsystem\n").text("touch /tmp/owned").raw(b"\x85R").end();
    assert!(refuse(&code).contains("posix.system"));
    assert!(refuse(&Pickler::new().text("x").end()).contains("no dict of tensors"));
    // A dict that holds itself.
    let cyclic = Pickler::new().raw(b"}q\0").text("model").raw(b"h\0s").end();
    assert!(open(&torch_bytes(&cyclic, &storage)).is_ok_and(|weights| weights.is_empty()));
}

#[test]
fn archives_are_checked() {
    let pickle = one_tensor(("FloatStorage", "0", 6), 0, &[6], &[1]);
    let storage = floats(6);
    let with = |change: &dyn Fn(&mut Member)| {
        let mut member = Member::stored("a/data/0", &storage);
        change(&mut member);
        refusal(&zip_bytes(&[Member::stored("a/data.pkl", &pickle), member]))
    };
    assert_eq!(with(&|_| ()), "");
    assert!(with(&|member| member.method = 8).contains("compressed"));
    assert!(with(&|member| member.flags = 1).contains("encrypted"));
    assert!(with(&|member| member.claimed_size = Some(1 << 30)).contains("outside the file"));
    assert!(with(&|member| member.local_offset = Some(1 << 30)).contains("outside the file"));
    assert!(with(&|member| member.local_offset = Some(0)).contains("outside the file"));
    assert!(with(&|member| member.name = "../evil".to_owned()).contains("outside the archive"));
    assert!(with(&|member| member.name = "/etc/passwd".to_owned()).contains("outside the archive"));
    assert!(with(&|member| member.name = "a/data.pkl".to_owned()).contains("twice"));
    assert!(with(&|member| member.name = "b/data.pkl".to_owned()).contains("exactly one"));
    let whole = torch_bytes(&pickle, &storage);
    for length in [1, 4, whole.len() / 2, whole.len() - 1] {
        assert_ne!(refusal(&whole[..length]), "", "{length}");
    }
    let big_endian = [
        Member::stored("a/data.pkl", &pickle),
        Member::stored("a/data/0", &storage),
        Member::stored("a/byteorder", b"big"),
    ];
    assert!(refusal(&zip_bytes(&big_endian)).contains("big-endian"));
}

#[test]
fn trainer_checkpoints_and_the_legacy_form_are_read() {
    let float = ("FloatStorage", "0", 6);
    let nested = Pickler::new()
        .raw(b"}(")
        .text("epoch")
        .int(3)
        .text("model_state_dict")
        .raw(b"ccollections\nOrderedDict\n)R(")
        .text("x")
        .raw(b"ctorch._utils\n_rebuild_parameter\n(")
        .tensor(float, 0, &[6], &[1], false)
        .raw(b"\x88ccollections\nOrderedDict\n)RtR")
        .raw(b"u}")
        .text("_metadata")
        .raw(b"Nsbu")
        .end();
    let weights = open(&torch_bytes(&nested, &floats(6))).unwrap();
    assert_eq!(weights.read_f32("x").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    assert!(weights.notes()[0].contains("`epoch`"));

    let mut legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
    legacy.extend(Pickler::new().raw(b"M\xe9\x03").end());
    legacy.extend(Pickler::new().raw(b"}").text("little_endian").raw(b"\x88s").end());
    let body =
        Pickler::new().raw(b"}(").text("x").tensor(("FloatStorage", "77", 6), 0, &[3, 2], &[1, 3], true);
    legacy.extend(body.raw(b"u").end());
    legacy.extend(Pickler::new().raw(b"](").text("77").raw(b"e").end());
    legacy.extend(6u64.to_le_bytes());
    legacy.extend(floats(6));
    assert_eq!(open(&legacy).unwrap().read_f32("x").unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    assert!(refusal(&legacy[..legacy.len() - 1]).contains("truncated"));
    let end = legacy.len() - 32;
    legacy[end..end + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(refusal(&legacy).contains("truncated"));
}

/// Parts of storages, texts of Python 2, the first version of the rebuild function.
#[test]
fn the_oldest_files_are_read() {
    let file = |start: i64, length: i64, claimed: i64, offset: i64| {
        let mut legacy = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec();
        legacy.extend(Pickler::new().raw(b"M\xe9\x03").end());
        legacy.extend(Pickler::new().raw(b"}").end());
        let object = Pickler::new()
            .raw(b"ccollections\nOrderedDict\n](](U\x01xctorch._utils\n_rebuild_tensor\n((U\x07storage")
            .raw(b"ctorch\nFloatStorage\nU\x0277U\x03cpu")
            .int(claimed)
            .raw(b"(U\x0278")
            .int(start)
            .int(length)
            .raw(b"ttQ")
            .int(offset)
            .ints(&[2])
            .ints(&[1])
            .raw(b"tRee\x85R");
        legacy.extend(object.end());
        legacy.extend(Pickler::new().raw(b"](U\x0277e").end());
        legacy.extend(6u64.to_le_bytes());
        legacy.extend(floats(6));
        legacy
    };
    assert_eq!(open(&file(2, 4, 6, 1)).unwrap().read_f32("x").unwrap(), [3.0, 4.0]);
    assert!(refusal(&file(2, 4, 6, 3)).contains("reach beyond the 4 elements"));
    assert!(refusal(&file(2, 5, 6, 0)).contains("2..7 are outside"));
    assert!(refusal(&file(i64::MAX, i64::MAX, 6, 0)).contains("outside"));
    assert!(refusal(&file(2, 1, 6, 0)).contains("does not fit"));
    let mut tar = vec![0; 600];
    tar[..8].copy_from_slice(b"sys_info");
    tar[257..262].copy_from_slice(b"ustar");
    assert!(refusal(&tar).contains("tar archive"));
    // One list made into ever more dicts.
    let mut flood = b"\x80\x02](".to_vec();
    flood.extend(b"NN\x86".repeat(100_000));
    flood.extend(b"eq\x00(");
    flood.extend(b"ccollections\nOrderedDict\nh\x00\x85R".repeat(100));
    assert!(refusal(&torch_bytes(&flood, &[])).contains("more than"));
}

/// The length of a safetensors header may begin with the bytes of another form.
#[test]
fn forms_are_not_mixed_up() {
    for length in [0x0280, 0x4b50, 0x0380] {
        let mut header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_owned();
        header.extend(std::iter::repeat_n(' ', length - header.len()));
        let file = safetensors_bytes(&header, &floats(2));
        assert_eq!(open(&file).unwrap().read_f32("a").unwrap(), [0.0, 1.0], "{length:#x}");
    }
}

/// What the trainer of OpenFlamingo wrote: the model is there, the rest is said.
#[test]
fn optimizer_state_is_named_and_left_out() {
    let weights = Weights::open(&golden("openflamingo/v2-mpt/checkpoint_0.pt")).unwrap();
    assert!(weights.names().all(|name| !name.starts_with("module.")) && weights.len() > 10);
    assert!(weights.unwrapped().unwrap().contains("`module.`"));
    let notes = weights.notes().join("\n");
    assert!(notes.contains("`epoch` of the trainer checkpoint is 0"), "{notes}");
    // Saved before the first step: there are no moments yet.
    assert!(
        notes.contains("`optimizer_state_dict` of the trainer checkpoint is not model weights"),
        "{notes}"
    );
    assert!(
        notes.contains("`lr_scheduler_state_dict` of the trainer checkpoint is not model weights"),
        "{notes}"
    );
    let plain = Weights::open(&golden("openflamingo/v2-mpt/checkpoint.pt")).unwrap();
    assert!(plain.notes().is_empty() && plain.unwrapped().is_none());
    for name in plain.names() {
        assert_eq!(plain.read_f32(name).unwrap(), weights.read_f32(name).unwrap());
    }
    let moments = Pickler::new()
        .raw(b"}(")
        .text("state")
        .raw(b"}(K\x00}(")
        .text("exp_avg")
        .tensor(("FloatStorage", "0", 6), 0, &[6], &[1], false)
        .text("exp_avg_sq")
        .tensor(("FloatStorage", "0", 6), 0, &[2], &[1], false)
        .raw(b"uu");
    let moments =
        moments.text("model").raw(b"}").text("x").tensor(("FloatStorage", "0", 6), 0, &[6], &[1], false);
    let trained = open(&torch_bytes(&moments.raw(b"su").end(), &floats(6))).unwrap();
    assert_eq!(trained.names().collect::<Vec<_>>(), ["x"]);
    assert_eq!(
        trained.notes(),
        ["`state` of the trainer checkpoint holds 2 tensors (32 bytes), which are not model weights"]
    );
    let v1 = Weights::open(&golden("openflamingo/v1-llama/final_weights.pt")).unwrap();
    assert!(v1.notes().is_empty() && v1.len() > 10);
}

#[test]
fn indices_cannot_leave_the_folder() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    fs::create_dir(&folder).unwrap();
    let file = safetensors_bytes(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &floats(2));
    fs::write(place.path().join("outside.safetensors"), &file).unwrap();
    fs::write(folder.join("one.safetensors"), &file).unwrap();
    fs::write(folder.join("two.safetensors"), &file).unwrap();
    let check = |map: &str| {
        let index = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{map}}}"#);
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        Weights::open(&folder).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(check(r#"{"a":"one.safetensors"}"#), "");
    let absolute = place.path().join("outside.safetensors");
    for shard in ["../outside.safetensors", absolute.to_str().unwrap(), "", "..", "sub/x"] {
        assert!(check(&format!(r#"{{"a":"{shard}"}}"#)).contains("same folder"), "{shard}");
    }
    assert!(check(r#"{"a":"absent.safetensors"}"#).contains("absent.safetensors"));
    assert!(check(r#"{"a":"one.safetensors","b":"one.safetensors"}"#).contains("\n  b"));
    assert!(check(r#"{"a":"one.safetensors","b":"two.safetensors"}"#).contains("is also in"));
    assert!(check(r#"{"a":"one.safetensors","a":"one.safetensors"}"#).contains("occurs twice"));
    assert!(check("[]").contains("index.json"));
    assert!(check("{}").contains("names no tensor"));
}

#[test]
fn the_absence_of_weights_is_said() {
    let place = tempfile::tempdir().unwrap();
    assert!(Weights::open(place.path()).unwrap_err().to_string().contains("no weights found"));
    assert!(Weights::open(&place.path().join("absent")).unwrap_err().to_string().contains("absent"));
}

/// Reads everything a file offers. What is read can never be more than eight times the file, whatever it says.
fn read_all(bytes: &[u8]) {
    if let Ok(weights) = open(bytes) {
        for name in weights.names() {
            let entry = weights.get(name).unwrap();
            assert!(entry.elements() <= bytes.len());
            let _ = weights.read_f32(name);
        }
    }
}

/// Small valid files to mutate.
fn seeds() -> Vec<Vec<u8>> {
    let pickle = one_tensor(("FloatStorage", "0", 6), 0, &[3, 2], &[1, 3]);
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}"#;
    vec![torch_bytes(&pickle, &floats(6)), safetensors_bytes(header, &floats(2))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_bytes_never_panic(start in 0usize..4, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let magic: [&[u8]; 4] = [b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"];
        read_all(&[magic[start], &bytes].concat());
    }

    #[test]
    fn random_pickles_never_panic(opcodes in prop::collection::vec(prop::sample::select(
        b"}])(qrhjXJKMGNtcQRbsuae.\x80\x8a\x88\x89\x85\x86\x87\0\x01\x02".to_vec()), 0..200)) {
        read_all(&torch_bytes(&[b"\x80\x02", &opcodes[..]].concat(), &floats(2)));
    }

    #[test]
    fn mutated_files_never_panic(seed in 0usize..2, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = seeds()[seed].clone();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_all(&bytes);
    }

    #[test]
    fn truncated_files_are_errors(seed in 0usize..2, length in any::<prop::sample::Index>()) {
        let bytes = &seeds()[seed];
        let length = length.index(bytes.len());
        prop_assert!(open(&bytes[..length]).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn mutated_golden_pickles_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = fs::read(golden("video/checkpoint/pytorch_model-00003-of-00003.bin")).unwrap();
        // The pickle at the beginning and the directory at the end are what is parsed.
        let (head, tail) = (8_000.min(bytes.len()), bytes.len().saturating_sub(8_000));
        for (place, value) in edits {
            let place = place.index(head * 2);
            let place = if place < head { place } else { tail + (place - head) };
            bytes[place] = value;
        }
        read_all(&bytes);
    }
}
