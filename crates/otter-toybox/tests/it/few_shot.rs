//! The evaluator on a small toybox and a random model: every score and every generated answer must be what the model
//! gives for one query at a time, computed the slow way.

use std::path::Path;
use std::sync::Arc;

use otter_data::{DataConfig, Dataset, Sample, SpecialTokens, TextTokenizer};
use otter_eval::{
    Detail, EvaluationOptions, EvaluationRecord, Measure, ShotTable, Truth, evaluate, sample_card,
};
use otter_model::config::{
    CrossAttentionConfig, LlamaConfig, OptConfig, OtterConfig, PerceiverConfig, TextConfig, VisionConfig,
};
use otter_model::generate::{GenerationOptions, PromptBatch};
use otter_model::{Otter, TextInput, VisionInput};
use otter_nn::{Device, IGNORE_INDEX, Parameters, Tensor};
use otter_toybox::world::language::Family;
use otter_toybox::world::{FamilyCounts, ToyboxOptions, write_toybox};

const SHOTS: [usize; 3] = [0, 1, 2];

/// Sets of an evaluation: binding has two, held out and seen.
const SETS: usize = Family::ALL.len() + 1;

fn toybox(folder: &Path, queries: usize) {
    let options = ToyboxOptions {
        train: FamilyCounts::each(0),
        eval: FamilyCounts::each(queries),
        eval_shots: SHOTS.to_vec(),
        ..ToyboxOptions::default()
    };
    write_toybox(folder, &options, &mut |_| {}).unwrap();
}

fn tokenizer(folder: &Path) -> Arc<TextTokenizer> {
    let tokenizer = tokenizers::Tokenizer::from_file(folder.join("tokenizer/tokenizer.json")).unwrap();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let special = SpecialTokens {
        bos: Some(id("<s>")),
        eos: Some(id("</s>")),
        pad: id("<PAD>"),
        endofchunk: id("<|endofchunk|>"),
        image: id("<image>"),
        answer: id("<answer>"),
    };
    Arc::new(TextTokenizer::new(tokenizer, special))
}

fn datasets(folder: &Path, image_size: usize, tokenizer: &Arc<TextTokenizer>) -> Vec<(usize, Dataset)> {
    let open = |shots: usize| {
        let config: DataConfig = serde_json::from_value(serde_json::json!({
            "mimicit_yaml": folder.join(format!("eval_{shots}shot.yaml")),
            "image_size": image_size,
            "images_of_record": "media",
        }))
        .unwrap();
        (shots, Dataset::open(&config, tokenizer.clone()).unwrap())
    };
    SHOTS.into_iter().map(open).collect()
}

fn llama(vocabulary: usize) -> LlamaConfig {
    LlamaConfig {
        hidden_size: 24,
        intermediate_size: 32,
        num_hidden_layers: 4,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..LlamaConfig::llama_7b(vocabulary)
    }
}

fn model(vocabulary: usize, max_num_media: Option<usize>) -> (Otter, Parameters<f32>) {
    model_of(llama(vocabulary).into(), max_num_media)
}

fn model_of(text: TextConfig, max_num_media: Option<usize>) -> (Otter, Parameters<f32>) {
    let config = OtterConfig {
        vision: VisionConfig {
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            image_size: 16,
            patch_size: 8,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig {
            depth: 1,
            heads: 2,
            dim_head: 8,
            num_latents: 4,
            ff_mult: 2,
            max_num_frames: None,
            max_num_media,
        },
        cross_attention: CrossAttentionConfig { every_n_layers: 2, heads: 2, dim_head: 8, ff_mult: 2 },
        text,
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    };
    let (otter, specs) = Otter::new(&config).unwrap();
    let mut parameters = Parameters::initialize(&specs, 3, Device::Cpu);
    for parameter in parameters.iter_mut() {
        // Closed gates would hide the images, small weights the differences between candidates.
        let gate = parameter.name.contains("gate") && parameter.tensor.len() == 1;
        parameter
            .tensor
            .make_full()
            .data_mut()
            .iter_mut()
            .for_each(|v| *v = if gate { 0.8 } else { *v * 6.0 });
    }
    (otter, parameters)
}

/// The media of one sample.
fn vision(sample: &Sample, side: usize) -> Option<VisionInput> {
    let mut pixels = Vec::new();
    let mut media_frames = Vec::new();
    for item in &sample.media {
        let start = media_frames.last().map_or(0, |range: &std::ops::Range<usize>| range.end);
        media_frames.push(start..start + item.frames.len());
        item.frames.iter().for_each(|frame| pixels.extend_from_slice(&frame.pixels));
    }
    let shape = [pixels.len() / (3 * side * side), 3, side, side];
    let slots = vec![(0..sample.media.len()).collect()];
    (!media_frames.is_empty()).then(|| VisionInput {
        pixels: Tensor::from_vec(pixels, &shape, Device::Cpu),
        media_frames,
        slots,
    })
}

/// Checks all records against the model itself; returns how often a candidate's score depended on the images.
fn compare(max_num_media: Option<usize>, batch_size: usize) {
    let folder = tempfile::tempdir().unwrap();
    toybox(folder.path(), 4);
    let tokenizer = tokenizer(folder.path());
    let (otter, parameters) = model(tokenizer.vocab_size(), max_num_media);
    let datasets = datasets(folder.path(), 16, &tokenizer);
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let truth = Truth::read_folder(&folder.path().join("eval")).unwrap();
    let options = EvaluationOptions { batch_size, limit: None, max_new_tokens: 5 };
    let mut last = 0;
    let result = evaluate(&otter, &parameters, &borrowed, &truth, &options, &mut |p| {
        assert!(p.done >= last && p.done <= p.total);
        last = p.done;
    })
    .unwrap();
    let queries = SETS * 4 * SHOTS.len();
    assert_eq!((result.records.len(), last), (queries, queries as u64));

    let special = tokenizer.special();
    let mut generated_something = 0;
    for record in &result.records {
        let dataset = &datasets.iter().find(|(shots, _)| *shots == record.shots).unwrap().1;
        let sample = dataset.sample(record.index).unwrap();
        assert_eq!(sample.id, record.id);
        let turns = if record.family == "binding" { 2 * record.shots } else { record.shots };
        assert_eq!(sample.context_ids.len(), turns);
        let vision = vision(&sample, 16);
        let prompt = sample.input_ids.iter().rposition(|id| *id == special.answer).unwrap() + 1;
        let mut best = (0, f64::NEG_INFINITY);
        for (number, candidate) in record.candidates.iter().enumerate() {
            let answer = tokenizer.encode(&format!("<answer>{}<|endofchunk|>", candidate.text)).unwrap();
            let mut ids = sample.input_ids[..prompt].to_vec();
            ids.extend(&answer[1..]);
            let labels: Vec<i64> =
                (0..ids.len()).map(|i| if i >= prompt { i64::from(ids[i]) } else { IGNORE_INDEX }).collect();
            let text = TextInput::single(ids, special.image);
            let slow = otter.log_probabilities(&parameters, vision.as_ref(), &text, &labels).unwrap();
            let slow: f64 = slow.into_iter().flatten().sum();
            let difference = (slow - candidate.log_probability).abs();
            assert!(difference < 2e-4 * slow.abs().max(1.0), "{} {slow} {candidate:?}", record.id);
            if slow > best.1 {
                best = (number, slow);
            }
        }
        assert_eq!(record.choice, Some(best.0));
        assert_eq!(record.correct, record.candidates[best.0].text == record.answer);

        let prompts =
            PromptBatch::new(&[sample.input_ids[..prompt].to_vec()], special.pad, special.image).unwrap();
        let generation = GenerationOptions::greedy(5, special.endofchunk);
        let slow =
            otter.generate(&parameters, vision.as_ref(), &prompts, &generation, &mut |_, _| true).unwrap();
        let mut tokens = slow[0].token_ids.clone();
        tokens.retain(|id| *id != special.endofchunk);
        let text = tokenizer.decode(&tokens, true).unwrap();
        assert_eq!(record.generated.as_deref(), Some(text.trim()), "{}", record.id);
        generated_something += usize::from(!text.is_empty());
    }
    assert!(generated_something > queries / 2);
    if max_num_media.is_none() {
        let items: usize = datasets.iter().map(|(_, d)| distinct_items(d)).sum();
        assert!(result.media_encoded < items, "{} of {items}", result.media_encoded);
    }
    for record in result.records.iter().step_by(9) {
        let dataset = &datasets.iter().find(|(shots, _)| *shots == record.shots).unwrap().1;
        let card = sample_card(dataset, record).unwrap();
        assert_eq!(card.examples.len(), dataset.sample(record.index).unwrap().context_ids.len());
        assert!(card.query.question.ends_with(['?', '.']) && card.query.answer.is_empty(), "{card:?}");
        let pictures = card.examples.iter().chain([&card.query]).flat_map(|turn| &turn.images);
        assert!(
            pictures.clone().count() > record.shots && pictures.clone().all(|p| p.starts_with(b"\x89PNG"))
        );
        let other = EvaluationRecord { index: record.index + 1, ..record.clone() };
        assert!(sample_card(dataset, &other).is_err());
    }
    let table = ShotTable::new(&result.records, Detail::Families);
    assert_eq!(table.shots, SHOTS);
    assert_eq!(table.rows.len(), SETS);
    assert_eq!(table.to_text(Measure::Choice).lines().count(), SETS + 2);
}

/// Distinct media items of a data set.
fn distinct_items(dataset: &Dataset) -> usize {
    let samples = (0..dataset.len()).map(|index| dataset.sample_in_epoch(index, 0, false).unwrap());
    let items: std::collections::BTreeSet<Vec<String>> =
        samples.flat_map(|sample| sample.image_ids()).collect();
    items.len()
}

#[test]
fn scores_and_answers_equal_those_of_one_query_at_a_time() {
    compare(None, 7);
}

#[test]
fn the_same_with_places_of_media() {
    compare(Some(12), 64);
}

#[test]
fn a_limit_is_spread_and_bad_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    toybox(folder.path(), 4);
    let tokenizer = tokenizer(folder.path());
    let (otter, parameters) = model(tokenizer.vocab_size(), None);
    let datasets = datasets(folder.path(), 16, &tokenizer);
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let truth = Truth::read_folder(&folder.path().join("eval")).unwrap();
    let run = |datasets: &[(usize, &Dataset)], truth: &Truth, options: &EvaluationOptions| {
        evaluate(&otter, &parameters, datasets, truth, options, &mut |_| {})
    };
    let few = EvaluationOptions {
        limit: Some(SETS * SHOTS.len()),
        max_new_tokens: 0,
        ..EvaluationOptions::default()
    };
    let result = run(&borrowed, &truth, &few).unwrap();
    let table = ShotTable::new(&result.records, Detail::Families);
    assert!(table.rows.iter().flat_map(|row| row.cells.values()).all(|cell| cell.n == 1 && cell.exact == 0));
    assert!(result.records.iter().all(|record| record.generated.is_none()));

    let error = |datasets: &[(usize, &Dataset)], truth: &Truth, options: &EvaluationOptions| {
        run(datasets, truth, options).unwrap_err().to_string()
    };
    let none = EvaluationOptions { batch_size: 0, ..few.clone() };
    assert!(error(&borrowed, &truth, &none).contains("batch_size is 0"));
    assert!(error(&[], &truth, &few).contains("no data set"));
    assert!(error(&[(1, borrowed[1].1), (1, borrowed[2].1)], &truth, &few).contains("two data sets"));
    assert!(error(&[(3, borrowed[1].1)], &truth, &few).contains("no truth for 3 in-context examples"));
    let one = Truth::read(&[folder.path().join("eval/TOYATTR_truth.json")]).unwrap();
    assert!(error(&borrowed, &one, &few).contains(&format!("{} samples have no truth", (SETS - 1) * 4)));
    let big = datasets_of_size(folder.path(), &tokenizer);
    assert!(error(&[(0, &big)], &truth, &few).contains("the model takes 16"));
}

/// Beyond the trained length numbers are told; beyond learned positions there are none.
#[test]
fn queries_beyond_the_trained_length_are_told_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    toybox(folder.path(), 4);
    let tokenizer = tokenizer(folder.path());
    let datasets = datasets(folder.path(), 16, &tokenizer);
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let truth = Truth::read_folder(&folder.path().join("eval")).unwrap();
    let options = EvaluationOptions { limit: Some(SETS * SHOTS.len()), ..EvaluationOptions::default() };
    let run = |text: TextConfig| {
        let (otter, parameters) = model_of(text, None);
        evaluate(&otter, &parameters, &borrowed, &truth, &options, &mut |_| {})
    };
    let vocabulary = tokenizer.vocab_size();
    assert!(run(llama(vocabulary).into()).unwrap().warnings.is_empty());
    let short = LlamaConfig { max_position_embeddings: 30, ..llama(vocabulary) };
    let warnings = run(short.into()).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("the 30 tokens"), "{warnings:?}");
    let opt = |max_position_embeddings: usize| OptConfig {
        hidden_size: 24,
        ffn_dim: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        vocab_size: vocabulary,
        word_embed_proj_dim: 24,
        max_position_embeddings,
        ..OptConfig::opt_125m()
    };
    let numbers = |text: &str| -> Vec<usize> {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
    };
    let error = run(opt(30).into()).unwrap_err().to_string();
    assert!(error.contains("positions for 30"), "{error}");
    // Exactly as many positions as the longest query with an answer needs: the last token is never an input.
    let told = error.rsplit_once("tokens, ").unwrap().1;
    let whole = numbers(told)[0];
    assert!(run(opt(whole - 1).into()).unwrap().warnings.is_empty());
    assert!(run(opt(whole - 2).into()).is_err());
}

fn datasets_of_size(folder: &Path, tokenizer: &Arc<TextTokenizer>) -> Dataset {
    datasets(folder, 32, tokenizer).swap_remove(0).1
}

#[test]
fn an_answer_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    toybox(folder.path(), 4);
    let path = folder.path().join("eval/TOYCOUNT_truth.json");
    let mut truth: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let (id, entry) = truth.as_object_mut().unwrap().iter_mut().next().unwrap();
    let id = id.clone();
    let other = 1 - entry["answer_index"].as_u64().unwrap().min(1);
    entry["answer_index"] = other.into();
    entry["answer"] = entry["candidates"][other as usize].clone();
    std::fs::write(&path, truth.to_string()).unwrap();
    let tokenizer = tokenizer(folder.path());
    let (otter, parameters) = model(tokenizer.vocab_size(), None);
    let datasets = datasets(folder.path(), 16, &tokenizer);
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let truth = Truth::read_folder(&folder.path().join("eval")).unwrap();
    let options = EvaluationOptions::default();
    let error =
        evaluate(&otter, &parameters, &borrowed, &truth, &options, &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains(&id) && error.contains("but the truth says"), "{error}");
}

/// A table of accuracies of scores that are no numbers would look like one of a bad model.
#[test]
fn weights_that_are_not_finite_give_no_table() {
    let folder = tempfile::tempdir().unwrap();
    toybox(folder.path(), 4);
    let tokenizer = tokenizer(folder.path());
    let (otter, parameters) = model(tokenizer.vocab_size(), None);
    let datasets = datasets(folder.path(), 16, &tokenizer);
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    let truth = Truth::read_folder(&folder.path().join("eval")).unwrap();
    let options = EvaluationOptions { limit: Some(3), ..EvaluationOptions::default() };
    for (name, bad) in [
        ("lang_encoder.model.layers.1.decoder_layer.self_attn.q_proj.weight", f32::NAN),
        ("perceiver.latents", f32::INFINITY),
        ("vision_encoder.vision_model.encoder.layers.0.layer_norm1.bias", f32::NAN),
        ("lang_encoder.lm_head.weight", f32::NEG_INFINITY),
    ] {
        let mut parameters = parameters.clone();
        parameters.by_name_mut(name).unwrap().tensor.make_full().data_mut()[0] = bad;
        let error =
            evaluate(&otter, &parameters, &borrowed, &truth, &options, &mut |_| {}).unwrap_err().to_string();
        assert!(error.contains("scores of sample '") && error.contains(&format!("{name} (1 ")), "{error}");
    }
}
