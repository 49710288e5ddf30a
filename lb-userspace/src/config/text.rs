//! Texts that several sections have in common, turned into types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::Problem;

/// The longest name of a node, service or backend, in bytes.
const MAX_NAME: usize = 64;

/// A name of letters, digits and the characters in `others`.
pub(super) fn name(text: &str, others: &str) -> Result<String, Problem> {
    let fits = |character: char| character.is_ascii_alphanumeric() || others.contains(character);
    if (1..=MAX_NAME).contains(&text.len()) && text.chars().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("{text:?} is not a name"),
            format!("write 1 to {MAX_NAME} characters out of letters, digits and {others}"),
        ))
    }
}

/// An absolute path: the daemon's working directory is nobody's business.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, Problem> {
    if text.starts_with('/') && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err(Problem::new(format!("{text:?} is not an absolute path"), "write a path that begins with /"))
    }
}

/// Makes a reader of durations such as `1s` that lie within `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Result<Duration, Problem> {
    move |text| {
        let help = format!(
            "write a duration from {} to {}, with its unit, such as \"1s\"",
            duration_text(*range.start()),
            duration_text(*range.end()),
        );
        match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => Err(Problem::new(format!("{text:?} is out of range"), help)),
            Err(_) => Err(Problem::new(format!("{text:?} is not a duration"), help)),
        }
    }
}

/// A duration as an operator writes it: `24h`, and not `1day`.
pub(super) fn duration_text(duration: Duration) -> String {
    const HOUR: u64 = 3600;
    match duration.as_secs() {
        seconds @ HOUR.. if duration.subsec_nanos() == 0 && seconds % HOUR == 0 => format!("{}h", seconds / HOUR),
        _ => humantime::format_duration(duration).to_string(),
    }
}

/// An address that one host can have, be it only for itself.
pub(super) fn host_address(address: IpAddr) -> Result<IpAddr, Problem> {
    let fault = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 notation",
        _ => return Ok(address),
    };
    Err(Problem::new(format!("{address} is {fault}"), "write the unicast address of one host"))
}

/// An address that one host can have, and that others can reach.
pub(super) fn reachable_address(address: IpAddr) -> Result<IpAddr, Problem> {
    let address = host_address(address)?;
    if address.is_loopback() {
        return Err(Problem::new(
            format!("{address} is a loopback address"),
            "write an address that other hosts can reach",
        ));
    }
    Ok(address)
}

/// The same, but no link-local address: nothing says by which interface that is reached.
pub(super) fn global_address(address: IpAddr) -> Result<IpAddr, Problem> {
    let address = reachable_address(address)?;
    if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(Problem::new(
            format!("{address} is a link-local address, and nothing says by which interface it is reached"),
            "write a global or a unique local address (RFC 4193)",
        ));
    }
    Ok(address)
}

/// An address, and the text of a port where there is one: `10.0.0.1`, `10.0.0.1:80`, `[2001:db8::1]:80`.
///
/// Without brackets an IPv6 address takes the whole text: nothing tells its last group from a port.
pub(super) fn address_and_port(text: &str) -> Option<(IpAddr, Option<&str>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((address.into(), Some(port))),
            None => rest.is_empty().then_some((address.into(), None)),
        };
    }
    let (address, port) = text.rsplit_once(':')?;
    let address: Ipv4Addr = address.parse().ok()?;
    Some((address.into(), Some(port)))
}

/// A port in decimal digits, 0 included.
pub(super) fn port(digits: &str) -> Option<u16> {
    decimal(digits)
}

/// A number in decimal digits.
pub(super) fn decimal<T: FromStr>(digits: &str) -> Option<T> {
    // `parse` alone would take "+80" too.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// The bytes that twice as many hexadecimal digits stand for, the first byte first.
pub(super) fn hexadecimal<const N: usize>(digits: &str) -> Option<[u8; N]> {
    hexadecimal_bytes(digits)?.try_into().ok()
}

/// The same for any number of bytes.
pub(super) fn hexadecimal_bytes(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let byte = |pair: &[u8; 2]| {
        // `from_str_radix` alone would take "+f" too.
        let pair = str::from_utf8(pair).ok().filter(|_| pair.iter().all(u8::is_ascii_hexdigit))?;
        u8::from_str_radix(pair, 16).ok()
    };
    pairs.iter().map(byte).collect()
}
