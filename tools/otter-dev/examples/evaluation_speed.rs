//! Measures the evaluator on a toybox and an untrained model of quickstart size:
//! `cargo run --release -p otter-dev --example evaluation_speed -- [queries per family] [batch size]`.

use std::error::Error;
use std::sync::Arc;

use otter_data::{DataConfig, Dataset, SpecialTokens, TextTokenizer};
use otter_eval::{Detail, EvaluationOptions, Measure, ShotTable, Truth, evaluate};
use otter_model::Otter;
use otter_model::config::{CrossAttentionConfig, LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_nn::{Device, Parameters};
use otter_toybox::world::{FamilyCounts, ToyboxOptions, write_toybox};

fn main() -> Result<(), Box<dyn Error>> {
    let number = |place: usize, default: usize| {
        std::env::args().nth(place).map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (queries, batch_size) = (number(1, 100)?, number(2, 64)?);
    let folder = tempfile::tempdir()?;
    let options = ToyboxOptions {
        train: FamilyCounts::each(0),
        eval: FamilyCounts::each(queries),
        ..ToyboxOptions::default()
    };
    write_toybox(folder.path(), &options, &mut |_| {})?;
    let tokenizer = tokenizers::Tokenizer::from_file(folder.path().join("tokenizer/tokenizer.json"))
        .map_err(|error| error.to_string())?;
    let id = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| format!("no token {token}"));
    let special = SpecialTokens {
        bos: Some(id("<s>")?),
        eos: Some(id("</s>")?),
        pad: id("<PAD>")?,
        endofchunk: id("<|endofchunk|>")?,
        image: id("<image>")?,
        answer: id("<answer>")?,
    };
    let tokenizer = Arc::new(TextTokenizer::new(tokenizer, special));
    let mut datasets = Vec::new();
    for &shots in &options.eval_shots {
        let config: DataConfig = serde_json::from_value(serde_json::json!({
            "mimicit_yaml": folder.path().join(format!("eval_{shots}shot.yaml")),
            "image_size": 32,
            "images_of_record": "media",
        }))?;
        datasets.push((shots, Dataset::open(&config, tokenizer.clone())?));
    }
    let config = OtterConfig {
        vision: VisionConfig {
            hidden_size: 64,
            intermediate_size: 256,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            image_size: 32,
            patch_size: 4,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig {
            depth: 2,
            heads: 4,
            dim_head: 16,
            num_latents: 8,
            ff_mult: 2,
            max_num_frames: None,
            max_num_media: None,
        },
        cross_attention: CrossAttentionConfig { every_n_layers: 1, heads: 4, dim_head: 32, ff_mult: 2 },
        text: LlamaConfig {
            hidden_size: 128,
            intermediate_size: 352,
            num_hidden_layers: 4,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            ..LlamaConfig::llama_7b(tokenizer.vocab_size())
        }
        .into(),
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    };
    let (otter, specs) = Otter::new(&config)?;
    let parameters = Parameters::initialize(&specs, 1, Device::Cpu);
    let truth = Truth::read_folder(&folder.path().join("eval"))?;
    let borrowed: Vec<(usize, &Dataset)> =
        datasets.iter().map(|(shots, dataset)| (*shots, dataset)).collect();
    for max_new_tokens in [0, 4] {
        let options = EvaluationOptions { batch_size, limit: None, max_new_tokens };
        let result = evaluate(&otter, &parameters, &borrowed, &truth, &options, &mut |_| {})?;
        println!(
            "{} parameters, {} records, {} media items, up to {max_new_tokens} generated tokens: {:.2} s, {:.0} records a second",
            parameters.total_count(),
            result.records.len(),
            result.media_encoded,
            result.seconds,
            result.records.len() as f64 / result.seconds
        );
        if max_new_tokens == 0 {
            print!("{}", ShotTable::new(&result.records, Detail::Kinds).to_text(Measure::Choice));
        }
    }
    Ok(())
}
