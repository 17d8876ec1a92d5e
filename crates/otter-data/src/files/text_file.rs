//! Text files of others: UTF-8, with or without a byte order mark. Other encodings are named.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{DataError, Result};
use crate::text::clean::without_byte_order_mark;

/// Opens a large text file behind its byte-order mark, whose length stands beside it; another encoding is an error.
pub(crate) fn open_text_file(path: &Path) -> Result<(BufReader<File>, u64)> {
    let failed = |error| DataError::io(path, error);
    let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(failed)?);
    let head = reader.fill_buf().map_err(failed)?;
    if let Some(fault) = foreign_encoding(head) {
        return Err(DataError::format(path, fault));
    }
    let mark = head.len() - without_byte_order_mark(head).len();
    reader.consume(mark);
    Ok((reader, mark as u64))
}

/// Reads a text file; a byte order mark is passed over.
pub fn read_text_file(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|error| DataError::io(path, error))?;
    if let Some(fault) = foreign_encoding(&bytes) {
        return Err(DataError::format(path, fault));
    }
    let mark = bytes.len() - without_byte_order_mark(&bytes).len();
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + memchr::memchr_iter(b'\n', &error.as_bytes()[..at]).count();
        DataError::format(path, format!("line {line}: byte {at} is no UTF-8; save the file as UTF-8"))
    })?;
    text.drain(..mark);
    Ok(text)
}

/// What is wrong with the encoding, if a file begins as UTF-16 or UTF-32: with their byte order marks, or with the zero
/// bytes of ASCII characters in them.
pub fn foreign_encoding(bytes: &[u8]) -> Option<&'static str> {
    let name = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => "UTF-32",
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "UTF-16",
        [first, 0, second, 0, ..] if *first != 0 && *second != 0 => "UTF-16",
        [0, first, 0, second, ..] if *first != 0 && *second != 0 => "UTF-16",
        _ => return None,
    };
    Some(if name == "UTF-16" {
        "the text is encoded as UTF-16, UTF-8 is expected; save it as UTF-8, or convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"
    } else {
        "the text is encoded as UTF-32, UTF-8 is expected; save it as UTF-8, or convert it: iconv -f UTF-32 -t UTF-8 OLD > NEW"
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn marks_are_passed_over_and_other_encodings_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            read_text_file(file.path()).map_err(|error| error.to_string())
        };
        assert_eq!(read("\u{feff}é\n".as_bytes()), Ok("é\n".to_owned()));
        assert_eq!(read(b""), Ok(String::new()));
        let wide = |mark: &str, little: bool| -> Vec<u8> {
            let units = format!("{mark}a,b").encode_utf16().collect::<Vec<_>>();
            units
                .into_iter()
                .flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() })
                .collect()
        };
        for bytes in [wide("\u{feff}", true), wide("\u{feff}", false), wide("", true), wide("", false)] {
            let message = read(&bytes).unwrap_err();
            assert!(message.contains("UTF-16") && message.contains("iconv"), "{message}");
        }
        assert!(read(b"\xff\xfe\0\0a\0\0\0").unwrap_err().contains("UTF-32"));
        assert!(read(b"ok\n\xe9t\xe9").unwrap_err().contains("line 2"));
    }
}
