//! A kernel that others have built, in a virtual machine, as the receiver of what the balancer tunnels.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::lab::{
    Lab, Node, Process, require_root_and, run, skip_for_kernel,
    topology::{virtual_ipv4, virtual_ipv6},
    unique_name,
};

use crate::{
    client::{names, owners},
    config::{self, Service},
    support::SOON,
};

/// The machine's addresses, behind its host, and those of the host on that link.
const GUEST: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 88, 0, 2), Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 2));
const HOST: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 88, 0, 1), Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 1));

/// The machine is emulated, which takes some ten times as long.
const BOOT: Duration = Duration::from_mins(2);

/// The modules that tunnels need, and the network card; what needs another one comes after it at the second attempt.
const MODULES: [&str; 9] =
    ["drivers/virtio", "virtio_net", "failover", "udp_tunnel", "ip_tunnel", "tunnel", "fou", "ipip", "sit"];

/// Where `cargo xtask setup` unpacks the kernel.
fn unpacked_kernel() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/kernel")
}

/// Files below `folder` whose path `wanted` likes.
fn find(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(find(&path, wanted)?);
        } else if wanted(&path.to_string_lossy()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The root of the machine's file system while it is made.
struct Root(PathBuf);

impl Root {
    /// With busybox, `ip` of the host with its libraries, and the modules.
    fn make(folder: PathBuf, kernel: &Path, balancer: &Node) -> Result<Self> {
        for name in ["bin", "proc", "sys", "dev", "www", "modules"] {
            fs::create_dir_all(folder.join(name))?;
        }
        let root = Self(folder);
        root.copy(&find_program("busybox")?, "bin/busybox")?;
        let ip = find_program("ip")?;
        root.copy(&ip, "bin/ip")?;
        let linked = String::from_utf8(run(Command::new("ldd").arg(&ip))?.stdout)?;
        for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
            root.copy(Path::new(library), library.trim_start_matches('/'))?;
        }
        let is_wanted = |path: &str| path.contains(".ko") && MODULES.iter().any(|part| path.contains(part));
        for module in find(&kernel.join("lib/modules"), &is_wanted)? {
            let name = module.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
            root.copy(&module, &format!("modules/{name}"))?;
        }
        let virtual_ips = (0..4).map(|index| format!("{}/32 {}/128 ", virtual_ipv4(index), virtual_ipv6(index)));
        let init = include_str!("kernel/init.sh")
            .replace("@VIRTUAL_IPS@", &virtual_ips.collect::<String>())
            .replace("@GUEST6@", &GUEST.1.to_string())
            .replace("@BALANCER6@", &balancer.ipv6().to_string())
            .replace("@GUEST@", &format!("{}/24 {}/64", GUEST.0, GUEST.1))
            .replace("@HOST@", &format!("{} {}", HOST.0, HOST.1));
        fs::write(root.0.join("init"), init)?;
        fs::set_permissions(root.0.join("init"), fs::Permissions::from_mode(0o755))?;
        Ok(root)
    }

    fn copy(&self, from: &Path, to: &str) -> Result<()> {
        let to = self.0.join(to);
        fs::create_dir_all(to.parent().context("a file in a folder")?)?;
        fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
        Ok(())
    }

    /// As an archive that the kernel unpacks when it starts.
    fn pack(&self, archive: &Path) -> Result<()> {
        let mut pack = Command::new("sh");
        pack.args(["-c", "find . | cpio --quiet --create --format=newc > \"$0\""]).arg(archive).current_dir(&self.0);
        run(&mut pack)?;
        Ok(())
    }
}

fn find_program(name: &str) -> Result<PathBuf> {
    let path = String::from_utf8(run(Command::new("sh").args(["-c", &format!("command -v {name}")]))?.stdout)?;
    Ok(fs::canonicalize(path.trim())?)
}

/// Lets a backend of the lab be the router to the machine, and nothing else.
fn route(lab: &Lab, host: &Node) -> Result<()> {
    for index in 0..4 {
        host.ip(&format!("address delete {}/32 dev lo", virtual_ipv4(index)))?;
        host.ip(&format!("address delete {}/128 dev lo", virtual_ipv6(index)))?;
    }
    host.ip("tuntap add tap0 mode tap")?;
    host.ip(&format!("address add {}/24 dev tap0", HOST.0))?;
    host.ip(&format!("address add {}/64 dev tap0 nodad", HOST.1))?;
    host.ip("link set tap0 mtu 1600 up")?;
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        run(host.command("sysctl").args(["-w", &format!("{key}=1")]))?;
    }
    let lb = lab.node("lb");
    lb.ip(&format!("route add {}/32 via {}", GUEST.0, host.ipv4()))?;
    lb.ip(&format!("route add {}/128 via {}", GUEST.1, host.ipv6()))?;
    Ok(())
}

fn boot(lab: &Lab, host: &Node, kernel: &Path) -> Result<Process> {
    let folder = lab.paths().dir().join("machine");
    let archive = lab.paths().dir().join("machine.cpio");
    Root::make(folder, kernel, lab.node("lb"))?.pack(&archive)?;
    let images = find(&kernel.join("boot"), &|path| path.contains("/vmlinuz-"))?;
    let [image] = &images[..] else { bail!("one kernel, not {images:?}") };
    let mut machine = host.command("qemu-system-x86_64");
    machine.args(["-accel", "tcg", "-m", "256", "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    machine.args(["-append", "console=ttyS0 quiet panic=-1", "-kernel"]).arg(image).arg("-initrd").arg(&archive);
    machine.args(["-netdev", "tap,id=link,ifname=tap0,script=no,downscript=no"]);
    machine.args(["-device", "virtio-net-pci,netdev=link,romfile=,host_mtu=1600"]);
    let mut machine = lab.spawn("machine", machine)?;
    machine.wait_for_log("the machine is ready", BOOT)?;
    Ok(machine)
}

/// By `ip fou add … gue`, as an operator sets it up on a backend without `lbd decap`.
#[test]
fn a_kernel_of_debian_opens_what_is_tunnelled_in_gue() -> Result<()> {
    if !require_root_and(&["qemu-system-x86_64", "busybox", "cpio"]) {
        return Ok(());
    }
    let kernel = unpacked_kernel();
    if !kernel.join("boot").exists() {
        skip_for_kernel("the kernel of Debian's package linux-image-cloud-amd64, which `cargo xtask setup` unpacks");
        return Ok(());
    }
    let lab = Lab::builder(&unique_name("kernel")).backends(1).build()?;
    let host = &lab.backends()[0];
    route(&lab, host)?;
    let machine = boot(&lab, host, &kernel)?;
    let combinations: [(&str, IpAddr, IpAddr); 4] = [
        ("4in4", virtual_ipv4(0).into(), GUEST.0.into()),
        ("4in6", virtual_ipv4(1).into(), GUEST.1.into()),
        ("6in4", virtual_ipv6(0).into(), GUEST.0.into()),
        ("6in6", virtual_ipv6(1).into(), GUEST.1.into()),
    ];
    let services = combinations.map(|(name, virtual_ip, guest)| {
        let web = Service::new(name, &SocketAddr::new(virtual_ip, 80).to_string());
        Service { forwarding: "gue", ..web }.backend("guest", guest, 1)
    });
    lab.write_config(&config::file(&lab, &services))?;
    let _lbd = lab.start_lbd()?;
    lab.wait_until_healthy(SOON)?;
    for (name, virtual_ip, _) in combinations {
        let owners = owners(&lab, SocketAddr::new(virtual_ip, 80), 300..310)
            .with_context(|| format!("{name}; the machine says:\n{}", machine.log().unwrap_or_default()))?;
        ensure!(names(&owners).into_iter().eq(["guest"]), "{name}: {owners:?}");
    }
    Ok(())
}
