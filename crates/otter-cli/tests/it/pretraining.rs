//! Pre-training from end to end: raw files to shards, a look at samples, a short run on both kinds of streams.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{golden, otter};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

const PICTURES: [(&str, &str); 4] = [
    ("photo.jpg", "a photo"),
    ("wide.png", "something wide"),
    ("tall.png", "something tall"),
    ("grey.png", "all gray"),
];

fn picture(name: &str) -> Vec<u8> {
    fs::read(golden("images").join(name)).unwrap()
}

/// Two files of tab-separated lines with eight captions, the fourth image damaged.
fn caption_files(place: &Path) -> [PathBuf; 2] {
    let (mut images, mut texts) = (String::new(), String::new());
    for number in 0..8 {
        let (name, caption) = PICTURES[number % 4];
        let image = if number == 3 { "a".to_owned() } else { STANDARD.encode(picture(name)) };
        images.push_str(&format!("key{number}\t{image}\n"));
        texts.push_str(&format!("key{number}\t{}\n", json!({"captions": [caption, "second"]})));
    }
    [("images.tsv", images), ("texts.tsv", texts)].map(|(name, content)| {
        let path = place.join(name);
        fs::write(&path, content).unwrap();
        path
    })
}

/// A page that shows two pictures, of which its list of images has one more that is nowhere.
fn page() -> Value {
    json!({
        "text_list": ["Here is", "something wide", "and something tall"],
        "image_info": [{"image_name": "tall.png"}, {"image_name": "gone.png"}, {"image_name": "wide.png"}],
        "similarity_matrix": [[0.1, 0.2, 0.3], [0.2, 0.2, 0.2], [0.1, 0.3, 0.2]],
    })
}

#[test]
fn from_raw_files_to_a_run() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let [images, texts] = caption_files(place.path());
    let pages =
        format!("{}\n[]\n{}\n", page(), json!({"text_list": [], "image_info": [{"image_name": "gone.png"}]}));
    fs::write(path("pages.jsonl"), pages).unwrap();

    let shards = |more: &[&str]| {
        let mut arguments = arguments!["data", "shards", "--json", "--out"].to_vec();
        arguments.extend(more.iter().map(Into::into));
        otter(&arguments)
    };
    let (captions, documents) = (path("captions"), path("documents"));
    let tsv = [
        captions.to_str().unwrap(),
        "--caption-images",
        images.to_str().unwrap(),
        "--caption-texts",
        texts.to_str().unwrap(),
        "--shard-samples",
        "3",
    ];
    let report = shards(&tsv).json();
    assert_eq!((&report["used"], &report["shards"]), (&7.into(), &3.into()));
    assert_eq!(report["skipped"], json!({"bad_image": 1}));
    assert!(report["examples"]["bad_image"].as_str().unwrap().contains("line 4"), "{report}");
    // Nothing is mixed with what is there.
    shards(&tsv).error(&["captions", "already holds"]);

    let pages = path("pages.jsonl");
    let golden_images = golden("images");
    let from_pages = [
        documents.to_str().unwrap(),
        "--documents",
        pages.to_str().unwrap(),
        "--images",
        golden_images.to_str().unwrap(),
    ];
    let report = shards(&from_pages).json();
    assert_eq!(
        (&report["used"], &report["shards"], &report["missing_images"]),
        (&1.into(), &1.into(), &2.into())
    );
    assert_eq!(report["skipped"], json!({"bad_record": 1, "no_images": 1}));

    let config = path("run.toml");
    let text = format!(
        "[model]\ninit_from = {model:?}\n\
         [data]\nimage_size = 28\non_bad_sample = \"error\"\n\
         [[data.streams]]\ngroup = \"IMAGE_CAPTION\"\nfiles = \"captions/{{000000000..000000002}}.tar\"\nweight = 1\n\
         [[data.streams]]\ngroup = \"INTERLEAVED\"\nfiles = [\"documents\"]\nmin_image_bytes = 0\nweight = 1\n\
         [optimizer]\nlearning_rate = 1e-2\n[schedule]\nwarmup_steps = 2\n\
         [train]\nrun_dir = {run:?}\nsteps = 30\nbatch_size = 4\nlog_every = 1\n\
         train_embedding_rows = [\"<image>\", \"<|endofchunk|>\"]\n",
        model = golden("llama/checkpoint"),
        run = path("run"),
    );
    fs::write(&config, text).unwrap();

    let show = |index: &str| {
        otter(&arguments!["data", "show", "--json", "--config", &config, "--index", index]).json()
    };
    let caption = show("4");
    assert_eq!(caption["group"], "IMAGE_CAPTION");
    assert_eq!(caption["text"], "<image>something wide<|endofchunk|>");
    assert_eq!(caption["images"][0].as_array().unwrap().len(), 1);
    let document = show("7");
    assert_eq!(document["group"], "INTERLEAVED");
    assert_eq!(
        document["text"],
        "Here is<image>something wide<|endofchunk|><image>and something tall<|endofchunk|>"
    );
    let runs = document["runs"].as_array().unwrap();
    let trained = runs.iter().filter(|run| run["trained"] == true).map(|run| run["text"].as_str().unwrap());
    assert_eq!(
        trained.collect::<Vec<_>>(),
        ["something wide<|endofchunk|>", "and something tall<|endofchunk|>"]
    );
    assert_eq!(document["images"][0][0]["width"].as_u64(), Some(image_width("wide.png")));

    // What reads sets only says so, rather than finding nothing wrong with nothing.
    otter(&arguments!["data", "stats", &config]).error(&["run.toml", "[[data.streams]]"]);

    let summary = otter(&arguments!["train", "--config", &config, "--json"]).json();
    assert_eq!((&summary["outcome"], &summary["step"]), (&"completed".into(), &30.into()));
    assert_eq!(summary["skipped"], json!({}));
    let metrics = fs::read_to_string(path("run/metrics.jsonl")).unwrap();
    let losses: Vec<f64> = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter_map(|line| line["loss"].as_f64())
        .collect();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(losses.len() >= 30 && losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    let (first, last) = (mean(&losses[..5]), mean(&losses[25..30]));
    assert!(last < 0.8 * first, "the loss falls: {losses:?}");
}

fn image_width(name: &str) -> u64 {
    otter_data::load_image_file(&golden("images").join(name), otter_data::ImageRules::default())
        .unwrap()
        .width() as u64
}

#[test]
fn shards_of_nothing_are_no_success_and_marks_are_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name);
    let mut page = page();
    page["image_info"][0]["image_base64"] = STANDARD.encode(picture("tall.png")).into();
    fs::write(path("pages.jsonl"), format!("\u{feff}{page}\n")).unwrap();
    let run = otter(&arguments![
        "data",
        "shards",
        "--documents",
        path("pages.jsonl"),
        "--out",
        path("a"),
        "--json"
    ]);
    assert!(run.stderr.contains("warning: 2 listed images were not found"), "{}", run.stderr);
    assert!(run.stderr.contains("image gone.png is named"), "{}", run.stderr);
    assert_eq!(run.json()["used"], 1);
    let named = json!({"text_list": ["a"], "image_info": [{"image_name": "x.png"}]});
    let odd = json!({"text_list": ["a"], "image_info": ["x.png"]});
    fs::write(path("none.jsonl"), format!("{named}\n{odd}\n")).unwrap();
    otter(&arguments!["data", "shards", "--documents", path("none.jsonl"), "--out", path("b")]).error(&[
        "none.jsonl",
        "1 [no_images]",
        "none/0",
        "x.png",
        "1 [bad_record]",
        "`image_info[0]`",
    ]);
    assert_eq!(fs::read_dir(path("b")).map_or(0, Iterator::count), 0);
    let wide: Vec<u8> = "{\"a\":1}\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    fs::write(path("wide.jsonl"), wide).unwrap();
    otter(&arguments!["data", "shards", "--documents", path("wide.jsonl"), "--out", path("c")])
        .error(&["UTF-16"]);
}
