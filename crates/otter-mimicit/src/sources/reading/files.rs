//! Files that annotations name: always below the folder that was given.
//!
//! A name is taken as it stands. Where there is no such file, one with the same name in the other Unicode normal form is
//! taken (macOS writes names decomposed, tables hold them composed), and one that differs in capitals is a hint.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use otter_data::composed;

use crate::sources::item::{Reason, Skip};

/// What is looked for when an annotation names a video without its extension, besides a folder of that name.
const VIDEO_EXTENSIONS: [&str; 7] = ["mp4", "mkv", "webm", "avi", "mov", "m4v", "gif"];

/// Extensions of pictures.
const IMAGE_EXTENSIONS: [&str; 10] =
    ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "heic", "avif", "img"];

/// A folder of pictures or videos.
pub struct Folder {
    root: PathBuf,
    /// Names in folders in which one was looked for in vain.
    listings: Mutex<HashMap<PathBuf, Arc<Listing>>>,
}

/// The names in a folder.
#[derive(Default)]
struct Listing {
    /// By their composed form.
    composed: HashMap<String, Vec<String>>,
    /// By that in small letters.
    small: HashMap<String, String>,
}

impl Listing {
    fn read(folder: &Path) -> Self {
        let mut listing = Self::default();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(name) = entry.file_name().into_string() {
                let form = composed(&name);
                listing.small.insert(form.to_lowercase(), name.clone());
                listing.composed.entry(form).or_default().push(name);
            }
        }
        listing
    }
}

impl Folder {
    /// The folder at a path.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), listings: Mutex::default() }
    }

    /// `relative` below the folder, whether it is there or not; names that would leave it are refused.
    pub fn below(&self, relative: &str, place: &str) -> Result<PathBuf, Skip> {
        let path = Path::new(relative);
        let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside || relative.is_empty() || relative.contains('\0') {
            return Err(Skip::new(
                Reason::UnsafePath,
                format!(
                    "{place}: the path {relative:?} is absolute, leaves its folder or is empty; give it relative to {}",
                    self.root.display()
                ),
            ));
        }
        let exact = self.root.join(path);
        if relative.is_ascii() || exact.exists() {
            return Ok(exact);
        }
        Ok(self.in_other_form(relative, place)?.unwrap_or(exact))
    }

    /// The path of the same name in another normal form.
    fn in_other_form(&self, relative: &str, place: &str) -> Result<Option<PathBuf>, Skip> {
        let mut path = self.root.clone();
        for part in relative.split('/').filter(|part| !matches!(*part, "" | ".")) {
            if path.join(part).exists() {
                path.push(part);
                continue;
            }
            let listing = self.listing(&path);
            match listing.composed.get(&composed(part)).map(Vec::as_slice) {
                None | Some([]) => return Ok(None),
                Some([name]) => path.push(name),
                Some(_) => {
                    let message = format!(
                        "{place}: several files of {} are called {part} in different Unicode normal forms (NFC, NFD); rename all \
                         but one",
                        path.display()
                    );
                    return Err(Skip::new(Reason::MissingImage, message));
                }
            }
        }
        Ok(Some(path))
    }

    /// `; there is …` where a name differs from one that is there only in capitals.
    pub fn hint(&self, relative: &str) -> String {
        self.hint_of(relative, Path::exists)
    }

    fn hint_of(&self, relative: &str, fits: fn(&Path) -> bool) -> String {
        let mut found = String::new();
        let mut path = self.root.clone();
        for part in relative.split('/').filter(|part| !matches!(*part, "" | ".")) {
            let listing = self.listing(&path);
            let Some(name) = listing.small.get(&composed(part).to_lowercase()) else { return String::new() };
            path.push(name);
            found = if found.is_empty() { name.clone() } else { format!("{found}/{name}") };
        }
        if found.is_empty() || !fits(&path) { String::new() } else { format!("; there is {found}") }
    }

    fn listing(&self, folder: &Path) -> Arc<Listing> {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        let listing = listings.entry(folder.to_owned()).or_insert_with(|| Arc::new(Listing::read(folder)));
        Arc::clone(listing)
    }

    /// The first of several names that is a file.
    pub fn first_file(&self, names: &[String], place: &str) -> Result<PathBuf, Skip> {
        for name in names {
            let path = self.below(name, place)?;
            if path.is_file() {
                return Ok(path);
            }
        }
        let hint = names.iter().map(|name| self.hint_of(name, Path::is_file)).find(|hint| !hint.is_empty());
        Err(Skip::new(
            Reason::MissingImage,
            format!(
                "{place}: no image {} in {}{}",
                names.join(" or "),
                self.root.display(),
                hint.unwrap_or_default()
            ),
        ))
    }

    /// A video by its name with or without extension: a file, or a folder of frames.
    pub fn video(&self, name: &str, place: &str) -> Result<PathBuf, Skip> {
        let exact = self.below(name, place)?;
        if exact.exists() {
            return Ok(exact);
        }
        for extension in VIDEO_EXTENSIONS {
            let path = self.below(&format!("{name}.{extension}"), place)?;
            if path.is_file() {
                return Ok(path);
            }
        }
        Err(Skip::new(
            Reason::MissingVideo,
            format!(
                "{place}: no video {name} (folder of frames, or .{}) in {}{}",
                VIDEO_EXTENSIONS.join(", ."),
                self.root.display(),
                self.hint(name)
            ),
        ))
    }
}

/// The last component of a path without the extension of a picture or video, from which ids are made. The original cuts at
/// the first dot, where names with several dots meet.
pub fn id_name(path: &str) -> &str {
    let name = path.rsplit(['/', '\\']).next().unwrap_or(path);
    without_extension(name)
}

fn without_extension(name: &str) -> &str {
    let known = |extension: &str| {
        IMAGE_EXTENSIONS.iter().chain(&VIDEO_EXTENSIONS).any(|known| known.eq_ignore_ascii_case(extension))
    };
    match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && known(extension) => stem,
        _ => name,
    }
}

/// Ids of pictures: of the last component of their path, or of the whole path where several paths share that.
pub struct PictureIds {
    short: fn(&str) -> String,
    /// Hashes of short ids that several paths would have.
    shared: HashSet<u64>,
    /// Hashes of whole paths that are equal but for their extension.
    of_several_kinds: HashSet<u64>,
}

impl PictureIds {
    /// Looks at all paths.
    pub fn new(paths: impl Iterator<Item = String>, short: fn(&str) -> String) -> Self {
        let mut first: HashMap<u64, u64> = HashMap::new();
        let mut first_whole = HashMap::new();
        let (mut shared, mut of_several_kinds) = (HashSet::new(), HashSet::new());
        for path in paths {
            let (id, whole) = (hash(&short(&path)), hash(&whole_id(&path)));
            let path = hash(path.trim_start_matches("./"));
            if *first.entry(id).or_insert(path) != path {
                shared.insert(id);
            }
            if *first_whole.entry(whole).or_insert(path) != path {
                of_several_kinds.insert(whole);
            }
        }
        Self { short, shared, of_several_kinds }
    }

    /// The id of a path.
    pub fn id(&self, path: &str) -> String {
        let short = (self.short)(path);
        if self.shared.contains(&hash(&short)) {
            let whole = whole_id(path);
            if self.of_several_kinds.contains(&hash(&whole)) {
                return path.trim_start_matches("./").replace(['/', '\\', '.'], "_");
            }
            return whole;
        }
        short
    }
}

fn whole_id(path: &str) -> String {
    without_extension(path.trim_start_matches("./")).replace(['/', '\\'], "_")
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_their_folder() {
        let folder = Folder::new(Path::new("/data"));
        assert_eq!(folder.below("a/./b.png", "x"), Ok(PathBuf::from("/data/a/./b.png")));
        for path in ["../b", "a/../../b", "/etc/passwd", "", "a\0b", "\u{e9}/../../b"] {
            let skip = folder.below(path, "line 3").expect_err("it leaves the folder");
            assert_eq!(skip.reason, Reason::UnsafePath);
            assert!(skip.message.starts_with("line 3"));
        }
    }

    #[test]
    fn names_in_the_other_normal_form_are_found_and_capitals_are_a_hint() {
        let place = tempfile::tempdir().unwrap();
        let (nfc, nfd) = ("\u{e9}t\u{e9}", "e\u{301}te\u{301}");
        std::fs::create_dir(place.path().join(nfd)).unwrap();
        std::fs::write(place.path().join(nfd).join(format!("{nfd}.png")), "1").unwrap();
        std::fs::write(place.path().join("apple.PNG"), "2").unwrap();
        let folder = Folder::new(place.path());
        let file = |name: &str| folder.first_file(&[name.to_owned()], "line 2");
        let found = file(&format!("{nfc}/{nfc}.png")).unwrap();
        assert!(found.is_file() && found.ends_with(format!("{nfd}/{nfd}.png")));
        assert!(folder.video(nfc, "line 2").unwrap().is_dir());
        let message = file("Apple.png").unwrap_err().message;
        assert!(
            message.contains("no image Apple.png") && message.ends_with("there is apple.PNG"),
            "{message}"
        );
        assert!(!file("pear.png").unwrap_err().message.contains("there is"));
        std::fs::create_dir(place.path().join("foo")).unwrap();
        for name in ["foo", "Foo"] {
            assert!(!file(name).unwrap_err().message.contains("there is"), "{name}");
        }
        // Two files that look alike, and a third way to write it.
        for name in [nfc, nfd] {
            std::fs::write(place.path().join(format!("{name}.jpg")), "3").unwrap();
        }
        // A folder lists its names once.
        let folder = Folder::new(place.path());
        let file = |name: &str| folder.first_file(&[name.to_owned()], "line 2");
        assert!(file(&format!("{nfd}.jpg")).is_ok());
        let message = file("\u{e9}te\u{301}.jpg").unwrap_err().message;
        assert!(message.contains("NFD"), "{message}");
    }

    #[test]
    fn ids_are_names_without_extension() {
        assert_eq!(id_name("coco/train2017/000000000009.jpg"), "000000000009");
        assert_eq!(id_name("v_1.2.mp4"), "v_1.2");
        assert_eq!(id_name("v_1.2"), "v_1.2");
        let ids = PictureIds::new(
            ["a/1.png", "./a/1.png", "b/1.png", "b/2.png"].map(str::to_owned).into_iter(),
            |path| id_name(path).to_owned(),
        );
        assert_eq!(["a/1.png", "b/1.png", "b/2.png"].map(|path| ids.id(path)), ["a_1", "b_1", "2"]);
        let ids = PictureIds::new(["a/9.png", "a/9.jpg", "b/9.png"].map(str::to_owned).into_iter(), |path| {
            id_name(path).to_owned()
        });
        assert_eq!(["a/9.png", "a/9.jpg", "b/9.png"].map(|path| ids.id(path)), ["a_9_png", "a_9_jpg", "b_9"]);
    }
}
