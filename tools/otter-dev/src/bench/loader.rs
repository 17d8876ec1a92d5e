//! `otter-dev bench loader`: how many images a second become batches of normalized pixels, and what each stage costs alone.
//!
//! `bench/loader.py` times PyTorch's `DataLoader` on the same folder, in turn with this command.

use std::fs;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use image::codecs::jpeg::JpegEncoder;
use otter_cli::output;
use otter_data::{
    DataConfig, Dataset, Group, ImageRules, ImageTransform, Loader, LoaderOptions, RgbImage, SetConfig,
    TextTokenizer, open_image, preprocess, resize_bicubic,
};
use serde_json::{Map, Value, json};

use crate::arguments::{BenchLoader, BenchTransform};

/// Runs the benchmark and prints a table or JSON.
pub fn run(arguments: &BenchLoader) -> Result<()> {
    let results = measure(arguments)?;
    if arguments.json {
        return output::json(&results.into());
    }
    for (name, value) in &results {
        output::text(&format!("{name:24} {value}"))?;
    }
    Ok(())
}

/// Rates of the loader and times of its stages.
pub(super) fn measure(arguments: &BenchLoader) -> Result<Map<String, Value>> {
    if arguments.repeats == 0 || arguments.count == 0 {
        bail!("--repeats and --count take a number of at least 1");
    }
    let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
    let images = match &arguments.images {
        Some(folder) => folder.clone(),
        None => make_photos(&scratch.path().join("images"), arguments.count)?,
    };
    let files = image_files(&images)?;
    let mut results = Map::new();
    results.insert("images".into(), json!(files.len()));
    results.insert("workers".into(), json!(arguments.workers));
    time_loader(arguments, scratch.path(), &images, &files, &mut results)?;
    time_stages(arguments, &files, &mut results)?;
    Ok(results)
}

fn transform(arguments: &BenchLoader) -> ImageTransform {
    match arguments.transform {
        BenchTransform::Train => ImageTransform::Train,
        BenchTransform::Clip => ImageTransform::Clip,
    }
}

fn image_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .map(|entry| Ok(entry?.path()))
        .filter(|path| path.as_ref().is_ok_and(|path| path.is_file()) || path.is_err())
        .collect::<Result<_>>()?;
    files.sort();
    if files.is_empty() {
        bail!("{} holds no file; give a folder of images", folder.display());
    }
    Ok(files)
}

/// Whole epochs of a data set in which every image is a sample of its own.
fn time_loader(
    arguments: &BenchLoader,
    scratch: &Path,
    images: &Path,
    files: &[PathBuf],
    results: &mut Map<String, Value>,
) -> Result<()> {
    let instructions = scratch.join("instructions.json");
    let records: Map<String, Value> = files
        .iter()
        .enumerate()
        .map(|(number, file)| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let record = json!({
                "instruction": "What is in the picture?", "answer": "a circle", "image_ids": [name], "rel_ins_ids": [],
            });
            (format!("BENCH_INS_{number}"), record)
        })
        .collect();
    fs::write(&instructions, json!({ "data": records }).to_string())
        .with_context(|| format!("cannot write {}", instructions.display()))?;
    let config = DataConfig {
        image_size: arguments.size,
        // Every image is to be decoded in every epoch.
        frame_cache_mib: 0,
        image_transform: Some(transform(arguments)),
        sets: vec![SetConfig {
            dataset: None,
            name: String::new(),
            group: Group::ImageText,
            instructions,
            images: Some(images.to_owned()),
            train: None,
            num_samples: 0,
            weight: None,
            task_description: Vec::new(),
            languages: Vec::new(),
        }],
        ..DataConfig::default()
    };
    let dataset = Arc::new(Dataset::open(&config, tokenizer(scratch)?)?);
    let options = LoaderOptions {
        batch_size: arguments.batch,
        workers: arguments.workers,
        prefetch: 2 * arguments.batch,
        ..LoaderOptions::default()
    };
    let mut loader = Loader::new(dataset, options, None)?;
    let (mut rates, mut cpu) = (Vec::new(), Vec::new());
    for epoch in 0..=arguments.repeats {
        let cpu_before = cpu_seconds();
        // From the first batch on, as on the other side: starting the workers is not what is asked for.
        let mut first: Option<(Instant, usize)> = None;
        let mut seen = 0;
        while let Some(batch) = loader.next_batch()? {
            seen += batch.text.batch;
            first.get_or_insert_with(|| (Instant::now(), seen));
        }
        if epoch == 0 {
            continue;
        }
        if let Some((start, before)) = first.filter(|(_, before)| *before < seen) {
            rates.push((seen - before) as f64 / start.elapsed().as_secs_f64());
        }
        if let (Some(before), Some(after)) = (cpu_before, cpu_seconds()) {
            cpu.push((after - before) / seen as f64 * 1e3);
        }
    }
    results.insert("images_per_second".into(), json!(rates));
    results.insert("cpu_ms_per_image".into(), json!(cpu));
    Ok(())
}

/// The toybox tokenizer: the text is no part of what is measured.
fn tokenizer(scratch: &Path) -> Result<Arc<TextTokenizer>> {
    let base = otter_toybox::quickstart::unpack_base(&scratch.join("base"))?;
    Ok(Arc::new(otter_checkpoint::load_tokenizer(&base)?))
}

/// User and system time of this process so far.
fn cpu_seconds() -> Option<f64> {
    #[cfg(unix)]
    {
        // SAFETY: all zeros is a value of this plain struct, and the call only writes to it.
        let usage = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            if libc::getrusage(libc::RUSAGE_SELF, &mut usage) != 0 {
                return None;
            }
            usage
        };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
        Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
    }
    #[cfg(not(unix))]
    None
}

/// Milliseconds an image on one thread: the fastest pass over all images for each stage.
fn time_stages(arguments: &BenchLoader, files: &[PathBuf], results: &mut Map<String, Value>) -> Result<()> {
    let read = || {
        files
            .iter()
            .map(|file| fs::read(file).with_context(|| format!("cannot read {}", file.display())))
            .collect::<Result<Vec<_>>>()
    };
    let encoded = read()?;
    let decode = |bytes: &Vec<u8>| open_image(bytes, ImageRules::default(), "benchmark image");
    let resize = |image: &RgbImage| resize_bicubic(image, arguments.size, arguments.size);
    // Some images at a time, so that no folder has to fit into memory decoded.
    let sample: Vec<Vec<u8>> = encoded.iter().take(64).cloned().collect();
    let decoded = sample.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let small: Vec<RgbImage> = decoded.iter().map(resize).collect();
    let bytes: usize = encoded.iter().map(Vec::len).sum();
    results.insert("mean_file_bytes".into(), json!(bytes / encoded.len()));
    let per_image = |images: usize, work: &mut dyn FnMut() -> Result<()>| -> Result<f64> {
        let mut fastest = f64::INFINITY;
        for _ in 0..arguments.repeats {
            let start = Instant::now();
            work()?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(fastest / images as f64 * 1e3)
    };
    let mut stages = Map::new();
    let mut stage = |name: &str, images: usize, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        stages.insert(name.into(), json!(per_image(images, work)?));
        Ok(())
    };
    stage("read", encoded.len(), &mut || read().map(drop))?;
    stage("decode", sample.len(), &mut || {
        for bytes in &sample {
            std::hint::black_box(decode(bytes)?);
        }
        Ok(())
    })?;
    stage("resize", sample.len(), &mut || {
        decoded.iter().for_each(|image| drop(std::hint::black_box(resize(image))));
        Ok(())
    })?;
    stage("normalize", sample.len(), &mut || {
        let of = |image| preprocess(image, arguments.size, ImageTransform::Train);
        small.iter().for_each(|image| drop(std::hint::black_box(of(image))));
        Ok(())
    })?;
    results.insert("stage_ms_per_image".into(), stages.into());
    Ok(())
}

/// Photo-like images: smooth light, shapes with edges, and the noise of a sensor; 640 x 480, the same ones every time.
fn make_photos(folder: &Path, count: usize) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for number in 0..count {
        let path = folder.join(format!("{number:05}.jpg"));
        let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut encoder = JpegEncoder::new_with_quality(BufWriter::new(file), 88);
        encoder
            .encode(&photo(number as u32), WIDTH as u32, HEIGHT as u32, image::ExtendedColorType::Rgb8)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder.to_owned())
}

const WIDTH: usize = 640;
const HEIGHT: usize = 480;

fn photo(number: u32) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x9E37_79B9) | 1);
    let waves: [[f32; 4]; 3] = std::array::from_fn(|_| std::array::from_fn(|_| random.next()));
    let mut shapes: Vec<[f32; 7]> = (0..30).map(|_| std::array::from_fn(|_| random.next())).collect();
    for shape in &mut shapes {
        (shape[0], shape[1]) = (shape[0] * WIDTH as f32, shape[1] * HEIGHT as f32);
        (shape[2], shape[3]) = (10.0 + shape[2] * 90.0, 10.0 + shape[3] * 90.0);
    }
    let mut pixels = Vec::with_capacity(WIDTH * HEIGHT * 3);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let (fx, fy) = (x as f32, y as f32);
            let mut color: [f32; 3] = std::array::from_fn(|channel| {
                let [across, down, phase, light] = waves[channel];
                let angle = fx / (60.0 + 60.0 * across) + fy / (60.0 + 60.0 * down) + phase * 6.0;
                100.0 + 60.0 * light + 60.0 * angle.sin()
            });
            for (kind, [left, top, wide, high, paint @ ..]) in shapes.iter().enumerate() {
                let (dx, dy) = ((fx - left) / wide, (fy - top) / high);
                let inside =
                    if kind % 2 == 0 { dx * dx + dy * dy < 1.0 } else { dx.abs() < 1.0 && dy.abs() < 1.0 };
                if inside {
                    color = paint.map(|level| 40.0 + 180.0 * level + 20.0 * dx);
                }
            }
            // One noise for all channels, mostly light, as in a photograph.
            let noise = (random.next() + random.next() + random.next() - 1.5) * 14.0;
            pixels.extend(color.map(|level| (level + noise).clamp(0.0, 255.0) as u8));
        }
    }
    pixels
}

/// A xorshift generator; numbers from 0 to 1.
struct Random(u32);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 >> 8) as f32 / 16_777_216.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_images_have_the_size_of_photographs() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let folder = make_photos(scratch.path(), 2)?;
        for file in image_files(&folder)? {
            let bytes = fs::read(&file)?;
            assert!((60_000..=120_000).contains(&bytes.len()), "{} bytes", bytes.len());
            let image = open_image(&bytes, ImageRules::default(), "made")?;
            assert_eq!((image.width(), image.height()), (WIDTH, HEIGHT));
        }
        Ok(())
    }
}
