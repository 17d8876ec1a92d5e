//! Picking in-context examples: encoders against recordings, the approximate index against the exact one, rules, resumed runs.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use otter_mimicit::retrieve::{
    EmbeddingSource, ExampleOrder, Heuristic, ImageEncoder, ImagePooling, IndexKind, Ivf, IvfOptions,
    Observer, RetrieveOptions, RetrieveReport, Rices, SearchPlan, SentenceEncoder, Stage, Vectors,
    normalize_rows, retrieve, search_exactly,
};
use otter_model::vision::ClipVision;
use otter_nn::{Device, ParameterSpecs, Parameters, Tensor};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance, "{found} is not {expected}");
    }
}

// ---- encoders

#[test]
fn sentence_vectors_equal_those_of_pytorch() {
    for name in ["bert", "xlm_roberta"] {
        let expected = read(&fixture(name).join("expected.json"));
        let texts: Vec<&str> =
            expected["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let encoder = SentenceEncoder::load(&fixture(name)).unwrap();
        let vectors = encoder.encode(&texts).unwrap();
        let wanted: Vec<f32> = expected["vectors"].as_array().unwrap().iter().flat_map(floats).collect();
        assert_near(&vectors, &wanted, 2e-6);
        // Alone as in company.
        assert_near(
            &encoder.encode(&texts[5..6]).unwrap(),
            &wanted[5 * encoder.width()..][..encoder.width()],
            2e-6,
        );
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

/// Changes a file of a folder.
type Damage = Box<dyn Fn(&Path)>;

#[test]
fn sentence_encoders_that_are_not_understood_are_refused() {
    let set = |file: &'static str, key: &'static str, value: Value| {
        move |folder: &Path| {
            let mut json = read(&folder.join(file));
            json[key] = value.clone();
            std::fs::write(folder.join(file), json.to_string()).unwrap();
        }
    };
    let write = |file: &'static str, text: &'static str| {
        move |folder: &Path| std::fs::write(folder.join(file), text).unwrap()
    };
    let config = "config.json";
    let cases: Vec<(Damage, &str)> = vec![
        (Box::new(set(config, "model_type", json!("gpt2"))), "model_type"),
        (Box::new(set(config, "hidden_size", json!(30))), "multiple of num_attention_heads"),
        (Box::new(set(config, "hidden_size", json!(64))), "has shape"),
        (Box::new(set(config, "hidden_size", json!(u64::MAX))), "hidden_size"),
        (Box::new(set(config, "num_hidden_layers", json!(3))), "encoder.layer.2"),
        (Box::new(set(config, "num_hidden_layers", json!(1))), "belongs to no BERT"),
        (Box::new(set(config, "hidden_act", json!("silu"))), "hidden_act"),
        (Box::new(set("1_Pooling/config.json", "pooling_mode_max_tokens", json!(true))), "exactly one"),
        (Box::new(write("modules.json", r#"[{"path":"../x","type":"a.Pooling"}]"#)), "leaves the folder"),
        (Box::new(write("modules.json", r#"[{"path":"2_Dense","type":"a.Dense"}]"#)), "a.Dense"),
        (Box::new(write("modules.json", "[{")), "modules.json"),
        (Box::new(write("vocab.txt", "a\nb\n")), "[SEP]"),
        (Box::new(write("tokenizer.json", r#"{"version":"1.0","decoder":{"type":"Seq"#)), "tokenizer.json"),
        (Box::new(set("sentence_bert_config.json", "max_seq_length", json!(2))), "nothing is left"),
        (Box::new(write("model.safetensors", "short")), "model.safetensors"),
    ];
    for (damage, part) in cases {
        let folder = tempfile::tempdir().unwrap();
        copy(&fixture("bert"), folder.path());
        damage(folder.path());
        let message = SentenceEncoder::load(folder.path()).err().unwrap().to_string();
        assert!(message.contains(part), "no '{part}' in {message}");
    }
}

#[test]
fn class_features_equal_those_of_pytorch() {
    let checkpoint = otter_checkpoint::Checkpoint::open(&golden("llama/checkpoint")).unwrap();
    let mut specs = ParameterSpecs::default();
    let config = &checkpoint.config.model.vision;
    let tower = ClipVision::new(&mut specs, "vision_encoder.vision_model", config);
    let parameters = Parameters::<f32>::build(&specs, Device::Cpu, |spec| {
        checkpoint
            .weights
            .read_f32(&spec.name)
            .map(|values| Tensor::from_vec(values, &spec.shape, Device::Cpu))
    })
    .unwrap();
    let side = config.image_size;
    let pixels = (0..2 * 3 * side * side).map(|i| ((i * 37) % 101) as f32 / 64.0 - 0.75).collect();
    let pixels = Tensor::from_vec(pixels, &[2, 3, side, side], Device::Cpu);
    let expected: Vec<f32> =
        read(&fixture("clip_class.json")).as_array().unwrap().iter().flat_map(floats).collect();
    assert_near(tower.class_features(&parameters, &pixels).data(), &expected, 1e-5);
}

fn picture(seed: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let base: [u8; 3] = [random.next_u32() as u8, random.next_u32() as u8, random.next_u32() as u8];
    let image = image::RgbImage::from_fn(16, 16, |x, y| {
        image::Rgb([base[0], base[1].wrapping_add((x * 9) as u8), base[2].wrapping_add((y * 5) as u8)])
    });
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn rices_finds_the_same_picture() {
    for pooling in [ImagePooling::Class, ImagePooling::Mean] {
        let encoder = ImageEncoder::load(&golden("llama/checkpoint"), pooling).unwrap();
        let support = (0..40).map(|seed| (seed != 7).then(|| picture(seed)));
        let rices = Rices::new(encoder, support);
        let nearest = rices.select(picture(33), 4, &[], ExampleOrder::NearestFirst).unwrap();
        assert_eq!((nearest.len(), nearest[0]), (4, 33));
        let mut last = rices.select(picture(33), 3, &[33], ExampleOrder::NearestLast).unwrap();
        last.reverse();
        assert_eq!(last, nearest[1..]);
        assert!(!rices.select(picture(1), 100, &[], ExampleOrder::NearestLast).unwrap().contains(&7));
        assert!(rices.select(b"no picture".to_vec(), 4, &[], ExampleOrder::NearestLast).is_err());
    }
}

// ---- indices

/// Unit vectors around random centers, as embeddings of a real set are: many near-repetitions, few directions.
fn clustered(rows: usize, width: usize, clusters: usize, spread: f32) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut noise = move || (0..6).map(|_| random.next_u32() as f32 / u32::MAX as f32).sum::<f32>() - 3.0;
    let centers: Vec<f32> = (0..clusters * width).map(|_| noise()).collect();
    let mut vectors = Vec::with_capacity(rows * width);
    for row in 0..rows {
        let center = &centers[row * 7919 % clusters * width..][..width];
        vectors.extend(center.iter().map(|value| value + spread * noise()));
    }
    normalize_rows(&mut vectors, width);
    vectors
}

#[test]
fn the_exact_search_is_exact() {
    // More than one block of queries and of items.
    let (rows, width, k) = (4500, 8, 7);
    let vectors = Vectors::from_rows(&clustered(rows, width, 50, 0.3), width);
    let mut queries = vec![0.0; rows * width];
    vectors.read(0, &mut queries);
    let found = search_exactly(&vectors, &queries, k);
    for query in (0..rows).step_by(97) {
        let mut all: Vec<(f32, usize)> = (0..rows)
            .map(|item| {
                let pairs = queries[query * width..][..width].iter().zip(&queries[item * width..][..width]);
                (pairs.map(|(a, b)| a * b).sum(), item)
            })
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (found, naive) in found[query].iter().zip(&all) {
            assert!((found.similarity - naive.0).abs() < 1e-5);
        }
        assert!(found[query].iter().any(|neighbor| neighbor.item as usize == query));
    }
}

#[test]
fn the_approximate_index_recalls_the_neighbors() {
    let (rows, width, k) = (6000, 48, 10);
    let vectors = Vectors::from_rows(&clustered(rows, width, 300, 0.6), width);
    let options = IvfOptions { lists: 256, probes: 24, seed: 4 };
    let index = Ivf::build(&vectors, &options, &mut |_| true).unwrap();
    assert_eq!(index.order().iter().collect::<HashSet<_>>().len(), rows, "every item is in one list");
    let mut queries = vec![0.0; 800 * width];
    vectors.read(100, &mut queries);
    let exact = search_exactly(&vectors, &queries, k);
    let approximate = index.search(&vectors, &queries, k);
    let recalled: usize = exact
        .iter()
        .zip(&approximate)
        .map(|(exact, found)| exact.iter().filter(|e| found.iter().any(|f| f.item == e.item)).count())
        .sum();
    let recall = recalled as f64 / (800 * k) as f64;
    assert!(recall >= 0.95, "recall@10 {recall}");
    // Looking into all lists is exact, and the stored index is the index.
    let all = Ivf::build(&vectors, &IvfOptions { probes: 256, ..options }, &mut |_| true).unwrap();
    let again = Ivf::from_bytes(&all.to_bytes(), width, rows).unwrap();
    for (exact, found) in exact.iter().zip(again.search(&vectors, &queries, k)) {
        let items =
            |list: &[otter_mimicit::retrieve::Neighbor]| list.iter().map(|n| n.item).collect::<Vec<_>>();
        assert_eq!(items(exact), items(&found));
    }
    for cut in [0, 8, 40, 1000] {
        assert!(Ivf::from_bytes(&all.to_bytes()[..cut], width, rows).is_none());
    }
}

// ---- whole runs

/// Goes on until `stop_after` calls.
struct Silent {
    stop_after: usize,
    plan: Option<SearchPlan>,
    stages: HashSet<&'static str>,
}

fn silent() -> Silent {
    Silent { stop_after: usize::MAX, plan: None, stages: HashSet::new() }
}

impl Observer for Silent {
    fn plan(&mut self, plan: &SearchPlan) {
        self.plan = Some(plan.clone());
    }

    fn progress(&mut self, stage: Stage, _done: u64, _total: u64) -> bool {
        self.stages.insert(match stage {
            Stage::Read => "read",
            Stage::Embed => "embed",
            Stage::Index => "index",
            Stage::Search => "search",
            Stage::Pick => "pick",
        });
        self.stop_after = self.stop_after.saturating_sub(1);
        self.stop_after > 0
    }
}

fn options(folder: &Path, heuristic: Heuristic, k: usize) -> RetrieveOptions {
    RetrieveOptions {
        heuristic,
        k,
        out: folder.join("train.json"),
        work: None,
        keep_work: false,
        queries: None,
        images: Vec::new(),
        index: None,
        lists: None,
        probes: None,
        allow_same_image: false,
        per_instruction: None,
        order: ExampleOrder::NearestFirst,
        seed: 0,
    }
}

const TFIDF: EmbeddingSource = EmbeddingSource::TfIdf { width: 128 };

/// Id, instruction, answer, image ids, related ids.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [&'a str], &'a [&'a str]);

fn write_set(folder: &Path, records: &[Row<'_>]) -> PathBuf {
    let mut data = serde_json::Map::new();
    for (id, instruction, answer, images, related) in records {
        let record = json!({"instruction": instruction, "answer": answer, "image_ids": images, "rel_ins_ids": related});
        data.insert((*id).to_owned(), record);
    }
    let path = folder.join("set.json");
    std::fs::write(&path, json!({"meta": {}, "data": data}).to_string()).unwrap();
    path
}

fn run(set: &Path, options: &RetrieveOptions) -> (BTreeMap<String, Vec<String>>, RetrieveReport) {
    let report = retrieve(set, options, &mut silent()).unwrap();
    (serde_json::from_slice(&std::fs::read(&options.out).unwrap()).unwrap(), report)
}

#[test]
fn text_examples_follow_the_rules() {
    let place = tempfile::tempdir().unwrap();
    let set = write_set(
        place.path(),
        &[
            ("q", "How many cats are on the sofa?", "Two.", &["I1"], &[]),
            ("same_image", "How many cats are on the sofa now?", "Three.", &["I1"], &[]),
            ("twin", " How many cats are on the sofa? ", "Two. ", &["I2"], &[]),
            ("near", "How many cats are on the sofa?", "Five.", &["I3"], &[]),
            ("near_image", "How many cats are on the sofa today?", "Six.", &["I3"], &[]),
            ("far", "Describe the colour of a boat.", "Red.", &["I4"], &[]),
            ("further", "Is it raining outside?", "No.", &["I5"], &[]),
            ("empty", "  ", "Nothing.", &["I6"], &[]),
            ("marks", "?!", "Nothing.", &["I7"], &[]),
        ],
    );
    let text = || Heuristic::Text(TFIDF);
    let (found, report) = run(&set, &options(place.path(), text(), 3));
    // Not itself, not the twin (same instruction and answer), not another answer to its image nor to one picked before.
    assert_eq!(found["q"][0], "near");
    assert_eq!(
        found["q"][1..].iter().collect::<HashSet<_>>(),
        HashSet::from([&"far".to_owned(), &"further".to_owned()])
    );
    assert!(found["empty"].is_empty() && found["marks"].is_empty());
    assert!(found.values().flatten().all(|id| id != "empty" && id != "marks"));
    assert_eq!((report.queries, report.written, report.none), (9, 9, 2));
    assert_eq!(report.unusable, BTreeMap::from([("empty_instruction", 1), ("no_embedding", 1)]));
    assert!(report.turned_away.duplicate > 0 && report.turned_away.same_image > 0);
    assert!(!place.path().join("train.json.work").exists(), "nothing is left behind");

    let (found, _) =
        run(&set, &RetrieveOptions { allow_same_image: true, ..options(place.path(), text(), 3) });
    let firsts: HashSet<&str> = found["q"].iter().map(String::as_str).collect();
    assert_eq!(firsts, HashSet::from(["near", "same_image", "near_image"]));

    let last = RetrieveOptions { order: ExampleOrder::NearestLast, ..options(place.path(), text(), 3) };
    assert_eq!(run(&set, &last).0["q"][2], "near");

    let queries = place.path().join("queries.json");
    std::fs::write(&queries, r#"{"far": [], "absent": [], "q": ["far"]}"#).unwrap();
    let (found, report) =
        run(&set, &RetrieveOptions { queries: Some(queries), ..options(place.path(), text(), 1) });
    assert_eq!(found.keys().collect::<Vec<_>>(), ["far", "q"]);
    assert_eq!((report.queries, report.unknown_queries, report.full), (3, 1, 2));
}

/// The nearest hundred are all turned away, so the search must go deeper.
#[test]
fn a_deeper_search_finds_what_the_rules_leave() {
    let place = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (0..160).map(|i| format!("r{i:03}")).collect();
    let texts: Vec<String> =
        (0..160)
            .map(|i| {
                if i < 120 {
                    format!("How many cats sit on sofa {i}?")
                } else {
                    format!("Describe boat {i}.")
                }
            })
            .collect();
    let images: Vec<String> = (0..160).map(|i| if i < 120 { "I".into() } else { format!("J{i}") }).collect();
    let images: Vec<[&str; 1]> = images.iter().map(|image| [image.as_str()]).collect();
    let records: Vec<Row<'_>> =
        (0..160).map(|i| (ids[i].as_str(), texts[i].as_str(), "Yes.", &images[i][..], &[][..])).collect();
    let set = write_set(place.path(), &records);
    for index in [IndexKind::Exact, IndexKind::Approximate] {
        let probes = Some(1000);
        let options = RetrieveOptions {
            index: Some(index),
            probes,
            ..options(place.path(), Heuristic::Text(TFIDF), 4)
        };
        let (found, report) = run(&set, &options);
        assert_eq!(report.full, 160, "{report:?}");
        assert!(report.searched_deeper >= 120);
        assert!(found["r005"].iter().all(|id| id.as_str() >= "r120"), "{:?}", found["r005"]);
    }
}

#[test]
fn scene_examples_are_related_then_of_the_same_image_then_of_the_nearest_frames() {
    let place = tempfile::tempdir().unwrap();
    let set = write_set(
        place.path(),
        &[
            ("f9", "Nine?", "9", &["DC_IMG_vid_0009"], &[]),
            ("f5", "Five?", "5", &["DC_IMG_vid_0005"], &["other", "gone"]),
            ("f5b", "Five again?", "5b", &["DC_IMG_vid_0005"], &[]),
            ("f4", "Four?", "4", &["DC_IMG_vid_0004"], &[]),
            ("other", "Other?", "o", &["DC_IMG_abc_0005"], &[]),
            ("photo", "Photo?", "p", &["LA_IMG_000000000001"], &[]),
            ("photo2", "Photo two?", "p2", &["LA_IMG_000000000002"], &[]),
            ("text", "Text?", "t", &[], &[]),
        ],
    );
    let (found, report) = run(&set, &options(place.path(), Heuristic::Scene, 8));
    assert_eq!(found["f5"], ["other", "f5b", "f4", "f9"]);
    assert_eq!(found["f9"], ["f5", "f5b", "f4"]);
    for id in ["photo", "photo2", "text"] {
        assert!(found[id].is_empty());
    }
    assert_eq!((report.fewer, report.none), (4, 4));
}

#[test]
fn random_examples_depend_on_the_seed_only() {
    let place = tempfile::tempdir().unwrap();
    let set = golden("data/image_text_instructions.json");
    let with = |seed| RetrieveOptions { seed, ..options(place.path(), Heuristic::Random, 3) };
    let (one, report) = run(&set, &with(1));
    assert_eq!(report.full, 9);
    assert_eq!(one, run(&set, &with(1)).0);
    assert_ne!(one, run(&set, &with(2)).0);
    for (id, examples) in &one {
        assert!(!examples.contains(id));
        assert_eq!(examples.iter().collect::<HashSet<_>>().len(), 3);
    }
}

#[test]
fn image_examples_by_precomputed_vectors_and_by_the_tower() {
    let place = tempfile::tempdir().unwrap();
    let records: Vec<(String, String, [String; 1])> =
        (0..12).map(|i| (format!("r{i}"), format!("Question {i}?"), [format!("I{}", i / 2)])).collect();
    let images: Vec<[&str; 1]> = records.iter().map(|record| [record.2[0].as_str()]).collect();
    let rows: Vec<Row<'_>> = records
        .iter()
        .zip(&images)
        .map(|((id, text, _), images)| (id.as_str(), text.as_str(), "A.", &images[..], &[][..]))
        .collect();
    let set = write_set(place.path(), &rows);
    // Image i points to angle i * 10 degrees.
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 2), }\n";
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    for i in 0..5_u8 {
        let angle = f32::from(i) * 10.0_f32.to_radians();
        npy.extend([angle.cos(), angle.sin()].into_iter().flat_map(f32::to_le_bytes));
    }
    let (matrix, ids) = (place.path().join("m.npy"), place.path().join("ids.txt"));
    std::fs::write(&matrix, npy).unwrap();
    std::fs::write(&ids, "I0\nI1\nI2\nI3\nI4\n").unwrap();
    let source = EmbeddingSource::Precomputed { matrix, ids };
    let (found, report) = run(&set, &options(place.path(), Heuristic::Image(source), 3));
    let images_of = |id: &str| -> Vec<usize> {
        found[id].iter().map(|example| example[1..].parse::<usize>().unwrap() / 2).collect()
    };
    assert_eq!(images_of("r0"), [1, 2, 3]);
    assert_eq!(images_of("r9"), [3, 2, 1]);
    assert_eq!(report.unusable, BTreeMap::from([("no_embedding", 2)]), "I5 has no vector");

    // The tower: I0 and I3 are the same picture under two names, I5 is broken, I4 is missing.
    let folder = place.path().join("images");
    std::fs::create_dir(&folder).unwrap();
    for (name, seed) in [("I0", 1), ("I1", 2), ("I2", 3), ("I3", 1)] {
        std::fs::write(folder.join(name).with_extension("png"), picture(seed)).unwrap();
    }
    std::fs::write(folder.join("I5.png"), b"broken").unwrap();
    let source = EmbeddingSource::Tower { model: golden("llama/checkpoint"), pooling: ImagePooling::Class };
    let tower =
        RetrieveOptions { images: vec![folder], ..options(place.path(), Heuristic::Image(source), 5) };
    let (found, report) = run(&set, &tower);
    assert_eq!(report.unusable, BTreeMap::from([("missing_image", 2), ("no_embedding", 2)]));
    let images_of = |id: &str| -> HashSet<usize> {
        found[id].iter().map(|example| example[1..].parse::<usize>().unwrap() / 2).collect()
    };
    assert_eq!(images_of("r0"), HashSet::from([1, 2]), "not the same picture under another name");
    assert_eq!(found["r2"].len(), 2, "one example a picture: {:?}", found["r2"]);
    assert_eq!(report.items, 4);
}

/// A set of some thousand texts, enough for several blocks.
fn large_set(folder: &Path) -> PathBuf {
    let mut data = serde_json::Map::new();
    for i in 0..5000_u32 {
        let (color, thing) = (["red", "blue", "green", "black"][i as usize % 4], i * 7919 % 4999);
        let text = format!("Where is the {color} thing number {thing} of the row?");
        let record =
            json!({"instruction": text, "answer": i.to_string(), "image_ids": [format!("I{}", i / 3)]});
        data.insert(format!("r{i}"), record);
    }
    let path = folder.join("set.json");
    std::fs::write(&path, json!({ "data": data }).to_string()).unwrap();
    path
}

/// Stopped after every possible number of progress calls, then resumed: the file is that of an uninterrupted run.
#[test]
fn an_interrupted_run_gives_the_same_file() {
    let place = tempfile::tempdir().unwrap();
    let set = large_set(place.path());
    for index in [IndexKind::Exact, IndexKind::Approximate] {
        let source = match index {
            IndexKind::Exact => EmbeddingSource::SentenceTransformer(fixture("bert")),
            IndexKind::Approximate => TFIDF,
        };
        let plain =
            RetrieveOptions { index: Some(index), ..options(place.path(), Heuristic::Text(source), 5) };
        let expected = run(&set, &plain).0;
        let mut stopped = 0;
        for stop_after in (1..).step_by(if index == IndexKind::Exact { 1 } else { 7 }) {
            let folder = tempfile::tempdir().unwrap();
            let again = RetrieveOptions { out: folder.path().join("t.json"), ..plain.clone() };
            let first = retrieve(&set, &again, &mut Silent { stop_after, ..silent() });
            if first.is_ok() {
                break;
            }
            stopped += 1;
            assert!(!again.out.exists(), "no half file");
            // What a kill in the middle of a write leaves.
            for name in ["embeddings.f16", "neighbors.bin"] {
                let path = folder.path().join("t.json.work").join(name);
                if let Ok(mut bytes) = std::fs::read(&path) {
                    bytes.extend([9; 5]);
                    let _ = std::fs::write(&path, bytes);
                }
            }
            retrieve(&set, &again, &mut silent()).unwrap();
            let found: BTreeMap<String, Vec<String>> =
                serde_json::from_slice(&std::fs::read(&again.out).unwrap()).unwrap();
            assert_eq!(found, expected, "stopped after {stop_after}");
        }
        assert!(stopped >= 8, "{stopped}");
    }
}

/// With a list of queries only these are searched for, and get what they get among all.
#[test]
fn few_queries_cost_a_search_of_few() {
    let place = tempfile::tempdir().unwrap();
    let set = large_set(place.path());
    let few = place.path().join("few.json");
    let asked = ["r3", "r17", "r2500", "r4999", "nobody"];
    let list: serde_json::Map<String, Value> = asked.iter().map(|id| ((*id).to_owned(), json!([]))).collect();
    std::fs::write(&few, Value::Object(list).to_string()).unwrap();
    for index in [IndexKind::Exact, IndexKind::Approximate] {
        let folder = tempfile::tempdir().unwrap();
        let plain = RetrieveOptions {
            index: Some(index),
            keep_work: true,
            ..options(folder.path(), Heuristic::Text(TFIDF), 5)
        };
        let all = run(&set, &plain).0;
        let only = RetrieveOptions { queries: Some(few.clone()), ..plain };
        let (found, report) = run(&set, &only);
        assert_eq!((report.unknown_queries, found.len()), (1, 4));
        assert!(found.iter().all(|(query, examples)| all[query] == *examples), "{found:?}");
        let rows = std::fs::metadata(folder.path().join("train.json.work/neighbors.bin")).unwrap().len();
        assert_eq!(rows, 4 * 8 * (2 * 5 + 16), "four rows of neighbors");
    }
}

#[test]
fn kept_work_is_used_again_unless_the_texts_changed() {
    let place = tempfile::tempdir().unwrap();
    let set = large_set(place.path());
    let kept = RetrieveOptions { keep_work: true, ..options(place.path(), Heuristic::Text(TFIDF), 5) };
    run(&set, &kept);
    let neighbors = place.path().join("train.json.work/neighbors.bin");
    let before = std::fs::metadata(&neighbors).unwrap().modified().unwrap();
    let (found, _) = run(&set, &RetrieveOptions { allow_same_image: true, ..kept.clone() });
    assert_eq!(
        std::fs::metadata(&neighbors).unwrap().modified().unwrap(),
        before,
        "nothing was searched again"
    );
    assert_eq!(found.len(), 5000);

    let text = std::fs::read_to_string(&set).unwrap().replace("thing number 0 ", "cat ");
    std::fs::write(&set, text).unwrap();
    let (changed, _) = run(&set, &kept);
    let fresh = RetrieveOptions { work: Some(place.path().join("fresh")), ..kept.clone() };
    assert_eq!(changed, run(&set, &fresh).0);
    assert_ne!(std::fs::metadata(&neighbors).unwrap().modified().unwrap(), before);
}

#[test]
fn impossible_options_are_refused() {
    let place = tempfile::tempdir().unwrap();
    let set = golden("data/image_text_instructions.json");
    let message =
        |options: RetrieveOptions| retrieve(&set, &options, &mut silent()).err().unwrap().to_string();
    assert!(message(options(place.path(), Heuristic::Random, 0)).contains("between 1 and"));
    assert!(message(options(place.path(), Heuristic::Image(TFIDF), 2)).contains("makes no vectors"));
    let tower = EmbeddingSource::Tower { model: golden("llama/checkpoint"), pooling: ImagePooling::Mean };
    assert!(message(options(place.path(), Heuristic::Image(tower), 2)).contains("pictures are not given"));
    let absent = EmbeddingSource::SentenceTransformer(place.path().join("absent"));
    assert!(message(options(place.path(), Heuristic::Text(absent), 2)).contains("absent"));
    let out = RetrieveOptions {
        out: place.path().join("no/train.json"),
        ..options(place.path(), Heuristic::Random, 2)
    };
    assert!(message(out).contains("cannot write"));
}
