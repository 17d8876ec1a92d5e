//! Times a large data set: opening, single records and images at random places, all samples in order.
//!
//! ```text
//! otter-dev synthesize --pairs 3000000 --out /tmp/synthetic
//! cargo run --release -p otter-dev --example measure_dataset -- /tmp/synthetic tests/golden/data/tokenizer_llama
//! ```
//!
//! Prints one line a measurement; resident memory is read from `/proc/self/status` where there is one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use otter_data::{
    DataConfig, Dataset, Group, ImageTable, InstructionTable, PythonRandom, SetConfig, SpecialTokens,
    TextTokenizer,
};
use rayon::prelude::*;

/// Records and images fetched at random places.
const FETCHES: usize = 20_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(directory), Some(tokenizer)) = (arguments.next(), arguments.next()) else {
        return Err("usage: measure_dataset DATASET_DIR TOKENIZER_DIR [SAMPLES]".into());
    };
    let limit: Option<usize> = arguments.next().and_then(|text| text.to_str()?.parse().ok());
    let tokenizer = Arc::new(load_tokenizer(&tokenizer)?);
    report("tokenizer loaded", None, 0);

    let set = SetConfig {
        name: String::new(),
        group: Group::ImageTextInContext,
        dataset: Some(directory.clone()),
        instructions: PathBuf::new(),
        images: None,
        train: None,
        num_samples: 0,
        weight: None,
        task_description: Vec::new(),
        languages: Vec::new(),
    };
    let config = DataConfig { sets: vec![set], ..DataConfig::default() };
    let start = Instant::now();
    let dataset = Dataset::open(&config, tokenizer)?;
    report("dataset opened", Some(start), dataset.len());

    let records = InstructionTable::open(&directory)?;
    let mut random = PythonRandom::new(1);
    let places: Vec<usize> = (0..FETCHES).map(|_| random.below(records.len())).collect();
    let start = Instant::now();
    let mut ids = Vec::with_capacity(FETCHES);
    for &place in &places {
        ids.push(records.id(place)?.into_owned());
    }
    report("random ids", Some(start), FETCHES);
    let start = Instant::now();
    for id in &ids {
        records.find(id).ok_or("an id is not found")?;
    }
    report("random finds by id", Some(start), FETCHES);
    let places: Vec<usize> = (0..FETCHES).map(|_| random.below(records.len())).collect();
    let start = Instant::now();
    for &place in &places {
        records.record(place)?;
    }
    report("random records", Some(start), FETCHES);

    if let Ok(images) = ImageTable::open(&directory, 64 << 20) {
        let places: Vec<usize> = (0..FETCHES).map(|_| random.below(images.len())).collect();
        let start = Instant::now();
        for &place in &places {
            images.encoded_entry(place)?;
        }
        report("random images", Some(start), FETCHES);
    }

    let count = limit.unwrap_or(dataset.len()).min(dataset.len());
    for with_pixels in [false, true] {
        let start = Instant::now();
        let count = if with_pixels { count / 20 } else { count };
        (0..count).into_par_iter().try_for_each(|index| {
            match dataset.sample_in_epoch(index, 0, with_pixels) {
                Err(error) if error.skip_reason().is_none() => Err(error),
                _ => Ok(()), // what is too long counts as read
            }
        })?;
        report(
            if with_pixels { "samples with pixels" } else { "samples without pixels" },
            Some(start),
            count,
        );
    }
    Ok(())
}

fn report(what: &str, start: Option<Instant>, count: usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or(" ?");
        line.split_whitespace().next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    let time = start.map_or(String::new(), |start| {
        let seconds = start.elapsed().as_secs_f64();
        format!("{seconds:9.3} s  {:9.2} us each  ", seconds * 1e6 / count.max(1) as f64)
    });
    println!(
        "{what:<24} {count:>9}  {time} {} MiB resident, {} MiB at most",
        field("VmRSS:"),
        field("VmHWM:")
    );
}

fn load_tokenizer(directory: &std::path::Path) -> Result<TextTokenizer, Box<dyn std::error::Error>> {
    let tokenizer = tokenizers::Tokenizer::from_file(directory.join("tokenizer.json"))
        .map_err(|error| error.to_string())?;
    let id = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| format!("the tokenizer lacks {token}"));
    let special = SpecialTokens {
        bos: Some(id("<s>")?),
        eos: Some(id("</s>")?),
        pad: id("<PAD>")?,
        endofchunk: id("<|endofchunk|>")?,
        image: id("<image>")?,
        answer: id("<answer>")?,
    };
    Ok(TextTokenizer::new(tokenizer, special))
}
