//! tokenizer.json. A panic inside the tokenizers crate that ours turns into an error is no finding.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // The hook of libFuzzer ends the process before anything can catch the panic.
        std::panic::set_hook(Box::new(|information| eprintln!("{information}")));
    },
    |bytes: &[u8]| {
        let directory = otter_fuzz::directory("tokenizer.json", bytes);
        let _ = otter_checkpoint::load_tokenizer(directory);
    }
);
