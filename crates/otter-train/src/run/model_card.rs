//! The model card of a checkpoint of a run: what was trained, on what, and how.

use std::path::Path;

use otter_checkpoint::{ModelCard, TrainingFacts, today};
use otter_data::DataConfig;

use crate::config::TrainConfig;
use crate::error::{Result, TrainError};
use crate::run::trainer_state::TrainerState;

/// The card after the last step of `state`. Folders are left out of names: they say nothing on another machine.
///
/// # Errors
/// When the configuration in `state` cannot be read.
pub(crate) fn card(state: &TrainerState) -> Result<ModelCard> {
    let config: TrainConfig = toml::from_str(&state.config)
        .map_err(|error| TrainError::config("configuration", error.to_string()))?;
    let train = &config.train;
    Ok(ModelCard {
        license: None,
        base_model: Some(name(&config.model.init_from)),
        training: Some(TrainingFacts {
            steps: state.step,
            total_steps: state.total_steps,
            samples: state.samples_seen,
            batch_size: train.batch_size * train.gradient_accumulation,
            learning_rate: config.optimizer.learning_rate,
            trained: state.trained,
            loss: state.loss,
            data: data_files(&config.data),
            format: config.data.instruction_format,
            date: today(),
            command: command(),
        }),
    })
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn data_files(data: &DataConfig) -> Vec<String> {
    let instructions = data.sets.iter().map(|set| name(set.dataset.as_ref().unwrap_or(&set.instructions)));
    data.mimicit_yaml.as_deref().map(name).into_iter().chain(instructions).collect()
}

/// The command line of this process, its program without a folder.
fn command() -> String {
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = words.next().map_or_else(|| "otter".to_owned(), |program| name(Path::new(&program)));
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}
