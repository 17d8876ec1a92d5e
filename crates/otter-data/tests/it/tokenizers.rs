//! Encoding and streaming decoding with the reference tokenizers.

use crate::common::tokenizer;
use otter_data::TextTokenizer;
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

#[test]
fn a_token_across_the_border_is_said_and_is_the_answers() {
    let mpt = tokenizer("tokenizer_mpt");
    let joined = |tokenizer: &TextTokenizer, prompt: &str, answer: &str| {
        let joined = tokenizer.encode_joined(prompt, answer).unwrap();
        assert_eq!(joined.ids, tokenizer.encode(&format!("{prompt}{answer}")).unwrap());
        (tokenizer.decode(&joined.ids[joined.start..], false).unwrap(), joined.border_token)
    };
    // The space belongs to the word behind it, whatever text it stands in.
    assert_eq!(joined(&mpt, "User: a ", "the"), (" the".to_owned(), true));
    assert_eq!(joined(&mpt, "User: a", " the"), (" the".to_owned(), false));
    assert_eq!(joined(&mpt, "User: a", " the<|endofchunk|>"), (" the<|endofchunk|>".to_owned(), false));
    assert_eq!(joined(&mpt, "<answer>", "the"), ("the".to_owned(), false));
    let llama = tokenizer("tokenizer_llama");
    assert!(joined(&llama, "User: a ", "the").1);
    assert!(!joined(&llama, "User: a", " the").1);
    // Behind a special token a word of this tokenizer begins with a space that nobody wrote.
    assert_eq!(joined(&llama, "User: a<answer>", "the").0.trim(), "the");
    assert_eq!(joined(&llama, "User: a<answer>", "église").0.trim(), "église");
    for tokenizer in [mpt, llama] {
        assert_eq!(joined(&tokenizer, "a", ""), (String::new(), false));
        assert_eq!(joined(&tokenizer, "", "the").0.trim(), "the");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Tokens before the answer stand for text of the prompt only, all of it unless a token lies across the border.
    #[test]
    fn joined_texts_are_cut_where_the_answer_begins(
        prompt in "(the|a| |  |\n|User:|é|中|😀|<answer>|<image>){0,6}",
        answer in "(the|a| |  |\n|cat|é|中|😀|<\\|endofchunk\\|>){1,6}",
    ) {
        for name in TOKENIZERS {
            let tokenizer = tokenizer(name);
            let joined = tokenizer.encode_joined(&prompt, &answer).unwrap();
            prop_assert_eq!(&joined.ids, &tokenizer.encode(&format!("{prompt}{answer}")).unwrap());
            prop_assert!(joined.start < joined.ids.len());
            if name == "tokenizer_mpt" {
                let before = tokenizer.decode(&joined.ids[..joined.start], false).unwrap();
                let with_next = tokenizer.decode(&joined.ids[..=joined.start], false).unwrap();
                let whole = format!("{prompt}{answer}");
                prop_assert_eq!(joined.border_token, before != prompt, "{:?}", joined);
                prop_assert!(prompt.starts_with(&before));
                // A character of several tokens decodes to U+FFFD until it is complete.
                let incomplete = with_next.ends_with(char::REPLACEMENT_CHARACTER);
                let reaches = whole.starts_with(&with_next) && with_next.len() > prompt.len();
                prop_assert!(incomplete || reaches, "{:?}", joined);
            }
        }
    }

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
