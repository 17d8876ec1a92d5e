//! Beams, several answers and the cache under them: whatever shares, moves or leaves must change no answer.

use otter_model::config::{
    CrossAttentionConfig, LlamaConfig, MptConfig, OtterConfig, PerceiverConfig, TextConfig, VisionConfig,
};
use otter_model::flamingo::{Context, causal_mask};
use otter_model::generate::{
    BeamOptions, Decoding, EarlyStopping, FinishReason, Generated, GenerationOptions, Processors,
    PromptBatch, Sampling,
};
use otter_model::text::Rows;
use otter_model::{ModelError, Otter, TextInput, VisionInput};
use otter_nn::testing::gradient_check::{random_parameters, random_tensor};
use otter_nn::{MediaRows, MediaTarget, ParameterSpecs, Parameters};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

const IMAGE: u32 = 3;
const WIDTH: usize = 8;
const VOCABULARY: u32 = 11;

/// A LLaMA with shared key heads, and an MPT, which adds to its scores by distance.
fn models() -> Result<Vec<(Otter, ParameterSpecs)>, ModelError> {
    let llama = LlamaConfig {
        hidden_size: WIDTH,
        intermediate_size: 12,
        num_hidden_layers: 4,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        ..LlamaConfig::llama_7b(VOCABULARY as usize)
    };
    let mpt = MptConfig {
        d_model: WIDTH,
        n_heads: 2,
        key_heads: 2,
        n_layers: 2,
        expansion_ratio: 1,
        vocab_size: VOCABULARY as usize,
        ..MptConfig::mpt_7b()
    };
    [llama.into(), mpt.into()].into_iter().map(model).collect()
}

fn model(text: TextConfig) -> Result<(Otter, ParameterSpecs), ModelError> {
    Otter::new(&OtterConfig {
        vision: VisionConfig {
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            image_size: 4,
            patch_size: 2,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig {
            depth: 1,
            heads: 2,
            dim_head: 4,
            num_latents: 3,
            ff_mult: 2,
            max_num_frames: None,
            max_num_media: None,
        },
        cross_attention: CrossAttentionConfig { every_n_layers: 2, heads: 2, dim_head: 4, ff_mult: 2 },
        tie_word_embeddings: matches!(text, TextConfig::Mpt(_)),
        text,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    })
}

/// Three images; prompts that show two, one and none of them, of different lengths.
fn prompts() -> (VisionInput, Vec<Vec<u32>>) {
    let vision = VisionInput {
        pixels: random_tensor("pixels", &[3, 3, 4, 4]).cast::<f32>(),
        media_frames: vec![0..1, 1..2, 2..3],
        slots: vec![vec![0, 1], vec![2], vec![]],
    };
    (vision, vec![vec![1, IMAGE, 5, IMAGE, 7, 8], vec![1, IMAGE, 9], vec![1, 4, 5, 6]])
}

fn number(rng: &mut ChaCha8Rng, below: usize) -> usize {
    (rng.next_u32() as usize) % below
}

/// Sequences are copied, exchanged and dropped between tokens, in random order; each must always have the hidden states
/// that it has without a cache.
#[test]
fn reordered_caches_equal_recomputing_the_sequences() -> Result<(), ModelError> {
    for (otter, specs) in models()? {
        let parameters = random_parameters(&specs);
        let language = otter.language();
        let latents = random_tensor("latents", &[2 * 3, 8]);
        let items = |batch: usize| vec![vec![0, 1]; batch];
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..20 {
            let length = 1 + number(&mut rng, 4);
            let mut batch = 1 + number(&mut rng, 3);
            let mut sequences: Vec<Vec<u32>> = vec![Vec::new(); batch];
            let mut cache = language.new_cache(&parameters, Some(&latents), batch, length + 12);
            for step in 0..12 {
                if step > 0 {
                    // All rows may change, or only rows that begin alike exchange what comes after.
                    let begin_alike = number(&mut rng, 2) == 0;
                    let count = if begin_alike { batch } else { 1 + number(&mut rng, 4) };
                    let rows: Vec<usize> = (0..count)
                        .map(|row| {
                            let other = number(&mut rng, batch);
                            let alike = row < batch && sequences[other][..length] == sequences[row][..length];
                            if begin_alike && !alike { row } else { other }
                        })
                        .collect();
                    cache.reorder(&rows, if begin_alike { length } else { 0 });
                    sequences = rows.iter().map(|&row| sequences[row].clone()).collect();
                    batch = count;
                }
                let new = if step == 0 { length } else { 1 };
                for sequence in &mut sequences {
                    sequence.extend((0..new).map(|_| number(&mut rng, VOCABULARY as usize) as u32));
                }
                let seen = cache.len();
                let ids: Vec<u32> = sequences.iter().flat_map(|ids| ids[seen..].to_vec()).collect();
                let targets: Vec<MediaTarget> =
                    ids.iter().map(|id| MediaTarget::Item((*id % 2) as usize)).collect();
                let positions: Vec<u32> = (0..batch).flat_map(|_| seen as u32..(seen + new) as u32).collect();
                let mask = causal_mask(&[], seen);
                let context = Context {
                    rows: Rows { batch, positions: &positions, mask: &mask },
                    media_rows: &MediaRows { targets, length: new, items: items(batch) },
                };
                let hidden = language.forward_cached(&parameters, &ids, &context, &mut cache);
                for (row, ids) in sequences.iter().enumerate() {
                    let positions: Vec<u32> = (0..ids.len() as u32).collect();
                    let targets = ids.iter().map(|id| MediaTarget::Item((*id % 2) as usize)).collect();
                    let mask = causal_mask(&[], 0);
                    let context = Context {
                        rows: Rows { batch: 1, positions: &positions, mask: &mask },
                        media_rows: &MediaRows { targets, length: ids.len(), items: items(1) },
                    };
                    let whole = language.forward(&parameters, ids, Some(&latents), &context, &mut |_, _| {});
                    let expected = &whole.data()[(ids.len() - 1) * WIDTH..];
                    let found = &hidden.data()[((row + 1) * new - 1) * WIDTH..][..WIDTH];
                    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "row {row}");
                }
            }
        }
    }
    Ok(())
}

fn beams(num_beams: usize, length_penalty: f64, early_stopping: EarlyStopping) -> BeamOptions {
    BeamOptions { num_beams, length_penalty, early_stopping }
}

fn ids(answers: &[Generated]) -> Vec<&[u32]> {
    answers.iter().map(|answer| answer.token_ids.as_slice()).collect()
}

/// Each prompt by itself, with its own slots.
fn alone(vision: &VisionInput, prompts: &[Vec<u32>]) -> Result<Vec<(VisionInput, PromptBatch)>, ModelError> {
    let one = |(slots, prompt): (&Vec<usize>, &Vec<u32>)| {
        let vision = VisionInput { slots: vec![slots.clone()], ..vision.clone() };
        Ok((vision, PromptBatch::new(std::slice::from_ref(prompt), 0, IMAGE)?))
    };
    vision.slots.iter().zip(prompts).map(one).collect()
}

#[test]
fn one_beam_that_ends_at_once_is_greedy() -> Result<(), ModelError> {
    for (otter, specs) in models()? {
        let parameters = random_parameters(&specs).cast::<f32>();
        let (vision, prompts) = prompts();
        let batch = PromptBatch::new(&prompts, 0, IMAGE)?;
        let mut stopped = 0;
        for stop_token in 0..VOCABULARY {
            for decoding in [Decoding::Keep, Decoding::Reference] {
                for no_repeat_ngram_size in [0, 2] {
                    let processors = Processors { no_repeat_ngram_size, ..Processors::default() };
                    let options = GenerationOptions {
                        processors,
                        decoding,
                        ..GenerationOptions::greedy(7, stop_token)
                    };
                    let greedy =
                        otter.generate(&parameters, Some(&vision), &batch, &options, &mut |_, _| true)?;
                    let one = beams(1, 1.0, EarlyStopping::AtOnce);
                    let beam = otter.generate_beams(&parameters, Some(&vision), &batch, &options, &one)?;
                    assert_eq!(ids(&greedy), ids(&beam));
                    for (greedy, beam) in greedy.iter().zip(&beam) {
                        assert_eq!(greedy.finish_reason, beam.finish_reason);
                        stopped += usize::from(beam.finish_reason == FinishReason::Stop);
                    }
                }
            }
        }
        assert!(stopped > 10);
    }
    Ok(())
}

/// Every option by itself, and some together.
fn all_options() -> Vec<GenerationOptions> {
    let random = Sampling::Random { temperature: 1.5, top_k: 7, top_p: 0.95, seed: 11 };
    let processors = [
        Processors::default(),
        Processors { repetition_penalty: 1.7, ..Processors::default() },
        Processors { no_repeat_ngram_size: 2, ..Processors::default() },
        Processors { bad_words: vec![vec![0, 7], vec![5, 6], vec![9]], ..Processors::default() },
        // Between the lengths of the prompts and of their answers.
        Processors { min_length: 7, ..Processors::default() },
        Processors { min_new_tokens: 4, ..Processors::default() },
        Processors {
            repetition_penalty: 0.8,
            no_repeat_ngram_size: 3,
            min_length: 9,
            ..Processors::default()
        },
    ];
    let mut all = Vec::new();
    for stop_token in 0..VOCABULARY {
        for (number, processors) in processors.iter().enumerate() {
            for max_length in [None, Some(8), Some(6)] {
                let decoding = if number % 2 == 0 { Decoding::Keep } else { Decoding::Reference };
                let sampling = if stop_token % 2 == 0 { Sampling::Greedy } else { random.clone() };
                let processors = processors.clone();
                let greedy = GenerationOptions::greedy(6, stop_token);
                all.push(GenerationOptions { processors, max_length, decoding, sampling, ..greedy });
            }
        }
    }
    all
}

/// Answers of a batch end at different times, and leave it then.
#[test]
fn a_batch_gives_each_prompt_what_it_gets_alone() -> Result<(), ModelError> {
    for (otter, specs) in models()? {
        let parameters = random_parameters(&specs).cast::<f32>();
        let (vision, prompts) = prompts();
        let alone = alone(&vision, &prompts)?;
        let mut lengths = std::collections::HashSet::new();
        for (number, mut options) in all_options().into_iter().enumerate() {
            // With images, and without any; the padding is a token that the prompts have.
            let shown = number % 3 > 0;
            let own = |vision| shown.then_some(vision);
            let batch = PromptBatch::new(&prompts, 5, IMAGE)?;
            options.return_sequences = if options.sampling.is_random() { 3 } else { 1 };
            let count = options.return_sequences;
            let together = otter.generate(&parameters, own(&vision), &batch, &options, &mut |_, _| true)?;
            for (((vision, prompt), ids), together) in alone.iter().zip(&prompts).zip(together.chunks(count))
            {
                let single = otter.generate(&parameters, own(vision), prompt, &options, &mut |_, _| true)?;
                assert_eq!(single, together, "{options:?}");
                let most = options.max_length.map_or(6, |length| (length - ids.len()).min(6));
                for answer in together {
                    assert!(answer.token_ids.len() <= most);
                    let ended = answer.finish_reason == FinishReason::Stop;
                    assert!(ended || answer.token_ids.len() == most, "{options:?} {answer:?}");
                }
            }
            options.return_sequences = 3;
            let ending = [EarlyStopping::Heuristic, EarlyStopping::AtOnce, EarlyStopping::Never][number % 3];
            let search = beams(3, [1.0, -2.0, 0.0, 0.7][number % 4], ending);
            let together = otter.generate_beams(&parameters, own(&vision), &batch, &options, &search)?;
            for ((vision, prompt), together) in alone.iter().zip(together.chunks(3)) {
                let single = otter.generate_beams(&parameters, own(vision), prompt, &options, &search)?;
                assert_eq!(ids(&single), ids(together), "{options:?} {search:?}");
                for (single, together) in single.iter().zip(together) {
                    let difference = single.score.unwrap_or(f64::NAN) - together.score.unwrap_or(f64::NAN);
                    assert!(difference.abs() < 1e-4);
                    lengths.insert(single.token_ids.len());
                }
            }
        }
        assert!(lengths.len() > 3, "{lengths:?}");
    }
    Ok(())
}

/// The original's rule: a prompt with padding in front answers as one that begins with as many padding tokens, as far as
/// processors and lengths go.
#[test]
fn padding_counts_where_that_is_asked_for() -> Result<(), ModelError> {
    let (otter, specs) = models()?.remove(0);
    let parameters = random_parameters(&specs).cast::<f32>();
    let (vision, prompts) = prompts();
    let batch = PromptBatch::new(&prompts, 5, IMAGE)?;
    let run = |options: &GenerationOptions| {
        otter.generate(&parameters, Some(&vision), &batch, options, &mut |_, _| true)
    };
    let counted = GenerationOptions { count_padding: true, ..GenerationOptions::greedy(6, 0) };
    // All prompts are as long as the longest, so the same room is left.
    let limited = GenerationOptions { max_length: Some(8), stop_tokens: Vec::new(), ..counted.clone() };
    let lengths = |answers: &[Generated]| answers.iter().map(|a| a.token_ids.len()).collect::<Vec<_>>();
    assert_eq!(lengths(&run(&limited)?), [2, 2, 2]);
    assert_eq!(lengths(&run(&GenerationOptions { count_padding: false, ..limited })?), [2, 5, 4]);
    let mut differs = false;
    for pad in (0..VOCABULARY).filter(|&id| id != IMAGE) {
        let batch = PromptBatch::new(&prompts, pad, IMAGE)?;
        let run = |count_padding: bool| {
            let processors = Processors { repetition_penalty: 5.0, ..Processors::default() };
            let options = GenerationOptions { processors, count_padding, ..counted.clone() };
            otter.generate(&parameters, Some(&vision), &batch, &options, &mut |_, _| true)
        };
        differs |= run(true)? != run(false)?;
    }
    assert!(differs, "no penalty met the padding");
    Ok(())
}

#[test]
fn no_prompt_has_no_answer() -> Result<(), ModelError> {
    let (otter, specs) = models()?.remove(0);
    let parameters = random_parameters(&specs).cast::<f32>();
    let none = PromptBatch::new(&[], 0, IMAGE)?;
    let options = GenerationOptions::greedy(3, 0);
    assert!(otter.generate(&parameters, None, &none, &options, &mut |_, _| true)?.is_empty());
    let search = beams(2, 1.0, EarlyStopping::Heuristic);
    assert!(otter.generate_beams(&parameters, None, &none, &options, &search)?.is_empty());
    assert_eq!(otter.next_token_logits(&parameters, None, &none)?.shape(), [0, VOCABULARY as usize]);
    Ok(())
}

/// The score of an answer is the sum of its tokens' log-probabilities over its length.
#[test]
fn scores_are_those_of_the_whole_pass() -> Result<(), ModelError> {
    for (otter, specs) in models()? {
        let parameters = random_parameters(&specs).cast::<f32>();
        let (vision, prompts) = prompts();
        for ((vision, batch), prompt) in alone(&vision, &prompts)?.iter().zip(&prompts) {
            let options = GenerationOptions { return_sequences: 4, ..GenerationOptions::greedy(6, 8) };
            let search = beams(4, 2.0, EarlyStopping::Never);
            let answers = otter.generate_beams(&parameters, Some(vision), batch, &options, &search)?;
            for answer in &answers {
                let ids = [&prompt[..], &answer.token_ids].concat();
                let labels: Vec<i64> = ids
                    .iter()
                    .enumerate()
                    .map(|(index, &id)| if index < prompt.len() { -100 } else { i64::from(id) })
                    .collect();
                let length = ids.len() - usize::from(answer.finish_reason == FinishReason::Stop);
                let text = TextInput::single(ids, IMAGE);
                let each = otter.log_probabilities(&parameters, Some(vision), &text, &labels)?;
                let expected = each.iter().flatten().sum::<f64>() / (length as f64).powi(2);
                let score = answer.score.unwrap_or(f64::NAN);
                assert!((score - expected).abs() < 1e-5, "{score} {expected}");
            }
        }
    }
    Ok(())
}

/// Answers to one prompt are drawn apart; a repeated prompt is a neighbor like any other and gets the same again.
#[test]
fn several_samples_differ_and_a_repeated_prompt_repeats_them() -> Result<(), ModelError> {
    for (otter, specs) in models()? {
        let parameters = random_parameters(&specs).cast::<f32>();
        let (vision, prompts) = prompts();
        let sampling = Sampling::Random { temperature: 1.3, top_k: 0, top_p: 0.95, seed: 4 };
        for ((own, batch), prompt) in alone(&vision, &prompts)?.iter().zip(&prompts) {
            let greedy = GenerationOptions::greedy(8, 6);
            let options = GenerationOptions { sampling: sampling.clone(), return_sequences: 4, ..greedy };
            let mut said = vec![Vec::new(); 4];
            let answers = otter.generate(&parameters, Some(own), batch, &options, &mut |answer, token| {
                said[answer].push(token);
                true
            })?;
            assert_eq!(ids(&answers), said);
            assert!(answers.iter().any(|answer| answer.token_ids != answers[0].token_ids));
            let repeated = PromptBatch::new(&vec![prompt.clone(); 2], 0, IMAGE)?;
            let shown = VisionInput { slots: vec![own.slots[0].clone(); 2], ..own.clone() };
            let twice = otter.generate(&parameters, Some(&shown), &repeated, &options, &mut |_, _| true)?;
            assert_eq!(twice, [&answers[..], &answers[..]].concat());
        }
    }
    Ok(())
}

#[test]
fn options_that_cannot_work_are_named() -> Result<(), ModelError> {
    let (otter, specs) = models()?.remove(0);
    let parameters = random_parameters(&specs).cast::<f32>();
    let batch = PromptBatch::new(&[vec![1, 4]], 0, IMAGE)?;
    let with =
        |return_sequences: usize| GenerationOptions { return_sequences, ..GenerationOptions::greedy(2, 6) };
    for count in [0, 2] {
        let error = otter.generate(&parameters, None, &batch, &with(count), &mut |_, _| true);
        assert!(matches!(error, Err(ModelError::GenerationOption { found, .. }) if found == count));
    }
    let run = |num_beams: usize, options: &GenerationOptions| {
        let search = beams(num_beams, 1.0, EarlyStopping::AtOnce);
        otter.generate_beams(&parameters, None, &batch, options, &search)
    };
    for (num_beams, count) in [(0, 1), (2, 0), (2, 3)] {
        assert!(matches!(run(num_beams, &with(count)), Err(ModelError::GenerationOption { .. })));
    }
    let all_stop = GenerationOptions { stop_tokens: (0..VOCABULARY).collect(), ..with(1) };
    assert!(matches!(run(2, &all_stop), Err(ModelError::GenerationOption { found: 11, .. })));
    assert_eq!(run(2, &with(2))?.len(), 2);
    Ok(())
}

#[test]
fn no_new_tokens_come_to_an_end() -> Result<(), ModelError> {
    let (otter, specs) = models()?.remove(0);
    let parameters = random_parameters(&specs).cast::<f32>();
    let batch = PromptBatch::new(&[vec![1, 4]], 0, IMAGE)?;
    let search = beams(2, 1.0, EarlyStopping::Heuristic);
    let none = GenerationOptions::greedy(0, 6);
    assert_eq!(ids(&otter.generate_beams(&parameters, None, &batch, &none, &search)?), [&[0u32; 0]]);
    Ok(())
}

/// All ways to an answer and to a score.
fn all_ways(
    otter: &Otter,
    parameters: &Parameters<f32>,
    vision: &VisionInput,
    prompts: &[Vec<u32>],
) -> Result<Vec<Result<(), ModelError>>, ModelError> {
    let batch = PromptBatch::new(prompts, 0, IMAGE)?;
    let greedy = GenerationOptions::greedy(3, 6);
    let sampling = Sampling::Random { temperature: 1.0, top_k: 0, top_p: 0.9, seed: 0 };
    let random = GenerationOptions { sampling, ..greedy.clone() };
    let search = beams(2, 1.0, EarlyStopping::Heuristic);
    let labels: Vec<i64> = batch.text().ids.iter().map(|&id| i64::from(id)).collect();
    let (vision, ignored) = (Some(vision), &mut |_: usize, _: u32| true);
    Ok(vec![
        otter.generate(parameters, vision, &batch, &greedy, ignored).map(drop),
        otter.generate(parameters, vision, &batch, &random, ignored).map(drop),
        otter.generate_beams(parameters, vision, &batch, &greedy, &search).map(drop),
        otter.generate_beams(parameters, vision, &batch, &random, &search).map(drop),
        otter.next_token_logits(parameters, vision, &batch).map(drop),
        otter.log_probabilities(parameters, vision, batch.text(), &labels).map(drop),
    ])
}

/// One number of one parameter after the other is no number: nothing is answered, and the parameter is named.
#[test]
fn a_weight_that_is_not_finite_is_named() -> Result<(), ModelError> {
    let (vision, prompts) = prompts();
    for (otter, specs) in models()? {
        let good = random_parameters(&specs).cast::<f32>();
        assert!(all_ways(&otter, &good, &vision, &prompts)?.into_iter().all(|way| way.is_ok()));
        // Nothing reads what comes of the tower's class token.
        let read = |name: &&str| !name.contains("post_layernorm");
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).filter(read).collect();
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            let mut parameters = good.clone();
            if let Some(parameter) = parameters.by_name_mut(name) {
                let width = parameter.tensor.width();
                // The row of a token that all prompts begin with.
                let table = name.ends_with("embed_tokens.weight") || name.ends_with("wte.weight");
                parameter.tensor.make_full().data_mut()[if table { width } else { 0 }] = f32::NAN;
            }
            for (way, result) in all_ways(&otter, &parameters, &vision, &prompts)?.into_iter().enumerate() {
                let message = result.err().map(|error| error.to_string()).unwrap_or_default();
                assert!(
                    message.contains(&format!("{name} (1 NaN, the first at")),
                    "{name}, way {way}: {message}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn infinite_logits_are_no_answer() -> Result<(), ModelError> {
    let (vision, prompts) = prompts();
    let (otter, specs) = models()?.remove(0);
    let good = random_parameters(&specs).cast::<f32>();
    for bad in [f32::INFINITY, f32::NEG_INFINITY] {
        let mut parameters = good.clone();
        if let Some(head) = parameters.by_name_mut("lang_encoder.lm_head.weight") {
            head.tensor.make_full().data_mut()[8 * WIDTH] = bad;
        }
        for result in all_ways(&otter, &parameters, &vision, &prompts)? {
            let message = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(message.contains("lang_encoder.lm_head.weight (1 infinite"), "{message}");
        }
    }
    Ok(())
}

/// Finite weights, and a picture or a layer that makes numbers too large: the prompt and the place are named.
#[test]
fn bad_pictures_and_overflows_are_named() -> Result<(), ModelError> {
    let (good_vision, prompts) = prompts();
    let (otter, specs) = models()?.remove(0);
    let good = random_parameters(&specs).cast::<f32>();
    let mut vision = good_vision.clone();
    let pixels = vision.pixels.len();
    vision.pixels.data_mut()[pixels - 1] = f32::NAN;
    for (way, result) in all_ways(&otter, &good, &vision, &prompts)?.into_iter().enumerate() {
        let message = result.err().map(|error| error.to_string()).unwrap_or_default();
        let prompt = if way == 5 { "sequence 2" } else { "of prompt 2 of 3" };
        assert!(message.contains(prompt) && message.contains("frame 2"), "way {way}: {message}");
    }
    for (name, place) in [
        ("lang_encoder.model.layers.1.decoder_layer.mlp.down_proj.weight", "decoder layer 1"),
        ("perceiver.norm.weight", "the Perceiver resampler"),
        ("lang_encoder.lm_head.weight", "became too large"),
    ] {
        let mut parameters = good.clone();
        let parameter = parameters.iter_mut().find(|parameter| parameter.name.ends_with(name));
        let Some(parameter) = parameter else { panic!("no {name}") };
        parameter
            .tensor
            .make_full()
            .data_mut()
            .iter_mut()
            .for_each(|value| *value = value.signum() * f32::MAX);
        for result in all_ways(&otter, &parameters, &good_vision, &prompts)? {
            let message = result.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(
                message.contains("all weights are finite") && message.contains(place),
                "{name}: {message}"
            );
        }
    }
    Ok(())
}
