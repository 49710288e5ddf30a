//! A kernel of the distribution, for a virtual machine of the tests: unpacked, and not installed.

use std::{
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::find_program;
use crate::{cargo, progress};

/// Depends on the newest kernel of Debian for virtual machines.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// Unpacks the package that its first argument depends on to its second one.
const UNPACK: &str = r#"
set -eu
new=$2.new
rm -rf "$new" "$2"
mkdir -p "$new/package"
cd "$new/package"
name=$(apt-cache depends "$1" | sed -n 's/.*Depends: *//p' | head -n 1)
apt-get download -o APT::Sandbox::User=root "$name"
dpkg-deb --extract ./*.deb "$new"
rm -r "$new/package"
mv "$new" "$2"
"#;

/// `false` if nothing was missing, or if there is no such package: then the tests that want it say that they are skipped.
pub(super) fn ensure() -> Result<bool> {
    let folder = cargo::workspace().join("target/tools/kernel");
    if folder.join("boot").exists() || !is_known()? {
        return Ok(false);
    }
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut unpack = Command::new("sh");
    unpack.args(["-c", UNPACK, "unpack", PACKAGE]).arg(&folder);
    progress::run(&format!("unpacking {PACKAGE} for a virtual machine (27 MB, not installed)"), unpack)?;
    Ok(true)
}

/// Whether this system's package manager has the package.
fn is_known() -> Result<bool> {
    if find_program("apt-cache").is_none() || find_program("dpkg-deb").is_none() {
        return Ok(false);
    }
    let mut show = Command::new("apt-cache");
    show.args(["depends", PACKAGE]).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(show.status().context("start apt-cache")?.success())
}
