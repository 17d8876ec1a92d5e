//! Data lists in the original's YAML form.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::config::{Group, SetConfig};
use crate::error::{DataError, Result};
use crate::files::json_text::one_or_many;
use crate::files::text_file::read_text_file;
use crate::otter_dataset::dataset_directory;

/// A mapping that keeps the order of the file: it decides the order of the samples.
struct Ordered<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct OrderedVisitor<V>(std::marker::PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for OrderedVisitor<V> {
            type Value = Ordered<V>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a mapping")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(OrderedVisitor(std::marker::PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    mimicit_path: PathBuf,
    #[serde(default)]
    images_path: Option<String>,
    #[serde(default)]
    train_config_path: Option<String>,
    #[serde(default)]
    num_samples: i64,
    #[serde(default)]
    weight: Option<f64>,
    #[serde(default, deserialize_with = "one_or_many")]
    task_description: Vec<String>,
    #[serde(default, deserialize_with = "one_or_many")]
    languages: Vec<String>,
}

/// Reads a data list; paths in it are relative to the folder of the file.
pub fn read(path: &Path) -> Result<Vec<SetConfig>> {
    let text = read_text_file(path)?;
    let groups: Ordered<Ordered<Entry>> =
        serde_saphyr::from_str(&text).map_err(|error| DataError::format(path, error.to_string()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut sets = Vec::new();
    for (group_name, entries) in groups.0 {
        let group = Group::ALL.into_iter().find(|group| group.name() == group_name).ok_or_else(|| {
            let known = Group::ALL.map(Group::name).join(", ");
            DataError::format(path, format!("group {group_name} is unknown; use one of {known}"))
        })?;
        for (name, entry) in entries.0 {
            // An empty path means that the set has none.
            let optional = |text: Option<String>| text.filter(|t| !t.is_empty()).map(|t| folder.join(t));
            let mut set = SetConfig {
                dataset: None,
                instructions: folder.join(entry.mimicit_path),
                images: optional(entry.images_path),
                train: optional(entry.train_config_path),
                num_samples: entry.num_samples,
                weight: entry.weight,
                task_description: entry.task_description,
                languages: entry.languages,
                group,
                name,
            };
            for file in
                [Some(&set.instructions), set.images.as_ref(), set.train.as_ref()].into_iter().flatten()
            {
                if !file.exists() {
                    return Err(DataError::format(
                        path,
                        format!("set {} names {}, which does not exist", set.name, file.display()),
                    ));
                }
            }
            // An otter-dataset directory brings its images and contexts along.
            if let Some(directory) = dataset_directory(&set.instructions) {
                set.fill_from_dataset(&directory)?;
            }
            sets.push(set);
        }
    }
    if sets.is_empty() {
        let known = Group::ALL.map(Group::name).join(", ");
        return Err(DataError::format(path, format!("it names no data set; list sets below one of {known}")));
    }
    Ok(sets)
}
