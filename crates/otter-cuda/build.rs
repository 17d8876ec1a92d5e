//! Compiles the kernels: with `cuda` by nvcc to one file for several kinds of GPU, with `emulate` for the host.

fn main() {
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=emulation");
    println!("cargo:rerun-if-env-changed=OTTER_CUDA_KERNELS");
    #[cfg(feature = "emulate")]
    emulate();
    #[cfg(feature = "cuda")]
    for_gpus();
}

/// Sources of kernels, in the order of their names.
#[cfg(any(feature = "emulate", feature = "cuda"))]
fn sources() -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir("kernels").expect("the folder `kernels` is part of the crate");
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut sources: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    sources.sort();
    sources
}

#[cfg(feature = "emulate")]
fn emulate() {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").define("OTTER_EMULATE", None).opt_level(2);
    // `fmaf` and `a * b + c` must differ as they do on a GPU, where the latter is contracted only by nvcc's own choice.
    build.flag("-ffp-contract=off").flag("-U_FORTIFY_SOURCE").flag("-x").flag("c++").flag("-fsigned-char");
    // What these add to the instructions changes no result: a fused product is then one instruction instead of a call.
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
        build.flag("-mfma").flag("-mavx2");
    }
    build.files(["emulation/cuda_on_host.cpp", "emulation/faulty.cu"]).files(sources());
    // Kernels announce themselves before `main`: nothing calls them by name.
    build.link_lib_modifier("+whole-archive").compile("otter_kernels_on_host");
}

/// The kinds of GPU that machine code is made for; later ones get the last as PTX.
#[cfg(feature = "cuda")]
const CAPABILITIES: [&str; 4] = ["80", "86", "89", "90"];

#[cfg(feature = "cuda")]
fn for_gpus() {
    use std::env::var_os;
    use std::path::PathBuf;
    use std::process::Command;
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(var_os("OUT_DIR").expect("cargo sets it"));
    // For looking at the Rust code alone: such a program finds no kernel.
    if var_os("OTTER_CUDA_KERNELS").is_some_and(|kernels| kernels == "none") {
        let none = "static FATBINS: &[(&str, &[u8])] = &[(\"none\", &Aligned([]).0)];\n";
        std::fs::write(out.join("fatbins.rs"), none).expect("OUT_DIR can be written");
        return;
    }
    let fetched = PathBuf::from("../../target/cuda-toolkit");
    let places = [var_os("CUDA_HOME"), var_os("CUDA_PATH")].into_iter().flatten().map(PathBuf::from);
    let places: Vec<PathBuf> = places.chain([fetched, "/usr/local/cuda".into()]).collect();
    let Some(home) = places.iter().find(|place| place.join("bin/nvcc").exists()) else {
        let places: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        panic!(
            "feature `cuda`: no bin/nvcc in {}. Set CUDA_HOME to a CUDA 13 toolkit, or run cuda/toolkit.sh, which fetches the compiler",
            places.join(", ")
        );
    };
    let mut list =
        String::from("/// Kernels as nvcc wrote them, by source.\nstatic FATBINS: &[(&str, &[u8])] = &[\n");
    for source in sources() {
        let stem = source.file_stem().expect("a file").to_string_lossy().into_owned();
        let mut nvcc = Command::new(home.join("bin/nvcc"));
        nvcc.args(["-O3", "--std=c++17", "-fatbin", "-compress-mode=size"]);
        for capability in CAPABILITIES {
            nvcc.arg(format!("-gencode=arch=compute_{capability},code=sm_{capability}"));
        }
        let last = CAPABILITIES[CAPABILITIES.len() - 1];
        nvcc.arg(format!("-gencode=arch=compute_{last},code=compute_{last}"));
        let status = nvcc.arg("-o").arg(out.join(format!("{stem}.fatbin"))).arg(&source).status();
        assert!(status.is_ok_and(|status| status.success()), "nvcc could not compile {}", source.display());
        list += &format!(
            "    ({stem:?}, &Aligned(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\"))).0),\n"
        );
    }
    std::fs::write(out.join("fatbins.rs"), list + "];\n").expect("OUT_DIR can be written");
}
