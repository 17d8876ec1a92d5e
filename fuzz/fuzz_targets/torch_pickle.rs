//! The pickle inside PyTorch's ZIP form.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    otter_fuzz::weights(&otter_fuzz::torch_archive(bytes));
});
