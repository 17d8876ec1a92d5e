//! PyTorch's ZIP form, whole files.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    otter_fuzz::weights(bytes);
});
