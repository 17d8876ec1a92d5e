//! Tokenizer files in the forms of many writers: byte-level BPE, slow-only sets, old and new small files, disagreeing
//! files; and the tokens that Otter adds to a plain language model.

use crate::common::golden;
use otter_checkpoint::{
    TokenOrder, TokenizerForm, add_special_tokens, load_tokenizer, read_tokenizer, write_tokenizer,
};
use otter_data::TextTokenizer;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

const FILES: [&str; 5] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// The tokenizer files of a golden folder, without those named.
fn copy(folder: &str, without: &[&str]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for name in FILES.iter().filter(|name| !without.contains(name)) {
        if let Ok(bytes) = fs::read(golden(folder).join(name)) {
            fs::write(place.path().join(name), bytes).unwrap();
        }
    }
    place
}

fn edit(directory: &TempDir, name: &str, change: impl FnOnce(&mut Value)) {
    let path = directory.path().join(name);
    let mut value = read(&path);
    change(&mut value);
    write(&path, &value);
}

/// As [`copy`], with `vocab.json` and `merges.txt` in place of `tokenizer.json`.
fn slow_only(folder: &str) -> TempDir {
    let place = copy(folder, &[]);
    let whole = read(&place.path().join("tokenizer.json"));
    fs::remove_file(place.path().join("tokenizer.json")).unwrap();
    write(&place.path().join("vocab.json"), &whole["model"]["vocab"]);
    let merges: Vec<&str> =
        whole["model"]["merges"].as_array().unwrap().iter().map(|merge| merge.as_str().unwrap()).collect();
    fs::write(place.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    place
}

fn refusal(directory: &Path) -> String {
    load_tokenizer(directory).map(|_| ()).unwrap_err().to_string()
}

/// Prompts of the generation cases and texts of the training runs with the ids of the original.
fn recorded(cases: &[&str], runs: &[(&str, u32, u32)]) -> Vec<(String, Vec<u32>)> {
    let mut all = Vec::new();
    for case in cases {
        for prompt in read(&golden(case).join("generate.json"))["prompts"].as_array().unwrap() {
            for (row, text) in prompt["texts"].as_array().unwrap().iter().enumerate() {
                let mask = ids(&prompt["attention_mask"][row]);
                let row = ids(&prompt["input_ids"][row]).into_iter().zip(mask);
                all.push((
                    text.as_str().unwrap().to_owned(),
                    row.filter(|r| r.1 == 1).map(|r| r.0).collect(),
                ));
            }
        }
    }
    for &(run, begin, end) in runs {
        let run = read(&golden(&format!("data/expected/{run}.json")));
        for group in run["groups"].as_object().unwrap().values() {
            for batch in group["batches"].as_array().unwrap() {
                for (row, index) in batch["indices"].as_array().unwrap().iter().enumerate() {
                    let item = &group["items"][index.as_u64().unwrap() as usize];
                    let mask = ids(&batch["attention_masks"][row]);
                    let row = ids(&batch["input_ids"][row]).into_iter().zip(mask);
                    let row: Vec<u32> = row.filter(|r| r.1 == 1).map(|r| r.0).collect();
                    assert_eq!((row[0], row[row.len() - 1]), (begin, end));
                    let text = item["full_text"].as_str().unwrap().to_owned();
                    all.push((text, row[1..row.len() - 1].to_vec()));
                }
            }
        }
    }
    all
}

#[test]
fn byte_level_files_and_slow_only_files_have_the_golden_ids() {
    let prompts = recorded(&["mpt7b-style", "mpt1b-style"], &[]);
    let texts = recorded(&[], &[("simple_mpt", 0, 0), ("simple_mpt_two_sets", 0, 0)]);
    assert!(prompts.len() >= 8 && texts.len() >= 8, "{} {}", prompts.len(), texts.len());
    for folder in ["mpt7b-style/checkpoint", "mpt1b-style/checkpoint", "data/tokenizer_mpt"] {
        let fast = read_tokenizer(&golden(folder)).unwrap();
        let place = slow_only(folder);
        let slow = read_tokenizer(place.path()).unwrap();
        assert_eq!((fast.form, slow.form), (TokenizerForm::Json, TokenizerForm::VocabularyAndMerges));
        for loaded in [fast, slow] {
            assert_eq!(loaded.warnings, [""; 0]);
            let special = loaded.tokenizer.special();
            assert_eq!((special.bos, special.eos), (Some(0), Some(0)));
            assert_eq!(
                (special.endofchunk, special.image, special.answer, special.pad),
                (363, 364, 365, 366)
            );
            assert_eq!(loaded.tokenizer.vocab_size(), 367);
            // Nothing goes in front of a prompt, although training samples begin with BOS.
            assert_eq!(loaded.tokenizer.prompt_prefix(), [0; 0]);
            for (text, expected) in prompts.iter().chain(&texts) {
                assert_eq!(loaded.tokenizer.encode(text).unwrap(), *expected, "{folder}: {text}");
            }
        }
    }
}

#[test]
fn llama_prompts_begin_with_the_begin_token() {
    for case in ["llama", "video", "flamingo"] {
        let tokenizer = load_tokenizer(&golden(case).join("checkpoint")).unwrap();
        for (text, expected) in recorded(&[case], &[]) {
            assert_eq!([tokenizer.prompt_prefix(), &tokenizer.encode(&text).unwrap()].concat(), expected);
        }
    }
    let copy = copy("llama/checkpoint", &[]);
    edit(&copy, "tokenizer_config.json", |config| config["add_bos_token"] = json!(false));
    assert_eq!(load_tokenizer(copy.path()).unwrap().prompt_prefix(), [0; 0]);
    // Another class does what tokenizer.json says.
    edit(&copy, "tokenizer_config.json", |config| {
        config["tokenizer_class"] = json!("PreTrainedTokenizerFast");
        config["add_bos_token"] = Value::Null;
    });
    assert_eq!(load_tokenizer(copy.path()).unwrap().prompt_prefix(), [1]);
    edit(&copy, "tokenizer.json", |whole| whole["post_processor"] = Value::Null);
    assert_eq!(load_tokenizer(copy.path()).unwrap().prompt_prefix(), [0; 0]);
}

/// An OPT-like set: no `tokenizer.json`, no ids of added tokens but in added_tokens.json, BOS in front.
#[test]
fn slow_only_files_of_opt_style() {
    let place = slow_only("data/tokenizer_mpt");
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        fs::remove_file(place.path().join(name)).unwrap();
    }
    write(
        &place.path().join("tokenizer_config.json"),
        &json!({
            "errors": "replace", "add_prefix_space": false, "add_bos_token": true, "tokenizer_class": "GPT2Tokenizer",
            "bos_token": { "__type": "AddedToken", "content": "<|endoftext|>", "lstrip": false, "normalized": true },
            "eos_token": "<|endoftext|>", "pad_token": "<|padding|>",
        }),
    );
    // The ids follow the vocabulary of 360.
    write(
        &place.path().join("added_tokens.json"),
        &json!({ "<answer>": 362, "<image>": 361, "<|endofchunk|>": 360 }),
    );
    let loaded = load_tokenizer(place.path()).unwrap();
    let special = loaded.special();
    assert_eq!((special.bos, special.pad, special.endofchunk, special.answer), (Some(0), 1, 360, 362));
    assert_eq!(loaded.prompt_prefix(), [0]);
    assert_eq!(loaded.encode("<image>the<|endoftext|>").unwrap()[0], 361);
    assert_eq!(loaded.encode("<|endoftext|>").unwrap(), [0]);
    assert!(!loaded.encode_plain("<image><|padding|>").unwrap().contains(&1));
}

#[test]
fn damaged_slow_files_are_named() {
    let vocabulary = |value: Value| {
        let place = slow_only("data/tokenizer_mpt");
        write(&place.path().join("vocab.json"), &value);
        refusal(place.path())
    };
    assert!(vocabulary(json!(["a"])).contains("expected an object"));
    assert!(vocabulary(json!({})).contains("no tokens"));
    assert!(vocabulary(json!({ "a": 1 })).contains("has the id 1; expected ids from 0 below 1"));
    assert!(vocabulary(json!({ "a": 0, "b": 0 })).contains("`a` and `b` have the id 0"));
    let merges = |text: &str| {
        let place = slow_only("data/tokenizer_mpt");
        fs::write(place.path().join("merges.txt"), text).unwrap();
        refusal(place.path())
    };
    assert!(merges("h e\nhe\n").contains("line 2, `he`: expected two tokens"));
    assert!(merges("#version: 0.2\nh e x\n").contains("line 2"));
    assert!(merges("h \u{20ac}\n").contains("not in vocab.json"));
    let place = slow_only("data/tokenizer_mpt");
    for (bytes, named) in [([0xff, 0x41], "not UTF-8"), ([0xff, 0xfe], "UTF-16")] {
        fs::write(place.path().join("merges.txt"), bytes).unwrap();
        assert!(refusal(place.path()).contains(named));
    }
    fs::remove_file(place.path().join("merges.txt")).unwrap();
    assert!(refusal(place.path()).contains("vocab.json with merges.txt"));
}

/// What transformers 5 leaves: one small file, the list under its new name, no ids outside `tokenizer.json`.
#[test]
fn small_files_of_every_age_are_read() {
    let expected = load_tokenizer(&golden("llama/checkpoint")).unwrap();
    let same = |place: &TempDir| {
        let loaded = read_tokenizer(place.path()).unwrap();
        assert_eq!(loaded.warnings, [""; 0]);
        assert_eq!(loaded.tokenizer.special(), expected.special());
        let text = "<image>User:a boat GPT:<answer>the boat<|endofchunk|>";
        assert_eq!(loaded.tokenizer.encode(text).unwrap(), expected.encode(text).unwrap());
    };
    let five = copy("llama/checkpoint", &["tokenizer.model", "special_tokens_map.json", "added_tokens.json"]);
    edit(&five, "tokenizer_config.json", |config| {
        let config = config.as_object_mut().unwrap();
        config.remove("added_tokens_decoder");
        let list = config.remove("additional_special_tokens").unwrap();
        config.insert("extra_special_tokens".to_owned(), list);
        config.insert("backend".to_owned(), json!("tokenizers"));
    });
    same(&five);
    // 4.48 to 4.57: names for the tokens.
    edit(&five, "tokenizer_config.json", |config| {
        config["extra_special_tokens"] = json!({ "image_token": "<image>", "answer_token": "<answer>" });
        config["image_token"] = json!("<image>");
    });
    same(&five);
    // 4.28: no ids but in added_tokens.json, tokens as typed objects, sentencepiece alone.
    let old = copy("llama/checkpoint", &["tokenizer.json"]);
    edit(&old, "tokenizer_config.json", |config| {
        let config = config.as_object_mut().unwrap();
        config.remove("added_tokens_decoder");
        config.remove("legacy");
        config.insert(
            "bos_token".to_owned(),
            json!({ "__type": "AddedToken", "content": "<s>", "normalized": true }),
        );
    });
    same(&old);
    // The first conversions: empty texts.
    edit(&old, "tokenizer_config.json", |config| {
        *config =
            json!({ "bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer" });
    });
    fs::write(old.path().join("special_tokens_map.json"), "{}").unwrap();
    same(&old);
    let lists = copy("llama/checkpoint", &[]);
    edit(&lists, "special_tokens_map.json", |map| map["additional_special_tokens"] = json!("<image>"));
    assert!(refusal(lists.path()).contains("expected a list of tokens"));
    edit(&lists, "special_tokens_map.json", |map| map["additional_special_tokens"] = json!([["<image>"]]));
    assert!(refusal(lists.path()).contains("expected a token text"));
}

#[test]
fn a_text_has_the_same_tokens_every_time() {
    let (plain, random) = (copy("llama/checkpoint", &[]), copy("llama/checkpoint", &[]));
    edit(&random, "tokenizer.json", |file| file["model"]["dropout"] = json!(0.9));
    let loaded = read_tokenizer(random.path()).unwrap();
    assert!(loaded.warnings.iter().any(|text| text.contains("`model.dropout`")), "{:?}", loaded.warnings);
    let text = "<image>User: what is in this picture? GPT:<answer>a cup of tea<|endofchunk|>";
    let expected = load_tokenizer(plain.path()).unwrap().encode(text).unwrap();
    for _ in 0..5 {
        assert_eq!(loaded.tokenizer.encode(text).unwrap(), expected);
    }
}

#[test]
fn disagreeing_files_name_both_values() {
    let ids = copy("llama/checkpoint", &[]);
    write(&ids.path().join("added_tokens.json"), &json!({ "<image>": 386 }));
    let text = refusal(ids.path());
    assert!(text.contains("id 386 is `<image>` here but `<answer>` in tokenizer_config.json"), "{text}");
    write(&ids.path().join("added_tokens.json"), &json!({ "<image>": 390 }));
    let text = refusal(ids.path());
    assert!(text.contains("`<image>` has id 390 here but 385 in tokenizer_config.json"), "{text}");
    // tokenizer.json of the one order beside an added_tokens.json of the other.
    let swapped = copy("llama/checkpoint", &["tokenizer_config.json", "special_tokens_map.json"]);
    write(&swapped.path().join("added_tokens.json"), &json!({ "<PAD>": 386 }));
    let text = refusal(swapped.path());
    assert!(text.contains("`<PAD>` has id 387 by tokenizer.json, but added_tokens.json gives 386"), "{text}");

    let pads = copy("llama/checkpoint", &[]);
    edit(&pads, "special_tokens_map.json", |map| map["pad_token"] = json!("<unk>"));
    let loaded = read_tokenizer(pads.path()).unwrap();
    assert_eq!(loaded.tokenizer.special().pad, 387);
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    for part in ["`pad_token`", "`<PAD>` in tokenizer_config.json", "`<unk>` in special_tokens_map.json"] {
        assert!(warning.contains(part), "{warning}");
    }
    // Before 4.34 the map counts.
    edit(&pads, "tokenizer_config.json", |config| {
        config.as_object_mut().unwrap().remove("added_tokens_decoder");
    });
    assert_eq!(load_tokenizer(pads.path()).unwrap().special().pad, 0);

    let prefix = copy("data/tokenizer_mpt", &[]);
    edit(&prefix, "tokenizer_config.json", |config| config["add_prefix_space"] = json!(true));
    let loaded = read_tokenizer(prefix.path()).unwrap();
    assert!(loaded.warnings[0].contains("false in tokenizer.json but true in tokenizer_config.json"));
    assert_eq!(loaded.tokenizer.encode("the").unwrap(), loaded.tokenizer.encode(" the").unwrap());

    let models = copy("llama/checkpoint", &[]);
    edit(&models, "tokenizer.json", |whole| whole["model"]["vocab"]["zzz"] = json!(384));
    let text = refusal(models.path());
    assert!(text.contains("gives `<|endofchunk|>` the id 384") && text.contains("it 385"), "{text}");
    edit(&models, "tokenizer.json", |whole| {
        for token in whole["added_tokens"].as_array_mut().unwrap() {
            let id = token["id"].as_u64().unwrap();
            token["id"] = json!(if id < 384 { id } else { id + 1 });
        }
    });
    edit(&models, "tokenizer_config.json", |config| *config = json!({ "pad_token": "<PAD>" }));
    fs::remove_file(models.path().join("added_tokens.json")).unwrap();
    let loaded = read_tokenizer(models.path()).unwrap();
    assert!(loaded.warnings[0].contains("385 tokens before the added ones but tokenizer.model 384"));
    assert_eq!(loaded.tokenizer.special().endofchunk, 385);
}

/// Data must not be able to spell a placeholder, whatever the file's flag says.
#[test]
fn structural_tokens_are_special_whatever_the_flag_says() {
    let place =
        copy("llama/checkpoint", &["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]);
    write(&place.path().join("tokenizer_config.json"), &json!({ "pad_token": "<PAD>" }));
    edit(&place, "tokenizer.json", |whole| {
        for token in whole["added_tokens"].as_array_mut().unwrap() {
            token["special"] = json!(false);
        }
    });
    let tokenizer = load_tokenizer(place.path()).unwrap();
    let plain = tokenizer.encode_plain("a<image>b<answer>").unwrap();
    assert!(plain.len() > 6 && !plain.contains(&385) && !plain.contains(&386), "{plain:?}");
    assert_eq!(tokenizer.encode("<image>").unwrap(), [385]);
    assert!(tokenizer.contains_special("<answer>"));
}

/// Ids by transformers 5.23 from the same files.
#[test]
fn sentencepiece_without_legacy_marks_the_first_segment_only() {
    let place = copy("llama/checkpoint", &["tokenizer.json"]);
    edit(&place, "tokenizer_config.json", |config| config["legacy"] = json!(false));
    let tokenizer = load_tokenizer(place.path()).unwrap();
    for (text, expected) in [
        (" the boat", vec![261, 266, 342, 279]),
        ("<image> the", vec![385, 261]),
        ("the<image>the \u{e9}", vec![261, 385, 336, 259, 334, 198, 172]),
        (
            "<image>User: what is  the boat? GPT:<answer>a boat<|endofchunk|> the",
            vec![
                385, 382, 338, 289, 369, 272, 302, 267, 334, 261, 266, 342, 279, 358, 334, 380, 371, 354,
                369, 386, 337, 266, 342, 279, 384, 261,
            ],
        ),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text}");
    }
}

/// A vocabulary of the 256 byte characters and a few merges in the form of LLaMA 3: regular expression with
/// look-ahead, whole words before merges, template behind the byte-level step. Ids by Python's `tokenizers` 0.23.
fn llama3(place: &Path) {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut vocabulary = Map::new();
    let mut others = 256..;
    for byte in 0..256u32 {
        let code = if printable(&byte) { byte } else { others.next().unwrap() };
        vocabulary.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let merges = ["h e", "t he", "\u{120} the", "b o", "a t", "bo at", "1 2", "\u{120} b"];
    for token in merges.iter().map(|merge| merge.replace(' ', "")).chain(["12345".into(), "123".into()]) {
        vocabulary.insert(token, json!(vocabulary.len()));
    }
    let names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"];
    let added: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            json!({ "id": 266 + at, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let split = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*\
                 |\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    let begin = json!({ "SpecialToken": { "id": names[0], "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": split }, "behavior": "Isolated", "invert": false },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] },
        "post_processor": { "type": "Sequence", "processors": [
            { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true },
            { "type": "TemplateProcessing", "single": [begin, sequence("A")],
              "pair": [begin, sequence("A"), sequence("B")],
              "special_tokens": { names[0]: { "id": names[0], "ids": [266], "tokens": [names[0]] } } },
        ] },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                   "vocab": vocabulary, "merges": merges },
    });
    write(&place.join("tokenizer.json"), &whole);
    write(
        &place.join("tokenizer_config.json"),
        &json!({ "bos_token": names[0], "eos_token": names[1], "tokenizer_class": "PreTrainedTokenizerFast" }),
    );
}

#[test]
fn llama_3_files_work() {
    let (plain, with) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    llama3(plain.path());
    let done = add_special_tokens(plain.path(), with.path(), TokenOrder::Otter).unwrap();
    let expected =
        ["<|endofchunk|>", "<image>", "<answer>", "<PAD>"].map(str::to_owned).into_iter().zip(269..);
    assert_eq!(done.added, expected.collect::<Vec<_>>());
    let tokenizer = load_tokenizer(with.path()).unwrap();
    assert_eq!(tokenizer.prompt_prefix(), [266]);
    for (text, expected) in [
        (
            "the boat's 12345  boats\n\n the",
            vec![257, 32, 261, 39, 115, 32, 265, 52, 53, 32, 32, 261, 115, 10, 10, 258],
        ),
        ("12", vec![262]),
        ("123 \u{e9}", vec![265, 32, 195, 169]),
        ("<image> the", vec![270, 258]),
    ] {
        assert_eq!(tokenizer.encode(text).unwrap(), expected, "{text}");
        assert_eq!(tokenizer.decode(&expected, false).unwrap(), text);
    }
}

/// Every way in which a reader may open the written set.
fn views(directory: &Path) -> Vec<(String, TextTokenizer)> {
    let mut all = vec![("all".to_owned(), load_tokenizer(directory).unwrap())];
    let file = |name: &str| directory.join(name).is_file();
    for kept in ["tokenizer.json", "tokenizer.model", "vocab.json"] {
        for small in [&["tokenizer_config.json"][..], &["added_tokens.json", "special_tokens_map.json"]] {
            if !file(kept) || !small.iter().all(|name| file(name)) {
                continue;
            }
            let place = tempfile::tempdir().unwrap();
            for name in small.iter().chain(&[kept, "merges.txt"]).filter(|name| file(name)) {
                fs::copy(directory.join(name), place.path().join(name)).unwrap();
            }
            if kept == "vocab.json" && small.len() == 2 {
                // Whitespace tokens keep no flags in added_tokens.json, and the class is not said.
                continue;
            }
            all.push((format!("{kept} {small:?}"), load_tokenizer(place.path()).unwrap()));
        }
    }
    all
}

/// The ids of the added tokens: the base's size plus 0, 1, 2, 3 in the order of the class.
#[test]
fn tokens_added_to_a_language_model_have_the_ids_of_their_class() {
    for (folder, base, case) in
        [("openflamingo/v1-llama/base_lm", 384, "llama"), ("openflamingo/v2-mpt/base_lm", 363, "mpt7b-style")]
    {
        for order in [TokenOrder::Otter, TokenOrder::Flamingo] {
            let place = tempfile::tempdir().unwrap();
            let done = add_special_tokens(&golden(folder), place.path(), order).unwrap();
            let ids: Vec<(String, u32)> = order.tokens().map(str::to_owned).into_iter().zip(base..).collect();
            assert_eq!(done.added, ids);
            assert_eq!(done.vocab_size, base as usize + 4);
            assert_eq!(TokenOrder::of(&done.special), Some(order));
            let views = views(place.path());
            assert!(views.len() >= 2, "{folder}: {}", views.len());
            for (view, tokenizer) in &views {
                assert_eq!(*tokenizer.special(), done.special, "{folder} {order:?} {view}");
                for (text, expected) in recorded(&[case], &[]) {
                    // The recorded ids are those of the Otter order.
                    let swap = |id: u32| match (order, id.wrapping_sub(base)) {
                        (TokenOrder::Flamingo, 2) => id + 1,
                        _ => id,
                    };
                    let expected: Vec<u32> = expected.into_iter().map(swap).collect();
                    let own = [tokenizer.prompt_prefix(), &tokenizer.encode(&text).unwrap()].concat();
                    assert_eq!(own, expected, "{folder} {order:?} {view}");
                }
            }
            // A second time there is nothing to add, and the other order changes nothing.
            let again = add_special_tokens(place.path(), place.path(), TokenOrder::Otter).unwrap();
            assert_eq!((again.added.len(), again.special), (0, done.special));
        }
    }
}

/// As converting a Flamingo does: `<answer>` behind what OpenFlamingo had added.
#[test]
fn an_answer_token_is_added_behind_those_of_openflamingo() {
    let place = copy("flamingo/checkpoint", &["tokenizer.model"]);
    edit(&place, "tokenizer.json", |whole| {
        whole["added_tokens"].as_array_mut().unwrap().retain(|token| token["content"] != "<answer>");
    });
    edit(&place, "tokenizer_config.json", |config| {
        config["added_tokens_decoder"].as_object_mut().unwrap().remove("387");
        config["additional_special_tokens"] = json!(["<|endofchunk|>", "<image>"]);
    });
    edit(&place, "special_tokens_map.json", |map| map["additional_special_tokens"] = json!(["<image>"]));
    edit(&place, "added_tokens.json", |added| {
        added.as_object_mut().unwrap().remove("<answer>");
    });
    assert!(refusal(place.path()).contains("`<answer>` is missing"));
    let done = add_special_tokens(place.path(), place.path(), TokenOrder::Otter).unwrap();
    assert_eq!(done.added, [("<answer>".to_owned(), 387)]);
    assert_eq!(TokenOrder::of(&done.special), Some(TokenOrder::Flamingo));
    let map = read(&place.path().join("special_tokens_map.json"));
    let list: Vec<&str> = map["additional_special_tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t["content"].as_str().unwrap())
        .collect();
    assert_eq!(list, ["<|endofchunk|>", "<image>", "<answer>"]);
    assert_eq!(read(&place.path().join("added_tokens.json"))["<answer>"], 387);
}

#[test]
fn complete_sets_are_written_as_they_are_and_others_completed() {
    for folder in ["llama/checkpoint", "mpt7b-style/checkpoint", "flamingo/checkpoint"] {
        let place = tempfile::tempdir().unwrap();
        write_tokenizer(&golden(folder), place.path()).unwrap();
        for name in FILES {
            assert_eq!(
                fs::read(place.path().join(name)).ok(),
                fs::read(golden(folder).join(name)).ok(),
                "{name}"
            );
        }
    }
    for source in [slow_only("data/tokenizer_mpt"), copy("llama/checkpoint", &["tokenizer.json"])] {
        let place = tempfile::tempdir().unwrap();
        write_tokenizer(source.path(), place.path()).unwrap();
        let expected = load_tokenizer(source.path()).unwrap();
        let text = "<image>User: a  boat GPT:<answer>the boat<|endofchunk|>";
        for (view, tokenizer) in views(place.path()) {
            assert_eq!(tokenizer.special(), expected.special(), "{view}");
            assert_eq!(tokenizer.encode(text).unwrap(), expected.encode(text).unwrap(), "{view}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mutated_files_never_panic(
        which in 0..5usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let place = slow_only("data/tokenizer_mpt");
        let names = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"];
        fs::write(place.path().join("added_tokens.json"), r#"{"<image>": 364, "<PAD>": 366}"#).unwrap();
        let path = place.path().join(names[which]);
        let mut bytes = fs::read(&path).unwrap();
        for (place, value) in edits {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        fs::write(&path, &bytes).unwrap();
        if let Ok(tokenizer) = load_tokenizer(place.path()) {
            let _ = tokenizer.encode("<image>a boat");
        }
        let target = tempfile::tempdir().unwrap();
        let _ = add_special_tokens(place.path(), target.path(), TokenOrder::Flamingo);
    }
}

/// The first structural token that is lost, by the message.
fn lost(directory: &Path) -> String {
    let broken = read_tokenizer(directory).unwrap().broken;
    assert!(refusal(directory).contains(&broken[0]));
    broken[0].clone()
}

#[test]
fn tokens_that_do_not_come_out_whole_are_named_in_every_form() {
    let mark = |token: &mut Value| ["<answer>", "<image>"].iter().any(|mark| token["content"] == *mark);
    let set_json = |place: &TempDir, setting: &str| {
        edit(place, "tokenizer.json", |whole| {
            let tokens = whole["added_tokens"].as_array_mut().unwrap();
            tokens
                .iter_mut()
                .filter_map(|token| mark(token).then_some(token))
                .for_each(|token| token[setting] = json!(true));
        });
    };
    let set_config = |place: &TempDir, setting: &str, value: bool| {
        edit(place, "tokenizer_config.json", |config| {
            let tokens = config["added_tokens_decoder"].as_object_mut().unwrap();
            tokens
                .values_mut()
                .filter_map(|token| mark(token).then_some(token))
                .for_each(|token| token[setting] = json!(value));
        });
    };
    // tokenizer.json alone.
    let place = copy("llama/checkpoint", &["tokenizer_config.json"]);
    set_json(&place, "normalized");
    let text = lost(place.path());
    assert!(text.contains("split") && text.contains("\"normalized\": false"), "{text}");
    // As in transformers the settings of tokenizer_config.json count over it, for better and for worse.
    let place = copy("llama/checkpoint", &[]);
    set_json(&place, "normalized");
    assert!(load_tokenizer(place.path()).is_ok());
    let place = copy("llama/checkpoint", &[]);
    set_config(&place, "normalized", true);
    assert!(lost(place.path()).contains("`<image>`"));
    // sentencepiece, and vocabulary with merges.
    let place = copy("llama/checkpoint", &["tokenizer.json"]);
    set_config(&place, "rstrip", true);
    assert!(lost(place.path()).contains("behind it"));
    let place = slow_only("data/tokenizer_mpt");
    set_config(&place, "single_word", true);
    let text = lost(place.path());
    assert!(text.contains("set \"single_word\": false") && text.contains("tokenizer_config.json"), "{text}");
    // Another added token takes the beginning of one.
    let place = copy("llama/checkpoint", &["tokenizer_config.json"]);
    edit(&place, "tokenizer.json", |whole| {
        let other = json!({ "id": 388, "content": ":<answer>", "single_word": false, "lstrip": false, "rstrip": false,
                            "normalized": false, "special": true });
        whole["added_tokens"].as_array_mut().unwrap().push(other);
    });
    let text = lost(place.path());
    assert!(
        text.contains("read as `:<answer>` with the id 388") && text.contains("another added token"),
        "{text}"
    );
    // The same token twice.
    let place = copy("llama/checkpoint", &["tokenizer_config.json"]);
    edit(&place, "tokenizer.json", |whole| {
        let tokens = whole["added_tokens"].as_array_mut().unwrap();
        let mut again = tokens.iter().find(|token| token["content"] == "<answer>").unwrap().clone();
        again["id"] = json!(388);
        tokens.push(again);
    });
    let text = refusal(place.path());
    assert!(text.contains("`<answer>` the id 388") && text.contains("listed twice"), "{text}");
}

#[test]
fn files_of_other_encodings_are_read_or_named() {
    let marked = |place: &TempDir, name: &str| {
        let path = place.path().join(name);
        let text = fs::read(&path).unwrap();
        fs::write(path, [b"\xEF\xBB\xBF", &text[..]].concat()).unwrap();
    };
    let ids =
        |directory: &Path| load_tokenizer(directory).unwrap().encode("<image>User: a GPT:<answer>").unwrap();
    let whole = copy("llama/checkpoint", &[]);
    let slow = slow_only("data/tokenizer_mpt");
    let expected = (ids(whole.path()), ids(slow.path()));
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"] {
        marked(&whole, name);
    }
    for name in ["vocab.json", "merges.txt"] {
        marked(&slow, name);
    }
    assert_eq!((ids(whole.path()), ids(slow.path())), expected);
    for (place, name) in
        [(&whole, "tokenizer.json"), (&whole, "tokenizer_config.json"), (&slow, "merges.txt")]
    {
        let path = place.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        fs::write(&path, wide).unwrap();
        let refused = refusal(place.path());
        assert!(refused.contains(name) && refused.contains("UTF-16"), "{refused}");
        fs::write(&path, text).unwrap();
    }
}
