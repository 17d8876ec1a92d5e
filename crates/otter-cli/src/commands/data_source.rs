//! What `SRC` of the data commands may be: a run's configuration, a YAML data list, one instruction file, or a data set directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use otter_checkpoint::load_tokenizer;
use otter_data::{DataConfig, Group, SetConfig, TextTokenizer};
use otter_train::config::TrainConfig;

use super::hub;
use crate::arguments::DataSource;

/// The sets that `SRC` names, and the model of its configuration where it is one.
pub fn open(source: &DataSource) -> Result<(DataConfig, Option<PathBuf>)> {
    let extension = source.source.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_list = matches!(extension, "toml" | "yaml" | "yml");
    if is_list && (source.images.is_some() || source.train.is_some() || source.group.is_some()) {
        bail!(
            "--images, --train and --group belong to a single instruction file; {} names its own",
            source.source.display()
        );
    }
    match extension {
        "toml" => {
            let config = TrainConfig::load(&source.source, &[])?;
            Ok((config.data, Some(config.model.init_from)))
        }
        "yaml" | "yml" => {
            let config = DataConfig { mimicit_yaml: Some(source.source.clone()), ..DataConfig::default() };
            Ok((config, None))
        }
        _ => Ok((DataConfig { sets: vec![single_set(source)?], ..DataConfig::default() }, None)),
    }
}

fn single_set(source: &DataSource) -> Result<SetConfig> {
    let group = match (&source.group, &source.images, &source.train) {
        (Some(name), _, _) => match Group::ALL.into_iter().find(|group| group.name() == name) {
            Some(group) => group,
            None => bail!("--group {name} is unknown; use one of {}", Group::ALL.map(Group::name).join(", ")),
        },
        (None, None, _) => Group::TextOnly,
        (None, Some(_), None) => Group::ImageText,
        (None, Some(_), Some(_)) => Group::ImageTextInContext,
    };
    if group != Group::TextOnly && source.images.is_none() {
        bail!("group {} needs images; pass --images, or --group TEXT_ONLY", group.name());
    }
    Ok(SetConfig {
        name: String::new(),
        group,
        instructions: source.source.clone(),
        images: source.images.clone(),
        train: source.train.clone(),
        num_samples: 0,
        task_description: Vec::new(),
    })
}

/// The tokenizer of `--model`, or else of the configuration's model.
pub fn tokenizer(
    source: &Path,
    given: Option<&Path>,
    configured: Option<&Path>,
) -> Result<Option<Arc<TextTokenizer>>> {
    let Some(model) = given.or(configured) else { return Ok(None) };
    let model = hub::resolve_from(source, model)?;
    Ok(Some(Arc::new(load_tokenizer(&model)?)))
}
