//! `tokenizer.json` and `tokenizer.model` give the ids that the original's tokenizer gave.

use crate::common::golden;
use otter_checkpoint::{load_sentencepiece_tokenizer, load_tokenizer};
use otter_data::TextTokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

static BOTH: LazyLock<[TextTokenizer; 2]> = LazyLock::new(|| {
    let directory = golden("llama/checkpoint");
    [load_tokenizer(&directory).unwrap(), load_sentencepiece_tokenizer(&directory).unwrap()]
});

fn read(path: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(path)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn special_tokens_come_from_the_files() {
    for tokenizer in &*BOTH {
        let special = tokenizer.special();
        assert_eq!((special.bos, special.eos), (Some(1), Some(2)));
        assert_eq!((special.endofchunk, special.image, special.answer, special.pad), (384, 385, 386, 387));
        assert_eq!(tokenizer.vocab_size(), 388);
    }
}

#[test]
fn prompts_have_the_golden_ids() {
    let mut count = 0;
    for case in ["llama", "video", "flamingo"] {
        let directory = golden(case).join("checkpoint");
        let both = [load_tokenizer(&directory).unwrap(), load_sentencepiece_tokenizer(&directory).unwrap()];
        for prompt in read(&format!("{case}/generate.json"))["prompts"].as_array().unwrap() {
            for (row, text) in prompt["texts"].as_array().unwrap().iter().enumerate() {
                let mask = ids(&prompt["attention_mask"][row]);
                let expected: Vec<u32> = ids(&prompt["input_ids"][row])
                    .into_iter()
                    .zip(mask)
                    .filter(|&(_, on)| on == 1)
                    .map(|(id, _)| id)
                    .collect();
                for tokenizer in &both {
                    let text = text.as_str().unwrap();
                    assert_eq!(tokenizer.encode(text).unwrap(), expected[1..], "{text}");
                    count += 1;
                }
            }
        }
    }
    assert!(count >= 16, "{count}");
}

#[test]
fn training_texts_have_the_golden_ids() {
    let mut count = 0;
    for run in ["simple_llama", "simple_llama_keep_symbols", "llama2_llama"] {
        let run = read(&format!("data/expected/{run}.json"));
        for group in run["groups"].as_object().unwrap().values() {
            for batch in group["batches"].as_array().unwrap() {
                for (row, index) in batch["indices"].as_array().unwrap().iter().enumerate() {
                    let item = &group["items"][index.as_u64().unwrap() as usize];
                    let text = item["full_text"].as_str().unwrap();
                    let mask = ids(&batch["attention_masks"][row]);
                    let row: Vec<u32> = ids(&batch["input_ids"][row])
                        .into_iter()
                        .zip(mask)
                        .filter(|&(_, on)| on == 1)
                        .map(|(id, _)| id)
                        .collect();
                    for tokenizer in &*BOTH {
                        let own = tokenizer.encode(text).unwrap();
                        let own: Vec<u32> = [&[1], &own[..], &[2]].concat();
                        assert_eq!(own, row, "{text}");
                        count += 1;
                    }
                }
            }
        }
    }
    assert!(count >= 50, "{count}");
}

fn copy(names: &[&str]) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in names {
        fs::write(place.path().join(name), fs::read(golden("llama/checkpoint").join(name)).unwrap()).unwrap();
    }
    place
}

fn refusal(directory: &Path) -> String {
    load_tokenizer(directory).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn missing_and_misplaced_tokens_are_named() {
    assert!(refusal(copy(&[]).path()).contains("tokenizer.json or tokenizer.model"));
    // Without the small files nothing says what was added to sentencepiece.
    let bare = copy(&["tokenizer.model"]);
    assert!(refusal(bare.path()).contains("`<PAD>` is missing"));
    // added_tokens.json alone is enough.
    fs::write(bare.path().join("added_tokens.json"), read("llama/checkpoint/added_tokens.json").to_string())
        .unwrap();
    assert_eq!(load_tokenizer(bare.path()).unwrap().special(), BOTH[0].special());
    let added = json!({ "<|endofchunk|>": 384, "<image>": 385, "<PAD>": 386 });
    fs::write(bare.path().join("added_tokens.json"), added.to_string()).unwrap();
    let text = refusal(bare.path());
    assert!(text.contains("`<answer>` is missing") && text.contains("added_tokens.json"), "{text}");
    let gap = json!({ "<|endofchunk|>": 384, "<image>": 390 });
    fs::write(bare.path().join("added_tokens.json"), gap.to_string()).unwrap();
    assert!(refusal(bare.path()).contains("`<image>` has id 385"));
    // The Flamingo order of the last two.
    let flamingo = json!({ "<|endofchunk|>": 384, "<image>": 385, "<PAD>": 386, "<answer>": 387 });
    fs::write(bare.path().join("added_tokens.json"), flamingo.to_string()).unwrap();
    let tokenizer = load_tokenizer(bare.path()).unwrap();
    assert_eq!((tokenizer.special().pad, tokenizer.special().answer), (386, 387));
    let json = copy(&["tokenizer.json"]);
    assert!(load_tokenizer(json.path()).is_ok());
    fs::write(json.path().join("tokenizer.json"), b"{}").unwrap();
    assert!(refusal(json.path()).contains("not a tokenizer"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn both_files_segment_alike(text in prop::string::string_regex("(<image>|<answer>|</s>|the|boat| |\n|\u{2581}|\\PC){0,40}").unwrap()) {
        prop_assert_eq!(BOTH[0].encode(&text).unwrap(), BOTH[1].encode(&text).unwrap());
        prop_assert_eq!(BOTH[0].encode_plain(&text).unwrap(), BOTH[1].encode_plain(&text).unwrap());
    }

    #[test]
    fn decoding_undoes_encoding(text in "[a-zA-Zé中😀 .]{0,30}") {
        for tokenizer in &*BOTH {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, true).unwrap(), text.clone());
        }
    }

    #[test]
    fn mutated_models_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), length in any::<prop::sample::Index>(), cut in any::<bool>()) {
        let mut bytes = fs::read(golden("llama/checkpoint/tokenizer.model")).unwrap();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("tokenizer.model"), &bytes).unwrap();
        if let Ok(tokenizer) = load_tokenizer(place.path()) {
            let _ = tokenizer.encode("a boat");
        }
    }
}
