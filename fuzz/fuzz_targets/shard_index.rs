//! The index of a sharded checkpoint; no shard is there.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let directory = otter_fuzz::directory("model.safetensors.index.json", bytes);
    assert!(otter_checkpoint::Weights::open(directory).is_err());
});
