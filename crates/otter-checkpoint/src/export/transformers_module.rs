//! Makes a checkpoint directory one that Hugging Face Transformers loads with `trust_remote_code=True`:
//! the Python files of `python/transformers_module`, and the keys that lead to them.

use crate::atomic;
use crate::config::checkpoint_config::ModelFamily;
use crate::directory::open::Checkpoint;
use crate::directory::text_file::{LONGEST_CONFIG, read_object};
use crate::error::{CheckpointError, Result};
use crate::tokenizer::load::load_tokenizer;
use otter_data::{AlphaRule, Gray16Rule};
use serde_json::{Map, Value, json};
use std::path::Path;

/// The Python files, by name.
const FILES: [(&str, &str); 4] = [
    ("configuration_otter.py", include_str!("../../../../python/transformers_module/configuration_otter.py")),
    ("modeling_otter.py", include_str!("../../../../python/transformers_module/modeling_otter.py")),
    ("modeling_otter_mpt.py", include_str!("../../../../python/transformers_module/modeling_otter_mpt.py")),
    ("processing_otter.py", include_str!("../../../../python/transformers_module/processing_otter.py")),
];

/// Adds the Python module to a checkpoint directory.
///
/// Written are the module's files; `processor_config.json`; in `tokenizer_config.json` the class that reads
/// `tokenizer.json` as it is (Transformers 5 rebuilds a LLaMA tokenizer by newer rules, which give other ids); and in
/// `config.json`, last, `auto_map` and the ids of `<image>`, `<|endofchunk|>` and the pad token. Where the tables
/// have more rows than `vocab_size` says, it is corrected, because Transformers refuses such files. Each file is
/// replaced as a whole; doing it twice changes nothing.
///
/// # Errors
/// When the directory is no checkpoint, has no `tokenizer.json`, or cannot be written.
pub fn write_transformers_module(directory: &Path) -> Result<()> {
    let checkpoint = Checkpoint::open(directory)?;
    if !directory.join("tokenizer.json").is_file() {
        return Err(CheckpointError::format(
            directory,
            "no tokenizer.json, which the Transformers module needs; other tokenizer files are read differently by \
             different releases. Add the one of this checkpoint's language model",
        ));
    }
    let own_tokenizer = load_tokenizer(directory)?;
    let special = own_tokenizer.special();
    let mut tokenizer = existing_object(&directory.join("tokenizer_config.json"))?;
    let mut processor = existing_object(&directory.join("processor_config.json"))?;
    let mut config = checkpoint.config.original.clone();

    for (name, text) in FILES {
        atomic::write_file(&directory.join(name), text.as_bytes())?;
    }
    tokenizer.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    write_object(&directory.join("tokenizer_config.json"), tokenizer)?;
    let processor_class = json!({ "AutoProcessor": "processing_otter.OtterProcessor" });
    processor.insert("auto_map".to_owned(), processor_class);
    processor.insert("image_size".to_owned(), json!(checkpoint.config.model.vision.image_size));
    processor.insert("prompt_prefix".to_owned(), json!(own_tokenizer.prompt_prefix()));
    for (key, rule) in [
        ("alpha", checkpoint.config.input.alpha.map(AlphaRule::name)),
        ("gray16", checkpoint.config.input.gray16.map(Gray16Rule::name)),
    ] {
        if let Some(rule) = rule {
            processor.insert(key.to_owned(), json!(rule));
        }
    }
    processor.insert("processor_class".to_owned(), json!("OtterProcessor"));
    write_object(&directory.join("processor_config.json"), processor)?;

    if let Some(Value::Object(text)) = config.get_mut("text_config") {
        let rows = json!(checkpoint.config.model.text.vocab_size());
        if text.get("vocab_size").is_some_and(|declared| *declared != rows) {
            text.insert("vocab_size".to_owned(), rows);
        }
    }
    config.insert("auto_map".to_owned(), auto_map(checkpoint.config.family));
    config.insert("image_token_id".to_owned(), json!(special.image));
    config.insert("endofchunk_token_id".to_owned(), json!(special.endofchunk));
    config.insert("pad_token_id".to_owned(), json!(special.pad));
    write_object(&directory.join("config.json"), config)
}

fn auto_map(family: ModelFamily) -> Value {
    let name = match family {
        ModelFamily::Otter => "Otter",
        ModelFamily::Flamingo => "Flamingo",
    };
    let model = format!("modeling_otter.{name}ForConditionalGeneration");
    json!({
        "AutoConfig": format!("configuration_otter.{name}Config"),
        "AutoModel": model,
        "AutoModelForImageTextToText": model,
        "AutoProcessor": "processing_otter.OtterProcessor",
    })
}

/// A JSON object, or an empty one where there is no file.
fn existing_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    read_object(path, LONGEST_CONFIG)
}

fn write_object(path: &Path, object: Map<String, Value>) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(&Value::Object(object))
        .map_err(|source| CheckpointError::Json { path: path.to_path_buf(), source })?;
    text.push(b'\n');
    atomic::write_file(path, &text)
}
