//! What an answer and a score depend on, through the command line: not on neighbors in a batch, on the text as it is
//! joined, on the checkpoint's own settings where no option is given, and on nothing in silence.

use std::ffi::OsString;
use std::path::Path;

use crate::common::{CheckpointCopy, Run, golden, integers, otter, otter_with_input};
use serde_json::{Value, json};

const PROMPTS: [(&str, &[&str]); 3] = [
    ("<image>User: What is it? GPT:<answer>", &["wide.png"]),
    ("User: hi GPT:<answer>", &[]),
    (
        "<image>User: A? GPT:<answer> A boat.<|endofchunk|><image>User: And this one here? GPT:<answer>",
        &["wide.png", "tall.png"],
    ),
];

fn generate(model: &Path, input: &[OsString], options: &[&str]) -> Run {
    let mut arguments = arguments!["generate", "--json", "--model", model].to_vec();
    arguments.extend_from_slice(input);
    arguments.extend(options.iter().map(Into::into));
    otter(&arguments)
}

fn prompt(text: &str, images: &[&str]) -> Vec<OsString> {
    let mut input = arguments!["--prompt", text].to_vec();
    input.extend(images.iter().flat_map(|name| ["--image".into(), golden("images").join(name).into()]));
    input
}

fn hi(model: &Path, options: &[&str]) -> Run {
    generate(model, &prompt("User: hi GPT:<answer>", &[]), options)
}

/// Every option that sees the tokens of a sequence or their number.
#[test]
fn a_batch_answers_as_each_prompt_alone() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("prompts.jsonl");
    let lines = PROMPTS.map(|(text, images)| {
        let images: Vec<_> = images.iter().map(|name| golden("images").join(name)).collect();
        json!({"prompt": text, "images": images}).to_string()
    });
    std::fs::write(&file, lines.join("\n")).unwrap();
    for case in ["llama/checkpoint", "mpt7b-style/checkpoint"] {
        for options in [
            &["--max-new-tokens", "8", "--repetition-penalty", "1.3"][..],
            &["--max-length", "90"],
            &["--max-length", "90", "--min-length", "80", "--stop-at-eos"],
            &["--max-new-tokens", "8", "--min-new-tokens", "7", "--no-repeat-ngram-size", "2"],
            &[
                "--max-new-tokens",
                "8",
                "--num-beams",
                "3",
                "--length-penalty",
                "2",
                "--num-return-sequences",
                "2",
            ],
            &["--max-length", "90", "--num-beams", "2", "--early-stopping", "never"],
            &["--max-new-tokens", "8", "--temperature", "1.5", "--seed", "9", "--num-return-sequences", "2"],
            &["--max-new-tokens", "8", "--top-k", "30", "--num-beams", "2", "--seed", "9"],
        ] {
            let model = golden(case);
            let together = generate(&model, &arguments!["--batch", file], options).json_lines();
            let alone =
                PROMPTS.map(|(text, images)| generate(&model, &prompt(text, images), options).json_lines());
            let alone = alone.concat();
            assert_eq!(together.len(), alone.len());
            for (together, alone) in together.iter().zip(&alone) {
                for key in ["token_ids", "text", "finish_reason"] {
                    assert_eq!(together[key], alone[key], "{case} {options:?}");
                }
            }
        }
    }
    // The prompt that leaves nothing is named.
    let run = generate(&golden("llama/checkpoint"), &arguments!["--batch", file], &["--max-length", "30"]);
    run.error(&["prompt 3: ", "--max-length 30"]);
}

/// Token ids and text of an answer, score of it, and what was said on the way.
fn score(model: &Path, prompt: &str, answer: &str) -> (Value, String) {
    let run = otter(&arguments!["score", "--json", "--model", model, "--prompt", prompt, "--answer", answer])
        .success();
    (serde_json::from_str(&run.stdout).unwrap(), run.stderr)
}

#[test]
fn a_score_is_of_the_text_as_joined() {
    for case in ["llama/checkpoint", "mpt7b-style/checkpoint"] {
        let model = golden(case);
        let tokenizer = otter_checkpoint::load_tokenizer(&model).unwrap();
        for (prompt, answer, border) in [
            ("User: is it GPT: ", "the cat", true),
            ("User: is it GPT:", " the cat", false),
            ("User: is it GPT: th", "e cat", true),
            ("User: is it GPT:<answer>", "the cat<|endofchunk|>", false),
        ] {
            let whole = tokenizer.encode(&format!("{prompt}{answer}")).unwrap();
            let (scored, said) = score(&model, prompt, answer);
            let ids = integers(&scored["token_ids"]);
            let own: Vec<i64> = whole.iter().map(|&id| i64::from(id)).collect();
            assert!(own.ends_with(&ids), "{case} {prompt:?} {ids:?} {own:?}");
            assert_eq!(scored["border_token"], border, "{case} {prompt:?}");
            assert_eq!(said.contains("begins in the prompt"), border, "{said}");
            // What is scored reads as the answer, and with a border token a little more.
            let ids: Vec<u32> = ids.into_iter().map(|id| id.try_into().unwrap()).collect();
            let text = tokenizer.decode(&ids, false).unwrap();
            assert!(text.trim().ends_with(answer.trim()), "{text:?}");
            assert_eq!(text.trim() == answer.trim(), !border || answer.starts_with("the"), "{text:?}");
        }
        // However it is cut, the text is the same, so that the later cut has a part of the earlier one's tokens.
        let (long, _) = score(&model, "User: is it GPT:", " the cat sat");
        let (short, _) = score(&model, "User: is it GPT: the cat", " sat");
        let (long, short) = (&long["token_logprobs"], &short["token_logprobs"]);
        let part = long.as_array().unwrap().len() - short.as_array().unwrap().len();
        for (a, b) in long.as_array().unwrap()[part..].iter().zip(short.as_array().unwrap()) {
            assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-5);
        }
    }
    let empty = ["score", "--prompt", "User:", "--answer", "", "--model"].map(OsString::from).to_vec();
    let empty = [&empty[..], &arguments![golden("llama/checkpoint")]].concat();
    otter(&empty).error(&["nothing to score", "0 are the answer's"]);
}

/// A copy of the LLaMA with a generation configuration that somebody wrote.
fn with_settings(settings: &Value) -> CheckpointCopy {
    let copy = CheckpointCopy::new("llama/checkpoint", |_| {});
    std::fs::write(copy.file("generation_config.json"), settings.to_string()).unwrap();
    copy
}

fn token_ids(run: Run) -> Vec<i64> {
    integers(&run.json()["token_ids"])
}

#[test]
fn end_tokens_may_be_lists_and_end_an_answer() {
    let plain = golden("llama/checkpoint");
    let ask = |model: &Path, options: &[&str]| {
        generate(model, &prompt("hi", &[]), &[&["--chat"], options].concat())
    };
    let whole = token_ids(ask(&plain, &["--max-new-tokens", "6"]));
    assert_eq!(whole.len(), 6);
    // One of the first, which did not come before.
    let end = (1..4).rfind(|&at| !whole[..at].contains(&whole[at])).unwrap();
    let id = whole[end];
    let ends = |run: Run, stops: bool| {
        let answer = run.json();
        let expected = if stops { &whole[..=end] } else { &whole[..] };
        assert_eq!(integers(&answer["token_ids"]), expected);
        assert_eq!(answer["finish_reason"], if stops { "stop" } else { "length" });
        answer
    };
    // In config.json, at either place: only when asked for.
    for place in ["/text_config", ""] {
        let copy = CheckpointCopy::new("llama/checkpoint", |_| {});
        copy.edit_json("config.json", |config| {
            config.pointer_mut(place).unwrap()["eos_token_id"] = json!([2, id]);
        });
        ends(ask(copy.path(), &["--max-new-tokens", "6"]), false);
        ends(ask(copy.path(), &["--max-new-tokens", "6", "--stop-at-eos"]), true);
        copy.edit_json("config.json", |config| {
            config.pointer_mut(place).unwrap()["eos_token_id"] = json!([2, 4000]);
        });
        ask(copy.path(), &[]).error(&["config.json", "eos_token_id", "4000"]);
    }
    // In a generation configuration: also without being asked, unless the library made it of config.json.
    let settings = json!({"eos_token_id": [2, id]});
    let copy = with_settings(&settings);
    let answer = ends(ask(copy.path(), &["--max-new-tokens", "6"]), true);
    let tokenizer = otter_checkpoint::load_tokenizer(&plain).unwrap();
    let before: Vec<u32> = whole[..end].iter().map(|&id| id.try_into().unwrap()).collect();
    assert_eq!(answer["text"], tokenizer.decode(&before, true).unwrap().trim(), "without the end token");
    let said = ask(copy.path(), &["--max-new-tokens", "6"]).success().stderr;
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("generation_config.json") && said.contains("eos_token_id"), "{said}");
    ends(ask(copy.path(), &["--max-new-tokens", "6", "--no-generation-config"]), false);
    let run = ask(copy.path(), &["--max-new-tokens", "6", "--decoding", "reference"]);
    assert!(run.stderr.contains("passed over"), "{}", run.stderr);
    ends(run, false);
    let derived = with_settings(&json!({"eos_token_id": [2, id], "_from_model_config": true}));
    ends(ask(derived.path(), &["--max-new-tokens", "6"]), false);
    ends(ask(derived.path(), &["--max-new-tokens", "6", "--stop-at-eos"]), true);
    ask(with_settings(&json!({"eos_token_id": [2, 9000]})).path(), &[])
        .error(&["generation_config.json", "`eos_token_id` is 9000"]);
    // A conversation ends there too, and does not print the end.
    let spoken = |model: &Path| {
        let chat = arguments!["chat", "--model", model, "--max-new-tokens", "6"];
        otter_with_input(&chat, b"hi\n").success().stdout
    };
    let (long, short) = (spoken(&plain), spoken(copy.path()));
    let (long, short) = (long.trim_end(), short.trim_end());
    assert!(long.starts_with(short) && short.len() < long.len(), "{long:?} {short:?}");
}

/// What the file says holds where the command line is silent.
#[test]
fn settings_of_the_checkpoint_are_defaults() {
    let plain = golden("llama/checkpoint");
    for (settings, options) in [
        (json!({"repetition_penalty": 1.4}), &["--repetition-penalty", "1.4"][..]),
        (json!({"no_repeat_ngram_size": 2}), &["--no-repeat-ngram-size", "2"]),
        (json!({"max_new_tokens": 3, "max_length": 1}), &["--max-new-tokens", "3"]),
        (json!({"max_length": 26}), &["--max-length", "26"]),
        (
            json!({"do_sample": true, "temperature": 1.7, "top_k": 9, "top_p": 0.9}),
            &["--temperature", "1.7", "--top-k", "9", "--top-p", "0.9"],
        ),
        (json!({"do_sample": true}), &["--temperature", "1"]),
        (
            json!({"num_beams": 3, "length_penalty": -2.0, "early_stopping": true}),
            &["--num-beams", "3", "--length-penalty", "-2", "--early-stopping"],
        ),
        (
            json!({"num_beams": 2, "num_return_sequences": 2}),
            &["--num-beams", "2", "--num-return-sequences", "2"],
        ),
        (json!({"bad_words_ids": [[323], [324]], "min_new_tokens": 4}), &["--min-new-tokens", "4"]),
    ] {
        let copy = with_settings(&settings);
        let ours = hi(copy.path(), &[]).success();
        let expected = hi(&plain, options).success();
        if settings.get("bad_words_ids").is_none() {
            assert_eq!(ours.stdout, expected.stdout, "{settings}");
        } else {
            assert!(![323, 324].iter().any(|id| token_ids_of(&ours.stdout).contains(id)), "{settings}");
        }
        assert_eq!(ours.stderr.lines().filter(|line| !line.starts_with("warning: ")).count(), 1);
        for key in settings.as_object().unwrap().keys().filter(|key| *key != "max_length") {
            assert!(ours.stderr.contains(key.as_str()), "{key} in {}", ours.stderr);
        }
        // Nothing of it without the file, and options win.
        assert_eq!(hi(copy.path(), &["--no-generation-config"]).success().stdout, hi(&plain, &[]).stdout);
    }
    let copy = with_settings(&json!({
        "do_sample": true, "temperature": 1.7, "repetition_penalty": 1.5, "num_beams": 2, "max_new_tokens": 3,
    }));
    let options = ["--greedy", "--repetition-penalty", "1", "--num-beams", "1", "--max-new-tokens", "7"];
    let run = hi(copy.path(), &options).success();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), (&*hi(&plain, &options).stdout, ""));
    // An option of sampling asks for it, and takes the rest from the file.
    let copy = with_settings(&json!({"temperature": 1.7, "top_p": 0.8}));
    let silent = hi(copy.path(), &[]).success();
    assert!(silent.stderr.contains("temperature and top_p without `do_sample`"), "{}", silent.stderr);
    assert_eq!(silent.stdout, hi(&plain, &[]).stdout);
    let asked = hi(copy.path(), &["--top-k", "20"]).success().stdout;
    assert_eq!(asked, hi(&plain, &["--top-k", "20", "--temperature", "1.7", "--top-p", "0.8"]).stdout);
}

fn token_ids_of(line: &str) -> Vec<i64> {
    integers(&serde_json::from_str::<Value>(line).unwrap()["token_ids"])
}

#[test]
fn settings_that_are_not_used_are_told_or_refused() {
    let run = hi(with_settings(&json!({"chat_format": "raw", "top_n": 1})).path(), &[]).success();
    assert!(
        run.stderr.contains("unknown keys") && run.stderr.contains("chat_format, top_n"),
        "{}",
        run.stderr
    );
    let active = with_settings(&json!({"penalty_alpha": 0.6}));
    hi(active.path(), &[]).error(&["generation_config.json", "`penalty_alpha` is 0.6"]);
    otter_with_input(&arguments!["chat", "--model", active.path()], b"hi\n").error(&["penalty_alpha"]);
    hi(active.path(), &["--no-generation-config"]).success();
    // Settings of drawing change nothing where the most probable token is taken, nor do those of a search without one.
    let greedy = hi(&golden("llama/checkpoint"), &[]).success().stdout;
    let drawing = with_settings(&json!({"min_p": 0.1, "typical_p": 0.9}));
    let run = hi(drawing.path(), &[]).success();
    assert!(run.stderr.contains("typical_p without `do_sample` change nothing"), "{}", run.stderr);
    assert!(run.stderr.contains("min_p") && run.stdout == greedy, "{}", run.stderr);
    hi(drawing.path(), &["--num-beams", "2"]).success();
    hi(drawing.path(), &["--temperature", "0.8"]).error(&["generation_config.json", "`min_p` is 0.1"]);
    let sampled = with_settings(&json!({"do_sample": true, "top_h": 0.4}));
    hi(sampled.path(), &[]).error(&["`top_h` is 0.4", "--no-generation-config"]);
    assert_eq!(hi(sampled.path(), &["--greedy"]).success().stdout, greedy);
    let searched = with_settings(&json!({"renormalize_logits": true}));
    let run = hi(searched.path(), &[]).success();
    assert!(
        run.stderr.contains("`renormalize_logits` without beams") && run.stdout == greedy,
        "{}",
        run.stderr
    );
    hi(searched.path(), &["--num-beams", "2"]).error(&["`renormalize_logits` is true"]);
    let neutral =
        json!({"penalty_alpha": null, "typical_p": 1.0, "guidance_scale": 1.0, "num_beam_groups": 1});
    assert_eq!(hi(with_settings(&neutral).path(), &[]).success().stderr, "");
    // A file that was only made from config.json decides nothing.
    let derived =
        json!({"_from_model_config": true, "do_sample": true, "temperature": 3.0, "repetition_penalty": 5.0});
    for options in [&[][..], &["--decoding", "reference"]] {
        let run = hi(with_settings(&derived).path(), options).success();
        let expected = hi(with_settings(&json!({})).path(), options).success().stdout;
        assert_eq!(run.stdout, expected, "{options:?}");
    }
    for (settings, named) in [
        (json!({"num_return_sequences": 4}), "num_return_sequences 4 of "),
        (json!({"num_beams": 1000}), "num_beams 1000 of "),
        (json!({"max_new_tokens": 99_999_999}), "`max_new_tokens` is 99999999"),
    ] {
        hi(with_settings(&settings).path(), &[]).error(&[named, "generation_config.json"]);
    }
    let beams = with_settings(&json!({"num_beams": 4}));
    let chat = otter_with_input(&arguments!["chat", "--model", beams.path()], b"").success();
    assert!(chat.stderr.contains("`num_beams` is not used"), "{}", chat.stderr);
    let short = with_settings(&json!({"max_length": 4}));
    let run = hi(short.path(), &[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    let told = "error: `max_length` of generation_config.json: 4 leaves nothing after a prompt of";
    assert!(run.stderr.contains(told) && run.stderr.contains("--max-new-tokens"), "{}", run.stderr);
    hi(short.path(), &["--max-new-tokens", "2"]).success();
    // A byte order mark is no damage.
    let marked = with_settings(&json!({"max_new_tokens": 2}));
    let file = marked.file("generation_config.json");
    std::fs::write(&file, [b"\xef\xbb\xbf".as_slice(), &std::fs::read(&file).unwrap()].concat()).unwrap();
    assert_eq!(token_ids(hi(marked.path(), &[])).len(), 2);
    std::fs::write(&file, "[1]").unwrap();
    hi(marked.path(), &[]).error(&["generation_config.json", "expected an object"]);
}

/// A copy keeps what somebody wrote.
#[test]
fn a_conversion_keeps_the_settings() {
    let settings = json!({"eos_token_id": [2, 9], "temperature": 0.5, "do_sample": true});
    let copy = with_settings(&settings);
    copy.edit_json("config.json", |config| config["text_config"]["eos_token_id"] = json!([2, 9]));
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out");
    otter(&arguments!["convert", copy.path(), "--out", out, "--dtype", "f16"]).success();
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() };
    assert_eq!(read("generation_config.json"), settings);
    assert_eq!(read("config.json")["text_config"]["eos_token_id"], json!([2, 9]));
}

#[test]
fn a_prompt_beyond_the_trained_length_is_told_with_both_numbers() {
    for (case, key) in
        [("llama/checkpoint", "max_position_embeddings"), ("mpt7b-style/checkpoint", "max_seq_len")]
    {
        let copy = CheckpointCopy::new(case, |_| {});
        copy.edit_json("config.json", |config| config["text_config"][key] = json!(12));
        let warned = |said: &str, numbers: &[&str]| {
            let line = said.lines().find(|line| line.contains("was trained with at most 12"));
            let line = line.unwrap_or_else(|| panic!("{case}: no warning in {said}"));
            assert!(line.starts_with("warning: ") && numbers.iter().all(|n| line.contains(n)), "{line}");
        };
        let long = "User: what is it that you see here? GPT:<answer>";
        let tokenizer = otter_checkpoint::load_tokenizer(copy.path()).unwrap();
        let count = tokenizer.encode(long).unwrap().len() + tokenizer.prompt_prefix().len();
        let run = generate(copy.path(), &prompt(long, &[]), &["--max-new-tokens", "1"]).success();
        warned(&run.stderr, &[&format!("has {count} tokens")]);
        let run = generate(copy.path(), &prompt("a", &[]), &["--max-new-tokens", "14"]).success();
        warned(&run.stderr, &["14 more"]);
        let run = generate(copy.path(), &prompt("a", &[]), &["--max-new-tokens", "2"]).success();
        assert_eq!(run.stderr, "");
        let (_, said) = score(copy.path(), long, " a");
        warned(&said, &[]);
        let chat = arguments!["chat", "--model", copy.path(), "--max-new-tokens", "1"];
        warned(&otter_with_input(&chat, b"what is it that you see here?\n").success().stderr, &[]);
    }
}
