//! Base64 as the original reads it: standard or URL-safe alphabet, other characters passed over,
//! missing padding refused.

const SKIP: u8 = 0xff;
const PAD: u8 = 0xfe;

static VALUES: [u8; 256] = {
    let mut values = [SKIP; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut i = 0;
    while i < alphabet.len() {
        values[alphabet[i] as usize] = i as u8;
        i += 1;
    }
    values[b'-' as usize] = 62;
    values[b'_' as usize] = 63;
    values[b'=' as usize] = PAD;
    values
};

/// Decodes base64 text; the error says what is wrong with it.
pub fn decode_base64(text: &[u8]) -> Result<Vec<u8>, &'static str> {
    match decode(text) {
        Decoded::Whole(bytes) => Ok(bytes),
        Decoded::Unpadded(_) => Err("base64 text lacks its padding; it is damaged or cut"),
        Decoded::LeftOver => Err("base64 text ends with a single left-over character; it is damaged or cut"),
    }
}

/// The bytes of a text that lacks nothing but its padding.
pub(crate) fn decode_unpadded(text: &[u8]) -> Option<Vec<u8>> {
    match decode(text) {
        Decoded::Unpadded(bytes) => Some(bytes),
        Decoded::Whole(_) | Decoded::LeftOver => None,
    }
}

enum Decoded {
    Whole(Vec<u8>),
    /// Two or three characters stand in the last group, which stands for one byte or two.
    Unpadded(Vec<u8>),
    /// A single character stands in the last group.
    LeftOver,
}

fn decode(text: &[u8]) -> Decoded {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let mut group = 0_u32;
    let mut in_group = 0;
    let mut pads = 0;
    for &character in text {
        match VALUES[usize::from(character)] {
            SKIP => {}
            PAD => {
                if in_group >= 2 {
                    pads += 1;
                    if in_group + pads == 4 {
                        // The padding is complete; whatever follows is not part of the data.
                        let triple = (group << (6 * pads)).to_be_bytes();
                        bytes.extend_from_slice(&triple[1..4 - pads as usize]);
                        return Decoded::Whole(bytes);
                    }
                }
            }
            value => {
                pads = 0;
                group = (group << 6) | u32::from(value);
                in_group += 1;
                if in_group == 4 {
                    bytes.extend_from_slice(&group.to_be_bytes()[1..]);
                    group = 0;
                    in_group = 0;
                }
            }
        }
    }
    match in_group {
        0 => Decoded::Whole(bytes),
        1 => Decoded::LeftOver,
        _ => {
            let missing = 4 - in_group;
            let triple = (group << (6 * missing)).to_be_bytes();
            bytes.extend_from_slice(&triple[1..4 - missing as usize]);
            Decoded::Unpadded(bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn foreign_characters_are_passed_over_and_cut_text_is_refused() {
        assert_eq!(decode_base64(b" aG\nVs*bG8= ignored").as_deref(), Ok(&b"hello"[..]));
        assert_eq!(decode_base64(b"aG=Vs"), Ok(b"hel".to_vec()));
        assert!(decode_base64(b"aGVsbG8").is_err());
        assert!(decode_base64(b"aGVsb").is_err());
        assert_eq!(decode_base64(b""), Ok(Vec::new()));
    }

    proptest::proptest! {
        #[test]
        fn both_alphabets_round_trip(bytes in proptest::collection::vec(0_u8.., 0..200)) {
            proptest::prop_assert_eq!(decode_base64(STANDARD.encode(&bytes).as_bytes()), Ok(bytes.clone()));
            proptest::prop_assert_eq!(decode_base64(URL_SAFE.encode(&bytes).as_bytes()), Ok(bytes));
        }

        #[test]
        fn any_text_is_handled_without_panic(text in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = decode_base64(&text);
        }
    }
}
