//! What the targets share: bytes as a file, and reading all that a weight file offers.

use otter_checkpoint::{GgufFile, Weights};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// A directory of this process, in memory where the system has such a place.
static PLACE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let above = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let place = above.join(format!("otter-fuzz-{}", std::process::id()));
    fs::create_dir_all(&place).expect("a place for files");
    place
});

/// The directory, with this one file in it.
pub fn directory(name: &str, bytes: &[u8]) -> &'static Path {
    fs::write(PLACE.join(name), bytes).expect("a file can be written");
    &PLACE
}

/// Opens a weight file and reads every tensor. Elements can be at most four for a byte of the file.
pub fn weights(bytes: &[u8]) {
    let path = directory("weights", bytes).join("weights");
    let Ok(weights) = Weights::open_file(&path) else { return };
    let mut budget = 64 * bytes.len();
    for name in weights.names() {
        let Some(entry) = weights.get(name) else { continue };
        assert!(entry.elements() <= 4 * bytes.len());
        // Many tensors may be views of one storage.
        if entry.elements() > budget {
            break;
        }
        budget -= entry.elements();
        let _ = weights.read_f32(name);
    }
}

/// What the metadata of a GGUF file describes.
pub fn gguf_metadata(bytes: &[u8]) {
    let path = directory("weights", bytes).join("weights");
    let Ok(file) = GgufFile::open(&path) else { return };
    let _ = (file.text_config(), file.language_tokenizer_json(), file.config(), file.tokenizer());
}

/// A PyTorch archive with this pickle and one storage "0" of 16 bytes.
pub fn torch_archive(pickle: &[u8]) -> Vec<u8> {
    let members: [(&str, &[u8]); 2] = [("a/data.pkl", pickle), ("a/data/0", &[0; 16])];
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let offset = bytes.len() as u32;
        let mut fields = Vec::new();
        fields.extend([20u16, 0, 0, 0, 0].into_iter().flat_map(u16::to_le_bytes));
        fields.extend([0, data.len() as u32, data.len() as u32].into_iter().flat_map(u32::to_le_bytes));
        fields.extend([name.len() as u16, 0].into_iter().flat_map(u16::to_le_bytes));
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.bytes());
        bytes.extend(data);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(name.bytes());
    }
    let start = bytes.len() as u32;
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0\x02\0\x02\0");
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(start.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}
