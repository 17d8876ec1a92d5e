//! Images or videos of your own with a table of questions and answers: CSV, TSV, or one JSON object a line.
//!
//! | column | meaning |
//! |---|---|
//! | `instruction`, `answer` | required |
//! | `image` or `images` | file below --images; several: a JSON list, in CSV separated by `;` |
//! | `video` | file, GIF or folder of frames below --videos |
//! | `id` | instruction id; without it pairs are numbered |
//! | `context` | ids of in-context examples; a JSON list, in CSV separated by `;` |
//! | `language` | a code such as `en` |
//!
//! Rows that follow one another about the same images or video are siblings (`rel_ins_ids`), and their pictures are read
//! once. Image ids are `<NAME>_IMG_<path without extension, / as _>`; frames get `_` and four digits more.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use otter_data::Group;
use serde::Deserialize;

use super::Inputs;
use super::annotations::{read_text, without_position};
use super::csv::Rows;
use super::error::ImportError;
use super::files::{below, video};
use super::item::{ImageFile, Item, Pair, Reason, Skip, Source, Visual};

const COLUMNS: [&str; 8] = ["instruction", "answer", "image", "images", "video", "id", "context", "language"];

/// One row.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    instruction: String,
    answer: String,
    image: Option<OneOrMany>,
    images: Option<OneOrMany>,
    video: Option<String>,
    id: Option<String>,
    context: Option<OneOrMany>,
    language: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl Row {
    fn images(&mut self) -> Vec<String> {
        let one = self.image.take().into_iter();
        one.chain(self.images.take()).flat_map(OneOrMany::list).filter(|name| !name.is_empty()).collect()
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
    images: Option<PathBuf>,
    videos: Option<PathBuf>,
    code: String,
    has_contexts: bool,
    has_videos: bool,
    /// Language of all rows; `Some(None)`: none or several.
    language: Option<Option<String>>,
}

impl Own {
    /// Opens the table; ids begin with `code`.
    pub fn open(inputs: &Inputs, code: &str) -> Result<Self, ImportError> {
        let path = inputs.annotations()?.to_owned();
        let text = read_text(&path)?;
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let (form, start) = match extension.as_str() {
            "csv" => separated(&path, &text, ',')?,
            "tsv" => separated(&path, &text, '\t')?,
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
            images: inputs.images.clone(),
            videos: inputs.videos.clone(),
            code: code.to_owned(),
            has_contexts: false,
            has_videos: false,
            language: None,
        };
        own.find_items(start);
        Ok(own)
    }

    /// Finds the rows of each item.
    fn find_items(&mut self, start: (usize, usize)) {
        let mut items: Vec<ItemRows> = Vec::new();
        let mut before: Option<u64> = None;
        let (mut has_contexts, mut has_videos) = (false, false);
        let mut language: Option<Option<String>> = None;
        let mut cursor = start;
        while let Some((begin, row)) = self.next_row(&mut cursor) {
            // A row that cannot be read is an item of its own.
            let key = row.ok().and_then(|mut row| {
                has_contexts |= row.context.is_some();
                has_videos |= row.video.is_some();
                let code = row.language.take().filter(|code| !code.is_empty());
                match &language {
                    None => language = Some(code),
                    Some(before) if *before != code => language = Some(None),
                    Some(_) => {}
                }
                let images = row.images();
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
                    let row = serde_json::from_str(line)
                        .map_err(|error| format!("line {}: {}", begin.1, without_position(&error)));
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
        let images = row.images();
        if let Some(name) = row.video.take().filter(|name| !name.is_empty()) {
            if !images.is_empty() {
                return Err(Skip::new(
                    Reason::BadAnnotation,
                    format!("{place}: both images and a video; a row has one of them"),
                ));
            }
            let root = self.videos.as_deref().ok_or_else(|| missing_folder(place, "video", "--videos"))?;
            let path = video(root, &name, place)?;
            let prefix = self.image_id(&name);
            return Ok(Visual::Video { path, prefix, digits: 4, range: None });
        }
        if images.is_empty() {
            return Ok(Visual::Nothing);
        }
        let root = self.images.as_deref().ok_or_else(|| missing_folder(place, "image", "--images"))?;
        let mut files = Vec::with_capacity(images.len());
        for name in images {
            let path = below(root, &name, place)?;
            if !path.is_file() {
                return Err(Skip::new(
                    Reason::MissingImage,
                    format!("{place}: no image {name} in {}", root.display()),
                ));
            }
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
fn separated(path: &Path, text: &str, delimiter: char) -> Result<(Form, (usize, usize)), ImportError> {
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
        if !COLUMNS.contains(&name.as_str()) || columns[..place].contains(name) {
            return Err(ImportError::format(
                path,
                format!(
                    "line {}: column `{name}` is unknown or there twice ({found}); columns are {}",
                    head.line,
                    COLUMNS.join(", ")
                ),
            ));
        }
    }
    Ok((Form::Separated(delimiter, columns), (rows.at, rows.line)))
}

/// A row of separated fields by the names of its columns.
fn named(columns: &[String], row: super::csv::Row) -> Result<Row, String> {
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
        Some(OneOrMany::Many(names.map(str::to_owned).collect()))
    };
    for (column, field) in columns.iter().zip(row.fields) {
        let text = || Some(field.trim().to_owned()).filter(|text| !text.is_empty());
        match column.as_str() {
            "instruction" => named.instruction = field,
            "answer" => named.answer = field,
            "image" | "images" => {
                let mut names = list(field).map_or(Vec::new(), OneOrMany::list);
                names.splice(0..0, named.images.take().map_or(Vec::new(), OneOrMany::list));
                named.images = Some(OneOrMany::Many(names));
            }
            "video" => named.video = text(),
            "id" => named.id = text(),
            "context" => named.context = list(field),
            _ => named.language = text(),
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
        if self.has_videos { Group::VideoText } else { Group::ImageText }
    }

    fn language(&self) -> Option<&str> {
        self.language.as_ref()?.as_deref()
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
            let context = row.context.take().map_or(Vec::new(), OneOrMany::list);
            pairs.push(Pair {
                id: row.id.take().filter(|id| !id.is_empty()),
                instruction: std::mem::take(&mut row.instruction),
                answer: std::mem::take(&mut row.answer),
                context,
                language: row.language.take().filter(|code| !code.is_empty()),
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
