//! PyTorch's form before version 1.6.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    otter_fuzz::weights(bytes);
});
