//! A checkpoint of random values, written as a stream: memory stays at some megabytes whatever the model's size. The values
//! are those that [`otter_nn::Parameters::initialize`] gives a model in memory, in the type of the file.

use std::io::Write;
use std::path::Path;

use otter_model::Otter;
use otter_nn::ParameterSpec;

use crate::config::checkpoint_config::CheckpointConfig;
use crate::config::keys::TRAINING;
use crate::convert::verify_directory;
use crate::directory::save::{SaveOptions, write_checkpoint};
use crate::error::{CheckpointError, Result};
use otter_formats::encode;
use otter_formats::{NewTensor, StoredDType};

/// Elements made before they are written.
const CHUNK: usize = 1 << 22;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initialized {
    /// Parameters.
    pub parameters: u64,
    /// Bytes of their elements.
    pub bytes: u64,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Writes a checkpoint with random values, replacing what stands there only when the new one is complete and loads.
/// After each part, `progress` gets the bytes written so far and the bytes of all.
///
/// # Errors
/// When the sizes describe no model, an initial value does not fit the type, the disk is full, or the result does not load.
pub fn initialize_checkpoint(
    directory: &Path,
    config: &CheckpointConfig,
    seed: u64,
    options: &SaveOptions<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Initialized> {
    let (_, specs) = Otter::new(&config.model)
        .map_err(|error| CheckpointError::format(&directory.join("config.json"), error.to_string()))?;
    let specs: Vec<&ParameterSpec> = specs.iter().collect();
    let dtype: StoredDType = options.dtype.into();
    let entries: Vec<NewTensor<'_>> =
        specs.iter().map(|spec| NewTensor { name: &spec.name, dtype, shape: &spec.shape }).collect();
    let mut config = config.clone();
    // A model of the same shape is not tuned because the one that it is like was.
    config.original.shift_remove(TRAINING);
    let total: u64 = entries.iter().map(NewTensor::bytes).sum();
    let mut written = 0;
    let mut values = vec![0f32; CHUNK];
    let mut bytes = Vec::with_capacity(CHUNK * dtype.size());
    let mut elements = |at: usize, out: &mut dyn Write| {
        let spec = specs[at];
        for start in (0..spec.len()).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(spec.len() - start)];
            spec.initial_values(seed, start, values);
            bytes.clear();
            encode(values, dtype, &mut bytes)
                .map_err(|error| CheckpointError::tensor(directory, &spec.name, error.problem()))?;
            out.write_all(&bytes).map_err(CheckpointError::write(directory, directory))?;
            written += bytes.len() as u64;
            progress(written, total);
        }
        Ok(())
    };
    let warnings = write_checkpoint(directory, &config, &entries, options, &mut elements, |temporary| {
        verify_directory(temporary, directory, &[])
    })?;
    let parameters = specs.iter().map(|spec| spec.len() as u64).sum();
    Ok(Initialized { parameters, bytes: total, warnings })
}
