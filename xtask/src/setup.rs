//! Installs what is missing. With nothing missing it takes well under a second, so that every other command begins with it.

mod kernel;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use lb_tests::lab::bpffs;
use serde::Deserialize;

use crate::{cargo, progress, root};

/// The last version that uses the LLVM of `rustc` itself: later ones want an LLVM installed beside it.
const BPF_LINKER: &str = "0.10.3";

/// The feature of `bpf-linker` that names the LLVM of the pinned compiler.
const BPF_LINKER_LLVM: &str = "rust-llvm-22";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What to prepare for
    #[arg(value_enum, default_value_t = Level::Test)]
    level: Level,
}

/// How much is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Level {
    /// To build the balancer, and to run it in a lab
    Run,
    /// To test it, too
    Test,
    /// To compare it with others, too
    Bench,
}

struct Tool {
    /// Its name, or the path of a file that is no program.
    program: &'static str,
    /// In Debian and Ubuntu.
    package: &'static str,
    level: Level,
}

const TOOLS: [Tool; 18] = [
    tool("ip", "iproute2", Level::Run),
    tool("nsenter", "util-linux", Level::Run),
    tool("busybox", "busybox-static", Level::Test),
    tool("cpio", "cpio", Level::Test),
    tool("curl", "curl", Level::Test),
    tool("ethtool", "ethtool", Level::Test),
    tool("iperf3", "iperf3", Level::Test),
    tool("keepalived", "keepalived", Level::Test),
    tool("nft", "nftables", Level::Test),
    tool("nginx", "nginx-light", Level::Test),
    tool("openssl", "openssl", Level::Test),
    tool("ping", "iputils-ping", Level::Test),
    tool("qemu-system-x86_64", "qemu-system-x86", Level::Test),
    tool("tcpdump", "tcpdump", Level::Test),
    tool("wrk", "wrk", Level::Test),
    tool("conntrack", "conntrack", Level::Bench),
    tool("haproxy", "haproxy", Level::Bench),
    tool("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream", Level::Bench),
];

const fn tool(program: &'static str, package: &'static str, level: Level) -> Tool {
    Tool { program, package, level }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if !ensure(options.level)? {
        println!("nothing to do: all is installed");
    }
    Ok(())
}

/// Installs what is missing; `false` if nothing was.
pub(crate) fn ensure(level: Level) -> Result<bool> {
    let packages = ensure_packages(level)?;
    let components = ensure_rust_components()?;
    let linker = ensure_bpf_linker()?;
    // Without root it has to wait: the lab mounts it, too.
    let mounted = root::is_root() && bpffs::ensure_mounted()?;
    if mounted {
        println!("mounted bpffs at {}", bpffs::MOUNT);
    }
    let kernel = level >= Level::Test && kernel::ensure()?;
    Ok(packages || components || linker || mounted || kernel)
}

fn ensure_packages(level: Level) -> Result<bool> {
    let packages: Vec<_> = TOOLS
        .iter()
        .filter(|tool| tool.level <= level && find_program(tool.program).is_none())
        .map(|tool| tool.package)
        .collect();
    if packages.is_empty() {
        return Ok(false);
    }
    let list = packages.join(" ");
    ensure!(
        find_program("apt-get").is_some(),
        "install the programs of these Debian packages with this system's package manager: {list}"
    );
    ensure!(
        root::is_root(),
        "these packages are missing; install them with\n\n    sudo apt-get install --no-install-recommends {list}\n"
    );
    let mut install = Command::new("sh");
    install.args(["-c", INSTALL_PACKAGES, "install"]).args(packages).env("DEBIAN_FRONTEND", "noninteractive");
    progress::run(&format!("installing {list}"), install)?;
    Ok(true)
}

/// Installs its arguments. Package lists are fetched only if those of the machine do not do. No service is started (Debian's
/// way to ask for that is `policy-rc.d`, here only for the time of the installation), nor at the next start of the machine.
const INSTALL_PACKAGES: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
install() {
    apt-get install --yes --no-install-recommends -o DPkg::Lock::Timeout=120 "$@"
}
install "$@" || { apt-get update -o DPkg::Lock::Timeout=120 && install "$@"; }
for package; do
    case "$package" in
        haproxy) update-rc.d haproxy disable ;;
        keepalived) update-rc.d keepalived disable ;;
        nginx-light) update-rc.d nginx disable ;;
    esac
done
"#;

/// `rust-toolchain.toml`.
#[derive(Debug, Deserialize)]
struct ToolchainFile {
    toolchain: Toolchain,
}

#[derive(Debug, Deserialize)]
struct Toolchain {
    channel: String,
    components: Vec<String>,
}

/// `rustup` installs the toolchain's components by itself, except where that is switched off.
fn ensure_rust_components() -> Result<bool> {
    let path = cargo::workspace().join("rust-toolchain.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let ToolchainFile { toolchain } = toml::from_str(&text)?;
    let Toolchain { channel, components } = toolchain;
    if find_program("rustup").is_none() {
        return ensure_rust_src_without_rustup(&channel);
    }

    let listed = Command::new("rustup")
        .args(["component", "list", "--installed", "--toolchain", &channel])
        .stderr(Stdio::null())
        .output()
        .context("start rustup")?;
    let mut install = Command::new("rustup");
    let what = if listed.status.success() {
        let installed = String::from_utf8_lossy(&listed.stdout);
        let is_missing = |component: &&String| {
            // Some have the host's triple behind the name.
            !installed.lines().any(|line| line.starts_with(component.as_str()))
        };
        let missing: Vec<_> = components.iter().filter(is_missing).cloned().collect();
        if missing.is_empty() {
            return Ok(false);
        }
        install.args(["component", "add", "--toolchain", &channel]).args(&missing);
        format!("adding {} to Rust {channel}", missing.join(", "))
    } else {
        install
            .args(["toolchain", "install", &channel, "--profile", "minimal"])
            .args(["--component", &components.join(",")]);
        format!("installing Rust {channel}")
    };
    progress::run(&what, install)?;
    Ok(true)
}

fn ensure_rust_src_without_rustup(channel: &str) -> Result<bool> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().context("start rustc")?;
    let sysroot = PathBuf::from(String::from_utf8(output.stdout)?.trim());
    ensure!(
        sysroot.join("lib/rustlib/src/rust/library/core").exists(),
        "the eBPF programs need the source of Rust's core library (Rust {channel}, component rust-src): \
         install rustup, or the source package of your Rust"
    );
    Ok(false)
}

fn ensure_bpf_linker() -> Result<bool> {
    let tools = cargo::workspace().join("target/tools");
    if installed_bpf_linker(&tools).is_some_and(|version| version == BPF_LINKER) {
        return Ok(false);
    }
    let build = tools.join("build");
    let mut install = cargo::command();
    install
        .args(["install", "bpf-linker", "--version", BPF_LINKER])
        .args(["--no-default-features", "--features", BPF_LINKER_LLVM])
        .args(["--locked", "--force", "--root"])
        .arg(&tools)
        .arg("--target-dir")
        .arg(&build);
    let what = format!("building bpf-linker {BPF_LINKER} (once, some minutes)");
    progress::run(&what, install)?;
    fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    match installed_bpf_linker(&tools) {
        Some(version) if version == BPF_LINKER => Ok(true),
        found => bail!("{} is there, but says {found:?}", tools.display()),
    }
}

fn installed_bpf_linker(tools: &Path) -> Option<String> {
    let output = Command::new(tools.join("bin/bpf-linker")).arg("--version").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    Some(said.trim().strip_prefix("bpf-linker ")?.to_owned())
}

/// Also where only root's `PATH` leads to. A path is looked at as it is.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}
