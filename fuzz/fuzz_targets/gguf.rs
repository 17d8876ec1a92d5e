//! GGUF files: tensors, configuration, tokenizer.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    otter_fuzz::weights(bytes);
    otter_fuzz::gguf_metadata(bytes);
});
