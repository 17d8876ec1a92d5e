//! The directory of a run and its checkpoints.
//!
//! ```text
//! <run_dir>/config.toml  metrics.jsonl  events.out.tfevents…  log.txt
//!           checkpoints/step-000200/{model/…, trainer.safetensors, trainer.json}
//! ```
//! A checkpoint is written under a temporary name and renamed when it is complete, so what bears the name of a step
//! can be resumed.

use std::fs;
use std::path::{Path, PathBuf};

use otter_checkpoint::{TRAINED_FILE, atomic};
use otter_nn::Parameters;

use crate::config::differences::differences;
use crate::config::{SaveWeights, TrainConfig};
use crate::error::{Result, TrainError};
use crate::model::TrainableModel;
use crate::optim::AdamW;
use crate::run::tensors_file::{self, StateElements, StateElementsMut, TensorsFile};
use crate::run::trainer_state::{FORMAT, TrainerState};

/// A checkpoint to resume from.
#[derive(Debug, Clone)]
pub struct Resumable {
    /// Its directory.
    pub path: PathBuf,
    /// Its state.
    pub state: TrainerState,
}

/// The directory of a run.
#[derive(Debug, Clone)]
pub struct RunDirectory {
    path: PathBuf,
}

impl RunDirectory {
    /// Opens the run directory, creating it where needed. With `resume`, gives the newest complete checkpoint of a
    /// run with the same configuration; a run without any checkpoint begins anew.
    ///
    /// # Errors
    /// When there already is a run and `resume` is false, when the configuration changed, or when nothing can be
    /// written.
    pub fn open(config: &TrainConfig, resume: bool) -> Result<(Self, Option<Resumable>)> {
        let run = Self { path: config.train.run_dir.clone() };
        let checkpoints = run.checkpoints();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints, "create"))?;
        run.recover()?;
        let newest = run.newest()?;
        if !resume && (newest.is_some() || run.metrics().exists()) {
            return Err(TrainError::checkpoint(
                &run.path,
                "this directory already holds a run; resume it, or give another train.run_dir",
            ));
        }
        if let Some(found) = &newest {
            let changed = differences(&found.state.config, &config.to_toml()?)?;
            if !changed.is_empty() {
                return Err(TrainError::ChangedConfig {
                    checkpoint: found.path.clone(),
                    differences: changed.iter().map(|line| format!("\n  {line}")).collect(),
                });
            }
        }
        Ok((run, newest))
    }

    /// Writes the resolved configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_config(&self, config: &TrainConfig) -> Result<()> {
        Ok(atomic::write_file(&self.path.join("config.toml"), config.to_toml()?.as_bytes())?)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `metrics.jsonl`
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// `log.txt`
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Directory of the checkpoint after a step.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.checkpoints().join(format!("step-{step:06}"))
    }

    /// Writes a checkpoint, then removes all but the newest `keep` (0 keeps all).
    ///
    /// # Errors
    /// When something cannot be written, or a parameter or moment is not finite; an older checkpoint of the same step is then
    /// unchanged.
    pub fn save<M: TrainableModel>(
        &self,
        model: &M,
        parameters: &Parameters,
        optimizer: &AdamW,
        state: &TrainerState,
        keep: usize,
    ) -> Result<PathBuf> {
        let target = self.checkpoint(state.step);
        let temporary = atomic::temporary_dir(&target)?;
        let written = (|| {
            let folder = temporary.join("model");
            match state.save {
                SaveWeights::Full => model.save(parameters, &folder, state)?,
                SaveWeights::Trainable => {
                    save_trained(parameters, &folder)?;
                    model.describe_part(&folder)?;
                }
            }
            tensors_file::write(&temporary.join("trainer.safetensors"), optimizer.state())?;
            let path = temporary.join("trainer.json");
            let text = serde_json::to_vec_pretty(state)
                .map_err(|error| TrainError::checkpoint(&path, format!("cannot be written: {error}")))?;
            fs::write(&path, text).map_err(TrainError::io(&path, "write"))?;
            // What was brought back from a GPU that failed is nothing to keep: the checkpoint before stays.
            parameters.device().check()?;
            Ok(atomic::replace_dir(&temporary, &target)?)
        })();
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        self.remove_old(keep)?;
        Ok(target)
    }

    /// Reads weights and moments of a checkpoint.
    ///
    /// # Errors
    /// When it does not fit the model.
    pub fn restore<M: TrainableModel>(
        found: &Resumable,
        model: &M,
        parameters: &mut Parameters,
        optimizer: &mut AdamW,
    ) -> Result<()> {
        let trained = parameters.trainable_count();
        if found.state.trained != trained {
            return Err(TrainError::checkpoint(
                &found.path,
                format!(
                    "{} elements were trained, now {trained} are; restore model.freeze",
                    found.state.trained
                ),
            ));
        }
        let folder = found.path.join("model");
        match found.state.save {
            SaveWeights::Full => model.restore(parameters, &folder)?,
            SaveWeights::Trainable => restore_trained(parameters, &folder)?,
        }
        let mut file = TensorsFile::open(&found.path.join("trainer.safetensors"))?;
        optimizer.restore(|name, elements| file.read_into(name, elements))?;
        optimizer.set_steps(found.state.step);
        Ok(())
    }

    /// Finishes or undoes what an interrupted save left.
    fn recover(&self) -> Result<()> {
        let folder = self.checkpoints();
        for name in names(&folder)? {
            let hidden = name.strip_prefix('.').filter(|rest| rest.starts_with("step-"));
            if let Some(step) = hidden.and_then(|rest| rest.split('.').next()) {
                atomic::recover(&folder.join(step))?;
            }
        }
        Ok(())
    }

    /// Steps of the checkpoints, ascending.
    fn steps(&self) -> Result<Vec<u64>> {
        let names = names(&self.checkpoints())?;
        let mut steps: Vec<u64> =
            names.iter().filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    fn newest(&self) -> Result<Option<Resumable>> {
        for step in self.steps()?.into_iter().rev() {
            let path = self.checkpoint(step);
            let file = path.join("trainer.json");
            // Without its state this was not written by a run.
            let Ok(text) = fs::read(&file) else { continue };
            let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| {
                TrainError::checkpoint(&file, format!("damaged: {error}; remove {path:?}"))
            })?;
            if value["format"] != FORMAT {
                return Err(TrainError::checkpoint(
                    &file,
                    format!("layout {} is not supported; expected {FORMAT}", value["format"]),
                ));
            }
            let state: TrainerState = serde_json::from_value(value).map_err(|error| {
                TrainError::checkpoint(&file, format!("damaged: {error}; remove {path:?}"))
            })?;
            return Ok(Some(Resumable { path, state }));
        }
        Ok(None)
    }

    fn remove_old(&self, keep: usize) -> Result<()> {
        if keep == 0 {
            return Ok(());
        }
        let steps = self.steps()?;
        for &step in &steps[..steps.len().saturating_sub(keep)] {
            let path = self.checkpoint(step);
            fs::remove_dir_all(&path).map_err(TrainError::io(&path, "remove the old checkpoint"))?;
        }
        Ok(())
    }
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let listing = fs::read_dir(folder).map_err(TrainError::io(folder, "list"))?;
    let mut names = Vec::new();
    for item in listing {
        let item = item.map_err(TrainError::io(folder, "list"))?;
        names.extend(item.file_name().into_string().ok());
    }
    Ok(names)
}

fn save_trained(parameters: &Parameters, folder: &Path) -> Result<()> {
    fs::create_dir(folder).map_err(TrainError::io(folder, "create"))?;
    let trained = parameters.iter().filter(|parameter| parameter.trainable);
    // What is trained is in full precision.
    let tensors = trained.filter_map(|p| {
        Some((p.name.clone(), p.tensor.shape().to_vec(), StateElements::F32(p.tensor.full()?)))
    });
    tensors_file::write(&folder.join(TRAINED_FILE), tensors.collect())
}

fn restore_trained(parameters: &mut Parameters, folder: &Path) -> Result<()> {
    let mut file = TensorsFile::open(&folder.join(TRAINED_FILE))?;
    for parameter in parameters.iter_mut().filter(|parameter| parameter.trainable) {
        let values = parameter.tensor.make_full().data_mut();
        file.read_into(&parameter.name, StateElementsMut::F32(values))?;
    }
    Ok(())
}
