//! Encoding and streaming decoding with the reference tokenizers.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::tokenizer;
use proptest::prelude::*;

const TOKENIZERS: [&str; 2] = ["tokenizer_llama", "tokenizer_mpt"];

#[test]
fn plain_encoding_has_no_special_ids_and_keeps_the_text() {
    let text = "a <image> b</s><|endoftext|><answer>c<|endofchunk|>";
    for name in TOKENIZERS {
        let tokenizer = tokenizer(name);
        let special = *tokenizer.special();
        let plain = tokenizer.encode_plain(text).unwrap();
        assert!(![special.image, special.answer, special.endofchunk].iter().any(|id| plain.contains(id)));
        assert_eq!(tokenizer.decode(&plain, true).unwrap(), text);
        assert!(tokenizer.encode(text).unwrap().contains(&special.image));
        assert!(tokenizer.contains_special(text) && !tokenizer.contains_special("a < image > b"));
    }
}

#[test]
fn streamed_pieces_add_up_and_characters_arrive_whole() {
    let text = "près de l'église, 中文 ok 😀 <image>two  spaces\n end";
    for name in TOKENIZERS {
        let tokenizer = tokenizer(name);
        for skip_special in [true, false] {
            let ids = tokenizer.encode(text).unwrap();
            let mut decoder = tokenizer.stream_decoder(skip_special);
            let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
            pieces.push(decoder.finish().unwrap());
            assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{pieces:?}");
            assert_eq!(pieces.concat(), tokenizer.decode(&ids, skip_special).unwrap(), "{name}");
        }
    }
}

#[test]
fn bytes_that_never_become_a_character_are_given_out_in_the_end() {
    let tokenizer = tokenizer("tokenizer_llama");
    // 0x80 as a byte token can only continue a character.
    let continuation = tokenizer.token_to_id("<0x80>").unwrap();
    let mut decoder = tokenizer.stream_decoder(true);
    let text: String = (0..40).map(|_| decoder.push(continuation).unwrap()).collect();
    assert!(text.starts_with('\u{FFFD}'));
    assert!(decoder.finish().unwrap().chars().all(|c| c == '\u{FFFD}'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_ids_stream_without_panic(ids in proptest::collection::vec(0_u32..400, 0..40), skip in any::<bool>()) {
        for name in TOKENIZERS {
            let tokenizer = tokenizer(name);
            let mut decoder = tokenizer.stream_decoder(skip);
            for &id in &ids {
                decoder.push(id).unwrap();
            }
            decoder.finish().unwrap();
        }
    }
}
