//! config.json.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = otter_fuzz::directory("config.json", bytes).join("config.json");
    let _ = otter_checkpoint::CheckpointConfig::read(&path);
});
