//! What `SRC` of the data commands may be: a run's configuration, a YAML data list, one instruction file, or a data set directory.

use std::path::PathBuf;

use anyhow::{Result, bail};
use otter_data::otter_dataset::{Manifest, dataset_directory};
use otter_data::{DataConfig, Group, SetConfig};
use otter_train::config::TrainConfig;

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
            let (data, file) = (config.data, source.source.display());
            if !data.streams.is_empty() {
                if data.sets.is_empty() && data.mimicit_yaml.is_none() {
                    bail!(
                        "{file} has only [[data.streams]], which this command does not read; `otter data show` shows \
                         their samples, and `otter train` counts what it leaves out"
                    );
                }
                eprintln!("note: the [[data.streams]] of {file} are passed over; only its sets are read");
            }
            Ok((data, Some(config.model.init_from)))
        }
        "yaml" | "yml" => {
            let config = DataConfig { mimicit_yaml: Some(source.source.clone()), ..DataConfig::default() };
            Ok((config, None))
        }
        _ => Ok((DataConfig { sets: vec![single_set(source)?], ..DataConfig::default() }, None)),
    }
}

fn single_set(source: &DataSource) -> Result<SetConfig> {
    let given = match &source.group {
        None => None,
        Some(name) => match Group::ALL.into_iter().find(|group| group.name() == name) {
            Some(group) => Some(group),
            None => bail!("--group {name} is unknown; use one of {}", Group::ALL.map(Group::name).join(", ")),
        },
    };
    let guess = |images: bool, contexts: bool| match (images, contexts) {
        (false, _) => Group::TextOnly,
        (true, false) => Group::ImageText,
        (true, true) => Group::ImageTextInContext,
    };
    if let Some(directory) = dataset_directory(&source.source) {
        if source.images.is_some() || source.train.is_some() {
            bail!(
                "{} is a whole data set; --images and --train belong to an instruction file",
                directory.display()
            );
        }
        let manifest = Manifest::read(&directory)?;
        let group = given.or(manifest.group).unwrap_or(guess(manifest.images > 0, manifest.contexts > 0));
        return Ok(SetConfig {
            name: manifest.name,
            group,
            dataset: Some(directory),
            instructions: PathBuf::new(),
            images: None,
            train: None,
            num_samples: 0,
            weight: None,
            task_description: Vec::new(),
            languages: Vec::new(),
        });
    }
    let group = given.unwrap_or(guess(source.images.is_some(), source.train.is_some()));
    if group != Group::TextOnly && source.images.is_none() {
        bail!("group {} needs images; pass --images, or --group TEXT_ONLY", group.name());
    }
    Ok(SetConfig {
        name: String::new(),
        group,
        dataset: None,
        instructions: source.source.clone(),
        images: source.images.clone(),
        train: source.train.clone(),
        num_samples: 0,
        weight: None,
        task_description: Vec::new(),
        languages: Vec::new(),
    })
}
