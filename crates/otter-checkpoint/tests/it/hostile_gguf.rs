//! Damaged and hostile GGUF files, shard indices and sentencepiece models: errors that say what is wrong, no panic, no
//! allocation of what is only claimed.

use crate::common::gguf::{Meta, Tensor, gguf_bytes, text};
use crate::common::golden;
use otter_checkpoint::{GgufFile, Weights, load_tokenizer};
use proptest::prelude::*;
use std::fs;

fn open(bytes: &[u8]) -> Result<Weights, String> {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    Weights::open(&path).map_err(|error| error.to_string())
}

fn refusal(bytes: &[u8]) -> String {
    open(bytes).err().unwrap_or_default()
}

fn otter(extra: &[(&'static str, Meta<'static>)], tensors: &[Tensor]) -> Vec<u8> {
    let mut metadata =
        vec![("general.architecture", Meta::Text("otter")), ("otter.format_version", Meta::U32(1))];
    for (key, value) in extra {
        let value = match value {
            Meta::U32(number) => Meta::U32(*number),
            Meta::Raw(kind, bytes) => Meta::Raw(*kind, bytes.clone()),
            Meta::Text(text) => Meta::Text(text),
            _ => Meta::Bool(true),
        };
        metadata.push((key, value));
    }
    gguf_bytes(3, &metadata, tensors)
}

fn vector(name: &str, values: &[f32]) -> Tensor {
    Tensor::f32(name, &[values.len()], values)
}

#[test]
fn claims_are_checked() {
    let good = otter(&[], &[vector("a", &[1.0, 2.0])]);
    assert_eq!(open(&good).unwrap().read_f32("a").unwrap(), [1.0, 2.0]);
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    assert!(changed(4, &1u32.to_le_bytes()).contains("GGUF version 1"));
    assert!(changed(4, &3u32.to_be_bytes()).contains("big-endian"));
    assert!(changed(4, &9u32.to_le_bytes()).contains("GGUF version 9"));
    assert!(changed(8, &u64::MAX.to_le_bytes()).contains("claims 18446744073709551615 tensors"));
    assert!(changed(16, &u64::MAX.to_le_bytes()).contains("metadata entries"));
    // The length of the first key, then of the first value.
    assert!(changed(24, &u64::MAX.to_le_bytes()).contains("truncated"));
    assert!(changed(24, &(1u64 << 40).to_le_bytes()).contains("truncated"));
    assert!(changed(56, &(1u64 << 40).to_le_bytes()).contains("general.architecture"));
    assert!(changed(52, &99u32.to_le_bytes()).contains("unknown type 99"));
    for length in [3, 10, 30, good.len() - 64, good.len() - 32] {
        assert!(refusal(&good[..length]).len() > 10, "{length}");
    }
}

#[test]
fn tensors_are_checked() {
    let shaped = |shape: &[u64], kind: u32, size: usize| {
        let mut tensor = Tensor::new("a", &[], kind, vec![0; size]);
        tensor.shape = shape.to_vec();
        refusal(&otter(&[], &[tensor]))
    };
    assert_eq!(shaped(&[2, 4], 0, 32), "");
    assert!(shaped(&[u64::MAX, 2], 0, 8).contains("overflows"));
    assert!(shaped(&[0, u64::MAX, u64::MAX], 0, 8).contains("overflows"));
    assert!(shaped(&[1 << 62], 0, 8).contains("overflows"));
    assert!(shaped(&[1 << 40], 0, 8).contains("outside the"));
    assert!(shaped(&[1, 1, 1, 1, 2], 0, 8).contains("5 axes"));
    assert!(shaped(&[2, 40], 8, 85).contains("whole blocks of 32"));
    assert!(shaped(&[], 8, 34).contains("whole blocks"));
    for (number, name) in
        [(16, "IQ2_XXS"), (20, "IQ4_NL"), (23, "IQ4_XS"), (35, "TQ2_0"), (39, "MXFP4"), (99, "type 99")]
    {
        let text = shaped(&[32], number, 34);
        assert!(text.contains(name) && text.contains("llama-quantize"), "{text}");
    }
    let at = |offset: u64| {
        let mut second = vector("b", &[3.0]);
        second.claimed_offset = Some(offset);
        refusal(&otter(&[], &[vector("a", &[1.0; 9]), second]))
    };
    assert_eq!(at(64), "");
    assert!(at(32).contains("overlap"));
    assert!(at(60).contains("no multiple of the alignment"));
    assert!(at(u64::MAX - 31).contains("outside the"));
    assert!(refusal(&otter(&[], &[vector("a", &[1.0]), vector("a", &[1.0])])).contains("occurs twice"));
    let long = "n".repeat(5000);
    assert!(refusal(&otter(&[], &[vector(&long, &[1.0])])).contains("5000 bytes"));
}

#[test]
fn metadata_is_checked() {
    let with = |key, value| refusal(&otter(&[(key, value)], &[vector("a", &[1.0])]));
    for alignment in [0, 3, 1 << 31] {
        assert!(with("general.alignment", Meta::U32(alignment)).contains("power of two"));
    }
    assert!(with("general.architecture", Meta::U32(1)).contains("occurs twice"));
    assert!(with("x", Meta::Raw(7, vec![2])).contains("the byte 2"));
    // A list of 2^60 items; lists within lists within lists; an unknown item type.
    let list = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    assert!(with("x", Meta::Raw(9, list(0, 1 << 60))).contains("1152921504606846976 items"));
    assert!(with("x", Meta::Raw(9, list(9, 1).repeat(50))).contains("nested deeper"));
    assert!(with("x", Meta::Raw(9, [list(77, 1), vec![0]].concat())).contains("unknown type 77"));
    let mut latin = Vec::new();
    text(&mut latin, "ab");
    latin[8] = 0xff;
    assert!(with("x", Meta::Raw(8, latin)).contains("not UTF-8"));
    let other = |metadata: &[(&str, Meta<'_>)], tensor: &str| {
        let shape = [3, 4];
        refusal(&gguf_bytes(3, metadata, &[Tensor::f32(tensor, &shape, &[0.0; 12])]))
    };
    assert!(other(&[], "a").contains("`general.architecture` is missing"));
    assert!(
        other(&[("general.architecture", Meta::Text("bert"))], "a")
            .contains("`bert`; supported are otter, llama")
    );
    let llama = |heads| {
        [("general.architecture", Meta::Text("llama")), ("llama.attention.head_count", Meta::U32(heads))]
    };
    assert!(other(&llama(2), "blk.0.ffn_gate_exps.weight").contains("no part of the architecture llama"));
    assert!(other(&llama(2), "blk.0.attn_q.weight").contains("halves of 2 heads"));
    assert!(other(&llama(0), "blk.0.attn_q.weight").contains("head_count` is 0"));
    for shape in [&[][..], &[0, 4]] {
        let tensor = Tensor::new("blk.0.attn_q.weight", shape, 0, vec![0; 4]);
        assert!(refusal(&gguf_bytes(3, &llama(2), &[tensor])).contains("0 rows"));
    }
    let later = [("general.architecture", Meta::Text("otter")), ("otter.format_version", Meta::U32(2))];
    assert!(other(&later, "a").contains("expected 1"));
}

#[test]
fn the_parts_of_an_otter_are_checked() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.gguf");
    let with = |extra: &[(&'static str, Meta<'static>)]| {
        fs::write(&path, otter(extra, &[])).unwrap();
        GgufFile::open(&path).unwrap()
    };
    assert!(with(&[]).config().unwrap_err().to_string().contains("`otter.config_json` is missing"));
    let broken = with(&[("otter.config_json", Meta::Text("{"))]);
    assert!(broken.config().unwrap_err().to_string().contains("not a configuration"));
    assert!(with(&[]).tokenizer().unwrap_err().to_string().contains("holds no tokenizer"));
    let broken = with(&[("otter.tokenizer_json", Meta::Text("{}"))]);
    assert!(broken.tokenizer().unwrap_err().to_string().contains("is not a tokenizer"));
    let tiny = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":null,"post_processor":null,"decoder":null,
        "model":{"type":"BPE","vocab":{"a":0},"merges":[]}}"#;
    let no_ids = with(&[("otter.tokenizer_json", Meta::Text(tiny))]);
    assert!(no_ids.tokenizer().unwrap_err().to_string().contains("`otter.pad_token_id` is missing"));
    let outside = with(&[("otter.tokenizer_json", Meta::Text(tiny)), ("otter.pad_token_id", Meta::U32(7))]);
    assert!(outside.tokenizer().unwrap_err().to_string().contains("is 7, which is no token"));
}

/// Everything a file offers is asked for; elements are never more than four for a byte of the file.
fn read_all(bytes: &[u8]) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    if let Ok(weights) = Weights::open(&path) {
        for name in weights.names() {
            assert!(weights.get(name).unwrap().elements() <= 4 * bytes.len());
            let _ = weights.read_f32(name);
        }
    }
    if let Ok(file) = GgufFile::open(&path) {
        let _ = (file.text_config(), file.language_tokenizer_json(), file.config(), file.tokenizer());
    }
}

fn seeds() -> [Vec<u8>; 2] {
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "<0x41>", "a", "b", "ab"].map(str::to_owned).to_vec();
    let llama = [
        ("general.architecture", Meta::Text("llama")),
        ("llama.embedding_length", Meta::U32(4)),
        ("llama.attention.head_count", Meta::U32(2)),
        ("llama.block_count", Meta::U32(1)),
        ("llama.feed_forward_length", Meta::U32(8)),
        ("llama.context_length", Meta::U32(8)),
        ("tokenizer.ggml.model", Meta::Text("llama")),
        ("tokenizer.ggml.tokens", Meta::Texts(&tokens)),
        ("tokenizer.ggml.token_type", Meta::Ints(&[2, 3, 3, 6, 1, 1, 1])),
        ("tokenizer.ggml.scores", Meta::Floats(&[0.0; 7])),
    ];
    let tensors = [
        Tensor::f32("token_embd.weight", &[7, 4], &[0.5; 28]),
        Tensor::f32("blk.0.attn_q.weight", &[4, 4], &[0.5; 16]),
        Tensor::new("blk.0.ffn_down.weight", &[1, 256], 12, vec![7; 144]),
    ];
    [
        gguf_bytes(3, &llama, &tensors),
        otter(&[("otter.config_json", Meta::Text("{}"))], &[vector("a", &[1.0, 2.0])]),
    ]
}

#[test]
fn the_seeds_are_good() {
    for seed in seeds() {
        assert!(!open(&seed).unwrap().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_files_never_panic(
        seed in 0usize..2, edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = seeds()[seed].clone();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        read_all(&bytes);
    }

    #[test]
    fn spliced_files_never_panic(
        seed in 0usize..2, from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(),
        inserted in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = &seeds()[seed];
        let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
        read_all(&[&bytes[..from], &inserted, &bytes[to..]].concat());
    }

    #[test]
    fn truncated_headers_are_errors(seed in 0usize..2, length in any::<prop::sample::Index>()) {
        let bytes = &seeds()[seed];
        // The last 32 bytes may be padding.
        let length = length.index(bytes.len() - 32);
        prop_assert!(open(&bytes[..length]).is_err());
    }

    #[test]
    fn mutated_indices_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let place = tempfile::tempdir().unwrap();
        let mut index = fs::read(golden("video/checkpoint/pytorch_model.bin.index.json")).unwrap();
        for (at, value) in edits {
            let at = at.index(index.len());
            index[at] = value;
        }
        fs::write(place.path().join("pytorch_model.bin.index.json"), index).unwrap();
        prop_assert!(Weights::open(place.path()).is_err());
    }

    #[test]
    fn mutated_sentencepiece_models_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let place = tempfile::tempdir().unwrap();
        let mut model = fs::read(golden("llama/checkpoint/tokenizer.model")).unwrap();
        for (at, value) in edits {
            let at = at.index(model.len());
            model[at] = value;
        }
        fs::write(place.path().join("tokenizer.model"), model).unwrap();
        let _ = load_tokenizer(place.path());
    }
}
