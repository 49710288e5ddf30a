//! Frames as they pass: `tcpdump` takes them down, and this reads what it has written.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Lab, process::Process};

/// How long `tcpdump` may take until it listens.
const START: Duration = Duration::from_secs(10);

/// A frame that has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub at: SystemTime,
    /// From the Ethernet header on, without checksum.
    pub frame: Vec<u8>,
}

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
}

impl Lab {
    /// Captures what passes a node's `eth0` in both directions; on `switch`, what passes between any nodes. The filter is one of
    /// pcap-filter(7); empty, it takes all.
    ///
    /// What an XDP program drops, or sends by itself, does not pass its own node's `eth0`.
    pub fn start_capture(&self, node: &str, filter: &str) -> Result<Capture> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let label = format!("{node}-capture-{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let file = self.paths.dir().join(format!("{label}.pcap"));
        let interface = if node == "switch" { "br0" } else { "eth0" };
        let mut command = self.paths.namespace(node).command("tcpdump");
        // Each packet at once, by root's hands.
        command.args(["-i", interface, "-n", "-U", "--immediate-mode", "-Z", "root"]);
        command.args(["--time-stamp-precision", "nano", "-w"]).arg(&file).arg(filter);
        let mut process = self.spawn(&label, command)?;
        process.wait_for_log("listening on", START)?;
        Ok(Capture { process, file })
    }
}

impl Capture {
    /// What has passed until now.
    pub fn frames(&self) -> Result<Vec<Captured>> {
        read(&self.file)
    }

    /// Ends it.
    pub fn finish(self) -> Result<Vec<Captured>> {
        let status = self.process.stop()?;
        ensure!(status.success(), "tcpdump: {status}");
        read(&self.file)
    }
}

/// `magic_number` of a file with nanoseconds in the byte order of this machine.
const MAGIC: u32 = 0xa1b2_3c4d;

const LINKTYPE_ETHERNET: u32 = 1;

/// Reads the packets of a pcap file as far as it is written (draft-ietf-opsawg-pcap, sections 4 and 5).
fn read(file: &Path) -> Result<Vec<Captured>> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    parse(&bytes).with_context(|| format!("parse {}", file.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Captured>> {
    let Some((header, mut rest)) = split_words::<6>(bytes) else {
        return Ok(Vec::new());
    };
    let [magic, .., link_type] = header;
    if (magic, link_type) != (MAGIC, LINKTYPE_ETHERNET) {
        bail!("magic number {magic:#x}, link type {link_type}: these are no Ethernet frames with nanoseconds");
    }
    let mut frames = Vec::new();
    while let Some(([seconds, nanos, length, _original_length], packet)) = split_words::<4>(rest)
        && let Some((frame, next)) = packet.split_at_checked(length as usize)
    {
        let at = SystemTime::UNIX_EPOCH + Duration::new(seconds.into(), nanos);
        frames.push(Captured { at, frame: frame.to_owned() });
        rest = next;
    }
    Ok(frames)
}

/// The first `N` words, and what is behind them.
fn split_words<const N: usize>(bytes: &[u8]) -> Option<([u32; N], &[u8])> {
    let (head, rest) = bytes.split_at_checked(N * 4)?;
    let (words, _) = head.as_chunks::<4>();
    Some((std::array::from_fn(|index| u32::from_ne_bytes(words[index])), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        let mut bytes = words(&[MAGIC, 0x0004_0002, 0, 0, 0x4_0000, LINKTYPE_ETHERNET]);
        for (seconds, nanos, frame) in packets {
            let length = u32::try_from(frame.len()).expect("a short frame");
            bytes.extend(words(&[*seconds, *nanos, length, length]));
            bytes.extend_from_slice(frame);
        }
        bytes
    }

    #[test]
    fn frames_are_read_with_their_times() {
        let frames = parse(&file(&[(1, 2, b"first"), (3, 4, b"second")])).expect("a pcap file");
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0].at, SystemTime::UNIX_EPOCH + Duration::new(1, 2));
        assert_eq!((frames[0].frame.as_slice(), frames[1].frame.as_slice()), (&b"first"[..], &b"second"[..]));
    }

    #[test]
    fn a_file_that_is_being_written_is_read_up_to_its_last_whole_frame() {
        let bytes = file(&[(1, 2, b"first"), (3, 4, b"second")]);
        for length in 0..bytes.len() {
            let expected = usize::from(length >= 24 + 16 + b"first".len());
            assert_eq!(parse(&bytes[..length]).expect("a pcap file").len(), expected, "{length} bytes");
        }
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        assert!(parse(&[0; 24]).is_err());
    }
}
