//! Builds the eBPF programs, which `src/dataplane/object.rs` embeds.

use std::{env, path::PathBuf, process::Command};

/// Flags of the bpf target: BTF for the maps (needs debug information), the instruction set of Linux 5.1 and later
/// (32-bit jumps), and plain loads from headers, which lie at odd places in a frame: the verifier allows them on
/// every architecture that has them.
const RUSTFLAGS: [&str; 4] =
    ["-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf", "-Clink-arg=--cpu-features=+allows-misaligned-mem-access"];

fn main() {
    let manifest_dir = env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let workspace = PathBuf::from(manifest_dir).join("..");
    for input in ["lb-ebpf", "lb-common", "Cargo.lock", "target/tools/bin/bpf-linker"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let target = match env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() {
        Ok("big") => "bpfeb-unknown-none",
        _ => "bpfel-unknown-none",
    };
    let target_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("ebpf");
    let status = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .current_dir(&workspace)
        .args(["build", "--package", "lb-ebpf", "--bins", "--release", "--locked"])
        .args(["--target", target, "-Zbuild-std=core", "--target-dir"])
        .arg(&target_dir)
        // The pinned stable compiler may build `core` for a target that it is not shipped for.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        // Clippy and coverage wrap the compiler of this build, not of that one.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building lb-ebpf failed; `cargo xtask setup` installs what it needs");
    println!("cargo:rustc-env=LB_EBPF_OBJECTS={}", target_dir.join(target).join("release").display());
}
