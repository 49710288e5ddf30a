//! Both ends of a packet's way: where frames are made, and where they arrive.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use etherparse::PacketBuilder;
use lb_common::live::{Arrival, Stream, names};
use lb_tests::{
    benchmark::Turn,
    cpu,
    lab::{Netns, Node, run},
};
use lb_userspace::dataplane::object;
use nix::net::if_::if_nametoindex;

/// How many frames are under way at a time: a quarter of what a veth can hold.
const BATCH: u32 = 64;

/// Where the sources of all flows are: for tests, and routed nowhere (RFC 2544).
const SOURCES: [u8; 4] = [198, 18, 0, 0];
const SOURCE_PORT: u16 = 1 << 15;
const PORT: u16 = 80;

const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

/// How long to wait for the last frames.
const LINGER: Duration = Duration::from_millis(20);

/// A device in a namespace.
#[derive(Clone)]
pub(crate) struct Port {
    pub(super) namespace: Netns,
    pub(super) device: &'static str,
}

impl Port {
    pub(crate) fn of(node: &Node, device: &'static str) -> Self {
        Self { namespace: node.namespace().clone(), device }
    }

    /// Attaches a program, for as long as its object is loaded.
    pub(crate) fn attach(&self, program: &mut Xdp) -> Result<()> {
        self.namespace.inside(|| {
            program.attach(self.device, XdpMode::Driver)?;
            Ok(())
        })
    }

    /// Its hardware address.
    pub(super) fn mac(&self) -> Result<[u8; 6]> {
        let output = run(self.namespace.command("ip").args(["-oneline", "link", "show", "dev", self.device]))?;
        let link = String::from_utf8(output.stdout)?;
        let text = link.split_ascii_whitespace().skip_while(|word| *word != "link/ether").nth(1);
        let bytes = text.context("no hardware address")?.split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>()?;
        bytes.try_into().ok().with_context(|| format!("no hardware address in {link}"))
    }
}

/// The program that makes frames, and the one that counts them.
pub(super) struct Station {
    from: Port,
    ebpf: Ebpf,
    stream: Array<MapData, Stream>,
    arrived: PerCpuArray<MapData, u64>,
    cpu: usize,
    softirqs: cpu::SoftirqThreads,
}

/// What came of some frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) sent: u64,
    pub(super) arrived: u64,
    /// For how long the CPU was busy with all of it, from making frames to counting them.
    pub(super) busy: Duration,
}

impl Sample {
    /// Packets a second of the CPU, and nanoseconds for each.
    pub(super) fn turn(&self) -> Turn {
        let (arrived, busy) = (float(self.arrived), self.busy.as_secs_f64());
        Turn { rate: arrived / busy, cost: busy * 1e9 / arrived }
    }

    /// The part of the frames that has not arrived.
    pub(super) fn lost(&self) -> f64 {
        1.0 - float(self.arrived) / float(self.sent)
    }
}

impl Station {
    /// Frames come from the first of `ports`, and may arrive at any of them. All of their way is on `cpu`.
    pub(super) fn new(ports: &[Port], cpu: usize, arrival: Arrival) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(object::LIVE)?;
        let stream = Array::try_from(ebpf.take_map(names::STREAM).context("no map for the frame")?)?;
        let arrived = PerCpuArray::try_from(ebpf.take_map(names::ARRIVED).context("no counter")?)?;
        let mut awaited = Array::try_from(ebpf.take_map(names::ARRIVAL).context("no map for what arrives")?)?;
        awaited.set(0, arrival, 0)?;
        load(&mut ebpf, names::GENERATE)?;
        let count = load(&mut ebpf, names::COUNT)?;
        ports.iter().try_for_each(|port| port.attach(count))?;
        let from = ports.first().context("no port")?.clone();
        let softirqs = cpu::SoftirqThreads::of_cpu(cpu)?;
        Ok(Self { from, ebpf, stream, arrived, cpu, softirqs })
    }

    /// Sends frames of so many flows, or each of its own if none, and counts those that arrive.
    pub(super) fn send(&mut self, frame: &[u8; Stream::FRAME_LEN], flows: u32, packets: u32) -> Result<Sample> {
        self.stream.set(0, Stream::new(frame, flows), 0)?;
        let before = self.arrived()?;
        let generate = program(&mut self.ebpf, names::GENERATE)?;
        let softirqs = &self.softirqs;
        let busy = self.from.namespace.inside(|| {
            cpu::confine_this_thread(self.cpu)?;
            // `struct xdp_md`: the frames leave the interface that they seem to have come in by.
            let interface = if_nametoindex(self.from.device)?;
            let context = [0, u32::try_from(frame.len())?, 0, interface, 0, 0].map(u32::to_ne_bytes);
            let options = TestRunOptions {
                data_in: Some(frame),
                ctx_in: Some(context.as_flattened()),
                repeat: packets,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            };
            let (softirq, thread) = (softirqs.time()?, cpu::this_thread()?);
            generate.test_run(options).context("send live frames")?;
            let thread = cpu::this_thread()?.saturating_sub(thread);
            Ok(thread + softirqs.time()?.saturating_sub(softirq))
        })?;
        Ok(Sample { sent: packets.into(), arrived: self.settled()? - before, busy })
    }

    /// What has arrived when nothing does any more.
    fn settled(&self) -> Result<u64> {
        let mut arrived = self.arrived()?;
        loop {
            thread::sleep(LINGER);
            let now = self.arrived()?;
            if now == arrived {
                return Ok(now);
            }
            arrived = now;
        }
    }

    fn arrived(&self) -> Result<u64> {
        Ok(self.arrived.get(&0, 0)?.iter().sum())
    }
}

/// Loads a program of an object.
pub(crate) fn load<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = program(ebpf, name)?;
    program.load()?;
    Ok(program)
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// A frame of 64 bytes, without the checksum that Ethernet adds.
pub(super) fn frame(from: [u8; 6], to: [u8; 6], destination: Ipv4Addr) -> Result<[u8; Stream::FRAME_LEN]> {
    let payload = [0; Stream::FRAME_LEN - ETHERNET - IPV4 - UDP];
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from, to)
        .ipv4(SOURCES, destination.octets(), 64)
        .udp(SOURCE_PORT, PORT)
        .write(&mut frame, &payload)?;
    let length = frame.len();
    let mut frame: [u8; Stream::FRAME_LEN] =
        frame.try_into().ok().with_context(|| format!("a frame of {length} bytes"))?;
    // None, which over IPv4 may be (RFC 768).
    frame[ETHERNET + IPV4 + 6..ETHERNET + IPV4 + 8].fill(0);
    Ok(frame)
}

fn float(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
