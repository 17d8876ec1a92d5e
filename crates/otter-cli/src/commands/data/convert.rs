//! `otter data convert`: data sets from any form to any other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use otter_data::otter_dataset::{Manifest, dataset_directory};
use otter_data::{
    ConvertOptions, Converted, DataConfig, Group, OutputForm, Preset, SetConfig, WriterOptions, convert_set,
    output_paths,
};
use serde_json::{Value, json};

use crate::arguments::DataConvert;
use crate::commands::generate::pictures;
use crate::output;
use crate::progress;

/// A data list in the original's form, written beside the data.
const LIST_NAME: &str = "data.yaml";

/// Runs the command.
pub fn run(arguments: &DataConvert) -> Result<()> {
    let source = read_source(arguments)?;
    let destinations = destinations(arguments, &source.sets)?;
    for destination in &destinations {
        check_not_inside(arguments, destination)?;
    }
    let bar = progress::bar(progress::COUNTS);
    let mut summaries = Vec::new();
    let mut have_images = Vec::new();
    for (set, destination) in source.sets.iter().zip(&destinations) {
        let options = ConvertOptions {
            only_referenced: arguments.only_referenced,
            also_referenced_by: source.others_of_group(set),
            skip_bad: arguments.skip_bad,
            writer: WriterOptions {
                shard_bytes: arguments.shard_size,
                overwrite: arguments.overwrite,
                group: source.has_groups.then_some(set.group),
                ..WriterOptions::default()
            },
        };
        let converted = convert_set(
            set,
            arguments.to,
            &destination.directory,
            &destination.name,
            &options,
            &mut |now| {
                progress::show(&bar, &format!("{} {}", destination.name, now.stage), now);
            },
        )?;
        have_images.push(converted.written.images > 0);
        report(arguments, set, destination, &converted, &bar, &mut summaries)?;
    }
    bar.finish_and_clear();
    let list = if source.has_groups {
        Some(write_list(arguments, &source.sets, &destinations, &have_images)?)
    } else {
        None
    };
    if arguments.json {
        return output::json(&json!({"form": arguments.to.name(), "list": list, "sets": summaries}));
    }
    match list {
        Some(list) => output::text(&format!("data list: {}", list.display())),
        None => Ok(()),
    }
}

struct Source {
    sets: Vec<SetConfig>,
    /// Group and records of every set of the list, also of those that are not converted.
    records: Vec<(Group, PathBuf)>,
    /// Whether the task group of each set is known.
    has_groups: bool,
}

impl Source {
    /// Records of the other sets of the same group.
    fn others_of_group(&self, set: &SetConfig) -> Vec<PathBuf> {
        let others =
            self.records.iter().filter(|(group, path)| *group == set.group && *path != set.instructions);
        others.map(|(_, path)| path.clone()).collect()
    }
}

fn read_source(arguments: &DataConvert) -> Result<Source> {
    let path = &arguments.source;
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_list = matches!(extension, "yaml" | "yml" | "toml");
    if is_list && (arguments.images.is_some() || arguments.train.is_some() || arguments.group.is_some()) {
        bail!(
            "--images, --train and --group describe an instruction JSON; {} says this itself",
            path.display()
        );
    }
    if is_list {
        let mut config = if extension == "toml" {
            otter_train::config::TrainConfig::load(path, &[])?.data
        } else {
            DataConfig { mimicit_yaml: Some(path.clone()), ..DataConfig::default() }
        };
        // Image groups without images are no error here: nothing is built from them.
        config.preset = Preset::Reference;
        let mut sets = config.resolved_sets()?;
        let records = sets.iter().map(|set| (set.group, set.instructions.clone())).collect();
        if let Some(name) = &arguments.set {
            let known: Vec<_> = sets.iter().map(|set| set.name.clone()).collect();
            sets.retain(|set| set.name == *name);
            if sets.is_empty() {
                bail!("--set {name}: {} has the sets {}", path.display(), known.join(", "));
            }
        }
        if arguments.name.is_some() && sets.len() > 1 {
            bail!("--name needs one set, but {} has {}; choose one by --set", path.display(), sets.len());
        }
        return Ok(Source { sets, records, has_groups: true });
    }
    if arguments.set.is_some() {
        bail!("--set chooses from a list, but {} is one data set", path.display());
    }
    let mut set = SetConfig {
        name: String::new(),
        group: arguments.group.unwrap_or(Group::ImageText),
        dataset: None,
        instructions: path.clone(),
        images: arguments.images.clone(),
        train: arguments.train.clone(),
        num_samples: 0,
        weight: None,
        task_description: Vec::new(),
        languages: Vec::new(),
    };
    let mut has_groups = arguments.group.is_some();
    if let Some(directory) = dataset_directory(path) {
        let manifest = Manifest::read(&directory)?;
        let has = |count: u64| (count > 0).then(|| directory.clone());
        set.images = set.images.or(has(manifest.images));
        set.train = set.train.or(has(manifest.contexts));
        if let Some(group) = manifest.group.filter(|_| !has_groups) {
            set.group = group;
            has_groups = true;
        }
        set.name = manifest.name;
    } else {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        set.name = stem.strip_suffix("_instructions").unwrap_or(&stem).to_owned();
    }
    Ok(Source { sets: vec![set], records: Vec::new(), has_groups })
}

struct Destination {
    directory: PathBuf,
    name: String,
}

/// Names that are used twice, in different groups, get a number.
fn destinations(arguments: &DataConvert, sets: &[SetConfig]) -> Result<Vec<Destination>> {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    let mut destinations: Vec<Destination> = Vec::new();
    for set in sets {
        let name = arguments.name.as_ref().unwrap_or(&set.name);
        let count = uses.entry(name).or_default();
        *count += 1;
        let name = if *count > 1 { format!("{name}_{count}") } else { name.clone() };
        if destinations.iter().any(|other| other.name == name) {
            bail!("two sets would be called {name}; convert them one by one with --set and --name");
        }
        let own_directory = arguments.to == OutputForm::OtterDataset && sets.len() > 1;
        let directory = if own_directory { arguments.out.join(&name) } else { arguments.out.clone() };
        destinations.push(Destination { directory, name });
    }
    Ok(destinations)
}

/// An otter-dataset directory would lose its files under the reader's hands.
fn check_not_inside(arguments: &DataConvert, destination: &Destination) -> Result<()> {
    let same = |path: &Path| {
        let source = arguments.source.canonicalize().ok();
        source.is_some() && path.canonicalize().ok() == source
    };
    if output_paths(arguments.to, &destination.directory, &destination.name).iter().any(|path| same(path))
        || same(&destination.directory)
    {
        bail!("{} would be replaced while it is read; choose another --out", arguments.source.display());
    }
    Ok(())
}

fn report(
    arguments: &DataConvert,
    set: &SetConfig,
    destination: &Destination,
    converted: &Converted,
    bar: &ProgressBar,
    summaries: &mut Vec<Value>,
) -> Result<()> {
    summaries.push(json!({
        "name": destination.name, "directory": destination.directory, "group": set.group.name(),
        "images": converted.written.images, "records": converted.written.records,
        "contexts": converted.written.contexts, "bytes": converted.written.bytes,
        "unreferenced_images": converted.unreferenced_images,
        "skipped": converted.skipped, "examples": converted.examples, "image_notes": converted.image_notes,
    }));
    bar.suspend(|| pictures::warn(&converted.image_notes));
    bar.suspend(|| {
        for (reason, count) in &converted.skipped {
            eprintln!("warning: {}: left out: {} [{reason}]", destination.name, output::count(*count));
        }
        converted.examples.iter().for_each(|example| eprintln!("    {example}"));
    });
    if arguments.json {
        return Ok(());
    }
    bar.suspend(|| {
        let written = converted.written;
        output::text(&format!(
            "{}: {} records, {} contexts, {} images, {}",
            destination.name,
            output::count(written.records),
            output::count(written.contexts),
            output::count(written.images),
            output::bytes(written.bytes),
        ))?;
        if converted.unreferenced_images > 0 {
            output::text(&format!(
                "  left out: {} images that no record names",
                output::count(converted.unreferenced_images)
            ))?;
        }
        Ok(())
    })
}

/// Writes the data list of the new files; JSON strings are YAML strings.
fn write_list(
    arguments: &DataConvert,
    sets: &[SetConfig],
    destinations: &[Destination],
    have_images: &[bool],
) -> Result<PathBuf> {
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = String::new();
    let mut group = None;
    for (index, (set, destination)) in sets.iter().zip(destinations).enumerate() {
        if group != Some(set.group) {
            text.push_str(&format!("{}:\n", set.group.name()));
            group = Some(set.group);
        }
        text.push_str(&format!("  {}:\n", quoted(&destination.name)));
        let relative = |path: &Path| {
            let path = path.strip_prefix(&arguments.out).unwrap_or(path);
            if path.as_os_str().is_empty() { ".".to_owned() } else { path.to_string_lossy().into_owned() }
        };
        let paths = output_paths(arguments.to, &destination.directory, &destination.name);
        let keys = ["mimicit_path", "images_path", "train_config_path"];
        if arguments.to == OutputForm::OtterDataset {
            text.push_str(&format!("    mimicit_path: {}\n", quoted(&relative(&destination.directory))));
        } else {
            for (key, path) in keys.iter().zip(&paths).filter(|(_, path)| path.exists()) {
                text.push_str(&format!("    {key}: {}\n", quoted(&relative(path))));
            }
        }
        if set.images.is_some() && !have_images[index] {
            // None of its images was needed; it finds those of its group all the same.
            let other = (0..sets.len()).find(|&other| sets[other].group == set.group && have_images[other]);
            if let Some(other) = other.map(|other| &destinations[other]) {
                let paths = output_paths(arguments.to, &other.directory, &other.name);
                let images = paths.get(1).unwrap_or(&other.directory);
                text.push_str(&format!("    images_path: {}\n", quoted(&relative(images))));
            }
        }
        text.push_str(&format!("    num_samples: {}\n", set.num_samples));
        if let Some(weight) = set.weight {
            text.push_str(&format!("    weight: {weight}\n"));
        }
        if !set.task_description.is_empty() {
            text.push_str(&format!("    task_description: {}\n", json!(set.task_description)));
        }
        if !set.languages.is_empty() {
            text.push_str(&format!("    languages: {}\n", json!(set.languages)));
        }
    }
    let path = arguments.out.join(LIST_NAME);
    otter_checkpoint::atomic::write_file(&path, text.as_bytes())
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    Ok(path)
}
