//! `[service.health]`: how a backend is asked whether it is well.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::table::Table;
use super::text;
use super::word::Word;

/// The keys that only checks by HTTP have.
const HTTP_KEYS: &[&str] = &["method", "path", "host", "expected_status", "body_contains"];
/// The keys that only checks by HTTPS have.
const HTTPS_KEYS: &[&str] = &["server_name", "ca_file"];

/// How the health of each backend of a service is checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// The time from the start of one check to the start of the next, before jitter: 10 ms to 1 h.
    pub interval: Duration,
    /// How long an answer may take: 1 ms to 60 s.
    pub timeout: Duration,
    /// How many checks in a row have to pass before a backend that was down is up.
    pub rise: u16,
    /// How many checks in a row have to fail before a backend that was up is down.
    pub fall: u16,
    /// By how many percent of `interval` a check may be shifted at random, lest checks come in bursts: 0 to 50.
    pub jitter: u8,
    /// The port to ask; without one it is the service's, which then is not 0.
    pub port: Option<u16>,
}

impl HealthCheck {
    const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);
    const DEFAULT_TIMEOUT: Duration = Duration::from_millis(500);
    const DEFAULT_RISE: u16 = 2;
    const DEFAULT_FALL: u16 = 3;
    const DEFAULT_JITTER: u8 = 10;

    /// Reads the table. `service_port` is unknown if it could not be read.
    pub(super) fn read(mut table: Table<'_>, service_port: Option<u16>) -> Option<Self> {
        table.require(&[("type", r#""tcp""#)]);
        if service_port == Some(0) && !table.has("port") {
            table.reject_table(Problem::new(
                "port is missing, and the service has none of its own",
                "add the port to ask, for example port = 80",
            ));
        }
        let kind = read_kind(&mut table);
        let interval = Duration::from_millis(10)..=Duration::from_hours(1);
        let timeout = Duration::from_millis(1)..=Duration::from_mins(1);
        let interval = table.text("interval", text::duration(interval));
        let timeout = table.text("timeout", text::duration(timeout));
        let rise = table.number("rise", 1..=100);
        let fall = table.number("fall", 1..=100);
        let jitter = table.number("jitter", 0..=50);
        let port = table.number("port", 1..=u16::MAX);
        table.finish();
        Some(Self {
            kind: kind?,
            interval: interval.unwrap_or(Self::DEFAULT_INTERVAL),
            timeout: timeout.unwrap_or(Self::DEFAULT_TIMEOUT),
            rise: rise.unwrap_or(Self::DEFAULT_RISE),
            fall: fall.unwrap_or(Self::DEFAULT_FALL),
            jitter: jitter.unwrap_or(Self::DEFAULT_JITTER),
            port,
        })
    }
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// Whether a TCP connection is accepted.
    Tcp,
    /// Whether an HTTP request is answered as expected.
    Http(HttpCheck),
}

/// An HTTP request, and the answer that passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    /// How TLS is spoken; without it the request goes in the clear.
    pub tls: Option<TlsCheck>,
    /// The method of the request.
    pub method: Method,
    /// The path and query of the request; begins with `/`, visible ASCII only.
    pub path: String,
    /// The `Host` of the request; without one it is the backend's address.
    pub host: Option<String>,
    /// The status codes that pass; never empty.
    pub expected_status: Vec<StatusRange>,
    /// What the body has to contain, as bytes in UTF-8; never empty, and never with [`Method::Head`].
    pub body_contains: Option<String>,
}

/// How a health check speaks TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsCheck {
    /// The name that is asked for (SNI), and that a verified certificate has to bear.
    pub server_name: Option<String>,
    /// The certificate authorities, in PEM. With them the backend's certificate is verified, without them it is not.
    pub ca_file: Option<PathBuf>,
}

/// The method of an HTTP check (RFC 9110, section 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// `GET`: the answer has a body.
    #[default]
    Get,
    /// `HEAD`: it has none.
    Head,
}

impl fmt::Display for Method {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        })
    }
}

impl Word for Method {
    const ALL: &'static [Self] = &[Self::Get, Self::Head];
}

/// HTTP status codes from `first` to `last`, both included (RFC 9110, section 15): `100 <= first <= last <= 599`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRange {
    /// The lowest code.
    pub first: u16,
    /// The highest code.
    pub last: u16,
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl StatusRange {
    /// Success and redirection: what passes if the operator does not say.
    const DEFAULT: Self = Self { first: 200, last: 399 };

    /// Whether `status` is in the range.
    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    /// Reads `200` or `200-299`.
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let code = |digits: &str| digits.trim().parse().ok().filter(|code| (100..=599).contains(code));
        let range = Self { first: code(first)?, last: code(last)? };
        (range.first <= range.last).then_some(range)
    }

    /// Reads ranges with commas between them.
    fn parse_list(text: &str) -> Result<Vec<Self>, Problem> {
        text.split(',').map(Self::parse).collect::<Option<_>>().ok_or_else(|| {
            Problem::new(
                format!("{text:?} is not a list of status codes"),
                r#"write codes from 100 to 599, such as "200", "200-299" or "200,204,301-302""#,
            )
        })
    }
}

/// The word for the kind of check.
#[derive(Clone, Copy)]
enum CheckType {
    Tcp,
    Http,
    Https,
}

impl fmt::Display for CheckType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

impl Word for CheckType {
    const ALL: &'static [Self] = &[Self::Tcp, Self::Http, Self::Https];
}

fn read_kind(table: &mut Table<'_>) -> Option<CheckKind> {
    match table.word("type") {
        Some(CheckType::Tcp) => {
            table.refuse(HTTP_KEYS, |key| inapplicable(key, CheckType::Tcp, CheckType::Http));
            table.refuse(HTTPS_KEYS, |key| inapplicable(key, CheckType::Tcp, CheckType::Https));
            Some(CheckKind::Tcp)
        }
        Some(CheckType::Http) => {
            table.refuse(HTTPS_KEYS, |key| inapplicable(key, CheckType::Http, CheckType::Https));
            Some(CheckKind::Http(read_http(table, None)))
        }
        Some(CheckType::Https) => {
            let tls = read_tls(table);
            Some(CheckKind::Http(read_http(table, Some(tls))))
        }
        None => {
            // Which keys apply is open: their values are checked all the same.
            let tls = read_tls(table);
            read_http(table, Some(tls));
            None
        }
    }
}

fn inapplicable(key: &str, found: CheckType, needed: CheckType) -> Problem {
    Problem::new(
        format!("{key} does not apply to a check of type \"{found}\""),
        format!("remove it, or write type = \"{needed}\""),
    )
}

fn read_http(table: &mut Table<'_>, tls: Option<TlsCheck>) -> HttpCheck {
    let check = HttpCheck {
        tls,
        method: table.word("method").unwrap_or_default(),
        path: table.text("path", request_path).unwrap_or_else(|| "/".to_owned()),
        host: table.text("host", host),
        expected_status: table
            .text_or_number("expected_status", StatusRange::parse_list)
            .unwrap_or_else(|| vec![StatusRange::DEFAULT]),
        body_contains: table.text("body_contains", body_part),
    };
    if check.method == Method::Head && check.body_contains.is_some() {
        table.reject(
            "body_contains",
            Problem::new(
                "body_contains needs a body, and the answer to HEAD has none",
                "remove it, or write method = \"GET\"",
            ),
        );
    }
    check
}

fn read_tls(table: &mut Table<'_>) -> TlsCheck {
    TlsCheck { server_name: table.text("server_name", host), ca_file: table.text("ca_file", text::absolute_path) }
}

fn request_path(text: &str) -> Result<String, Problem> {
    if text.starts_with('/') && is_visible_ascii(text) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(
            format!("{text:?} is not the path of a request"),
            r#"write a path such as "/healthz", with spaces and the like as %20"#,
        ))
    }
}

fn host(text: &str) -> Result<String, Problem> {
    if !text.is_empty() && is_visible_ascii(text) {
        Ok(text.to_owned())
    } else {
        Err(Problem::new(format!("{text:?} is not a host name"), r#"write a name such as "crm.example.com""#))
    }
}

fn body_part(text: &str) -> Result<String, Problem> {
    if text.is_empty() {
        Err(Problem::new("is empty: every body contains that", "remove it, or write what the body must contain"))
    } else {
        Ok(text.to_owned())
    }
}

fn is_visible_ascii(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}
