//! Images or videos of your own with a table of questions and answers: CSV, TSV, or one JSON object a line.
//!
//! | column | meaning |
//! |---|---|
//! | `instruction`, `answer` | required |
//! | `image` or `images` | file below --images; several: a JSON list, in CSV separated by `;` |
//! | `video` | file, GIF or folder of frames below --videos |
//! | `id` | instruction id; without it pairs are numbered |
//! | `context` | ids of in-context examples; a JSON list, in CSV separated by `;` |
//! | `language` | a code such as `en`, kept with the pair |
//!
//! Where a row has a context, rows without one serve as examples and are no samples, unless asked for. Other columns are
//! not read, and named.
//!
//! Rows that follow one another about the same images or video are siblings (`rel_ins_ids`), and their pictures are read
//! once. Image ids are `<NAME>_IMG_<path without extension, / as _>`; frames get `_` and four digits more.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use otter_data::{Group, one_or_many, parse_object, read_text_file};
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::sources::Inputs;
use crate::sources::error::ImportError;
use crate::sources::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};
use crate::sources::reading::csv::Rows;
use crate::sources::reading::files::Folder;
use crate::sources::reading::pairs::Name;

const COLUMNS: [&str; 8] = ["instruction", "answer", "image", "images", "video", "id", "context", "language"];

/// One row.
#[derive(Debug, Default)]
struct Row {
    instruction: String,
    answer: String,
    images: Vec<String>,
    video: Option<String>,
    id: Option<String>,
    context: Vec<String>,
    language: Option<String>,
    /// Keys that are not read.
    unused: Vec<String>,
}

/// A list of names as [`one_or_many`] reads it.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_or_many(deserializer).map(Self)
    }
}

/// Some text, or nothing where it is empty.
fn said(text: String) -> Option<String> {
    let trimmed = text.trim();
    if trimmed.is_empty() { None } else { Some(trimmed.to_owned()) }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Row;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an object with `instruction` and `answer`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut row = Row::default();
                let (mut instruction, mut answer): (Option<String>, Option<String>) = (None, None);
                let mut seen = [false; COLUMNS.len()];
                while let Some(key) = map.next_key::<String>()? {
                    match COLUMNS.iter().position(|column| *column == key) {
                        Some(place) if seen[place] => {
                            return Err(A::Error::custom(format!("the key `{key}` is there twice")));
                        }
                        Some(place) => seen[place] = true,
                        None => {}
                    }
                    match key.as_str() {
                        "instruction" => instruction = Some(map.next_value()?),
                        "answer" => answer = Some(map.next_value()?),
                        "image" | "images" => {
                            let names = map.next_value::<Names>()?.0;
                            row.images.extend(names.into_iter().filter(|name| !name.is_empty()));
                        }
                        "video" => row.video = map.next_value::<Option<String>>()?.and_then(said),
                        "id" => {
                            row.id = map.next_value::<Option<Name>>()?.and_then(|id| said(id.into_text()))
                        }
                        "context" => row.context = map.next_value::<Names>()?.0,
                        "language" => row.language = map.next_value::<Option<String>>()?.and_then(said),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            row.unused.push(key);
                        }
                    }
                }
                let missing = |key: &str| {
                    let unused = match row.unused.len() {
                        0 => String::new(),
                        _ => format!("; not read are {}", row.unused.join(", ")),
                    };
                    A::Error::custom(format!("the key `{key}` is missing{unused}"))
                };
                let instruction = instruction.ok_or_else(|| missing("instruction"))?;
                let answer = answer.ok_or_else(|| missing("answer"))?;
                Ok(Row { instruction, answer, ..row })
            }
        }

        deserializer.deserialize_map(Keys)
    }
}

enum Form {
    Lines,
    /// Separated fields; the column of each field.
    Separated(char, Vec<String>),
}

/// Rows about one visual item.
struct ItemRows {
    /// Byte and line at which the first begins.
    start: (usize, usize),
    rows: usize,
}

/// A table of one's own.
pub struct Own {
    path: PathBuf,
    text: String,
    form: Form,
    items: Vec<ItemRows>,
    images: Option<Folder>,
    videos: Option<Folder>,
    code: String,
    has_contexts: bool,
    has_images: bool,
    has_videos: bool,
    /// Rows without a context are samples, although others have one.
    all_rows: bool,
    /// Columns that are not read.
    unused: BTreeSet<String>,
    /// Language of all rows; `Some(None)`: none or several.
    language: Option<Option<String>>,
}

impl Own {
    /// Opens the table; ids begin with `code`.
    pub fn open(inputs: &Inputs, code: &str) -> Result<Self, ImportError> {
        let path = inputs.annotations()?.to_owned();
        let text = read_text_file(&path)?;
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let mut unused = BTreeSet::new();
        let (form, start) = match extension.as_str() {
            "csv" => separated(&path, &text, ',', &mut unused)?,
            "tsv" => separated(&path, &text, '\t', &mut unused)?,
            "jsonl" | "ndjson" | "json" => (Form::Lines, (0, 1)),
            other => {
                return Err(ImportError::format(
                    &path,
                    format!("a file named .{other}; expected .csv, .tsv or .jsonl"),
                ));
            }
        };
        if extension == "json" && text.trim_start().starts_with('[') {
            return Err(ImportError::format(
                &path,
                "a JSON list; expected one JSON object a line (`jq -c '.[]' FILE` makes that of a list)",
            ));
        }
        let mut own = Self {
            path,
            text,
            form,
            items: Vec::new(),
            images: inputs.images.as_deref().map(Folder::new),
            videos: inputs.videos.as_deref().map(Folder::new),
            code: code.to_owned(),
            has_contexts: false,
            has_images: false,
            has_videos: false,
            all_rows: inputs.all_rows,
            unused,
            language: None,
        };
        own.find_items(start);
        Ok(own)
    }

    /// Finds the rows of each item.
    fn find_items(&mut self, start: (usize, usize)) {
        let mut items: Vec<ItemRows> = Vec::new();
        let mut before: Option<u64> = None;
        let (mut has_contexts, mut has_images, mut has_videos) = (false, false, false);
        let mut unused = std::mem::take(&mut self.unused);
        let mut language: Option<Option<String>> = None;
        let mut cursor = start;
        while let Some((begin, row)) = self.next_row(&mut cursor) {
            // A row that cannot be read is an item of its own.
            let key = row.ok().and_then(|mut row| {
                has_contexts |= !row.context.is_empty();
                has_images |= !row.images.is_empty();
                has_videos |= row.video.is_some();
                unused.append(&mut row.unused.drain(..).collect());
                let code = row.language.take();
                match &language {
                    None => language = Some(code),
                    Some(before) if *before != code => language = Some(None),
                    Some(_) => {}
                }
                let images = row.images;
                (!images.is_empty() || row.video.is_some()).then(|| {
                    let mut hasher = DefaultHasher::new();
                    (images, row.video).hash(&mut hasher);
                    hasher.finish()
                })
            });
            match items.last_mut() {
                Some(item) if key.is_some() && key == before => item.rows += 1,
                _ => items.push(ItemRows { start: begin, rows: 1 }),
            }
            before = key;
        }
        self.items = items;
        self.has_contexts = has_contexts;
        self.has_images = has_images;
        self.unused = unused;
        self.has_videos = has_videos;
        self.language = language;
    }

    /// The row at a place, which moves on behind it.
    fn next_row(&self, cursor: &mut (usize, usize)) -> Option<((usize, usize), Result<Row, String>)> {
        match &self.form {
            Form::Lines => loop {
                let rest = &self.text[cursor.0..];
                if rest.is_empty() {
                    return None;
                }
                let line = rest.split_inclusive('\n').next().unwrap_or(rest);
                let begin = *cursor;
                *cursor = (cursor.0 + line.len(), cursor.1 + 1);
                if !line.trim().is_empty() {
                    let row =
                        parse_object(line.as_bytes()).map_err(|fault| format!("line {}: {fault}", begin.1));
                    return Some((begin, row));
                }
            },
            Form::Separated(delimiter, columns) => {
                let mut rows = Rows::new(&self.text, *delimiter, cursor.0, cursor.1);
                let row = rows.next()?;
                let begin = *cursor;
                *cursor = (rows.at, rows.line);
                Some((begin, row.and_then(|row| named(columns, row))))
            }
        }
    }

    fn visual(&self, row: &mut Row, place: &str) -> Result<Visual, Skip> {
        let images = std::mem::take(&mut row.images);
        if let Some(name) = row.video.take() {
            if !images.is_empty() {
                return Err(Skip::new(
                    Reason::BadAnnotation,
                    format!("{place}: both images and a video; a row has one of them"),
                ));
            }
            let root = self.videos.as_ref().ok_or_else(|| missing_folder(place, "video", "--videos"))?;
            let path = root.video(&name, place)?;
            let prefix = self.image_id(&name);
            return Ok(Visual::Video { path, prefix, digits: 4, range: None });
        }
        if images.is_empty() {
            return Ok(Visual::Nothing);
        }
        let root = self.images.as_ref().ok_or_else(|| missing_folder(place, "image", "--images"))?;
        let mut files = Vec::with_capacity(images.len());
        for name in images {
            let path = root.first_file(std::slice::from_ref(&name), place)?;
            files.push(ImageFile { id: self.image_id(&name), path });
        }
        Ok(Visual::Images(files))
    }

    fn image_id(&self, name: &str) -> String {
        let name = name.trim_start_matches("./");
        let stem = match name.rsplit_once('.') {
            Some((stem, extension)) if !stem.is_empty() && !extension.contains('/') => stem,
            _ => name,
        };
        format!("{}_IMG_{}", self.code, stem.replace(['/', '\\'], "_"))
    }
}

fn missing_folder(place: &str, what: &str, option: &str) -> Skip {
    Skip::new(
        Reason::BadAnnotation,
        format!("{place}: the row names a {what}, but {option} DIR was not given"),
    )
}

/// The head of a table of separated fields, and where its rows begin.
/// Names of columns that are not read go to `unused`.
fn separated(
    path: &Path,
    text: &str,
    delimiter: char,
    unused: &mut BTreeSet<String>,
) -> Result<(Form, (usize, usize)), ImportError> {
    let mut rows = Rows::new(text, delimiter, 0, 1);
    let head = match rows.next() {
        Some(Ok(row)) => row,
        Some(Err(message)) => return Err(ImportError::format(path, message)),
        None => return Err(ImportError::format(path, "the file is empty; its first line names the columns")),
    };
    let columns: Vec<String> = head.fields.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
    let found = format!("found {}", columns.join(", "));
    for required in ["instruction", "answer"] {
        if !columns.iter().any(|name| name == required) {
            return Err(ImportError::format(
                path,
                format!(
                    "line {}: no column `{required}` in the first line ({found}); columns are {}",
                    head.line,
                    COLUMNS.join(", ")
                ),
            ));
        }
    }
    for (place, name) in columns.iter().enumerate() {
        if !name.is_empty() && columns[..place].contains(name) {
            return Err(ImportError::format(
                path,
                format!("line {}: column `{name}` is there twice ({found}); keep one of them", head.line),
            ));
        }
        if !COLUMNS.contains(&name.as_str()) {
            let name =
                if name.is_empty() { format!("number {} without a name", place + 1) } else { name.clone() };
            unused.insert(name);
        }
    }
    Ok((Form::Separated(delimiter, columns), (rows.at, rows.line)))
}

/// A row of separated fields by the names of its columns.
fn named(columns: &[String], row: crate::sources::reading::csv::Row) -> Result<Row, String> {
    if row.fields.len() != columns.len() {
        return Err(format!(
            "line {}: {} fields, but the first line names {} columns; put fields that hold a separator in quotes",
            row.line,
            row.fields.len(),
            columns.len()
        ));
    }
    let mut named = Row::default();
    let list = |field: String| {
        let names = field.split(';').map(str::trim).filter(|name| !name.is_empty());
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    for (column, field) in columns.iter().zip(row.fields) {
        match column.as_str() {
            "instruction" => named.instruction = field,
            "answer" => named.answer = field,
            "image" | "images" => named.images.extend(list(field)),
            "video" => named.video = said(field),
            "id" => named.id = said(field),
            "context" => named.context = list(field),
            "language" => named.language = said(field),
            _ => {}
        }
    }
    Ok(named)
}

impl Source for Own {
    fn code(&self) -> &str {
        &self.code
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn has_contexts(&self) -> bool {
        self.has_contexts
    }

    fn group(&self) -> Group {
        match (self.has_videos, self.has_images) {
            (true, _) => Group::VideoText,
            // Each example shows its own picture.
            (false, true) if self.has_contexts => Group::ImageTextInContext,
            (false, true) => Group::ImageText,
            (false, false) => Group::TextOnly,
        }
    }

    fn language(&self) -> Option<&str> {
        self.language.as_ref()?.as_deref()
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.has_videos && self.has_contexts {
            warnings.push(
                "rows with a video have a context: the examples of a VIDEO_TEXT sample are text, only its own clip is shown"
                    .to_owned(),
            );
        }
        if self.unused.is_empty() {
            return warnings;
        }
        let names: Vec<&str> = self.unused.iter().map(String::as_str).collect();
        warnings.push(format!(
            "columns not used: {}; those that are read are {}",
            names.join(", "),
            COLUMNS.join(", ")
        ));
        warnings
    }

    fn item(&self, index: usize) -> Result<Item, Skip> {
        let rows = &self.items[index];
        let mut cursor = rows.start;
        let mut pairs = Vec::with_capacity(rows.rows);
        let mut first: Option<Row> = None;
        let file = self.path.display();
        let mut place = format!("{file} line {}", rows.start.1);
        for _ in 0..rows.rows {
            let Some((_, row)) = self.next_row(&mut cursor) else { break };
            let mut row =
                row.map_err(|message| Skip::new(Reason::BadAnnotation, format!("{file} {message}")))?;
            let context = std::mem::take(&mut row.context);
            pairs.push(Pair {
                id: row.id.take(),
                instruction: std::mem::take(&mut row.instruction),
                answer: std::mem::take(&mut row.answer),
                example_only: self.has_contexts && !self.all_rows && context.is_empty(),
                context,
                language: row.language.take(),
                images: None,
            });
            first.get_or_insert(row);
        }
        if rows.rows > 1 {
            place.push_str(" and after");
        }
        let visual = self.visual(&mut first.unwrap_or_default(), &place)?;
        Ok(Item { name: place, visual, pairs })
    }
}
