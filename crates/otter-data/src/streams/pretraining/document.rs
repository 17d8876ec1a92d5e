//! Interleaved documents as JSON.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::files::json_text::parse_object;

/// A web page in the form of MMC4. Fields that are not listed are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct WebDocument {
    pub(super) text_list: Vec<String>,
    pub(super) image_info: Vec<ImageInfo>,
    /// (images, sentences)
    #[serde(default)]
    pub(super) similarity_matrix: Option<Vec<Vec<f64>>>,
}

/// An image of a web page: inside the document, or named.
#[derive(Debug, Deserialize)]
pub(super) struct ImageInfo {
    #[serde(default)]
    pub(super) image_base64: Option<String>,
    #[serde(default)]
    pub(super) image_name: Option<String>,
    #[serde(default)]
    pub(super) matched_sim: Option<f64>,
    #[serde(default)]
    pub(super) matched_text_index: Option<usize>,
}

/// A generated document: markers `_!_IMAGE<n>_!_` in its text stand for images.
#[derive(Debug, Deserialize)]
pub(super) struct SyntheticDocument {
    pub(super) example: String,
    pub(super) image_map: HashMap<String, MarkedImage>,
}

/// The image of a marker.
#[derive(Debug, Deserialize)]
pub(super) struct MarkedImage {
    pub(super) base64_image: String,
}

/// A document of either form.
#[derive(Debug)]
pub(super) enum Document {
    Web(WebDocument),
    Synthetic(SyntheticDocument),
}

impl Document {
    /// Parses a document; a key `is_gpt` marks a synthetic one.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Mark {
            is_gpt: Option<IgnoredAny>,
        }
        let mark: Mark = parse_object(json)?;
        if mark.is_gpt.is_some() {
            let document = parse_object(json).map(Self::Synthetic);
            return document
                .map_err(|error| format!("a synthetic document needs `example` and `image_map`; {error}"));
        }
        let document = parse_object(json).map(Self::Web);
        document.map_err(|error| format!("a document needs `text_list` and `image_info`; {error}"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let web =
            Document::parse(br#"{"text_list":["a"],"image_info":[{"matched_sim":0.3,"x":1}],"url":"u"}"#)
                .unwrap();
        let Document::Web(web) = web else { panic!("{web:?}") };
        assert_eq!((web.text_list.len(), web.image_info[0].matched_sim), (1, Some(0.3)));
        let synthetic = br#"{"is_gpt":true,"example":"_!_IMAGE1_!_ a","image_map":{"_!_IMAGE1_!_":{"base64_image":"aGk="}}}"#;
        assert!(matches!(Document::parse(synthetic).unwrap(), Document::Synthetic(_)));
    }

    #[test]
    fn messages_say_what_is_expected() {
        for (json, part) in [
            (&b"[1]"[..], "an object"),
            (b"{", "no valid JSON"),
            (b"", "an object"),
            (br#"{"text_list":["a"]}"#, "image_info"),
            (br#"{"text_list":[1],"image_info":[]}"#, "`text_list[0]`"),
            (
                br#"{"text_list":["a"],"image_info":[{"matched_text_index":-1}]}"#,
                "`image_info[0].matched_text_index`",
            ),
            (br#"{"is_gpt":1}"#, "`example`"),
            (br#"{"text_list":["a"],"image_info":[],"similarity_matrix":[[NaN]]}"#, "column"),
        ] {
            let message = Document::parse(json).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_handled_without_panic(bytes in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = Document::parse(&bytes);
        }

        #[test]
        fn any_json_like_text_is_handled_without_panic(
            text in r#"\{("(is_gpt|example|image_map|text_list|image_info)":(\[\]|\{\}|"x"|1|null|\["a"\]|\[\{\}\]),?){0,4}\}?"#
        ) {
            let _ = Document::parse(text.as_bytes());
        }
    }
}
