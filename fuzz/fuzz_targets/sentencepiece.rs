//! tokenizer.model.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let directory = otter_fuzz::directory("tokenizer.model", bytes);
    let _ = otter_checkpoint::load_sentencepiece_tokenizer(directory);
});
