//! Images given as base64 text, with what programs put around it.
//!
//! Read are `data:` URIs (also with `%2B`, `%2F`, `%3D`), Python's `b'…'` and quoted text, escaped and real line ends, the
//! URL-safe alphabet, text without its padding where the image ends as it should, and base64 text of base64 text. All
//! these are told from plain base64 text by characters that it cannot hold, or by what comes out. Whatever else stands in
//! place of an image is refused by its name.

use otter_media::{is_cut, is_image};
use std::borrow::Cow;

use crate::files::base64_text::{decode_base64, decode_unpadded};

/// A wrapper or the kind of a text is told by this many bytes of its beginning.
const HEAD_BYTES: usize = 256;

/// Decodes the base64 text of an image; bytes of an image stay as they are. The error says what the text is instead.
pub(crate) fn decode_base64_image(text: &[u8]) -> Result<Vec<u8>, String> {
    if is_image(text) {
        return Ok(text.to_vec());
    }
    decode(text, true)
}

/// The image in a file whose name promises one: its bytes, or those that its base64 text stands for.
pub(crate) fn image_of_file(bytes: Vec<u8>) -> Vec<u8> {
    if is_image(&bytes) {
        return bytes;
    }
    decode_base64_image(&bytes).ok().filter(|image| is_image(image)).unwrap_or(bytes)
}

fn decode(text: &[u8], may_be_twice: bool) -> Result<Vec<u8>, String> {
    let (payload, wrapper) = unwrapped(text)?;
    let decoded = decode_base64(&payload);
    if let Ok(bytes) = &decoded
        && !is_image(bytes)
        && may_be_twice
        && let Ok(inner) = decode(bytes, false)
        && is_image(&inner)
    {
        return Ok(inner);
    }
    if !decoded.as_ref().is_ok_and(|bytes| is_image(bytes))
        && let Some(what) = foreign(&payload)
    {
        return Err(format!("{}{what}, no base64 text of an image", within(wrapper)));
    }
    decoded.or_else(|message| {
        // Text that was cut looks the same; the image's own end tells them apart.
        let unpadded = decode_unpadded(&payload).filter(|bytes| is_image(bytes) && !is_cut(bytes));
        unpadded.ok_or_else(|| format!("{}{message}", within(wrapper)))
    })
}

fn within(wrapper: &'static str) -> Cow<'static, str> {
    if wrapper.is_empty() { Cow::Borrowed("") } else { Cow::Owned(format!("inside {wrapper}: ")) }
}

/// The base64 text inside, and the name of what was around it.
fn unwrapped(text: &[u8]) -> Result<(Cow<'_, [u8]>, &'static str), String> {
    let mut inner = crate::text::clean::without_byte_order_mark(text).trim_ascii();
    let mut wrapper = "";
    if let Some(quoted) = python_bytes(inner) {
        (inner, wrapper) = (quoted, "Python's b'…'");
        if memchr::memmem::find(&inner[..inner.len().min(HEAD_BYTES)], b"\\x").is_some() {
            return Err("Python's text of raw bytes (b'\\x…'), not of base64 text; write base64.b64encode(data).decode()"
                .to_owned());
        }
    }
    if let Some(quoted) = quoted(inner) {
        inner = quoted;
        wrapper = if wrapper.is_empty() { "quotes" } else { wrapper };
    }
    let head = inner[..inner.len().min(HEAD_BYTES)].to_ascii_lowercase();
    if let Some(at) = memchr::memmem::find(&head, b"base64,") {
        (inner, wrapper) = (&inner[at + 7..], "a data: URI");
        // What closes an attribute or a function call around it.
        let end = inner.iter().position(|byte| matches!(byte, b'"' | b'\'' | b')' | b'>' | b'<'));
        inner = &inner[..end.unwrap_or(inner.len())];
    } else if head.starts_with(b"data:") && head.contains(&b',') {
        return Err(
            "a data: URI that is not base64 (no `;base64,`); give the base64 text of the image".to_owned()
        );
    }
    Ok((unescaped(inner), wrapper))
}

fn python_bytes(text: &[u8]) -> Option<&[u8]> {
    quoted(text.strip_prefix(b"b").or_else(|| text.strip_prefix(b"B"))?)
}

fn quoted(text: &[u8]) -> Option<&[u8]> {
    [b"'", b"\""].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
}

/// Escapes of line ends and of slashes, and percent signs of URIs; base64 text holds neither.
fn unescaped(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\\', b'%', text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        let (byte, read) = match rest {
            [] => return Cow::Owned(plain),
            [b'\\', b'n' | b'r' | b't', ..] => (b'\n', 2),
            [b'\\', b'/', ..] => (b'/', 2),
            [b'%', b'2', b'B' | b'b', ..] => (b'+', 3),
            [b'%', b'2', b'F' | b'f', ..] => (b'/', 3),
            [b'%', b'3', b'D' | b'd', ..] => (b'=', 3),
            [b'%', b'0', b'A' | b'a' | b'D' | b'd', ..] => (b'\n', 3),
            [byte, ..] => (*byte, 1),
        };
        plain.push(byte);
        rest = &rest[read..];
    }
}

/// What a text that gave no image looks like.
fn foreign(text: &[u8]) -> Option<&'static str> {
    let head = &text[..text.len().min(HEAD_BYTES)];
    let lower = head.to_ascii_lowercase();
    let image_name =
        [&b".jpg"[..], b".jpeg", b".png", b".webp", b".gif"].iter().any(|end| lower.ends_with(end));
    if lower.starts_with(b"http://") || lower.starts_with(b"https://") || lower.starts_with(b"s3://") {
        Some("a web address")
    } else if text.len() < HEAD_BYTES && image_name {
        Some("the name of a file")
    } else if [&b"ffd8ff"[..], b"89504e47", b"47494638", b"52494646"]
        .iter()
        .any(|magic| lower.starts_with(magic))
    {
        Some("hexadecimal digits")
    } else if head.starts_with(b"{") || head.starts_with(b"[") {
        Some("a JSON value in a string")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};

    use super::*;

    /// Bytes that begin and end as a JPEG does; 0xFB and 0xFF give `+` and `/`.
    fn image(length: usize) -> Vec<u8> {
        let mut bytes = b"\xff\xd8\xff".to_vec();
        bytes.resize(length - 2, 0xfb);
        bytes.extend([0xff, 0xd9]);
        bytes
    }

    #[test]
    fn every_wrapper_is_read() {
        for length in 60..63 {
            let image = image(length);
            let text = STANDARD.encode(&image);
            let lines: Vec<&str> =
                text.as_bytes().chunks(20).map(|l| std::str::from_utf8(l).unwrap_or("")).collect();
            let percent = text.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
            for wrapped in [
                text.clone(),
                format!("\u{feff}{text}\r\n"),
                format!("data:image/jpeg;base64,{text}"),
                format!("DATA:image/JPEG;charset=utf-8;BASE64,{text}"),
                format!("data:;base64,{text}"),
                format!("image/png;base64,{text}"),
                format!("data:image/png;base64,{percent}"),
                format!("url(\"data:image/png;base64,{text}\")"),
                format!("<img alt='' src='data:image/png;base64,{text}'/>"),
                format!("b'{text}'"),
                format!("b\"{text}\""),
                format!(" b'data:image/png;base64,{text}' "),
                format!("'{text}'"),
                format!("\"{text}\""),
                lines.join("\n"),
                lines.join("\\n"),
                format!("b'{}\\n'", lines.join("\\n")),
                text.replace('/', "\\/"),
                URL_SAFE.encode(&image),
                URL_SAFE_NO_PAD.encode(&image),
                text.trim_end_matches('=').to_owned(),
                format!("b'{}'", text.trim_end_matches('=')),
                STANDARD.encode(&text),
                STANDARD.encode(format!("data:image/png;base64,{text}")),
            ] {
                assert_eq!(decode_base64_image(wrapped.as_bytes()).as_ref(), Ok(&image), "{wrapped}");
            }
        }
    }

    #[test]
    fn what_is_refused_is_named() {
        let cut = STANDARD.encode(&image(70)[..60]);
        let cut = &cut[..cut.len() - 3];
        for (text, named) in [
            ("data:image/svg+xml,<svg/>".to_owned(), "data: URI that is not base64"),
            (r"b'\xff\xd8\xff\xe0'".to_owned(), "raw bytes"),
            ("https://example.org/a/b.jpg".to_owned(), "web address"),
            ("train2017/000000001.jpg".to_owned(), "name of a file"),
            ("ffd8ffe000104a464946".to_owned() + "0001", "hexadecimal"),
            (cut.to_owned(), "cut"),
            (format!("data:image/jpeg;base64,{cut}"), "inside a data: URI"),
            (format!("b'{cut}'"), "inside Python's b'…'"),
        ] {
            let message = decode_base64_image(text.as_bytes()).expect_err(&text);
            assert!(message.contains(named), "{text}: {message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_handled_without_panic(text in "(b'|data:|[\"%\\\\])?[ -~]{0,60}") {
            let _ = decode_base64_image(text.as_bytes());
        }
    }
}
